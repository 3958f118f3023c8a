//! Puts the settings together: which layers there are, and what holds when none says anything.

use super::compat_env;
use super::dialects::Table;
use super::error::SettingsError;
use super::keys;
use super::layer::{Entry, Layers};
use super::listener_loader::{ListenerLoader, Tables};
use super::log::{LogFormat, LogLevel, LogSettings};
use super::policy::{DialectPolicy, RejectionMode};
use super::reader::{DefaultValue, Reader, Report};
use super::secret::Secret;
use super::setting::{Bytes, ShardCount};
use super::settings::{AssistSettings, GatewaySettings, Notice, NotificationsSettings, Settings};
use super::sources::{self, Sources};
use crate::base::DialectId;
use std::path::PathBuf;
use std::time::Duration;

/// Smallest limit of an send queue, bytes: a page; less would not hold one message and its frame.
const SEND_QUEUE_BYTES_MIN: u64 = 4_096;
/// Smallest size of a log file that is put aside, bytes: less would be a file per line.
const LOG_ROTATION_MIN: u64 = 1_000;
/// Sizes of the ring, bytes: a smaller one is full at once, a larger one's offsets are no `u32`.
const RING_BYTES: std::ops::RangeInclusive<u64> = 65_536..=1 << 30;
/// The only signature that tokens may have.
const ALGORITHM: &str = "HS256";

/// Puts the settings together.
pub(super) struct Loader {
    reader: Reader,
    tables: Option<Tables>,
    profile: Option<DialectId>,
    /// The profiles of all listeners.
    profiles: Vec<DialectId>,
    is_dev: bool,
    is_prod: bool,
    has_token_check: bool,
    notices: Vec<Notice>,
}

impl Loader {
    /// Lays all sources over each other.
    ///
    /// # Errors
    /// When what was said contradicts itself.
    pub(super) fn new(mut sources: Sources) -> Result<Self, SettingsError> {
        let mut notices = Vec::new();
        for name in sources.environment.keys() {
            notices.extend(keys::unknown_variable(name).map(Notice::Warning));
        }
        let listeners = sources.file.as_mut().and_then(|file| {
            let listeners = file.listeners.take()?;
            Some(Tables::of(listeners, &file.name))
        });
        let tables = listeners.transpose()?;
        // Which documents' variables count depends on the profiles, so these are looked for first.
        let mut early = Layers::default();
        let none = Vec::new();
        let file = sources.file.as_ref().map_or(&none, |file| &file.entries);
        let dotenv = sources::ours(&sources.dotenv, ".env");
        let environment = sources::ours(&sources.environment, "variable");
        for layer in [file, &dotenv, &environment, &sources.flags] {
            early.merge(layer)?;
        }
        let profile = early
            .get::<DialectId>("profile")?
            .map(|(profile, _)| profile);
        let profiles = match &tables {
            Some(tables) => tables.profiles()?,
            None => profile.into_iter().collect(),
        };
        let mut layers = Layers::default();
        layers.merge(file)?;
        for (variables, ours, origin) in [
            (&sources.dotenv, &dotenv, ".env"),
            (&sources.environment, &environment, "variable"),
        ] {
            let mut accepted = Vec::new();
            let compat_env = compat_env::entries(
                &profiles,
                tables.is_some(),
                variables,
                origin,
                &mut accepted,
            )?;
            let resolved = compat_env.iter().map(resolution);
            notices.extend(resolved.chain(accepted).map(Notice::Info));
            layers.merge(&compat_env)?;
            // The lines of the file lie below the environment, whoever's name they have.
            layers.merge(ours)?;
        }
        layers.merge(&sources.flags)?;
        let mut reader = Reader {
            layers,
            report: Report::default(),
        };
        let is_dev = reader.read("dev", DefaultValue::common(false))?;
        let is_prod = reader.read("prod", DefaultValue::common(false))?;
        if is_dev && is_prod {
            let place = |key| {
                reader
                    .layers
                    .find(key)
                    .map_or_else(String::new, |it| it.place())
            };
            return Err(SettingsError::Contradiction {
                one: place("dev"),
                two: place("prod"),
                rule: "a server is for development or for production".into(),
            });
        }
        Ok(Self {
            reader,
            tables,
            profile,
            profiles,
            is_dev,
            is_prod,
            has_token_check: sources.has_token_check,
            notices,
        })
    }

    /// Reads every setting.
    ///
    /// # Errors
    /// When a value is none, or breaks a rule.
    pub(super) fn load(mut self) -> Result<Settings, SettingsError> {
        let mut places = ListenerLoader {
            reader: &mut self.reader,
            is_dev: self.is_dev,
        };
        let listeners = match &self.tables {
            Some(tables) => places.tables(tables)?,
            None => places.single(self.profile)?,
        };
        let shards = self.shards();
        let shards = self.reader.read("shards", shards)?;
        let jwt_secret = self.reader.read("jwt_secret", DefaultValue::common(None))?;
        self.no_other_algorithm()?;
        let static_tokens = DefaultValue::common(Vec::new());
        let static_tokens = self.reader.read("static_tokens", static_tokens)?;
        let access = self
            .reader
            .read("access_rules", DefaultValue::common(Vec::new()))?;
        let connections_max = self
            .reader
            .read("connections_max", DefaultValue::common(0))?;
        let send_queue_bytes_max = self.send_queue_bytes_max()?;
        let ring_bytes = self.ring_bytes()?;
        let any = DefaultValue::common(vec!["*".to_owned()]);
        let allowed_origins = self.reader.read("allowed_origins", any)?;
        let close = || DefaultValue::common(RejectionMode::Close);
        let origin_rejection = self.reader.read("origin_rejection", close())?;
        let capacity_rejection = self.reader.read("capacity_rejection", close())?;
        let drain_grace_period = self.drain_grace_period();
        let drain_grace_period = self.reader.read("drain_grace_period", drain_grace_period)?;
        let drain_close_timeout = DefaultValue::common(Duration::from_secs(10));
        let drain_close_timeout = self
            .reader
            .read("drain_close_timeout", drain_close_timeout)?;
        let log = self.log()?;
        let notify_api_key = self.notify_api_key()?;
        let metrics_enabled = self
            .reader
            .read("metrics_enabled", DefaultValue::common(true))?;
        let health_enabled = self
            .reader
            .read("health_enabled", DefaultValue::common(true))?;
        self.no_redis()?;
        let mut dialects = DialectId::ALL.map(DialectPolicy::of);
        for (dialect, policy) in DialectId::ALL.into_iter().zip(&mut dialects) {
            *policy = self.table(dialect).policy()?;
        }
        let mut gateway = self.table(DialectId::Gateway);
        let tenant_domain = gateway.extra("tenant_domain", None)?;
        let mut assist = self.table(DialectId::Assist);
        let metrics_interval = assist.extra("metrics_interval", Duration::from_secs(5))?;
        let quota_sweep_interval =
            assist.extra("quota_sweep_interval", Duration::from_secs(300))?;
        let has_time = !quota_sweep_interval.is_zero();
        self.reader
            .ensure("assist.quota_sweep_interval", has_time, "a time over 0")?;
        let mut notifications = self.table(DialectId::Notifications);
        let interval = notifications.extra("test_message_interval", Duration::from_secs(10))?;
        let settings = Settings {
            dev: self.is_dev,
            prod: self.is_prod,
            listeners,
            shards,
            jwt_secret,
            static_tokens,
            access,
            connections_max,
            send_queue_bytes_max,
            ring_bytes,
            allowed_origins,
            origin_rejection,
            capacity_rejection,
            drain_grace_period,
            drain_close_timeout,
            log,
            notify_api_key,
            metrics_enabled,
            health_enabled,
            dialects,
            gateway: GatewaySettings { tenant_domain },
            assist: AssistSettings {
                metrics_interval,
                quota_sweep_interval,
            },
            notifications: NotificationsSettings {
                test_message_interval: interval,
            },
            report: Report::default(),
            notices: Vec::new(),
        };
        self.check_secret(&settings)?;
        let mut report = self.reader.report;
        report.keep_dialects(&settings.dialects_in_use());
        Ok(Settings {
            report,
            notices: self.notices,
            ..settings
        })
    }

    fn is_profile(&self, dialect: DialectId) -> bool {
        self.profiles.contains(&dialect)
    }

    fn table(&mut self, dialect: DialectId) -> Table<'_> {
        Table {
            is_profile: self.is_profile(dialect),
            is_dev: self.is_dev,
            reader: &mut self.reader,
            dialect,
        }
    }

    /// A fallback of the notifications' document, if that profile is in use.
    fn notifications<T>(&self, value: T, otherwise: T) -> DefaultValue<T> {
        if self.is_profile(DialectId::Notifications) {
            DefaultValue(value, "notifications profile".into())
        } else {
            DefaultValue::common(otherwise)
        }
    }

    /// The document's development mode has one worker.
    fn shards(&self) -> DefaultValue<ShardCount> {
        if self.is_prod {
            DefaultValue(ShardCount::Auto, "--prod".into())
        } else if self.is_dev && self.is_profile(DialectId::Notifications) {
            DefaultValue(ShardCount::Fixed(1), "--dev".into())
        } else {
            DefaultValue::common(ShardCount::Auto)
        }
    }

    fn drain_grace_period(&self) -> DefaultValue<Duration> {
        self.notifications(Duration::from_secs(1_800), Duration::ZERO)
    }

    fn log(&mut self) -> Result<LogSettings, SettingsError> {
        let level = if self.is_dev && self.is_profile(DialectId::Notifications) {
            DefaultValue(LogLevel::Debug, "--dev".into())
        } else {
            DefaultValue::common(LogLevel::Info)
        };
        let format = if self.is_prod {
            DefaultValue(LogFormat::Json, "--prod".into())
        } else if self.is_dev {
            DefaultValue(LogFormat::Text, "--dev".into())
        } else {
            self.notifications(LogFormat::Json, LogFormat::Text)
        };
        let level = self.reader.read("log_level", level)?;
        let format = self.reader.read("log_format", format)?;
        let file: Option<PathBuf> = self.reader.read("log_file", DefaultValue::common(None))?;
        let error_file = self
            .reader
            .read("log_error_file", DefaultValue::common(None))?;
        // Two writers of one file would put it aside under each other.
        let is_another = error_file.is_none() || error_file != file;
        self.reader
            .ensure("log_error_file", is_another, "another file than log_file")?;
        let rotation = DefaultValue::common(Bytes(100_000_000));
        let Bytes(rotation_bytes) = self.reader.read("log_rotation", rotation)?;
        let is_allowed = rotation_bytes >= LOG_ROTATION_MIN;
        self.reader
            .ensure("log_rotation", is_allowed, "1 kB or more")?;
        let retention = DefaultValue::common(Duration::from_hours(24 * 30));
        Ok(LogSettings {
            level,
            format,
            file,
            error_file,
            rotation_bytes,
            retention: self.reader.read("log_retention", retention)?,
        })
    }

    fn send_queue_bytes_max(&mut self) -> Result<u32, SettingsError> {
        let key = "send_queue_bytes_max";
        let default = DefaultValue::common(Bytes(1024 * 1024));
        let Bytes(bytes) = self.reader.read(key, default)?;
        let is_allowed = (SEND_QUEUE_BYTES_MIN..=1 << 30).contains(&bytes);
        self.reader.ensure(key, is_allowed, "4 KiB to 1 GiB")?;
        Ok(u32::try_from(bytes).expect("at most 1 GiB"))
    }

    fn ring_bytes(&mut self) -> Result<u32, SettingsError> {
        let key = "ring_bytes";
        let default = DefaultValue::common(Bytes(8 * 1024 * 1024));
        let Bytes(bytes) = self.reader.read(key, default)?;
        let is_allowed = bytes.is_power_of_two() && RING_BYTES.contains(&bytes);
        let rule = "a power of two from 64 KiB to 1 GiB";
        self.reader.ensure(key, is_allowed, rule)?;
        Ok(u32::try_from(bytes).expect("at most 1 GiB"))
    }

    fn notify_api_key(&mut self) -> Result<Option<Secret>, SettingsError> {
        let key: Option<Secret> = self
            .reader
            .read("notify_api_key", DefaultValue::common(None))?;
        let is_said = key.as_ref().is_none_or(|key| !key.0.is_empty());
        self.reader
            .ensure("notify_api_key", is_said, "a secret, or none at all")?;
        Ok(key)
    }

    fn no_other_algorithm(&mut self) -> Result<(), SettingsError> {
        let default = DefaultValue::common(ALGORITHM.to_owned());
        let algorithm: String = self.reader.read("jwt_algorithm", default)?;
        let rule = "HS256: this version checks no other signatures";
        self.reader
            .ensure("jwt_algorithm", algorithm == ALGORITHM, rule)
    }

    fn no_redis(&mut self) -> Result<(), SettingsError> {
        let url: Option<String> = self.reader.read("redis_url", DefaultValue::common(None))?;
        let rule = "nothing: the redis backend is not in this version";
        self.reader.ensure("redis_url", url.is_none(), rule)
    }

    /// Whether tokens can be checked without a secret.
    fn has_other_proof(&self, settings: &Settings) -> bool {
        self.has_token_check || !settings.static_tokens.is_empty()
    }

    /// Fails closed: whoever asks for tokens needs a secret that nobody can guess.
    fn check_secret(&mut self, settings: &Settings) -> Result<(), SettingsError> {
        let Some(secret) = &settings.jwt_secret else {
            let mut dialects = settings.dialects_in_use().into_iter();
            let needs = dialects.find(|dialect| settings.dialects[dialect.index()].auth_required);
            return match needs {
                Some(dialect) if !self.is_dev && !self.has_other_proof(settings) => {
                    Err(SettingsError::Missing(format!(
                        "no secret to check tokens of {} with: set --jwt-secret, FANWIRE_JWT_SECRET{} or \
                     jwt_secret in the file (32 bytes or more), or start with --dev",
                        dialect.name(),
                        match dialect {
                            DialectId::Monitoring if self.is_profile(dialect) => ", JWT_SECRET",
                            DialectId::Gateway if self.is_profile(dialect) => ", JWT_SECRET_KEY",
                            _ => "",
                        },
                    )))
                }
                _ => Ok(()),
            };
        };
        let is_said = !secret.0.is_empty();
        let rule = "a secret: with an empty one every token would be valid";
        self.reader.ensure("jwt_secret", is_said, rule)?;
        let is_guessable = secret.is_placeholder() && !self.is_dev;
        let rule = "a secret of your own, not that of an example: openssl rand -hex 32";
        self.reader.ensure("jwt_secret", !is_guessable, rule)?;
        if secret.is_short() {
            let notice = "the secret has under 32 bytes and can be guessed";
            self.notices.push(Notice::Warning(notice.into()));
        }
        Ok(())
    }
}

/// How a document's variable was understood.
fn resolution(entry: &Entry) -> String {
    format!("{} sets {}", entry.source, entry.key)
}

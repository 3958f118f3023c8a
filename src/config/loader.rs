//! Loads the settings from their sources: the layers, the defaults below them, and the checks
//! across settings.

use super::access::AccessRule;
use super::compat_env;
use super::declaration::Declaration;
use super::dialect_policy::{DialectPolicy, TenantSource};
use super::error::SettingsError;
use super::http::{AdminListen, ApiKey, HttpSettings};
use super::ingest::{INGEST_TABLE, IngestSettings};
use super::keys;
use super::layer::{Entry, Layers, conflict};
use super::listener::{Listener, Routes};
use super::listener_loader::{ListenerLoader, profiles_of};
use super::log::{LogFormat, LogSettings};
use super::otel_env;
use super::process::{AssistSettings, GatewaySettings, NotificationsSettings, ProcessSettings};
use super::profiles::Profile;
use super::proxies::{ForwardedHeader, ProxyProtocol};
use super::rate_limit::RateLimit;
use super::redis::RedisSettings;
use super::report::Report;
use super::secret::{MASK, Secret};
use super::settings::{Notice, Settings};
use super::sources::{Sources, own_variables};
use super::tls::{TlsSettings, TlsVersion};
use super::tokens::TokenSettings;
use super::traces::TraceSettings;
use super::webhooks::WebhookSettings;
use crate::base::DialectId;

/// Loads the settings.
pub(super) struct Loader {
    layers: Layers,
    report: Report,
    /// The tables of listeners of the file, and its name.
    tables: Option<(Vec<Vec<Entry>>, String)>,
    program_listeners: Option<Vec<Listener>>,
    profile: Option<DialectId>,
    /// The profiles of all listeners.
    profiles: Vec<DialectId>,
    is_dev: bool,
    is_prod: bool,
    has_token_check: bool,
    is_command_line: bool,
    notices: Vec<Notice>,
}

impl Loader {
    /// Merges all sources.
    ///
    /// # Errors
    /// When settings exclude each other.
    pub(super) fn new(mut sources: Sources) -> Result<Self, SettingsError> {
        let unknown = sources.environment.keys().chain(sources.dotenv.keys());
        let unknown = unknown.filter_map(|name| keys::unknown_variable(name));
        let mut notices: Vec<_> = unknown.map(Notice::Warning).collect();
        let tables = sources.file.as_mut().and_then(|file| {
            let tables = file.listeners.take()?;
            Some((tables, file.name.clone()))
        });
        let none = Vec::new();
        let file = sources.file.as_ref().map_or(&none, |file| &file.entries);
        let dotenv = own_variables(&sources.dotenv, ".env");
        let environment = own_variables(&sources.environment, "variable");
        // The profiles determine which legacy variables are read, so they are loaded first.
        let mut early = Layers::default();
        for layer in [file, &dotenv, &environment, &sources.entries] {
            early.merge(layer)?;
        }
        let profile = early.get::<DialectId>("profile")?;
        let profile = profile.map(|(profile, _)| profile);
        let profiles = match (&sources.listeners, &tables) {
            (Some(listeners), _) => profiles_in(listeners),
            (None, Some((tables, _))) => profiles_of(tables)?,
            (None, None) => profile.into_iter().collect(),
        };
        let mut layers = Layers::default();
        layers.merge(file)?;
        for (variables, own, origin) in [
            (&sources.dotenv, &dotenv, ".env"),
            (&sources.environment, &environment, "variable"),
        ] {
            let mut ignored = Vec::new();
            let has_tables = tables.is_some();
            let legacy =
                compat_env::entries(&profiles, has_tables, variables, origin, &mut ignored)?;
            let otel = otel_env::entries(variables, origin, &mut ignored)?;
            let effects = legacy
                .iter()
                .chain(&otel)
                .map(|entry| format!("{} sets {}", entry.source, entry.key));
            notices.extend(effects.chain(ignored).map(Notice::Info));
            layers.merge(&legacy)?;
            layers.merge(&otel)?;
            // The whole `.env` file has a lower precedence than the environment.
            layers.merge(own)?;
        }
        layers.merge(&sources.entries)?;
        let is_set = |key| Ok(layers.get::<bool>(key)?.is_some_and(|(is_set, _)| is_set));
        let (is_dev, is_prod) = (is_set("dev")?, is_set("prod")?);
        if is_dev && is_prod {
            let [dev, prod] = ["dev", "prod"].map(|key| layers.find(key));
            if let (Some(dev), Some(prod)) = (dev, prod) {
                return Err(conflict(&dev, &prod, "set one of the modes, or none"));
            }
        }
        Ok(Self {
            layers,
            report: Report::default(),
            tables,
            program_listeners: sources.listeners,
            profile,
            profiles,
            is_dev,
            is_prod,
            has_token_check: sources.has_token_check,
            is_command_line: sources.is_command_line,
            notices,
        })
    }

    /// Reads every setting.
    ///
    /// # Errors
    /// When a value is invalid.
    pub(super) fn load(mut self) -> Result<Settings, SettingsError> {
        let defaults = self.defaults();
        let mut listener_loader = ListenerLoader {
            layers: &self.layers,
            report: &mut self.report,
            is_dev: self.is_dev,
        };
        let listeners = match (self.program_listeners.take(), &self.tables) {
            (Some(listeners), _) => listener_loader.set_by_program(listeners)?,
            (None, Some((tables, file))) => listener_loader.tables(tables, file)?,
            (None, None) => listener_loader.single_listener(self.profile)?,
        };
        let mut settings = defaults
            .last()
            .map_or_else(neutral, |(_, last)| last.clone());
        settings.listeners = listeners;
        self.read(
            ProcessSettings::DECLARATIONS,
            "",
            &mut settings.process,
            |it| source_of(&defaults, |settings| (it.show)(&settings.process)),
        )?;
        self.read(
            TokenSettings::DECLARATIONS,
            "",
            &mut settings.tokens,
            |_| "default".to_owned(),
        )?;
        self.read(
            WebhookSettings::DECLARATIONS,
            "",
            &mut settings.webhooks,
            |_| "default".to_owned(),
        )?;
        self.read(HttpSettings::DECLARATIONS, "", &mut settings.http, |it| {
            source_of(&defaults, |settings| (it.show)(&settings.http))
        })?;
        self.read(TlsSettings::DECLARATIONS, "", &mut settings.tls, |_| {
            "default".to_owned()
        })?;
        self.add_admin_listener(&mut settings)?;
        self.check_tls(&settings)?;
        self.read(LogSettings::DECLARATIONS, "", &mut settings.log, |it| {
            source_of(&defaults, |settings| (it.show)(&settings.log))
        })?;
        self.check_log(&settings.log)?;
        let mut files = ["log_file", "log_error_file"].iter();
        settings.is_log_file_required = files.any(|key| self.layers.find(key).is_some());
        self.read(
            TraceSettings::DECLARATIONS,
            "",
            &mut settings.traces,
            |_| "default".to_owned(),
        )?;
        self.read(RedisSettings::DECLARATIONS, "", &mut settings.redis, |_| {
            "default".to_owned()
        })?;
        self.check_redis(&settings)?;
        self.read(
            IngestSettings::DECLARATIONS,
            INGEST_TABLE,
            &mut settings.ingest,
            |_| "default".to_owned(),
        )?;
        for dialect in DialectId::ALL {
            let policy = self.dialect(dialect)?;
            settings.dialects[dialect.index()] = policy;
        }
        let gateway = self.profile_source(DialectId::Gateway);
        self.read(
            GatewaySettings::DECLARATIONS,
            "gateway",
            &mut settings.gateway,
            |_| gateway.clone(),
        )?;
        let assist = self.profile_source(DialectId::Assist);
        self.read(
            AssistSettings::DECLARATIONS,
            "assist",
            &mut settings.assist,
            |_| assist.clone(),
        )?;
        let notifications = self.profile_source(DialectId::Notifications);
        let group = &mut settings.notifications;
        self.read(
            NotificationsSettings::DECLARATIONS,
            "notifications",
            group,
            |_| notifications.clone(),
        )?;
        self.check_masks(&settings)?;
        self.check_memory(&settings)?;
        self.check_rate_limits(&settings)?;
        self.check_proxies(&settings)?;
        self.check_secret(&settings)?;
        self.check_webhooks(&settings.webhooks);
        self.report.retain_dialects(&settings.dialects_in_use());
        settings.report = self.report;
        settings.notices = self.notices;
        Ok(settings)
    }

    /// With several nodes, it is Redis that keeps what they have in common.
    fn check_redis(&self, settings: &Settings) -> Result<(), SettingsError> {
        let store = self.layers.find("store");
        match store
            .filter(|_| settings.redis.redis_url.is_some() && settings.process.store.is_some())
        {
            Some(entry) => {
                Err(entry.expected("no value with redis_url: Redis keeps the history of all nodes"))
            }
            None => Ok(()),
        }
    }

    /// TLS needs certificates, and `tls_ports` TLS.
    fn check_tls(&self, settings: &Settings) -> Result<(), SettingsError> {
        let tls = &settings.tls;
        if tls.tls && tls.tls_certificates.is_empty() && !self.is_dev {
            let text = "TLS without a certificate: set tls_certificates, or start with --dev";
            return Err(SettingsError::Missing(text.to_owned()));
        }
        let needless = [
            ("tls_ports", !tls.tls_ports.is_empty()),
            ("tls_client_roots", tls.tls_client_roots.is_some()),
            ("tls_min_version", tls.tls_min_version != TlsVersion::V1_2),
            ("tls_kernel", tls.tls_kernel),
        ];
        let mut needless = needless.iter().filter(|(_, is_set)| *is_set);
        let needless = needless.find_map(|(key, _)| self.layers.find(key));
        match needless {
            Some(entry) if !tls.is_on() => {
                Err(entry.expected("tls or tls_certificates to be set too"))
            }
            _ => Ok(()),
        }
    }

    /// The defaults in layers, each with its name: first the built-in ones, then those of profiles
    /// and modes.
    fn defaults(&self) -> Vec<(String, Settings)> {
        let mut layers = vec![("default".to_owned(), neutral())];
        let mut push = |name: String, change: &dyn Fn(&mut Settings)| {
            let mut next = layers.last().map_or_else(neutral, |(_, last)| last.clone());
            change(&mut next);
            layers.push((name, next));
        };
        if !self.is_command_line {
            push("embedded".to_owned(), &|settings| {
                settings.http.admin_listen = AdminListen(None);
            });
        }
        for dialect in &self.profiles {
            let profile = Profile::of(*dialect);
            push(format!("{} profile", dialect.name()), &|settings| {
                (profile.defaults)(&mut settings.process, &mut settings.log);
                if self.layers.find("log_file").is_some() {
                    // The other one is beside it, wherever that is.
                    settings.log.log_error_file = None;
                }
            });
        }
        if self.is_dev {
            push("--dev".to_owned(), &|settings| {
                settings.log.log_format = LogFormat::Text;
                settings.process.publish_rules = AccessRule::open_dialect_channels();
                settings.process.unauthenticated_max = 0;
                settings.process.unauthenticated_per_ip_max = 0;
                settings.process.auth_failures_per_ip_max = 0;
                for dialect in &self.profiles {
                    let profile = Profile::of(*dialect);
                    (profile.dev_defaults)(&mut settings.process, &mut settings.log);
                }
            });
        }
        if self.is_prod {
            push("--prod".to_owned(), &|settings| {
                settings.log.log_format = LogFormat::Json;
            });
        }
        layers
    }

    /// Reads the settings of a group, whose table has this name.
    fn read<G>(
        &mut self,
        declarations: &'static [Declaration<G>],
        table: &str,
        group: &mut G,
        default_source: impl Fn(&Declaration<G>) -> String,
    ) -> Result<(), SettingsError> {
        for declaration in declarations {
            let name = declaration.name;
            let key = match table {
                "" => name.to_owned(),
                table => format!("{table}.{name}"),
            };
            let source = match self.layers.find(&key) {
                Some(entry) => {
                    (declaration.read)(group, &entry)?;
                    entry.source
                }
                None => default_source(declaration),
            };
            let line = match table {
                "" => String::new(),
                table => format!("[{table}]"),
            };
            self.report
                .add(&line, name, (declaration.show)(group), &source);
        }
        Ok(())
    }

    /// The rules of one dialect.
    fn dialect(&mut self, dialect: DialectId) -> Result<DialectPolicy, SettingsError> {
        let profile = DialectPolicy::of(dialect);
        let permissive = profile.permissive();
        let source = self.profile_source(dialect);
        let table = format!("[{}]", dialect.name());
        let mut policy = profile;
        for declaration in DialectPolicy::DECLARATIONS {
            let name = declaration.name;
            let source = match self.layers.find(&format!("{}.{name}", dialect.name())) {
                Some(entry) => {
                    (declaration.read)(&mut policy, &entry)?;
                    entry.source
                }
                None if self.is_dev
                    && (declaration.show)(&profile) != (declaration.show)(&permissive) =>
                {
                    (declaration.copy)(&mut policy, &permissive);
                    "--dev".to_owned()
                }
                None => source.clone(),
            };
            self.report
                .add(&table, name, (declaration.show)(&policy), &source);
        }
        Ok(policy)
    }

    /// The source of a dialect's default settings.
    fn profile_source(&self, dialect: DialectId) -> String {
        if self.profiles.contains(&dialect) {
            format!("{} profile", dialect.name())
        } else {
            "default".to_owned()
        }
    }

    /// Adds the admin listener behind those of clients.
    fn add_admin_listener(&self, settings: &mut Settings) -> Result<(), SettingsError> {
        let AdminListen(Some(address)) = settings.http.admin_listen else {
            return Ok(());
        };
        let admin = Listener::admin(address);
        let entry = self.layers.find("admin_listen");
        settings.is_admin_required = entry.is_some();
        let mut listeners = settings.listeners.iter();
        match (listeners.find(|other| other.overlaps(&admin)), entry) {
            (Some(_), Some(entry)) => {
                Err(entry.expected("an address other than those of the listeners"))
            }
            // Whoever puts clients there has no admin listener by default.
            (Some(_), None) => Ok(()),
            (None, _) => {
                settings.listeners.push(admin);
                Ok(())
            }
        }
    }

    /// Two writers must not rotate the same file.
    fn check_log(&self, log: &LogSettings) -> Result<(), SettingsError> {
        match self.layers.find("log_error_file") {
            Some(entry) if log.log_error_file.is_some() && log.log_error_file == log.log_file => {
                Err(entry.expected("a file other than `log_file`"))
            }
            _ => Ok(()),
        }
    }

    /// A report that is read back as a file contains masks, which everyone knows.
    fn check_masks(&self, settings: &Settings) -> Result<(), SettingsError> {
        let tokens = &settings.tokens;
        let has_mask = |key: &str| match key {
            "notify_api_key" => {
                let key = settings.process.notify_api_key.as_ref();
                key.is_some_and(Secret::is_mask)
            }
            "api_keys" => settings.http.api_keys.iter().any(ApiKey::is_mask),
            "otlp_headers" => {
                let mut headers = settings.traces.otlp_headers.iter();
                headers.any(|header| header.value.is_mask())
            }
            "jwt_previous_secrets" => tokens.jwt_previous_secrets.iter().any(Secret::is_mask),
            _ => tokens
                .static_tokens
                .iter()
                .any(|token| &*token.token == MASK),
        };
        let masked = [
            "notify_api_key",
            "static_tokens",
            "jwt_previous_secrets",
            "api_keys",
            "otlp_headers",
        ]
        .into_iter()
        .find(|key| has_mask(key))
        .and_then(|key| self.layers.find(key));
        match masked {
            Some(entry) => Err(entry
                .masked()
                .expected("a secret, not the mask that reports print instead")),
            None => Ok(()),
        }
    }

    /// One large message, as text and as frames, must never be over the budget.
    fn check_memory(&self, settings: &Settings) -> Result<(), SettingsError> {
        let largest = settings.dialects.iter();
        let largest = largest.map(|dialect| dialect.message_bytes_max.0).max();
        let waiting_bytes_max = settings.process.waiting_bytes_max.0;
        let is_small = waiting_bytes_max != 0 && waiting_bytes_max < 4 * largest.unwrap_or(0);
        match self.layers.find("waiting_bytes_max") {
            Some(entry) if is_small => Err(entry.expected(
                "0, or at least four times the largest `message_bytes_max` of a dialect",
            )),
            _ => Ok(()),
        }
    }

    /// A user has one limit.
    fn check_rate_limits(&self, settings: &Settings) -> Result<(), SettingsError> {
        for dialect in DialectId::ALL {
            let policy = &settings.dialects[dialect.index()];
            let key = format!("{}.user_rate_limit", dialect.name());
            if policy.counts_user_instead()
                && policy.user_rate_limit != RateLimit::Off
                && let Some(entry) = self.layers.find(&key)
            {
                return Err(entry.expected(
                    "`rate_scope` to be connection: with user, `rate_limit` is the limit of a user",
                ));
            }
        }
        Ok(())
    }

    /// What reads the word of proxies is to have some that are trusted, and the other way round.
    fn check_proxies(&mut self, settings: &Settings) -> Result<(), SettingsError> {
        let process = &settings.process;
        let mut readers = Vec::new();
        if process.proxy_protocol != ProxyProtocol::Off {
            readers.push("proxy_protocol".to_owned());
        }
        if process.forwarded_header != ForwardedHeader::None {
            readers.push("forwarded_header".to_owned());
        }
        for dialect in DialectId::ALL {
            if settings.dialects[dialect.index()].tenant_source == TenantSource::Proxy {
                readers.push(format!("{}.tenant_source", dialect.name()));
            }
        }
        let reader = readers.iter().find_map(|key| self.layers.find(key));
        if process.trusted_proxies.is_empty() {
            let rule = "`trusted_proxies` to be set too: without it no proxy is believed";
            return reader.map_or(Ok(()), |reader| Err(reader.expected(rule)));
        }
        if let (None, Some(trusted)) = (reader, self.layers.find("trusted_proxies")) {
            return Err(trusted.expected(
                "`proxy_protocol`, `forwarded_header` or a `tenant_source` of \"proxy\" to be set \
                 too: without them nothing that a proxy says is read",
            ));
        }
        let wide = process
            .trusted_proxies
            .iter()
            .filter(|range| range.is_wide());
        for range in wide {
            let text = format!(
                "trusted_proxies has {range}: whoever connects from there can take any address"
            );
            self.notices.push(Notice::Warning(text));
        }
        Ok(())
    }

    /// Fails closed: where tokens are required, a secret must be set that cannot be guessed.
    fn check_secret(&mut self, settings: &Settings) -> Result<(), SettingsError> {
        let tokens = &settings.tokens;
        let Some(secret) = &tokens.jwt_secret else {
            let mut dialects = settings.dialects_in_use().into_iter();
            let needs = dialects.find(|dialect| settings.dialects[dialect.index()].auth_required);
            let has_other_proof = self.has_token_check
                || !tokens.static_tokens.is_empty()
                || !tokens.jwt_public_keys.is_empty()
                || tokens.jwks_url.is_some()
                || tokens.auth_callback_url.is_some();
            return match needs {
                Some(dialect) if !self.is_dev && !has_other_proof => Err(self.no_secret(dialect)),
                _ => Ok(()),
            };
        };
        if secret.is_placeholder()
            && !self.is_dev
            && let Some(entry) = self.layers.find("jwt_secret")
        {
            let rule = "a secret of your own, not one from an example; \
                `openssl rand -hex 32` makes one";
            return Err(entry.masked().expected(rule));
        }
        if secret.is_short() {
            let text = "JWT secret shorter than 32 bytes: it can be guessed";
            self.notices.push(Notice::Warning(text.into()));
        }
        Ok(())
    }

    fn check_webhooks(&mut self, webhooks: &WebhookSettings) {
        let has_requests = webhooks.webhook_url.is_some() || webhooks.has_callbacks();
        if has_requests && webhooks.webhook_secrets.is_empty() {
            let text = "webhook_secrets has no secret: backends cannot tell requests of this server \
                from others";
            self.notices.push(Notice::Warning(text.into()));
        }
    }

    fn no_secret(&self, dialect: DialectId) -> SettingsError {
        let is_in_use = self.profiles.contains(&dialect);
        let variables = Profile::of(dialect).variables.iter();
        let legacy = variables.filter(|variable| is_in_use && variable.key == "jwt_secret");
        let legacy: String = legacy.map(|it| format!(", {}", it.name)).collect();
        SettingsError::Missing(format!(
            "no JWT secret, but dialect {} requires authentication: set --jwt-secret, \
             FANWIRE_JWT_SECRET{legacy} or jwt_secret in the file (32 bytes or more), or start with \
             --dev",
            dialect.name()
        ))
    }
}

/// The settings without any source, profile or mode.
fn neutral() -> Settings {
    Settings {
        process: ProcessSettings::default(),
        tokens: TokenSettings::default(),
        webhooks: WebhookSettings::default(),
        http: HttpSettings::default(),
        tls: TlsSettings::default(),
        is_admin_required: false,
        is_log_file_required: true,
        log: LogSettings::default(),
        traces: TraceSettings::default(),
        listeners: Vec::new(),
        dialects: DialectId::ALL.map(DialectPolicy::of),
        ingest: IngestSettings::default(),
        redis: RedisSettings::default(),
        gateway: GatewaySettings::default(),
        assist: AssistSettings::default(),
        notifications: NotificationsSettings::default(),
        report: Report::default(),
        notices: Vec::new(),
    }
}

/// The last layer of defaults that changed a value.
fn source_of(
    defaults: &[(String, Settings)],
    show: impl Fn(&Settings) -> Option<String>,
) -> String {
    let mut changed = "default";
    for pair in defaults.windows(2) {
        if show(&pair[0].1) != show(&pair[1].1) {
            changed = &pair[1].0;
        }
    }
    changed.to_owned()
}

fn profiles_in(listeners: &[Listener]) -> Vec<DialectId> {
    let mut profiles: Vec<_> = listeners
        .iter()
        .filter_map(|listener| match listener.routes {
            Routes::Profile { dialect, .. } => Some(dialect),
            Routes::ByPath | Routes::Admin => None,
        })
        .collect();
    profiles.sort_by_key(|dialect| dialect.index());
    profiles.dedup();
    profiles
}

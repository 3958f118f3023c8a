//! Where settings come from: flags over `FANWIRE_*` variables over the file over defaults.

use super::listener::{Listener, Routes, first_overlap};
use super::policy::{DialectPolicy, Policy};
use crate::base::DialectId;
use crate::base::limits::SHARDS_MAX;
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;

/// What an operator may set. In the file and in variables the names are those of the fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Open the doors for development: loopback, no authentication, no rate limit.
    pub dev: bool,
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Shards, or one per allowed core.
    pub shards: ShardCount,
    /// Secret of HS256 tokens.
    pub jwt_secret: Option<Secret>,
    /// Sessions in the process; 0 = as many as the socket tables hold.
    pub connections_max: u64,
    /// Bytes that may wait for one connection before it is closed as a slow consumer.
    pub outbox_bytes_max: u32,
    /// Time for sessions to end after SIGTERM, milliseconds.
    pub drain_timeout_ms: u64,
    /// Bytes of the ring between the shards, a power of two.
    pub ring_bytes: u32,
    /// Origins whose pages may connect; `*` = all.
    pub allowed_origins: Vec<String>,
    /// Where to listen and what is spoken there; one at `listen` if nothing else is said.
    #[serde(skip)]
    pub listeners: Vec<Listener>,
}

/// A number of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CountText", into = "CountText")]
pub enum ShardCount {
    /// One per allowed core.
    Auto,
    /// Just so many.
    Fixed(u16),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum CountText {
    Number(u64),
    Text(String),
}

impl TryFrom<CountText> for ShardCount {
    type Error = String;

    fn try_from(count: CountText) -> Result<Self, String> {
        match count {
            CountText::Number(number) => number.to_string().parse(),
            CountText::Text(text) => text.parse(),
        }
    }
}

impl From<ShardCount> for CountText {
    fn from(count: ShardCount) -> Self {
        match count {
            ShardCount::Auto => Self::Text("auto".into()),
            ShardCount::Fixed(count) => Self::Number(count.into()),
        }
    }
}

impl std::str::FromStr for ShardCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse() {
            Ok(count) if (1..=SHARDS_MAX).contains(&usize::from(count)) => Ok(Self::Fixed(count)),
            _ => Err(format!(
                "expected `auto` or a number from 1 to {SHARDS_MAX}, got `{text}`"
            )),
        }
    }
}

/// Flags of the command line; what is `None` was not given.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Flags {
    /// See [`Settings::dev`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dev: bool,
    /// See [`Settings::listen`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// See [`Settings::shards`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<ShardCount>,
    /// See [`Settings::jwt_secret`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_secret: Option<Secret>,
    /// See [`Settings::connections_max`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u64>,
    /// See [`Settings::outbox_bytes_max`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbox_bytes_max: Option<u32>,
    /// See [`Settings::drain_timeout_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout_ms: Option<u64>,
}

/// Variables, without their prefix, that are settings.
const VARIABLES: [&str; 8] = [
    "dev",
    "listen",
    "shards",
    "connections_max",
    "outbox_bytes_max",
    "drain_timeout_ms",
    "ring_bytes",
    "allowed_origins",
];

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the environment"
)]
fn secret_from_environment() -> Flags {
    Flags {
        jwt_secret: std::env::var("FANWIRE_JWT_SECRET").ok().map(Secret),
        ..Flags::default()
    }
}

/// A text that never shows in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("(secret)")
    }
}

/// Why there are no settings.
#[derive(Debug)]
pub enum SettingsError {
    /// The file, a variable or a flag holds something that is no value; names key and source.
    Invalid(Box<figment::Error>),
    /// The file cannot be read.
    File(String),
    /// A value breaks a rule.
    Rule(String),
}

impl std::fmt::Display for SettingsError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(error) => write!(formatter, "{error}"),
            Self::File(text) | Self::Rule(text) => formatter.write_str(text),
        }
    }
}

impl std::error::Error for SettingsError {}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dev: false,
            listen: SocketAddr::from(([0, 0, 0, 0], 8765)),
            shards: ShardCount::Auto,
            jwt_secret: None,
            connections_max: 0,
            outbox_bytes_max: 1024 * 1024,
            drain_timeout_ms: 10_000,
            ring_bytes: 8 * 1024 * 1024,
            allowed_origins: vec!["*".into()],
            listeners: Vec::new(),
        }
    }
}

impl Settings {
    /// The settings in force.
    ///
    /// # Errors
    /// [`SettingsError`] names what is wrong and where it was said.
    pub fn load(flags: &Flags, file: Option<&Path>) -> Result<Self, SettingsError> {
        let invalid = |error| SettingsError::Invalid(Box::new(error));
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file {
            if !path.is_file() {
                let text = format!("the configuration file {} does not exist", path.display());
                return Err(SettingsError::File(text));
            }
            figment = figment.merge(Toml::file_exact(path));
        }
        figment = figment
            // Only ours: Kubernetes sets FANWIRE_PORT and more beside a service of this name. And
            // the secret as it is: figment would read 1111 as a number and take quotes off.
            .merge(Env::prefixed("FANWIRE_").only(&VARIABLES))
            .merge(Serialized::globals(secret_from_environment()))
            .merge(Serialized::globals(flags));
        // Development listens where only this host can reach it, unless told otherwise.
        let said = figment.find_metadata("listen");
        let listen_is_default = said.is_none_or(|metadata| metadata.name.contains("Settings"));
        let mut settings: Self = figment.extract().map_err(invalid)?;
        if settings.dev && listen_is_default {
            settings.listen.set_ip([127, 0, 0, 1].into());
        }
        settings.listeners = vec![Listener {
            address: settings.listen,
            routes: Routes::ByPath,
        }];
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let rule = |text: &str| Err(SettingsError::Rule(text.into()));
        match self.jwt_secret.as_ref().map(|secret| &*secret.0) {
            None if !self.dev => {
                return rule(
                    "no secret to check tokens with: set --jwt-secret, FANWIRE_JWT_SECRET or \
                     jwt_secret in the file (32 bytes or more), or start with --dev",
                );
            }
            Some("") => return rule("jwt_secret is empty: every token would be valid"),
            _ => {}
        }
        if !self.ring_bytes.is_power_of_two() || !(65_536..=1 << 30).contains(&self.ring_bytes) {
            return rule(
                "ring_bytes must be a power of two from 65536 (64 KiB) to 1073741824 (1 GiB)",
            );
        }
        if self.outbox_bytes_max < 4_096 {
            return rule("outbox_bytes_max must be 4096 or more");
        }
        if let Some((one, two)) = first_overlap(&self.listeners) {
            return Err(SettingsError::Rule(format!(
                "two listeners want the same address: {one} and {two}"
            )));
        }
        Ok(())
    }

    /// The rules for sessions that follow from the settings.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            dialects: DialectId::ALL.map(|dialect| {
                let policy = DialectPolicy::of(dialect);
                if self.dev { policy.opened() } else { policy }
            }),
            sessions_max: self.connections_max,
            outbox_bytes_max: self.outbox_bytes_max,
            allowed_origins: self.allowed_origins.clone(),
            routes: self
                .listeners
                .iter()
                .map(|listener| listener.routes.clone())
                .collect(),
            ..Policy::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use figment::Jail;

    fn load(flags: Flags) -> Result<Settings, SettingsError> {
        Settings::load(&flags, Some(Path::new("f.toml")))
    }

    #[test]
    #[expect(
        clippy::result_large_err,
        reason = "the jail's closure has figment's own error type"
    )]
    fn flags_go_over_variables_over_the_file() {
        Jail::expect_with(|jail| {
            jail.create_file(
                "f.toml",
                "jwt_secret = \"file\"\nshards = 3\nconnections_max = 7",
            )?;
            jail.set_env("FANWIRE_SHARDS", "auto");
            jail.set_env("FANWIRE_CONNECTIONS_MAX", "8");
            // As Kubernetes sets it.
            jail.set_env("FANWIRE_PORT", "tcp://10.0.0.1:8765");
            let settings = load(Flags {
                connections_max: Some(9),
                ..Flags::default()
            });
            let settings = settings.expect("all values are valid");
            assert_eq!(settings.jwt_secret, Some(Secret("file".into())));
            assert_eq!(settings.shards, ShardCount::Auto);
            assert_eq!(settings.connections_max, 9);
            Ok(())
        });
    }

    #[test]
    #[expect(
        clippy::result_large_err,
        reason = "the jail's closure has figment's own error type"
    )]
    fn errors_name_the_key_and_where_it_was_said() {
        Jail::expect_with(|jail| {
            for (text, expected) in [
                ("jwt_secret = \"s\"\nshardz = 2", "shardz"),
                ("jwt_secret = \"s\"\nlisten = \"here\"", "listen"),
                (
                    "jwt_secret = \"s\"\nshards = 0",
                    "`auto` or a number from 1",
                ),
                ("jwt_secret = \"s\"\nring_bytes = 5000", "ring_bytes"),
                ("jwt_secret = \"\"", "jwt_secret is empty"),
                ("", "--jwt-secret"),
            ] {
                jail.create_file("f.toml", text)?;
                let error = load(Flags::default()).expect_err(text).to_string();
                assert!(error.contains(expected), "{text}: {error}");
            }
            Ok(())
        });
    }

    #[test]
    #[expect(
        clippy::result_large_err,
        reason = "the jail's closure has figment's own error type"
    )]
    fn a_secret_is_taken_as_it_is_and_not_shown() {
        Jail::expect_with(|jail| {
            for secret in ["11111111111111111111", "\"quoted\"", "[x"] {
                jail.set_env("FANWIRE_JWT_SECRET", secret);
                let settings = Settings::load(&Flags::default(), None).expect(secret);
                assert_eq!(settings.jwt_secret, Some(Secret(secret.into())));
                assert!(!format!("{settings:?}").contains(secret));
            }
            Ok(())
        });
    }

    #[test]
    fn development_listens_on_loopback_unless_told_otherwise() {
        let dev = |listen| {
            let flags = Flags {
                dev: true,
                listen,
                ..Flags::default()
            };
            Settings::load(&flags, None).unwrap().listen
        };
        assert_eq!(dev(None), "127.0.0.1:8765".parse().unwrap());
        let any = "0.0.0.0:80".parse().unwrap();
        assert_eq!(dev(Some(any)), any);
    }
}

//! The settings in force: flags over `FANWIRE_` variables over those of the profiles' documents over
//! the `.env` file over the configuration file over profiles over defaults.

use super::access::AccessRule;
use super::error::SettingsError;
use super::flags::Flags;
use super::listener::{Listener, Routes};
use super::loader::Loader;
use super::log::LogSettings;
use super::policy::{DialectPolicy, Policy, RejectionMode};
use super::reader::Report;
use super::secret::Secret;
use super::setting::ShardCount;
use super::sources::Sources;
use crate::auth::StaticToken;
use crate::base::DialectId;
use std::path::Path;
use std::time::Duration;

/// What an operator has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The doors are open for development.
    pub dev: bool,
    /// The server is for production.
    pub prod: bool,
    /// Where to listen and what is spoken there; at least one.
    pub listeners: Vec<Listener>,
    /// Shards, or one per allowed core.
    pub shards: ShardCount,
    /// Secret of HS256 tokens. `None` when no dialect in use asks for tokens, or in development.
    pub jwt_secret: Option<Secret>,
    /// Tokens that are valid as they are.
    pub static_tokens: Vec<StaticToken>,
    /// Who may hear which channels, beyond the rules of the dialects.
    pub access: Vec<AccessRule>,
    /// Sessions in the process; 0 = as many as the socket tables hold.
    pub connections_max: u64,
    /// Bytes that may wait for one connection before it is closed as a slow consumer.
    pub send_queue_bytes_max: u32,
    /// Bytes of the ring between the shards, a power of two.
    pub ring_bytes: u32,
    /// Origins whose pages may connect; `*` = all.
    pub allowed_origins: Vec<String>,
    /// How a page of another origin is rejected.
    pub origin_rejection: RejectionMode,
    /// How a session too many is rejected.
    pub capacity_rejection: RejectionMode,
    /// Time for sessions to end by themselves after SIGTERM.
    pub drain_grace_period: Duration,
    /// Time for sessions to answer our close frames after that.
    pub drain_close_timeout: Duration,
    /// What is logged, how and where.
    pub log: LogSettings,
    /// What a caller of `POST /notify` has to know; `None` = nothing.
    pub notify_api_key: Option<Secret>,
    /// Whether metrics are shown.
    pub metrics_enabled: bool,
    /// Whether `/health` answers.
    pub health_enabled: bool,
    /// The rules of each dialect, in the order of their indices.
    pub dialects: [DialectPolicy; DialectId::COUNT],
    /// What the gateway alone has.
    pub gateway: GatewaySettings,
    /// What assist alone has.
    pub assist: AssistSettings,
    /// What notifications alone have.
    pub notifications: NotificationsSettings,
    /// All of this and where it was said.
    pub report: Report,
    /// What the operator should know, to be logged at start.
    pub notices: Vec<Notice>,
}

/// What the gateway alone has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// The domain whose subdomains name tenants.
    pub tenant_domain: Option<String>,
}

/// What assist alone has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssistSettings {
    /// Time between two measurements of the host.
    pub metrics_interval: Duration,
    /// Time between two cleanups of what is remembered of users that left. Sessions and
    /// subscriptions that have ended are gone at once.
    pub quota_sweep_interval: Duration,
}

/// What notifications alone have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationsSettings {
    /// Time between two periodic notifications; zero = none.
    pub test_message_interval: Duration,
}

/// Something about the settings that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// How something was understood.
    Info(String),
    /// What is likely to be a mistake.
    Warning(String),
}

impl Settings {
    /// The settings in force, from these flags, this file, the environment and a `.env` file in the
    /// working directory.
    ///
    /// # Errors
    /// [`SettingsError`] names what is wrong and where it was said.
    pub fn load(flags: &Flags, file: Option<&Path>) -> Result<Self, SettingsError> {
        let sources = Sources::read(flags, file)?;
        Loader::new(sources)?.load()
    }

    /// The dialects that some listener speaks.
    #[must_use]
    pub fn dialects_in_use(&self) -> Vec<DialectId> {
        let mut dialects: Vec<_> = DialectId::ALL.to_vec();
        dialects.retain(|dialect| {
            self.listeners.iter().any(|listener| match listener.routes {
                Routes::ByPath => true,
                Routes::Profile {
                    dialect: spoken, ..
                } => spoken == *dialect,
            })
        });
        dialects
    }

    /// The rules for sessions that follow from the settings.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            dialects: self.dialects,
            sessions_max: self.connections_max,
            send_queue_bytes_max: self.send_queue_bytes_max,
            allowed_origins: self.allowed_origins.clone(),
            origin_rejection: self.origin_rejection,
            capacity_rejection: self.capacity_rejection,
            access: self.access.clone(),
            tenant_domain: self.gateway.tenant_domain.clone(),
            routes: self.listeners.iter().map(|it| it.routes.clone()).collect(),
        }
    }
}

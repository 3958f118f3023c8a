//! Settings: their declarations, their sources and their defaults.
//!
//! ```text
//!  the program, flags    ┐
//!  FANWIRE_ variables    │
//!  legacy variables      ├─▶ layers ─▶ loader ─▶ Settings ─▶ Policy, report, notices
//!  .env                  │               ▲
//!  file                  ┘               └─ declarations, profiles
//! ```
//!
//! A setting is one line of a `settings!` block: in `process`, `log`, `dialect_policy` (every
//! dialect) or `listener_loader`. A profile is one row of `profiles`.

pub mod access;
mod compat_env;
pub mod compression;
mod declaration;
pub mod dialect_policy;
mod dotenv;
pub mod error;
mod file;
pub mod history;
mod http;
mod ingest;
pub mod inputs;
mod keys;
mod layer;
pub mod listener;
mod listener_loader;
mod loader;
pub mod log;
pub mod origin;
mod otel_env;
pub mod policy;
pub mod presence;
pub mod process;
pub mod profiles;
pub mod proxies;
pub mod rate_limit;
mod redis;
mod redis_address;
mod report;
mod rule_table;
mod sample;
mod secret;
pub mod settings;
mod sources;
pub mod store;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod traces;
pub mod value;
mod webhooks;

pub use access::{AccessRule, Action, ChannelPattern, DefaultAccess, Requirement, Subject};
pub use compression::{Compression, CompressionPolicy};
pub use declaration::SettingInfo;
pub use dialect_policy::{DialectPolicy, RateScope, TenantSource, TokenExpiryAction};
pub use error::SettingsError;
pub use history::HistorySetting;
pub use http::{ApiKey, ApiScope, HttpPart, HttpParts, HttpSettings};
pub use ingest::IngestSettings;
pub use inputs::Inputs;
pub use listener::{Listener, Route, Routes};
pub use log::{ClientLogPolicy, LogFormat, LogLevel, LogSettings};
pub use origin::OriginPattern;
pub use policy::Policy;
pub use presence::PresenceSetting;
pub use process::{
    AssistSettings, GatewaySettings, NotificationsSettings, ProcessSettings, RejectionMode,
};
pub use profiles::Profile;
pub use proxies::{AddressRange, ForwardedHeader, PeerRole, ProxyProtocol};
pub use rate_limit::RateLimit;
pub use redis::RedisSettings;
pub use redis_address::RedisAddress;
pub use report::Report;
pub use rule_table::RuleTable;
pub use sample::sample;
pub use secret::Secret;
pub use settings::{Notice, Settings};
pub use store::StoreSync;
pub use tls::{CertificatePair, TlsSettings, TlsVersion};
pub use tokens::TokenSettings;
pub use traces::{OtlpHeader, TraceSettings};
pub use value::{ByteSize, Millis, SettingValue, ShardCount};
pub use webhooks::{MessageCallback, WebhookSettings, webhook_key};

/// All settings by name, for command lines and documentation.
#[must_use]
pub fn all_settings() -> &'static [SettingInfo] {
    keys::all()
}

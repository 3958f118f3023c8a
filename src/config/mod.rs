//! Settings: their declarations, their sources, and what is in force when nothing is set.
//!
//! ```text
//!  the program, flags    ┐
//!  FANWIRE_ variables    │
//!  legacy variables      ├─▶ layers ─▶ loader ─▶ Settings ─▶ Policy, report, notices
//!  .env                  │               ▲
//!  file                  ┘               └─ declarations, profiles
//! ```
//!
//! A setting is one line of a `settings!` block: in `settings` (the process), `log`, `policy` (every
//! dialect) or `listener_loader`. A profile is one row of `profiles`.

pub mod access;
mod compat_env;
mod declaration;
mod dotenv;
pub mod error;
mod file;
pub mod inputs;
mod keys;
mod layer;
pub mod listener;
mod listener_loader;
mod loader;
pub mod log;
pub mod policy;
pub mod profiles;
pub mod rate_limit;
mod report;
mod secret;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod value;

pub use access::{AccessRule, ChannelPattern, Requirement};
pub use declaration::SettingInfo;
pub use error::SettingsError;
pub use inputs::Inputs;
pub use listener::{Listener, Route, Routes};
pub use log::{LogFormat, LogLevel, LogSettings};
pub use policy::{DialectPolicy, Policy, RateScope, RejectionMode, TokenExpiryAction};
pub use profiles::Profile;
pub use rate_limit::RateLimit;
pub use report::Report;
pub use secret::Secret;
pub use settings::{
    AssistSettings, GatewaySettings, Notice, NotificationsSettings, ProcessSettings, Settings,
};
pub use value::{ByteSize, Millis, SettingValue, ShardCount};

/// All settings by name, for command lines and documentation.
#[must_use]
pub fn all_settings() -> &'static [SettingInfo] {
    keys::all()
}

//! Settings: what an operator may say, where, and what is in force when nothing is said.
//!
//! ```text
//!  flags                 ┐
//!  FANWIRE_ variables    │                                              ┌─▶ Policy
//!  documents' variables  ├─▶ layers (figment) ─▶ reader ─▶ Settings ────┤
//!  .env                  │                                              └─▶ report, remarks
//!  file                  ┘
//! ```

pub mod access;
mod compat_env;
mod dialects;
mod dotenv;
pub mod error;
pub mod flags;
mod keys;
mod layer;
pub mod listener;
mod listener_loader;
mod loader;
pub mod log;
pub mod policy;
mod reader;
mod secret;
mod setting;
pub mod settings;
mod sources;
#[cfg(test)]
mod tests;

pub use access::{AccessRule, ChannelPattern, Requirement};
pub use error::SettingsError;
pub use flags::Flags;
pub use listener::{Listener, Route, Routes};
pub use log::{LogFormat, LogLevel, LogSettings};
pub use policy::{DialectPolicy, Policy, RateLimit, RateScope, RejectionMode, TokenExpiryAction};
pub use reader::Report;
pub use secret::Secret;
pub use setting::ShardCount;
pub use settings::{AssistSettings, GatewaySettings, Notice, NotificationsSettings, Settings};

//! Settings: what an operator may say, where, and what is in force when nothing is said.

pub mod access;
pub mod listener;
pub mod policy;
pub mod settings;

pub use access::{AccessRule, ChannelPattern, Need};
pub use listener::{Listener, Route, Routes};
pub use policy::{DialectPolicy, OnExpiry, Policy, RateLimit, RateScope, RefusalForm};
pub use settings::{Flags, Secret, Settings, SettingsError, ShardCount};

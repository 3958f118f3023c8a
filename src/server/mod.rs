//! Start and shutdown of the server. `Server` is the library's handle.

mod boot;
mod broadcasts;
mod builder;
mod callbacks;
mod cores;
mod error;
mod explain;
mod handle;
mod history;
mod ingest;
mod integration;
mod journal;
mod kernel_probe;
mod locked_memory;
mod presence;
mod publishing;
mod run;
mod services;
mod sessions;
mod shard_thread;
mod signals;
mod statistics;
mod tls;
mod tokens;
mod watchdog;

pub use crate::api::{ConnectionInfo, ConnectionPage, Stats, TenantStats};
pub use builder::{Builder, Configured};
pub use error::StartError;
pub use explain::{AccessQuestion, Explanation};
pub use handle::Server;
pub use history::{ChannelHistory, HistoryEntry, NotStored};
pub use kernel_probe::KernelError;
pub use presence::{ChannelMember, ChannelPresence};
pub use publishing::{BatchError, Publication, Published};
pub use run::StopOutcome;
pub use signals::SignalWatch;

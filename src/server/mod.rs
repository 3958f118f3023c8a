//! Boot and shutdown: settings to running shards, signals to a drain.

pub mod boot;
pub mod cores;
pub mod handle;
pub mod kernel;
pub mod notify;
pub mod run;
pub mod services;
pub mod shard_thread;

pub use boot::{BootError, Program, Running, start};
pub use handle::{Builder, ConnectionInfo, Server, Stats};
pub use run::{run_until_signal, watch_signals};

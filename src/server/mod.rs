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
pub use handle::{Builder, ConnectionInfo, Server, StartError, Stats};
pub use notify::Stream;
pub use run::{Ended, run_until_signal, watch_signals};

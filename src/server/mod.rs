//! Boot and shutdown: settings to running shards, signals to a drain.

pub mod boot;
pub mod broadcasts;
pub mod cores;
pub mod handle;
pub mod kernel_probe;
pub mod run;
pub mod services;
pub mod shard_thread;

pub use boot::{BootError, ProgramHooks, Running, start};
pub use broadcasts::Stream;
pub use handle::{Builder, ConnectionInfo, Server, StartError, Stats};
pub use run::{Ended, run_until_signal, watch_signals};

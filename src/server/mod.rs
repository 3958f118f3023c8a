//! Boot and shutdown: settings to running shards, signals to a drain.

pub mod boot;
pub mod cores;
pub mod kernel;
pub mod run;
pub mod shard_thread;

pub use boot::{BootError, Running, start};
pub use run::run_until_signal;

//! What the server shows of itself: metrics, logs, and the load of its host.

pub mod host_sampler;
pub mod log;
mod log_file;
pub mod metrics;

pub use metrics::Metrics;

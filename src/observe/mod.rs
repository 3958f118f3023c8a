//! Observability: metrics, logs, and the load of the host.

pub mod host_sampler;
pub mod log;
mod log_file;
pub mod metrics;

pub use metrics::Metrics;

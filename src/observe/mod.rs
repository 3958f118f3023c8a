//! Observability: metrics, logs, and the load of the host.

mod client_families;
mod exposition;
mod families;
pub mod host_sampler;
mod ingest_families;
pub mod log;
mod log_file;
pub mod metrics;
mod node_families;
mod process_families;
mod server_families;
pub mod tap;

pub use metrics::Metrics;

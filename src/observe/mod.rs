//! What the server shows of itself: metrics and logs.

pub mod log;
mod log_file;
pub mod metrics;

pub use metrics::Metrics;

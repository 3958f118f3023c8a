//! What the server shows of itself: metrics and logs.

pub mod log;
pub mod metrics;

pub use metrics::Metrics;

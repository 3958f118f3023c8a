//! The one place that reads a clock: nanoseconds since this program started, which never go back.

use std::{sync::OnceLock, time::Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the first call in this process.
#[expect(
    clippy::disallowed_methods,
    reason = "this file owns the clock of the load generator"
)]
pub(crate) fn now_ns() -> u64 {
    let elapsed = START.get_or_init(Instant::now).elapsed();
    elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos())
}

/// CPU time of the calling thread in nanoseconds, exact also while it runs (schedstat lags by a
/// tick).
pub(crate) fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

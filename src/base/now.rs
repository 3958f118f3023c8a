//! Time as a value: read once per turn of the event loop, and passed to all layers below.

use std::num::NonZeroU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One moment, on the monotonic clock and on the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the clock was created; never goes back.
    pub monotonic_ms: u64,
    /// Milliseconds since 1970-01-01 UTC; may jump when the host's clock is set.
    pub unix_ms: u64,
}

impl Now {
    /// A moment with both clocks given, for tests and simulations.
    #[must_use]
    pub const fn at(monotonic_ms: u64, unix_ms: u64) -> Self {
        Self {
            monotonic_ms,
            unix_ms,
        }
    }

    /// Seconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn unix_s(self) -> u64 {
        self.unix_ms / 1_000
    }
}

/// A time on the monotonic clock; an `Option` of it takes eight bytes, not sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// The moment of `now`.
    #[must_use]
    pub const fn of(now: Now) -> Self {
        Self(NonZeroU64::MIN.saturating_add(now.monotonic_ms))
    }

    /// Monotonic milliseconds.
    #[must_use]
    pub const fn monotonic_ms(self) -> u64 {
        self.0.get() - 1
    }
}

/// The only reader of the host's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock whose monotonic time starts at zero.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the only place that reads the clocks"
    )]
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// When the monotonic time was zero, nanoseconds since 1970-01-01 UTC, by the host's clock as it
    /// is set now.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the only place that reads the clocks"
    )]
    pub fn started_unix_nanos(&self) -> u64 {
        let elapsed = self.started.elapsed();
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        u64::try_from(unix.saturating_sub(elapsed).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Reads both clocks.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the only place that reads the clocks"
    )]
    pub fn now(&self) -> Now {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Now {
            monotonic_ms: millis(self.started.elapsed()),
            unix_ms: millis(unix),
        }
    }
}

/// Measures short times for metrics. What a shard does never depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Option<Clock>);

impl Stopwatch {
    /// One that stands still, as in simulations: all times are zero.
    pub const STOPPED: Self = Self(None);

    /// One that reads the time of a clock.
    #[must_use]
    pub const fn of(clock: Clock) -> Self {
        Self(Some(clock))
    }

    /// Whether it does not stand still.
    #[must_use]
    pub const fn is_running(self) -> bool {
        self.0.is_some()
    }

    /// Monotonic nanoseconds.
    #[must_use]
    pub fn nanos(self) -> u64 {
        let Some(clock) = self.0 else {
            return 0;
        };
        u64::try_from(clock.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

//! The state of a rate limit, in one word.

use crate::config::RateLimit;
use crate::config::rate_limit::WINDOW_MESSAGES_MAX;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// How much of a rate limit is used.
///
/// For a bucket: the fill level as the time at which it was empty (generic cell rate algorithm,
/// ITU-T I.371), microseconds. For a window: a sliding window counter, which weighs the count of
/// the previous window by the share of it that is still inside; it assumes that the messages of the
/// previous window were evenly spread. Windows begin at multiples of their length:
///
/// ```text
///   63             40 39             20 19              0
///  ┌─────────────────┬─────────────────┬─────────────────┐
///  │ number of the   │ messages in the │ messages in the │
///  │ current window  │ previous window │ current window  │
///  └─────────────────┴─────────────────┴─────────────────┘
/// ```
///
/// One word, so that sessions on several shards can count in the same state without a lock and
/// never get more than the limit together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RateState(u64);

/// What is used of a rate limit.
///
/// ```no_run
/// # let server = fanwire::Server::builder().dev().start()?;
/// if let Some(rate) = server.user_rate_limit_status(fanwire::DialectId::Gateway, None, "ann") {
///     println!("{} of {} messages", rate.used, rate.max);
/// }
/// # Ok::<(), fanwire::StartError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RateUse {
    /// Messages that currently count against the limit.
    pub used: u32,
    /// Messages that the limit allows per window or burst.
    pub max: u32,
}

/// What is used of the rate limits that the messages of a session count against; `None` where there
/// is no such limit.
///
/// ```no_run
/// # async fn show(server: fanwire::Server) {
/// if let Some(status) = server.rate_limit_status("0000000000000000").await {
///     println!("{:?} of its user, {:?} of its tenant", status.user, status.tenant);
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RateLimitStatus {
    /// The limit of the session alone.
    pub session: Option<RateUse>,
    /// The limit of all sessions of its user.
    pub user: Option<RateUse>,
    /// The limit of all sessions of its tenant.
    pub tenant: Option<RateUse>,
    /// The limit of all sessions from its address, or its IPv6 network of 64 bits.
    pub address: Option<RateUse>,
}

impl RateUse {
    pub(crate) fn of(used: u32, limit: RateLimit) -> Option<Self> {
        let max = limit.messages_max()?;
        Some(Self { used, max })
    }
}

/// The state of a rate limit that sessions on all shards count in.
#[derive(Debug, Default)]
pub(super) struct SharedRateState(AtomicU64);

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const NUMBER_MASK: u64 = u64::MAX >> (2 * COUNT_BITS);
const _: () = assert!((WINDOW_MESSAGES_MAX as u64) <= COUNT_MASK);
/// By how many windows the clock of one shard may be behind that of another, which is taken from
/// the same source once per turn.
const CLOCK_SKEW_WINDOWS: u64 = 1_024;

/// The three parts of the state of a window.
struct Window {
    number: u64,
    previous: u64,
    current: u64,
}

impl RateState {
    /// Counts a message at `now_ms`; false when it exceeds the limit, in which case it is not
    /// counted.
    pub(super) fn allows(&mut self, limit: RateLimit, now_ms: u64) -> bool {
        if limit == RateLimit::Off {
            return true;
        }
        let counted = self.with_message(limit, now_ms);
        *self = counted.unwrap_or(*self);
        counted.is_some()
    }

    /// Messages that count against the limit at `now_ms`.
    pub(super) fn used(self, limit: RateLimit, now_ms: u64) -> u32 {
        let used = match limit {
            RateLimit::Off => 0,
            RateLimit::Window { window_ms, .. } => {
                let window = self.window_at(window_ms, now_ms);
                window.previous_inside(window_ms, now_ms) + window.current
            }
            RateLimit::Bucket { per_minute, .. } => {
                let interval = interval_us(per_minute);
                self.0.saturating_sub(now_ms * 1_000).div_ceil(interval)
            }
        };
        u32::try_from(used).unwrap_or(u32::MAX)
    }

    /// From when on nothing of the limit is used unless more messages come, monotonic milliseconds.
    fn unused_from_ms(self, limit: RateLimit, now_ms: u64) -> u64 {
        match limit {
            RateLimit::Off => 0,
            RateLimit::Bucket { .. } => self.0.div_ceil(1_000),
            RateLimit::Window { window_ms, .. } => {
                let window = self.window_at(window_ms, now_ms);
                let length = u64::from(window_ms.max(1));
                let windows = match window {
                    Window { current: 1.., .. } => 2,
                    Window { previous: 1.., .. } => 1,
                    _ => return 0,
                };
                (now_ms / length + windows) * length
            }
        }
    }

    /// The state with one more message; `None` when that exceeds the limit.
    fn with_message(self, limit: RateLimit, now_ms: u64) -> Option<Self> {
        match limit {
            RateLimit::Off => Some(self),
            RateLimit::Window {
                messages,
                window_ms,
            } => {
                let mut window = self.window_at(window_ms, now_ms);
                let inside = window.previous_inside(window_ms, now_ms);
                if inside + window.current >= u64::from(messages.min(WINDOW_MESSAGES_MAX)) {
                    return None;
                }
                window.current += 1;
                Some(window.state())
            }
            RateLimit::Bucket { per_minute, burst } => {
                if per_minute == 0 || burst == 0 {
                    return None;
                }
                let now = now_ms * 1_000;
                let interval = interval_us(per_minute);
                let tolerance = interval * u64::from(burst - 1);
                (self.0 <= now + tolerance).then(|| Self(self.0.max(now) + interval))
            }
        }
    }

    /// The state of the window of `now_ms`, or of a later one that another shard has begun already.
    fn window_at(self, window_ms: u32, now_ms: u64) -> Window {
        let (previous, current) = ((self.0 >> COUNT_BITS) & COUNT_MASK, self.0 & COUNT_MASK);
        let number = (now_ms / u64::from(window_ms.max(1))) & NUMBER_MASK;
        let state_number = self.0 >> (2 * COUNT_BITS);
        let windows_passed = number.wrapping_sub(state_number) & NUMBER_MASK;
        if windows_passed > NUMBER_MASK - CLOCK_SKEW_WINDOWS && previous + current > 0 {
            return Window {
                number: state_number,
                previous,
                current,
            };
        }
        let (previous, current) = match windows_passed {
            0 => (previous, current),
            1 => (current, 0),
            _ => (0, 0),
        };
        Window {
            number,
            previous,
            current,
        }
    }
}

impl Window {
    /// How many messages of the previous window are still inside.
    fn previous_inside(&self, window_ms: u32, now_ms: u64) -> u64 {
        let length = u64::from(window_ms.max(1));
        let is_ahead = (now_ms / length) & NUMBER_MASK != self.number;
        let passed = if is_ahead { 0 } else { now_ms % length };
        self.previous * (length - passed) / length
    }

    fn state(&self) -> RateState {
        let counts = (self.previous << COUNT_BITS) | self.current;
        RateState((self.number << (2 * COUNT_BITS)) | counts)
    }
}

impl SharedRateState {
    /// Takes back what was counted once, of a bucket.
    pub(super) fn take_back(&self, limit: RateLimit) {
        if let RateLimit::Bucket { per_minute, .. } = limit {
            let interval = interval_us(per_minute);
            let back = |state: u64| Some(state.saturating_sub(interval));
            let _ = self
                .0
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
        }
    }

    /// The same as for a state of one session. All accesses are relaxed: no other data is published
    /// through the word.
    pub(super) fn allows(&self, limit: RateLimit, now_ms: u64) -> bool {
        let count = |word| RateState(word).with_message(limit, now_ms).map(|it| it.0);
        limit == RateLimit::Off
            || self
                .0
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count)
                .is_ok()
    }

    /// Whether `allows` would be true now.
    pub(super) fn would_allow(&self, limit: RateLimit, now_ms: u64) -> bool {
        self.state().with_message(limit, now_ms).is_some()
    }

    pub(super) fn used(&self, limit: RateLimit, now_ms: u64) -> u32 {
        self.state().used(limit, now_ms)
    }

    pub(super) fn unused_from_ms(&self, limit: RateLimit, now_ms: u64) -> u64 {
        self.state().unused_from_ms(limit, now_ms)
    }

    fn state(&self) -> RateState {
        RateState(self.0.load(Ordering::Relaxed))
    }
}

/// Time after which a token bucket gains a token, microseconds, at least 1.
fn interval_us(per_minute: u32) -> u64 {
    (60_000_000 / u64::from(per_minute.max(1))).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: RateLimit = RateLimit::Window {
        messages: 100,
        window_ms: 60_000,
    };
    const BUCKET: RateLimit = RateLimit::Bucket {
        per_minute: 120,
        burst: 20,
    };

    #[test]
    fn a_rate_beyond_the_clock_neither_panics_nor_lifts_the_burst() {
        let limit = RateLimit::Bucket {
            per_minute: u32::MAX,
            burst: 5,
        };
        let mut state = RateState::default();
        assert_eq!(count_allowed(&mut state, limit, 0, 9), 5);
        assert_eq!(state.used(limit, 0), 5);
    }

    fn count_allowed(state: &mut RateState, limit: RateLimit, now_ms: u64, tries: u32) -> usize {
        (0..tries).filter(|_| state.allows(limit, now_ms)).count()
    }

    #[test]
    fn a_window_allows_its_number_and_slides() {
        let mut state = RateState::default();
        assert_eq!(count_allowed(&mut state, WINDOW, 61_000, 150), 100);
        assert_eq!(count_allowed(&mut state, WINDOW, 119_000, 10), 0);
        assert_eq!(
            (state.used(WINDOW, 119_000), state.used(WINDOW, 150_000)),
            (100, 50)
        );
        // Half of the previous window still counts.
        assert_eq!(count_allowed(&mut state, WINDOW, 150_000, 100), 50);
        assert_eq!(count_allowed(&mut state, WINDOW, 400_000, 150), 100);
    }

    #[test]
    fn a_shard_whose_clock_is_behind_gets_nothing_beyond_the_limit() {
        let mut state = RateState::default();
        assert_eq!(count_allowed(&mut state, WINDOW, 60_000, 60), 60);
        assert_eq!(count_allowed(&mut state, WINDOW, 119_999, 60), 40);
        // The other shard has begun the next window.
        assert_eq!(count_allowed(&mut state, WINDOW, 120_600, 60), 1);
        assert_eq!(count_allowed(&mut state, WINDOW, 119_999, 60), 0);
        assert_eq!(state.used(WINDOW, 119_999), 101);
        // Window numbers begin again after 2^24 windows.
        let later_ms = 60_000 * (1 << 24);
        assert_eq!(
            count_allowed(&mut state, WINDOW, later_ms + 600_000, 200),
            100
        );
    }

    #[test]
    fn a_bucket_allows_its_burst_and_refills() {
        let mut state = RateState::default();
        assert_eq!(count_allowed(&mut state, BUCKET, 5_000, 50), 20);
        assert_eq!(count_allowed(&mut state, BUCKET, 5_499, 50), 0);
        assert_eq!(
            (state.used(BUCKET, 5_000), state.used(BUCKET, 10_000)),
            (20, 10)
        );
        assert_eq!(count_allowed(&mut state, BUCKET, 5_500, 50), 1);
        assert_eq!(count_allowed(&mut state, BUCKET, 65_500, 50), 20);
    }

    #[test]
    fn a_state_is_unused_when_all_of_the_limit_is_there_again() {
        for limit in [WINDOW, BUCKET] {
            let mut state = RateState::default();
            assert_eq!(state.unused_from_ms(limit, 70_000), 0);
            assert!(state.allows(limit, 70_000));
            let from_ms = state.unused_from_ms(limit, 70_000);
            assert_eq!(state.used(limit, from_ms), 0, "{limit:?}");
            assert_eq!(state.unused_from_ms(limit, from_ms - 1), from_ms);
        }
        let mut state = RateState::default();
        assert_eq!(count_allowed(&mut state, WINDOW, 70_000, 100), 100);
        assert_eq!(state.unused_from_ms(WINDOW, 70_000), 180_000);
        assert_eq!(state.used(WINDOW, 179_000), 1);
    }

    #[test]
    fn threads_together_never_get_more_than_the_limit() {
        for (limit, expected) in [(WINDOW, 100), (BUCKET, 20)] {
            let state = SharedRateState::default();
            let allowed: usize = std::thread::scope(|scope| {
                let count = || (0..1_000).filter(|_| state.allows(limit, 61_000)).count();
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
                threads.into_iter().map(|it| it.join().unwrap()).sum()
            });
            assert_eq!(allowed, expected);
        }
    }
}

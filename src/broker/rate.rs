//! Rate limit state of one session, in sixteen bytes.

use crate::config::RateLimit;

/// How much of its limit a session has used.
///
/// For a window: a sliding window counter, which weighs the count of the previous window by the
/// share of it that is still inside; it assumes that the messages of the previous window were
/// evenly spread. For a bucket: the fill level as the time at which it was empty (generic cell rate
/// algorithm, ITU-T I.371).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RateState {
    /// Window: start of the current one. Bucket: theoretical arrival time, microseconds.
    anchor: u64,
    current: u32,
    previous: u32,
}

impl RateState {
    /// Whether no message has been counted yet.
    pub(super) fn is_unused(&self) -> bool {
        self.anchor == 0 && self.current == 0
    }

    /// Counts a message at `now_ms`; false when it exceeds the limit, in which case it is not
    /// counted.
    pub(super) fn allows(&mut self, limit: RateLimit, now_ms: u64) -> bool {
        match limit {
            RateLimit::Off => true,
            RateLimit::Window {
                messages,
                window_ms,
            } => self.window_allows(messages, window_ms, now_ms),
            RateLimit::Bucket { per_minute, burst } => {
                self.bucket_allows(per_minute, burst, now_ms)
            }
        }
    }

    /// Messages that count against the limit at `now_ms`.
    pub(super) fn used(mut self, limit: RateLimit, now_ms: u64) -> u32 {
        let used = match limit {
            RateLimit::Off => 0,
            RateLimit::Window { window_ms, .. } => {
                let weighed = self.weigh_earlier(window_ms, now_ms);
                weighed + u64::from(self.current)
            }
            RateLimit::Bucket { per_minute, .. } => {
                let interval = interval_us(per_minute);
                self.anchor
                    .saturating_sub(now_ms * 1_000)
                    .div_ceil(interval)
            }
        };
        u32::try_from(used).unwrap_or(u32::MAX)
    }

    /// Advances to the window of `now_ms` and returns the weighted count of the previous window.
    fn weigh_earlier(&mut self, window_ms: u32, now_ms: u64) -> u64 {
        let window = u64::from(window_ms.max(1));
        let windows_passed = now_ms.saturating_sub(self.anchor) / window;
        if windows_passed > 0 {
            self.previous = if windows_passed == 1 { self.current } else { 0 };
            self.current = 0;
            self.anchor += windows_passed * window;
        }
        let inside = window - now_ms.saturating_sub(self.anchor);
        u64::from(self.previous) * inside / window
    }

    fn window_allows(&mut self, messages: u32, window_ms: u32, now_ms: u64) -> bool {
        let weighed = self.weigh_earlier(window_ms, now_ms);
        if weighed + u64::from(self.current) >= u64::from(messages) {
            return false;
        }
        self.current += 1;
        true
    }

    fn bucket_allows(&mut self, per_minute: u32, burst: u32, now_ms: u64) -> bool {
        if per_minute == 0 || burst == 0 {
            return false;
        }
        let now = now_ms * 1_000;
        let interval = interval_us(per_minute);
        let tolerance = interval * u64::from(burst - 1);
        if self.anchor > now + tolerance {
            return false;
        }
        self.anchor = self.anchor.max(now) + interval;
        true
    }
}

/// Time after which a token bucket gains a token, microseconds, at least 1.
fn interval_us(per_minute: u32) -> u64 {
    (60_000_000 / u64::from(per_minute.max(1))).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let limit = RateLimit::Window {
            messages: 100,
            window_ms: 60_000,
        };
        let mut state = RateState::default();
        assert_eq!(count_allowed(&mut state, limit, 61_000, 150), 100);
        assert_eq!(count_allowed(&mut state, limit, 119_000, 10), 0);
        assert_eq!(
            (state.used(limit, 119_000), state.used(limit, 150_000)),
            (100, 50)
        );
        // Half of the previous window still counts.
        assert_eq!(count_allowed(&mut state, limit, 150_000, 100), 50);
        assert_eq!(count_allowed(&mut state, limit, 400_000, 150), 100);
    }

    #[test]
    fn a_bucket_allows_its_burst_and_refills() {
        let limit = RateLimit::Bucket {
            per_minute: 120,
            burst: 20,
        };
        let mut state = RateState::default();
        assert_eq!(count_allowed(&mut state, limit, 5_000, 50), 20);
        assert_eq!(count_allowed(&mut state, limit, 5_499, 50), 0);
        assert_eq!(
            (state.used(limit, 5_000), state.used(limit, 10_000)),
            (20, 10)
        );
        assert_eq!(count_allowed(&mut state, limit, 5_500, 50), 1);
        assert_eq!(count_allowed(&mut state, limit, 65_500, 50), 20);
    }
}

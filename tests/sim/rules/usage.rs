//! How much of a rate limit was used, from the times of the messages that were allowed.
//!
//! Nothing here is as the server computes it: a window is counted from the list of all messages, and
//! a bucket is a level of tokens that rises.

use fanwire::config::RateLimit;

/// The messages of one connection, or of one user.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    allowed_ms: Vec<u64>,
}

impl Usage {
    /// Whether what was counted still changes what is allowed.
    pub(super) fn matters(&self, limit: RateLimit, now_ms: u64) -> bool {
        match limit {
            RateLimit::Window { window_ms, .. } => {
                let window = |at_ms: u64| at_ms / u64::from(window_ms);
                let mut times = self.allowed_ms.iter();
                times.any(|at_ms| window(*at_ms) + 1 >= window(now_ms))
            }
            RateLimit::Bucket { per_minute, burst } => {
                let token_us = 60_000_000 / u64::from(per_minute);
                let full_us = token_us * u64::from(burst);
                self.level_us(per_minute, burst, now_ms) < full_us
            }
            _ => false,
        }
    }

    /// Counts a message, unless it is one too many.
    pub(super) fn allows(&mut self, limit: RateLimit, now_ms: u64) -> bool {
        let allows = match limit {
            RateLimit::Off => return true,
            RateLimit::Window {
                messages,
                window_ms,
            } => self.in_window(u64::from(window_ms), now_ms) < u64::from(messages),
            RateLimit::Bucket { per_minute, burst } => self.has_token(per_minute, burst, now_ms),
            other => unreachable!("no rules are drawn with {other:?}"),
        };
        if allows {
            self.allowed_ms.push(now_ms);
        }
        allows
    }

    /// The messages of this window, and the share of those of the one before that still counts.
    /// Windows follow each other from the beginning of time.
    fn in_window(&self, window_ms: u64, now_ms: u64) -> u64 {
        let window = now_ms / window_ms;
        let count = |wanted: Option<u64>| {
            let times = self.allowed_ms.iter();
            let inside = times.filter(|at_ms| Some(**at_ms / window_ms) == wanted);
            inside.count() as u64
        };
        let left_ms = window_ms - now_ms % window_ms;
        count(Some(window)) + count(window.checked_sub(1)) * left_ms / window_ms
    }

    /// Whether a bucket that each message took a token from has one left.
    fn has_token(&self, per_minute: u32, burst: u32, now_ms: u64) -> bool {
        let token_us = 60_000_000 / u64::from(per_minute);
        self.level_us(per_minute, burst, now_ms) >= token_us
    }

    /// How full the bucket is, as the time in which it gains as much.
    fn level_us(&self, per_minute: u32, burst: u32, now_ms: u64) -> u64 {
        let token_us = 60_000_000 / u64::from(per_minute);
        let full_us = token_us * u64::from(burst);
        let (mut level_us, mut at_ms) = (full_us, 0);
        for next_ms in self.allowed_ms.iter().copied() {
            level_us = full_us.min(level_us + (next_ms - at_ms) * 1_000) - token_us;
            at_ms = next_ms;
        }
        full_us.min(level_us + (now_ms - at_ms) * 1_000)
    }
}

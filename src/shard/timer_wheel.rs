//! The timer wheel of a shard: coarse timers at constant cost (Varghese and Lauck, 1987).

use crate::base::ConnectionId;
use crate::base::limits::WHEEL_TICK_MS;

/// Buckets of the wheel, a multiple of 64. With ticks of 100 ms one turn takes 51 s, longer than
/// most timeouts; a timer that is due later stays in its bucket for another turn.
const BUCKETS: usize = 512;

/// A timer of a connection, and when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timer {
    pub(super) id: ConnectionId,
    pub(super) due_ms: u64,
}

/// Timers by the tick at which they are due. Timers are never cancelled: the owner ignores a timer
/// that it no longer needs when it expires.
#[derive(Debug)]
pub(super) struct TimerWheel {
    buckets: Box<[Vec<Timer>]>,
    occupied: [u64; BUCKETS / 64],
    /// The last tick whose timers have expired.
    tick: u64,
}

impl TimerWheel {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Vec::new()).collect(),
            occupied: [0; BUCKETS / 64],
            tick: now_ms / WHEEL_TICK_MS,
        }
    }

    /// Sets a timer; it expires at most one tick late and never early.
    pub(super) fn set(&mut self, id: ConnectionId, due_ms: u64) {
        let tick = due_ms.div_ceil(WHEEL_TICK_MS).max(self.tick + 1);
        let bucket = Self::bucket(tick);
        self.buckets[bucket].push(Timer { id, due_ms });
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
    }

    /// Removes all timers that are due at `now_ms` and appends them to `due`.
    pub(super) fn expire(&mut self, now_ms: u64, due: &mut Vec<Timer>) {
        let now_tick = now_ms / WHEEL_TICK_MS;
        // After a long sleep every bucket is checked once, not once per tick slept.
        let turns = (now_tick.saturating_sub(self.tick)).min(BUCKETS as u64);
        for tick in self.tick + 1..=self.tick + turns {
            let bucket = Self::bucket(tick);
            let timers = &mut self.buckets[bucket];
            due.extend(timers.extract_if(.., |timer| timer.due_ms <= now_ms));
            if timers.is_empty() {
                // Releases the memory of a burst of timers, which would otherwise stay in every
                // bucket that it passes.
                timers.shrink_to(64);
                self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            }
        }
        self.tick = self.tick.max(now_tick);
    }

    /// When to call `expire` next, monotonic milliseconds; `None` while no timer is set.
    pub(super) fn next_ms(&self) -> Option<u64> {
        let first = Self::bucket(self.tick + 1);
        // Searches the rest of the first word, the other words, and then the beginning of the first
        // word.
        let words = self.occupied.len();
        let found = (0..=words).find_map(|turn| {
            let index = (first / 64 + turn) % words;
            let behind = u64::MAX << (first % 64);
            let mask = match turn {
                0 => behind,
                turn if turn == words => !behind,
                _ => u64::MAX,
            };
            let word = self.occupied[index] & mask;
            (word != 0).then(|| index * 64 + word.trailing_zeros() as usize)
        })?;
        let ahead = (found + BUCKETS - first) % BUCKETS;
        Some((self.tick + 1 + ahead as u64) * WHEEL_TICK_MS)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a remainder of the bucket count is an index"
    )]
    fn bucket(tick: u64) -> usize {
        (tick % BUCKETS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(wheel: &mut TimerWheel, now_ms: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.expire(now_ms, &mut due);
        due.iter().map(|timer| timer.id.slot()).collect()
    }

    #[test]
    fn alarms_ring_at_their_tick_and_not_before() {
        let mut wheel = TimerWheel::new(1_000);
        wheel.set(ConnectionId::new(1, 0), 1_250);
        wheel.set(ConnectionId::new(2, 0), 1_050);
        assert_eq!(wheel.next_ms(), Some(1_100));
        assert!(rung(&mut wheel, 1_099).is_empty());
        assert_eq!(rung(&mut wheel, 1_100), [2]);
        assert!(rung(&mut wheel, 1_299).is_empty());
        assert_eq!(rung(&mut wheel, 1_300), [1]);
        assert_eq!(wheel.next_ms(), None);
    }

    #[test]
    fn alarms_beyond_one_turn_wait_for_theirs() {
        let turn_ms = BUCKETS as u64 * WHEEL_TICK_MS;
        let mut wheel = TimerWheel::new(0);
        wheel.set(ConnectionId::new(1, 0), 2 * turn_ms + 500);
        assert!(rung(&mut wheel, 500).is_empty());
        assert!(rung(&mut wheel, turn_ms + 600).is_empty());
        assert!(rung(&mut wheel, 2 * turn_ms + 400).is_empty());
        assert_eq!(rung(&mut wheel, 2 * turn_ms + 500), [1]);
    }

    #[test]
    fn a_long_sleep_rings_everything_that_is_due_once() {
        let mut wheel = TimerWheel::new(0);
        for slot in 0..1_000 {
            wheel.set(ConnectionId::new(slot, 0), u64::from(slot) * 97);
        }
        assert_eq!(rung(&mut wheel, 1_000_000).len(), 1_000);
        assert!(rung(&mut wheel, 2_000_000).is_empty());
    }
}

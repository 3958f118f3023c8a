//! Whether the shards get on: when each one began what it is doing.

use std::sync::atomic::{AtomicU64, Ordering};

/// A shard whose turn takes longer is *stalled*, milliseconds: a handler that blocks, or a core that
/// is taken away. Nobody waits for it then. Larger than any turn of a healthy shard.
pub const STALL_MS: u64 = 250;

/// For how long a shard must be seen to be stalled before the others do without it, milliseconds.
pub const CONFIRM_MS: u64 = 50;

/// One heartbeat, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Heartbeat {
    /// Since when the shard is busy with one turn, monotonic milliseconds plus one; 0 = it sleeps.
    busy_since: AtomicU64,
    /// When somebody first found it stalled in this turn, monotonic milliseconds plus one; 0 = nobody.
    found_at: AtomicU64,
}

/// The heartbeats of all shards.
///
/// All accesses are relaxed: a time that is seen late makes a judgement late, no more.
#[derive(Debug, Default)]
pub struct Heartbeats(Box<[Heartbeat]>);

impl Heartbeats {
    /// The heartbeats of this many shards, all asleep.
    #[must_use]
    pub fn new(shard_count: usize) -> Self {
        Self((0..shard_count).map(|_| Heartbeat::default()).collect())
    }

    /// How many shards there are.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.0.len()
    }

    /// A shard begins a turn.
    pub fn begin_turn(&self, shard: u16, now_ms: u64) {
        if let Some(heartbeat) = self.0.get(usize::from(shard)) {
            heartbeat.busy_since.store(now_ms + 1, Ordering::Relaxed);
            heartbeat.found_at.store(0, Ordering::Relaxed);
        }
    }

    /// A shard goes to sleep.
    pub fn sleep(&self, shard: u16) {
        if let Some(heartbeat) = self.0.get(usize::from(shard)) {
            heartbeat.busy_since.store(0, Ordering::Relaxed);
        }
    }

    /// A shard is woken: it has to begin a turn soon.
    pub fn wake(&self, shard: u16, now_ms: u64) {
        if let Some(heartbeat) = self.0.get(usize::from(shard)) {
            let busy_since = &heartbeat.busy_since;
            let _ =
                busy_since.compare_exchange(0, now_ms + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// For how long a shard has been busy with one turn, milliseconds, if it is stalled.
    #[must_use]
    pub fn stalled_ms(&self, shard: u16, now_ms: u64) -> Option<u64> {
        let heartbeat = self.0.get(usize::from(shard))?;
        let busy_since = heartbeat.busy_since.load(Ordering::Relaxed);
        let busy_ms = (now_ms + 1).saturating_sub(busy_since);
        (busy_since != 0 && busy_ms >= STALL_MS).then_some(busy_ms)
    }

    /// Whether a stalled shard was so for [`CONFIRM_MS`] while others got on. Right after a pause of
    /// the whole process, as by SIGSTOP or of its machine, all shards look stalled to the first.
    #[must_use]
    pub fn is_confirmed(&self, shard: u16, now_ms: u64) -> bool {
        let Some(heartbeat) = self.0.get(usize::from(shard)) else {
            return false;
        };
        let found_at = &heartbeat.found_at;
        let first = found_at.compare_exchange(0, now_ms + 1, Ordering::Relaxed, Ordering::Relaxed);
        first.is_err_and(|first_ms| now_ms + 1 >= first_ms + CONFIRM_MS)
    }

    /// The stalled shards.
    pub fn stalled(&self, now_ms: u64) -> impl Iterator<Item = u16> {
        let shards = 0..u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        shards.filter(move |shard| self.stalled_ms(*shard, now_ms).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_stalls_in_a_turn_and_after_a_wake_up_but_not_asleep() {
        let heartbeats = Heartbeats::new(2);
        assert_eq!(heartbeats.stalled(1_000_000).count(), 0);
        heartbeats.begin_turn(1, 0);
        assert_eq!(heartbeats.stalled_ms(1, STALL_MS - 1), None);
        assert_eq!(heartbeats.stalled_ms(1, STALL_MS), Some(STALL_MS));
        assert_eq!(heartbeats.stalled(STALL_MS).collect::<Vec<_>>(), [1]);
        heartbeats.wake(1, STALL_MS);
        assert_eq!(heartbeats.stalled(STALL_MS).count(), 1, "it is awake");
        heartbeats.sleep(1);
        assert_eq!(heartbeats.stalled(STALL_MS * 9).count(), 0);
        assert!(!heartbeats.is_confirmed(1, 7), "seen for the first time");
        assert!(!heartbeats.is_confirmed(1, 6 + CONFIRM_MS));
        assert!(heartbeats.is_confirmed(1, 7 + CONFIRM_MS));
        heartbeats.begin_turn(1, 0);
        assert!(!heartbeats.is_confirmed(1, 7 + CONFIRM_MS), "another turn");
        heartbeats.sleep(1);
        heartbeats.wake(1, 5);
        assert_eq!(heartbeats.stalled(STALL_MS + 4).count(), 0);
        assert_eq!(heartbeats.stalled(STALL_MS + 5).collect::<Vec<_>>(), [1]);
    }
}

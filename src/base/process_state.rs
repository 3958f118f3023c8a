//! What the shards of a process share beside the ring.

use super::heartbeat::Heartbeats;
use super::id::DialectId;
use super::interest::Interests;
use super::memory::MemoryBudget;
use super::retained::RetainedValues;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all shards share: counts of sessions, and three tables.
///
/// All accesses to the counts are relaxed: the values are independent, and no other data is
/// published through them.
#[derive(Debug, Default)]
pub struct ProcessState {
    sessions: [AtomicU64; DialectId::COUNT],
    sessions_opened: AtomicU64,
    /// Which shards have subscribers of a channel.
    pub interests: Interests,
    /// The retained values.
    pub retained: RetainedValues,
    /// Whether the shards get on.
    pub heartbeats: Heartbeats,
    /// The memory of what waits.
    pub memory: MemoryBudget,
}

impl ProcessState {
    /// The state of a process with this many shards, in which so many bytes may wait.
    #[must_use]
    pub fn new(shard_count: usize, waiting_bytes_max: u64) -> Self {
        Self {
            heartbeats: Heartbeats::new(shard_count),
            memory: MemoryBudget::new(waiting_bytes_max),
            ..Self::default()
        }
    }

    /// Counts a session of `dialect`, unless `dialect_max` or `total_max` is reached; 0 means no
    /// limit.
    pub fn add_session(&self, dialect: DialectId, dialect_max: u64, total_max: u64) -> bool {
        let count = self.sessions[dialect.index()].fetch_add(1, Ordering::Relaxed) + 1;
        let over_dialect = dialect_max != 0 && count > dialect_max;
        let over_total = total_max != 0 && self.sessions_total() > total_max;
        if over_dialect || over_total {
            self.remove_session(dialect);
            return false;
        }
        self.sessions_opened.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Removes a session of `dialect` from the count.
    pub fn remove_session(&self, dialect: DialectId) {
        self.sessions[dialect.index()].fetch_sub(1, Ordering::Relaxed);
    }

    /// Sessions of one dialect.
    #[must_use]
    pub fn sessions(&self, dialect: DialectId) -> u64 {
        self.sessions[dialect.index()].load(Ordering::Relaxed)
    }

    /// Sessions of all dialects.
    #[must_use]
    pub fn sessions_total(&self) -> u64 {
        let counts = self.sessions.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Sessions opened since the start.
    #[must_use]
    pub fn sessions_opened(&self) -> u64 {
        self.sessions_opened.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_dialect_refuses_without_taking_a_place() {
        let process_state = ProcessState::default();
        assert!(process_state.add_session(DialectId::Gateway, 1, 0));
        assert!(!process_state.add_session(DialectId::Gateway, 1, 0));
        assert!(process_state.add_session(DialectId::Monitoring, 1, 2));
        assert!(!process_state.add_session(DialectId::Monitoring, 0, 2));
        assert_eq!(process_state.sessions_total(), 2);
        process_state.remove_session(DialectId::Gateway);
        assert!(process_state.add_session(DialectId::Gateway, 1, 2));
        assert_eq!(process_state.sessions_opened(), 3);
    }
}

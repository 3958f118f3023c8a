//! What the shards of a process share beside the ring.

use super::backend_counters::BackendCounters;
use super::heartbeat::Heartbeats;
use super::history::History;
use super::id::DialectId;
use super::ingest_counters::IngestCounters;
use super::interest::Interests;
use super::memory::MemoryBudget;
use super::node_link::NodeLink;
use super::offline::OfflineUsers;
use super::persistent::PersistentSubscriptions;
use super::presence::PresenceTable;
use super::publish_times::PublishTimes;
use super::retained::RetainedValues;
use super::state_changes::StateChanges;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all shards share: counts of sessions, and tables.
///
/// All accesses to the counts are relaxed: the values are independent, and no other data is
/// published through them.
#[derive(Debug, Default)]
pub struct ProcessState {
    sessions: [AtomicU64; DialectId::COUNT],
    /// Those that count against the limits.
    admitted: [AtomicU64; DialectId::COUNT],
    sessions_opened: AtomicU64,
    /// Sessions with a tenant, of dialects that isolate tenants.
    isolated: [AtomicU64; DialectId::COUNT],
    /// Which shards have subscribers of a channel.
    pub interests: Interests,
    /// The retained values.
    pub retained: RetainedValues,
    /// What was published on channels with a history.
    pub history: History,
    /// Where users without a session stopped.
    pub offline: OfflineUsers,
    /// To which channels users want to be subscribed again.
    pub persistent: PersistentSubscriptions,
    /// Who is on which channel.
    pub presence: PresenceTable,
    /// Whether the shards get on.
    pub heartbeats: Heartbeats,
    /// The memory of what waits.
    pub memory: MemoryBudget,
    /// What a webhook is told, if there is one.
    pub changes: Option<StateChanges>,
    /// Requests to backends of the operator.
    pub backends: BackendCounters,
    /// Programs that publish through shared memory.
    pub ingest: IngestCounters,
    /// The way to the other nodes, if there are some.
    pub link: Option<NodeLink>,
    /// When some publications were made.
    pub publish_times: PublishTimes,
    /// When the first certificate of TLS expires, seconds since 1970-01-01 UTC; 0 = there is none.
    pub certificate_expiry: AtomicU64,
}

impl ProcessState {
    /// Whether it is known after the end of the process where users stopped: in a store, or on other nodes.
    #[must_use]
    pub fn is_offline_kept(&self) -> bool {
        self.offline.is_recorded() || self.link.is_some()
    }

    /// The state of a process with this many shards, in which so many bytes may wait.
    #[must_use]
    pub fn new(shard_count: usize, waiting_bytes_max: u64) -> Self {
        Self {
            heartbeats: Heartbeats::new(shard_count),
            memory: MemoryBudget::new(waiting_bytes_max),
            publish_times: PublishTimes::new(shard_count),
            history: History::new(shard_count, Vec::new(), 0, 0),
            ..Self::default()
        }
    }

    /// The same with a history and the users without a session whose place in it is known; the tags of
    /// channels are of the key of these users.
    #[must_use]
    pub fn with_history(mut self, history: History, offline: OfflineUsers) -> Self {
        self.interests = Interests::with_key(offline.name_key());
        self.history = history;
        self.offline = offline;
        self
    }

    /// The same with retained values, which were loaded on this thread.
    #[must_use]
    pub fn with_retained(mut self, retained: RetainedValues) -> Self {
        self.retained = retained;
        // They were counted on this thread.
        self.memory.update();
        self
    }

    /// The same with persistent subscriptions.
    #[must_use]
    pub fn with_persistent(mut self, persistent: PersistentSubscriptions) -> Self {
        self.persistent = persistent;
        self
    }

    /// The same with a table of who is on which channel.
    #[must_use]
    pub fn with_presence(mut self, presence: PresenceTable) -> Self {
        self.presence = presence;
        self
    }

    /// The same, as one of several nodes.
    #[must_use]
    pub fn with_link(mut self, link: Option<NodeLink>) -> Self {
        if link.is_some() {
            self.history = std::mem::take(&mut self.history).shared();
            self.presence = std::mem::take(&mut self.presence).shared();
        }
        self.link = link;
        self
    }

    /// The number of this node in the ids of its sessions; 0 = there is only one.
    #[must_use]
    pub fn node(&self) -> u32 {
        self.link.as_ref().map_or(0, NodeLink::node_in_ids)
    }

    /// The same with a table of what a webhook is told.
    #[must_use]
    pub fn with_changes(mut self, changes: Option<StateChanges>) -> Self {
        self.changes = changes;
        self
    }

    /// Counts a session of `dialect`.
    pub fn add_session(&self, dialect: DialectId) {
        self.sessions[dialect.index()].fetch_add(1, Ordering::Relaxed);
        self.sessions_opened.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes a session of `dialect` from the count.
    pub fn remove_session(&self, dialect: DialectId) {
        self.sessions[dialect.index()].fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a session of `dialect` against the limits; false if `dialect_max` or `total_max` is
    /// reached. 0 means no limit.
    pub fn admit(&self, dialect: DialectId, dialect_max: u64, total_max: u64) -> bool {
        let count = self.admitted[dialect.index()].fetch_add(1, Ordering::Relaxed) + 1;
        let over_dialect = dialect_max != 0 && count > dialect_max;
        let over_total = total_max != 0 && sum(&self.admitted) > total_max;
        if over_dialect || over_total {
            self.release_admitted(dialect);
            return false;
        }
        true
    }

    /// Whether `admit` would be true now.
    #[must_use]
    pub fn has_room(&self, dialect: DialectId, dialect_max: u64, total_max: u64) -> bool {
        let count = self.admitted[dialect.index()].load(Ordering::Relaxed);
        (dialect_max == 0 || count < dialect_max)
            && (total_max == 0 || sum(&self.admitted) < total_max)
    }

    /// A session that was admitted no longer counts against the limits.
    pub fn release_admitted(&self, dialect: DialectId) {
        self.admitted[dialect.index()].fetch_sub(1, Ordering::Relaxed);
    }

    /// Sessions of one dialect.
    #[must_use]
    pub fn sessions(&self, dialect: DialectId) -> u64 {
        self.sessions[dialect.index()].load(Ordering::Relaxed)
    }

    /// Sessions of all dialects.
    #[must_use]
    pub fn sessions_total(&self) -> u64 {
        sum(&self.sessions)
    }

    /// Counts a session that has a tenant, and channels of its own with it.
    pub fn add_isolated(&self, dialect: DialectId) {
        self.isolated[dialect.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Removes such a session from the count.
    pub fn remove_isolated(&self, dialect: DialectId) {
        self.isolated[dialect.index()].fetch_sub(1, Ordering::Relaxed);
    }

    /// Sessions that share the channels of those without a tenant, of all dialects.
    #[must_use]
    pub fn sessions_without_tenant(&self) -> u64 {
        let count = |dialect: &DialectId| self.sessions_of_no_tenant(*dialect);
        DialectId::ALL.iter().map(count).sum()
    }

    /// The same of one dialect.
    #[must_use]
    pub fn sessions_of_no_tenant(&self, dialect: DialectId) -> u64 {
        let isolated = self.isolated[dialect.index()].load(Ordering::Relaxed);
        self.sessions(dialect).saturating_sub(isolated)
    }

    /// Sessions opened since the start.
    #[must_use]
    pub fn sessions_opened(&self) -> u64 {
        self.sessions_opened.load(Ordering::Relaxed)
    }
}

fn sum(counts: &[AtomicU64]) -> u64 {
    let counts = counts.iter();
    counts.map(|count| count.load(Ordering::Relaxed)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_dialect_rejects_without_taking_a_place() {
        let process_state = ProcessState::default();
        assert!(process_state.admit(DialectId::Gateway, 1, 0));
        assert!(!process_state.has_room(DialectId::Gateway, 1, 0));
        assert!(!process_state.admit(DialectId::Gateway, 1, 0));
        assert!(process_state.admit(DialectId::Monitoring, 1, 2));
        assert!(!process_state.has_room(DialectId::Monitoring, 0, 2));
        assert!(!process_state.admit(DialectId::Monitoring, 0, 2));
        process_state.release_admitted(DialectId::Gateway);
        assert!(process_state.has_room(DialectId::Gateway, 1, 2));
        assert!(process_state.admit(DialectId::Gateway, 1, 2));
    }

    #[test]
    fn sessions_that_are_not_admitted_are_counted_but_take_no_place() {
        let process_state = ProcessState::default();
        process_state.add_session(DialectId::Gateway);
        process_state.add_session(DialectId::Gateway);
        assert!(process_state.admit(DialectId::Gateway, 1, 1));
        process_state.remove_session(DialectId::Gateway);
        assert_eq!(process_state.sessions_total(), 1);
        assert_eq!(process_state.sessions_opened(), 2);
    }
}

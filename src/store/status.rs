//! What others may know about a store while it runs.

use crate::base::Now;
use crate::base::limits::STORE_ANSWER_MS;
use crate::base::now::Clock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether the store writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// Records are written.
    Running,
    /// The last write failed, the disk has not answered for some seconds, or the thread of the store
    /// ended. Records wait until the queue is
    /// full, and are written when a later attempt succeeds.
    Failed {
        /// The operation, the file and the answer of the operating system.
        error: String,
    },
    /// It was closed.
    Closed,
}

/// Counts since the store was opened, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Records handed to the thread of the store.
    pub records_queued_total: u64,
    /// Records written, including those that are not synced yet and the mark at the end.
    pub records_written_total: u64,
    /// Bytes written, with frames and padding.
    pub bytes_written_total: u64,
    /// Writes; each has a batch of records.
    pub writes_total: u64,
    /// Calls of fdatasync that succeeded.
    pub syncs_total: u64,
    /// Writes and syncs that failed.
    pub errors_total: u64,
    /// Records rejected because the queue was full.
    pub rejected_queue_full_total: u64,
    /// Records that were queued and then lost: a sync failed after they were written, or the store
    /// was closed or ended before they could be.
    pub records_lost_total: u64,
    /// Segments deleted for their age or the size of the store.
    pub segments_deleted_total: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Bytes that wait for the thread of the store.
    pub queue_bytes: u64,
    /// Sequence number of the first record of the oldest segment; 0 = none.
    pub oldest_sequence: u64,
    /// Sequence number of the last record written; 0 = none.
    pub last_sequence: u64,
    /// Whether the segment that is written bypasses the page cache (`O_DIRECT`); not every file
    /// system allows it.
    pub is_direct: bool,
}

/// Shows the state and the counts of a store.
#[derive(Clone, Debug)]
pub struct StoreMonitor(Arc<Status>);

impl StoreMonitor {
    pub(super) fn new(status: Arc<Status>) -> Self {
        Self(status)
    }

    /// Whether records are written now.
    #[must_use]
    pub fn state(&self) -> StoreState {
        self.0.state()
    }

    /// What the store holds and has done.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.0.stats()
    }
}

/// Later than any time.
const IDLE: u64 = u64::MAX;

/// Shared by the thread of the store, the appenders and the handle.
#[derive(Debug)]
pub(super) struct Status {
    state: Mutex<StoreState>,
    clock: Clock,
    /// Since when the thread of the store has not looked at its queue, monotonic milliseconds;
    /// [`IDLE`] while it does.
    busy_since_ms: AtomicU64,
    /// Set by the handle, once.
    pub(super) is_closing: AtomicBool,
    /// Whether something is missing at the end, whatever the thread of the store knows.
    pub(super) is_unfinished: AtomicBool,
    /// Whether the state is `Failed`, to be read without the lock.
    pub(super) is_failing: AtomicBool,
    /// Bytes of the chunks between the appenders and the batch.
    pub(super) queue_bytes: AtomicUsize,
    pub(super) records_queued: AtomicU64,
    pub(super) rejected_queue_full: AtomicU64,
    pub(super) records_written: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) records_lost: AtomicU64,
    pub(super) segments_deleted: AtomicU64,
    pub(super) segments: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) oldest_sequence: AtomicU64,
    pub(super) last_sequence: AtomicU64,
    pub(super) is_direct: AtomicBool,
}

impl Status {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            state: Mutex::new(StoreState::Running),
            clock,
            busy_since_ms: AtomicU64::new(IDLE),
            is_closing: AtomicBool::default(),
            is_unfinished: AtomicBool::default(),
            is_failing: AtomicBool::default(),
            queue_bytes: AtomicUsize::default(),
            records_queued: AtomicU64::default(),
            rejected_queue_full: AtomicU64::default(),
            records_written: AtomicU64::default(),
            bytes_written: AtomicU64::default(),
            writes: AtomicU64::default(),
            syncs: AtomicU64::default(),
            errors: AtomicU64::default(),
            records_lost: AtomicU64::default(),
            segments_deleted: AtomicU64::default(),
            segments: AtomicU64::default(),
            bytes: AtomicU64::default(),
            oldest_sequence: AtomicU64::default(),
            last_sequence: AtomicU64::default(),
            is_direct: AtomicBool::default(),
        }
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    // Relaxed: readers need only the value itself.
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// Sets a gauge.
pub(super) fn set(gauge: &AtomicU64, value: u64) {
    // Relaxed: readers need only the value itself.
    gauge.store(value, Ordering::Relaxed);
}

impl Status {
    fn lock(&self) -> MutexGuard<'_, StoreState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> StoreState {
        let state = self.lock().clone();
        // Relaxed: only the value itself counts.
        let since_ms = self.busy_since_ms.load(Ordering::Relaxed);
        let busy_ms = self.clock.now().monotonic_ms.saturating_sub(since_ms);
        if state != StoreState::Running || busy_ms < STORE_ANSWER_MS {
            return state;
        }
        let error = format!("the disk has not answered for {} s", busy_ms / 1_000);
        StoreState::Failed { error }
    }

    /// The thread of the store begins something for which it may wait for the disk.
    pub(super) fn note_busy(&self, now: Now) {
        self.busy_since_ms
            .store(now.monotonic_ms, Ordering::Relaxed);
    }

    /// It waits for records.
    pub(super) fn note_idle(&self) {
        self.busy_since_ms.store(IDLE, Ordering::Relaxed);
    }

    pub(super) fn set_state(&self, state: StoreState) {
        let is_failing = matches!(state, StoreState::Failed { .. });
        // Relaxed: it is looked at again and again.
        self.is_failing.store(is_failing, Ordering::Relaxed);
        *self.lock() = state;
    }

    pub(super) fn is_closing(&self) -> bool {
        // Relaxed: what the flag announces comes through the queue.
        self.is_closing.load(Ordering::Relaxed)
    }

    pub(super) fn stats(&self) -> StoreStats {
        // Relaxed, here and below: each value is read for itself.
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            records_queued_total: value(&self.records_queued),
            records_written_total: value(&self.records_written),
            bytes_written_total: value(&self.bytes_written),
            writes_total: value(&self.writes),
            syncs_total: value(&self.syncs),
            errors_total: value(&self.errors),
            rejected_queue_full_total: value(&self.rejected_queue_full),
            records_lost_total: value(&self.records_lost),
            segments_deleted_total: value(&self.segments_deleted),
            segments: value(&self.segments),
            bytes: value(&self.bytes),
            queue_bytes: self.queue_bytes.load(Ordering::Relaxed) as u64,
            oldest_sequence: value(&self.oldest_sequence),
            last_sequence: value(&self.last_sequence),
            is_direct: self.is_direct.load(Ordering::Relaxed),
        }
    }
}

/// Says so when a thread of the store ends without having been closed, as after a panic.
#[derive(Debug)]
pub(super) struct Watch(pub(super) Arc<Status>);

impl Drop for Watch {
    fn drop(&mut self) {
        let error = "the thread of the store ended unexpectedly".to_owned();
        let failed = StoreState::Failed { error };
        let state = self.0.lock().clone();
        if state != StoreState::Closed && state != failed {
            tracing::error!("the thread of the store ended unexpectedly");
            self.0.set_state(failed);
        }
    }
}

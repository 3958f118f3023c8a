//! The memory of what waits: one budget in bytes for the process.
//!
//! What can pile up at a client's wish holds a [`Waiting`]: finished frames in send queues, input that
//! waits, unfinished messages, bodies of HTTP requests, publications that wait for room in the ring,
//! retained values, filters. Each thread has a sum of its own, without
//! atomics, and adds the change to the sum of the process once per turn of its event loop.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};

thread_local! {
    /// What waits on this thread, bytes, and how much of it the budget knows.
    static WAITING: Cell<i64> = const { Cell::new(0) };
    static KNOWN: Cell<i64> = const { Cell::new(0) };
}

/// A change that is smaller, in bytes, is not worth an access to memory that all shards share.
const UPDATE_BYTES_MIN: u64 = 64 * 1024;

/// A number of bytes that wait, as long as this exists. It may be dropped on another thread: then the
/// sum of that thread sinks, and the sum of the process is right all the same.
#[derive(Debug, Default)]
pub struct Waiting(i64);

impl Waiting {
    /// Counts bytes.
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        let mut waiting = Self::default();
        waiting.set(bytes);
        waiting
    }

    /// Counts another number of bytes instead.
    pub fn set(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        WAITING.set(WAITING.get() + bytes - self.0);
        self.0 = bytes;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.set(WAITING.get() - self.0);
    }
}

/// Bytes that wait on this thread.
#[must_use]
pub fn waiting_bytes() -> u64 {
    u64::try_from(WAITING.get()).unwrap_or(0)
}

/// The budget of a process.
///
/// All accesses are relaxed: the sum is known up to 64 KiB per shard and one turn late.
#[derive(Debug)]
pub struct MemoryBudget {
    bytes_max: i64,
    bytes: AtomicI64,
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

impl MemoryBudget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max: i64::try_from(bytes_max).unwrap_or(i64::MAX),
            bytes: AtomicI64::new(0),
        }
    }

    /// Whether the process is over the budget.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.bytes_max
    }

    /// Adds what has changed on this thread since its last call; true when the process is over the
    /// budget.
    pub fn update(&self) -> bool {
        let waiting = WAITING.get();
        let change = waiting - KNOWN.get();
        if change.unsigned_abs() >= UPDATE_BYTES_MIN {
            KNOWN.set(waiting);
            self.bytes.fetch_add(change, Ordering::Relaxed);
        }
        self.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_counted_as_long_as_it_exists() {
        let before = waiting_bytes();
        let mut first = Waiting::of(1_000);
        let second = Waiting::of(500);
        assert_eq!(waiting_bytes() - before, 1_500);
        first.set(10);
        drop(second);
        assert_eq!(waiting_bytes() - before, 10);
        drop(first);
        assert_eq!(waiting_bytes(), before);
    }

    #[test]
    fn all_threads_share_the_budget() {
        let budget = MemoryBudget::new(300_000);
        let here = Waiting::of(200_000);
        assert!(!budget.update());
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                let waiting = Waiting::of(150_000);
                let is_over = budget.update();
                drop(waiting);
                (is_over, budget.update())
            });
            assert_eq!(there.join().unwrap(), (true, false));
        });
        drop(here);
        assert!(!budget.update());
    }
}

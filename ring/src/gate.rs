//! How far writers may go: the cached limit, the slots, and how a reader joins while writers write.
//!
//! The invariant, at every moment of the modification order of the gate:
//!
//! > every record before `limit - capacity` is committed, and every joined reader's position is at
//! > or after `limit - capacity`.
//!
//! *Raising keeps it.* A writer loads the gate, then scans the slots, then swaps in a limit of
//! `slowest + capacity`. Positions in slots only grow, and a slot moves only over committed
//! records, so `slowest` is a lower bound for every reader the scan saw, and every record before it
//! is committed. A reader that the scan did not see has joined after the gate was loaded; its join
//! changed the gate, so the swap fails.
//!
//! *Joining keeps it.* The reader stores `limit - capacity` in its slot and then counts itself into
//! the gate that it took this limit from. If that swap succeeds, no limit was raised in between; a
//! later raise begins with a load of the gate that reads this swap or a later one (all are
//! read-modify-writes, so the release sequence goes on) and therefore sees the slot. If it fails,
//! the reader takes the newer limit and tries again: until then its slot holds an older position,
//! which can only make writers wait.
//!
//! *Leaving keeps it*: the condition on that reader falls away.
//!
//! *A ring without readers* has no slot to take a limit from, yet a slow writer may hold a grant in
//! an old lap. So a writer that finds no reader becomes one, in the sweeper's slot, walks over what
//! is committed, raises the limit to there and leaves.
//!
//! *Happens-before.* Commit (release stamp) to the reader that walked over it (acquire stamp), to
//! its slot (release), to the scan (acquire), to the gate (release), to the claim or join (acquire):
//! whoever acts on a limit is ordered after every access to the records before `limit - capacity`.

use crate::layout::{Gate, SLOT_FREE};
use crate::region::Region;
use crate::sync::Ordering;

/// Tail and gate as they were together: `tail <= limit`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot {
    pub(crate) tail: u64,
    pub(crate) limit: u64,
    gate: Gate,
}

impl Region {
    pub(crate) fn snapshot(&self) -> Snapshot {
        loop {
            // Acquire: pairs with the release of the claim that made this tail. That claim had
            // read a limit at or above it, so the gate loaded next is at or above it too.
            let tail = self.tail().load(Ordering::Acquire);
            // Acquire: pairs with the release swaps of `raise` and `join`.
            let gate = Gate(self.gate().load(Ordering::Acquire));
            // Relaxed: the acquire of the gate orders it. The gate's limit is at most a capacity
            // above this tail: the reader whose position it came from had passed only what was
            // claimed.
            let tail_after = self.tail().load(Ordering::Relaxed);
            // So tail <= limit <= tail_after + capacity, and the cut limit can be restored, unless
            // this thread slept for 32 GiB between the loads.
            if tail_after - tail <= Gate::WINDOW_BYTES / 2 {
                return Snapshot {
                    tail,
                    limit: gate.limit(tail),
                    gate,
                };
            }
        }
    }

    /// The slowest of all slots in use, the sweeper's included; nothing if none is.
    ///
    /// For a raise, call it after the snapshot.
    pub(crate) fn slowest(&self) -> Option<u64> {
        // Acquire: pairs with the release stores of `Reader::publish` and `Reader::drop` (the
        // reader's last look at a record comes before the writer's first touch) and with the
        // release swap in `join`.
        let slowest = (0..=self.geometry().readers_max())
            .map(|index| self.slot(index).load(Ordering::Acquire))
            .min();
        slowest.filter(|position| *position != SLOT_FREE)
    }

    /// Raises the limit of `snapshot`, unless a reader joined or another writer raised it since.
    pub(crate) fn raise(&self, snapshot: &Snapshot, limit: u64) -> bool {
        debug_assert!(snapshot.limit < limit, "a limit never falls");
        let raised = snapshot.gate.raised(limit);
        // Release: pairs with the acquire loads of the gate in claims and snapshots, and hands on
        // what the scan acquired. No acquire: a gate's value never comes back, so what is read here
        // is the store that the snapshot acquired. On failure the caller takes a new snapshot.
        self.gate()
            .compare_exchange(
                snapshot.gate.0,
                raised.0,
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Takes slot `index` and returns the position at which it gates; nothing if it is taken.
    pub(crate) fn join(&self, index: u32) -> Option<u64> {
        let capacity = self.geometry().capacity();
        let mut snapshot = self.snapshot();
        // Acquire: pairs with the release store by which the slot's last reader left, so that a
        // scan which sees what this reader publishes is ordered after that reader too. Release: the
        // same for a scan that sees this position.
        self.slot(index)
            .compare_exchange(
                SLOT_FREE,
                snapshot.limit - capacity,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .ok()?;
        loop {
            let joined = snapshot.gate.joined();
            // Release: pairs with the acquire load of the gate before every later scan, which
            // therefore sees the slot. No acquire, as in `raise`: the snapshot had it.
            let swapped = self.gate().compare_exchange(
                snapshot.gate.0,
                joined.0,
                Ordering::Release,
                Ordering::Relaxed,
            );
            if swapped.is_ok() {
                return Some(snapshot.limit - capacity);
            }
            snapshot = self.snapshot();
            // Release: pairs with the scan's acquire load, as the swap above.
            self.slot(index)
                .store(snapshot.limit - capacity, Ordering::Release);
        }
    }
}

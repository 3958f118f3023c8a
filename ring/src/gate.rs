//! How far writers may go: the cached limit, the slots, and how readers come into the gate and are
//! put out of it while writers write.
//!
//! This is about rings that only this crate writes. Where a peer stores what it likes, positions and
//! limits may be any numbers: then records are torn or lost, but nothing is touched outside of the
//! region, and every loop ends (`region.rs`).
//!
//! The invariant, at every moment of the modification order of the gate:
//!
//! > every record before `limit - capacity` is committed or retired, and every reader in the gate
//! > has its position at or after `limit - capacity`.
//!
//! *Raising keeps it.* A writer loads the gate, then scans the slots, then swaps in a limit of
//! `slowest + capacity`. Positions in slots only grow, and a slot moves only over committed
//! records and gaps, so `slowest` is a lower bound for every reader the scan saw, and every record before it
//! is committed or retired. A reader that the scan did not see has entered after the gate was loaded; its entry
//! changed the gate, so the swap fails. (The gate's value can come back, with odds that `Gate`
//! states.)
//!
//! *Entering keeps it.* The reader stores its position, not before `limit - capacity`, in its slot
//! and then counts itself into the gate that it took this limit from. If that swap succeeds, no
//! limit was raised in between; a later raise begins with a load of the gate that reads this swap or
//! a later one (all are read-modify-writes, so the release sequence goes on) and therefore sees the
//! slot. If it fails, the reader takes the newer limit and tries again: until then its slot holds an
//! older position, which can only make writers wait.
//!
//! *Leaving keeps it*: the condition on that reader falls away. Anybody may put a reader out of the
//! gate, by a bit in its slot; a reader publishes a position only by a swap of the one it published
//! before, so it never takes the bit away unawares. It finds out at its next look (rule 3 of
//! `record.rs`) and enters again where it stands, or, if the limit has passed it, at the tail.
//!
//! *A ring without readers in the gate* has no slot to take a limit from, yet a slow writer may hold
//! a grant in an old lap. So a writer that finds no reader becomes one, in the sweeper's slot, walks
//! over what is committed, raises the limit to there and leaves.
//!
//! *Peers that die* are taken out of the gate by others, who free their slots (`peers.rs`): the
//! condition on them falls away, too.
//!
//! *Happens-before.* Commit (release stamp) to the reader that walked over it (acquire stamp), to
//! its slot (release), to the scan (acquire), to the gate (release), to the claim or entry (acquire):
//! whoever acts on a limit is ordered after every access of readers in the gate to the records
//! before `limit - capacity`, and after the change of every slot that put a reader out of it.

use crate::anchors::Anchor;
use crate::layout::{Gate, SLOT_UNGATED};
use crate::region::Region;
use crate::sync::{Ordering, fence};
use core::cell::Cell;

/// Tail and gate as they were together: `tail <= limit`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot {
    pub(crate) tail: u64,
    pub(crate) limit: u64,
    gate: Gate,
}

impl Region {
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut rounds = 0;
        loop {
            // Relaxed, all three, and ordered by fences, because observers may have mapped the region
            // for reading only (`observer.rs`).
            let tail = self.tail().load(Ordering::Relaxed);
            // Acquire: pairs with the release of the claim that made this tail. That claim had
            // read a limit at or above it, so the gate loaded next is at or above it too.
            fence(Ordering::Acquire);
            let gate = Gate(self.gate().load(Ordering::Relaxed));
            // Acquire: pairs with the release swaps of `raise` and `enter`.
            fence(Ordering::Acquire);
            // The gate's limit is at most a capacity above this tail: the reader whose position it
            // came from had passed only what was claimed.
            let tail_after = self.tail().load(Ordering::Relaxed);
            // So tail <= limit <= tail_after + capacity, and the cut limit can be restored, unless
            // this thread slept for 32 GiB between the loads.
            let is_valid = tail_after.wrapping_sub(tail) <= Gate::WINDOW_BYTES / 2;
            rounds += 1;
            if is_valid || rounds >= self.rounds_max() {
                if !is_valid {
                    self.damage();
                }
                return Snapshot {
                    tail,
                    limit: gate.limit(tail),
                    gate,
                };
            }
        }
    }

    /// The slowest reader in the gate, sweeper and retirer included; nothing if there is none.
    ///
    /// For a raise, call it after the snapshot.
    pub(crate) fn slowest(&self) -> Option<u64> {
        // Acquire: pairs with the release stores of `Reader::publish` and `Reader::drop` (the
        // reader's last look at a record comes before the writer's first touch), of `enter`, and of
        // `put_out`.
        let slowest = (0..self.geometry().slots())
            .map(|index| self.slot(index).load(Ordering::Acquire))
            .min();
        slowest.filter(|position| *position < SLOT_UNGATED)
    }

    /// Raises the limit of `snapshot`, unless a reader joined or another writer raised it since.
    pub(crate) fn raise(&self, snapshot: &Snapshot, limit: u64) -> bool {
        let raised = snapshot.gate.raised(limit);
        // Release: pairs with the acquire loads of the gate in claims and snapshots, and hands on
        // what the scan acquired. No acquire: what is read here is the store that the snapshot
        // acquired, unless the gate's value has come back, whose odds `Gate` states. On failure
        // the caller takes a new snapshot.
        self.gate()
            .compare_exchange(
                snapshot.gate.0,
                raised.0,
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Takes slot `index` and returns where it gates; nothing if it is taken.
    pub(crate) fn join(&self, index: u32) -> Option<Anchor> {
        if !self.take_slot(index) {
            return None;
        }
        let entered = self.enter_at_newest(index);
        if entered.is_none() {
            self.free_slot(index);
        }
        entered
    }

    /// Brings the owner of slot `index` into the gate at the newest anchor. Nothing, and the slot stays
    /// out of the gate, only if the ring is damaged.
    pub(crate) fn enter_at_newest(&self, index: u32) -> Option<Anchor> {
        let newest = Cell::new(None);
        let entered = self.enter(index, |limit_before| {
            newest.set(self.newest_anchor(limit_before));
            let anchor = newest.get()?;
            // In front of the position: see `anchors.rs`.
            self.note(index, anchor);
            Some(anchor.position)
        });
        if entered.is_none() {
            self.damage();
            return None;
        }
        newest.get()
    }

    /// Brings the owner of slot `index` into the gate at the position that `position_for` names for
    /// a given `limit - capacity`; all records before it must be committed or retired. Nothing, and the slot
    /// stays out of the gate, when it names none.
    pub(crate) fn enter(
        &self,
        index: u32,
        position_for: impl Fn(u64) -> Option<u64>,
    ) -> Option<u64> {
        let capacity = self.geometry().capacity();
        // Each further round means that another reader joined or the limit was raised.
        for _ in 0..self.rounds_max() {
            let snapshot = self.snapshot();
            let position = position_for(snapshot.limit.wrapping_sub(capacity));
            let Some(position) = position.filter(|position| *position < SLOT_UNGATED) else {
                // Release: as in `put_out`.
                self.slot(index).store(SLOT_UNGATED, Ordering::Release);
                return None;
            };
            // Release: pairs with the scan's acquire load.
            self.slot(index).store(position, Ordering::Release);
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
                return Some(position);
            }
        }
        self.damage();
        // Release: as in `put_out`.
        self.slot(index).store(SLOT_UNGATED, Ordering::Release);
        None
    }

    /// Puts the reader of slot `index` out of the gate; false if it is not in it.
    pub(crate) fn put_out(&self, index: u32) -> bool {
        let slot = self.slot(index);
        // Relaxed: the swap below orders what matters.
        let mut position = slot.load(Ordering::Relaxed);
        // Each further round means that the reader has published.
        for _ in 0..self.rounds_max() {
            if position >= SLOT_UNGATED {
                return false;
            }
            // Release: pairs with the scan's acquire load, so that this change happens before every
            // store that a limit without this reader allows. Acquire: what the reader did before it
            // published goes on to the scan.
            match slot.compare_exchange_weak(
                position,
                position | SLOT_UNGATED,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(moved) => position = moved,
            }
        }
        false
    }

    /// Puts every reader out of the gate that is more than `lag_bytes_max` behind the tail.
    pub(crate) fn put_out_laggards(&self, lag_bytes_max: u64) -> u32 {
        // Relaxed: an older tail only makes the lag smaller.
        let tail = self.tail().load(Ordering::Relaxed);
        let readers = 0..self.geometry().readers_max();
        let laggards = readers.filter(|index| {
            // Relaxed: `put_out` loads it again.
            let position = self.slot(*index).load(Ordering::Relaxed);
            position < SLOT_UNGATED
                && tail.saturating_sub(position) > lag_bytes_max
                && self.put_out(*index)
        });
        u32::try_from(laggards.count()).unwrap_or(u32::MAX)
    }
}

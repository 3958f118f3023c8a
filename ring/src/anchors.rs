//! Anchors: positions of which it is known how many records come before them.
//!
//! Writers do not count records: a count would be a second word that all of them change, and it would
//! be wrong as soon as one of them aborts or is retired. Whoever reads walks over every record, so it
//! can count, and once a record is passed its kind never changes: the number of records before a
//! position is the same for everybody. A slot's line has room for the latest position that its
//! reader published, and the number of records before it. Who comes in between begins at such an
//! *anchor* and knows the number of each record from there on, and who loses records knows how many
//! they were from the numbers before and behind.
//!
//! ```text
//!  slot's line   position │ owner │ changes │ position, number │ position, number │ wake
//!                                              changes even       changes odd
//! ```
//!
//! *An anchor is always readable.* Its owner stores the next pair where the one before last was and
//! counts the change after it. Who loads a pair looks at the count again: if it is the same, the pair
//! was not being stored (a release fence comes before the stores of a pair, an acquire fence behind
//! the loads: a load that saw one of the next but one pair's words implies that the count of the pair
//! between is seen). A reader that stops in between, or dies, leaves the pair before it whole.
//!
//! *There is always one that is not overwritten*: the newest anchor is at or behind `limit - capacity`.
//! The limit came from a slot whose position was `limit - capacity`, and each owner of a slot stores
//! the anchor before the position (release, acquire), so who acquires the gate sees that anchor or
//! what came later there; and anchors of a slot never fall, as its next owner begins at the newest of
//! all. The sweeper and the retirer publish anchors like readers do.

use crate::layout::SLOT_UNGATED;
use crate::region::Region;
use crate::sync::{Ordering, fence};

/// A position where a record begins, all before it is committed or retired; and how many records
/// that were not aborted come before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) position: u64,
    pub(crate) number: u64,
}

impl Region {
    /// Stores the anchor of slot `index`, which the caller owns.
    pub(crate) fn note(&self, index: u32, anchor: Anchor) {
        let words = self.slot_anchor(index);
        // Relaxed: only the owner stores it.
        let changes = words[0].load(Ordering::Relaxed).wrapping_add(1);
        let pair = if changes & 1 == 0 { 1 } else { 3 };
        // Release: pairs with the fence in `anchor`.
        fence(Ordering::Release);
        // Relaxed, both: the store of the count orders them.
        words[pair].store(anchor.position, Ordering::Relaxed);
        words[pair + 1].store(anchor.number, Ordering::Relaxed);
        // Release: pairs with the first fence in `anchor`.
        words[0].store(changes, Ordering::Release);
    }

    /// The anchor of slot `index`. By relaxed loads and fences, so that it can be called where the
    /// memory is mapped for reading only.
    fn anchor(&self, index: u32) -> Option<Anchor> {
        let words = self.slot_anchor(index);
        // Each further round means that the owner has published twice, or has stored one and counts
        // another.
        for _ in 0..self.rounds_max() {
            let changes = words[0].load(Ordering::Relaxed);
            // Acquire: pairs with the release store of the count.
            fence(Ordering::Acquire);
            let pair = if changes & 1 == 0 { 1 } else { 3 };
            let anchor = Anchor {
                position: words[pair].load(Ordering::Relaxed),
                number: words[pair + 1].load(Ordering::Relaxed),
            };
            // Acquire: pairs with the release fence in `note`.
            fence(Ordering::Acquire);
            if words[0].load(Ordering::Relaxed) == changes {
                return (anchor.position < SLOT_UNGATED).then_some(anchor);
            }
        }
        None
    }

    /// All anchors.
    pub(crate) fn anchors(&self) -> impl Iterator<Item = Anchor> + '_ {
        (0..self.geometry().slots()).filter_map(|index| self.anchor(index))
    }

    /// The newest anchor; nothing if it is before `floor`, which is damage if `floor` was
    /// `limit - capacity` of a snapshot before the call.
    pub(crate) fn newest_anchor(&self, floor: u64) -> Option<Anchor> {
        let newest = self.anchors().max_by_key(|anchor| anchor.position);
        newest.filter(|anchor| anchor.position >= floor)
    }
}

//! The table of gaps: which bytes of the ring are not claimed, and which positions readers pass
//! without a record.
//!
//! Only the retirer changes the table (`retirer.rs`). Writers and readers decide by a position
//! alone whether a gap begins there: from its start to its `until`, once in each lap. They agree,
//! because nobody whose view is older acts on a position for which it matters:
//!
//! *A gap appears.* Its start is the position of a claim that is retired and that no reader has
//! passed. The retirer enters the table's entry while it is in the gate, not behind this start, so
//! no limit is above `start + capacity`. A writer that claims more has a limit that was raised by a
//! scan after the retirer's slot changed (release, acquire), and therefore sees the entry. A reader
//! at the start waits until it sees the entry. A reader that comes to the same bytes in a later lap
//! passes them when the tail has, and acquires the tail before it reads the table: the claim that
//! moved the tail saw the entry.
//!
//! *A gap ends.* When every late writer has returned its bytes, the retirer enters the gate and
//! sets `until` to `limit` as it was then. Again no claim ends above it before the retirer has left;
//! below it the bytes are a gap to everybody, whether they see `until` or not.
//!
//! *A retirer that dies* leaves the table whole: the bit of an entry is its last store. Claims that it
//! has marked and not entered yet are marked again by the next retirer, which leaves alone what has
//! been returned meanwhile.
//!
//! *An entry is used again* when `until <= limit - capacity`. Then no reader in the gate stands
//! before `until`, no tail does, and a writer with an older tail fails to move it. Who read the
//! entry while it changed finds its bit gone or the count of changes moved, and reads again.

use crate::layout::{Claim, GAPS_MAX, Gap};
use crate::region::Region;
use crate::sync::{Ordering, fence};

/// Bits of the entries in use; the bits above count changes.
const IN_USE_BITS: u32 = 8;
const IN_USE_MASK: u64 = (1 << IN_USE_BITS) - 1;

const _: () = assert!(GAPS_MAX <= IN_USE_BITS as usize);

/// A copy of the table, and which entries the gaps are in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gaps {
    gaps: [Gap; GAPS_MAX],
    entries: [usize; GAPS_MAX],
    count: usize,
}

impl Gaps {
    pub(crate) const NONE: Self = Self {
        gaps: [Gap {
            start: 0,
            bytes: 0,
            until: 0,
        }; GAPS_MAX],
        entries: [0; GAPS_MAX],
        count: 0,
    };

    pub(crate) fn as_slice(&self) -> &[Gap] {
        &self.gaps[..self.count]
    }

    /// Index of the entry and gap.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, Gap)> + '_ {
        self.entries
            .iter()
            .copied()
            .zip(self.as_slice().iter().copied())
    }

    /// Whether an entry is left.
    pub(crate) fn has_room(&self) -> bool {
        self.count < GAPS_MAX
    }

    /// Bytes of all gaps.
    pub(crate) fn bytes(&self) -> u64 {
        self.as_slice().iter().map(|gap| gap.bytes).sum()
    }
}

impl Region {
    /// Whether the table has entries. The cheap question before [`Region::gaps`]: the table's line
    /// is written only when a gap appears or ends.
    #[inline]
    fn has_gaps(&self) -> bool {
        // Relaxed: `gaps` loads it again.
        self.gaps_in_use().load(Ordering::Relaxed) & IN_USE_MASK != 0
    }

    /// The table. A writer loads tail and gate before it, a reader the tail, with acquire.
    #[cold]
    pub(crate) fn gaps(&self) -> Gaps {
        for _ in 0..self.rounds_max() {
            let in_use = self.gaps_in_use().load(Ordering::Relaxed);
            // Acquire: pairs with the release store in `add_gap`. A fence, because observers may have
            // mapped the region for reading only (`observer.rs`).
            fence(Ordering::Acquire);
            let mut table = Gaps::NONE;
            for index in (0..GAPS_MAX).filter(|index| in_use & 1 << index != 0) {
                // Relaxed: the load above orders them behind `add_gap`, and the fence before
                // what the retirer stores after it has taken the bit away. `until` may change while
                // the bit stays, which matters to nobody who does not see it.
                let word = |word: usize| self.gap_entry(index)[word].load(Ordering::Relaxed);
                table.gaps[table.count] = Gap {
                    start: word(0),
                    bytes: word(1),
                    until: word(2),
                };
                table.entries[table.count] = index;
                table.count += 1;
            }
            let all_valid = table
                .as_slice()
                .iter()
                .all(|gap| self.geometry().is_gap(*gap));
            // Acquire: pairs with the release fence in `add_gap`: if a load above saw a word of a
            // later gap, the load below sees the bit taken away or a later count. Each further
            // round means that the table has changed.
            fence(Ordering::Acquire);
            if self.gaps_in_use().load(Ordering::Relaxed) == in_use {
                if all_valid {
                    return table;
                }
                break;
            }
        }
        self.damage();
        Gaps::NONE
    }

    /// Whether a gap begins at `position`.
    pub(crate) fn gap_begins(&self, position: u64) -> bool {
        let gaps = self.gaps();
        self.geometry().gap_end(position, gaps.as_slice()).is_some()
    }

    /// What to claim for a record of `span` bytes after `tail`; the gate must have been loaded.
    #[inline]
    pub(crate) fn next_claim(&self, tail: u64, span: u64) -> Claim {
        if self.has_gaps() {
            self.geometry().claim(tail, span, self.gaps().as_slice())
        } else {
            self.geometry().claim(tail, span, &[])
        }
    }

    /// Where a reader at `position`, which found no record there, goes on behind a gap. Valid for a
    /// reader that finds itself in the gate afterwards.
    #[inline]
    pub(crate) fn behind_gap(&self, position: u64) -> Option<u64> {
        if self.has_gaps() {
            self.behind_gap_slow(position)
        } else {
            None
        }
    }

    #[cold]
    fn behind_gap_slow(&self, position: u64) -> Option<u64> {
        // Acquire: pairs with the release of the claim that passed the gap, and comes before the
        // table. A reader never passes the tail.
        if self.tail().load(Ordering::Acquire) <= position {
            return None;
        }
        self.geometry().gap_end(position, self.gaps().as_slice())
    }

    /// Enters a gap. Only the retirer calls it, in the gate, after it has found an entry free.
    pub(crate) fn add_gap(&self, gap: Gap) {
        // Relaxed: only the retirer stores it.
        let in_use = self.gaps_in_use().load(Ordering::Relaxed);
        let Some(index) = (0..GAPS_MAX).find(|index| in_use & 1 << index == 0) else {
            // Only the retirer takes entries, so a peer stored this.
            self.damage();
            return;
        };
        // Release: pairs with the acquire fence in `gaps`.
        fence(Ordering::Release);
        let entry = self.gap_entry(index);
        for (word, value) in entry.iter().zip([gap.start, gap.bytes, gap.until]) {
            word.store(value, Ordering::Relaxed);
        }
        // Release: pairs with the first acquire fence in `gaps`.
        self.gaps_in_use().store(
            (in_use | 1 << index).wrapping_add(1 << IN_USE_BITS),
            Ordering::Release,
        );
    }

    /// Ends the gap in an entry. Only the retirer calls it, in the gate with this limit.
    pub(crate) fn end_gap(&self, index: usize, limit: u64) {
        // Relaxed: whom it matters to is ordered after it by the gate.
        self.gap_entry(index)[2].store(limit, Ordering::Relaxed);
    }

    /// Lets an entry be used again. Only the retirer calls it, when all have passed the gap's end.
    pub(crate) fn free_gap(&self, index: usize) {
        // Relaxed: only the retirer stores it; `add_gap` has a fence before the entry changes.
        let in_use = self.gaps_in_use().load(Ordering::Relaxed);
        self.gaps_in_use().store(
            (in_use & !(1 << index)).wrapping_add(1 << IN_USE_BITS),
            Ordering::Relaxed,
        );
    }
}

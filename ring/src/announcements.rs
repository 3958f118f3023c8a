//! Announced claims: how it is found out that the writer of a claim is dead, and what is done then.
//!
//! A writer that dies between its claim and its commit leaves bytes that nobody may ever use again: the
//! ring cannot know that no late store comes, and at most four gaps exist. So a writer of a shared ring
//! announces in a line of its own which bytes it is about to claim, before the swap that claims them,
//! and takes the announcement back after its commit.
//!
//! *Who has claimed `[p, end)`, `p` before a tail that was loaded with acquire?* Its writer stored `p`
//! in its line before the swap of the tail (release), and stores zero there after the commit or the
//! return (release). All changes of the tail are read-modify-writes, so the release sequence goes on,
//! and who loaded a tail above `p` sees, in the writer's line, `p` or what came later. So of a look at
//! all lines, with acquire, one of these is true:
//!
//! 1. a line of a living peer announces `p`. It may be the claim's, so nothing is done. It may as
//!    well be that of a writer that lost the swap; that one goes on, and the next look knows more.
//! 2. lines announce `p`, all of dead peers, and the record is neither committed nor returned. Then
//!    the claim is that of one of them: a living writer that took its announcement back did so
//!    behind its commit, which the look acquired. Nobody stores into the claim any more.
//! 3. no line announces `p`: it is committed or returned, or the ring is damaged.
//!
//! *Where the claim ends* stands beside its position. The position's word is zero while the end
//! changes, so a dead writer's pair belongs together. If several dead writers announce `p`, one of
//! them has won, and what follows tells which: claims lie side by side, so behind the right end there
//! is the tail, a record, or another announcement, and behind a wrong one, which is inside of a claim,
//! there is neither: each announced position was the tail once. The smallest end that is confirmed in
//! this way is the right one, and if none but the largest is left, that one.
//!
//! *What is done:* a claim of the dead that no gap covers becomes an aborted record, by the swap that its
//! writer would have made: no gap, no bytes held. One that is retired already is returned for its
//! writer. Both are the retirer's work, and only its.
//!
//! *What it costs:* two stores before each claim and one behind the commit, to a line that only this
//! writer writes; see `benches/ring.rs`. Rings of one process have no lines and do none of this.

use alloc::sync::Arc;

use crate::gaps::Gaps;
use crate::layout::{ANNOUNCEMENTS, HEADER_BYTES, SLOT_UNGATED};
use crate::record::KIND_ABORTED;
use crate::region::Region;
use crate::sync::{AtomicU64, Ordering};

/// Set in the word of an announced position; positions are multiples of 32.
const ANNOUNCED: u64 = 1;

/// A writer's line, and which of its entries are free.
pub(crate) struct Announcer {
    region: Arc<Region>,
    line: u32,
    /// In this process's memory: a bit for each entry.
    free: AtomicU64,
}

/// Who announces a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimants {
    Nobody,
    Living,
    /// And where its claim ends.
    Dead(u64),
}

impl Announcer {
    /// Takes a line; nothing if all are taken.
    pub(crate) fn new(region: &Arc<Region>) -> Option<Self> {
        let line = (0..region.geometry().writers_max()).find(|line| {
            // Acquire: pairs with the release store in `free_line`. Release: the mark comes behind
            // its epoch.
            let owner = &region.writer_line(*line)[0];
            owner
                .compare_exchange(0, region.own_mark(), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        })?;
        Some(Self {
            region: Arc::clone(region),
            line,
            free: AtomicU64::new((1 << ANNOUNCEMENTS) - 1),
        })
    }

    /// Takes an entry; nothing if all are in use.
    pub(crate) fn take(&self) -> Option<u8> {
        // Relaxed: the swap below orders what matters.
        let mut free = self.free.load(Ordering::Relaxed);
        loop {
            let index = free.trailing_zeros();
            if index as usize >= ANNOUNCEMENTS {
                return None;
            }
            // Acquire: pairs with the release in `clear`: our stores come behind those of the thread
            // that had the entry before. Each further round means that another thread took or gave
            // one; the word is in our own memory.
            match self.free.compare_exchange_weak(
                free,
                free & !(1 << index),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return u8::try_from(index).ok(),
                Err(changed) => free = changed,
            }
        }
    }

    fn entry(&self, index: u8) -> (&AtomicU64, &AtomicU64) {
        let line = self.region.writer_line(self.line);
        let position = 1 + 2 * usize::from(index);
        (&line[position], &line[position + 1])
    }

    /// Announces `[position, end)`; call it before the swap that claims them.
    pub(crate) fn announce(&self, index: u8, position: u64, end: u64) {
        let (position_word, end_word) = self.entry(index);
        // Relaxed: the store of the end orders it.
        position_word.store(0, Ordering::Relaxed);
        // Release, both: in this order for whoever finds us dead. The swap of the claim orders both
        // before it.
        end_word.store(end, Ordering::Release);
        position_word.store(position | ANNOUNCED, Ordering::Release);
    }

    /// Takes the announcement back, behind the commit, and gives the entry back.
    pub(crate) fn clear(&self, index: u8) {
        // Release: pairs with the acquire load in `claimants`: who sees it sees the commit.
        self.entry(index).0.store(0, Ordering::Release);
        // Release: pairs with the acquire swap in `take`.
        self.free.fetch_or(1 << index, Ordering::Release);
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        // Grants hold the announcer, so nothing is announced any more.
        self.region.free_line(self.line);
    }
}

impl Region {
    /// Gives a writer's line back.
    fn free_line(&self, line: u32) {
        let words = self.writer_line(line);
        for word in &words[1..] {
            // Relaxed: the store below orders them.
            word.store(0, Ordering::Relaxed);
        }
        // Release: pairs with the swap in `Announcer::new`.
        words[0].store(0, Ordering::Release);
    }

    /// Calls `each` with the owner's mark, position and end of every announcement.
    fn announcements(&self, mut each: impl FnMut(u64, u64, u64)) {
        for line in 0..self.geometry().writers_max() {
            let words = self.writer_line(line);
            // Acquire: pairs with the release swap by which the mark came there.
            let owner = words[0].load(Ordering::Acquire);
            if owner == 0 {
                continue;
            }
            for entry in words[1..].as_chunks::<2>().0 {
                // Acquire: pairs with the release stores in `announce` and `clear`.
                let position = entry[0].load(Ordering::Acquire);
                if position & ANNOUNCED != 0 {
                    // Relaxed: ordered by the load before; for the dead the two belong together.
                    each(
                        owner,
                        position & !ANNOUNCED,
                        entry[1].load(Ordering::Relaxed),
                    );
                }
            }
        }
    }

    /// Who announces `position`, which is below a tail that was loaded with acquire.
    pub(crate) fn claimants(&self, position: u64, tail: u64) -> Claimants {
        if self.peer.is_none() {
            return Claimants::Nobody;
        }
        let (mut is_living, mut ends, mut is_dead) = (false, [u64::MAX; 2], false);
        self.announcements(|owner, announced, end| {
            if announced != position || !self.is_claim(position, end) {
                return;
            }
            if self.is_dead(owner) {
                // The smallest and the largest are kept; others are asked for one by one below.
                ends[0] = ends[0].min(end);
                ends[1] = if is_dead { ends[1].max(end) } else { end };
                is_dead = true;
            } else {
                is_living = true;
            }
        });
        if is_living {
            return Claimants::Living;
        }
        if !is_dead {
            return Claimants::Nobody;
        }
        // At most one round per line and entry.
        while ends[0] < ends[1] && !self.is_border(ends[0], tail) {
            let mut next = ends[1];
            self.announcements(|_, announced, end| {
                if announced == position && end > ends[0] {
                    next = next.min(end);
                }
            });
            ends[0] = next;
        }
        Claimants::Dead(ends[0])
    }

    /// Whether `[position, end)` can be a claim: an announcement of the dead may be anything if a peer
    /// wants so.
    fn is_claim(&self, position: u64, end: u64) -> bool {
        let bytes = end.wrapping_sub(position);
        end < SLOT_UNGATED
            && bytes.is_multiple_of(32)
            && bytes >= 32
            && bytes <= self.geometry().lap_end(position).wrapping_sub(position)
    }

    /// Whether a claim ends at `end`, which is at or inside the end of one.
    fn is_border(&self, end: u64, tail: u64) -> bool {
        let mut is_announced = false;
        self.announcements(|_, position, _| is_announced |= position == end);
        // In this order: who is not announced any more has committed.
        is_announced
            || end == tail
            || self.is_stamped(end)
            || self.returned(end).is_some()
            || self.gap_begins(end)
    }

    /// Makes the claim at `position` an aborted record if its writer is dead. Only the retirer calls
    /// it, in the gate, for a claim that no gap covers.
    pub(crate) fn abort_for_the_dead(&self, position: u64) -> bool {
        // Acquire: the look at the lines begins with a tail above the claim.
        let tail = self.tail().load(Ordering::Acquire);
        let Claimants::Dead(end) = self.claimants(position, tail) else {
            return false;
        };
        if self.is_stamped(position) {
            return true;
        }
        self.store_size(position, end, KIND_ABORTED);
        let word = &self.header(position)[0];
        // Relaxed: nobody else stores it any more.
        let before = word.load(Ordering::Relaxed);
        // Release: pairs with the acquire load in `committed`. It can only fail where a peer stores
        // what it must not.
        let is_aborted = word
            .compare_exchange(
                before,
                self.stamp_value(position),
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_ok();
        // Relaxed: a counter, it orders nothing.
        self.aborted_total().fetch_add(1, Ordering::Relaxed);
        is_aborted
    }

    /// Returns the retired claim at `position` for its writer if that is dead. Only the retirer calls it,
    /// for a claim in a gap.
    pub(crate) fn return_for_the_dead(&self, position: u64) {
        // Acquire: as above.
        let tail = self.tail().load(Ordering::Acquire);
        if let Claimants::Dead(end) = self.claimants(position, tail)
            && self.returned(position).is_none()
        {
            self.store_size(position, end, KIND_ABORTED);
            self.return_claim(position);
        }
    }

    fn store_size(&self, position: u64, end: u64, kind: u32) {
        let header = self.header(position);
        let payload_bytes = end.wrapping_sub(position) - u64::from(HEADER_BYTES);
        // Relaxed, both: the store of the first word orders them.
        header[1].store(
            payload_bytes | u64::from(kind) << u32::BITS,
            Ordering::Relaxed,
        );
        header[2].store(0, Ordering::Relaxed);
    }

    /// Frees the lines of dead writers of which nothing is left to find out: each position they announce
    /// is before `passed`, where all is committed or retired, and in no gap whose bytes are not all
    /// returned; or no claim begins there. Only the retirer can say so: others give `passed` as zero.
    pub(crate) fn free_lines_of_the_dead(&self, passed: u64, gaps: &Gaps) {
        for line in 0..self.geometry().writers_max() {
            let words = self.writer_line(line);
            // Acquire: as in `announcements`.
            let owner = words[0].load(Ordering::Acquire);
            if !self.is_dead(owner) {
                continue;
            }
            // Acquire: behind the death, so that a claim of this writer is below it.
            let tail = self.tail().load(Ordering::Acquire);
            let is_settled = words[1..].as_chunks::<2>().0.iter().all(|entry| {
                // Relaxed: the writer is dead.
                let position = entry[0].load(Ordering::Relaxed);
                let is_announced = position & ANNOUNCED != 0;
                let position = position & !ANNOUNCED;
                let is_retired = gaps.as_slice().iter().any(|gap| {
                    let inside = gap.start..gap.start.wrapping_add(gap.bytes);
                    gap.until == u64::MAX && inside.contains(&position)
                });
                !is_announced || position >= tail || position < passed && !is_retired
            });
            if is_settled && self.take_over(&words[0]) {
                self.free_line(line);
            }
        }
    }
}

//! Retiring: claims whose writers do not get on are taken from them.
//!
//! Every claim before the tail of an earlier look is at least as old as this look. The retirer walks
//! to that tail outside of the gate, each record once, and checks afterwards that no limit has
//! passed what it walked over. Only where it finds a claim that is neither committed nor retired, or
//! a gap to end, it enters the gate for a moment.
//!
//! In a shared ring it also acts for writers that are dead (`announcements.rs`): their claims become
//! aborted records, or are returned if they are retired already.

use alloc::sync::Arc;
use core::fmt;

use crate::anchors::Anchor;
use crate::layout::{self, GRANULE_BYTES, Gap, SLOT_UNGATED};
use crate::record::KIND_DATA;
use crate::region::Region;
use crate::sync::{Ordering, fence};

/// Retires the claims that are neither committed nor dropped in time; a ring has one at most. The
/// ring has no clock: the age at which a claim is retired is the caller's, who decides when to
/// look.
///
/// Readers pass a retired claim without a record. Its bytes are *held*: no writer claims them again,
/// because the late writer may still store into them, until it finds out ([`Grant::commit`] and
/// [`Writer::try_write`] say how) and a later look sees that. Four stretches of bytes can be held at
/// a time, and in all as much as two records of the largest size. Beyond that claims are not
/// retired, and counted in [`Ring::retirements_rejected_total`].
///
/// [`Grant::commit`]: crate::Grant::commit
/// [`Writer::try_write`]: crate::Writer::try_write
/// [`Ring::retirements_rejected_total`]: crate::Ring::retirements_rejected_total
pub struct Retirer {
    region: Arc<Region>,
    /// Every record before its position is committed or retired.
    passed: Anchor,
    /// The tail at the last look but one, and at the last one.
    tails: [u64; 2],
    /// The last claim that could not be retired.
    rejected: Option<u64>,
}

impl Retirer {
    /// Takes the retirer's slot; nothing if it is taken.
    pub(crate) fn attach(region: &Arc<Region>) -> Option<Self> {
        // The swap in it acquires what the last retirer's drop released: the table of gaps is ours
        // now.
        if !region.take_slot(region.geometry().retirer_index()) {
            return None;
        }
        Some(Self {
            region: Arc::clone(region),
            passed: Anchor {
                position: 0,
                number: 0,
            },
            tails: [0; 2],
            rejected: None,
        })
    }

    /// Retires every claim that was made before the last look but one and is neither committed nor
    /// dropped. True if there was one: then call [`Writer::wake_parked`](crate::Writer::wake_parked)
    /// for all readers.
    ///
    /// With looks `t` apart, claims younger than `2 * t` are not retired, and readers are not held
    /// for longer than `3 * t`. It costs some nanoseconds for each record since the last look that
    /// the fastest reader has not passed.
    ///
    /// In a shared ring a claim whose writer is found dead becomes an aborted record instead, and a
    /// retired one is returned for its writer, so no gap outlives the dead.
    pub fn look(&mut self) -> bool {
        self.end_gaps();
        // Relaxed: an older tail only makes claims older than they must be.
        let tail = self.region.tail().load(Ordering::Relaxed);
        let due = self.tails[0];
        self.tails = [self.tails[1], tail];
        self.free_lines();
        if due <= self.passed.position {
            return false;
        }
        let Some(stale) = self.walk(due) else {
            return false;
        };
        let entered = self.region.enter(self.slot(), |limit_before| {
            (limit_before <= stale.position).then(|| {
                // In front of the position: see `anchors.rs`.
                self.region.note(self.slot(), stale);
                stale.position
            })
        });
        // It was committed and passed meanwhile if this fails.
        entered.is_some() && {
            let is_retired = self.retire_until(due);
            self.leave();
            is_retired
        }
    }

    /// Passes records up to `until`, outside of the gate; returns where it found a claim that is
    /// neither committed nor retired.
    fn walk(&mut self, until: u64) -> Option<Anchor> {
        let capacity = self.region.geometry().capacity();
        let floor = self.region.snapshot().limit.wrapping_sub(capacity);
        let Some(newest) = self.region.newest_anchor(floor) else {
            self.region.damage();
            return None;
        };
        if newest.position > self.passed.position {
            self.passed = newest;
        }
        let start = self.passed;
        let reached = self.pass(start, until);
        // Rule 3 of `record.rs`: the writer of a claim that overlaps what was looked at had a limit
        // above `start + capacity`. If a load saw its store, the snapshot has this limit or a later one.
        fence(Ordering::Acquire);
        let floor = self.region.snapshot().limit.wrapping_sub(capacity);
        let is_valid = floor <= start.position;
        // What was seen may be anything if the limit has moved. Then readers get on, and the next
        // look will do.
        self.passed = if is_valid { reached } else { start };
        (is_valid && reached.position < until).then_some(reached)
    }

    /// Where the first claim at or behind `start` is that is neither committed nor retired, but not
    /// before `until`; nor more than a capacity behind `start`, which no sound ring has.
    fn pass(&self, start: Anchor, until: u64) -> Anchor {
        let mut passed = start;
        while passed.position < until {
            let committed = self.region.committed(passed.position);
            let next = match committed {
                Some(meta) => Some(
                    passed
                        .position
                        .wrapping_add(layout::span(meta.payload_bytes)),
                ),
                None => self.region.behind_gap(passed.position),
            };
            let Some(next) = next else {
                break;
            };
            if next <= passed.position || !self.region.geometry().is_ahead(start.position, next) {
                // What was seen may be the next lap's; then `walk` finds it out.
                break;
            }
            let is_data = committed.is_some_and(|meta| meta.kind == KIND_DATA);
            passed = Anchor {
                position: next,
                number: passed.number.wrapping_add(u64::from(is_data)),
            };
        }
        passed
    }

    /// Retires what is neither committed nor retired before `due`. The retirer is in the gate at
    /// `passed`.
    fn retire_until(&mut self, due: u64) -> bool {
        let mut is_retired = false;
        // Each round but the last passes at least one claim, and a ring has fewer than this many.
        let rounds = self.region.geometry().capacity_bytes() / GRANULE_BYTES + 1;
        for _ in 0..rounds {
            self.passed = self.pass(self.passed, due);
            let start = self.passed.position;
            if start >= due {
                return is_retired;
            }
            if self.region.abort_for_the_dead(start) {
                is_retired = true;
                continue;
            }
            if !self.retire(start, due) {
                if self.rejected != Some(start) {
                    self.rejected = Some(start);
                    // Relaxed: a counter, it orders nothing.
                    self.region
                        .retirements_rejected_total()
                        .fetch_add(1, Ordering::Relaxed);
                }
                return is_retired;
            }
            is_retired = true;
        }
        self.region.damage();
        is_retired
    }

    /// Makes a gap from `start` to the next record that is committed, before `due` and within the
    /// lap. False if there may be no further gap, or none of this size.
    fn retire(&self, start: u64, due: u64) -> bool {
        let region = &*self.region;
        let geometry = region.geometry();
        let gaps = region.gaps();
        // A lap end is above every position but in a damaged ring.
        let end_max = due
            .min(geometry.room_end(start, gaps.as_slice()))
            .max(start);
        // Nobody says where claims begin in between. Bytes that are no header are the late
        // writer's, whose payload is lost anyway; no payload looks like a stamp.
        let granules = |end: u64| (start..end).step_by(GRANULE_BYTES as usize).skip(1);
        let stamped = granules(end_max).find(|granule| region.is_stamped(*granule));
        let end = stamped.unwrap_or(end_max);
        let held_bytes = gaps.bytes().saturating_add(end - start);
        if !gaps.has_room() || held_bytes > geometry.held_bytes_max() {
            return false;
        }
        if !region.retire(start) {
            // Committed at the last moment.
            return true;
        }
        let stamped = granules(end).find(|granule| !region.retire(*granule));
        region.add_gap(Gap {
            start,
            bytes: stamped.unwrap_or(end) - start,
            until: u64::MAX,
        });
        // Relaxed: a counter, it orders nothing.
        region.retirements_total().fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Ends the gaps whose bytes are all returned, and frees the entries of those that all readers
    /// have passed.
    fn end_gaps(&self) {
        let region = &*self.region;
        for (index, gap) in region.gaps().entries() {
            if gap.until == u64::MAX {
                if self.is_returned(gap) {
                    let entered = region.enter(self.slot(), Some);
                    // The limit cannot rise while this is in the gate where it found it.
                    if let Some(before) = entered {
                        let limit = before.wrapping_add(region.geometry().capacity());
                        region.end_gap(index, limit);
                    }
                    self.leave();
                }
            } else {
                let capacity = region.geometry().capacity();
                if gap.until <= region.snapshot().limit.wrapping_sub(capacity) {
                    region.free_gap(index);
                }
            }
        }
    }

    fn is_returned(&self, gap: Gap) -> bool {
        let end = gap.start.wrapping_add(gap.bytes);
        let mut position = gap.start;
        // At most once per granule of the gap: each claim has one at least.
        while position < end {
            let mut bytes = self.region.returned(position);
            if bytes.is_none() {
                self.region.return_for_the_dead(position);
                bytes = self.region.returned(position);
            }
            let Some(bytes) = bytes else {
                return false;
            };
            position = position.wrapping_add(bytes);
        }
        true
    }

    /// Frees what dead writers of a shared ring have left, as far as it is settled.
    fn free_lines(&self) {
        if self.region.peer.is_some() {
            let gaps = self.region.gaps();
            self.region
                .free_lines_of_the_dead(self.passed.position, &gaps);
        }
    }

    fn slot(&self) -> u32 {
        self.region.geometry().retirer_index()
    }

    /// Leaves the gate.
    fn leave(&self) {
        // Release: pairs with the acquire load in `Region::slowest`: a limit above what this slot
        // allowed is ordered after the changes of the table.
        self.region
            .slot(self.slot())
            .store(SLOT_UNGATED, Ordering::Release);
    }
}

impl Drop for Retirer {
    fn drop(&mut self) {
        self.region.free_slot(self.slot());
    }
}

impl fmt::Debug for Retirer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Retirer")
            .field("passed", &self.passed)
            .finish_non_exhaustive()
    }
}

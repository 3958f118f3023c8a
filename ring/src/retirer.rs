//! Retiring: claims whose writers do not get on are taken from them.
//!
//! Every claim before the tail of an earlier look is at least as old as this look. The retirer walks
//! to that tail outside of the gate, each record once, and checks afterwards that no limit has
//! passed what it walked over. Only where it finds a claim that is neither committed nor retired, or
//! a gap to end, it enters the gate for a moment.

use std::fmt;
use std::sync::Arc;

use crate::layout::{self, GRANULE_BYTES, Gap, SLOT_FREE, SLOT_UNGATED};
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
    /// Every record before it is committed or retired.
    passed: u64,
    /// The tail at the last look but one, and at the last one.
    tails: [u64; 2],
    /// The last claim that could not be retired.
    rejected: Option<u64>,
}

impl Retirer {
    /// Takes the retirer's slot; nothing if it is taken.
    pub(crate) fn attach(region: &Arc<Region>) -> Option<Self> {
        // Acquire: pairs with the release store of the last retirer's drop: the table of gaps is
        // ours now.
        let taken = region
            .slot(region.geometry().retirer_index())
            .compare_exchange(
                SLOT_FREE,
                SLOT_UNGATED,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
        taken.ok()?;
        Some(Self {
            region: Arc::clone(region),
            passed: 0,
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
    pub fn look(&mut self) -> bool {
        self.end_gaps();
        // Relaxed: an older tail only makes claims older than they must be.
        let tail = self.region.tail().load(Ordering::Relaxed);
        let due = self.tails[0];
        self.tails = [self.tails[1], tail];
        if due <= self.passed {
            return false;
        }
        self.passed = self.passed.max(self.region.fastest().unwrap_or(0));
        let Some(stale) = self.walk(due) else {
            return false;
        };
        let entered = self.region.enter(self.slot(), |limit_before| {
            (limit_before <= stale).then_some(stale)
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
    fn walk(&mut self, until: u64) -> Option<u64> {
        let capacity = self.region.geometry().capacity();
        let start = self.passed.max(self.region.snapshot().limit - capacity);
        let reached = self.pass(start, until);
        // Rule 3 of `record.rs`: the writer of a claim that overlaps what was looked at had a limit
        // above `start + capacity`. If a load saw its store, the snapshot has this limit or a later one.
        fence(Ordering::Acquire);
        let is_valid = self.region.snapshot().limit - capacity <= start;
        // What was seen may be anything if the limit has moved. Then readers get on, and the next
        // look will do.
        self.passed = if is_valid { reached } else { start };
        (is_valid && reached < until).then_some(reached)
    }

    /// Where the first claim at or behind `position` is that is neither committed nor retired,
    /// but not before `until`.
    fn pass(&self, mut position: u64, until: u64) -> u64 {
        while position < until {
            let next = match self.region.committed(position) {
                Some(meta) => Some(position + layout::span(meta.payload_bytes)),
                None => self.region.behind_gap(position),
            };
            let Some(next) = next else {
                break;
            };
            position = next;
        }
        position
    }

    /// Retires what is neither committed nor retired before `due`. The retirer is in the gate at
    /// `passed`.
    fn retire_until(&mut self, due: u64) -> bool {
        let mut is_retired = false;
        loop {
            self.passed = self.pass(self.passed, due);
            if self.passed >= due {
                return is_retired;
            }
            if !self.retire(self.passed, due) {
                if self.rejected != Some(self.passed) {
                    self.rejected = Some(self.passed);
                    // Relaxed: a counter, it orders nothing.
                    self.region
                        .retirements_rejected_total()
                        .fetch_add(1, Ordering::Relaxed);
                }
                return is_retired;
            }
            is_retired = true;
        }
    }

    /// Makes a gap from `start` to the next record that is committed, before `due` and within the
    /// lap. False if there may be no further gap, or none of this size.
    fn retire(&self, start: u64, due: u64) -> bool {
        let region = &*self.region;
        let geometry = region.geometry();
        let gaps = region.gaps();
        let end_max = due.min(geometry.room_end(start, gaps.as_slice()));
        // Nobody says where claims begin in between. Bytes that are no header are the late
        // writer's, whose payload is lost anyway; no payload looks like a stamp.
        let granules = |end: u64| (start..end).step_by(GRANULE_BYTES as usize).skip(1);
        let stamped = granules(end_max).find(|granule| region.is_stamped(*granule));
        let end = stamped.unwrap_or(end_max);
        if !gaps.has_room() || gaps.bytes() + (end - start) > geometry.held_bytes_max() {
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
                        region.end_gap(index, before + region.geometry().capacity());
                    }
                    self.leave();
                }
            } else if gap.until <= region.snapshot().limit - region.geometry().capacity() {
                region.free_gap(index);
            }
        }
    }

    fn is_returned(&self, gap: Gap) -> bool {
        let end = gap.start + gap.bytes;
        let mut position = gap.start;
        while position < end {
            let Some(bytes) = self.region.returned(position) else {
                return false;
            };
            position += bytes;
        }
        true
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
        // Release: pairs with the swap in `attach`.
        self.region
            .slot(self.slot())
            .store(SLOT_FREE, Ordering::Release);
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

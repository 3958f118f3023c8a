//! Observing: reading without being waited for, and without a single store into the region.
//!
//! An observer is not in the gate, so its bytes may be written while it copies them. What it relies on is
//! the tail alone:
//!
//! *A copy is whole if the tail, loaded behind it, is at most `position + capacity`.* The bytes of
//! `[position, position + span)` are stored again only by the writer of a claim of a later lap, which
//! ends above `position + capacity`; by a late writer into a claim that was retired, which is where no
//! record is; or by the retirer into a claim, which was made before. The writer has a release fence
//! between the swap that moved the tail to the claim's end and its first store, and the observer has
//! an acquire fence between its last load and its load of the tail. So if any load saw such a store,
//! the tail is seen above `position + capacity` (rule 3 of `record.rs`, with the tail instead of the
//! slot). The limit would do as well, and would say sooner that the bytes are lost: it may be raised a
//! capacity ahead of the writers.
//!
//! *A position without a record* that is before the tail is a claim which is not committed yet, or a
//! gap. The table of gaps says which (`gaps.rs`, where it is argued for readers that acquire the
//! tail before the table), as long as the gap's entry is there. It may have been used again once
//! the limit is a capacity above its end; then the position is before `limit - capacity`, no claim
//! there can be open, and the observer goes on as if it had been overtaken.
//!
//! *What was missed* is the number of the anchor at which it goes on, less its own (`anchors.rs`).
//!
//! All loads are relaxed and ordered by fences: an acquire load is not guaranteed to work on memory
//! that is mapped for reading only, a relaxed one of 8 bytes is (`core::sync::atomic`, "Atomic
//! accesses to read-only memory").

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::anchors::Anchor;
use crate::error::{Damaged, ObserveError};
use crate::layout::{self, SLOT_UNGATED};
use crate::reader::Record;
use crate::record::{KIND_DATA, Meta};
use crate::region::Region;
use crate::sync::{Ordering, fence};

/// Where an observer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first record that is claimed after this call.
    Tail,
    /// With the oldest record of which the number is known and the bytes are still there: the slowest
    /// reader's next, or later.
    Oldest,
    /// Where another observer or reader stood: see [`Observer::bookmark`]. If it is overwritten by then, the
    /// first look says what was missed.
    At(Bookmark),
}

/// A place in a ring: a position and the number of records before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bookmark {
    /// Where a record begins or will begin.
    pub position: u64,
    /// Records before it, those that were aborted or retired not counted.
    pub number: u64,
}

/// Reads the records of a ring in the ring's order without being waited for: it can be overtaken, and
/// is told exactly how many records it missed. It never writes into the ring's memory, takes no slot,
/// and can be neither seen nor disturbed by writers.
pub struct Observer {
    region: Arc<Region>,
    position: u64,
    number: u64,
    /// Records before it are counted and not shown.
    start: u64,
    shown: Option<Meta>,
    copy: Vec<u8>,
}

/// What is at a position.
enum Found {
    Record(Meta),
    Gap(u64),
    Nothing,
    Overwritten,
    Damage,
}

impl Observer {
    pub(crate) fn new(region: &Arc<Region>, start: Start) -> Result<Self, Damaged> {
        let anchor = match start {
            Start::Tail => newest(region)?,
            Start::Oldest => oldest(region)?,
            Start::At(Bookmark { position, number }) => Anchor {
                position: position.min(SLOT_UNGATED - 1),
                number,
            },
        };
        let start = match start {
            // An observer does not act on what comes before a record that it has not seen, so the
            // tail need not be acquired.
            Start::Tail => region.tail().load(Ordering::Relaxed),
            Start::Oldest | Start::At(_) => 0,
        };
        Ok(Self {
            region: Arc::clone(region),
            position: anchor.position,
            number: anchor.number,
            start,
            shown: None,
            copy: Vec::new(),
        })
    }

    /// Where the observer is: what it shows next begins here or later. To be given to
    /// [`Start::At`], in this process or another.
    #[must_use]
    pub fn bookmark(&self) -> Bookmark {
        Bookmark {
            position: self.position,
            number: self.number,
        }
    }

    /// Bytes that were claimed behind the observer.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        // Relaxed: a gauge.
        let tail = self.region.tail().load(Ordering::Relaxed);
        tail.saturating_sub(self.position)
    }

    /// The next record, if one is committed. The same until [`Observer::advance`] is called. Copy its
    /// payload with [`Observer::payload`].
    ///
    /// # Errors
    ///
    /// [`ObserveError::Missed`] if the writers have overtaken the observer: it goes on at the newest
    /// place that a reader has published. [`ObserveError::Damaged`] where a peer has damaged a shared
    /// ring.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would go on behind a record before it was read"
    )]
    pub fn next(&mut self) -> Result<Option<Record>, ObserveError> {
        self.shown = None;
        let first = self.position;
        loop {
            let found = self.look();
            let next = match found {
                Found::Overwritten => return Err(self.go_on()?),
                Found::Nothing => return Ok(None),
                Found::Gap(end) => end,
                Found::Record(meta) => {
                    let span = layout::span(meta.payload_bytes);
                    self.position.wrapping_add(span)
                }
                Found::Damage => self.position,
            };
            // A look passes a capacity at most: what is behind that is a later look's, and a record
            // has bytes, so this ends the loop in a damaged ring, too.
            if next <= self.position {
                return Err(self.region.damage().into());
            }
            match found {
                Found::Record(meta) if meta.kind == KIND_DATA && self.position >= self.start => {
                    self.shown = Some(meta);
                    return Ok(Some(Record {
                        position: self.position,
                        number: self.number,
                        tag: meta.tag,
                        payload_bytes: meta.payload_bytes,
                    }));
                }
                Found::Record(meta) => self.pass(meta),
                _ => self.position = next,
            }
            if !self.region.geometry().is_ahead(first, self.position) {
                return Ok(None);
            }
        }
    }

    /// A copy of the payload of the record that [`Observer::next`] has shown; nothing if it has shown
    /// none.
    ///
    /// # Errors
    ///
    /// As [`Observer::next`].
    pub fn payload(&mut self) -> Result<Option<&[u8]>, ObserveError> {
        let Some(meta) = self.shown else {
            return Ok(None);
        };
        let copied = self
            .region
            .copy_payload(self.position, meta.payload_bytes, &mut self.copy);
        if self.is_overwritten() {
            self.shown = None;
            return Err(self.go_on()?);
        }
        copied?;
        Ok(Some(&self.copy[..meta.payload_bytes as usize]))
    }

    /// Passes the record that [`Observer::next`] has shown; false if it has shown none.
    pub fn advance(&mut self) -> bool {
        let Some(meta) = self.shown.take() else {
            return false;
        };
        self.pass(meta);
        true
    }

    fn pass(&mut self, meta: Meta) {
        let span = layout::span(meta.payload_bytes);
        self.position = self.position.wrapping_add(span);
        self.number = self.number.wrapping_add(u64::from(meta.kind == KIND_DATA));
    }

    /// Whether a load up to now may have seen a later lap.
    fn is_overwritten(&self) -> bool {
        // Acquire: pairs with the release fence of `begin_fill`.
        fence(Ordering::Acquire);
        // Relaxed: the fence orders it.
        let tail = self.region.tail().load(Ordering::Relaxed);
        tail.saturating_sub(self.position) > self.region.geometry().capacity()
    }

    fn look(&self) -> Found {
        let region = &*self.region;
        let geometry = region.geometry();
        if let Some(meta) = region.committed_relaxed(self.position) {
            return self.record(meta);
        }
        // Relaxed, here and below: the fences order them.
        let tail = region.tail().load(Ordering::Relaxed);
        if tail <= self.position {
            return Found::Nothing;
        }
        // Acquire: pairs with the release of the claim that passed the gap, before the table.
        fence(Ordering::Acquire);
        let end = geometry.gap_end(self.position, region.gaps().as_slice());
        if self.is_overwritten() {
            return Found::Overwritten;
        }
        if let Some(end) = end {
            return Found::Gap(end);
        }
        let floor = region.snapshot().limit.wrapping_sub(geometry.capacity());
        // Acquire: what is before the limit is committed; look at it once more.
        fence(Ordering::Acquire);
        if self.position >= floor || floor > tail.saturating_add(geometry.capacity()) {
            return Found::Nothing;
        }
        match region.committed_relaxed(self.position) {
            Some(meta) => self.record(meta),
            None => Found::Overwritten,
        }
    }

    fn record(&self, meta: Meta) -> Found {
        if self.is_overwritten() {
            return Found::Overwritten;
        }
        let geometry = self.region.geometry();
        let end = geometry.offset(self.position) as u64 + layout::span(meta.payload_bytes);
        if end > geometry.capacity() {
            // No record crosses the end of a lap.
            return Found::Damage;
        }
        Found::Record(meta)
    }

    /// Goes on at the newest anchor, and says what is missed.
    #[cold]
    fn go_on(&mut self) -> Result<ObserveError, Damaged> {
        let anchor = newest(&self.region)?;
        if anchor.position <= self.position {
            // Anchors are at or behind `limit - capacity`, and this position was before that.
            return Err(self.region.damage());
        }
        let missed = ObserveError::Missed {
            records: anchor.number.wrapping_sub(self.number),
            bytes: anchor.position - self.position,
        };
        (self.position, self.number) = (anchor.position, anchor.number);
        Ok(missed)
    }
}

/// The newest anchor whose bytes are not overwritten.
fn newest(region: &Region) -> Result<Anchor, Damaged> {
    one_of(region, |anchors| anchors.max_by_key(|it| it.position))
}

/// The oldest one.
fn oldest(region: &Region) -> Result<Anchor, Damaged> {
    let capacity = region.geometry().capacity();
    one_of(region, |anchors| {
        let tail = region.tail().load(Ordering::Relaxed);
        let not_overwritten = anchors.filter(|it| it.position.saturating_add(capacity) >= tail);
        not_overwritten.min_by_key(|it| it.position)
    })
}

fn one_of(
    region: &Region,
    choose: impl Fn(&mut dyn Iterator<Item = Anchor>) -> Option<Anchor>,
) -> Result<Anchor, Damaged> {
    let capacity = region.geometry().capacity();
    // Each further round means that the writers came round once.
    for _ in 0..region.rounds_max() {
        // The gate before the anchors: see `anchors.rs`.
        let floor = region.snapshot().limit.wrapping_sub(capacity);
        fence(Ordering::Acquire);
        let chosen = choose(&mut region.anchors());
        fence(Ordering::Acquire);
        // Relaxed: the fence orders it.
        let tail = region.tail().load(Ordering::Relaxed);
        match chosen {
            Some(anchor) if anchor.position.saturating_add(capacity) >= tail => return Ok(anchor),
            Some(anchor) if anchor.position < floor => break,
            _ => {}
        }
    }
    Err(region.damage())
}

impl fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Observer")
            .field("position", &self.position)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

//! Reading: walk, copy, visit, publish, park.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;

use crate::anchors::Anchor;
use crate::error::{Damaged, Lapped, ReadError};
use crate::layout;
use crate::record::{KIND_DATA, Meta};
use crate::region::Region;
use crate::sync::{Ordering, fence};

/// What a reader does with records.
pub trait Visit {
    /// Whether a record with this tag is to be visited.
    fn is_wanted(&mut self, tag: u64) -> bool;
    /// Visits a copy of a record; false to end the drain behind it. `position` is what the writer was
    /// given for it.
    fn visit(&mut self, position: u64, tag: u64, payload: &[u8]) -> bool;
}

impl<W: FnMut(u64) -> bool, V: FnMut(u64, u64, &[u8]) -> bool> Visit for (W, V) {
    fn is_wanted(&mut self, tag: u64) -> bool {
        (self.0)(tag)
    }

    fn visit(&mut self, position: u64, tag: u64, payload: &[u8]) -> bool {
        (self.1)(position, tag, payload)
    }
}

/// A record, but for its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the writer was given for it: bytes since the ring was made.
    pub position: u64,
    /// How many records come before it in the ring, those that were aborted or retired not counted.
    /// The same for every reader and observer; a difference counts what lies between.
    pub number: u64,
    /// What the writer gave.
    pub tag: u64,
    /// Length of the payload.
    pub payload_bytes: u32,
}

/// Why a reader cannot go on where it is.
enum Stop {
    Lapped,
    Damaged,
}

impl From<Damaged> for Stop {
    fn from(_: Damaged) -> Self {
        Self::Damaged
    }
}

/// A reader that is walked with [`Reader::advance`] publishes its position once per this part of the
/// ring, or when there is nothing left.
const PUBLISH_PARTS: u64 = 16;

/// Reads every record of a ring in the ring's order. Writers wait for it while it is in the gate:
/// from its creation until it is dropped, or put out by [`Ring::put_out`](crate::Ring::put_out).
///
/// ```text
///  slot (published) <= position <= tail
/// ```
pub struct Reader {
    region: Arc<Region>,
    index: u32,
    /// Records before it were claimed before the reader joined or caught up: they are walked over,
    /// because whoever publishes a position vouches that all before it is committed, but they are
    /// not visited.
    start: Cell<u64>,
    position: Cell<u64>,
    /// Records before the position.
    number: Cell<u64>,
    published: Cell<u64>,
    /// What `next` has shown.
    shown: Option<Meta>,
    /// Whether it has left the gate by itself.
    is_away: Cell<bool>,
    copy: Vec<u8>,
}

impl Reader {
    /// Joins in slot `index`; nothing if it is taken.
    pub(crate) fn attach(region: &Arc<Region>, index: u32) -> Option<Self> {
        let Anchor { position, number } = region.join(index)?;
        // Acquire: pairs with the release of the claim that made this tail, so that what its writer
        // did before it claimed is seen by whoever relies on `next_position`.
        let start = region.tail().load(Ordering::Acquire);
        let reader = Self {
            region: Arc::clone(region),
            index,
            start: Cell::new(start),
            position: Cell::new(position),
            number: Cell::new(number),
            published: Cell::new(position),
            shown: None,
            is_away: Cell::new(false),
            copy: Vec::new(),
        };
        // What was claimed since then may have lapped it already: then the first drain says so.
        let _ = reader.peek();
        reader.publish();
        Some(reader)
    }

    /// The reader's slot, `0 <= index < readers_max`: what [`Writer::wake_parked`] calls it.
    ///
    /// [`Writer::wake_parked`]: crate::Writer::wake_parked
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Passes up to `records_max` committed records, in order, and hands a copy of each one to
    /// `visit`; then publishes the new position once. Returns how many records it passed.
    ///
    /// If `visit` panics, its record counts as read and the position is published, so the next call
    /// goes on behind it.
    ///
    /// # Errors
    ///
    /// [`ReadError::Lapped`] if the reader was put out of the gate and its next record is overwritten.
    /// It has then caught up: the next call begins with records that are written from now on.
    /// [`ReadError::Damaged`] where a peer has damaged a shared ring.
    pub fn drain(
        &mut self,
        records_max: usize,
        mut visit: impl FnMut(&[u8]),
    ) -> Result<usize, ReadError> {
        let visit = |_, _, payload: &[u8]| {
            visit(payload);
            true
        };
        self.drain_while(records_max, &mut (|_| true, visit))
    }

    /// The same, for the records whose tags the visitor wants; the others are passed without a look
    /// at their payload. Ends early behind the first record for which `visit` returns false.
    ///
    /// # Errors
    ///
    /// As [`Reader::drain`]; what was visited before is valid.
    pub fn drain_while(
        &mut self,
        records_max: usize,
        visitor: &mut impl Visit,
    ) -> Result<usize, ReadError> {
        // Publishes when `visit` panics too.
        struct PublishOnDrop<'a>(&'a Reader);
        impl Drop for PublishOnDrop<'_> {
            fn drop(&mut self) {
                self.0.publish();
            }
        }
        let mut copy = core::mem::take(&mut self.copy);
        let guard = PublishOnDrop(self);
        let reader = guard.0;
        let mut records = 0;
        let mut outcome = Ok(());
        let mut rounds = 0;
        while records < records_max {
            let meta = match reader.peek() {
                Ok(Some(meta)) => meta,
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            };
            let position = reader.position.get();
            let is_wanted = visitor.is_wanted(meta.tag);
            if is_wanted {
                let copied = reader
                    .region
                    .copy_payload(position, meta.payload_bytes, &mut copy);
                if !reader.is_gating() && rounds < reader.region.rounds_max() {
                    // What was copied may be torn: look at this record again.
                    rounds += 1;
                    continue;
                }
                if copied.is_err() || rounds >= reader.region.rounds_max() {
                    outcome = Err(reader.region.damage().into());
                    break;
                }
            }
            rounds = 0;
            reader.pass(meta);
            records += 1;
            if is_wanted && !visitor.visit(position, meta.tag, &copy[..meta.payload_bytes as usize])
            {
                break;
            }
        }
        drop(guard);
        self.copy = copy;
        self.shown = None;
        outcome.map(|()| records)
    }

    /// The next record, if one is committed. The same until [`Reader::advance`] is called. Copy its
    /// payload with [`Reader::payload`].
    ///
    /// # Errors
    ///
    /// As [`Reader::drain`].
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would go on behind a record before it was read"
    )]
    pub fn next(&mut self) -> Result<Option<Record>, ReadError> {
        self.shown = self.peek()?;
        let Some(meta) = self.shown else {
            self.publish();
            return Ok(None);
        };
        Ok(Some(Record {
            position: self.position.get(),
            number: self.number.get(),
            tag: meta.tag,
            payload_bytes: meta.payload_bytes,
        }))
    }

    /// A copy of the payload of the record that [`Reader::next`] has shown; nothing if it has shown
    /// none. The record counts as read only after [`Reader::advance`].
    ///
    /// # Errors
    ///
    /// As [`Reader::drain`].
    pub fn payload(&mut self) -> Result<Option<&[u8]>, ReadError> {
        for _ in 0..self.region.rounds_max() {
            let Some(meta) = self.shown else {
                return Ok(None);
            };
            let mut copy = core::mem::take(&mut self.copy);
            let position = self.position.get();
            let copied = self
                .region
                .copy_payload(position, meta.payload_bytes, &mut copy);
            self.copy = copy;
            if self.is_gating() {
                copied?;
                return Ok(Some(&self.copy[..meta.payload_bytes as usize]));
            }
            // What was copied may be torn: look at this record again.
            self.next()?;
        }
        Err(self.region.damage().into())
    }

    /// Passes the record that [`Reader::next`] has shown; false if it has shown none. Writers may use
    /// its bytes when the reader has published its position: at the latest when it has passed a
    /// sixteenth of the ring, or when `next` finds nothing, or in [`Reader::publish`].
    pub fn advance(&mut self) -> bool {
        let Some(meta) = self.shown.take() else {
            return false;
        };
        self.pass(meta);
        let unpublished = self.position.get().wrapping_sub(self.published.get());
        if unpublished >= self.region.geometry().capacity() / PUBLISH_PARTS {
            self.publish();
        }
        true
    }

    /// Whether there is no record to drain. A record that is claimed and neither committed nor
    /// retired, and all that is behind it, is not there yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let empty = matches!(self.walk(), Ok(None));
        // What was walked over without a visit must not hold the writers while the caller sleeps.
        self.publish();
        empty
    }

    /// The position before which the reader visits nothing any more: each record before it has been
    /// passed, or was claimed before the reader joined or caught up.
    #[must_use]
    pub fn next_position(&self) -> u64 {
        self.position.get().max(self.start.get())
    }

    /// Bytes claimed that this reader has not passed. More than the capacity only while the reader
    /// is out of the gate.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        // Relaxed: every record this reader passed was claimed before its stamp, which it acquired,
        // and every gap before its entry, so the tail it sees is never behind its position.
        let tail = self.region.tail().load(Ordering::Relaxed);
        tail.saturating_sub(self.position.get())
    }

    /// Marks the reader as parked. Returns false, and clears the mark, if a record is already
    /// there: then the caller must not sleep.
    ///
    /// After true, the next [`Writer::wake_parked`] that wants this reader names it and clears the
    /// mark. A reader that wakes for another reason calls [`Reader::unpark`].
    ///
    /// [`Writer::wake_parked`]: crate::Writer::wake_parked
    pub fn park(&self) -> bool {
        let (word, bit) = self.parked_bit();
        // Release: pairs with the acquire load in `Writer::wake_parked`: a writer that sees the mark
        // sees what the caller made known before it, such as which records it wants. The fence
        // orders it before the look below.
        self.region.parked(word).fetch_or(bit, Ordering::Release);
        // SeqCst: pairs with the fence in `Writer::wake_parked`, see there.
        fence(Ordering::SeqCst);
        if self.is_empty() {
            return true;
        }
        self.unpark();
        false
    }

    /// Parks a reader that wants no record: it leaves the gate, so no writer waits for it and none
    /// needs to wake it. Call [`Reader::unpark`] before anything else: it brings the reader back at
    /// the tail.
    pub fn park_away(&self) {
        self.is_away.set(true);
        self.region.put_out(self.index);
    }

    /// Clears the mark. A writer may have taken it already, so one wake-up can still arrive.
    pub fn unpark(&self) {
        if self.is_away.take() {
            // A damaged ring is reported by the next look at a record.
            let _ = self.catch_up();
            return;
        }
        let (word, bit) = self.parked_bit();
        let parked = self.region.parked(word);
        // Relaxed, both: only this reader sets the bit, and clearing it promises nothing.
        if parked.load(Ordering::Relaxed) & bit != 0 {
            parked.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    #[cfg(all(feature = "shared-memory", target_os = "linux", not(loom)))]
    pub(crate) fn wake_word(&self) -> &crate::sync::AtomicU64 {
        self.region.slot_wake(self.index)
    }

    fn parked_bit(&self) -> (u32, u64) {
        (self.index / u64::BITS, 1 << (self.index % u64::BITS))
    }

    /// Whether no load of the reader up to now can have seen a later lap (rule 3 of `record.rs`).
    fn is_gating(&self) -> bool {
        fence(Ordering::Acquire);
        // Relaxed: the fence orders it.
        self.region.slot(self.index).load(Ordering::Relaxed) == self.published.get()
    }

    /// Goes behind the record at the position. The end was checked in `walk`.
    fn pass(&self, meta: Meta) {
        let span = layout::span(meta.payload_bytes);
        self.position.set(self.position.get().wrapping_add(span));
        if meta.kind == KIND_DATA {
            self.number.set(self.number.get().wrapping_add(1));
        }
    }

    /// Walks to the next record to be visited; nothing if it is not committed yet. A reader that was
    /// put out of the gate enters it again here, or catches up and says what it missed.
    fn peek(&self) -> Result<Option<Meta>, ReadError> {
        self.walk().or_else(|stop| match stop {
            Stop::Damaged => Err(ReadError::Damaged),
            Stop::Lapped => {
                let position = self.position.get();
                self.catch_up()?;
                Err(ReadError::Lapped(Lapped {
                    bytes: self.start.get().saturating_sub(position),
                }))
            }
        })
    }

    /// The same; an error where the reader has been lapped.
    fn walk(&self) -> Result<Option<Meta>, Stop> {
        let capacity = self.region.geometry().capacity();
        let mut rounds = 0;
        loop {
            let position = self.position.get();
            let committed = self.region.committed(position);
            let behind_gap = match committed {
                Some(_) => None,
                None => self.region.behind_gap(position),
            };
            if !self.is_gating() {
                // Each further round means that it was put out again.
                rounds += 1;
                if rounds > self.region.rounds_max() {
                    return Err(self.region.damage().into());
                }
                self.enter_again()?;
                continue;
            }
            let next = match (committed, behind_gap) {
                (Some(meta), _) => position.wrapping_add(layout::span(meta.payload_bytes)),
                (None, Some(behind)) => behind,
                (None, None) => return Ok(None),
            };
            // No writer gets further than a capacity before what the reader has published. This is
            // what ends the loop in a damaged ring: a gap has bytes, and so has a record.
            if next.wrapping_sub(self.published.get()) > capacity {
                return Err(self.region.damage().into());
            }
            match committed {
                Some(meta) if meta.kind == KIND_DATA && position >= self.start.get() => {
                    return Ok(Some(meta));
                }
                Some(meta) => self.pass(meta),
                None => self.position.set(next),
            }
        }
    }

    fn anchor(&self) -> Anchor {
        Anchor {
            position: self.position.get(),
            number: self.number.get(),
        }
    }

    #[cold]
    fn enter_again(&self) -> Result<(), Stop> {
        let anchor = self.anchor();
        let entered = self.region.enter(self.index, |limit_before| {
            (anchor.position >= limit_before).then(|| {
                // In front of the position: see `anchors.rs`.
                self.region.note(self.index, anchor);
                anchor.position
            })
        });
        self.published.set(entered.ok_or(Stop::Lapped)?);
        Ok(())
    }

    /// Enters the gate near the tail; nothing that is claimed before this call is visited.
    #[cold]
    fn catch_up(&self) -> Result<(), Damaged> {
        // Acquire: as in `attach`.
        let start = self.region.tail().load(Ordering::Acquire);
        // So that the newest anchor is not before what this reader has walked over.
        self.region.note(self.index, self.anchor());
        let entered = self.region.enter_at_newest(self.index).ok_or(Damaged)?;
        self.start.set(start);
        self.position.set(entered.position);
        self.number.set(entered.number);
        self.published.set(entered.position);
        Ok(())
    }

    /// Lets the writers have the bytes of the records that were passed.
    pub fn publish(&self) {
        let (position, published) = (self.position.get(), self.published.get());
        if position == published {
            return;
        }
        // In front of the position: see `anchors.rs`.
        self.region.note(self.index, self.anchor());
        // Release: pairs with the acquire load in `Region::slowest`: what this reader did with the
        // records comes before what a writer does with their bytes. A swap, because the reader may
        // have been put out of the gate: then its slot must stay as it is until `enter`.
        let swapped = self.region.slot(self.index).compare_exchange(
            published,
            position,
            Ordering::Release,
            Ordering::Relaxed,
        );
        if swapped.is_ok() {
            self.published.set(position);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // The sweeper never parks and has no bit.
        if self.index < self.region.geometry().readers_max() {
            self.is_away.set(false);
            self.unpark();
        }
        self.region.free_slot(self.index);
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Reader")
            .field("index", &self.index)
            .field("position", &self.position.get())
            .finish_non_exhaustive()
    }
}

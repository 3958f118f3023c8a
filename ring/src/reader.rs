//! Reading: walk, copy, visit, publish, park.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use crate::error::Lapped;
use crate::layout;
use crate::layout::SLOT_FREE;
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
    published: Cell<u64>,
    /// Whether it has left the gate by itself.
    is_away: Cell<bool>,
    copy: Vec<u8>,
}

impl Reader {
    /// Joins in slot `index`; nothing if it is taken.
    pub(crate) fn attach(region: &Arc<Region>, index: u32) -> Option<Self> {
        let position = region.join(index)?;
        // Acquire: pairs with the release of the claim that made this tail, so that what its writer
        // did before it claimed is seen by whoever relies on `next_position`.
        let start = region.tail().load(Ordering::Acquire);
        let reader = Self {
            region: Arc::clone(region),
            index,
            start: Cell::new(start),
            position: Cell::new(position),
            published: Cell::new(position),
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
    /// [`Lapped`] if the reader was put out of the gate and its next record is overwritten. It has
    /// then caught up: the next call begins with records that are written from now on.
    pub fn drain(
        &mut self,
        records_max: usize,
        mut visit: impl FnMut(&[u8]),
    ) -> Result<usize, Lapped> {
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
    ) -> Result<usize, Lapped> {
        // Publishes when `visit` panics too.
        struct PublishOnDrop<'a>(&'a Reader);
        impl Drop for PublishOnDrop<'_> {
            fn drop(&mut self) {
                self.0.publish();
            }
        }
        let mut copy = std::mem::take(&mut self.copy);
        let guard = PublishOnDrop(self);
        let reader = guard.0;
        let mut records = 0;
        let mut outcome = Ok(());
        while records < records_max {
            let meta = match reader.peek() {
                Ok(Some(meta)) => meta,
                Ok(None) => break,
                Err(lapped) => {
                    outcome = Err(lapped);
                    break;
                }
            };
            let position = reader.position.get();
            let is_wanted = visitor.is_wanted(meta.tag);
            if is_wanted {
                reader
                    .region
                    .copy_payload(position, meta.payload_bytes, &mut copy);
                if !reader.is_gating() {
                    // What was copied may be torn: look at this record again.
                    continue;
                }
            }
            reader
                .position
                .set(position + layout::span(meta.payload_bytes));
            records += 1;
            if is_wanted && !visitor.visit(position, meta.tag, &copy[..meta.payload_bytes as usize])
            {
                break;
            }
        }
        drop(guard);
        self.copy = copy;
        outcome.map(|()| records)
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
        self.region.tail().load(Ordering::Relaxed) - self.position.get()
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
            self.catch_up();
            return;
        }
        let (word, bit) = self.parked_bit();
        let parked = self.region.parked(word);
        // Relaxed, both: only this reader sets the bit, and clearing it promises nothing.
        if parked.load(Ordering::Relaxed) & bit != 0 {
            parked.fetch_and(!bit, Ordering::Relaxed);
        }
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

    /// Walks to the next record to be visited; nothing if it is not committed yet. A reader that was
    /// put out of the gate enters it again here, or catches up and says what it missed.
    fn peek(&self) -> Result<Option<Meta>, Lapped> {
        self.walk().map_err(|()| {
            let position = self.position.get();
            self.catch_up();
            Lapped {
                bytes: self.start.get() - position,
            }
        })
    }

    /// The same; an error where the reader has been lapped.
    fn walk(&self) -> Result<Option<Meta>, ()> {
        loop {
            let position = self.position.get();
            let committed = self.region.committed(position);
            let behind_gap = match committed {
                Some(_) => None,
                None => self.region.behind_gap(position),
            };
            if !self.is_gating() {
                self.enter_again()?;
                continue;
            }
            let Some(meta) = committed else {
                let Some(behind) = behind_gap else {
                    return Ok(None);
                };
                self.position.set(behind);
                continue;
            };
            if meta.kind == KIND_DATA && position >= self.start.get() {
                return Ok(Some(meta));
            }
            self.position
                .set(position + layout::span(meta.payload_bytes));
        }
    }

    #[cold]
    fn enter_again(&self) -> Result<(), ()> {
        let position = self.position.get();
        let entered = self.region.enter(self.index, |limit_before| {
            (position >= limit_before).then_some(position)
        });
        self.published.set(entered.ok_or(())?);
        Ok(())
    }

    /// Enters the gate near the tail; nothing that is claimed before this call is visited.
    #[cold]
    fn catch_up(&self) {
        // Acquire: as in `attach`.
        let start = self.region.tail().load(Ordering::Acquire);
        self.start.set(start);
        let fastest = self.region.fastest().unwrap_or(0);
        let entered = self.region.enter(self.index, |limit_before| {
            Some(fastest.max(limit_before).max(self.position.get()))
        });
        let position = entered.unwrap_or_else(|| unreachable!("a position is always named"));
        self.position.set(position);
        self.published.set(position);
    }

    fn publish(&self) {
        let (position, published) = (self.position.get(), self.published.get());
        if position == published {
            return;
        }
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
        // Release: pairs with the acquire load in `Region::slowest` and the swap in `Region::join`.
        self.region
            .slot(self.index)
            .store(SLOT_FREE, Ordering::Release);
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

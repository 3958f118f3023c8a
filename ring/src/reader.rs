//! Reading: walk, visit, publish, park.
#![expect(
    unsafe_code,
    reason = "records are read in place, in memory that is reused"
)]

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use crate::layout::{self, SLOT_FREE};
use crate::record::{KIND_DATA, Meta};
use crate::region::Region;
use crate::sync::{Ordering, fence};

/// Reads every record of a ring in the ring's order. Writers wait for it.
///
/// ```text
///  slot (published) <= position <= tail
/// ```
pub struct Reader {
    region: Arc<Region>,
    index: u32,
    /// Records before it are from before the join: they are walked over, because whoever publishes
    /// a position vouches that all before it is committed, but they are not visited.
    start: u64,
    position: Cell<u64>,
    published: Cell<u64>,
}

impl Reader {
    /// Joins in slot `index`; nothing if it is taken.
    pub(crate) fn attach(region: &Arc<Region>, index: u32) -> Option<Self> {
        let position = region.join(index)?;
        // Relaxed: coherence is enough for every claim that happens before this call to be before
        // `start`, and `start` only says which records are shown.
        let start = region.tail().load(Ordering::Relaxed);
        let reader = Self {
            region: Arc::clone(region),
            index,
            start,
            position: Cell::new(position),
            published: Cell::new(position),
        };
        reader.peek();
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

    /// Hands up to `records_max` committed records to `visit`, in order, then publishes the new
    /// position once. Returns how many.
    ///
    /// The bytes lie in the ring, and writers get no room until this returns: copy what is needed
    /// and bound `records_max`. If `visit` panics, its record counts as read and the position is
    /// published, so the next call goes on behind it.
    pub fn drain(&mut self, records_max: usize, mut visit: impl FnMut(&[u8])) -> usize {
        self.drain_while(records_max, |payload| {
            visit(payload);
            true
        })
    }

    /// The same, ending early behind the first record for which `visit` returns false.
    pub fn drain_while(
        &mut self,
        records_max: usize,
        mut visit: impl FnMut(&[u8]) -> bool,
    ) -> usize {
        // Publishes when `visit` panics too. Not before: the slices are in use until then.
        struct PublishOnDrop<'a>(&'a Reader);
        impl Drop for PublishOnDrop<'_> {
            fn drop(&mut self) {
                self.0.publish();
            }
        }
        let guard = PublishOnDrop(self);
        let reader = guard.0;
        let mut records = 0;
        while records < records_max {
            let Some(meta) = reader.peek() else { break };
            let position = reader.position.get();
            let payload = reader.region.payload_to_read(position, meta.payload_bytes);
            reader
                .position
                .set(position + layout::span(meta.payload_bytes));
            records += 1;
            // SAFETY: `peek` saw the record committed, so its bytes are initialised and were
            // written before; nobody writes them before this reader publishes a position behind
            // the record (rules 4 and 5 of `record.rs`), which the guard does after `visit`.
            if !visit(unsafe { payload.as_ref() }) {
                break;
            }
        }
        drop(guard);
        records
    }

    /// Whether there is no record to drain. A record that is claimed but not committed, and all
    /// that is behind it, is not there yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let empty = self.peek().is_none();
        // What was walked over without a visit must not hold the writers while the caller sleeps.
        self.publish();
        empty
    }

    /// Bytes claimed that this reader has not passed, `0..=capacity`.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        // Relaxed: every record this reader passed was claimed before its stamp, which it acquired,
        // so the tail it sees is never behind its position.
        self.region.tail().load(Ordering::Relaxed) - self.position.get()
    }

    /// Marks the reader as parked. Returns false, and clears the mark, if a record is already
    /// there: then the caller must not sleep.
    ///
    /// After true, the next [`Writer::wake_parked`] names this reader and clears the mark. A reader
    /// that wakes for another reason calls [`Reader::unpark`].
    ///
    /// [`Writer::wake_parked`]: crate::Writer::wake_parked
    pub fn park(&self) -> bool {
        let (word, bit) = self.parked_bit();
        // Relaxed: the fence orders it.
        self.region.parked(word).fetch_or(bit, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `Writer::wake_parked`, see there.
        fence(Ordering::SeqCst);
        if self.is_empty() {
            return true;
        }
        self.unpark();
        false
    }

    /// Clears the mark. A writer may have taken it already, so one wake-up can still arrive.
    pub fn unpark(&self) {
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

    /// Walks to the next record to be visited; nothing if it is not committed yet.
    fn peek(&self) -> Option<Meta> {
        loop {
            let position = self.position.get();
            // SAFETY: the slot of this reader holds `published`, which came from `join` or from
            // this walk; from there to `position` every step of this loop saw a commit.
            let meta = unsafe { self.region.committed(position) }?;
            if meta.kind == KIND_DATA && position >= self.start {
                return Some(meta);
            }
            self.position
                .set(position + layout::span(meta.payload_bytes));
        }
    }

    fn publish(&self) {
        let position = self.position.get();
        if position != self.published.get() {
            // Release: pairs with the acquire load in `Region::slowest`: what this reader did with
            // the records comes before what a writer does with their bytes.
            self.region
                .slot(self.index)
                .store(position, Ordering::Release);
            self.published.set(position);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // The sweeper never parks and may have no bit.
        if self.index < self.region.geometry().readers_max() {
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

//! Writing: claim, fill, commit, wake.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use crate::error::{Retired, WriteError};
use crate::layout::{self, Gate};
use crate::reader::Reader;
use crate::record::{Filler, KIND_ABORTED, KIND_DATA, Meta};
use crate::region::Region;
use crate::sync::{Ordering, fence};

/// Writes records into a ring. Clones write into the same ring.
#[derive(Clone)]
pub struct Writer {
    region: Arc<Region>,
}

impl Writer {
    pub(crate) fn new(region: Arc<Region>) -> Self {
        Self { region }
    }

    /// Writes one record made of the concatenation of `parts`, and returns its position. `tag` is
    /// what readers decide by whether they want it. If the record is retired while it is written, it
    /// is written again, behind those of others. Call [`Writer::wake_parked`] after it, or once
    /// after several.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; then nothing was written.
    pub fn try_write(&self, tag: u64, parts: &[&[u8]]) -> Result<u64, WriteError> {
        // Saturating: the same large slice can be given often enough to overflow.
        let payload_bytes = parts
            .iter()
            .fold(0, |sum: usize, part| sum.saturating_add(part.len()));
        let payload_bytes = u32::try_from(payload_bytes).map_err(|_| WriteError::TooLarge)?;
        loop {
            let mut grant = self.try_reserve(tag, payload_bytes)?;
            for part in parts {
                grant.write(part);
            }
            let position = grant.position();
            if grant.commit().is_ok() {
                return Ok(position);
            }
            // This thread did not get on for so long that its claim was retired. Relaxed: a counter,
            // it orders nothing.
            self.region
                .rewritten_total()
                .fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Claims a record to be filled in place.
    ///
    /// Readers do not get past the record until the grant is committed, dropped or retired, so hold
    /// it briefly.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; then nothing was claimed.
    pub fn try_reserve(&self, tag: u64, payload_bytes: u32) -> Result<Grant<'_>, WriteError> {
        if payload_bytes > self.region.geometry().record_bytes_max() {
            return Err(WriteError::TooLarge);
        }
        let position = self.claim(layout::span(payload_bytes))?;
        Ok(Grant {
            region: &self.region,
            position,
            tag,
            payload_bytes,
            filler: Filler::new(position, payload_bytes),
        })
    }

    /// Calls `wake(reader_index)` once for every parked reader that `wanted` names, and clears its
    /// mark. `wanted` gives the bits of the readers `64 * word ..`; it is called after the caller's
    /// commits can be seen.
    ///
    /// Every writer must call it after its own commits (and after dropping a grant): a reader that
    /// stands before a slower writer's record sleeps until that record is committed, whoever has
    /// committed behind it. A parked reader that is not woken holds the ring at its position, so
    /// wake all readers at least once per part of a lap, and when the ring is full. A reader that
    /// left meanwhile may be named; waking is never wrong.
    pub fn wake_parked(&self, mut wanted: impl FnMut(u32) -> u64, mut wake: impl FnMut(u32)) {
        // SeqCst: pairs with the fence in `Reader::park`. Of the two fences one comes first. If it
        // is ours, the reader's look at the ring sees our commit; if it is the reader's, our load
        // of its mark sees it. Never neither.
        fence(Ordering::SeqCst);
        for word in 0..self.region.geometry().parked_words() {
            let parked = self.region.parked(word);
            // Acquire: pairs with the release in `Reader::park`, for what `wanted` looks up. The fence
            // above orders it behind the commits.
            let mut marks = parked.load(Ordering::Acquire);
            if marks != 0 {
                marks &= wanted(word);
            }
            while marks != 0 {
                let bit = marks.trailing_zeros();
                marks &= marks - 1;
                // One mark at a time, so that a panic in `wake` loses no other reader's. Relaxed:
                // that only one writer wakes comes from the swap itself; the reader learns of
                // records by their stamps.
                if parked.fetch_and(!(1 << bit), Ordering::Relaxed) & (1 << bit) != 0 {
                    wake(word * u64::BITS + bit);
                }
            }
        }
    }

    /// Takes `span` bytes for a record and returns its position. Where the record does not fit, at
    /// the end of a lap or before a gap, it takes padding first and commits it.
    ///
    /// By compare-and-swap, not by adding: an add cannot be taken back, so a writer that finds the
    /// ring full after it has already claimed bytes that readers wait for. The price is a retry
    /// when writers collide; `benches/ring.rs` has the numbers.
    fn claim(&self, span: u64) -> Result<u64, WriteError> {
        let region = &*self.region;
        // Acquire, here and on failure below: pairs with the release of the claim that made this
        // tail, so that the gate is not read older than the one which allowed that claim.
        let mut tail = region.tail().load(Ordering::Acquire);
        loop {
            // Acquire: pairs with `Region::raise`: all accesses to the bytes below the limit are
            // over (rule 2 of `record.rs`), and the gaps below it can be seen. If the tail moved
            // meanwhile the limit may be restored wrongly, but then the swap below fails.
            let limit = Gate(region.gate().load(Ordering::Acquire)).limit(tail);
            let claim = region.next_claim(tail, span);
            if claim.end > limit {
                tail = self.make_room(span)?;
                continue;
            }
            // Release: pairs with the acquire loads of the tail, see there. No acquire: a tail's
            // value never comes back, so this reads the store that was acquired above.
            match region.tail().compare_exchange_weak(
                tail,
                claim.end,
                Ordering::Release,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    region.begin_fill();
                    if !claim.is_padding {
                        return Ok(claim.position);
                    }
                    let meta = Meta::padding(claim.end - claim.position);
                    // Retired padding is passed like padding.
                    let _ = region.commit(claim.position, meta);
                    tail = claim.end;
                }
                Err(moved) => tail = moved,
            }
        }
    }

    /// Raises the limit until `span` bytes fit; returns a tail at which they did.
    #[cold]
    fn make_room(&self, span: u64) -> Result<u64, WriteError> {
        let region = &*self.region;
        let geometry = region.geometry();
        loop {
            // Each further round means that another thread joined, claimed or raised.
            let snapshot = region.snapshot();
            let end = region.next_claim(snapshot.tail, span).end;
            if end <= snapshot.limit {
                return Ok(snapshot.tail);
            }
            match region.slowest() {
                Some(slowest) if end <= slowest + geometry.capacity() => {
                    region.raise(&snapshot, slowest + geometry.capacity());
                }
                Some(_) => return Err(WriteError::Full),
                None => {
                    self.sweep();
                    if region.snapshot().limit == snapshot.limit {
                        return Err(WriteError::Full);
                    }
                }
            }
        }
    }

    /// Stands in for a reader, so that a ring without readers does not fill up; see `gate.rs`.
    fn sweep(&self) {
        let region = &*self.region;
        // If another writer sweeps, its result will do.
        let Some(sweeper) = Reader::attach(&self.region, region.geometry().sweeper_index()) else {
            return;
        };
        loop {
            let snapshot = region.snapshot();
            let slowest = region.slowest().expect("the sweeper's own slot is taken");
            let limit = slowest + region.geometry().capacity();
            if limit <= snapshot.limit || region.raise(&snapshot, limit) {
                break;
            }
        }
        drop(sweeper);
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// A claimed record, to be filled and committed.
///
/// Dropped without a commit (by a panic, say) it becomes a record that readers skip, and is counted
/// in [`Ring::aborted_total`](crate::Ring::aborted_total); call [`Writer::wake_parked`] then too.
/// Held for too long it stops the ring, or is retired where a [`Retirer`](crate::Retirer) looks.
/// Forgotten (`mem::forget`) its bytes are lost for good.
#[must_use = "a dropped grant is an aborted record"]
pub struct Grant<'a> {
    region: &'a Region,
    position: u64,
    tag: u64,
    payload_bytes: u32,
    filler: Filler,
}

impl Grant<'_> {
    /// Where the record is: bytes since the ring was made, greater than that of every record before.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes that are reserved and not written yet.
    #[must_use]
    pub fn rest_bytes(&self) -> usize {
        self.filler.rest_bytes()
    }

    /// Appends `bytes` to the record.
    ///
    /// # Panics
    ///
    /// If they are more than [`Grant::rest_bytes`].
    pub fn write(&mut self, bytes: &[u8]) {
        self.filler.write(self.region, bytes);
    }

    /// Makes the record visible to all readers. What was not written is zero.
    ///
    /// # Errors
    ///
    /// [`Retired`]: the grant was held for too long, and no reader sees the record.
    pub fn commit(self) -> Result<(), Retired> {
        let mut grant = ManuallyDrop::new(self);
        let region = grant.region;
        grant.filler.finish(region);
        grant.end(KIND_DATA)
    }

    fn end(&self, kind: u32) -> Result<(), Retired> {
        let meta = Meta {
            payload_bytes: self.payload_bytes,
            kind,
            tag: self.tag,
        };
        self.region.commit(self.position, meta)
    }
}

impl Drop for Grant<'_> {
    fn drop(&mut self) {
        // Relaxed: a counter, it orders nothing.
        self.region.aborted_total().fetch_add(1, Ordering::Relaxed);
        // A retired record is skipped like an aborted one.
        let _ = self.end(KIND_ABORTED);
    }
}

impl fmt::Debug for Grant<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Grant")
            .field("position", &self.position)
            .field("payload_bytes", &self.payload_bytes)
            .finish_non_exhaustive()
    }
}

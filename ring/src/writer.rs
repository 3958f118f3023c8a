//! Writing: claim, fill, commit, wake.

use alloc::sync::Arc;
use core::fmt;
use core::mem::ManuallyDrop;

use crate::announcements::Announcer;
use crate::error::{Damaged, Retired, WriteError};
use crate::layout::{self, Gate, ROUNDS_MAX};
use crate::reader::Reader;
use crate::record::{Filler, KIND_ABORTED, KIND_DATA, Meta};
use crate::region::Region;
use crate::sync::{Ordering, fence};

/// Writes records into a ring. Clones write into the same ring.
///
/// In a shared ring a writer and its clones have one line in which they announce their claims, so
/// that others can tell what a dead writer has claimed: they can have seven grants open at a time,
/// and threads that write much do better with writers of their own.
#[derive(Clone)]
pub struct Writer {
    region: Arc<Region>,
    /// In a shared ring, if a line was free.
    announcer: Option<Arc<Announcer>>,
    lag_bytes_max: u64,
}

/// An announcement that is taken back when the claim has come to its end.
struct Announced<'a>(Option<(&'a Announcer, u8)>);

impl Announced<'_> {
    fn announce(&self, position: u64, end: u64) {
        if let Some((announcer, index)) = self.0 {
            announcer.announce(index, position, end);
        }
    }

    /// Leaves the announcement to a grant.
    fn into_index(self) -> u8 {
        ManuallyDrop::new(self).0.map_or(0, |(_, index)| index)
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        if let Some((announcer, index)) = self.0 {
            announcer.clear(index);
        }
    }
}

impl Writer {
    pub(crate) fn new(region: Arc<Region>) -> Self {
        let announcer = match region.peer {
            Some(_) => Announcer::new(&region).map(Arc::new),
            None => None,
        };
        Self {
            region,
            announcer,
            lag_bytes_max: u64::MAX,
        }
    }

    /// The same writer with a bound on the readers' lag: whenever it has used up the room it knew of,
    /// which it does at least once per lap, it puts every reader out of the gate that is more than
    /// `bytes` behind, as [`Ring::put_out_laggards`](crate::Ring::put_out_laggards) does. So a reader
    /// that stands still is put out after a capacity of bytes at the latest. Without it a writer
    /// waits for every reader.
    #[must_use]
    pub fn with_lag_bytes_max(mut self, bytes: u64) -> Self {
        self.lag_bytes_max = bytes;
        self
    }

    #[inline(always)]
    fn announced(&self) -> Result<Announced<'_>, WriteError> {
        let Some(announcer) = self.announcer.as_deref() else {
            // A ring of one process has none.
            return match (self.region.is_read_only(), &self.region.peer) {
                (true, _) => Err(WriteError::ReadOnly),
                (false, Some(_)) => Err(WriteError::TooManyGrants),
                (false, None) => Ok(Announced(None)),
            };
        };
        let index = announcer.take().ok_or(WriteError::TooManyGrants)?;
        Ok(Announced(Some((announcer, index))))
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
        for _ in 0..ROUNDS_MAX {
            if payload_bytes > self.region.geometry().record_bytes_max() {
                return Err(WriteError::TooLarge);
            }
            // What a grant does, without one: it would be moved about, which costs more than the rest.
            let announced = self.announced()?;
            let position = self.claim(layout::span(payload_bytes), &announced)?;
            let mut filler = Filler::new(position, payload_bytes);
            for part in parts {
                filler.write(&self.region, part);
            }
            filler.finish(&self.region);
            let meta = Meta {
                payload_bytes,
                kind: KIND_DATA,
                tag,
            };
            let committed = self.region.commit(position, meta);
            // Behind the commit: see `announcements.rs`.
            drop(announced);
            if committed.is_ok() {
                return Ok(position);
            }
            // This thread did not get on for so long that its claim was retired. Relaxed: a counter,
            // it orders nothing.
            self.region
                .rewritten_total()
                .fetch_add(1, Ordering::Relaxed);
        }
        Err(self.region.damage().into())
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
        self.grant(Holder::Borrowed(self), tag, payload_bytes)
    }

    /// The same, as a grant that borrows nothing: it can be kept in a struct, sent to another thread, or
    /// held across an await or a border of languages. It holds a clone of the writer.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; then nothing was claimed.
    pub fn try_reserve_owned(
        &self,
        tag: u64,
        payload_bytes: u32,
    ) -> Result<Grant<'static>, WriteError> {
        self.grant(Holder::Owned(self.clone()), tag, payload_bytes)
    }

    #[inline(always)]
    fn grant<'a>(
        &self,
        holder: Holder<'a>,
        tag: u64,
        payload_bytes: u32,
    ) -> Result<Grant<'a>, WriteError> {
        if payload_bytes > self.region.geometry().record_bytes_max() {
            return Err(WriteError::TooLarge);
        }
        let announced = self.announced()?;
        let span = layout::span(payload_bytes);
        let position = self.claim(span, &announced)?;
        Ok(Grant {
            holder,
            entry: announced.into_index(),
            position,
            tag,
            span,
            payload_bytes,
            filler: Filler::new(position, payload_bytes),
            is_ended: false,
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
        if self.region.is_read_only() {
            return;
        }
        for word in 0..self.region.geometry().parked_words() {
            let parked = self.region.parked(word);
            // Acquire: pairs with the release in `Reader::park`, for what `wanted` looks up. The fence
            // above orders it behind the commits.
            let mut marks = parked.load(Ordering::Acquire);
            if marks != 0 {
                // No other bits are ever set but by a peer that wants to do harm.
                let readers = self.region.geometry().readers_max() - word * u64::BITS;
                let valid = u64::MAX >> u64::BITS.saturating_sub(readers);
                marks &= wanted(word) & valid;
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

    #[cfg(all(feature = "shared-memory", target_os = "linux", not(loom)))]
    pub(crate) fn wake_word(&self, reader_index: u32) -> &crate::sync::AtomicU64 {
        assert!(reader_index < self.region.geometry().readers_max());
        self.region.slot_wake(reader_index)
    }

    /// Takes `span` bytes for a record and returns its position. Where the record does not fit, at
    /// the end of a lap or before a gap, it takes padding first and commits it.
    ///
    /// By compare-and-swap, not by adding: an add cannot be taken back, so a writer that finds the
    /// ring full after it has already claimed bytes that readers wait for. The price is a retry
    /// when writers collide; `benches/ring.rs` has the numbers.
    #[inline]
    fn claim(&self, span: u64, announced: &Announced<'_>) -> Result<u64, WriteError> {
        let region = &*self.region;
        // Acquire, here and on failure below: pairs with the release of the claim that made this
        // tail, so that the gate is not read older than the one which allowed that claim.
        let mut tail = region.tail().load(Ordering::Acquire);
        for _ in 0..ROUNDS_MAX {
            // Acquire: pairs with `Region::raise`: all accesses to the bytes below the limit are
            // over (rule 2 of `record.rs`), and the gaps below it can be seen. If the tail moved
            // meanwhile the limit may be restored wrongly, but then the swap below fails.
            let limit = Gate(region.gate().load(Ordering::Acquire)).limit(tail);
            let claim = region.next_claim(tail, span);
            if claim.end > limit {
                tail = self.make_room(span)?;
                continue;
            }
            // In front of the swap, whose release orders it: see `announcements.rs`.
            announced.announce(claim.position, claim.end);
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
                    region.prefetch(claim.end, claim.end.wrapping_sub(claim.position));
                    if !claim.is_padding {
                        return Ok(claim.position);
                    }
                    let meta = Meta::padding(claim.end.wrapping_sub(claim.position));
                    // Retired padding is passed like padding.
                    let _ = region.commit(claim.position, meta);
                    tail = claim.end;
                }
                Err(moved) => tail = moved,
            }
        }
        Err(region.damage().into())
    }

    /// Raises the limit until `span` bytes fit; returns a tail at which they did.
    #[cold]
    fn make_room(&self, span: u64) -> Result<u64, WriteError> {
        let region = &*self.region;
        let capacity = region.geometry().capacity();
        if self.lag_bytes_max < u64::MAX {
            region.put_out_laggards(self.lag_bytes_max);
        }
        for _ in 0..region.rounds_max() {
            // Each further round means that another thread joined, claimed or raised.
            let snapshot = region.snapshot();
            let end = region.next_claim(snapshot.tail, span).end;
            if end <= snapshot.limit {
                return Ok(snapshot.tail);
            }
            match region.slowest() {
                Some(slowest) if end <= slowest.wrapping_add(capacity) => {
                    region.raise(&snapshot, slowest.wrapping_add(capacity));
                }
                Some(_) => return Err(WriteError::Full),
                None => {
                    self.sweep()?;
                    if region.snapshot().limit == snapshot.limit {
                        return Err(WriteError::Full);
                    }
                }
            }
        }
        Err(region.damage().into())
    }

    /// Stands in for a reader, so that a ring without readers does not fill up; see `gate.rs`.
    fn sweep(&self) -> Result<(), Damaged> {
        let region = &*self.region;
        // If another writer sweeps, its result will do.
        let Some(sweeper) = Reader::attach(&self.region, region.geometry().sweeper_index()) else {
            return Ok(());
        };
        for _ in 0..region.rounds_max() {
            let snapshot = region.snapshot();
            let Some(slowest) = region.slowest() else {
                // The sweeper's own slot is taken, so a peer has freed it.
                break;
            };
            let limit = slowest.wrapping_add(region.geometry().capacity());
            if limit <= snapshot.limit || region.raise(&snapshot, limit) {
                drop(sweeper);
                return Ok(());
            }
        }
        Err(region.damage())
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// Whose writer a grant is of.
enum Holder<'a> {
    Borrowed(&'a Writer),
    Owned(Writer),
}

impl Holder<'_> {
    #[inline]
    fn writer(&self) -> &Writer {
        match self {
            Self::Borrowed(writer) => writer,
            Self::Owned(writer) => writer,
        }
    }
}

/// A claimed record, to be filled and committed. Its bytes can be written and not be read, so nothing
/// is ever seen of the records that had them before.
///
/// Dropped without a commit (by a panic, say) it becomes a record that readers skip, and is counted
/// in [`Ring::aborted_total`](crate::Ring::aborted_total); call [`Writer::wake_parked`] then too.
/// Held for too long it stops the ring, or is retired where a [`Retirer`](crate::Retirer) looks.
/// Forgotten (`mem::forget`) its bytes are lost for good.
#[must_use = "a dropped grant is an aborted record"]
pub struct Grant<'a> {
    holder: Holder<'a>,
    /// Of the writer's announcements.
    entry: u8,
    position: u64,
    tag: u64,
    /// Bytes that are claimed.
    span: u64,
    payload_bytes: u32,
    filler: Filler,
    /// Committed or retired; nothing is left to be done when it is dropped.
    is_ended: bool,
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
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        self.filler.write(&self.holder.writer().region, bytes);
    }

    /// Makes the record visible to all readers. What was not written is zero.
    ///
    /// # Errors
    ///
    /// [`Retired`]: the grant was held for too long, and no reader sees the record.
    #[inline(always)]
    pub fn commit(mut self) -> Result<(), Retired> {
        self.filler.finish(&self.holder.writer().region);
        self.is_ended = true;
        self.resolve(KIND_DATA)
    }

    /// The same with a payload of the first `payload_bytes` bytes; the rest of the claim becomes
    /// padding, which is free with the record. For a payload whose length is known only when it is
    /// there.
    ///
    /// # Errors
    ///
    /// [`Retired`], as [`Grant::commit`].
    ///
    /// # Panics
    ///
    /// If they are more than were reserved.
    pub fn commit_shortened(mut self, payload_bytes: u32) -> Result<(), Retired> {
        assert!(
            payload_bytes <= self.payload_bytes,
            "more bytes than reserved"
        );
        let region = &*self.holder.writer().region;
        self.filler.shorten(region, payload_bytes);
        let span = layout::span(payload_bytes);
        if span < self.span {
            // In front of the record's commit: once that can be seen, readers go on behind it. If the
            // claim is retired in between, the padding is in front of the gap's end or behind it, and
            // is returned or passed like any other record.
            let rest = Meta::padding(self.span - span);
            let _ = region.commit(self.position + span, rest);
        }
        self.payload_bytes = payload_bytes;
        self.commit()
    }

    /// Commits as `kind`, and takes the announcement back behind it.
    #[inline(always)]
    fn resolve(&self, kind: u32) -> Result<(), Retired> {
        let meta = Meta {
            payload_bytes: self.payload_bytes,
            kind,
            tag: self.tag,
        };
        let writer = self.holder.writer();
        let ended = writer.region.commit(self.position, meta);
        if let Some(announcer) = &writer.announcer {
            announcer.clear(self.entry);
        }
        ended
    }
}

impl Drop for Grant<'_> {
    fn drop(&mut self) {
        if self.is_ended {
            return;
        }
        let region = &self.holder.writer().region;
        // Relaxed: a counter, it orders nothing.
        region.aborted_total().fetch_add(1, Ordering::Relaxed);
        // A retired record is skipped like an aborted one.
        let _ = self.resolve(KIND_ABORTED);
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

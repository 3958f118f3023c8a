//! What a record is: how it is filled, committed, recognized and copied.
//!
//! The rules of the ring:
//!
//! 1. The claim of `[position, end)` succeeded by moving the tail, so no two claims overlap, and it
//!    ended at or below a limit that the writer had read with acquire.
//! 2. Every record before `limit - capacity` is committed or retired, and every reader *in the gate*
//!    stands at or after `limit - capacity`. `gate.rs` proves it. So a claim never takes bytes that
//!    a reader in the gate has not passed. Nor does it take bytes of a retired claim: they are a
//!    gap (`gaps.rs`) until their writer has returned them.
//! 3. A reader can be put out of the gate while it reads. Whoever does so changes the reader's slot
//!    before any limit ignores the reader. The writer of a later claim has a release fence between
//!    its claim and its first store; the reader has an acquire fence between its last load and a
//!    look at its own slot. So if any load saw such a store, the look finds the slot changed (C11
//!    7.17.4, fence-fence synchronization through the word that was loaded), and the reader forgets
//!    what it loaded. A slot that is unchanged proves the copy whole. (Boehm, "Can seqlocks get along
//!    with programming language memory models?", MSPC 2012.)
//! 4. A stamp is stored with release after everything else of its record, and loaded with acquire.
//! 5. From its claim on, the first word of a record is changed by swaps from the value that was
//!    loaded: by its writer to the stamp, and by the retirer to the mark of a retired record. One of
//!    them succeeds. Nobody else stores into the word, as its bytes are not claimed again before the
//!    one is passed by all, or the other answered: a writer that finds its record retired stores
//!    the mark that returns its bytes, and that is its last access to them.
//!
//! ```text
//!             claim              commit                 passed by all readers
//!  free ─────────────▶ claimed ──────────▶ stamp ──────────────────────────────▶ free
//!                         │ retirer                                               ▲
//!                         └───────▶ retired ────────▶ returned ───────────────────┘
//!                                           writer             gap ended, passed
//! ```

use alloc::vec::Vec;

use crate::error::{Damaged, Retired};
use crate::layout::{self, HEADER_BYTES, WORD_BYTES};
use crate::region::Region;
use crate::sync::{AtomicU64, Ordering, fence};

/// Length, kind and tag, as they lie in a record behind the stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) payload_bytes: u32,
    pub(crate) kind: u32,
    pub(crate) tag: u64,
}

/// A record for the readers.
pub(crate) const KIND_DATA: u32 = 1;
/// The rest of a lap.
pub(crate) const KIND_PADDING: u32 = 2;
/// A grant that was dropped.
pub(crate) const KIND_ABORTED: u32 = 3;

impl Meta {
    /// What fills the rest of a lap of `bytes`.
    pub(crate) fn padding(bytes: u64) -> Self {
        // Padding is smaller than the largest record, and at least a granule, but in a damaged ring.
        let payload_bytes = bytes.saturating_sub(u64::from(HEADER_BYTES));
        Self {
            payload_bytes: u32::try_from(payload_bytes).unwrap_or(0),
            kind: KIND_PADDING,
            tag: 0,
        }
    }
}

impl Region {
    /// The stamp that commits `position`. The salt's top bit is set and no position has it, so a
    /// stamp is never zero, which is what memory holds before its first lap.
    pub(crate) fn stamp_value(&self, position: u64) -> u64 {
        position ^ self.salt()
    }

    /// The mark of a retired record: like a stamp, but of no position where a record can be.
    fn retired_value(&self, position: u64) -> u64 {
        self.stamp_value(position) ^ 1
    }

    /// The mark by which a late writer returns its bytes.
    fn returned_value(&self, position: u64) -> u64 {
        self.stamp_value(position) ^ 2
    }

    /// Must be called after a claim and before the first store into it (rule 3).
    pub(crate) fn begin_fill(&self) {
        fence(Ordering::Release);
    }

    /// Commits the record at `position`, which the caller has claimed and filled, or returns its
    /// bytes if the claim was retired.
    #[inline]
    pub(crate) fn commit(&self, position: u64, meta: Meta) -> Result<(), Retired> {
        let header = self.header(position);
        let size_and_kind = u64::from(meta.payload_bytes) | u64::from(meta.kind) << u32::BITS;
        // Relaxed, both: the stamp orders them.
        header[1].store(size_and_kind, Ordering::Relaxed);
        header[2].store(meta.tag, Ordering::Relaxed);
        // Relaxed: if the value is older than the retirer's, the swap fails.
        let before = header[0].load(Ordering::Relaxed);
        // Release: pairs with the acquire load in `committed`, so whoever sees the stamp sees the
        // payload and the metadata.
        let is_committed = before != self.retired_value(position)
            && header[0]
                .compare_exchange(
                    before,
                    self.stamp_value(position),
                    Ordering::Release,
                    Ordering::Relaxed,
                )
                .is_ok();
        if is_committed {
            return Ok(());
        }
        self.return_claim(position);
        Err(Retired)
    }

    #[cold]
    pub(crate) fn return_claim(&self, position: u64) {
        // Release: pairs with the acquire load in `returned`: whoever claims these bytes again is
        // ordered after every store of this writer, the size among them.
        self.header(position)[0].store(self.returned_value(position), Ordering::Release);
    }

    /// Bytes of the retired claim at `position`, once its writer has returned them.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half of a word")]
    pub(crate) fn returned(&self, position: u64) -> Option<u64> {
        let header = self.header(position);
        // Acquire: pairs with the release store in `return_claim`.
        let is_returned = header[0].load(Ordering::Acquire) == self.returned_value(position);
        is_returned.then(|| layout::span(header[1].load(Ordering::Relaxed) as u32))
    }

    /// Whether a record is committed at `position`, which may be inside of a claim.
    pub(crate) fn is_stamped(&self, position: u64) -> bool {
        // Relaxed: readers acquire the stamp.
        self.header(position)[0].load(Ordering::Relaxed) == self.stamp_value(position)
    }

    /// Marks what is claimed at `position` as retired; false if it is committed. Only the retirer
    /// calls it, in the gate.
    pub(crate) fn retire(&self, position: u64) -> bool {
        let word = &self.header(position)[0];
        // Relaxed, all: the mark says nothing but that the writer is too late.
        let mut before = word.load(Ordering::Relaxed);
        // Each further round means that the writer has stored into the word, once per payload.
        for _ in 0..self.rounds_max() {
            if before == self.stamp_value(position) {
                return false;
            }
            if before == self.returned_value(position) {
                // A retirer that died has marked it, and its writer knows.
                return true;
            }
            match word.compare_exchange(
                before,
                self.retired_value(position),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(changed) => before = changed,
            }
        }
        self.damage();
        false
    }

    /// The metadata of the record at `position`, or nothing if it is not committed yet. Both answers
    /// hold only for a reader that finds itself in the gate afterwards (rule 3).
    pub(crate) fn committed(&self, position: u64) -> Option<Meta> {
        let header = self.header(position);
        // Acquire: pairs with the release swap in `commit`.
        let stamp = header[0].load(Ordering::Acquire);
        (stamp == self.stamp_value(position)).then(|| Self::meta(header))
    }

    /// The same with a fence, for memory that may be mapped for reading only.
    pub(crate) fn committed_relaxed(&self, position: u64) -> Option<Meta> {
        let header = self.header(position);
        let stamp = header[0].load(Ordering::Relaxed);
        // Acquire: pairs with the release swap in `commit`.
        fence(Ordering::Acquire);
        (stamp == self.stamp_value(position)).then(|| Self::meta(header))
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half of a word")]
    fn meta(header: &[AtomicU64]) -> Meta {
        let size_and_kind = header[1].load(Ordering::Relaxed);
        Meta {
            payload_bytes: size_and_kind as u32,
            kind: (size_and_kind >> u32::BITS) as u32,
            tag: header[2].load(Ordering::Relaxed),
        }
    }

    /// Copies the payload of the record at `position` to the beginning of `target`.
    pub(crate) fn copy_payload(
        &self,
        position: u64,
        bytes: u32,
        target: &mut Vec<u8>,
    ) -> Result<(), Damaged> {
        let Some(words) = self.payload(position, bytes) else {
            return Err(self.damage());
        };
        // Never shrinks, so a buffer in use is not filled with zeros each time.
        if target.len() < words.len() * WORD_BYTES {
            target.resize(words.len() * WORD_BYTES, 0);
        }
        for (word, chunk) in words.iter().zip(target.as_chunks_mut::<WORD_BYTES>().0) {
            *chunk = word.load(Ordering::Relaxed).to_le_bytes();
        }
        Ok(())
    }
}

/// Fills the payload of a claimed record from its start.
#[derive(Debug)]
pub(crate) struct Filler {
    position: u64,
    payload_bytes: u32,
    filled_bytes: usize,
    /// The bytes of a word that is not complete.
    carry: [u8; WORD_BYTES],
}

impl Filler {
    pub(crate) fn new(position: u64, payload_bytes: u32) -> Self {
        Self {
            position,
            payload_bytes,
            filled_bytes: 0,
            carry: [0; WORD_BYTES],
        }
    }

    pub(crate) fn rest_bytes(&self) -> usize {
        self.payload_bytes as usize - self.filled_bytes
    }

    /// The words of the payload; none where a peer has damaged the ring so that the claim does not lie
    /// within the data.
    fn words<'a>(&self, region: &'a Region) -> &'a [AtomicU64] {
        let words = region.payload(self.position, self.payload_bytes);
        words.unwrap_or_default()
    }

    /// Ends the record behind `payload_bytes`, which are not more than were reserved.
    pub(crate) fn shorten(&mut self, region: &Region, payload_bytes: u32) {
        let last = payload_bytes as usize / WORD_BYTES;
        if self.filled_bytes / WORD_BYTES > last
            && let Some(word) = self.words(region).get(last)
        {
            // It is stored already, and keeps its first bytes.
            self.carry = word.load(Ordering::Relaxed).to_le_bytes();
        }
        self.payload_bytes = payload_bytes;
        self.filled_bytes = self.filled_bytes.min(payload_bytes as usize);
    }

    /// # Panics
    ///
    /// If `bytes` are more than the rest.
    pub(crate) fn write(&mut self, region: &Region, mut bytes: &[u8]) {
        assert!(bytes.len() <= self.rest_bytes(), "more bytes than reserved");
        let words = self.words(region);
        let carried = self.filled_bytes % WORD_BYTES;
        let mut next = self.filled_bytes / WORD_BYTES;
        self.filled_bytes += bytes.len();
        if carried > 0 {
            let (head, rest) = bytes.split_at(bytes.len().min(WORD_BYTES - carried));
            self.carry[carried..carried + head.len()].copy_from_slice(head);
            if carried + head.len() < WORD_BYTES {
                return;
            }
            if let Some(word) = words.get(next) {
                word.store(u64::from_le_bytes(self.carry), Ordering::Relaxed);
            }
            next += 1;
            bytes = rest;
        }
        let (chunks, rest) = bytes.as_chunks::<WORD_BYTES>();
        for (word, chunk) in words.get(next..).unwrap_or_default().iter().zip(chunks) {
            word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
        self.carry[..rest.len()].copy_from_slice(rest);
    }

    /// Stores the last bytes, and zeros after them if fewer were written than reserved.
    #[inline]
    pub(crate) fn finish(&mut self, region: &Region) {
        let words = self.words(region);
        let carried = self.filled_bytes % WORD_BYTES;
        self.carry[carried..].fill(0);
        let rest = words.get(self.filled_bytes / WORD_BYTES..);
        for word in rest.unwrap_or_default() {
            word.store(u64::from_le_bytes(self.carry), Ordering::Relaxed);
            self.carry.fill(0);
        }
        self.filled_bytes = self.payload_bytes as usize;
    }
}

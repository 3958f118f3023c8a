//! The region: zeroed memory in words, and the names of its parts.
//!
//! Every word is an atomic. A reader that no longer gates the writers may load words that a writer
//! stores at the same time; it finds out afterwards and forgets them (`record.rs`).

use crate::error::RingError;
use crate::layout::{
    GAPS_MAX, Gate, Geometry, HEADER_BYTES, LINE_BYTES, MAGIC, SLOT_FREE, VERSION, WORD_BYTES,
};
use crate::sync::{AtomicU64, Ordering};
use crate::words::Words;

const WORDS_PER_LINE: usize = LINE_BYTES / WORD_BYTES;
// Indices of words.
const TAIL: usize = WORDS_PER_LINE;
const GATE: usize = TAIL + 1;
const PARKED: usize = 2 * WORDS_PER_LINE;
const ABORTED_TOTAL: usize = 3 * WORDS_PER_LINE;
const RETIREMENTS_TOTAL: usize = ABORTED_TOTAL + 1;
const REJECTED_TOTAL: usize = ABORTED_TOTAL + 2;
const REWRITTEN_TOTAL: usize = ABORTED_TOTAL + 3;
const GAPS: usize = 4 * WORDS_PER_LINE;
const SLOTS: usize = 5 * WORDS_PER_LINE;
/// Start, bytes, until.
const GAP_WORDS: usize = 3;
const HEADER_WORDS: usize = HEADER_BYTES as usize / WORD_BYTES;

const _: () = assert!(GAPS_MAX * GAP_WORDS < WORDS_PER_LINE);

/// The memory of a ring. Geometry and salt are kept outside of it: they are not read back from
/// memory that others may one day write.
pub(crate) struct Region {
    words: Words,
    /// Index of the first word of the data.
    data: usize,
    geometry: Geometry,
    salt: u64,
}

impl Region {
    pub(crate) fn new(geometry: Geometry, salt: u64) -> Result<Self, RingError> {
        let data = SLOTS + geometry.slots() as usize * WORDS_PER_LINE;
        let count = data + geometry.capacity_bytes() as usize / WORD_BYTES;
        let region = Self {
            words: Words::new(count)?,
            data,
            geometry,
            salt,
        };
        region.write_identity();
        // Relaxed, here and for the slots: whoever shares the ring with another thread brings the
        // happens-before edge.
        region
            .gate()
            .store(Gate::new(geometry.capacity()).0, Ordering::Relaxed);
        for index in 0..geometry.slots() {
            region.slot(index).store(SLOT_FREE, Ordering::Relaxed);
        }
        Ok(region)
    }

    /// What a region says about itself, so that a process which maps it can check it.
    fn write_identity(&self) {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << u32::BITS;
        let data_offset = u32::try_from(self.data * WORD_BYTES);
        let data_offset = data_offset.expect("1030 lines are below 4 GiB");
        let identity = [
            MAGIC,
            pair(VERSION, self.geometry.capacity_bytes()),
            pair(self.geometry.readers_max(), data_offset),
            self.salt,
        ];
        for (index, word) in identity.into_iter().enumerate() {
            self.words.at(index).store(word, Ordering::Relaxed);
        }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) fn salt(&self) -> u64 {
        self.salt
    }

    /// The position at which the next record is claimed.
    pub(crate) fn tail(&self) -> &AtomicU64 {
        self.words.at(TAIL)
    }

    /// The [`Gate`]. In the line of the tail, because whoever reads one reads the other.
    pub(crate) fn gate(&self) -> &AtomicU64 {
        self.words.at(GATE)
    }

    /// Bits of the readers `64 * word ..`.
    pub(crate) fn parked(&self, word: u32) -> &AtomicU64 {
        assert!(word < self.geometry.parked_words());
        self.words.at(PARKED + word as usize)
    }

    pub(crate) fn aborted_total(&self) -> &AtomicU64 {
        self.words.at(ABORTED_TOTAL)
    }

    pub(crate) fn retirements_total(&self) -> &AtomicU64 {
        self.words.at(RETIREMENTS_TOTAL)
    }

    pub(crate) fn retirements_rejected_total(&self) -> &AtomicU64 {
        self.words.at(REJECTED_TOTAL)
    }

    pub(crate) fn rewritten_total(&self) -> &AtomicU64 {
        self.words.at(REWRITTEN_TOTAL)
    }

    /// Which entries of the table of gaps are in use, and how often that has changed (`gaps.rs`).
    pub(crate) fn gaps_in_use(&self) -> &AtomicU64 {
        self.words.at(GAPS)
    }

    /// The words of an entry of the table of gaps: start, bytes, until.
    pub(crate) fn gap_entry(&self, index: usize) -> &[AtomicU64] {
        assert!(index < GAPS_MAX);
        self.words.slice(GAPS + 1 + index * GAP_WORDS, GAP_WORDS)
    }

    /// The published position of a reader, [`SLOT_FREE`], or a position that no longer gates.
    pub(crate) fn slot(&self, index: u32) -> &AtomicU64 {
        assert!(index < self.geometry.slots());
        self.words.at(SLOTS + index as usize * WORDS_PER_LINE)
    }

    /// The words of the header of the record at `position`: stamp, size and kind, tag.
    pub(crate) fn header(&self, position: u64) -> &[AtomicU64] {
        let start = self.record(position);
        self.words.slice(start, HEADER_WORDS)
    }

    /// The words that hold a payload of `bytes` of the record at `position`.
    ///
    /// # Panics
    ///
    /// If the payload would leave the data: only a damaged ring can cause that.
    pub(crate) fn payload(&self, position: u64, bytes: u32) -> &[AtomicU64] {
        let start = self.record(position) + HEADER_WORDS;
        self.words
            .slice(start, (bytes as usize).div_ceil(WORD_BYTES))
    }

    /// Index of the first word of a record.
    fn record(&self, position: u64) -> usize {
        self.data + self.geometry.offset(position) / WORD_BYTES
    }
}

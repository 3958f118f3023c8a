//! The region: memory in words, and the names of its parts.
//!
//! Every word is an atomic. A reader that no longer gates the writers may load words that a writer
//! stores at the same time; it finds out afterwards and forgets them (`record.rs`).
//!
//! A peer of a shared ring may store anything anywhere at any time. So what is loaded from the region
//! decides which words of it are touched next and nothing else: every index is computed from the
//! geometry in this process's own memory and a position cut to it, every loop is bounded by
//! [`ROUNDS_MAX`](crate::layout::ROUNDS_MAX) or by the bytes it passes, and sums of loaded values
//! wrap. What cannot be in a ring that only this crate writes is [`Damaged`].

use crate::error::{AttachError, Damaged, RingError};
use crate::identity::{IDENTITY_WORDS, Identity};
use crate::layout::{
    ANNOUNCEMENTS, GAPS_MAX, Gate, Geometry, HEADER_BYTES, LINE_BYTES, ROUNDS_MAX, SLOT_FREE,
    SLOTS_LINE, WORD_BYTES,
};
use crate::peers::Peer;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::words::Words;

/// What processors move between their caches, bytes.
const CACHE_LINE_BYTES: u64 = 64;
/// How much at a time, bytes: processors notice by themselves that a long record is written.
const PREFETCH_BYTES_MAX: u64 = 256;
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
const SLOTS: usize = SLOTS_LINE * WORDS_PER_LINE;
/// Start, bytes, until.
const GAP_WORDS: usize = 3;
const HEADER_WORDS: usize = HEADER_BYTES as usize / WORD_BYTES;
// Words of a slot's line, behind the position.
const SLOT_OWNER: usize = 1;
const SLOT_ANCHOR: usize = 2;
/// Count of changes, and two pairs.
pub(crate) const ANCHOR_WORDS: usize = 5;
const SLOT_WAKE: usize = SLOT_ANCHOR + ANCHOR_WORDS;

const _: () = assert!(GAPS_MAX * GAP_WORDS < WORDS_PER_LINE);
const _: () = assert!(SLOT_WAKE < WORDS_PER_LINE && 2 * ANNOUNCEMENTS < WORDS_PER_LINE);

/// The memory of a ring. Geometry and salt are kept outside of it: they are not read back from
/// memory that others write.
pub(crate) struct Region {
    words: Words,
    /// Index of the first word of the data.
    data: usize,
    geometry: Geometry,
    salt: u64,
    /// Who we are among the peers of a shared ring; nothing in a ring of one process.
    pub(crate) peer: Option<Peer>,
    /// Whether nothing may be stored.
    is_read_only: bool,
    /// Whether anything was found that cannot be. Not in the region: a peer could clear it.
    is_damaged: core::sync::atomic::AtomicBool,
}

// Everything that changes in it is atomic, and a panic leaves nothing half done that a peer's death
// could not leave as well.
impl core::panic::UnwindSafe for Region {}
impl core::panic::RefUnwindSafe for Region {}

impl Region {
    /// A ring of this process alone.
    pub(crate) fn new(geometry: Geometry, salt: u64) -> Result<Self, RingError> {
        let words = Words::new(geometry.total_bytes() / WORD_BYTES)?;
        let region = Self::over(words, geometry, salt);
        region.write();
        Ok(region)
    }

    /// A region in memory, which is zero or a ring of this geometry.
    pub(crate) fn over(words: Words, geometry: Geometry, salt: u64) -> Self {
        Self {
            words,
            data: geometry.data_offset() / WORD_BYTES,
            geometry,
            salt,
            peer: None,
            is_read_only: false,
            is_damaged: core::sync::atomic::AtomicBool::new(false),
        }
    }

    /// A region in memory that was written by somebody else, once its first line is found valid.
    /// The memory may only be loaded from if `is_read_only`.
    pub(crate) fn attach(words: Words, is_read_only: bool) -> Result<Self, AttachError> {
        let bytes_found = words.count() * WORD_BYTES;
        let line = words
            .get(0, IDENTITY_WORDS)
            .ok_or(AttachError::TooSmall { found: bytes_found })?;
        let mut identity = Identity([0; IDENTITY_WORDS]);
        // Relaxed: the fence orders it, and memory that is mapped for reading only has no other loads.
        for (word, shared) in identity.0.iter_mut().zip(line) {
            *word = shared.load(Ordering::Relaxed);
        }
        // Acquire: pairs with the release store of the magic in `write`.
        fence(Ordering::Acquire);
        let (geometry, salt) = identity.validate(bytes_found)?;
        let words = words.cut(geometry.total_bytes() / WORD_BYTES);
        Ok(Self {
            is_read_only,
            ..Self::over(words, geometry, salt)
        })
    }

    /// Makes memory that held something else as zero as it must be. The data need not be: no stamp in it
    /// is made with this ring's salt.
    #[cfg(not(loom))]
    pub(crate) fn clear(&self) {
        for word in self.words.slice(0, self.data) {
            // Relaxed: the magic orders it.
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Makes zeroed memory an empty ring.
    pub(crate) fn write(&self) {
        // Relaxed, here and for the slots: whoever shares the ring with another thread brings the
        // happens-before edge, and a process that finds it the magic.
        self.gate()
            .store(Gate::new(self.geometry.capacity()).0, Ordering::Relaxed);
        for index in 0..self.geometry.slots() {
            self.slot(index).store(SLOT_FREE, Ordering::Relaxed);
        }
        let identity = Identity::new(self.geometry, self.salt);
        for (index, word) in identity.0.into_iter().enumerate().skip(1) {
            self.words.at(index).store(word, Ordering::Relaxed);
        }
        // Release: pairs with the fence in `attach`: who sees the magic sees a whole ring.
        self.words.at(0).store(identity.0[0], Ordering::Release);
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) fn salt(&self) -> u64 {
        self.salt
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    #[cfg(loom)]
    pub(crate) fn words(&self) -> &Words {
        &self.words
    }

    /// Notes that something was found which no use of this crate leaves.
    #[cold]
    pub(crate) fn damage(&self) -> Damaged {
        // Relaxed: it orders nothing.
        self.is_damaged
            .store(true, core::sync::atomic::Ordering::Relaxed);
        Damaged
    }

    /// How often a step is tried again. Few times once the ring is known to be damaged: loops lie within
    /// loops, and their bounds multiply.
    pub(crate) fn rounds_max(&self) -> u32 {
        if self.is_damaged() { 16 } else { ROUNDS_MAX }
    }

    pub(crate) fn is_damaged(&self) -> bool {
        // Relaxed: as above.
        self.is_damaged.load(core::sync::atomic::Ordering::Relaxed)
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
        self.slot_word(index, 0)
    }

    fn slot_word(&self, index: u32, word: usize) -> &AtomicU64 {
        assert!(index < self.geometry.slots());
        self.words
            .at(SLOTS + index as usize * WORDS_PER_LINE + word)
    }

    /// The mark of the peer whose reader has the slot; zero if none has (`peers.rs`).
    pub(crate) fn slot_owner(&self, index: u32) -> &AtomicU64 {
        self.slot_word(index, SLOT_OWNER)
    }

    /// The anchor in the slot's line (`anchors.rs`).
    pub(crate) fn slot_anchor(&self, index: u32) -> &[AtomicU64] {
        assert!(index < self.geometry.slots());
        let start = SLOTS + index as usize * WORDS_PER_LINE + SLOT_ANCHOR;
        self.words.slice(start, ANCHOR_WORDS)
    }

    #[cfg(all(feature = "shared-memory", target_os = "linux", not(loom)))]
    /// What the reader sleeps on, if it sleeps in [`Reader::wait`](crate::Reader::wait).
    pub(crate) fn slot_wake(&self, index: u32) -> &AtomicU64 {
        self.slot_word(index, SLOT_WAKE)
    }

    /// How often the number of a peer was taken.
    pub(crate) fn peer_epoch(&self, peer: u32) -> &AtomicU64 {
        assert!(peer < self.geometry.peers_max());
        self.words
            .at(self.geometry.peers_line() * WORDS_PER_LINE + peer as usize)
    }

    /// The line of a writer: the mark of its peer, then position and end of each claim.
    pub(crate) fn writer_line(&self, line: u32) -> &[AtomicU64] {
        assert!(line < self.geometry.writers_max());
        let start = (self.geometry.writers_line() + line as usize) * WORDS_PER_LINE;
        self.words.slice(start, 1 + 2 * ANNOUNCEMENTS)
    }

    /// The words of the header of the record at `position`: stamp, size and kind, tag.
    pub(crate) fn header(&self, position: u64) -> &[AtomicU64] {
        let start = self.record(position);
        self.words.slice(start, HEADER_WORDS)
    }

    /// The words that hold a payload of `bytes` of the record at `position`; nothing if it would
    /// leave the data, which only a damaged ring can say.
    pub(crate) fn payload(&self, position: u64, bytes: u32) -> Option<&[AtomicU64]> {
        let start = self.record(position) + HEADER_WORDS;
        self.words.get(start, (bytes as usize).div_ceil(WORD_BYTES))
    }

    /// Brings the memory nearer into which the next record will be written, if it is as long as this one: a
    /// reader's core has it since the last lap, and its writer would wait for it, at the latest where it
    /// commits. Farther ahead is less good: what is not written soon is taken back by who reads nearby.
    /// `benches/peers.rs` has the numbers.
    #[inline]
    pub(crate) fn prefetch(&self, start: u64, span: u64) {
        let lines = span.min(PREFETCH_BYTES_MAX).div_ceil(CACHE_LINE_BYTES);
        for line in 0..lines {
            let at = start.wrapping_add(line * CACHE_LINE_BYTES);
            self.words.prefetch_for_write(self.record(at));
        }
    }

    /// Index of the first word of a record.
    fn record(&self, position: u64) -> usize {
        self.data + self.geometry.offset(position) / WORD_BYTES
    }
}

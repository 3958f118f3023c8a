//! The region: one aligned, zeroed allocation, and typed access to its parts.
//!
//! `region_loom.rs` is the same interface for the loom models.
#![expect(
    unsafe_code,
    reason = "the region is raw memory that several threads write at once"
)]

use std::alloc::{self, Layout};
use std::ptr::NonNull;

use crate::error::RingError;
use crate::layout::{GRANULE_BYTES, Gate, Geometry, LINE_BYTES, MAGIC, SLOT_FREE, VERSION};
use crate::record::Meta;
use crate::sync::{AtomicU64, Ordering};

const TAIL: usize = LINE_BYTES;
const GATE: usize = TAIL + 8;
const PARKED: usize = 2 * LINE_BYTES;
const ABORTED_TOTAL: usize = 3 * LINE_BYTES;
const SLOTS: usize = 4 * LINE_BYTES;

/// What a region says about itself, so that a process which maps it can check it.
#[repr(C)]
struct Identity {
    magic: u64,
    version: u32,
    capacity_bytes: u32,
    readers_max: u32,
    data_offset: u32,
    salt: u64,
}

const _: () = assert!(size_of::<Identity>() <= LINE_BYTES && align_of::<Identity>() <= LINE_BYTES);
const _: () = assert!(size_of::<Meta>() == 8 && align_of::<Meta>() <= 8);

/// The memory of a ring. Geometry and salt are kept outside of it: they are not read back from
/// memory that others may one day write.
pub(crate) struct Region {
    base: NonNull<u8>,
    layout: Layout,
    data_offset: usize,
    geometry: Geometry,
    salt: u64,
}

// SAFETY: the region owns its allocation, which no thread-bound thing refers to.
unsafe impl Send for Region {}
// SAFETY: through a shared region come atomics, which may be shared, and raw payload pointers and
// metadata, whose use is unsafe and proved where it happens (the rules of `record.rs`).
unsafe impl Sync for Region {}

impl Region {
    pub(crate) fn new(geometry: Geometry, salt: u64) -> Result<Self, RingError> {
        let data_offset = SLOTS + (geometry.readers_max() as usize + 1) * LINE_BYTES;
        let region_bytes = data_offset + geometry.capacity_bytes() as usize;
        let out_of_memory = RingError::OutOfMemory { region_bytes };
        let layout =
            Layout::from_size_align(region_bytes, LINE_BYTES).map_err(|_| out_of_memory)?;
        // SAFETY: the size is not zero, it contains at least the header lines.
        let memory = unsafe { alloc::alloc_zeroed(layout) };
        let base = NonNull::new(memory).ok_or(out_of_memory)?;
        let region = Self {
            base,
            layout,
            data_offset,
            geometry,
            salt,
        };
        region.write_identity();
        // Relaxed, here and for the slots: whoever shares the ring with another thread brings the
        // happens-before edge.
        region
            .gate()
            .store(Gate::new(geometry.capacity()).0, Ordering::Relaxed);
        for index in 0..=geometry.readers_max() {
            region.slot(index).store(SLOT_FREE, Ordering::Relaxed);
        }
        Ok(region)
    }

    fn write_identity(&self) {
        let identity = Identity {
            magic: MAGIC,
            version: VERSION,
            capacity_bytes: self.geometry.capacity_bytes(),
            readers_max: self.geometry.readers_max(),
            data_offset: u32::try_from(self.data_offset).expect("1028 lines are below 4 GiB"),
            salt: self.salt,
        };
        // SAFETY: the allocation begins with a line for the identity and is aligned to a line
        // (both asserted above); nobody else has the region yet.
        unsafe { self.base.cast::<Identity>().write(identity) };
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) fn salt(&self) -> u64 {
        self.salt
    }

    /// The position at which the next record is claimed.
    pub(crate) fn tail(&self) -> &AtomicU64 {
        self.word(TAIL)
    }

    /// The [`Gate`]. In the line of the tail, because whoever reads one reads the other.
    pub(crate) fn gate(&self) -> &AtomicU64 {
        self.word(GATE)
    }

    /// Bits of the readers `64 * word ..`.
    pub(crate) fn parked(&self, word: u32) -> &AtomicU64 {
        assert!(word < self.geometry.parked_words());
        self.word(PARKED + word as usize * 8)
    }

    pub(crate) fn aborted_total(&self) -> &AtomicU64 {
        self.word(ABORTED_TOTAL)
    }

    /// The published position of a reader, or [`SLOT_FREE`].
    pub(crate) fn slot(&self, index: u32) -> &AtomicU64 {
        assert!(index <= self.geometry.readers_max());
        self.word(SLOTS + index as usize * LINE_BYTES)
    }

    /// The stamp of the record at `position`.
    pub(crate) fn stamp(&self, position: u64) -> &AtomicU64 {
        self.word(self.record(position))
    }

    /// # Safety
    ///
    /// The record at `position` is committed and stays unclaimed for the next lap.
    pub(crate) unsafe fn meta(&self, position: u64) -> Meta {
        let meta = self.pointer(self.record(position) + 8).cast::<Meta>();
        // SAFETY: in bounds and aligned to 8, as records start at multiples of 16; initialised, as
        // the region was zeroed; the caller promises that nobody writes it now.
        unsafe { meta.read() }
    }

    /// # Safety
    ///
    /// The record at `position` is claimed by the caller and not yet committed.
    pub(crate) unsafe fn write_meta(&self, position: u64, meta: Meta) {
        let target = self.pointer(self.record(position) + 8).cast::<Meta>();
        // SAFETY: in bounds and aligned as above; the caller owns the bytes of its claim.
        unsafe { target.write(meta) };
    }

    /// The payload of the record at `position`, for reading.
    pub(crate) fn payload_to_read(&self, position: u64, bytes: u32) -> NonNull<[u8]> {
        self.payload(position, bytes)
    }

    /// The payload of the record at `position`, for writing.
    pub(crate) fn payload_to_write(&self, position: u64, bytes: u32) -> NonNull<[u8]> {
        self.payload(position, bytes)
    }

    /// # Panics
    ///
    /// If the payload would leave the data: only a damaged ring can cause that.
    fn payload(&self, position: u64, bytes: u32) -> NonNull<[u8]> {
        let record = self.record(position);
        let payload = record + GRANULE_BYTES as usize;
        assert!(
            bytes as usize <= self.layout.size() - payload,
            "record leaves the ring's data"
        );
        NonNull::slice_from_raw_parts(self.pointer(payload), bytes as usize)
    }

    /// Offset of a record in the region. At least a header fits behind it, as records start at
    /// multiples of a header's size and the capacity is one.
    fn record(&self, position: u64) -> usize {
        debug_assert_eq!(position % u64::from(GRANULE_BYTES), 0);
        let granules = !(GRANULE_BYTES as usize - 1);
        self.data_offset + (self.geometry.offset(position) & granules)
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        debug_assert_eq!(offset % 8, 0);
        let word = self.pointer(offset).cast::<u64>();
        // SAFETY: aligned, as the base is and every offset above is a multiple of 8; in bounds with
        // all its 8 bytes, as the region's size is a multiple of 8 too; it lives as long as the
        // region. The words of the header lines are only ever accessed as atomics. A stamp's bytes
        // are payload in other laps; `record.rs` proves that a lap's plain accesses and the next
        // lap's atomic ones are ordered by happens-before.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }

    fn pointer(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset <= self.layout.size());
        // SAFETY: every caller's offset is at most the region's size, which is below isize::MAX.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, and dropped once.
        unsafe { alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}

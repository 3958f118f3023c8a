//! The region under loom: the interface of `region.rs`, with loom's atomics, and with every plain
//! access to the data declared to loom.
//!
//! loom cannot watch raw memory. So the bytes lie in ordinary memory (loom runs its threads one at
//! a time), and each granule of 16 bytes has two `loom::cell::UnsafeCell<()>` in which accesses are
//! declared; loom fails a model in which two accesses of a cell, one of them mutable, are not
//! ordered by happens-before.
//!
//! | access                         | `bytes` cell | `stamp_use` cell |
//! | ------------------------------ | ------------ | ---------------- |
//! | payload written (and at commit, when the last byte was written) | mutable | mutable |
//! | payload read                   | shared       | shared           |
//! | metadata written               | mutable      |                  |
//! | metadata read                  | shared       |                  |
//! | stamp loaded or stored (atomic) |             | shared           |
//!
//! The second column is the mixed access: a reader that polls a stamp where another lap's payload
//! is being written. Not modelled: that a payload overwrites the value of a stamp (a stamp that is
//! wrong is as good as another).
#![expect(
    unsafe_code,
    reason = "the same raw data as in region.rs, declared to loom"
)]

use std::ptr::NonNull;

use loom::cell::UnsafeCell;

use crate::error::RingError;
use crate::layout::{GRANULE_BYTES, Gate, Geometry, SLOT_FREE};
use crate::record::Meta;
use crate::sync::AtomicU64;

/// What lies in one granule, as loom sees it.
struct Granule {
    stamp: AtomicU64,
    stamp_use: UnsafeCell<()>,
    bytes: UnsafeCell<()>,
}

/// The stand-in for a ring's memory.
pub(crate) struct Region {
    geometry: Geometry,
    salt: u64,
    tail: AtomicU64,
    gate: AtomicU64,
    parked: Vec<AtomicU64>,
    aborted_total: AtomicU64,
    slots: Vec<AtomicU64>,
    granules: Vec<Granule>,
    data: NonNull<[u128]>,
}

// SAFETY: as in `region.rs`; the cells are there to find out whether it is true.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub(crate) fn new(geometry: Geometry, salt: u64) -> Result<Self, RingError> {
        let granules = (geometry.capacity_bytes() / GRANULE_BYTES) as usize;
        let atomics = |count: u32, value| (0..count).map(|_| AtomicU64::new(value)).collect();
        Ok(Self {
            geometry,
            salt,
            tail: AtomicU64::new(0),
            gate: AtomicU64::new(Gate::new(geometry.capacity()).0),
            parked: atomics(geometry.parked_words(), 0),
            aborted_total: AtomicU64::new(0),
            slots: atomics(geometry.readers_max() + 1, SLOT_FREE),
            granules: (0..granules)
                .map(|_| Granule {
                    stamp: AtomicU64::new(0),
                    stamp_use: UnsafeCell::new(()),
                    bytes: UnsafeCell::new(()),
                })
                .collect(),
            data: NonNull::from(Box::leak(vec![0_u128; granules].into_boxed_slice())),
        })
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) fn salt(&self) -> u64 {
        self.salt
    }

    pub(crate) fn tail(&self) -> &AtomicU64 {
        &self.tail
    }

    pub(crate) fn gate(&self) -> &AtomicU64 {
        &self.gate
    }

    pub(crate) fn parked(&self, word: u32) -> &AtomicU64 {
        &self.parked[word as usize]
    }

    pub(crate) fn aborted_total(&self) -> &AtomicU64 {
        &self.aborted_total
    }

    pub(crate) fn slot(&self, index: u32) -> &AtomicU64 {
        &self.slots[index as usize]
    }

    pub(crate) fn stamp(&self, position: u64) -> &AtomicU64 {
        let granule = &self.granules[self.granule(position)];
        granule.stamp_use.with(|_| ());
        &granule.stamp
    }

    /// # Safety
    ///
    /// As in `region.rs`.
    pub(crate) unsafe fn meta(&self, position: u64) -> Meta {
        self.granules[self.granule(position)].bytes.with(|_| ());
        // SAFETY: in bounds; each header is a granule of its own.
        unsafe { self.meta_pointer(position).read() }
    }

    /// # Safety
    ///
    /// As in `region.rs`.
    pub(crate) unsafe fn write_meta(&self, position: u64, meta: Meta) {
        self.granules[self.granule(position)].bytes.with_mut(|_| ());
        // The payload was written until just now. A padding record's is never touched.
        if meta.kind != crate::record::KIND_PADDING {
            self.payload_to_write(position, meta.payload_bytes);
        }
        // SAFETY: as above.
        unsafe { self.meta_pointer(position).write(meta) };
    }

    pub(crate) fn payload_to_read(&self, position: u64, bytes: u32) -> NonNull<[u8]> {
        for granule in self.payload_granules(position, bytes) {
            granule.bytes.with(|_| ());
            granule.stamp_use.with(|_| ());
        }
        self.payload(position, bytes)
    }

    pub(crate) fn payload_to_write(&self, position: u64, bytes: u32) -> NonNull<[u8]> {
        for granule in self.payload_granules(position, bytes) {
            granule.bytes.with_mut(|_| ());
            granule.stamp_use.with_mut(|_| ());
        }
        self.payload(position, bytes)
    }

    fn payload_granules(&self, position: u64, bytes: u32) -> &[Granule] {
        let first = self.granule(position) + 1;
        &self.granules[first..first + bytes.div_ceil(GRANULE_BYTES) as usize]
    }

    fn payload(&self, position: u64, bytes: u32) -> NonNull<[u8]> {
        let record = self.pointer(position);
        // SAFETY: at most one past the data, as a header is one granule of them.
        let payload = unsafe { record.add(GRANULE_BYTES as usize) };
        NonNull::slice_from_raw_parts(payload, bytes as usize)
    }

    fn meta_pointer(&self, position: u64) -> NonNull<Meta> {
        // SAFETY: within the header's granule.
        unsafe { self.pointer(position).add(8) }.cast()
    }

    fn pointer(&self, position: u64) -> NonNull<u8> {
        let base = self.data.cast::<u8>();
        // SAFETY: an offset is below the capacity.
        unsafe { base.add(self.geometry.offset(position)) }
    }

    fn granule(&self, position: u64) -> usize {
        assert_eq!(position % u64::from(GRANULE_BYTES), 0);
        self.geometry.offset(position) / GRANULE_BYTES as usize
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: made by `Box::leak` in `new`, and given back once.
        drop(unsafe { Box::from_raw(self.data.as_ptr()) });
    }
}

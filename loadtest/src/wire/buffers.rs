//! The ring of provided buffers: the kernel takes one per receive, we give it back when its bytes
//! are used up.

use io_uring::{IoUring, types::BufRingEntry};
use std::{
    io, ptr, slice,
    sync::atomic::{AtomicU16, Ordering},
};

/// Buffer group id; each ring has one group.
pub(super) const GROUP: u16 = 0;
/// Buffers in the group, a power of two: few, so that the ones in use stay in the cache.
const COUNT: u16 = 512;
/// Bytes of one buffer: takes what 64 publications of 128 bytes leave in a socket. Untouched pages
/// cost nothing.
const BYTES: u32 = 16 * 1024;

const _: () = assert!(COUNT.is_power_of_two());

pub(super) struct BufferRing {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    tail: u16,
}

impl BufferRing {
    /// Maps and registers the group. The memory is never unmapped: a ring's teardown ends in the
    /// background, and until then the kernel may still write; one group per ring and a handful of
    /// rings per process is all there ever is.
    pub(super) fn new(ring: &IoUring) -> io::Result<Self> {
        let entries = map(usize::from(COUNT) * size_of::<BufRingEntry>())?.cast::<BufRingEntry>();
        let memory = map(usize::from(COUNT) * BYTES as usize)?;
        // SAFETY: `entries` is page-aligned (mmap), holds COUNT entries and is never unmapped.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(entries as u64, COUNT, GROUP, 0)
        }?;
        let mut group = Self {
            entries,
            memory,
            tail: 0,
        };
        for buffer in 0..COUNT {
            group.give_back(buffer);
        }
        Ok(group)
    }

    fn address(&self, buffer: u16) -> *mut u8 {
        assert!(buffer < COUNT, "the kernel named a buffer that is not ours");
        // SAFETY: buffer < COUNT, so the offset stays inside the mapping of COUNT * BYTES bytes.
        unsafe { self.memory.add(usize::from(buffer) * BYTES as usize) }
    }

    /// What a receive put into `buffer`.
    ///
    /// # Safety
    /// A completion must have lent `buffer` with `length` bytes, and it must not have been given
    /// back since.
    pub(super) unsafe fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        assert!(length <= BYTES as usize);
        // SAFETY: the range lies within one buffer (length <= BYTES), was zeroed by mmap or written
        // by the kernel, and by the caller's promise the kernel does not write it now. `give_back`
        // needs `&mut self`, so it cannot happen while the slice lives.
        unsafe { slice::from_raw_parts(self.address(buffer), length) }
    }

    /// Lets the kernel write into `buffer` again.
    pub(super) fn give_back(&mut self, buffer: u16) {
        let address = self.address(buffer) as u64;
        // SAFETY: the masked index is below COUNT, so the entry lies inside the mapping.
        let entry = unsafe { self.entries.add(usize::from(self.tail & (COUNT - 1))) };
        // SAFETY: the entry is valid and aligned, and the kernel reads it only up to the published
        // tail, which does not cover it yet: at most COUNT buffers exist and this one is ours, so
        // the slot is free.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(BYTES);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `entries` is the start of the registered ring, mapped and zero-initialised.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: the tail field is an aligned u16 inside our mapping, and both sides access it as
        // an atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: pairs with the kernel's acquire load of the tail, so that it sees the entry
        // written above.
        tail.store(self.tail, Ordering::Release);
    }
}

fn map(bytes: usize) -> io::Result<*mut u8> {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory in
    // use.
    let address = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(address.cast())
    }
}

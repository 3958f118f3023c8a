//! The ring of provided buffers: memory that the kernel fills when bytes arrive, so that an idle
//! connection holds no buffer.

#![expect(
    unsafe_code,
    reason = "this memory is shared with the kernel; each use says why it is sound"
)]

use io_uring::{Submitter, types::BufRingEntry};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Alignment that `IORING_REGISTER_PBUF_RING` requires.
const PAGE_BYTES: usize = 4_096;
/// The one buffer group of a wire ring.
pub(super) const GROUP: u16 = 0;

/// Buffers of one size, and the ring through which they are offered.
///
/// ```text
///   entries   ┌ addr len id ┐┌ addr len id ┐ …   one per buffer; the kernel takes at its head,
///             └─────────────┘└─────────────┘     we append at `tail`
///   memory    ├ buffer 0 ┤├ buffer 1 ┤ …
/// ```
///
/// Each buffer is either offered (the kernel may write to it) or taken (named in a completion, and
/// ours until `recycle`).
pub(super) struct Buffers {
    entries: NonNull<BufRingEntry>,
    entries_layout: Layout,
    /// Not a boxed slice: a reference to all of it would claim buffers that the kernel writes to.
    memory: NonNull<u8>,
    memory_layout: Layout,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
}

impl Buffers {
    /// Registers `count` buffers of `buffer_bytes` each with the ring. `count` is a power of two.
    pub(super) fn register(
        submitter: &Submitter<'_>,
        count: u16,
        buffer_bytes: u32,
    ) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the kernel masks the index");
        let (entries, entries_layout) = pages(usize::from(count) * size_of::<BufRingEntry>());
        let (memory, memory_layout) = pages(usize::from(count) * buffer_bytes as usize);
        // Written, not just reserved: a page error belongs to the start, not to a receive.
        // SAFETY: the allocation has this size, and nobody refers to it yet.
        unsafe { memory.write_bytes(0xa5, memory_layout.size()) };
        let entries = entries.cast::<BufRingEntry>();
        let mut buffers = Self {
            entries,
            entries_layout,
            memory,
            memory_layout,
            count,
            buffer_bytes,
            tail: 0,
        };
        for buffer in 0..count {
            buffers.offer(buffer);
        }
        buffers.publish();
        let address = entries.as_ptr() as u64;
        // SAFETY: the entries are page-aligned, hold `count` entries and live as long as `Self`,
        // which `Uring` drops after it has cancelled all operations and closed its ring.
        unsafe { submitter.register_buf_ring_with_flags(address, count, GROUP, 0) }?;
        Ok(buffers)
    }

    /// The first `length` bytes of a taken buffer.
    ///
    /// # Safety
    /// The buffer is taken.
    pub(super) unsafe fn bytes(&mut self, buffer: u16, length: usize) -> &mut [u8] {
        assert!(
            length <= self.buffer_bytes as usize,
            "the kernel fills one buffer"
        );
        let start = self.start(buffer);
        // SAFETY: the bytes lie in one buffer, which is initialised and, being taken, ours; `self`
        // is borrowed as long as they are, so the buffer is not offered meanwhile.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) }
    }

    fn start(&self, buffer: u16) -> NonNull<u8> {
        assert!(buffer < self.count, "the kernel names buffers it was given");
        // SAFETY: buffer < count, so the offset lies in the allocation.
        unsafe {
            self.memory
                .add(usize::from(buffer) * self.buffer_bytes as usize)
        }
    }

    /// Offers a taken buffer again.
    ///
    /// # Safety
    /// The buffer is taken.
    pub(super) unsafe fn recycle(&mut self, buffer: u16) {
        self.offer(buffer);
        self.publish();
    }

    fn offer(&mut self, buffer: u16) {
        let address = self.start(buffer).as_ptr() as u64;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: index < count, so the entry lies in the allocation.
        let entry = unsafe { self.entries.add(index) };
        // SAFETY: at most `count` buffers are offered, so the kernel has read this entry before and
        // looks at it again only after `publish`; nobody else refers to it.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the pointer is to the ring's first entry, as `tail` asks.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is an aligned u16 inside the first entry; the kernel only reads it, and
        // we refer to it here alone. `set_addr`, `set_len` and `set_bid` do not touch it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release pairs with the kernel's acquire load of the tail (io_uring_register(2)): it sees
        // the entries that were written before.
        tail.store(self.tail, Ordering::Release);
    }
}

/// Zeroed memory that begins at a page.
fn pages(bytes: usize) -> (NonNull<u8>, Layout) {
    let layout = Layout::from_size_align(bytes, PAGE_BYTES)
        .expect("a page's alignment and a small size make a layout");
    assert!(bytes > 0, "there is at least one buffer");
    // SAFETY: the layout's size was just seen to be above zero.
    let memory = unsafe { alloc_zeroed(layout) };
    match NonNull::new(memory) {
        Some(memory) => (memory, layout),
        None => handle_alloc_error(layout),
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with this layout, and the ring that used it is gone.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.entries_layout) };
        // SAFETY: the same holds for the buffers.
        unsafe { dealloc(self.memory.as_ptr(), self.memory_layout) };
    }
}

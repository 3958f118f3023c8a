//! The ring of provided buffers: memory that the kernel fills when bytes arrive, so that an idle
//! connection holds none.

#![expect(
    unsafe_code,
    reason = "this memory is shared with the kernel; each use says why it is sound"
)]

use io_uring::{Submitter, types::BufRingEntry};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Alignment that `IORING_REGISTER_PBUF_RING` asks for.
const PAGE_BYTES: usize = 4_096;
/// The one buffer group of a wire ring.
pub(super) const GROUP: u16 = 0;

/// Buffers of one size, and the ring through which they are offered.
///
/// ```text
///   entries   ┌ addr len id ┐┌ addr len id ┐ …   one per buffer; the kernel takes from its own head,
///             └─────────────┘└─────────────┘     we append at `tail`
///   memory    ├ buffer 0 ┤├ buffer 1 ┤ …
/// ```
///
/// Each buffer is either offered (the kernel may write to it) or taken (named in a completion, and
/// ours until `recycle`).
pub(super) struct Buffers {
    entries: NonNull<BufRingEntry>,
    entries_layout: Layout,
    memory: Box<[u8]>,
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
        let entries_bytes = usize::from(count) * size_of::<BufRingEntry>();
        let entries_layout = Layout::from_size_align(entries_bytes, PAGE_BYTES)
            .expect("a page's alignment and a small size make a layout");
        // SAFETY: the layout has a size above zero, as count is a power of two.
        let memory = unsafe { alloc_zeroed(entries_layout) };
        let Some(entries) = NonNull::new(memory.cast::<BufRingEntry>()) else {
            handle_alloc_error(entries_layout);
        };
        let mut buffers = Self {
            entries,
            entries_layout,
            // Written, not just reserved: a page fault belongs to the start, not to a receive.
            memory: vec![0xa5; usize::from(count) * buffer_bytes as usize].into_boxed_slice(),
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
        // which `Uring` drops after its ring, so after the kernel's last use of them.
        unsafe { submitter.register_buf_ring_with_flags(address, count, GROUP, 0) }?;
        Ok(buffers)
    }

    /// The first `length` bytes of a taken buffer.
    pub(super) fn bytes(&mut self, buffer: u16, length: usize) -> &mut [u8] {
        assert!(buffer < self.count, "the kernel names buffers it was given");
        let start = usize::from(buffer) * self.buffer_bytes as usize;
        &mut self.memory[start..start + length]
    }

    /// Offers a taken buffer again.
    pub(super) fn recycle(&mut self, buffer: u16) {
        self.offer(buffer);
        self.publish();
    }

    fn offer(&mut self, buffer: u16) {
        assert!(buffer < self.count, "the kernel names buffers it was given");
        let start = usize::from(buffer) * self.buffer_bytes as usize;
        let address = self.memory[start..].as_mut_ptr() as u64;
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
        // SAFETY: the tail is an aligned u16 inside the first entry; the kernel only reads it, and we
        // refer to it here alone. `set_addr`, `set_len` and `set_bid` do not touch it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release pairs with the kernel's acquire load of the tail (io_uring_register(2)): it sees the
        // entries that were written before.
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with this layout, and the ring that used it is gone.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.entries_layout) };
    }
}

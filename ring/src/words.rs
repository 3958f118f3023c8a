//! The memory of a region: words that many threads, or processes, load and store.
//!
//! Three kinds: the heap, for a ring of one process; a mapping of a file that we made or were
//! handed; memory that the caller gives. Behind this file they are all the same slice of atomics.

use crate::error::RingError;
use crate::sync::AtomicU64;
use alloc::boxed::Box;

/// What gives the memory back when it is dropped.
#[cfg(not(loom))]
pub(crate) type Owner = Box<dyn Send + Sync>;

/// Words that many threads load and store.
#[cfg(not(loom))]
pub(crate) struct Words {
    start: NonNull<AtomicU64>,
    count: usize,
    _owner: Owner,
}

/// Words that many threads load and store.
#[cfg(loom)]
#[derive(Clone)]
pub(crate) struct Words(alloc::sync::Arc<Box<[AtomicU64]>>);

#[cfg(not(loom))]
use core::ptr::NonNull;

#[cfg(not(loom))]
#[expect(
    unsafe_code,
    reason = "memory of any kind is seen as a slice of atomics"
)]
mod memory {
    use super::{AtomicU64, Box, NonNull, Owner, RingError, Words};
    use crate::layout::{LINE_BYTES, WORD_BYTES};
    use alloc::alloc::{Layout, alloc_zeroed, dealloc};
    use core::slice;

    #[repr(C, align(128))]
    struct Line([AtomicU64; LINE_BYTES / WORD_BYTES]);

    const _: () = assert!(WORD_BYTES == size_of::<u64>() && LINE_BYTES == size_of::<Line>());

    /// Memory of the global allocator.
    struct Heap {
        start: NonNull<u8>,
        layout: Layout,
    }

    // SAFETY: an allocation belongs to no thread.
    unsafe impl Send for Heap {}
    // SAFETY: nothing but the drop touches it.
    unsafe impl Sync for Heap {}

    impl Drop for Heap {
        fn drop(&mut self) {
            // SAFETY: allocated by the global allocator with this layout, in `Words::new`, and
            // `Words` drops its owner together with the only pointer to it.
            unsafe { dealloc(self.start.as_ptr(), self.layout) };
        }
    }

    impl Words {
        /// `count` words of the heap, all zero. The system gives each page at its first use.
        pub(crate) fn new(count: usize) -> Result<Self, RingError> {
            let lines = count.div_ceil(LINE_BYTES / WORD_BYTES);
            let out_of_memory = RingError::OutOfMemory {
                region_bytes: count.saturating_mul(WORD_BYTES),
            };
            let layout = Layout::array::<Line>(lines).map_err(|_| out_of_memory)?;
            assert!(layout.size() > 0, "a region has a header");
            // SAFETY: the size is not zero.
            let memory = unsafe { alloc_zeroed(layout) };
            let start = NonNull::new(memory).ok_or(out_of_memory)?;
            Ok(Self {
                start: start.cast(),
                count,
                _owner: Box::new(Heap { start, layout }),
            })
        }

        /// `count` words that somebody else owns.
        ///
        /// # Safety
        ///
        /// From `start`, which is aligned to 8 bytes, there are `count` words that stay where they
        /// are, and readable (and writable, if anything but loads is done), until `owner` is
        /// dropped. Until then nobody in this process accesses them but by atomic operations of 8
        /// bytes. Others may write them at any time, and whatever they like.
        pub(crate) unsafe fn from_raw(start: NonNull<u64>, count: usize, owner: Owner) -> Self {
            Self {
                start: start.cast(),
                count,
                _owner: owner,
            }
        }

        /// Asks for the cache line of a word, which is about to be written. `_mm_prefetch` does not, unless all of
        /// the program is compiled for processors that surely can: others ignore the instruction, too.
        #[inline]
        pub(crate) fn prefetch_for_write(&self, index: usize) {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            if let Some(word) = self.all().get(index) {
                let word = core::ptr::from_ref(word);
                // SAFETY: a hint, which reads and writes nothing that a program could see.
                unsafe {
                    core::arch::asm!(
                        "prefetchw [{}]",
                        in(reg) word,
                        options(nostack, preserves_flags, readonly)
                    );
                }
            }
            #[cfg(not(all(target_arch = "x86_64", not(miri))))]
            let _ = index;
        }

        #[inline]
        pub(super) fn all(&self) -> &[AtomicU64] {
            // SAFETY: `start` and `count` come from `new`, where they are an allocation of zero
            // bytes, which are valid atomics, or from the caller of `from_raw`, who promised the
            // same; every bit pattern is a valid word. The owner lives as long as `self`, and the
            // slice no longer.
            unsafe { slice::from_raw_parts(self.start.as_ptr(), self.count) }
        }
    }

    // SAFETY: all access is by atomics, and the owner is `Send`.
    unsafe impl Send for Words {}
    // SAFETY: all access is by atomics, and the owner is `Sync`.
    unsafe impl Sync for Words {}
}

#[cfg(loom)]
impl Words {
    pub(crate) fn new(count: usize) -> Result<Self, RingError> {
        Ok(Self(alloc::sync::Arc::new(
            (0..count).map(|_| AtomicU64::new(0)).collect(),
        )))
    }

    fn all(&self) -> &[AtomicU64] {
        &self.0
    }

    pub(crate) fn prefetch_for_write(&self, _index: usize) {}
}

impl Words {
    /// One word.
    #[inline]
    pub(crate) fn at(&self, index: usize) -> &AtomicU64 {
        &self.all()[index]
    }

    /// Consecutive words.
    #[inline]
    pub(crate) fn slice(&self, start: usize, count: usize) -> &[AtomicU64] {
        &self.all()[start..start + count]
    }

    /// The same, if they are there.
    #[inline]
    pub(crate) fn get(&self, start: usize, count: usize) -> Option<&[AtomicU64]> {
        self.all().get(start..start.checked_add(count)?)
    }

    pub(crate) fn count(&self) -> usize {
        self.all().len()
    }

    /// The first `count` of them, all if there are fewer.
    #[cfg(not(loom))]
    pub(crate) fn cut(self, count: usize) -> Self {
        Self {
            count: self.count.min(count),
            ..self
        }
    }

    #[cfg(loom)]
    pub(crate) fn cut(self, _count: usize) -> Self {
        self
    }
}

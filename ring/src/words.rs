//! The memory of a region: zeroed words in lines that no two of them share.

use crate::error::RingError;
use crate::layout::{LINE_BYTES, WORD_BYTES};
use crate::sync::AtomicU64;

/// Words that many threads load and store.
pub(crate) struct Words {
    #[cfg(not(loom))]
    lines: Box<[Line]>,
    #[cfg(loom)]
    words: Vec<AtomicU64>,
}

#[cfg(not(loom))]
#[repr(C, align(128))]
struct Line([AtomicU64; LINE_BYTES / WORD_BYTES]);

const _: () = assert!(WORD_BYTES == size_of::<u64>() && LINE_BYTES == 128);

#[cfg(not(loom))]
#[expect(
    unsafe_code,
    reason = "zeroed memory is taken from the system untouched, and lines are seen as words"
)]
impl Words {
    /// `count` words, all zero. The system gives each page at its first use.
    pub(crate) fn new(count: usize) -> Result<Self, RingError> {
        use std::alloc::{Layout, alloc_zeroed};
        use std::ptr;
        let lines = count.div_ceil(LINE_BYTES / WORD_BYTES);
        let out_of_memory = RingError::OutOfMemory {
            region_bytes: count.saturating_mul(WORD_BYTES),
        };
        let layout = Layout::array::<Line>(lines).map_err(|_| out_of_memory)?;
        assert!(layout.size() > 0, "a region has a header");
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc_zeroed(layout) }.cast::<Line>();
        if memory.is_null() {
            return Err(out_of_memory);
        }
        // SAFETY: allocated by the global allocator with the layout of this slice; zero bytes are
        // valid atomics; nobody else has the pointer.
        let lines = unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(memory, lines)) };
        Ok(Self { lines })
    }

    fn all(&self) -> &[AtomicU64] {
        let count = self.lines.len() * (LINE_BYTES / WORD_BYTES);
        // SAFETY: a line is an array of words and nothing else (its alignment equals its size), so
        // a slice of lines is a slice of words; the lifetime is that of the borrow.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<AtomicU64>(), count) }
    }
}

#[cfg(loom)]
impl Words {
    pub(crate) fn new(count: usize) -> Result<Self, RingError> {
        let words = (0..count).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { words })
    }

    fn all(&self) -> &[AtomicU64] {
        &self.words
    }
}

impl Words {
    /// One word.
    pub(crate) fn at(&self, index: usize) -> &AtomicU64 {
        &self.all()[index]
    }

    /// Consecutive words.
    pub(crate) fn slice(&self, start: usize, count: usize) -> &[AtomicU64] {
        &self.all()[start..start + count]
    }
}

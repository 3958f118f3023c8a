//! Memory that O_DIRECT can write: it begins at a block.

use super::format::BLOCK_BYTES;
use std::io;

/// Bytes whose first one is at an address that is a multiple of a block. Its pages cost memory only
/// once they were used.
#[derive(Debug)]
pub(super) struct BlockBuffer {
    /// A block longer than what is used of it.
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
}

impl BlockBuffer {
    /// Zeros, so many bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self::of(vec![0; capacity + BLOCK_BYTES], capacity)
    }

    /// The same for any number.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn try_new(capacity: usize) -> io::Result<Self> {
        let mut memory = Vec::new();
        let bytes = capacity.saturating_add(BLOCK_BYTES);
        memory.try_reserve_exact(bytes)?;
        memory.resize(bytes, 0);
        Ok(Self::of(memory, capacity))
    }

    fn of(memory: Vec<u8>, capacity: usize) -> Self {
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start < BLOCK_BYTES, "a block is a power of two of bytes");
        Self {
            memory,
            start,
            capacity,
        }
    }

    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.capacity]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.capacity]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_at_a_block() {
        for capacity in [0, 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 1, 1 << 21] {
            let mut buffer = BlockBuffer::new(capacity);
            assert_eq!(buffer.bytes().as_ptr().align_offset(BLOCK_BYTES), 0);
            assert_eq!(buffer.bytes_mut().len(), capacity);
        }
    }
}

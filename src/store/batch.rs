//! Gathers what is queued into batches, with sequence numbers and checksums.

use super::appender::{Chunk, Message};
use super::format::{self, BLOCK_BYTES, Checksum, KIND_CLOSED};
use super::pending::PendingRecords;
use super::segment_writer::SealedBatch;
use super::status::Status;
use crate::base::limits::STORE_BATCH_BYTES;
use crossbeam_channel::{Receiver, TryRecvError};
use glommio::io::DmaBuffer;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const _: () = assert!(STORE_BATCH_BYTES.is_multiple_of(BLOCK_BYTES));

/// Fills one batch while the one before it is written.
#[derive(Debug)]
pub(super) struct BatchBuilder {
    receiver: Receiver<Message>,
    checksum: Checksum,
    /// Size of a batch, bytes; a record that is larger has a batch of its own.
    batch_bytes: usize,
    next_sequence: u64,
    /// Allocated for the first record.
    buffer: Option<DmaBuffer>,
    /// Bytes in the buffer.
    bytes: usize,
    first_sequence: u64,
    batch_begins_segment: bool,
    pending: PendingRecords,
    /// What did not fit: the chunk, the offset of the next frame, and its index.
    rest: Option<(Chunk, usize, u64)>,
    is_full: bool,
    /// Whether the next batch begins a segment.
    begins_segment: bool,
    /// Segments before this sequence number are to be deleted.
    delete_before: Option<u64>,
    /// Whether what is in the batch or written must not wait.
    is_due: bool,
    is_closing: bool,
    status: Arc<Status>,
}

impl BatchBuilder {
    pub(super) fn new(
        receiver: Receiver<Message>,
        checksum: Checksum,
        segment_bytes: u64,
        next_sequence: u64,
        status: Arc<Status>,
    ) -> Self {
        // With its header a segment of the smallest size has room for one batch.
        let room = usize::try_from(segment_bytes).unwrap_or(usize::MAX) - BLOCK_BYTES;
        Self {
            receiver,
            checksum,
            batch_bytes: STORE_BATCH_BYTES.min(room / BLOCK_BYTES * BLOCK_BYTES),
            next_sequence,
            buffer: None,
            bytes: 0,
            first_sequence: next_sequence,
            batch_begins_segment: false,
            pending: PendingRecords::new(&status),
            rest: None,
            is_full: false,
            begins_segment: false,
            delete_before: None,
            is_due: false,
            is_closing: false,
            status,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether no further record fits.
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    /// Whether the store is to be closed and all that came before is in the batch or written.
    pub(super) const fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Whether what came before must not wait any longer; once.
    pub(super) fn take_due(&mut self) -> bool {
        std::mem::take(&mut self.is_due)
    }

    /// The sequence number before which segments are to be deleted, once.
    pub(super) fn take_delete_before(&mut self) -> Option<u64> {
        self.delete_before.take()
    }

    /// Waits for a message for at most this long, and handles it.
    pub(super) fn wait(&mut self, timeout: Duration) {
        if let Ok(message) = self.receiver.recv_timeout(timeout) {
            self.handle(message);
        }
    }

    /// Takes what is queued until the batch is full or the queue is empty.
    pub(super) fn fill(&mut self) {
        self.move_rest();
        while !self.is_full && !self.is_closing {
            match self.receiver.try_recv() {
                Ok(message) => self.handle(message),
                Err(TryRecvError::Empty) => return,
                // The handle and all appenders are gone.
                Err(TryRecvError::Disconnected) => self.is_closing = true,
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Chunk(chunk) => {
                self.rest = Some((chunk, 0, 0));
                self.move_rest();
            }
            Message::Sync => self.is_due = true,
            Message::DeleteBefore(sequence) => self.delete_before = Some(sequence),
            Message::Close => self.is_closing = true,
        }
    }

    /// Moves records of the chunk at hand to the batch.
    fn move_rest(&mut self) {
        let Some((mut chunk, mut offset, mut index)) = self.rest.take() else {
            return;
        };
        if chunk.begins_segment && offset == 0 {
            // What is in the batch belongs to the segment before.
            self.is_full = self.bytes > 0;
            if self.is_full {
                self.rest = Some((chunk, offset, index));
                return;
            }
            self.begins_segment = true;
        }
        while offset < chunk.frames.len() {
            let frame = &chunk.frames[offset..];
            let frame = &frame[..format::first_frame_bytes(frame)];
            if !self.push(frame) {
                self.rest = Some((chunk, offset, index));
                return;
            }
            offset += frame.len();
            let completion = chunk.pending.pop(index);
            self.pending.push(self.next_sequence - 1, completion);
            index += 1;
        }
        // Relaxed: it only counts what has come through the queue.
        let bytes = chunk.frames.len();
        self.status.queue_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Copies a frame to the batch and seals it; false = it does not fit, and the batch is full.
    fn push(&mut self, frame: &[u8]) -> bool {
        let end = self.bytes + frame.len();
        if self.bytes == 0 {
            let bytes = frame.len().next_multiple_of(BLOCK_BYTES);
            let bytes = bytes.max(self.batch_bytes);
            self.buffer = Some(glommio::allocate_dma_buffer(bytes));
            self.first_sequence = self.next_sequence;
            self.batch_begins_segment = std::mem::take(&mut self.begins_segment);
        }
        let buffer = self.buffer.as_mut().expect("a batch with frames has one");
        let Some(target) = buffer.as_bytes_mut().get_mut(self.bytes..end) else {
            self.is_full = true;
            return false;
        };
        target.copy_from_slice(frame);
        format::seal_frame(target, self.next_sequence, self.checksum);
        self.bytes = end;
        self.next_sequence += 1;
        true
    }

    /// Adds the frame that says that the store was closed in order; false = it does not fit.
    pub(super) fn push_closed(&mut self) -> bool {
        let mut frame = Vec::new();
        format::push_frame(&mut frame, KIND_CLOSED, &[], &[]);
        self.push(&frame)
    }

    /// The batch, padded to whole blocks, and who waits for its records; `None` if it is empty.
    pub(super) fn take(&mut self) -> Option<(SealedBatch, PendingRecords)> {
        let mut buffer = self.buffer.take()?;
        let end = self.bytes.next_multiple_of(BLOCK_BYTES);
        buffer.trim_to_size(end);
        buffer.as_bytes_mut()[self.bytes..].fill(0);
        self.bytes = 0;
        self.is_full = false;
        let batch = SealedBatch {
            bytes: Rc::new(buffer),
            first_sequence: self.first_sequence,
            last_sequence: self.next_sequence - 1,
            begins_segment: self.batch_begins_segment,
        };
        let pending = PendingRecords::new(&self.status);
        Some((batch, std::mem::replace(&mut self.pending, pending)))
    }
}

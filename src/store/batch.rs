//! Gathers what is queued into batches, with sequence numbers and checksums.

use super::appender::{Chunk, Message};
use super::buffer::BlockBuffer;
use super::format::{self, BLOCK_BYTES, Checksum, KIND_CLOSED};
use super::pending::PendingRecords;
use super::segment_writer::SealedBatch;
use super::status::Status;
use crate::base::limits::{STORE_BATCH_BYTES, STORE_BATCHES, STORE_CHUNK_BYTES};
use crossbeam_channel::{Receiver, TryRecvError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const _: () = assert!(STORE_BATCH_BYTES.is_multiple_of(BLOCK_BYTES));
// A chunk is never divided.
const _: () = assert!(STORE_BATCH_BYTES >= 4 * STORE_CHUNK_BYTES);

/// Fills one batch while those before it are written.
#[derive(Debug)]
pub(super) struct BatchBuilder {
    receiver: Receiver<Message>,
    checksum: Checksum,
    /// Size of a batch, bytes; a record that is larger has a batch of its own.
    batch_bytes: usize,
    next_sequence: u64,
    /// Memory of batches that were written, at most [`STORE_BATCHES`]: new memory costs as much as
    /// the checksums of what is written to it.
    spare: Vec<BlockBuffer>,
    /// There from the first record on.
    buffer: Option<BlockBuffer>,
    /// Bytes in the buffer.
    bytes: usize,
    first_sequence: u64,
    batch_begins_segment: bool,
    pending: PendingRecords,
    /// What did not fit.
    rest: Option<Chunk>,
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
            spare: Vec::with_capacity(STORE_BATCHES),
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

    /// Waits for a message for at most this long, and handles it. If there is none, spare memory is
    /// returned.
    pub(super) fn wait(&mut self, timeout: Duration) {
        match self.receiver.recv_timeout(timeout) {
            Ok(message) => self.handle(message),
            Err(_) => self.spare.clear(),
        }
    }

    /// Takes what is queued until the batch is full or the queue is empty.
    pub(super) fn fill(&mut self) {
        if let Some(chunk) = self.rest.take() {
            self.push_chunk(chunk);
        }
        while !self.is_full && !self.is_closing {
            match self.receiver.try_recv() {
                Ok(message) => self.handle(message),
                Err(TryRecvError::Empty) => break,
                // The handle and all appenders are gone.
                Err(TryRecvError::Disconnected) => self.is_closing = true,
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Chunk(chunk) => self.push_chunk(chunk),
            Message::Sync => self.is_due = true,
            Message::DeleteBefore(sequence) => self.delete_before = Some(sequence),
            Message::Close => self.is_closing = true,
        }
    }

    /// Moves the records of a chunk to the batch, or puts it aside if they do not fit.
    fn push_chunk(&mut self, chunk: Chunk) {
        // What is in the batch belongs to the segment before.
        let is_too_early = chunk.begins_segment && self.bytes > 0;
        if is_too_early || !self.has_room(chunk.frames.len()) {
            self.is_full = true;
            self.rest = Some(chunk);
            return;
        }
        self.begins_segment |= chunk.begins_segment;
        let first_sequence = self.next_sequence;
        self.push_frames(&chunk.frames);
        self.pending.append_numbered(chunk.pending, first_sequence);
        // Relaxed: it only counts what has come through the queue.
        let bytes = chunk.frames.len();
        self.status.queue_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether so many bytes fit the batch. If it is empty, any number does.
    fn has_room(&self, bytes: usize) -> bool {
        let capacity = self.buffer.as_ref().map(BlockBuffer::capacity);
        capacity.is_none_or(|capacity| self.bytes + bytes <= capacity)
    }

    /// Copies frames to the batch, where there is room, and seals them.
    fn push_frames(&mut self, frames: &[u8]) {
        if self.buffer.is_none() {
            self.first_sequence = self.next_sequence;
            self.batch_begins_segment = std::mem::take(&mut self.begins_segment);
        }
        let batch_bytes = self.batch_bytes;
        let spare = &mut self.spare;
        let buffer = self.buffer.get_or_insert_with(|| {
            let needed = frames.len().next_multiple_of(BLOCK_BYTES);
            let reused = spare.pop_if(|_| needed <= batch_bytes);
            reused.unwrap_or_else(|| BlockBuffer::new(needed.max(batch_bytes)))
        });
        let end = self.bytes + frames.len();
        let target = &mut buffer.bytes_mut()[self.bytes..end];
        target.copy_from_slice(frames);
        self.next_sequence = format::seal_frames(target, self.next_sequence, self.checksum);
        self.bytes = end;
    }

    /// A batch of the frame that says that the store was closed in order. Nothing is behind it.
    pub(super) fn closed_mark(&mut self) -> SealedBatch {
        let mut frame = Vec::new();
        format::push_frame(&mut frame, KIND_CLOSED, &[], &[]);
        self.push_frames(&frame);
        self.seal().expect("a frame was pushed")
    }

    /// The batch and who waits for its records; `None` if it is empty.
    pub(super) fn take(&mut self) -> Option<(SealedBatch, PendingRecords)> {
        let batch = self.seal()?;
        let pending = PendingRecords::new(&self.status);
        Some((batch, std::mem::replace(&mut self.pending, pending)))
    }

    /// The batch, padded to whole blocks.
    fn seal(&mut self) -> Option<SealedBatch> {
        let mut buffer = self.buffer.take()?;
        let bytes = self.bytes.next_multiple_of(BLOCK_BYTES);
        buffer.bytes_mut()[self.bytes..bytes].fill(0);
        self.bytes = 0;
        self.is_full = false;
        Some(SealedBatch {
            buffer,
            bytes,
            first_sequence: self.first_sequence,
            last_sequence: self.next_sequence - 1,
            begins_segment: self.batch_begins_segment,
        })
    }

    /// Takes the memory of a batch that was written, for a later one.
    pub(super) fn reuse(&mut self, buffer: BlockBuffer) {
        if buffer.capacity() == self.batch_bytes && self.spare.len() < STORE_BATCHES {
            self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::now::Clock;
    use crossbeam_channel::{Sender, bounded};

    fn builder() -> (BatchBuilder, Sender<Message>, Arc<Status>) {
        let (sender, receiver) = bounded(16);
        let status = Arc::new(Status::new(Clock::start()));
        let checksum = Checksum::salted(1);
        let builder = BatchBuilder::new(receiver, checksum, 64 << 20, 1, Arc::clone(&status));
        (builder, sender, status)
    }

    fn chunk(records: u64, payload: usize, status: &Arc<Status>) -> Message {
        let mut frames = Vec::new();
        let mut pending = PendingRecords::new(status);
        for index in 0..records {
            format::push_frame(&mut frames, 1, b"", &vec![0; payload]);
            pending.push(index, None);
        }
        Message::Chunk(Chunk {
            frames,
            pending,
            begins_segment: false,
        })
    }

    #[test]
    fn memory_of_written_batches_is_used_again_and_no_more_is_kept_than_batches() {
        let (mut builder, sender, status) = builder();
        let mut take = || {
            sender.send(chunk(1, 100, &status)).unwrap();
            builder.fill();
            let (batch, pending) = builder.take().unwrap();
            pending.complete();
            for _ in 0..2 * STORE_BATCHES {
                builder.reuse(BlockBuffer::new(builder.batch_bytes));
            }
            assert_eq!(builder.spare.len(), STORE_BATCHES);
            let last = builder.spare.last().unwrap().bytes().as_ptr();
            (batch.buffer.bytes().as_ptr(), last)
        };
        let (_, spare) = take();
        assert_eq!(take().0, spare);
    }

    #[test]
    fn memory_of_a_large_record_is_not_kept() {
        let (mut builder, sender, status) = builder();
        sender.send(chunk(1, STORE_BATCH_BYTES, &status)).unwrap();
        builder.fill();
        let (batch, pending) = builder.take().unwrap();
        pending.complete();
        assert_eq!(batch.bytes, STORE_BATCH_BYTES + BLOCK_BYTES);
        builder.reuse(batch.buffer);
        assert!(builder.spare.is_empty());
    }

    #[test]
    fn a_chunk_that_does_not_fit_is_in_the_next_batch_as_a_whole() {
        let (mut builder, sender, status) = builder();
        for _ in 0..3 {
            sender
                .send(chunk(3, STORE_BATCH_BYTES / 8, &status))
                .unwrap();
        }
        let mut batches = Vec::new();
        for is_full in [true, false] {
            builder.fill();
            assert_eq!(builder.is_full(), is_full);
            let (batch, pending) = builder.take().unwrap();
            pending.complete();
            batches.push((batch.first_sequence, batch.last_sequence));
        }
        assert_eq!(batches, [(1, 6), (7, 9)]);
        assert!(builder.take().is_none());
    }
}

//! How records get to the thread of the store.
//!
//! Each thread that appends has an appender of its own, which collects records in a chunk and hands
//! it over as a whole. Neither waits for anything.

use super::format;
use super::pending::{Completion, PendingRecords, RecordLost};
use super::status::{self, Status};
use crate::base::limits::{STORE_CHUNK_BYTES, STORE_KEY_BYTES_MAX, STORE_PAYLOAD_BYTES_MAX};
use crossbeam_channel::{Sender, TrySendError};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Why a record was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AppendError {
    /// The store is slower than what is appended, or has failed. The record is counted as rejected.
    QueueFull,
    /// The key is longer than 65,535 bytes.
    KeyTooLong,
    /// The payload is longer than the limit.
    PayloadTooLong,
    /// Kind 0 belongs to the store.
    ReservedKind,
    /// The store was closed, or its thread ended.
    Closed,
}

impl fmt::Display for AppendError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueFull => formatter.write_str("the queue of the store is full"),
            Self::KeyTooLong => write!(
                formatter,
                "the key of a record is longer than {STORE_KEY_BYTES_MAX} bytes"
            ),
            Self::PayloadTooLong => write!(
                formatter,
                "the payload of a record is longer than {STORE_PAYLOAD_BYTES_MAX} bytes"
            ),
            Self::ReservedKind => formatter.write_str("records of kind 0 belong to the store"),
            Self::Closed => formatter.write_str("the store is closed"),
        }
    }
}

impl std::error::Error for AppendError {}

/// Records of one appender, in their order.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Frames without sequence numbers.
    pub(super) frames: Vec<u8>,
    pub(super) pending: PendingRecords,
    /// Whether its first record is to be the first of a segment.
    pub(super) begins_segment: bool,
}

/// What the thread of the store receives.
#[derive(Debug)]
pub(super) enum Message {
    Chunk(Chunk),
    /// Make durable what came before, whatever the policy says of time.
    Sync,
    /// Delete the segments whose records are all before this sequence number.
    DeleteBefore(u64),
    /// Write what came before, and end.
    Close,
}

/// Appends records. Each thread has its own.
#[derive(Debug)]
pub struct Appender {
    chunk: Chunk,
    sender: Sender<Message>,
    status: Arc<Status>,
    queue_bytes_max: usize,
}

impl Appender {
    pub(super) fn new(
        sender: Sender<Message>,
        status: Arc<Status>,
        queue_bytes_max: usize,
    ) -> Self {
        Self {
            chunk: Chunk {
                frames: Vec::new(),
                pending: PendingRecords::new(&status),
                begins_segment: false,
            },
            sender,
            status,
            queue_bytes_max,
        }
    }

    /// Queues a record of which nobody wants to know when it is durable. It reaches the store with
    /// the next [`flush`](Self::flush), or before if much waits.
    ///
    /// # Errors
    /// See [`AppendError`]. The record is not stored then.
    pub fn append(&mut self, kind: u8, key: &[u8], payload: &[u8]) -> Result<(), AppendError> {
        self.push(kind, key, payload, None)
    }

    /// Queues a record; `completion` is called when it is durable, or lost.
    ///
    /// # Errors
    /// See [`AppendError`]. The record is not stored then, and `completion` is dropped.
    pub fn append_with(
        &mut self,
        kind: u8,
        key: &[u8],
        payload: &[u8],
        completion: impl FnOnce(Result<u64, RecordLost>) + Send + 'static,
    ) -> Result<(), AppendError> {
        self.push(kind, key, payload, Some(Box::new(completion)))
    }

    fn push(
        &mut self,
        kind: u8,
        key: &[u8],
        payload: &[u8],
        completion: Option<Completion>,
    ) -> Result<(), AppendError> {
        if kind == format::KIND_CLOSED {
            return Err(AppendError::ReservedKind);
        }
        if key.len() > STORE_KEY_BYTES_MAX {
            return Err(AppendError::KeyTooLong);
        }
        if payload.len() > STORE_PAYLOAD_BYTES_MAX {
            return Err(AppendError::PayloadTooLong);
        }
        let bytes = format::frame_bytes(key.len(), payload.len());
        let waiting = self.chunk.frames.len();
        if waiting > 0 && waiting + bytes > STORE_CHUNK_BYTES {
            self.flush().inspect_err(|error| {
                if *error == AppendError::QueueFull {
                    status::add(&self.status.rejected_queue_full, 1);
                }
            })?;
        }
        let index = self.chunk.pending.records();
        self.chunk.pending.push(index, completion);
        format::push_frame(&mut self.chunk.frames, kind, key, payload);
        Ok(())
    }

    /// Hands the records over. To be called when nothing more is to be appended for now, as at the
    /// end of a turn of an event loop.
    ///
    /// # Errors
    /// If the queue has no room, the records wait for the next call; nothing is lost. If the store
    /// is closed, they are lost, and their completions know it.
    pub fn flush(&mut self) -> Result<(), AppendError> {
        let bytes = self.chunk.frames.len();
        if bytes == 0 {
            return Ok(());
        }
        // Relaxed, here and below: the records come through the queue; this only counts their bytes.
        let queued = self.status.queue_bytes.fetch_add(bytes, Ordering::Relaxed);
        // A record of any size finds room in an empty queue.
        if queued > 0 && queued + bytes > self.queue_bytes_max {
            self.status.queue_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(AppendError::QueueFull);
        }
        let next = Chunk {
            frames: Vec::with_capacity(bytes.min(STORE_CHUNK_BYTES)),
            pending: PendingRecords::new(&self.status),
            begins_segment: false,
        };
        let chunk = std::mem::replace(&mut self.chunk, next);
        let records = chunk.pending.records();
        let (error, rejected) = match self.sender.try_send(Message::Chunk(chunk)) {
            Ok(()) => {
                status::add(&self.status.records_queued, records);
                return Ok(());
            }
            Err(TrySendError::Full(message)) => (AppendError::QueueFull, Some(message)),
            // Dropped, its records are counted as lost.
            Err(TrySendError::Disconnected(_)) => (AppendError::Closed, None),
        };
        self.status.queue_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(Message::Chunk(chunk)) = rejected {
            self.chunk = chunk;
        }
        Err(error)
    }
}

impl Appender {
    /// Hands the records over, and has the store begin a new segment with the next record of this
    /// appender.
    ///
    /// # Errors
    /// As [`flush`](Self::flush); no segment is begun then.
    pub fn begin_segment(&mut self) -> Result<(), AppendError> {
        self.flush()?;
        self.chunk.begins_segment = true;
        Ok(())
    }

    /// Has the store delete the segments whose records are all before this sequence number.
    ///
    /// # Errors
    /// [`AppendError::QueueFull`] and [`AppendError::Closed`]; nothing is deleted then.
    pub fn delete_before(&mut self, sequence: u64) -> Result<(), AppendError> {
        self.tell(Message::DeleteBefore(sequence))
    }

    /// Hands the records over, and has the store write them at once, and make them durable unless the
    /// policy is never to do that.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn sync(&mut self) -> Result<(), AppendError> {
        self.flush()?;
        self.tell(Message::Sync)
    }

    /// Whether the last write failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        // Relaxed: it is looked at again and again.
        self.status.is_failing.load(Ordering::Relaxed)
    }

    fn tell(&self, message: Message) -> Result<(), AppendError> {
        let sent = self.sender.try_send(message);
        sent.map_err(|error| match error {
            TrySendError::Full(_) => AppendError::QueueFull,
            TrySendError::Disconnected(_) => AppendError::Closed,
        })
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        // Records for which there is no room are counted as lost.
        let _ = self.flush();
    }
}

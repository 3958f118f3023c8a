//! The durable store: records on disk that survive a restart.
//!
//! Records are appended and read again at the next start; they are not read in between. What they
//! mean is the caller's matter. `docs/STORE.md` describes the files and what each policy may lose.
//!
//! ```text
//!   any thread          any thread           the thread of the store    the one that waits for the disk
//!  Appender ─ chunk ─┐
//!                    ├─▶ bounded queue ─▶ BatchBuilder ── 2 jobs ──▶ SegmentWriter ─▶ segments
//!  Appender ─ chunk ─┘                        ▲                     │   │  │
//!                                             └── memory of batches ┘   │  Retention ─▶ deletes
//!                                                       completions ◀───┘
//! ```

mod appender;
mod batch;
mod buffer;
mod config;
mod directory;
mod error;
mod format;
mod image;
mod inspection;
mod marker;
mod pending;
mod recovery;
mod retention;
mod scan;
mod segment_file;
mod segment_reader;
mod segment_writer;
mod status;
mod thread;
mod write_thread;

pub use appender::{AppendError, Appender};
pub use config::{StoreConfig, SyncPolicy};
pub use error::StoreError;
pub use inspection::{Inspection, dump, verify};
pub use marker::IntactMarker;
pub use pending::{Completion, RecordLost};
pub use scan::{Damage, DamageKind, StoreScan, StoredRecord, TornTail};
pub use status::{StoreMonitor, StoreState, StoreStats};

use crate::base::limits::STORE_QUEUE_CHUNKS;
use crate::base::now::Clock;
use appender::Message;
use crossbeam_channel::{Sender, bounded};
use directory::LockedDirectory;
use retention::{ClosedSegment, Retention};
use status::Status;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use thread::ThreadParts;

/// An open store. Dropped, it is closed.
#[derive(Debug)]
pub struct Store {
    sender: Sender<Message>,
    status: Arc<Status>,
    queue_bytes_max: usize,
    marker: IntactMarker,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Locks the directory, passes all records in it to `on_record` in their order, cuts off what a
    /// write that did not end has left, and starts the threads of the store.
    ///
    /// What is damaged is in the answer and stays on the disk; it is no error. Takes about a second
    /// per GiB, and memory for one segment.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(
        config: &StoreConfig,
        clock: Clock,
        on_record: impl FnMut(StoredRecord<'_>),
    ) -> Result<(Self, StoreScan), StoreError> {
        config.check()?;
        let directory = LockedDirectory::open(&config.directory)?;
        let mut scan = recovery::recover(&directory, on_record)?;
        let salt = random()?;
        let epoch = match scan.epoch {
            Some(epoch) if !scan.files.is_empty() => epoch,
            _ => random()?,
        };
        scan.epoch = Some(epoch);

        let now = clock.now();
        let mut retention = Retention::new(config.store_bytes_max, config.age_max);
        for file in &scan.files {
            let segment = ClosedSegment {
                first_sequence: file.first_sequence,
                bytes: file.bytes,
            };
            retention.add(segment, file.written_unix_ms, now);
        }
        let status = Arc::new(Status::new(clock));
        status::set(&status.last_sequence, scan.last_sequence);
        let (sender, receiver) = bounded(STORE_QUEUE_CHUNKS);
        let parts = ThreadParts {
            directory,
            config: config.clone(),
            clock,
            epoch,
            salt,
            next_sequence: scan.next_sequence,
            retention,
            receiver,
            status: Arc::clone(&status),
        };
        let thread = Some(thread::spawn(parts)?);
        let store = Self {
            sender,
            status,
            queue_bytes_max: config.queue_bytes_max,
            marker: IntactMarker::of(&config.directory),
            thread,
        };
        Ok((store, scan))
    }

    /// The file that says whether something is missing.
    #[must_use]
    pub const fn intact_marker(&self) -> &IntactMarker {
        &self.marker
    }

    /// Appends for one thread.
    #[must_use]
    pub fn appender(&self) -> Appender {
        let status = Arc::clone(&self.status);
        Appender::new(self.sender.clone(), status, self.queue_bytes_max)
    }

    /// Shows the state and the counts of the store, also when it is closed.
    #[must_use]
    pub fn monitor(&self) -> StoreMonitor {
        StoreMonitor::new(Arc::clone(&self.status))
    }

    /// Whether records are written now.
    #[must_use]
    pub fn state(&self) -> StoreState {
        self.status.state()
    }

    /// What the store holds and has done.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.status.stats()
    }

    /// Writes what is queued, as durable as the policy promises, and waits for it. Records of
    /// appenders that are flushed later are lost. A store that has failed tries once more.
    pub fn close(self) {
        drop(self);
    }

    /// The same, but it is not said in the store that it was closed in order: something that belongs in
    /// it is not.
    pub fn close_unfinished(self) {
        // Relaxed: the message that ends the thread comes after it, through a queue.
        self.status.is_unfinished.store(true, Ordering::Relaxed);
        drop(self);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Relaxed: the message is what ends the thread; the flag only ends its patience.
        self.status.is_closing.store(true, Ordering::Relaxed);
        // Waits for room, which there is unless the thread has ended.
        let _ = self.sender.send(Message::Close);
        if let Some(thread) = self.thread.take() {
            // If it panicked, its watch has said so.
            let _ = thread.join();
        }
    }
}

fn random() -> Result<u64, StoreError> {
    getrandom::u64().map_err(|error| StoreError::Thread(format!("no random numbers: {error}")))
}

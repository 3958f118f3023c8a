//! The thread of the store.
//!
//! It gathers what is queued into batches and decides when one is written; another thread waits for
//! the disk. Then it waits until there is something to do.

use super::appender::Message;
use super::batch::BatchBuilder;
use super::config::{StoreConfig, SyncPolicy};
use super::directory::LockedDirectory;
use super::error::StoreError;
use super::format::Checksum;
use super::retention::Retention;
use super::segment_writer::SegmentWriter;
use super::status::{Status, Watch};
use super::write_thread::{Done, Job, WriteThread, WriterEnded};
use crate::base::now::Clock;
use crossbeam_channel::Receiver;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Time for which [`SyncPolicy::Never`] gathers records before it writes them, milliseconds.
const WRITE_DELAY_MS: u64 = 50;
/// Time between two looks at the queue while records wait for their time. Appenders need not wake
/// the thread then.
const PAUSE: Duration = Duration::from_millis(5);
/// The same within [`LOADED_MS`] of a full batch: the disk may be waiting for the next one.
const SHORT_PAUSE: Duration = Duration::from_micros(200);
const LOADED_MS: u64 = 20;
/// Time without records after which memory is returned.
const IDLE: Duration = Duration::from_secs(10);

/// What the thread is started with.
#[derive(Debug)]
pub(super) struct ThreadParts {
    pub(super) directory: LockedDirectory,
    pub(super) config: StoreConfig,
    pub(super) clock: Clock,
    pub(super) epoch: u64,
    pub(super) salt: u64,
    pub(super) next_sequence: u64,
    pub(super) retention: Retention,
    pub(super) receiver: Receiver<Message>,
    pub(super) status: Arc<Status>,
}

/// Starts the thread, and the one that waits for the disk.
pub(super) fn spawn(parts: ThreadParts) -> Result<JoinHandle<()>, StoreError> {
    let avoid_cores = parts.config.avoid_cores.clone();
    let failed = |error: io::Error| StoreError::Thread(error.to_string());
    let store_thread = StoreThread::new(parts).map_err(failed)?;
    let builder = thread::Builder::new().name("store".to_owned());
    let thread = builder.spawn(move || {
        leave_cores(&avoid_cores);
        store_thread.run();
    });
    thread.map_err(failed)
}

/// Moves this thread to the cores of this process that are not to be avoided, if there are any.
fn leave_cores(avoid: &[usize]) {
    let Ok(mut cores) = sched_getaffinity(None) else {
        return;
    };
    for core in avoid.iter().filter(|core| **core < CpuSet::MAX_CPU) {
        cores.unset(*core);
    }
    if cores.count() > 0
        && let Err(error) = sched_setaffinity(None, &cores)
    {
        tracing::warn!(%error, "the store does not leave the cores of the shards");
    }
}

/// What the thread works with.
#[derive(Debug)]
struct StoreThread {
    builder: BatchBuilder,
    writer: WriteThread,
    sync_policy: SyncPolicy,
    /// When what waits is due, once something does.
    due_ms: Option<u64>,
    /// Whether something was handed over that is to be made durable later.
    has_unsynced: bool,
    /// When the last full batch was handed over.
    full_ms: Option<u64>,
    clock: Clock,
    status: Arc<Status>,
}

impl StoreThread {
    fn new(parts: ThreadParts) -> io::Result<Self> {
        let ThreadParts { config, status, .. } = parts;
        let builder = BatchBuilder::new(
            parts.receiver,
            Checksum::salted(parts.salt),
            config.segment_bytes,
            parts.next_sequence,
            Arc::clone(&status),
        );
        let segments = SegmentWriter::new(
            parts.directory,
            &config,
            (parts.epoch, parts.salt),
            parts.retention,
            Arc::clone(&status),
        );
        let avoid_cores = config.avoid_cores.clone();
        let place = move || leave_cores(&avoid_cores);
        let writer =
            WriteThread::spawn(segments, &config, parts.clock, Arc::clone(&status), place)?;
        Ok(Self {
            builder,
            writer,
            sync_policy: config.sync,
            due_ms: None,
            has_unsynced: false,
            full_ms: None,
            clock: parts.clock,
            status,
        })
    }

    /// Runs until the store is closed.
    fn run(mut self) {
        let _watch = Watch(Arc::clone(&self.status));
        // If the other thread has ended, what waits is lost, and counted when it is dropped.
        let _ = self.gather().and_then(|()| self.finish());
        // Waits until the last batch is written.
        drop(self);
    }

    /// Gathers records, and hands them over when they are due, until the store is to be closed.
    fn gather(&mut self) -> Result<(), WriterEnded> {
        loop {
            self.take_done(Duration::ZERO)?;
            self.builder.fill();
            if let Some(sequence) = self.builder.take_delete_before() {
                self.send(Job::DeleteBefore(sequence))?;
            }
            let is_closing = self.builder.is_closing();
            if self.builder.is_empty() && !self.has_unsynced {
                if is_closing {
                    return Ok(());
                }
                self.due_ms = None;
                self.builder.wait(IDLE);
                continue;
            }
            let now_ms = self.clock.now().monotonic_ms;
            if self.builder.take_due() {
                self.due_ms = Some(now_ms);
            }
            let delay_ms = self.delay_ms();
            let due_ms = *self
                .due_ms
                .get_or_insert_with(|| now_ms.saturating_add(delay_ms));
            let is_due = is_closing || now_ms >= due_ms;
            if self.builder.is_full() {
                self.full_ms = Some(now_ms);
                self.hand_over(is_due)?;
            } else if is_due && self.writer.is_idle() {
                self.hand_over(is_due)?;
            } else if is_due {
                // What comes meanwhile is made durable with it.
                self.take_done(PAUSE)?;
            } else {
                let is_loaded = self.full_ms.is_some_and(|it| now_ms < it + LOADED_MS);
                let pause = if is_loaded { SHORT_PAUSE } else { PAUSE };
                thread::sleep(pause.min(Duration::from_millis(due_ms - now_ms)));
            }
        }
    }

    /// Time for which records wait for others, milliseconds.
    fn delay_ms(&self) -> u64 {
        match self.sync_policy {
            SyncPolicy::Always => 0,
            SyncPolicy::Interval(interval) => {
                u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)
            }
            SyncPolicy::Never => WRITE_DELAY_MS,
        }
    }

    /// Hands over the batch, or asks for a sync of those before if it is empty.
    fn hand_over(&mut self, is_due: bool) -> Result<(), WriterEnded> {
        let job = match self.builder.take() {
            Some((batch, pending)) => Job::Write {
                batch,
                pending,
                is_due,
            },
            None => Job::Sync,
        };
        let is_later = !is_due && self.sync_policy != SyncPolicy::Never;
        self.has_unsynced = is_later;
        if !is_later {
            self.due_ms = None;
        }
        self.send(job)
    }

    /// Waits for room, and hands over a job.
    fn send(&mut self, job: Job) -> Result<(), WriterEnded> {
        while !self.writer.has_room() {
            self.take_done(IDLE)?;
        }
        self.writer.send(job)
    }

    /// Takes back the memory of batches that were written; waits for at most this long for the first.
    fn take_done(&mut self, timeout: Duration) -> Result<(), WriterEnded> {
        let mut timeout = timeout;
        while !self.writer.is_idle()
            && let Some(Done(buffer)) = self.writer.wait(timeout)?
        {
            if let Some(buffer) = buffer {
                self.builder.reuse(buffer);
            }
            timeout = Duration::ZERO;
        }
        Ok(())
    }

    /// Has the last segment closed.
    fn finish(&mut self) -> Result<(), WriterEnded> {
        let mark = self.builder.closed_mark();
        self.send(Job::Finish(mark))
    }
}

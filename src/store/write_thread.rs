//! The thread that waits for the disk.
//!
//! It writes batches in their order with blocking system calls, tries again after an error, and calls
//! completions.

use super::buffer::BlockBuffer;
use super::config::{StoreConfig, SyncPolicy};
use super::pending::PendingRecords;
use super::segment_writer::{SealedBatch, SegmentWriter, WriteError};
use super::status::{Status, StoreState, Watch};
use crate::base::Now;
use crate::base::limits::STORE_BATCHES;
use crate::base::now::Clock;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Time between two looks at whether the store is to be closed, while a failed write waits for its
/// next attempt.
const PAUSE: Duration = Duration::from_millis(5);
/// Time between two looks for old segments while nothing is written.
const IDLE: Duration = Duration::from_secs(10);
/// Jobs that are worked on or wait: with the batch that is filled, all batches.
const JOBS_MAX: usize = STORE_BATCHES - 1;

/// What the thread does, in the order in which it was sent.
#[derive(Debug)]
pub(super) enum Job {
    Write {
        batch: SealedBatch,
        pending: PendingRecords,
        /// Whether it and what was written before is to be as durable as the policy promises now.
        is_due: bool,
    },
    /// Make durable what was written.
    Sync,
    /// Delete the segments whose records are all before this sequence number.
    DeleteBefore(u64),
    /// Close the store, with this mark in the last segment if nothing is missing at its end.
    Finish(SealedBatch),
}

/// A job was done; the memory of its batch, if it had one.
#[derive(Debug)]
pub(super) struct Done(pub(super) Option<BlockBuffer>);

/// The thread has ended, as after a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriterEnded;

/// The other threads' end of it. Dropped, it waits until the thread has ended.
#[derive(Debug)]
pub(super) struct WriteThread {
    /// Has room for as many jobs as may be under way; `None` at the end.
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    under_way: usize,
    thread: Option<JoinHandle<()>>,
}

impl WriteThread {
    /// Starts the thread, on whatever cores `place` allows it.
    pub(super) fn spawn(
        segments: SegmentWriter,
        config: &StoreConfig,
        clock: Clock,
        status: Arc<Status>,
        place: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, receiver) = bounded(JOBS_MAX);
        let (sender, done) = bounded(JOBS_MAX);
        let unsynced = PendingRecords::new(&status);
        let worker = Worker {
            segments,
            jobs: receiver,
            done: sender,
            unsynced,
            is_intact: true,
            sync_policy: config.sync,
            retry_interval: config.retry_interval,
            clock,
            status,
        };
        let builder = thread::Builder::new().name("store-write".to_owned());
        let thread = builder.spawn(move || {
            place();
            worker.run();
        })?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            under_way: 0,
            thread: Some(thread),
        })
    }

    /// Whether all jobs are done, as far as the caller has seen.
    pub(super) const fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// Waits for at most this long until one more job is done; `None` if none is.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<Option<Done>, WriterEnded> {
        match self.done.recv_timeout(timeout) {
            Ok(done) => {
                self.under_way -= 1;
                Ok(Some(done))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(WriterEnded),
        }
    }

    /// Whether one more job may be sent.
    pub(super) const fn has_room(&self) -> bool {
        self.under_way < JOBS_MAX
    }

    /// Hands a job over; there must be room.
    pub(super) fn send(&mut self, job: Job) -> Result<(), WriterEnded> {
        debug_assert!(self.has_room(), "the caller waits before");
        let jobs = self.jobs.as_ref().ok_or(WriterEnded)?;
        jobs.send(job).map_err(|_| WriterEnded)?;
        self.under_way += 1;
        Ok(())
    }
}

impl Drop for WriteThread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, its watch has said so.
            let _ = thread.join();
        }
    }
}

/// What the thread works with.
#[derive(Debug)]
struct Worker {
    segments: SegmentWriter,
    jobs: Receiver<Job>,
    done: Sender<Done>,
    /// Written, and not as durable yet as the policy promises.
    unsynced: PendingRecords,
    /// Whether all batches were written.
    is_intact: bool,
    sync_policy: SyncPolicy,
    retry_interval: Duration,
    clock: Clock,
    status: Arc<Status>,
}

impl Worker {
    /// Runs until the store is closed, or the thread that sends jobs has ended.
    fn run(mut self) {
        let _watch = Watch(Arc::clone(&self.status));
        while let Some(job) = self.next_job() {
            self.status.note_busy(self.clock.now());
            let buffer = match job {
                Job::Write {
                    batch,
                    pending,
                    is_due,
                } => {
                    self.write(&batch, pending, is_due);
                    Some(batch.buffer)
                }
                Job::Sync => {
                    self.sync();
                    None
                }
                Job::DeleteBefore(sequence) => {
                    self.segments.delete_before(sequence);
                    None
                }
                Job::Finish(mark) => return self.finish(&mark),
            };
            if self.done.send(Done(buffer)).is_err() {
                return;
            }
        }
    }

    /// Waits for a job; `None` if there will be none.
    fn next_job(&mut self) -> Option<Job> {
        loop {
            if let Ok(job) = self.jobs.try_recv() {
                return Some(job);
            }
            self.segments.delete_old(self.clock.now());
            self.status.note_idle();
            match self.jobs.recv_timeout(IDLE) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Writes a batch, after errors as often as needed.
    fn write(&mut self, batch: &SealedBatch, pending: PendingRecords, is_due: bool) {
        let sync = is_due && self.sync_policy != SyncPolicy::Never;
        let now = self.clock.now();
        let mut result = self.segments.write(batch, sync, now);
        if let Err(error) = &result {
            if !self.note_failure(error, now) {
                self.forget_unsynced();
            }
            result = self.retry(batch, sync);
        } else if self.status.state() != StoreState::Running {
            self.status.set_state(StoreState::Running);
        }
        match result {
            Ok(()) => self.unsynced.append(pending),
            // Dropped, they are counted as lost.
            Err(_) => self.is_intact = false,
        }
        if is_due || self.sync_policy == SyncPolicy::Never {
            self.complete();
        }
    }

    /// Makes durable what was written.
    fn sync(&mut self) {
        if let Err(error) = self.segments.sync() {
            self.note_failure(&error, self.clock.now());
            self.forget_unsynced();
            self.is_intact = false;
        }
        self.complete();
    }

    fn complete(&mut self) {
        let none = PendingRecords::new(&self.status);
        std::mem::replace(&mut self.unsynced, none).complete();
    }

    /// Counts as lost what was written and is not known to be durable.
    fn forget_unsynced(&mut self) {
        self.unsynced = PendingRecords::new(&self.status);
    }

    /// Tries again to write a batch until that succeeds or the store is to be closed.
    fn retry(&mut self, batch: &SealedBatch, sync: bool) -> Result<(), WriteError> {
        loop {
            let was_closing = self.status.is_closing();
            self.wait_to_retry();
            let now = self.clock.now();
            self.status.note_busy(now);
            let Err(again) = self.segments.write(batch, sync, now) else {
                tracing::info!("the store writes again");
                self.status.set_state(StoreState::Running);
                return Ok(());
            };
            self.note_failure(&again, now);
            if was_closing {
                return Err(again);
            }
        }
    }

    /// Waits until it is time for the next attempt, or the store is to be closed.
    fn wait_to_retry(&self) {
        let began_ms = self.clock.now().monotonic_ms;
        let waited_ms = || self.clock.now().monotonic_ms.saturating_sub(began_ms);
        while !self.status.is_closing() && u128::from(waited_ms()) < self.retry_interval.as_millis()
        {
            thread::sleep(PAUSE);
        }
    }

    /// Gives up the segment and says so; whether all that was written before is durable.
    fn note_failure(&mut self, error: &WriteError, now: Now) -> bool {
        let is_durable = self.segments.abandon(error, now);
        let error = error.to_string();
        let state = StoreState::Failed {
            error: error.clone(),
        };
        if self.status.state() != state {
            tracing::error!(%error, "the store has failed and tries again");
            self.status.set_state(state);
        }
        is_durable
    }

    /// Says in the last segment that nothing is missing at its end, and closes it.
    fn finish(mut self, mark: &SealedBatch) {
        let now = self.clock.now();
        let is_running = self.status.state() == StoreState::Running;
        let has_written = self.segments.has_active();
        let mut result = Ok(());
        // Relaxed: it was set before the message that ended the thread.
        let is_unfinished = self.status.is_unfinished.load(Ordering::Relaxed);
        if self.is_intact && is_running && has_written && !is_unfinished {
            let sync = self.sync_policy != SyncPolicy::Never;
            result = self.segments.write(mark, sync, now);
        }
        if result.is_ok() {
            result = self.segments.close(now);
        }
        if let Err(error) = result {
            tracing::error!(%error, "the store was not closed in order");
        }
        self.status.set_state(StoreState::Closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::batch::BatchBuilder;
    use crate::store::directory::LockedDirectory;
    use crate::store::format::Checksum;
    use crate::store::retention::Retention;

    #[test]
    fn a_batch_that_is_written_ends_the_failure() {
        let name = format!("fanwire-store-writer-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let config = StoreConfig::new(&path);
        let clock = Clock::start();
        let status = Arc::new(Status::new(clock));
        let segments = SegmentWriter::new(
            LockedDirectory::open(&path).unwrap(),
            &config,
            (1, 2),
            Retention::new(config.store_bytes_max, None),
            Arc::clone(&status),
        );
        let mut writer =
            WriteThread::spawn(segments, &config, clock, Arc::clone(&status), || {}).unwrap();
        // As after a sync that failed, which nobody repeats.
        status.set_state(StoreState::Failed {
            error: "cannot sync".to_owned(),
        });
        let (_, receiver) = bounded(1);
        let checksum = Checksum::salted(2);
        let mut builder = BatchBuilder::new(receiver, checksum, 1 << 20, 1, Arc::clone(&status));
        let job = Job::Write {
            batch: builder.closed_mark(),
            pending: PendingRecords::new(&status),
            is_due: true,
        };
        writer.send(job).unwrap();
        let done = writer.wait(Duration::from_secs(10)).unwrap();
        assert!(matches!(done, Some(Done(Some(_)))), "{done:?}");
        assert!(writer.is_idle());
        assert_eq!(status.state(), StoreState::Running);
        drop(writer);
        std::fs::remove_dir_all(&path).unwrap();
    }
}

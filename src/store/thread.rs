//! The thread of the store.
//!
//! While a batch is written, the next one is filled; then it waits until there is something to do.
//! It has a glommio executor of its own for its files and nothing else runs there, so it may block.

use super::appender::Message;
use super::batch::BatchBuilder;
use super::config::{StoreConfig, SyncPolicy};
use super::directory::LockedDirectory;
use super::error::StoreError;
use super::format::Checksum;
use super::pending::PendingRecords;
use super::retention::Retention;
use super::segment_writer::{SealedBatch, SegmentWriter, WriteError};
use super::status::{Status, StoreState};
use crate::base::Now;
use crate::base::now::Clock;
use crossbeam_channel::{Receiver, bounded};
use glommio::{CpuSet, ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Time for which [`SyncPolicy::Never`] gathers records before it writes them, milliseconds.
const WRITE_DELAY_MS: u64 = 50;
/// Time between two looks at the queue while records wait for their time. Appenders need not wake
/// the thread then.
const PAUSE: Duration = Duration::from_millis(5);
/// Time that the executor is left to itself to submit a write.
const SUBMISSION: Duration = Duration::from_micros(10);
/// Time between two looks for old segments while nothing is appended.
const IDLE: Duration = Duration::from_secs(10);

/// Memory that the executor registers for its files, which the batches do not use.
const EXECUTOR_IO_BYTES: usize = 64 * 1024;
/// Entries of the executor's rings.
const EXECUTOR_RING_DEPTH: usize = 64;

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

/// Starts the thread, and waits until its executor runs.
pub(super) fn spawn(parts: ThreadParts) -> Result<ExecutorJoinHandle<()>, StoreError> {
    let failed = |error: GlommioError<()>| StoreError::Thread(error.to_string());
    let placement = placement(&parts.config.avoid_cores).map_err(failed)?;
    let (ready, is_ready) = bounded(1);
    let thread = LocalExecutorBuilder::new(placement)
        .name("store")
        .io_memory(EXECUTOR_IO_BYTES)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .spawn(move || async move {
            // Whoever waits for it is there.
            let _ = ready.send(());
            Box::pin(StoreThread::new(parts).run()).await;
        })
        .map_err(failed)?;
    if is_ready.recv().is_ok() {
        return Ok(thread);
    }
    let error = thread.join().err();
    let error = error.map_or_else(|| "it ended".to_owned(), |error| error.to_string());
    Err(StoreError::Thread(error))
}

/// The cores of this process that are not to be avoided; any if there is none.
fn placement(avoid: &[usize]) -> Result<Placement, GlommioError<()>> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let cores = CpuSet::online()?.filter(|location| {
        allowed.iter().any(|core| core.id == location.cpu) && !avoid.contains(&location.cpu)
    });
    Ok(if cores.is_empty() || avoid.is_empty() {
        Placement::Unbound
    } else {
        Placement::Fenced(cores)
    })
}

/// What the thread works with.
#[derive(Debug)]
struct StoreThread {
    builder: BatchBuilder,
    writer: SegmentWriter,
    sync_policy: SyncPolicy,
    retry_interval: Duration,
    clock: Clock,
    status: Arc<Status>,
}

/// Says so when the thread ends without having been closed, as after a panic.
#[derive(Debug)]
struct Watch(Arc<Status>);

impl Drop for Watch {
    fn drop(&mut self) {
        if self.0.state() != StoreState::Closed {
            let error = "the thread of the store ended unexpectedly".to_owned();
            tracing::error!("{error}");
            self.0.set_state(StoreState::Failed { error });
        }
    }
}

impl StoreThread {
    fn new(parts: ThreadParts) -> Self {
        let ThreadParts { config, status, .. } = parts;
        Self {
            builder: BatchBuilder::new(
                parts.receiver,
                Checksum::salted(parts.salt),
                config.segment_bytes,
                parts.next_sequence,
                Arc::clone(&status),
            ),
            writer: SegmentWriter::new(
                parts.directory,
                &config,
                (parts.epoch, parts.salt),
                parts.retention,
                Arc::clone(&status),
            ),
            sync_policy: config.sync,
            retry_interval: config.retry_interval,
            clock: parts.clock,
            status,
        }
    }

    /// Runs until the store is closed.
    async fn run(mut self) {
        let watch = Watch(Arc::clone(&self.status));
        let delay_ms = match self.sync_policy {
            SyncPolicy::Always => 0,
            SyncPolicy::Interval(interval) => {
                u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)
            }
            SyncPolicy::Never => WRITE_DELAY_MS,
        };
        // Written, and not durable yet.
        let mut unsynced = PendingRecords::new(&self.status);
        // When what waits is due, once something does.
        let mut due_ms: Option<u64> = None;
        let mut is_intact = true;
        loop {
            self.status.note_busy(self.clock.now());
            self.builder.fill();
            if let Some(sequence) = self.builder.take_delete_before() {
                self.writer.delete_before(sequence);
            }
            let now = self.clock.now();
            let is_closing = self.builder.is_closing();
            let has_unsynced = unsynced.records() > 0;
            if self.builder.is_empty() && !has_unsynced {
                if is_closing {
                    break;
                }
                self.writer.delete_old(now);
                due_ms = None;
                self.status.note_idle();
                self.builder.wait(IDLE);
                continue;
            }
            let due = *due_ms.get_or_insert(now.monotonic_ms.saturating_add(delay_ms));
            let is_due = is_closing || now.monotonic_ms >= due || self.builder.take_due();
            if !is_due && !self.builder.is_full() {
                thread::sleep(PAUSE.min(Duration::from_millis(due - now.monotonic_ms)));
                continue;
            }
            let sync = is_due && self.sync_policy != SyncPolicy::Never;
            let is_done = match self.builder.take() {
                Some((batch, pending)) => {
                    let mut result = self.write(&batch, sync, now).await;
                    if let Err(error) = result {
                        if !self.note_failure(&error, now).await {
                            unsynced = PendingRecords::new(&self.status);
                        }
                        result = self.retry(&batch, sync).await;
                    }
                    if result.is_ok() {
                        unsynced.append(pending);
                    }
                    result
                }
                None => {
                    let result = self.writer.sync().await;
                    if let Err(error) = &result {
                        self.note_failure(error, now).await;
                        unsynced = PendingRecords::new(&self.status);
                    }
                    result
                }
            };
            is_intact &= is_done.is_ok();
            if is_due || self.sync_policy == SyncPolicy::Never {
                std::mem::replace(&mut unsynced, PendingRecords::new(&self.status)).complete();
                due_ms = None;
            }
        }
        self.finish(is_intact).await;
        drop(watch);
    }

    /// Writes a batch, and meanwhile fills the next one.
    async fn write(&mut self, batch: &SealedBatch, sync: bool, now: Now) -> Result<(), WriteError> {
        let write = self.writer.write(batch, sync, now);
        let builder = &mut self.builder;
        let fill = async {
            // The executor submits the write when it has nothing else to run. A yield is not enough:
            // a queue with a task that can run is run on before anything is submitted.
            glommio::timer::sleep(SUBMISSION).await;
            builder.fill();
        };
        let (result, ()) = futures_lite::future::zip(write, fill).await;
        if result.is_ok() && self.status.state() != StoreState::Running {
            self.status.set_state(StoreState::Running);
        }
        result
    }

    /// Tries again to write a batch until that succeeds or the store is to be closed.
    async fn retry(&mut self, batch: &SealedBatch, sync: bool) -> Result<(), WriteError> {
        loop {
            let was_closing = self.status.is_closing();
            let began_ms = self.clock.now().monotonic_ms;
            let waited_ms = |clock: &Clock| clock.now().monotonic_ms.saturating_sub(began_ms);
            while !self.status.is_closing()
                && u128::from(waited_ms(&self.clock)) < self.retry_interval.as_millis()
            {
                thread::sleep(PAUSE);
            }
            let now = self.clock.now();
            let Err(again) = self.writer.write(batch, sync, now).await else {
                tracing::info!("the store writes again");
                self.status.set_state(StoreState::Running);
                return Ok(());
            };
            self.note_failure(&again, now).await;
            if was_closing {
                return Err(again);
            }
        }
    }

    /// Gives up the segment and says so; whether all that was written before is durable.
    async fn note_failure(&mut self, error: &WriteError, now: Now) -> bool {
        let is_durable = self.writer.abandon(error, now).await;
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
    async fn finish(mut self, is_intact: bool) {
        let now = self.clock.now();
        let is_running = self.status.state() == StoreState::Running;
        let has_written = self.writer.has_active();
        let mut result = Ok(());
        // Relaxed: it was set before the message that ended the thread.
        let is_unfinished = self.status.is_unfinished.load(Ordering::Relaxed);
        let is_whole = is_intact && is_running && has_written && !is_unfinished;
        if is_whole
            && self.builder.push_closed()
            && let Some((mark, _)) = self.builder.take()
        {
            let sync = self.sync_policy != SyncPolicy::Never;
            result = self.writer.write(&mark, sync, now).await;
        }
        if result.is_ok() {
            result = self.writer.close(now).await;
        }
        if let Err(error) = result {
            tracing::error!(%error, "the store was not closed in order");
        }
        self.status.set_state(StoreState::Closed);
    }
}

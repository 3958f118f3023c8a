//! One shard on its thread: the executor, the wire ring and the event loop.

use super::tls::TlsConfigs;
use crate::api::{Api, ApiContext};
use crate::base::now::{Clock, Stopwatch};
use crate::journal::PublicationLog;
use crate::net::wire::{EventLoop, SetupError, ShardCommand, Uring, UringConfig};
use crate::net::{Peers, Waker};
use crate::shard::{Shard, ShardParts};
use crossbeam_channel::{Receiver, Sender};
use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement};
use std::cell::Cell;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

/// Memory that the executor registers for file I/O, which the shards do not use.
const EXECUTOR_IO_BYTES: usize = 64 * 1024;
/// Entries of the executor's own rings.
const EXECUTOR_RING_DEPTH: usize = 64;

thread_local! {
    static IS_SHARD: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is a shard, which would wait for itself.
pub(super) fn is_shard() -> bool {
    IS_SHARD.get()
}

/// Everything a shard's thread needs.
pub(super) struct ShardThread {
    pub(super) core: usize,
    pub(super) parts: ShardParts,
    /// Of the durable store, if there is one.
    pub(super) log: Option<PublicationLog>,
    /// The sizes of its wire ring.
    pub(super) rings: UringConfig,
    pub(super) listeners: Vec<TcpListener>,
    /// Of each of them.
    pub(super) tls: TlsConfigs,
    pub(super) waker: Waker,
    pub(super) peers: Peers,
    pub(super) commands: Receiver<ShardCommand>,
    pub(super) api: Arc<ApiContext>,
    pub(super) clock: Clock,
    pub(super) reports: Sender<Report>,
}

/// A report of a shard's thread, or that of Redis, to the main thread.
#[derive(Debug)]
pub(super) enum Report {
    /// It accepts connections.
    Ready,
    /// Its executor could not be created; the thread ends with the error.
    NotStarted(u16),
    /// The kernel rejected its wire ring.
    Rejected(SetupError),
    /// It has drained and stopped.
    Stopped,
    /// It failed while it ran.
    Failed(u16, io::Error),
    /// The thread of Redis panicked.
    NodesFailed,
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ready => formatter.write_str("a shard reported readiness twice"),
            Self::NotStarted(shard) => write!(formatter, "shard {shard} did not start"),
            Self::Rejected(error) => write!(
                formatter,
                "the kernel rejected the wire ring of a shard: {error:?}"
            ),
            Self::Stopped => formatter.write_str("a shard stopped unexpectedly"),
            Self::Failed(shard, error) => write!(formatter, "shard {shard} failed: {error}"),
            Self::NodesFailed => formatter.write_str("the thread of Redis panicked"),
        }
    }
}

/// Starts the thread, which sends its reports by itself. The handle is for the error after
/// [`Report::NotStarted`].
///
/// # Errors
/// The error of glommio when it cannot create a thread on the core.
pub(super) fn spawn(thread: ShardThread) -> Result<ExecutorJoinHandle<()>, GlommioError<()>> {
    let name = format!("shard-{}", thread.parts.index);
    let watch = Watch {
        shard: thread.parts.index,
        reports: thread.reports.clone(),
        api: Arc::clone(&thread.api),
        stage: Stage::Starting,
    };
    LocalExecutorBuilder::new(Placement::Fixed(thread.core))
        .name(&name)
        .io_memory(EXECUTOR_IO_BYTES)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .spawn(move || run(thread, watch))
}

/// How far a shard's thread has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its executor does not run yet.
    Starting,
    Running,
    /// It has reported how it ended.
    Ended,
}

/// Reports a shard that ends without a report, as after a panic.
#[derive(Debug)]
struct Watch {
    shard: u16,
    reports: Sender<Report>,
    api: Arc<ApiContext>,
    stage: Stage,
}

impl Watch {
    fn report(&mut self, report: Report) {
        if let Report::Failed(shard, _) = &report {
            self.api.note_failed(*shard);
            tracing::error!("{report}");
        }
        // The main thread may have ended already, after a second signal.
        let _ = self.reports.send(report);
    }

    fn end(mut self, report: Report) {
        self.stage = Stage::Ended;
        self.report(report);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        match self.stage {
            Stage::Starting => self.report(Report::NotStarted(self.shard)),
            Stage::Running => {
                let error = io::Error::other("the shard panicked");
                self.report(Report::Failed(self.shard, error));
            }
            Stage::Ended => {}
        }
    }
}

async fn run(thread: ShardThread, mut watch: Watch) {
    watch.stage = Stage::Running;
    IS_SHARD.set(true);
    let config = UringConfig {
        files_max: thread.parts.connections_max,
        ..thread.rings
    };
    let waker = thread.waker.clone();
    let kernel = match Uring::new(&config, thread.listeners, thread.waker) {
        Ok(kernel) => kernel,
        Err(error) => return watch.end(Report::Rejected(error)),
    };
    watch.report(Report::Ready);
    let counters = Arc::clone(&thread.parts.counters);
    let index = thread.parts.index;
    let mut shard = Shard::new(thread.parts, thread.clock.now());
    shard.measure_with(Stopwatch::of(thread.clock));
    if let Some(tracer) = &thread.api.tracer {
        shard.trace_with(tracer.clone());
    }
    let wake = waker.clone();
    shard.acknowledge_with(move || wake.wake());
    if let Some(log) = thread.log {
        shard.store_publications(log);
    }
    let event_loop = EventLoop::new(
        kernel,
        shard,
        Api::new(thread.api, Arc::clone(&counters), move || waker.wake()),
        thread.commands,
        (index, thread.peers),
        counters,
        thread.clock,
    );
    let report = match event_loop.with_tls(thread.tls).run() {
        Ok(()) => Report::Stopped,
        Err(error) => Report::Failed(watch.shard, error),
    };
    watch.end(report);
}

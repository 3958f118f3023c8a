//! One shard on its thread: the executor, the wire ring and the event loop.

use super::questions::{self, Question};
use crate::api::{Api, ApiContext};
use crate::base::now::Clock;
use crate::net::wire::{EventLoop, SetupError, ShardCommand, Uring, UringConfig};
use crate::net::{Peers, Waker};
use crate::shard::{Shard, ShardParts};
use crossbeam_channel::{Receiver, Sender};
use glommio::{GlommioError, LocalExecutorBuilder, Placement};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

/// Memory that the executor registers for file I/O, which the shards do not use.
const EXECUTOR_IO_BYTES: usize = 64 * 1024;
/// Entries of the executor's own rings.
const EXECUTOR_RING_DEPTH: usize = 64;

/// Everything a shard's thread needs.
pub(super) struct ShardThread {
    pub(super) core: usize,
    pub(super) parts: ShardParts,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) waker: Waker,
    pub(super) peers: Peers,
    pub(super) commands: Receiver<ShardCommand>,
    pub(super) questions: Receiver<Question>,
    pub(super) api: Arc<ApiContext>,
    pub(super) clock: Clock,
    pub(super) reports: Sender<Report>,
}

/// A report of a shard's thread to the main thread.
#[derive(Debug)]
pub(super) enum Report {
    /// It accepts connections.
    Ready,
    /// The kernel rejected its wire ring.
    Rejected(SetupError),
    /// It has drained and stopped.
    Stopped,
    /// Its ring failed.
    Failed(io::Error),
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ready => formatter.write_str("a shard reported readiness twice"),
            Self::Rejected(error) => write!(
                formatter,
                "the kernel rejected the wire ring of a shard: {error:?}"
            ),
            Self::Stopped => formatter.write_str("a shard stopped unexpectedly"),
            Self::Failed(error) => write!(formatter, "a shard failed: {error}"),
        }
    }
}

/// Starts the thread, which sends its reports by itself.
///
/// # Errors
/// The error of glommio when it cannot create an executor on the core.
pub(super) fn spawn(thread: ShardThread) -> Result<(), GlommioError<()>> {
    let name = format!("shard-{}", thread.parts.index);
    LocalExecutorBuilder::new(Placement::Fixed(thread.core))
        .name(&name)
        .io_memory(EXECUTOR_IO_BYTES)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .spawn(move || run(thread))
        .map(drop)
}

/// Reports a shard that ends without a report, as after a panic.
struct Watch {
    reports: Sender<Report>,
    has_reported: bool,
}

impl Watch {
    fn report(&mut self, report: Report) {
        self.has_reported = true;
        // The main thread may have ended already, after a second signal.
        let _ = self.reports.send(report);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.has_reported {
            self.report(Report::Failed(io::Error::other("the shard panicked")));
        }
    }
}

async fn run(thread: ShardThread) {
    questions::become_shard(thread.questions);
    let config = UringConfig {
        files_max: thread.parts.connections_max,
        ..UringConfig::default()
    };
    let mut watch = Watch {
        reports: thread.reports,
        has_reported: false,
    };
    let kernel = match Uring::new(&config, thread.listeners, thread.waker) {
        Ok(kernel) => kernel,
        Err(error) => return watch.report(Report::Rejected(error)),
    };
    watch.report(Report::Ready);
    let counters = Arc::clone(&thread.parts.counters);
    let index = thread.parts.index;
    let shard = Shard::new(thread.parts, thread.clock.now());
    let event_loop = EventLoop::new(
        kernel,
        shard,
        Api::new(thread.api),
        thread.commands,
        (index, thread.peers),
        counters,
        thread.clock,
    );
    let ended = Box::pin(event_loop.run()).await;
    watch.report(ended.map_or_else(Report::Failed, |()| Report::Stopped));
}

//! Programs on this host that publish through shared memory.
//!
//! ```text
//!   program ──connects──▶ socket ──gives──▶ a ring of its own (memfd, its size sealed)
//!      │                                        ▲ one reader
//!      └──writes publications───────────────────┘
//!                                               ▼
//!                      thread `ingest` ──checks──▶ Publisher ──encodes once──▶ ring of the shards
//! ```
//!
//! A program can spoil its own ring and nothing else. Sources are read in turns, each for a bounded number of
//! records and bytes. While the shards are behind, nothing is read: the rings fill up, and their
//! programs are told so when they write.

mod source;
mod thread;

use crate::base::ProcessState;
use crate::base::now::Clock;
use crate::shard::Publisher;
use fanwire_ring::shared::{Access, RingListener};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use thread::IngestLoop;

/// How many programs may publish, and how much each may write ahead.
#[derive(Clone, Copy, Debug)]
pub struct SourceLimits {
    /// Programs at a time.
    pub sources_max: usize,
    /// Size of the ring of each, bytes.
    pub ring_bytes: u32,
}

/// What the thread needs.
#[derive(Debug)]
pub struct IngestParts {
    /// Takes what is published.
    pub publisher: Arc<Publisher>,
    /// Has the counters.
    pub process_state: Arc<ProcessState>,
    /// The clock that was started with the server.
    pub clock: Clock,
    /// What programs may have.
    pub limits: SourceLimits,
}

/// The running thread.
#[derive(Debug)]
pub struct Ingest {
    is_stopped: Arc<AtomicBool>,
    /// The thread sleeps until the other end is shut, or something else happens.
    waker: UnixStream,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A socket at which programs may connect; they are served when the thread runs.
///
/// # Errors
/// If somebody listens there, or the system does not want to.
pub fn bind(path: &Path, group: Option<u32>) -> io::Result<RingListener> {
    let listener = RingListener::bind(path, Access::ReadWrite, group)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Ingest {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's.
    pub fn start(listener: RingListener, parts: IngestParts) -> io::Result<Self> {
        let (waker, wakes) = UnixStream::pair()?;
        let is_stopped = Arc::<AtomicBool>::default();
        let ingest = IngestLoop::new(listener, wakes, Arc::clone(&is_stopped), parts);
        let thread = std::thread::Builder::new().name("ingest".into());
        let thread = thread.spawn(move || ingest.run())?;
        Ok(Self {
            is_stopped,
            waker,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Accepts no more programs, reads what those there are have written, which takes a second at most, and
    /// disconnects them.
    pub fn stop(&self) {
        // Relaxed: nothing else belongs to it.
        self.is_stopped.store(true, Ordering::Relaxed);
        // Fails if it was done before.
        let _ = self.waker.shutdown(std::net::Shutdown::Both);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads shared memory has failed");
        }
    }
}

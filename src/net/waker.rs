//! Wakes a shard that sleeps in its wire ring.

use crate::base::{Now, ProcessState};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// An eventfd that the shard's wire ring reads; any thread may wake it.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A waker that no ring reads yet.
    ///
    /// # Errors
    /// The error of the kernel: out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(descriptor)))
    }

    /// Wakes the shard, or prevents its next sleep if it is awake.
    pub fn wake(&self) {
        // The write fails only when the counter is at its maximum: then the shard is woken already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// The wakers of all shards, by index.
#[derive(Clone, Debug)]
pub struct Peers {
    wakers: Arc<[Waker]>,
    process_state: Arc<ProcessState>,
}

impl Peers {
    /// All shards. That one is woken is noted in its heartbeat.
    #[must_use]
    pub fn new(wakers: &[Waker], process_state: Arc<ProcessState>) -> Self {
        Self {
            wakers: wakers.into(),
            process_state,
        }
    }

    /// Wakes a shard.
    pub fn wake(&self, shard: u32, now: Now) {
        if let Some(waker) = self.wakers.get(shard as usize) {
            let shard = u16::try_from(shard).unwrap_or(u16::MAX);
            self.process_state.heartbeats.wake(shard, now.monotonic_ms);
            waker.wake();
        }
    }

    /// A shard begins a turn of its event loop.
    pub(crate) fn begin_turn(&self, shard: u16, now: Now) {
        let heartbeats = &self.process_state.heartbeats;
        heartbeats.begin_turn(shard, now.monotonic_ms);
    }

    /// A shard is about to sleep.
    pub(crate) fn sleep(&self, shard: u16) {
        self.process_state.heartbeats.sleep(shard);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

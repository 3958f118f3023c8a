//! Wakes a shard that sleeps in its wire ring.

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

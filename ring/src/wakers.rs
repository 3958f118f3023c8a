//! Tasks that wait for records: for readers of this process.

use std::boxed::Box;
use std::fmt;
use std::prelude::v1::*;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::reader::Reader;
use crate::ring::Ring;
use crate::writer::Writer;

/// The wakers of the tasks that wait for records of a ring, one per reader.
///
/// A waker is an address in this process, so it cannot lie in the ring. Readers and writers of one
/// process share this table; readers elsewhere sleep in [`Reader::wait`](crate::Reader::wait).
pub struct Wakers(Box<[Mutex<Option<Waker>>]>);

impl Wakers {
    /// A table for the readers of a ring.
    #[must_use]
    pub fn new(ring: &Ring) -> Self {
        let readers = 0..ring.readers_max();
        Self(readers.map(|_| Mutex::new(None)).collect())
    }

    /// Ready when there is a record to drain. Otherwise the task is woken by the next
    /// [`Wakers::wake_parked`] of a writer of this process. May be ready early.
    pub fn poll_ready(&self, reader: &Reader, context: &mut Context<'_>) -> Poll<()> {
        if let Some(waker) = self.0.get(reader.index() as usize) {
            let mut waker = waker.lock().unwrap_or_else(PoisonError::into_inner);
            // In front of the mark: a writer that sees the mark finds this waker.
            match waker.as_mut() {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
        }
        if reader.park() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Waits until there is a record to drain.
    pub async fn ready(&self, reader: &Reader) {
        std::future::poll_fn(|context| self.poll_ready(reader, context)).await;
    }

    /// Wakes the tasks of all parked readers that `writer` finds; to be called like
    /// [`Writer::wake_parked`](crate::Writer::wake_parked).
    pub fn wake_parked(&self, writer: &Writer) {
        writer.wake_parked(|_| u64::MAX, |index| self.wake(index));
    }

    /// Wakes the task of one reader; for callers of `Writer::wake_parked` that wake others in other
    /// ways.
    pub fn wake(&self, reader_index: u32) {
        if let Some(waker) = self.0.get(reader_index as usize) {
            let waker = waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl fmt::Debug for Wakers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Wakers")
            .field("readers", &self.0.len())
            .finish_non_exhaustive()
    }
}

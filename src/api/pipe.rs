//! A connection as hyper sees it: bytes received and bytes to send.

use crate::base::ConnectionId;
use crate::base::limits::{HTTP_INPUT_WAITING, HTTP_OUTPUT_BYTES_WAITING};
use crate::base::memory::Waiting;
use crate::shard::HttpOutput;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What the tasks of all HTTP connections of a shard have for the wire, in order.
pub(super) type Output = Rc<RefCell<VecDeque<(ConnectionId, HttpOutput)>>>;

/// What waits in a pipe.
#[derive(Debug, Default)]
struct State {
    /// Received bytes that hyper has not read yet.
    bytes: Vec<u8>,
    /// How many of them it has read.
    consumed: usize,
    waiting: Waiting,
    is_ended: bool,
    /// Nothing more is received until hyper has read most of what there is.
    is_paused: bool,
    reader: Option<Waker>,
    /// Bytes of answers that the kernel has not taken yet.
    unwritten_bytes: usize,
    writer: Option<Waker>,
    /// Wants to know when hyper could write again.
    drained: Option<Waker>,
}

/// A pipe between hyper and the wire.
#[derive(Clone, Debug)]
pub(super) struct Pipe {
    id: ConnectionId,
    state: Rc<RefCell<State>>,
    output: Output,
}

impl Pipe {
    pub(super) fn new(id: ConnectionId, output: Output) -> Self {
        Self {
            id,
            state: Rc::default(),
            output,
        }
    }

    /// Adds bytes for hyper to read; when many wait, no more are received for a while.
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        if state.is_ended {
            return;
        }
        state.bytes.extend_from_slice(bytes);
        let capacity = state.bytes.capacity();
        state.waiting.set(capacity);
        let (pause_bytes, _) = HTTP_INPUT_WAITING;
        if state.bytes.len() - state.consumed >= pause_bytes && !state.is_paused {
            state.is_paused = true;
            self.tell(HttpOutput::Pause);
        }
        wake(&mut state.reader);
    }

    /// Ends the input of hyper.
    pub(super) fn end(&self) {
        let mut state = self.state.borrow_mut();
        state.is_ended = true;
        wake(&mut state.reader);
    }

    /// The kernel has taken all that was written.
    pub(super) fn written(&self) {
        let mut state = self.state.borrow_mut();
        state.unwritten_bytes = 0;
        wake(&mut state.writer);
    }

    /// Adds something for the wire.
    pub(super) fn tell(&self, output: HttpOutput) {
        self.output.borrow_mut().push_back((self.id, output));
    }

    /// What hyper has not read.
    pub(super) fn take_input(&self) -> Vec<u8> {
        let mut state = self.state.borrow_mut();
        let mut bytes = std::mem::take(&mut state.bytes);
        bytes.drain(..std::mem::take(&mut state.consumed));
        bytes
    }

    /// Returns when hyper has written what it has.
    pub(super) async fn drained(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if state.writer.is_none() {
                return Poll::Ready(());
            }
            state.drained = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Read for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut target: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.consumed == state.bytes.len() && !state.is_ended {
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let unread = &state.bytes[state.consumed..];
        let count = unread.len().min(target.remaining());
        target.put_slice(&unread[..count]);
        state.consumed += count;
        let left = state.bytes.len() - state.consumed;
        if left == 0 {
            // A large body should not hold its memory while the connection is idle.
            state.bytes = Vec::new();
            state.consumed = 0;
            state.waiting.set(0);
        }
        let (_, resume_bytes) = HTTP_INPUT_WAITING;
        if state.is_paused && left < resume_bytes {
            state.is_paused = false;
            self.tell(HttpOutput::Resume);
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state.borrow_mut();
        if state.unwritten_bytes >= HTTP_OUTPUT_BYTES_WAITING {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        state.unwritten_bytes += bytes.len();
        wake(&mut state.drained);
        self.tell(HttpOutput::Bytes(bytes.to_vec()));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

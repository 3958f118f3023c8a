//! A connection as hyper sees it: bytes received and bytes to send.

use crate::base::ConnectionId;
use crate::base::limits::HTTP_INPUT_BYTES_MAX;
use crate::base::memory::Waiting;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What the tasks of all HTTP connections of a shard have written, in order.
pub(super) type Output = Rc<RefCell<VecDeque<(ConnectionId, Vec<u8>)>>>;

/// Received bytes of one connection that its task has not read yet.
#[derive(Debug, Default)]
struct Input {
    bytes: Vec<u8>,
    waiting: Waiting,
    is_ended: bool,
    reader: Option<Waker>,
}

/// A pipe between hyper and the wire.
#[derive(Clone, Debug)]
pub(super) struct Pipe {
    id: ConnectionId,
    input: Rc<RefCell<Input>>,
    output: Output,
}

impl Pipe {
    pub(super) fn new(id: ConnectionId, output: Output) -> Self {
        Self {
            id,
            input: Rc::default(),
            output,
        }
    }

    /// Adds bytes for hyper to read. If they exceed the limit, the input ends, and later bytes are
    /// discarded: bytes after a gap would form another request than the peer's.
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut input = self.input.borrow_mut();
        if input.is_ended || input.bytes.len() + bytes.len() > HTTP_INPUT_BYTES_MAX {
            input.is_ended = true;
        } else {
            input.bytes.extend_from_slice(bytes);
            let capacity = input.bytes.capacity();
            input.waiting.set(capacity);
        }
        wake(&mut input);
    }

    /// Ends the input of hyper.
    pub(super) fn end(&self) {
        let mut input = self.input.borrow_mut();
        input.is_ended = true;
        wake(&mut input);
    }

    /// Whether hyper has read all input and waits for more.
    pub(super) fn awaits_input(&self) -> bool {
        self.input.borrow().reader.is_some()
    }
}

fn wake(input: &mut Input) {
    if let Some(reader) = input.reader.take() {
        reader.wake();
    }
}

impl Read for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut target: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut input = self.input.borrow_mut();
        if input.bytes.is_empty() && !input.is_ended {
            input.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = input.bytes.len().min(target.remaining());
        target.put_slice(&input.bytes[..count]);
        input.bytes.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl Write for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut output = self.output.borrow_mut();
        output.push_back((self.id, bytes.to_vec()));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

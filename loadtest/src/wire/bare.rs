//! The bare batched io_uring send loop: what a server that does nothing but send would cost.

use super::{build_ring, push};
use io_uring::{IoUring, opcode, types};
use std::{io, net::TcpStream, os::fd::AsRawFd};

/// Entries per submission: as a good server would batch.
const BATCH: u32 = 256;

/// What one round sends to every socket.
pub(crate) struct RoundPayload {
    byte_count: usize,
    message: Message,
}

enum Message {
    Contiguous(&'static [u8]),
    Vectored(&'static libc::msghdr),
}

impl RoundPayload {
    /// One SEND of one buffer.
    pub(crate) fn contiguous(bytes: &'static [u8]) -> Self {
        Self {
            byte_count: bytes.len(),
            message: Message::Contiguous(bytes),
        }
    }

    /// One SENDMSG of many buffers. The message header is leaked: it must outlive the operations on
    /// every path, and there are few shapes.
    pub(crate) fn vectored(parts: &'static [io::IoSlice<'static>]) -> Self {
        // SAFETY: msghdr is a C structure for which all zeroes mean "nothing".
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        // std promises that IoSlice has the layout of iovec; the kernel does not write through it.
        header.msg_iov = parts.as_ptr().cast::<libc::iovec>().cast_mut();
        header.msg_iovlen = parts.len();
        Self {
            byte_count: parts.iter().map(|part| part.len()).sum(),
            message: Message::Vectored(Box::leak(Box::new(header))),
        }
    }

    /// Bytes to one socket.
    pub(crate) fn byte_count(&self) -> usize {
        self.byte_count
    }
}

/// A ring with a table of sockets and nothing else.
pub(crate) struct BareSender {
    ring: IoUring,
    socket_count: u32,
}

impl BareSender {
    /// # Errors
    /// The kernel rejects the ring or its table.
    pub(crate) fn new(sockets: &[TcpStream]) -> io::Result<Self> {
        let ring = build_ring(BATCH, BATCH * 4)?;
        let socket_count = u32::try_from(sockets.len()).map_err(io::Error::other)?;
        ring.submitter().register_files_sparse(socket_count)?;
        for (slot, socket) in (0..).zip(sockets) {
            ring.submitter()
                .register_files_update(slot, &[socket.as_raw_fd()])?;
        }
        Ok(Self { ring, socket_count })
    }

    /// Sends `shape` once to every socket. Returns how many sends were short or rejected (a full
    /// socket).
    ///
    /// # Errors
    /// The ring failed.
    pub(crate) fn round(&mut self, shape: &RoundPayload) -> io::Result<u32> {
        let wanted = i32::try_from(shape.byte_count()).map_err(io::Error::other)?;
        let (mut completed, mut rejected) = (0, 0);
        for slot in 0..self.socket_count {
            let entry = match shape.message {
                Message::Contiguous(bytes) => {
                    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
                    opcode::Send::new(types::Fixed(slot), bytes.as_ptr(), length)
                        .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                        .build()
                }
                Message::Vectored(header) => opcode::SendMsg::new(types::Fixed(slot), header)
                    .flags((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).cast_unsigned())
                    .build(),
            };
            // SAFETY: the bytes, the vector and the header are all 'static.
            unsafe { push(&mut self.ring, &entry) }?;
            if slot % BATCH == BATCH - 1 {
                self.ring.submit()?;
                rejected += self.reap(wanted, &mut completed);
            }
        }
        while completed < self.socket_count {
            self.ring.submit_and_wait(1)?;
            rejected += self.reap(wanted, &mut completed);
        }
        Ok(rejected)
    }

    fn reap(&mut self, wanted: i32, completed: &mut u32) -> u32 {
        let mut rejected = 0;
        for entry in self.ring.completion() {
            *completed += 1;
            rejected += u32::from(entry.result() != wanted);
        }
        rejected
    }
}

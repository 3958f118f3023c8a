//! What the event loop needs of a kernel, and what the kernel answers.

#![expect(
    unsafe_code,
    reason = "descriptors, buffers and sends are shared with the kernel: whoever calls has duties"
)]

use crate::base::ConnectionId;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// The multishot accept of a listener, by its index.
    Accept(u8),
    /// The read of the waker.
    Wake,
    /// The multishot receive of a connection.
    Receive(ConnectionId),
    /// A send.
    Send(ConnectionId),
    /// The wait for a socket to become writable.
    Writable(ConnectionId),
    /// The shutdown of a socket's sending side.
    Shutdown(ConnectionId),
    /// The end of a socket's place in the file table.
    Close(ConnectionId),
    /// The cancellation of an operation.
    Cancel,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// Which one.
    pub(crate) operation: Operation,
    /// A count or descriptor, or a negative errno.
    pub(crate) result: i32,
    /// Whether more completions of the same operation come.
    pub(crate) has_more: bool,
    /// The provided buffer that was used.
    pub(crate) buffer: Option<u16>,
}

/// The kernel's side of the wire. Operations are queued and begin with [`Kernel::enter`] at the
/// latest.
pub(crate) trait Kernel {
    /// How many listeners there are; their indices count from 0.
    fn listener_count(&self) -> u8;
    /// Begins to accept connections by a listener.
    fn accept(&mut self, listener: u8);
    /// Stops accepting: all listeners reject new connections from now on.
    fn stop_accepting(&mut self);
    /// Ends an operation early; its completion comes as always.
    fn cancel(&mut self, operation: Operation);
    /// Begins to wait for a wake-up.
    fn await_wake(&mut self);
    /// Puts an accepted socket in the file table at the slot of `id` and closes its descriptor.
    ///
    /// # Errors
    /// What the kernel says; the socket is closed then.
    fn register_socket(&mut self, socket: OwnedFd, id: ConnectionId) -> io::Result<()>;
    /// The descriptor that an accept completion names, and the address of its peer.
    ///
    /// # Errors
    /// What the kernel says, when the peer is gone already.
    ///
    /// # Safety
    /// `result` is the result of a successful accept, and it is used once.
    unsafe fn accepted(&mut self, result: i32) -> io::Result<(OwnedFd, SocketAddr)>;
    /// Begins to receive from `id`.
    fn receive(&mut self, id: ConnectionId);
    /// Sends the slices in order, as much as the socket takes without waiting; returns how many
    /// bytes they have.
    ///
    /// # Safety
    /// The slices' memory stays valid and unchanged until the completion of this send.
    unsafe fn send<'a>(&mut self, id: ConnectionId, slices: impl Iterator<Item = &'a [u8]>) -> u32;
    /// Begins to wait until `id` is writable.
    fn await_writable(&mut self, id: ConnectionId);
    /// Shuts down the sending side of `id`.
    fn shutdown_write(&mut self, id: ConnectionId);
    /// Ends the socket of `id`.
    fn close(&mut self, id: ConnectionId);
    /// Hands queued operations over and collects completions; waits for one at most `wait`, not at
    /// all if that is `None`.
    ///
    /// # Errors
    /// What the kernel says of the ring itself; operations' errors are in their completions.
    fn enter(&mut self, wait: Option<Duration>) -> io::Result<()>;
    /// The next collected completion.
    fn next_completion(&mut self) -> Option<Completion>;
    /// The first `length` bytes of a provided buffer that a completion named.
    ///
    /// # Safety
    /// The buffer was named in a completion and has not been given back since.
    unsafe fn buffer(&mut self, buffer: u16, length: usize) -> &mut [u8];
    /// Gives a provided buffer back.
    ///
    /// # Safety
    /// The buffer was named in a completion and has not been given back since.
    unsafe fn recycle(&mut self, buffer: u16);
}

//! The kernel as the event loop uses it: operations and completions.

#![expect(
    unsafe_code,
    reason = "memory and descriptors are shared with the kernel: callers meet the conditions"
)]

use crate::base::ConnectionId;
use crate::net::tls::{Control, SendKeys};
use crate::shard::Query;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// An option that a socket gets after it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketOption {
    /// Its close is a reset, which frees the bytes that the kernel holds for it (`SO_LINGER`).
    ResetAtClose,
    /// The kernel holds little of what its peer sends (`SO_RCVBUF`, socket(7)).
    SmallReceiveBuffer,
    /// The kernel holds as much as it finds useful, up to `net.ipv4.tcp_rmem` (tcp(7)).
    GrowingReceiveBuffer,
}

/// The operation that a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// The multishot accept of a listener, by its index.
    Accept(u8),
    /// The read of the waker.
    Wake,
    /// The receive of a connection.
    Receive(ConnectionId),
    /// A send.
    Send(ConnectionId),
    /// The wait for a socket to become writable.
    Writable(ConnectionId),
    /// The shutdown of a socket's sending side.
    Shutdown(ConnectionId),
    /// The change of a socket's option.
    SetOption(ConnectionId),
    /// The question whether the kernel can encrypt for a socket.
    AttachTls(ConnectionId),
    /// The keys with which the kernel encrypts.
    SetSendKeys(ConnectionId),
    /// The send of a TLS record that is no data.
    SendControl(ConnectionId),
    /// The close of a socket in the file table.
    Close(ConnectionId),
    /// The question how many sent bytes the peer has yet to acknowledge.
    Unacknowledged(ConnectionId, Query),
    /// The cancellation of an operation.
    Cancel,
}

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// The operation.
    pub(crate) operation: Operation,
    /// A count or descriptor, or a negative errno.
    pub(crate) result: i32,
    /// Whether more completions of the same operation follow.
    pub(crate) has_more: bool,
    /// The provided buffer that was used.
    pub(crate) buffer: Option<u16>,
}

/// The kernel side of the wire. Operations are queued and begin at the latest with
/// [`Kernel::enter`].
pub(crate) trait Kernel {
    /// How many listeners there are; their indices count from 0.
    fn listener_count(&self) -> u8;
    /// Begins to accept connections on a listener.
    fn accept(&mut self, listener: u8);
    /// Stops accepting: all listeners reject new connections from now on.
    fn stop_accepting(&mut self);
    /// Cancels an operation; it still completes.
    fn cancel(&mut self, operation: Operation);
    /// Begins to wait for a wake-up.
    fn await_wake(&mut self);
    /// Puts an accepted socket in the file table at the slot of `id` and closes its descriptor.
    ///
    /// # Errors
    /// The error of the kernel; the socket is closed then.
    fn register_socket(&mut self, socket: OwnedFd, id: ConnectionId) -> io::Result<()>;
    /// The descriptor that an accept completion names, and the address of its peer.
    ///
    /// # Errors
    /// The error of the kernel, when the peer has already disconnected.
    ///
    /// # Safety
    /// `result` is the result of a successful accept, and it is used once.
    unsafe fn accepted(&mut self, result: i32) -> io::Result<(OwnedFd, SocketAddr)>;
    /// Begins to receive from `id`: whatever arrives, or `once` one buffer.
    fn receive(&mut self, id: ConnectionId, once: bool);
    /// Sends the slices in order, as much as the socket accepts without waiting; returns their
    /// total length in bytes.
    ///
    /// # Safety
    /// The slices' memory stays valid and unchanged until the completion of this send.
    unsafe fn send<'a>(&mut self, id: ConnectionId, slices: impl Iterator<Item = &'a [u8]>) -> u32;
    /// Begins to wait until `id` is writable.
    fn await_writable(&mut self, id: ConnectionId);
    /// Shuts down the sending side of `id`.
    fn shutdown_write(&mut self, id: ConnectionId);
    /// Asks how many sent bytes the peer of `id` has yet to acknowledge (`SIOCOUTQ`, tcp(7)). Fails
    /// on kernels before 6.7.
    fn ask_unacknowledged(&mut self, id: ConnectionId, query: Query);
    /// Sets an option of the socket of `id`. Fails on kernels before 6.7, which do without it.
    fn set_option(&mut self, id: ConnectionId, option: SocketOption);
    /// Gives the socket of `id` the kernel's TLS, which does nothing before it has keys (`TCP_ULP`,
    /// tls(7) of the kernel's documentation). Fails where there is none.
    fn attach_tls(&mut self, id: ConnectionId);
    /// Gives the kernel the keys with which it encrypts what is sent to `id` from now on. They are wiped
    /// at the completion.
    fn set_send_keys(&mut self, id: ConnectionId, keys: SendKeys);
    /// Sends a TLS record that is no data, for which the kernel encrypts; as much as the socket accepts
    /// without waiting.
    fn send_control(&mut self, id: ConnectionId, control: Control);
    /// Closes the socket of `id`.
    fn close(&mut self, id: ConnectionId);
    /// Submits queued operations and collects completions; waits for one at most `wait`, not at all
    /// if it is `None`.
    ///
    /// # Errors
    /// The error of the ring itself; errors of operations are in their completions.
    fn enter(&mut self, wait: Option<Duration>) -> io::Result<()>;
    /// The next collected completion.
    fn next_completion(&mut self) -> Option<Completion>;
    /// The first `length` bytes of a provided buffer that a completion named.
    ///
    /// # Safety
    /// A completion named the buffer, and it has not been recycled since.
    unsafe fn buffer(&mut self, buffer: u16, length: usize) -> &mut [u8];
    /// Offers a provided buffer to the kernel again.
    ///
    /// # Safety
    /// A completion named the buffer, and it has not been recycled since.
    unsafe fn recycle(&mut self, buffer: u16);
}

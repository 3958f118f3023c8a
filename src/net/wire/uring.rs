//! The kernel behind the event loop: one `io_uring` with a file table and provided buffers.

#![expect(
    unsafe_code,
    reason = "submissions name memory that the kernel uses later; each use says why it is sound"
)]

use super::buffers::{Buffers, GROUP};
use super::kernel::{Completion, Kernel, Operation, SocketOption};
use crate::base::id::GENERATION_BITS;
use crate::base::limits::UNAUTHENTICATED_RECEIVE_BYTES;
use crate::base::{ConnectionId, SlotMap};
use crate::net::Waker;
use crate::net::tls::{Control, SendKeys};
use crate::shard::Query;
use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::net::Shutdown;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// The sizes of a wire ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UringConfig {
    /// Operations that one submission carries.
    pub(crate) submission_entries: u32,
    /// Completions that may wait; more than the sends of one submission and the receives that
    /// arrive meanwhile.
    pub(crate) completion_entries: u32,
    /// Sockets in the file table; at most `RLIMIT_NOFILE`.
    pub(crate) files_max: u32,
    /// Provided buffers, a power of two.
    pub(crate) buffer_count: u16,
    /// Size of each, bytes.
    pub(crate) buffer_bytes: u32,
}

impl UringConfig {
    /// Bytes of the provided buffers.
    pub(crate) fn buffer_bytes_all(&self) -> u64 {
        u64::from(self.buffer_count) * u64::from(self.buffer_bytes)
    }
}

impl Default for UringConfig {
    fn default() -> Self {
        Self {
            submission_entries: 1_024,
            completion_entries: 16_384,
            files_max: 1_024,
            buffer_count: 1_024,
            buffer_bytes: 4_096,
        }
    }
}

/// The step of the setup that the kernel rejected.
#[derive(Debug)]
pub enum SetupError {
    /// `io_uring_setup` itself.
    Ring(io::Error),
    /// The table of sockets.
    FileTable(io::Error),
    /// The ring of provided buffers.
    Buffers(io::Error),
}

/// The wire ring of a shard. It must be created and used on the shard's own thread.
pub(crate) struct Uring {
    // Declared, and so dropped, before the memory that its operations name.
    ring: IoUring,
    buffers: Buffers,
    vectors: SlotMap<Box<Vector>>,
    #[expect(
        clippy::vec_box,
        reason = "the kernel holds the address while a vector is in use"
    )]
    spare_vectors: Vec<Box<Vector>>,
    /// Keys that the kernel has yet to take.
    send_keys: SlotMap<SendKeys>,
    wake_count: Box<u64>,
    listeners: Vec<TcpListener>,
    waker: Waker,
    completions: VecDeque<Completion>,
}

/// The header and the slices of a send of several buffers.
struct Vector {
    header: libc::msghdr,
    slices: Vec<libc::iovec>,
    control: RecordType,
}

/// A control message that names the type of a TLS record: a `cmsghdr` and one byte of data, filled up to
/// the alignment (cmsg(3)).
#[repr(C, align(8))]
struct RecordType {
    length: usize,
    level: i32,
    kind: i32,
    record_type: u8,
    filling: [u8; 7],
}

const _: () = assert!(size_of::<libc::cmsghdr>() == std::mem::offset_of!(RecordType, record_type));

impl RecordType {
    const fn of(record_type: u8) -> Self {
        Self {
            length: size_of::<libc::cmsghdr>() + 1,
            level: libc::SOL_TLS,
            kind: libc::TLS_SET_RECORD_TYPE,
            record_type,
            filling: [0; 7],
        }
    }
}

/// Completions after which no more are collected before these are handled: with input in each, a
/// fraction of a millisecond. Fewer would leave a message behind those of thousands of others for as
/// many turns of the event loop, and between two turns others are sent to.
const COMPLETIONS_PER_TURN: usize = 256;

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

impl Uring {
    /// A wire ring for the sockets that `listeners` accept.
    ///
    /// # Errors
    /// [`SetupError`] names the step that the kernel rejected.
    pub(crate) fn new(
        config: &UringConfig,
        listeners: Vec<TcpListener>,
        waker: Waker,
    ) -> Result<Self, SetupError> {
        let ring = IoUring::builder()
            .setup_cqsize(config.completion_entries)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(config.submission_entries)
            .map_err(SetupError::Ring)?;
        ring.submitter()
            .register_files_sparse(config.files_max)
            .map_err(SetupError::FileTable)?;
        let buffers =
            Buffers::register(&ring.submitter(), config.buffer_count, config.buffer_bytes)
                .map_err(SetupError::Buffers)?;
        Ok(Self {
            ring,
            buffers,
            vectors: SlotMap::default(),
            spare_vectors: Vec::new(),
            send_keys: SlotMap::default(),
            wake_count: Box::new(0),
            listeners,
            waker,
            completions: VecDeque::new(),
        })
    }

    /// Queues an operation; submits the queue first when it is full.
    ///
    /// # Safety
    /// The memory that the entry names stays valid until the operation's completion.
    unsafe fn push(&mut self, entry: squeue::Entry, operation: Operation) {
        let entry = entry.user_data(pack(operation));
        loop {
            // SAFETY: the caller promises that the entry's memory outlives the operation.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.enter_kernel(0, None)
                .expect("a full submission queue can be submitted");
        }
    }

    fn enter_kernel(&mut self, want: u32, wait: Option<Duration>) -> io::Result<()> {
        let mut submitted = self.submit(want, wait);
        self.collect();
        // The kernel hands over twenty of what has happened at a time. Its flag may say that there is
        // more although there is not: whoever adds something sets it a moment later.
        let mut count = 0;
        while submitted.is_ok()
            && (count + 1..COMPLETIONS_PER_TURN).contains(&self.completions.len())
            && self.ring.submission().taskrun()
        {
            count = self.completions.len();
            submitted = self.submit(0, None);
            self.collect();
        }
        match submitted.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) => Ok(()),
            // A timeout, a signal, or completions that must be collected first.
            Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    fn submit(&self, want: u32, wait: Option<Duration>) -> io::Result<usize> {
        const GETEVENTS: u32 = 1;
        if let Some(wait) = wait {
            let timespec = Timespec::from(wait);
            let args = SubmitArgs::new().timespec(&timespec);
            return self.ring.submitter().submit_with_args(want as usize, &args);
        }
        let queued = {
            // SAFETY: `self` is not shared between threads, and no other view of the submission
            // queue exists during this call.
            let mut queue = unsafe { self.ring.submission_shared() };
            queue.sync();
            u32::try_from(queue.len()).expect("the queue's length is a u32")
        };
        // With DEFER_TASKRUN, completions appear only after entering the kernel with GETEVENTS.
        // SAFETY: no argument is passed.
        unsafe {
            self.ring
                .submitter()
                .enter::<libc::sigset_t>(queued, want, GETEVENTS, None)
        }
    }

    /// The entry for a send of a vector, which is kept until its completion.
    fn send_vector(&mut self, id: ConnectionId, mut vector: Box<Vector>) -> squeue::Entry {
        vector.header.msg_iov = vector.slices.as_mut_ptr();
        vector.header.msg_iovlen = vector.slices.len();
        let header = std::ptr::from_ref(&vector.header);
        let earlier = self.vectors.insert(id, vector);
        assert!(earlier.is_none(), "one send per connection at a time");
        opcode::SendMsg::new(Fixed(id.slot()), header)
            .flags(SEND_FLAGS.cast_unsigned())
            .build()
    }

    fn collect(&mut self) {
        for entry in self.ring.completion() {
            let Some(operation) = unpack(entry.user_data()) else {
                continue;
            };
            match operation {
                Operation::Send(id) | Operation::SendControl(id) => {
                    self.spare_vectors.extend(self.vectors.remove(id));
                }
                Operation::SetSendKeys(id) => drop(self.send_keys.remove(id)),
                _ => {}
            }
            self.completions.push_back(Completion {
                operation,
                result: entry.result(),
                has_more: cqueue::more(entry.flags()),
                buffer: cqueue::buffer_select(entry.flags()),
            });
        }
    }
}

impl Kernel for Uring {
    fn listener_count(&self) -> u8 {
        u8::try_from(self.listeners.len()).expect("at most LISTENERS_MAX")
    }

    fn accept(&mut self, listener: u8) {
        let descriptor = self.listeners[usize::from(listener)].as_raw_fd();
        let entry = opcode::AcceptMulti::new(Fd(descriptor))
            .flags(libc::SOCK_CLOEXEC)
            .build();
        // SAFETY: a multishot accept names no memory.
        unsafe { self.push(entry, Operation::Accept(listener)) };
    }

    fn stop_accepting(&mut self) {
        // Stops listening at once: new connections are rejected and can try another server, instead
        // of waiting in a backlog that is never read. The accept is cancelled too, in case the
        // shutdown does not end it.
        for listener in &self.listeners {
            if let Err(error) = rustix::net::shutdown(listener, Shutdown::Both) {
                tracing::warn!(%error, "cannot shut down a listener");
            }
        }
        for listener in 0..self.listener_count() {
            self.cancel(Operation::Accept(listener));
        }
    }

    fn cancel(&mut self, operation: Operation) {
        let entry = opcode::AsyncCancel::new(pack(operation)).build();
        // SAFETY: a cancellation names no memory.
        unsafe { self.push(entry, Operation::Cancel) };
    }

    fn await_wake(&mut self) {
        let target = std::ptr::from_mut(&mut *self.wake_count).cast();
        let entry = opcode::Read::new(Fd(self.waker.as_raw_fd()), target, 8).build();
        // SAFETY: the eight bytes are boxed, dropped after the ring, and the event loop waits for
        // one wake at a time.
        unsafe { self.push(entry, Operation::Wake) };
    }

    unsafe fn accepted(&mut self, result: i32) -> io::Result<(OwnedFd, SocketAddr)> {
        // SAFETY: the caller promises a new descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(result) };
        let peer = rustix::net::getpeername(&socket)?.ok_or(io::ErrorKind::NotConnected)?;
        Ok((socket, SocketAddr::try_from(peer)?))
    }

    fn register_socket(&mut self, socket: OwnedFd, id: ConnectionId) -> io::Result<()> {
        let descriptors = [socket.as_raw_fd()];
        let submitter = self.ring.submitter();
        submitter.register_files_update(id.slot(), &descriptors)?;
        // The table holds the file now; the descriptor is closed when `socket` is dropped.
        Ok(())
    }

    fn receive(&mut self, id: ConnectionId, once: bool) {
        let socket = Fixed(id.slot());
        let entry = if once {
            let receive = opcode::Recv::new(socket, std::ptr::null_mut(), 0).buf_group(GROUP);
            receive.build().flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(socket, GROUP).build()
        };
        // SAFETY: the bytes go to provided buffers, which live as long as the ring.
        unsafe { self.push(entry, Operation::Receive(id)) };
    }

    unsafe fn send<'a>(
        &mut self,
        id: ConnectionId,
        mut slices: impl Iterator<Item = &'a [u8]>,
    ) -> u32 {
        let length = |slice: &[u8]| u32::try_from(slice.len()).expect("runs are under 4 GiB");
        let target = Fixed(id.slot());
        let first = slices.next().unwrap_or_default();
        let mut bytes = length(first);
        let entry = if let Some(second) = slices.next() {
            let mut vector = self.spare_vectors.pop().unwrap_or_default();
            vector.slices.clear();
            vector.slices.push(io_slice(first));
            for slice in std::iter::once(second).chain(slices) {
                vector.slices.push(io_slice(slice));
                bytes += length(slice);
            }
            vector.header.msg_control = std::ptr::null_mut();
            vector.header.msg_controllen = 0;
            self.send_vector(id, vector)
        } else {
            opcode::Send::new(target, first.as_ptr(), bytes)
                .flags(SEND_FLAGS)
                .build()
        };
        // SAFETY: the caller keeps the slices; the vector is boxed and kept until the completion.
        unsafe { self.push(entry, Operation::Send(id)) };
        bytes
    }

    fn await_writable(&mut self, id: ConnectionId) {
        let events = libc::POLLOUT as u32;
        let entry = opcode::PollAdd::new(Fixed(id.slot()), events).build();
        // SAFETY: a poll names no memory.
        unsafe { self.push(entry, Operation::Writable(id)) };
    }

    fn shutdown_write(&mut self, id: ConnectionId) {
        let entry = opcode::Shutdown::new(Fixed(id.slot()), libc::SHUT_WR).build();
        // SAFETY: a shutdown names no memory.
        unsafe { self.push(entry, Operation::Shutdown(id)) };
    }

    fn ask_unacknowledged(&mut self, id: ConnectionId, query: Query) {
        /// `SOCKET_URING_OP_SIOCOUTQ` of linux/io_uring.h.
        const SIOCOUTQ: u32 = 1;
        let entry = opcode::UringCmd16::new(Fixed(id.slot()), SIOCOUTQ).build();
        // SAFETY: the question names no memory.
        unsafe { self.push(entry, Operation::Unacknowledged(id, query)) };
    }

    fn set_option(&mut self, id: ConnectionId, option: SocketOption) {
        static LINGER: libc::linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        static RECEIVE_BYTES: i32 = UNAUTHENTICATED_RECEIVE_BYTES;
        static UNLOCKED: i32 = 0;
        let (name, value, length) = match option {
            SocketOption::ResetAtClose => (
                libc::SO_LINGER,
                (&raw const LINGER).cast(),
                size_of_val(&LINGER),
            ),
            SocketOption::SmallReceiveBuffer => (
                libc::SO_RCVBUF,
                (&raw const RECEIVE_BYTES).cast(),
                size_of_val(&RECEIVE_BYTES),
            ),
            SocketOption::GrowingReceiveBuffer => (
                libc::SO_BUF_LOCK,
                (&raw const UNLOCKED).cast(),
                size_of_val(&UNLOCKED),
            ),
        };
        let entry = opcode::SetSockOpt::new(
            Fixed(id.slot()),
            libc::SOL_SOCKET.cast_unsigned(),
            name.cast_unsigned(),
            value,
            u32::try_from(length).expect("a small structure"),
        )
        .build();
        // SAFETY: the option's value is static.
        unsafe { self.push(entry, Operation::SetOption(id)) };
    }

    fn attach_tls(&mut self, id: ConnectionId) {
        static NAME: [u8; 3] = *b"tls";
        let entry = opcode::SetSockOpt::new(
            Fixed(id.slot()),
            libc::SOL_TCP.cast_unsigned(),
            libc::TCP_ULP.cast_unsigned(),
            NAME.as_ptr().cast(),
            3,
        )
        .build();
        // SAFETY: the name is static.
        unsafe { self.push(entry, Operation::AttachTls(id)) };
    }

    fn set_send_keys(&mut self, id: ConnectionId, keys: SendKeys) {
        let bytes = keys.bytes();
        let entry = opcode::SetSockOpt::new(
            Fixed(id.slot()),
            libc::SOL_TLS.cast_unsigned(),
            libc::TLS_TX.cast_unsigned(),
            bytes.as_ptr().cast(),
            u32::try_from(bytes.len()).expect("a small structure"),
        )
        .build();
        let earlier = self.send_keys.insert(id, keys);
        assert!(earlier.is_none(), "one set of keys at a time");
        // SAFETY: the keys stay at their address, and are kept until the completion.
        unsafe { self.push(entry, Operation::SetSendKeys(id)) };
    }

    fn send_control(&mut self, id: ConnectionId, control: Control) {
        let mut vector = self.spare_vectors.pop().unwrap_or_default();
        vector.slices.clear();
        vector.slices.push(io_slice(control.bytes()));
        vector.control = RecordType::of(control.record_type());
        vector.header.msg_control = (&raw mut vector.control).cast();
        vector.header.msg_controllen = size_of::<RecordType>();
        let entry = self.send_vector(id, vector);
        // SAFETY: the content is static; the vector is boxed and kept until the completion.
        unsafe { self.push(entry, Operation::SendControl(id)) };
    }

    fn close(&mut self, id: ConnectionId) {
        let entry = opcode::Close::new(Fixed(id.slot())).build();
        // SAFETY: a close names no memory.
        unsafe { self.push(entry, Operation::Close(id)) };
    }

    fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        // Completions may have been collected while operations were queued.
        let wait = wait.filter(|_| self.completions.is_empty());
        self.enter_kernel(u32::from(wait.is_some()), wait)
    }

    fn next_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    unsafe fn buffer(&mut self, buffer: u16, length: usize) -> &mut [u8] {
        // SAFETY: the caller promises that the buffer is taken.
        unsafe { self.buffers.bytes(buffer, length) }
    }

    unsafe fn recycle(&mut self, buffer: u16) {
        // SAFETY: the caller promises that the buffer is taken.
        unsafe { self.buffers.recycle(buffer) }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // Closing a ring cancels its operations asynchronously, but the memory that they name is
        // freed now. So the fields may be dropped only when all operations are cancelled. The
        // cancellation also fails when no operation is left.
        let everything = CancelBuilder::any();
        let submitter = self.ring.submitter();
        let _ = submitter.register_sync_cancel(None, everything);
        self.collect();
        let accepted = self.completions.iter();
        for completion in accepted.filter(|done| matches!(done.operation, Operation::Accept(_))) {
            if completion.result >= 0 {
                // SAFETY: no other code owns this descriptor or will take it.
                drop(unsafe { OwnedFd::from_raw_fd(completion.result) });
            }
        }
    }
}

impl Default for Vector {
    fn default() -> Self {
        Self {
            // SAFETY: a msghdr of zeroes is a message without name, slices and control data.
            header: unsafe { std::mem::zeroed() },
            slices: Vec::new(),
            control: RecordType::of(0),
        }
    }
}

fn io_slice(slice: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: slice.as_ptr().cast_mut().cast(),
        iov_len: slice.len(),
    }
}

const SLOT_BITS: u32 = 32;
const KIND_SHIFT: u32 = SLOT_BITS + GENERATION_BITS;
const _: () = assert!(KIND_SHIFT + 8 <= 64, "operation, generation and slot fit");

/// The user data of an operation: kind (8 bits), generation (24), slot (32); for an accept the slot
/// holds the listener's index.
fn pack(operation: Operation) -> u64 {
    let of = |id: ConnectionId| u64::from(id.generation()) << SLOT_BITS | u64::from(id.slot());
    let (kind, low) = match operation {
        Operation::Accept(listener) => (1, u64::from(listener)),
        Operation::Wake => (2, 0),
        Operation::Receive(id) => (3, of(id)),
        Operation::Send(id) => (4, of(id)),
        Operation::Writable(id) => (5, of(id)),
        Operation::Shutdown(id) => (6, of(id)),
        Operation::Close(id) => (7, of(id)),
        Operation::Cancel => (8, 0),
        Operation::SetOption(id) => (9, of(id)),
        Operation::Unacknowledged(id, Query::AtPing) => (10, of(id)),
        Operation::Unacknowledged(id, Query::AtTimer) => (11, of(id)),
        Operation::Unacknowledged(id, Query::WhenStuck) => (12, of(id)),
        Operation::AttachTls(id) => (13, of(id)),
        Operation::SetSendKeys(id) => (14, of(id)),
        Operation::SendControl(id) => (15, of(id)),
    };
    kind << KIND_SHIFT | low
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "each field is cut out of the word by its width"
)]
fn unpack(user_data: u64) -> Option<Operation> {
    let id = ConnectionId::new(user_data as u32, (user_data >> SLOT_BITS) as u32);
    Some(match user_data >> KIND_SHIFT {
        1 => Operation::Accept(user_data as u8),
        2 => Operation::Wake,
        3 => Operation::Receive(id),
        4 => Operation::Send(id),
        5 => Operation::Writable(id),
        6 => Operation::Shutdown(id),
        7 => Operation::Close(id),
        8 => Operation::Cancel,
        9 => Operation::SetOption(id),
        10 => Operation::Unacknowledged(id, Query::AtPing),
        11 => Operation::Unacknowledged(id, Query::AtTimer),
        12 => Operation::Unacknowledged(id, Query::WhenStuck),
        13 => Operation::AttachTls(id),
        14 => Operation::SetSendKeys(id),
        15 => Operation::SendControl(id),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    fn option(socket: &TcpStream, name: i32) -> i32 {
        let mut value = 0_i32;
        let mut length = 4;
        // SAFETY: the value has the length that is passed.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0);
        value
    }

    #[test]
    fn user_data_carries_operation_slot_and_generation() {
        let id = ConnectionId::new(u32::MAX, 0x00ff_eedd);
        for operation in [
            Operation::Accept(0),
            Operation::Accept(u8::MAX),
            Operation::Wake,
            Operation::Receive(id),
            Operation::Send(id),
            Operation::Writable(id),
            Operation::Shutdown(id),
            Operation::Close(id),
            Operation::SetOption(id),
            Operation::Unacknowledged(id, Query::AtPing),
            Operation::Unacknowledged(id, Query::AtTimer),
            Operation::Unacknowledged(id, Query::WhenStuck),
            Operation::AttachTls(id),
            Operation::SetSendKeys(id),
            Operation::SendControl(id),
            Operation::Cancel,
        ] {
            assert_eq!(unpack(pack(operation)), Some(operation));
        }
        assert_eq!(unpack(0), None);
    }

    #[test]
    fn a_socket_has_a_small_receive_buffer_until_it_may_grow() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let here = accepted.try_clone().unwrap();
        let config = UringConfig::default();
        let mut uring = Uring::new(&config, vec![listener], Waker::new().unwrap()).unwrap();
        let id = ConnectionId::new(3, 1);
        uring.register_socket(accepted.into(), id).unwrap();
        let mut set = |option| {
            uring.set_option(id, option);
            uring.enter(Some(Duration::from_secs(5))).unwrap();
            let completion = uring.next_completion().unwrap();
            assert_eq!(
                (completion.operation, completion.result),
                (Operation::SetOption(id), 0)
            );
        };
        let bytes = 2 * UNAUTHENTICATED_RECEIVE_BYTES;
        assert!(option(&here, libc::SO_RCVBUF) > bytes);
        set(SocketOption::SmallReceiveBuffer);
        assert_eq!(option(&here, libc::SO_RCVBUF), bytes);
        assert_ne!(option(&here, libc::SO_BUF_LOCK), 0);
        set(SocketOption::GrowingReceiveBuffer);
        assert_eq!(option(&here, libc::SO_BUF_LOCK), 0);
    }

    #[test]
    fn the_kernel_says_whether_it_has_tls_and_sends_records_that_are_no_data() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let config = UringConfig::default();
        let mut uring = Uring::new(&config, vec![listener], Waker::new().unwrap()).unwrap();
        let id = ConnectionId::new(3, 1);
        uring.register_socket(accepted.into(), id).unwrap();
        let wait = Some(Duration::from_secs(5));
        // Without keys, the kernel sends what it is given as it is.
        uring.send_control(id, Control::CloseNotify);
        uring.enter(wait).unwrap();
        let completion = uring.next_completion().unwrap();
        let found = (completion.operation, completion.result);
        assert_eq!(found, (Operation::SendControl(id), 2));
        let mut received = [0; 2];
        client.read_exact(&mut received).unwrap();
        assert_eq!(received, Control::CloseNotify.bytes());
        assert!(uring.vectors.get(id).is_none());
        uring.attach_tls(id);
        uring.enter(wait).unwrap();
        let completion = uring.next_completion().unwrap();
        assert_eq!(completion.operation, Operation::AttachTls(id));
        let available = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap();
        let has_tls = available.split_whitespace().any(|name| name == "tls");
        assert!(completion.result < 0 || has_tls, "{}", completion.result);
    }

    #[test]
    fn what_has_arrived_on_many_sockets_is_collected_together() {
        const SOCKETS: u32 = 200;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pairs: Vec<_> = (0..SOCKETS)
            .map(|_| (TcpStream::connect(address).unwrap(), listener.accept()))
            .collect();
        let config = UringConfig::default();
        let mut uring = Uring::new(&config, vec![listener], Waker::new().unwrap()).unwrap();
        let mut clients = Vec::new();
        for ((client, accepted), slot) in pairs.into_iter().zip(0..) {
            let id = ConnectionId::new(slot, 1);
            uring
                .register_socket(accepted.unwrap().0.into(), id)
                .unwrap();
            uring.receive(id, false);
            clients.push(client);
        }
        uring.enter(None).unwrap();
        assert_eq!(uring.next_completion(), None);
        for client in &mut clients {
            client.write_all(b"request").unwrap();
        }
        uring.enter(None).unwrap();
        let completions = std::iter::from_fn(|| uring.next_completion());
        let received = completions.filter(|it| it.result == 7 && it.has_more);
        assert_eq!(received.count(), SOCKETS as usize);
    }
}

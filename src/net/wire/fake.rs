//! A kernel for tests that completes operations late, out of order, partially, or not at all, and
//! that can lose completions.
//!
//! It checks what a real kernel relies on: that the memory of a send is unchanged until its
//! completion, that a slot is closed only when none of its operations is left, and that buffers are
//! recycled once. `deliveries` runs a shard on it and checks what the clients receive; `secure` does it with
//! TLS, for which the kernel may encrypt.

#![expect(
    unsafe_code,
    reason = "like a kernel it reads a send's memory when the send completes"
)]

mod deliveries;
mod secure;

use super::kernel::{Completion, Kernel, Operation, SocketOption};
use crate::base::ConnectionId;
use crate::net::tls::fixtures::KernelEncryptor;
use crate::net::tls::{Control, SendKeys};
use crate::shard::Query;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

const BUFFERS: usize = 8;
const BUFFER_BYTES: usize = 64;
const LISTENERS: usize = 2;
/// Bytes of a record of TLS, and its type.
const RECORD_BYTES: usize = 16 * 1024;
const DATA: u8 = 23;

/// A send that has not completed: the address of its bytes and a copy of them.
struct Sending {
    slices: Vec<(*const u8, usize)>,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Peer {
    to_server: VecDeque<u8>,
    from_server: Vec<u8>,
    has_ended: bool,
}

/// Bytes of a client that the shard has handled.
struct Consumed {
    turn: usize,
    id: ConnectionId,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct FakeKernel {
    random: u64,
    pending: Vec<Operation>,
    receiving_once: HashSet<ConnectionId>,
    cancelled: Vec<Operation>,
    sends: HashMap<ConnectionId, Sending>,
    peers: HashMap<ConnectionId, Peer>,
    /// Connections still to be accepted, by listener.
    pending_accepts: [usize; LISTENERS],
    buffers: Vec<Vec<u8>>,
    free_buffers: Vec<u16>,
    /// The connection whose bytes are in a buffer, and a copy of the bytes as received.
    buffers_in_use: HashMap<u16, (ConnectionId, Vec<u8>)>,
    /// The bytes that the shard has handled, in the order in which it recycled the buffers.
    consumed: Vec<Consumed>,
    /// Turns of the event loop so far.
    turn: usize,
    /// Clients so far; each one publishes its number.
    client_count: usize,
    completions: VecDeque<Completion>,
    next_socket: u16,
    closed: Vec<ConnectionId>,
    received: HashMap<ConnectionId, Vec<u8>>,
    losses: Losses,
    tls: Option<KernelTls>,
    /// The connections of which a completion was lost.
    victims: HashSet<ConnectionId>,
    /// A completion was lost, and nobody knows of it yet.
    has_unreported_loss: bool,
}

/// The TLS of the kernel; with any, the bytes of the clients come from elsewhere.
#[derive(Default)]
struct KernelTls {
    has_tls: bool,
    takes_keys: bool,
    changes_keys: bool,
    /// An error that it has once, when it is given keys.
    fails_once: Option<i32>,
    /// It takes long to answer.
    is_slow: bool,
    /// Keys that it is being given.
    new_keys: HashMap<ConnectionId, KernelEncryptor>,
    encryptors: HashMap<ConnectionId, KernelEncryptor>,
    controls: HashMap<ConnectionId, Control>,
    /// Whether it holds back a part of some records that it has taken, for which the socket had no room: it
    /// sends them when there is room, and drops them at a shutdown or close (net/tls/tls_sw.c).
    holds: bool,
    unsent: HashMap<ConnectionId, Vec<u8>>,
    unsent_count: usize,
    /// What was dropped, bytes.
    dropped_records: Vec<(ConnectionId, usize)>,
    /// Records that are no data, as they were sent.
    sent_controls: Vec<(ConnectionId, Control)>,
}

impl KernelTls {
    /// Gives the kernel the keys of a connection, or not.
    fn take_keys(&mut self, id: ConnectionId) -> i32 {
        let keys = self.new_keys.remove(&id).unwrap();
        if let Some(errno) = self.fails_once.take() {
            return -errno;
        }
        let (is_taken, errno) = match self.encryptors.contains_key(&id) {
            true => (self.changes_keys, libc::EBUSY),
            false => (self.takes_keys, libc::ENOENT),
        };
        if is_taken {
            self.encryptors.insert(id, keys);
            return 0;
        }
        -errno
    }
}

/// What happens to completions that there is no memory for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Losses {
    /// There always is memory.
    #[default]
    None,
    /// Some are lost, of a few connections, and nobody says so.
    Silent,
    /// As on Linux, the next call of the ring fails with `EBADR` (`io_uring_enter(2)`).
    Reported,
}

impl FakeKernel {
    fn new(seed: u64, connections: usize) -> Self {
        Self {
            random: seed,
            pending_accepts: [connections / LISTENERS; LISTENERS],
            buffers: vec![vec![0; BUFFER_BYTES]; BUFFERS],
            free_buffers: (0..8).collect(),
            ..Self::default()
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        // xorshift64 (Marsaglia, 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end
    }

    fn complete(&mut self, operation: Operation, result: i32, has_more: bool, buffer: Option<u16>) {
        if !has_more {
            if let Operation::Receive(id) = operation {
                self.receiving_once.remove(&id);
            }
            // Of equal operations, such as two options of one socket, one completes.
            let mut pending = self.pending.iter();
            let at = pending.position(|pending| *pending == operation);
            self.pending
                .remove(at.expect("an operation completes once"));
            self.cancelled.retain(|cancelled| *cancelled != operation);
            if buffer.is_none() && self.loses(operation) {
                return;
            }
        }
        self.completions.push_back(Completion {
            operation,
            result,
            has_more,
            buffer,
        });
    }

    /// Whether the last completion of an operation is lost.
    fn loses(&mut self, operation: Operation) -> bool {
        let (Operation::Send(id) | Operation::Receive(id) | Operation::Writable(id)) = operation
        else {
            return false;
        };
        if self.losses == Losses::None || id.slot() % 4 != 0 || self.below(4) > 0 {
            return false;
        }
        self.victims.insert(id);
        self.has_unreported_loss = true;
        true
    }

    fn try_receive(&mut self, id: ConnectionId) {
        let operation = Operation::Receive(id);
        let luck = self.below(6);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.to_server.is_empty() {
            if peer.has_ended {
                self.complete(operation, 0, false, None);
            }
            return;
        }
        let buffer = if luck > 0 {
            self.free_buffers.pop()
        } else {
            None
        };
        let Some(buffer) = buffer else {
            return self.complete(operation, -libc::ENOBUFS, false, None);
        };
        let most = peer.to_server.len().min(BUFFER_BYTES);
        let bytes: Vec<_> = peer.to_server.drain(..most).collect();
        self.buffers[usize::from(buffer)][..most].copy_from_slice(&bytes);
        self.buffers_in_use.insert(buffer, (id, bytes));
        let length = i32::try_from(most).unwrap();
        let has_more = luck > 1 && !self.receiving_once.remove(&id);
        self.complete(operation, length, has_more, Some(buffer));
    }

    fn try_send(&mut self, id: ConnectionId) {
        let sending = self.sends.remove(&id).unwrap();
        let mut now = Vec::new();
        for (start, length) in &sending.slices {
            // SAFETY: the sender promised that the memory is valid until the completion, which
            // comes after this. If it was not, the comparison below most likely fails.
            now.extend_from_slice(unsafe { std::slice::from_raw_parts(*start, *length) });
        }
        assert_eq!(
            now, sending.bytes,
            "a send's memory changed before its completion"
        );
        let whole = now.len() as u64;
        let (mut luck, part) = (self.below(8), self.below(whole + 1));
        let tls = self.tls.as_ref();
        if tls.is_some_and(|tls| tls.unsent.contains_key(&id)) {
            // No room.
            luck = 0;
        }
        let peer = self.peers.get_mut(&id).unwrap();
        let result = match luck {
            _ if peer.has_ended => -libc::EPIPE,
            0 => -libc::EAGAIN,
            1 => -libc::EINTR,
            2 | 3 => i32::try_from(part).unwrap(),
            _ => i32::try_from(whole).unwrap(),
        };
        let taken = &now[..usize::try_from(result).unwrap_or(0)];
        let encrypts = self
            .tls
            .as_ref()
            .is_some_and(|tls| tls.encryptors.contains_key(&id));
        if encrypts {
            let is_whole = taken.len() == now.len();
            let holds = self.tls.as_ref().is_some_and(|tls| tls.holds) && is_whole && luck > 5;
            let encryptor = self.tls.as_mut().unwrap().encryptors.get_mut(&id).unwrap();
            let mut records = Vec::new();
            for part in taken.chunks(RECORD_BYTES) {
                records.extend(encryptor.record(DATA, part));
            }
            if holds && records.len() > 1 {
                let half = records.split_off(records.len() / 2);
                let tls = self.tls.as_mut().unwrap();
                tls.unsent.insert(id, half);
                tls.unsent_count += 1;
            }
            peer.from_server.extend(records);
        } else {
            peer.from_server.extend_from_slice(taken);
        }
        self.complete(Operation::Send(id), result, false, None);
    }

    /// Whether an answer has to wait once more.
    fn is_slow(&mut self) -> bool {
        let is_slow = self.tls.as_ref().is_some_and(|tls| tls.is_slow);
        is_slow && self.below(60) > 0
    }

    fn try_send_control(&mut self, id: ConnectionId) {
        let luck = self.below(4);
        let tls = self.tls.as_mut().unwrap();
        let control = tls.controls.remove(&id).unwrap();
        let peer = self.peers.get_mut(&id).unwrap();
        let result = match luck {
            _ if peer.has_ended => -libc::EPIPE,
            0 => -libc::EAGAIN,
            _ => {
                let encryptor = tls.encryptors.get_mut(&id).expect("it has keys");
                let content = control.bytes();
                let record = encryptor.record(control.record_type(), content);
                match tls.unsent.get_mut(&id) {
                    // It waits behind what is held back.
                    Some(unsent) => unsent.extend(record),
                    None => peer.from_server.extend(record),
                }
                tls.sent_controls.push((id, control));
                i32::try_from(content.len()).unwrap()
            }
        };
        self.complete(Operation::SendControl(id), result, false, None);
    }

    fn release_unsent(&mut self, id: ConnectionId) {
        if let Some(unsent) = self.tls.as_mut().and_then(|tls| tls.unsent.remove(&id))
            && let Some(peer) = self.peers.get_mut(&id)
        {
            peer.from_server.extend(unsent);
        }
    }

    fn drop_unsent(&mut self, id: ConnectionId) {
        if let Some(tls) = &mut self.tls
            && let Some(unsent) = tls.unsent.remove(&id)
        {
            tls.dropped_records.push((id, unsent.len()));
        }
    }

    /// Performs one pending operation, or delivers a completion of it.
    fn happen(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let at = self.below(self.pending.len() as u64);
        let operation = self.pending[usize::try_from(at).unwrap()];
        if self.cancelled.contains(&operation) {
            self.cancelled.retain(|cancelled| *cancelled != operation);
            return self.complete(operation, -libc::ECANCELED, false, None);
        }
        match operation {
            Operation::Accept(listener) if self.pending_accepts[usize::from(listener)] > 0 => {
                self.pending_accepts[usize::from(listener)] -= 1;
                let has_more = self.below(4) > 0;
                self.complete(operation, i32::from(self.next_socket), has_more, None);
                self.next_socket += 1;
            }
            Operation::Receive(id) => self.try_receive(id),
            Operation::Send(id) => self.try_send(id),
            Operation::Writable(id) => {
                self.release_unsent(id);
                self.complete(operation, libc::POLLOUT.into(), false, None);
            }
            Operation::Shutdown(_) | Operation::SetOption(_) => {
                self.complete(operation, 0, false, None);
            }
            Operation::AttachTls(_) | Operation::SetSendKeys(_) if self.is_slow() => {}
            Operation::AttachTls(_) => {
                let has_tls = self.tls.as_ref().is_some_and(|tls| tls.has_tls);
                let result = if has_tls { 0 } else { -libc::ENOENT };
                self.complete(operation, result, false, None);
            }
            Operation::SetSendKeys(id) => {
                let result = self.tls.as_mut().unwrap().take_keys(id);
                self.complete(operation, result, false, None);
            }
            Operation::SendControl(id) => self.try_send_control(id),
            Operation::Unacknowledged(..) => {
                let result = if self.below(2) == 0 {
                    0
                } else {
                    -libc::EOPNOTSUPP
                };
                self.complete(operation, result, false, None);
            }
            Operation::Close(id) => {
                let peer = self.peers.remove(&id).unwrap();
                self.closed.push(id);
                self.received.insert(id, peer.from_server);
                self.complete(operation, 0, false, None);
            }
            Operation::Accept(_) | Operation::Wake | Operation::Cancel => {}
        }
    }

    fn has_pending(&self, id: ConnectionId) -> bool {
        let of_connection = |operation: &Operation| match operation {
            Operation::Receive(other)
            | Operation::Send(other)
            | Operation::Writable(other)
            | Operation::Shutdown(other)
            | Operation::SetOption(other)
            | Operation::AttachTls(other)
            | Operation::SetSendKeys(other)
            | Operation::SendControl(other)
            | Operation::Unacknowledged(other, _)
            | Operation::Close(other) => *other == id,
            Operation::Accept(_) | Operation::Wake | Operation::Cancel => false,
        };
        let mut completed = self
            .completions
            .iter()
            .map(|completion| &completion.operation);
        self.pending.iter().any(of_connection) || completed.any(of_connection)
    }
}

impl Kernel for FakeKernel {
    fn listener_count(&self) -> u8 {
        u8::try_from(LISTENERS).unwrap()
    }
    fn accept(&mut self, listener: u8) {
        assert!(!self.pending.contains(&Operation::Accept(listener)));
        self.pending.push(Operation::Accept(listener));
    }
    fn stop_accepting(&mut self) {
        for listener in 0..self.listener_count() {
            self.cancel(Operation::Accept(listener));
        }
    }
    fn cancel(&mut self, operation: Operation) {
        // At once, or too late, in which case the operation completes by itself.
        let is_pending = self.pending.contains(&operation);
        let is_lost = match operation {
            Operation::Receive(id) | Operation::Writable(id) => self.victims.contains(&id),
            _ => false,
        };
        assert!(
            is_pending
                || is_lost
                || self
                    .completions
                    .iter()
                    .any(|known| known.operation == operation)
        );
        if is_pending {
            self.cancelled.push(operation);
        }
    }
    fn await_wake(&mut self) {
        self.pending.push(Operation::Wake);
    }
    unsafe fn accepted(&mut self, result: i32) -> io::Result<(OwnedFd, SocketAddr)> {
        let socket = OwnedFd::from(std::fs::File::open("/dev/null")?);
        let port = u16::try_from(result).unwrap();
        Ok((socket, ([127, 0, 0, 1], port).into()))
    }
    fn register_socket(&mut self, _socket: OwnedFd, id: ConnectionId) -> io::Result<()> {
        if self.below(10) == 0 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut peer = Peer::default();
        self.client_count += 1;
        let sends_close = self.below(3) == 0;
        if self.tls.is_none() {
            peer.to_server
                .extend(deliveries::script(self.client_count, sends_close));
        }
        let earlier = self.peers.insert(id, peer);
        assert!(earlier.is_none(), "the slot is in use");
        Ok(())
    }
    fn receive(&mut self, id: ConnectionId, once: bool) {
        if once {
            self.receiving_once.insert(id);
        }
        assert!(
            !self.pending.contains(&Operation::Receive(id)),
            "armed twice"
        );
        self.pending.push(Operation::Receive(id));
    }
    unsafe fn send<'a>(&mut self, id: ConnectionId, slices: impl Iterator<Item = &'a [u8]>) -> u32 {
        assert!(!self.sends.contains_key(&id), "one send at a time");
        if let Some(tls) = &self.tls {
            let is_busy = tls.new_keys.contains_key(&id) || tls.controls.contains_key(&id);
            assert!(
                !is_busy,
                "a send while keys or other records are on their way"
            );
        }
        let slices: Vec<_> = slices.collect();
        let bytes = slices.concat();
        let length = u32::try_from(bytes.len()).unwrap();
        let slices = slices.iter().map(|slice| (slice.as_ptr(), slice.len()));
        self.sends.insert(
            id,
            Sending {
                slices: slices.collect(),
                bytes,
            },
        );
        self.pending.push(Operation::Send(id));
        length
    }
    fn await_writable(&mut self, id: ConnectionId) {
        self.pending.push(Operation::Writable(id));
    }
    fn shutdown_write(&mut self, id: ConnectionId) {
        self.drop_unsent(id);
        if let Some(peer) = self.peers.get_mut(&id) {
            // The peer answers the end of the stream with its own.
            peer.has_ended = true;
        }
        self.pending.push(Operation::Shutdown(id));
    }
    fn ask_unacknowledged(&mut self, id: ConnectionId, query: Query) {
        self.pending.push(Operation::Unacknowledged(id, query));
    }
    fn set_option(&mut self, id: ConnectionId, _option: SocketOption) {
        self.pending.push(Operation::SetOption(id));
    }
    fn attach_tls(&mut self, id: ConnectionId) {
        self.pending.push(Operation::AttachTls(id));
    }
    fn set_send_keys(&mut self, id: ConnectionId, keys: SendKeys) {
        assert!(!self.sends.contains_key(&id), "a send is in flight");
        let tls = self.tls.as_mut().unwrap();
        assert!(tls.has_tls && !tls.controls.contains_key(&id));
        let earlier = tls.new_keys.insert(id, KernelEncryptor::new(&keys));
        assert!(earlier.is_none(), "one set of keys at a time");
        self.pending.push(Operation::SetSendKeys(id));
    }
    fn send_control(&mut self, id: ConnectionId, control: Control) {
        assert!(!self.sends.contains_key(&id), "a send is in flight");
        let tls = self.tls.as_mut().unwrap();
        let is_ready = tls.encryptors.contains_key(&id) && !tls.new_keys.contains_key(&id);
        assert!(is_ready, "a record without keys");
        let earlier = tls.controls.insert(id, control);
        assert!(earlier.is_none(), "one record at a time");
        self.pending.push(Operation::SendControl(id));
    }
    fn close(&mut self, id: ConnectionId) {
        assert!(!self.has_pending(id), "closed with operations left");
        self.drop_unsent(id);
        if let Some(tls) = &mut self.tls {
            tls.encryptors.remove(&id);
        }
        // A socket that was never registered leaves an empty entry in the table.
        self.peers.entry(id).or_default();
        self.pending.push(Operation::Close(id));
    }
    fn enter(&mut self, _wait: Option<Duration>) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            let mut unsent: Vec<_> = tls.unsent.keys().copied().collect();
            unsent.sort_by_key(|id| (id.slot(), id.generation()));
            for id in unsent {
                // The client reads at some time.
                if self.below(40) == 0 {
                    self.release_unsent(id);
                }
            }
        }
        for _ in 0..self.below(6) {
            self.happen();
        }
        if self.losses == Losses::Reported && std::mem::take(&mut self.has_unreported_loss) {
            return Err(io::Error::from_raw_os_error(libc::EBADR));
        }
        Ok(())
    }
    fn next_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }
    unsafe fn buffer(&mut self, buffer: u16, length: usize) -> &mut [u8] {
        &mut self.buffers[usize::from(buffer)][..length]
    }
    unsafe fn recycle(&mut self, buffer: u16) {
        assert!(!self.free_buffers.contains(&buffer), "recycled twice");
        let (id, bytes) = self.buffers_in_use.remove(&buffer).unwrap();
        let turn = self.turn;
        self.consumed.push(Consumed { turn, id, bytes });
        self.buffers[usize::from(buffer)].fill(0xee);
        self.free_buffers.push(buffer);
    }
}

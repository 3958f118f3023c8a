//! A kernel that does everything late, in another order, in parts, or not at all.
//!
//! It checks what a real kernel could not forgive: that the memory of a send is unchanged until its
//! completion, that a slot is closed only when none of its operations is left, and that buffers are
//! given back once.

#![expect(
    unsafe_code,
    reason = "like a kernel it reads a send's memory when the send completes"
)]

use super::event_loop::{EventLoop, HttpHandler, HttpOutput};
use super::kernel::{Completion, Kernel, Operation};
use crate::auth::Verifier;
use crate::base::now::Clock;
use crate::base::{ConnectionId, DialectId, ProcessCounts, ShardCounters};
use crate::config::{DialectPolicy, Policy, Routes};
use crate::shard::{Shard, ShardParts};
use crate::ws::Opcode;
use crate::ws::frame::{server_header, unmask};
use fanwire_ring::{Ring, RingConfig};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

const BUFFERS: usize = 8;
const BUFFER_BYTES: usize = 64;
const LISTENERS: usize = 2;

/// A send that has not completed: where its bytes lie and what they were.
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

#[derive(Default)]
struct FakeKernel {
    random: u64,
    pending: Vec<Operation>,
    cancelled: Vec<Operation>,
    sends: HashMap<ConnectionId, Sending>,
    peers: HashMap<ConnectionId, Peer>,
    /// Connections to come, by listener.
    knocking: [usize; LISTENERS],
    buffers: Vec<Vec<u8>>,
    free_buffers: Vec<u16>,
    completions: VecDeque<Completion>,
    next_socket: u16,
    closed: Vec<ConnectionId>,
    received: HashMap<ConnectionId, Vec<u8>>,
}

impl FakeKernel {
    fn new(seed: u64, connections: usize) -> Self {
        Self {
            random: seed,
            knocking: [connections / LISTENERS; LISTENERS],
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
            self.pending.retain(|pending| *pending != operation);
            self.cancelled.retain(|cancelled| *cancelled != operation);
        }
        self.completions.push_back(Completion {
            operation,
            result,
            has_more,
            buffer,
        });
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
        let length = i32::try_from(most).unwrap();
        self.complete(operation, length, luck > 1, Some(buffer));
    }

    fn try_send(&mut self, id: ConnectionId) {
        let sending = self.sends.remove(&id).unwrap();
        let mut now = Vec::new();
        for (start, length) in &sending.slices {
            // SAFETY: the sender promised that the memory is valid until the completion, which comes
            // after this. If it was not, the comparison below most likely tells.
            now.extend_from_slice(unsafe { std::slice::from_raw_parts(*start, *length) });
        }
        assert_eq!(
            now, sending.bytes,
            "a send's memory changed before its completion"
        );
        let whole = now.len() as u64;
        let (luck, part) = (self.below(8), self.below(whole + 1));
        let peer = self.peers.get_mut(&id).unwrap();
        let result = match luck {
            _ if peer.has_ended => -libc::EPIPE,
            0 => -libc::EAGAIN,
            1 => -libc::EINTR,
            2 | 3 => i32::try_from(part).unwrap(),
            _ => i32::try_from(whole).unwrap(),
        };
        let taken = usize::try_from(result).unwrap_or(0);
        peer.from_server.extend_from_slice(&now[..taken]);
        self.complete(Operation::Send(id), result, false, None);
    }

    /// Lets one pending operation, or a completion of it, happen.
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
            Operation::Accept(listener) if self.knocking[usize::from(listener)] > 0 => {
                self.knocking[usize::from(listener)] -= 1;
                let has_more = self.below(4) > 0;
                self.complete(operation, i32::from(self.next_socket), has_more, None);
                self.next_socket += 1;
            }
            Operation::Receive(id) => self.try_receive(id),
            Operation::Send(id) => self.try_send(id),
            Operation::Writable(_) => self.complete(operation, libc::POLLOUT.into(), false, None),
            Operation::Shutdown(_) => self.complete(operation, 0, false, None),
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
        // Now, or too late: then the operation ends by itself.
        let is_pending = self.pending.contains(&operation);
        assert!(
            is_pending
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
        peer.to_server.extend(script(self.below(3) == 0));
        let earlier = self.peers.insert(id, peer);
        assert!(earlier.is_none(), "the slot is in use");
        Ok(())
    }
    fn receive(&mut self, id: ConnectionId) {
        assert!(
            !self.pending.contains(&Operation::Receive(id)),
            "armed twice"
        );
        self.pending.push(Operation::Receive(id));
    }
    unsafe fn send<'a>(&mut self, id: ConnectionId, slices: impl Iterator<Item = &'a [u8]>) -> u32 {
        assert!(!self.sends.contains_key(&id), "one send at a time");
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
        if let Some(peer) = self.peers.get_mut(&id) {
            // The peer answers the end of the stream with its own.
            peer.has_ended = true;
        }
        self.pending.push(Operation::Shutdown(id));
    }
    fn close(&mut self, id: ConnectionId) {
        assert!(!self.has_pending(id), "closed with operations left");
        // A socket that was never adopted leaves an empty place in the table.
        self.peers.entry(id).or_default();
        self.pending.push(Operation::Close(id));
    }
    fn enter(&mut self, _wait: Option<Duration>) -> io::Result<()> {
        for _ in 0..self.below(6) {
            self.happen();
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
        assert!(!self.free_buffers.contains(&buffer), "given back twice");
        self.buffers[usize::from(buffer)].fill(0xee);
        self.free_buffers.push(buffer);
    }
}

/// What a client sends: it subscribes, publishes ten numbers to itself and others, and may close.
fn script(says_goodbye: bool) -> Vec<u8> {
    let mut bytes = b"GET /ws HTTP/1.1\r\nHost: f\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        .to_vec();
    bytes.extend(masked(
        Opcode::Text,
        br#"{"type":"subscribe","data":{"channel":"c"}}"#,
    ));
    for number in 0..10 {
        let publish = format!(r#"{{"type":"publish","data":{{"channel":"c","data":{number}}}}}"#);
        bytes.extend(masked(Opcode::Text, publish.as_bytes()));
    }
    if says_goodbye {
        bytes.extend(masked(Opcode::Close, &[3, 232]));
    }
    bytes
}

fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let (header, header_bytes) = server_header(opcode, payload.len());
    let mut frame = header[..header_bytes].to_vec();
    frame[1] |= 0x80;
    frame.extend([1, 2, 3, 4]);
    let mut payload = payload.to_vec();
    unmask(&mut payload, [1, 2, 3, 4], 0);
    frame.extend(payload);
    frame
}

struct NoHttp;

impl HttpHandler for NoHttp {
    fn receive(&mut self, _id: ConnectionId, _bytes: &[u8]) {
        panic!("no client speaks HTTP");
    }
    fn end(&mut self, _id: ConnectionId) {}
    fn closed(&mut self, _id: ConnectionId) {}
    fn take_output(&mut self) -> Option<(ConnectionId, HttpOutput)> {
        None
    }
    fn is_busy(&self) -> bool {
        false
    }
    async fn run_tasks(&mut self) {}
}

fn event_loop(kernel: FakeKernel, counters: &Arc<ShardCounters>) -> EventLoop<FakeKernel, NoHttp> {
    let config = RingConfig {
        capacity_bytes: 1 << 20,
        readers_max: 1,
    };
    let ring = Ring::new(config).unwrap();
    let clock = Clock::start();
    let policy = Policy {
        dialects: DialectId::ALL.map(|dialect| DialectPolicy::of(dialect).permissive()),
        routes: vec![Routes::ByPath, Routes::of(DialectId::Gateway)],
        ..Policy::default()
    };
    let parts = ShardParts {
        index: 0,
        connections_max: 64,
        policy: Arc::new(policy),
        verifier: Verifier::default(),
        process_counts: Arc::<ProcessCounts>::default(),
        quotas: Arc::default(),
        hooks: Arc::default(),
        counters: Arc::clone(counters),
        reader: ring.reader().unwrap(),
        ring,
    };
    let shard = Shard::new(parts, clock.now());
    let commands = crossbeam_channel::never();
    EventLoop::new(
        kernel,
        shard,
        NoHttp,
        commands,
        Vec::new(),
        Arc::clone(counters),
        clock,
    )
}

/// Text frames with a number, in what a client received; also checks that frames are whole in order.
fn count_numbers(mut received: &[u8]) -> usize {
    let head = received.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    received = head.map_or(&[], |head| &received[head + 4..]);
    let mut numbers = 0;
    while let [first, length, rest @ ..] = received {
        assert!(
            matches!(first, 0x81 | 0x88),
            "a frame begins with {first:#x}"
        );
        let Some((payload, rest)) = rest.split_at_checked(usize::from(*length)) else {
            break;
        };
        numbers += usize::from(payload.starts_with(br#"{"type":"message","#));
        received = rest;
    }
    numbers
}

#[test]
fn late_reordered_partial_and_failing_completions_lose_nothing_and_free_every_slot() {
    for seed in 1..=60 {
        println!("seed {seed}");
        let counters = Arc::<ShardCounters>::default();
        let connections = 12;
        let mut event_loop = event_loop(FakeKernel::new(seed, connections), &counters);
        event_loop.begin();
        for _ in 0..4_000 {
            event_loop.turn();
            event_loop.kernel().enter(None).unwrap();
        }
        let kernel = event_loop.kernel();
        assert_eq!(kernel.knocking, [0; LISTENERS], "everybody was accepted");
        let mut received = 0;
        for peer in kernel.peers.values() {
            assert!(peer.to_server.is_empty(), "everything was read");
            received += count_numbers(&peer.from_server);
        }
        let said_goodbye: usize = kernel
            .received
            .values()
            .map(|bytes| count_numbers(bytes))
            .sum();
        let deliveries = usize::try_from(counters.deliveries.value()).unwrap();
        assert_eq!(received + said_goodbye, deliveries);
        assert_eq!(
            counters.publications.value() % 10,
            0,
            "no message was lost on the way in"
        );
        assert!(deliveries > 100);
        assert_eq!(
            kernel.free_buffers.len(),
            BUFFERS,
            "every buffer was given back"
        );
        // Whoever stays is all that the shard still knows.
        let open = connections - kernel.closed.len();
        assert_eq!(counters.connections.value(), open as u64);
        assert!(kernel.peers.len() == open && open < connections);
    }
}

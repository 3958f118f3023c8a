//! Checks that every publication reaches every subscriber, whatever the kernel does.
//!
//! The kernel records the bytes that the shard has handled, in order. Decoded as messages they are
//! a log of the subscriptions and publications, which determines every byte that each client must
//! have received, without looking at the shard.

use super::super::event_loop::{EventLoop, HttpHandler};
use super::super::kernel::Kernel;
use super::{BUFFERS, Consumed, FakeKernel, LISTENERS, Losses};
use crate::auth::Verifier;
use crate::base::now::Clock;
use crate::base::{ConnectionId, DialectId, ProcessState, ShardCounters};
use crate::config::{DialectPolicy, Policy, Routes};
use crate::net::Peers;
use crate::shard::HttpOutput;
use crate::shard::{Shard, ShardParts};
use crate::ws::Opcode;
use crate::ws::frame::{Header, server_header, unmask};
use fanwire_ring::{Ring, RingConfig};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) const CONNECTIONS: usize = 12;
pub(super) const PUBLICATIONS_PER_CLIENT: usize = 10;
pub(super) const CHANNELS: [&str; 2] = ["c", "d"];
/// Many more turns than the bytes of the clients need.
const TURNS: usize = 8_000;

/// The bytes that client number `client` sends: it subscribes to one channel and later to another,
/// publishes numbers to both, and may close at the end.
pub(super) fn script(client: usize, sends_close: bool) -> Vec<u8> {
    let mut bytes = b"GET /ws HTTP/1.1\r\nHost: f\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        .to_vec();
    let mut say = |text: &str| bytes.extend(masked(Opcode::Text, text.as_bytes()));
    let subscribe = |channel| format!(r#"{{"type":"subscribe","data":{{"channel":"{channel}"}}}}"#);
    say(&subscribe(CHANNELS[client % 2]));
    for number in 0..PUBLICATIONS_PER_CLIENT {
        if number == PUBLICATIONS_PER_CLIENT / 2 {
            say(&subscribe(CHANNELS[1 - client % 2]));
        }
        // Frames with short and with long lengths.
        let padding = "x".repeat(if number % 4 == 3 { 150 } else { number });
        let (channel, data) = (
            CHANNELS[number % 2],
            format!(r#"[{client},{number},"{padding}"]"#),
        );
        say(&format!(
            r#"{{"type":"publish","data":{{"channel":"{channel}","data":{data}}}}}"#
        ));
    }
    if sends_close {
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

/// The commands that the shard has received, in order.
#[derive(Default)]
struct Log {
    /// The channel and the complete text of each publication.
    published: Vec<(String, String)>,
    /// The number of publications in the log at the beginning of each turn. The shard has read
    /// these from its ring, because it reads to the end in every turn.
    at_turn: Vec<usize>,
    clients: HashMap<ConnectionId, Requests>,
}

/// The commands of one client.
#[derive(Default)]
struct Requests {
    head_is_over: bool,
    unread: Vec<u8>,
    /// The channels of its subscriptions, and the first publication that it must receive of each.
    subscriptions: Vec<(String, usize)>,
    /// The first publication that it no longer receives, if it has closed.
    end: Option<usize>,
}

impl Log {
    fn of(consumed: &[Consumed]) -> Self {
        let mut log = Self::default();
        for Consumed { turn, id, bytes } in consumed {
            let read = log.published.len();
            log.at_turn.resize(log.at_turn.len().max(turn + 1), read);
            let mut requests = log.clients.remove(id).unwrap_or_default();
            requests.unread.extend_from_slice(bytes);
            log.read(*turn, &mut requests);
            log.clients.insert(*id, requests);
        }
        log
    }

    fn read(&mut self, turn: usize, requests: &mut Requests) {
        if !requests.head_is_over {
            let Some(end) = head_end(&requests.unread) else {
                return;
            };
            requests.unread.drain(..end);
            requests.head_is_over = true;
        }
        while let Some(header) = Header::parse(&requests.unread, false).unwrap() {
            let end = header.header_bytes + usize::try_from(header.payload_bytes).unwrap();
            if requests.unread.len() < end {
                return;
            }
            let mut payload: Vec<_> = requests.unread.drain(..end).collect();
            payload.drain(..header.header_bytes);
            unmask(&mut payload, header.mask, 0);
            if header.opcode == Opcode::Close {
                requests.end = Some(self.at_turn[turn]);
                return;
            }
            let message: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            let channel = message["data"]["channel"].as_str().unwrap();
            if message["type"] == "subscribe" {
                let subscription = (channel.to_owned(), self.at_turn[turn]);
                requests.subscriptions.push(subscription);
            } else {
                let data = &message["data"]["data"];
                let text = format!(r#"{{"type":"message","channel":"{channel}","data":{data}}}"#);
                self.published.push((channel.to_owned(), text));
            }
        }
    }

    /// The publications that a client must have received, in order.
    fn expected(&self, requests: &Requests) -> Vec<&str> {
        let end = requests.end.unwrap_or(self.published.len());
        let published = self.published[..end].iter().enumerate();
        let wanted = published.filter(|(at, (channel, _))| {
            let mut subscriptions = requests.subscriptions.iter();
            subscriptions.any(|(wanted, first)| wanted == channel && first <= at)
        });
        wanted.map(|(_, (_, text))| &**text).collect()
    }
}

pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut windows = bytes.windows(4);
    windows
        .position(|window| window == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// Decodes what a client received, and compares it; returns the number of publications.
fn check_received(mut received: &[u8], requests: &Requests, log: &Log, who: &str) -> usize {
    let answer = head_end(received).unwrap_or_else(|| panic!("{who} got no answer"));
    assert!(received.starts_with(b"HTTP/1.1 101 "), "{who}");
    received = &received[answer..];
    let (mut publications, mut acknowledged) = (Vec::new(), Vec::new());
    let mut close = None;
    while let [first, second, ..] = *received {
        assert_eq!(close, None, "{who} got something after the close frame");
        let (start, length) = match second {
            126 => (
                4,
                usize::from(u16::from_be_bytes([received[2], received[3]])),
            ),
            length => (2, usize::from(length)),
        };
        let payload = received.get(start..start + length);
        let payload = payload.unwrap_or_else(|| panic!("{who} got a part of a frame"));
        match first {
            0x81 => {
                let text = str::from_utf8(payload).unwrap();
                match text.strip_prefix(r#"{"type":"subscribed","data":{"channel":""#) {
                    Some(rest) => acknowledged.push(rest.trim_end_matches("\"}}")),
                    None => publications.push(text),
                }
            }
            0x88 => close = Some(payload),
            first => panic!("{who} got a frame that begins with {first:#x}"),
        }
        received = &received[start + length..];
    }
    let requested: Vec<_> = requests
        .subscriptions
        .iter()
        .map(|(channel, _)| &**channel)
        .collect();
    assert_eq!(acknowledged, requested, "{who}: acknowledged subscriptions");
    assert_eq!(publications, log.expected(requests), "{who}: publications");
    let answered = requests.end.map(|_| &[3, 232][..]);
    assert_eq!(close, answered, "{who}: the answer to its close frame");
    publications.len()
}

pub(super) struct NoHttp;

impl HttpHandler for NoHttp {
    fn begin(&mut self, _id: ConnectionId, _listener: u8) {}
    fn written(&mut self, _id: ConnectionId) {}
    fn receive(&mut self, _id: ConnectionId, _bytes: &[u8]) {
        panic!("no client sends other HTTP requests");
    }
    fn end(&mut self, _id: ConnectionId) {}
    fn closed(&mut self, _id: ConnectionId) {}
    fn take_output(&mut self) -> Option<(ConnectionId, HttpOutput)> {
        None
    }
    fn is_busy(&self) -> bool {
        false
    }
    fn run_tasks(&mut self) {}
}

pub(super) fn event_loop(
    kernel: FakeKernel,
    counters: &Arc<ShardCounters>,
) -> EventLoop<FakeKernel, NoHttp> {
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
    let process_state = Arc::<ProcessState>::default();
    let parts = ShardParts {
        index: 0,
        connections_max: 64,
        policy: Arc::new(policy),
        verifier: Verifier::default(),
        process_state: Arc::clone(&process_state),
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
        (0, Peers::new(&[], process_state)),
        Arc::clone(counters),
        clock,
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test reads the seed that it is to replay"
)]
pub(super) fn seeds() -> std::ops::RangeInclusive<u64> {
    let seed = std::env::var("FANWIRE_SIM_SEED").ok();
    match seed.and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..=seed,
        None => 1..=60,
    }
}

#[test]
fn late_reordered_partial_and_failing_completions_lose_nothing_and_free_every_slot() {
    let seeds = seeds();
    let is_replay = seeds.clone().count() == 1;
    let mut closed = 0;
    for seed in seeds {
        println!("replay: FANWIRE_SIM_SEED={seed} cargo test --lib fake");
        let counters = Arc::<ShardCounters>::default();
        let mut event_loop = event_loop(FakeKernel::new(seed, CONNECTIONS), &counters);
        event_loop.begin();
        for turn in 0..TURNS {
            event_loop.kernel().turn = turn;
            event_loop.turn();
            event_loop.kernel().enter(None).unwrap();
        }
        closed += check(event_loop.kernel(), &counters);
    }
    assert!(closed > 0 || is_replay, "no connection was closed");
}

/// Checks the state at the end; returns how many connections were closed.
fn check(kernel: &FakeKernel, counters: &ShardCounters) -> usize {
    assert_eq!(
        kernel.pending_accepts, [0; LISTENERS],
        "every connection was accepted"
    );
    let log = Log::of(&kernel.consumed);
    assert_eq!(counters.publications.value(), log.published.len() as u64);
    assert_eq!(
        log.published.len(),
        kernel.client_count * PUBLICATIONS_PER_CLIENT,
        "everything sent was read"
    );
    let (mut received, mut stayed) = (0, 0);
    for (id, requests) in &log.clients {
        let open = kernel.peers.get(id);
        assert_eq!(
            open.is_none(),
            requests.end.is_some(),
            "exactly the connections that closed are closed"
        );
        let bytes = open.map_or_else(|| &kernel.received[id], |peer| &peer.from_server);
        let who = format!("{id:?}");
        received += check_received(bytes, requests, &log, &who);
        stayed += usize::from(open.is_some());
    }
    assert_eq!(counters.deliveries.value(), received as u64);
    assert!(received > 100, "only {received} publications arrived");
    assert_eq!(
        kernel.free_buffers.len(),
        BUFFERS,
        "every buffer was recycled"
    );
    // The shard has no connections but those that stay open; a socket that could not be registered
    // is closed.
    assert_eq!(log.clients.len(), kernel.client_count);
    assert_eq!(kernel.peers.len(), stayed);
    assert_eq!(counters.connections.value(), stayed as u64);
    assert_eq!(kernel.closed.len(), CONNECTIONS - stayed);
    kernel.closed.len()
}

#[test]
fn a_completion_that_is_lost_disturbs_no_other_connection() {
    let (mut victims, mut received) = (0, 0);
    for seed in seeds() {
        println!("replay: FANWIRE_SIM_SEED={seed} cargo test --lib fake");
        let counters = Arc::<ShardCounters>::default();
        let mut kernel = FakeKernel::new(seed, CONNECTIONS);
        kernel.losses = Losses::Silent;
        let mut event_loop = event_loop(kernel, &counters);
        event_loop.begin();
        for turn in 0..TURNS {
            event_loop.kernel().turn = turn;
            event_loop.turn();
            event_loop.kernel().enter(None).unwrap();
        }
        let kernel = event_loop.kernel();
        let log = Log::of(&kernel.consumed);
        assert_eq!(counters.publications.value(), log.published.len() as u64);
        for (id, requests) in &log.clients {
            let who = format!("{id:?}");
            let peer = kernel.peers.get(id);
            let bytes = peer.map_or_else(|| &kernel.received[id], |peer| &peer.from_server);
            if kernel.victims.contains(id) {
                // The memory of a send that the kernel may still read is never another's.
                assert!(peer.is_some(), "{who}: its slot is not used again");
                continue;
            }
            assert_eq!(peer.is_none(), requests.end.is_some(), "{who}");
            received += check_received(bytes, requests, &log, &who);
        }
        victims += kernel.victims.len();
    }
    assert!(victims > 0 && received > 100, "{victims}, {received}");
}

#[test]
fn a_shard_ends_when_the_kernel_says_that_a_completion_is_lost() {
    let counters = Arc::<ShardCounters>::default();
    let mut kernel = FakeKernel::new(1, CONNECTIONS);
    kernel.losses = Losses::Reported;
    let event_loop = event_loop(kernel, &counters);
    let ended = event_loop.run();
    assert_eq!(ended.unwrap_err().raw_os_error(), Some(libc::EBADR));
}

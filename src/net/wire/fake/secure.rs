//! Checks connections with TLS on a kernel that encrypts for them, or does not, or not any more.
//!
//! The clients are those of `deliveries`, with rustls. The kernel really encrypts with the keys it is given,
//! so whatever the server sends in the wrong order, or without the keys, is an error of the client's.

use super::super::event_loop::{EventLoop, ShardCommand};
use super::deliveries::{self, CONNECTIONS, NoHttp, PUBLICATIONS_PER_CLIENT, head_end};
use super::{FakeKernel, Kernel as _, KernelTls, LISTENERS};
use crate::base::counters::{KernelTlsError, TlsSender};
use crate::base::{ConnectionId, ShardCounters};
use crate::net::tls::Control;
use crate::net::tls::fixtures::{SUITES, below, client, is_1_3, server_config};
use rustls::{AlertDescription, CipherSuite, ClientConnection};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};

/// Turns until nothing is on the way any more.
const TURNS: usize = 12_000;

/// What a client does beside its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Nothing,
    /// It changes its keys now and then, and wants the server to do so.
    NewKeys,
    /// A bit of what it sends changes on the way, once.
    Damage,
    /// It has.
    Damaged,
    /// Its socket ends in the middle.
    Leave,
    /// It says everything at once, and its socket ends behind that.
    EndAtOnce,
}

struct Client {
    number: u64,
    tls: ClientConnection,
    suite: CipherSuite,
    act: Act,
    /// What of its script is to be sent.
    script: Vec<u8>,
    closes: bool,
    /// Its handshake is sent, and a part of its script.
    has_begun: bool,
    /// Bytes of the server that it has read.
    read: usize,
    received: Vec<u8>,
    error: Option<rustls::Error>,
    is_notified: bool,
}

impl Client {
    fn new(number: usize, act: Act, suite: CipherSuite, closes: bool) -> Self {
        Self {
            number: number as u64,
            tls: client(&[suite]),
            suite,
            act,
            script: deliveries::script(number, closes),
            closes,
            has_begun: false,
            read: 0,
            received: Vec::new(),
            error: None,
            is_notified: false,
        }
    }

    /// Nothing has happened to it but what its script says, and all of that.
    fn is_undisturbed(&self) -> bool {
        self.act == Act::Nothing && self.error.is_none() && self.script.is_empty()
    }

    /// Reads what the server has sent.
    fn receive(&mut self, from_server: &[u8]) {
        let mut records = &from_server[self.read..];
        self.read = from_server.len();
        while !records.is_empty() && self.error.is_none() {
            self.tls.read_tls(&mut records).unwrap();
            match self.tls.process_new_packets() {
                Ok(state) => self.is_notified |= state.peer_has_closed(),
                Err(error) => self.error = Some(error),
            }
            // Would block: there is no more.
            let _ = self.tls.reader().read_to_end(&mut self.received);
        }
    }

    /// What it sends next, and whether its socket ends.
    fn send(&mut self, seed: &mut u64) -> (Vec<u8>, bool) {
        let mut ends = false;
        let had_begun = self.has_begun;
        let is_talking = !self.tls.is_handshaking() && self.error.is_none();
        let is_hasty = self.act == Act::EndAtOnce;
        if is_talking && !self.script.is_empty() && (is_hasty || below(seed, 3) == 0) {
            let length = match self.act {
                Act::EndAtOnce => self.script.len(),
                _ => 1 + below(seed, self.script.len().min(400)),
            };
            let said: Vec<_> = self.script.drain(..length).collect();
            self.tls.writer().write_all(&said).unwrap();
            self.has_begun = true;
            match self.act {
                Act::NewKeys if is_1_3(self.suite) && below(seed, 3) == 0 => {
                    self.tls.refresh_traffic_keys().unwrap();
                }
                Act::Leave => ends = below(seed, 6) == 0,
                Act::EndAtOnce => ends = true,
                _ => {}
            }
        }
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        if had_begun && self.act == Act::Damage && !bytes.is_empty() && below(seed, 2) == 0 {
            // Not the header: a longer length would wait.
            let at = 5 + below(seed, bytes.len().min(16));
            bytes[at] ^= 4;
            self.act = Act::Damaged;
        }
        (bytes, ends)
    }
}

struct World {
    event_loop: EventLoop<FakeKernel, NoHttp>,
    counters: Arc<ShardCounters>,
    clients: HashMap<ConnectionId, Client>,
    seed: u64,
    act: fn(usize) -> Act,
}

impl World {
    fn new(seed: u64, tls: KernelTls, act: fn(usize) -> Act) -> Self {
        static CONFIG: OnceLock<Arc<rustls::ServerConfig>> = OnceLock::new();
        println!("replay: FANWIRE_SIM_SEED={seed} cargo test --lib fake::secure");
        let counters = Arc::<ShardCounters>::default();
        let mut kernel = FakeKernel::new(seed, CONNECTIONS);
        kernel.tls = Some(tls);
        let config = CONFIG.get_or_init(|| server_config(true));
        let configs = vec![Some(Arc::clone(config)); LISTENERS];
        let event_loop = deliveries::event_loop(kernel, &counters).with_tls(configs);
        Self {
            event_loop,
            counters,
            clients: HashMap::new(),
            seed,
            act,
        }
    }

    fn run(mut self) -> Self {
        self.event_loop.begin();
        for turn in 0..TURNS {
            self.event_loop.kernel().turn = turn;
            self.event_loop.turn();
            let kernel = self.event_loop.kernel();
            kernel.enter(None).unwrap();
            self.exchange();
        }
        self
    }

    /// Lets the clients read and send.
    fn exchange(&mut self) {
        let kernel = self.event_loop.kernel();
        let mut ids: Vec<_> = kernel.peers.keys().copied().collect();
        ids.sort_by_key(|id| (id.slot(), id.generation()));
        for id in ids {
            let peer = kernel.peers.get_mut(&id).unwrap();
            let number = self.clients.len() + 1;
            let client = self.clients.entry(id).or_insert_with(|| {
                let suite = SUITES[below(&mut self.seed, SUITES.len())];
                let closes = below(&mut self.seed, 3) == 0;
                Client::new(number, (self.act)(number), suite, closes)
            });
            client.receive(&peer.from_server);
            let (sent, ends) = client.send(&mut self.seed);
            if !peer.has_ended {
                peer.to_server.extend(sent);
                peer.has_ended = ends;
            }
        }
        for (id, received) in &kernel.received {
            if let Some(client) = self.clients.get_mut(id) {
                client.receive(received);
            }
        }
    }

    fn tls(&mut self) -> &KernelTls {
        self.event_loop.kernel().tls.as_ref().unwrap()
    }

    fn is_open(&mut self, id: ConnectionId) -> bool {
        self.event_loop.kernel().peers.contains_key(&id)
    }

    fn senders(&self, sender: TlsSender) -> u64 {
        self.counters.tls_connections.of(sender).value()
    }

    fn errors(&self, error: KernelTlsError) -> u64 {
        self.counters.kernel_tls_errors.of(error).value()
    }

    /// Checks what undisturbed clients have received; returns how many there are.
    fn check(&mut self) -> usize {
        let clients = std::mem::take(&mut self.clients);
        let whole: Vec<_> = clients.values().filter(|it| it.is_undisturbed()).collect();
        let numbers: Vec<_> = whole.iter().map(|client| client.number).collect();
        let mut count = 0;
        for (id, client) in &clients {
            let who = format!("{id:?} {:?} {:?}", client.suite, client.act);
            let is_disturbed = matches!(client.act, Act::Leave | Act::Damaged | Act::EndAtOnce);
            let error = &client.error;
            assert!(error.is_none() || is_disturbed, "{who}: {error:?}");
            if client.is_undisturbed() {
                check_received(&client.received, client.closes, &numbers, &who);
                assert_eq!(self.is_open(*id), !client.closes, "{who}");
                count += 1;
            }
        }
        self.clients = clients;
        count
    }
}

/// Each publisher's publications come in their order, and none is missing; to the last one, of those that
/// have published all.
fn check_received(mut received: &[u8], closes: bool, whole: &[u64], who: &str) {
    let answer = head_end(received).unwrap_or_else(|| panic!("{who} got no answer"));
    assert!(received.starts_with(b"HTTP/1.1 101 "), "{who}");
    received = &received[answer..];
    let mut numbers: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
    let mut has_closed = false;
    while let [first, second, ..] = *received {
        assert!(!has_closed, "{who} got something after the close frame");
        let (start, length) = match second {
            126 => (
                4,
                usize::from(u16::from_be_bytes([received[2], received[3]])),
            ),
            length => (2, usize::from(length)),
        };
        let payload = &received[start..start + length];
        has_closed = first == 0x88;
        if !has_closed {
            let message: serde_json::Value = serde_json::from_slice(payload).unwrap();
            if message["type"] == "message" {
                let publisher = message["data"][0].as_u64().unwrap();
                let number = message["data"][1].as_u64().unwrap();
                numbers
                    .entry((publisher, number % 2))
                    .or_default()
                    .push(number);
            }
        }
        received = &received[start + length..];
    }
    assert_eq!(has_closed, closes, "{who}: the answer to its close frame");
    // One that closes may do so in the turn in which everything it has sent is handled.
    assert!(closes || !numbers.is_empty(), "{who} got no publications");
    for (of, numbers) in numbers {
        let is_whole = numbers.windows(2).all(|pair| pair[1] == pair[0] + 2);
        assert!(is_whole, "{who}: {numbers:?} of {of:?}");
        let last = numbers.last().unwrap() + 2;
        let is_last = last >= PUBLICATIONS_PER_CLIENT as u64;
        let is_wanted = !closes && whole.contains(&of.0);
        assert!(is_last || !is_wanted, "{who}: {numbers:?}");
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    deliveries::seeds().take(12)
}

/// A kernel that can do everything.
fn whole() -> KernelTls {
    KernelTls {
        has_tls: true,
        takes_keys: true,
        changes_keys: true,
        ..KernelTls::default()
    }
}

#[test]
fn a_kernel_without_tls_changes_nothing() {
    for seed in seeds() {
        // Also where clients have said everything before it answers.
        let tls = KernelTls {
            is_slow: seed % 2 == 0,
            ..KernelTls::default()
        };
        let mut world = World::new(seed, tls, |_| Act::Nothing).run();
        assert!(world.check() > 3);
        assert_eq!(world.senders(TlsSender::Kernel), 0);
        assert!(world.senders(TlsSender::Process) > 3);
        assert!(world.tls().sent_controls.is_empty());
    }
}

#[test]
fn a_kernel_with_tls_gets_plaintext_and_says_the_end() {
    let mut closed = 0;
    for seed in seeds() {
        let mut world = World::new(seed, whole(), |_| Act::Nothing).run();
        let count = world.check();
        assert!(count > 3);
        assert_eq!(world.senders(TlsSender::Process), 0);
        assert!(world.senders(TlsSender::Kernel) >= count as u64);
        let clients = std::mem::take(&mut world.clients);
        let done = clients.iter().filter(|(_, client)| client.is_undisturbed());
        for (id, client) in done {
            assert_eq!(client.is_notified, client.closes, "{id:?}");
            let of = world
                .tls()
                .sent_controls
                .iter()
                .filter(|(other, _)| other == id);
            let controls: Vec<_> = of.map(|(_, control)| *control).collect();
            let expected: &[_] = if client.closes {
                &[Control::CloseNotify]
            } else {
                &[]
            };
            assert_eq!(controls, expected, "{id:?}");
            closed += controls.len();
        }
    }
    assert!(closed > 0, "no connection was closed");
}

#[test]
fn a_suite_whose_keys_the_kernel_does_not_take_stays_with_the_server_from_then_on() {
    let mut stayed = 0;
    for seed in seeds() {
        let tls = KernelTls {
            takes_keys: false,
            ..whole()
        };
        let mut world = World::new(seed, tls, |_| Act::Nothing).run();
        let closed = world.errors(KernelTlsError::SendKeys);
        let is_lost = |client: &Client| {
            !client.tls.is_handshaking() && client.received.is_empty() && client.act == Act::Nothing
        };
        let lost = world.clients.values().filter(|client| is_lost(client));
        assert_eq!(closed, lost.count() as u64);
        assert!(closed > 0);
        world.clients.retain(|_, client| !is_lost(client));
        stayed += world.check();
        assert_eq!(world.senders(TlsSender::Kernel), 0);
    }
    assert!(stayed > 10, "{stayed}");
}

#[test]
fn keys_change_in_both_directions_where_the_kernel_can() {
    let act = |number| {
        if number % 2 == 0 {
            Act::NewKeys
        } else {
            Act::Nothing
        }
    };
    let mut changed = 0;
    for seed in seeds() {
        let mut world = World::new(seed, whole(), act).run();
        for client in world.clients.values_mut() {
            client.act = Act::Nothing;
        }
        assert!(world.check() > 3);
        assert_eq!(world.errors(KernelTlsError::KeyUpdate), 0);
        let controls = world.tls().sent_controls.iter();
        changed += controls.filter(|(_, it)| *it == Control::KeyUpdate).count();
    }
    assert!(changed > 10, "{changed}");
}

#[test]
fn a_client_that_wants_other_keys_is_closed_where_the_kernel_cannot_change_them() {
    let act = |number| {
        if number % 2 == 0 {
            Act::NewKeys
        } else {
            Act::Nothing
        }
    };
    let mut closed = 0;
    for seed in seeds() {
        let tls = KernelTls {
            changes_keys: false,
            ..whole()
        };
        let mut world = World::new(seed, tls, act).run();
        closed += world.errors(KernelTlsError::KeyUpdate);
        let mut clients = std::mem::take(&mut world.clients);
        for client in clients.values_mut().filter(|it| it.act == Act::NewKeys) {
            let is_told = rustls::Error::AlertReceived(AlertDescription::InternalError);
            assert!(client.error.as_ref().is_none_or(|error| *error == is_told));
            client.error = None;
        }
        world.clients = clients;
        world.check();
    }
    assert!(closed > 5, "{closed}");
}

#[test]
fn a_client_whose_records_are_damaged_gets_an_alert() {
    let act = |number| {
        if number % 2 == 0 {
            Act::Damage
        } else {
            Act::Nothing
        }
    };
    let mut alerts = 0;
    for seed in seeds() {
        let mut world = World::new(seed, whole(), act).run();
        let clients = std::mem::take(&mut world.clients);
        for (id, client) in &clients {
            if let Some(error) = &client.error {
                let told = rustls::Error::AlertReceived(AlertDescription::BadRecordMac);
                assert_eq!(*error, told, "{id:?}");
                assert!(!world.is_open(*id));
                alerts += 1;
            }
        }
        world.clients = clients;
        world.check();
    }
    assert!(alerts > 10, "{alerts}");
}

#[test]
fn clients_that_leave_in_the_middle_disturb_nobody() {
    let act = |number| {
        if number % 2 == 0 {
            Act::Leave
        } else {
            Act::Nothing
        }
    };
    for seed in seeds() {
        let mut world = World::new(seed, whole(), act).run();
        assert!(world.check() > 0);
        let clients = std::mem::take(&mut world.clients);
        for (id, client) in clients.iter().filter(|(_, it)| it.act == Act::Leave) {
            let has_left = !client.script.is_empty();
            assert!(!has_left || !world.is_open(*id), "{id:?}");
        }
    }
}

#[test]
fn what_came_ahead_of_the_end_of_a_socket_is_handled_before_it() {
    let act = |number| {
        if number % 2 == 0 {
            Act::EndAtOnce
        } else {
            Act::Nothing
        }
    };
    let mut hasty = 0;
    for seed in seeds() {
        let tls = KernelTls {
            is_slow: true,
            ..whole()
        };
        let mut world = World::new(seed, tls, act).run();
        world.check();
        // In TLS 1.3 the server cannot send what its handshake has left to say.
        let clients = world.clients.values();
        let hasty_here = clients.filter(|it| it.act == Act::EndAtOnce && !is_1_3(it.suite));
        let hasty_here: Vec<_> = hasty_here.filter(|it| it.script.is_empty()).collect();
        let all = world
            .clients
            .values()
            .filter(|it| it.is_undisturbed())
            .count();
        let published = world.counters.publications.value();
        let least = (all + hasty_here.len()) * PUBLICATIONS_PER_CLIENT;
        assert!(published >= least as u64, "{published} of {least}");
        hasty += hasty_here.len();
    }
    assert!(hasty > 10, "{hasty}");
}

#[test]
fn what_the_kernel_holds_back_is_not_dropped() {
    let mut unsent_count = 0;
    for seed in 1..200 {
        let tls = KernelTls {
            holds: true,
            ..whole()
        };
        let mut world = World::new(seed, tls, |_| Act::Nothing).run();
        let tls = world.event_loop.kernel().tls.take().unwrap();
        let dropped = &tls.dropped_records;
        assert!(dropped.is_empty(), "seed {seed}: {dropped:?}");
        unsent_count += tls.unsent_count;
    }
    assert!(unsent_count > 200, "{unsent_count}");
}

#[test]
fn one_want_of_memory_is_the_end_of_one_connection() {
    for seed in 1..40 {
        let tls = KernelTls {
            fails_once: Some(libc::ENOMEM),
            ..whole()
        };
        let world = World::new(seed, tls, |_| Act::Nothing).run();
        assert_eq!(world.errors(KernelTlsError::SendKeys), 1);
        assert_eq!(world.senders(TlsSender::Process), 0);
        assert!(world.senders(TlsSender::Kernel) > 0);
    }
}

/// A kernel that may refuse anything, and be slow.
fn any_kernel(seed: &mut u64) -> KernelTls {
    let mut is_so = |of: usize| below(seed, of) == 0;
    KernelTls {
        has_tls: !is_so(8),
        takes_keys: !is_so(5),
        changes_keys: is_so(2),
        is_slow: is_so(2),
        holds: is_so(2),
        ..KernelTls::default()
    }
}

#[test]
fn nothing_stays_open_whatever_ends_a_connection() {
    const TURNS: usize = 8_000;
    for seed in 1..120_u64 {
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let tls = any_kernel(&mut dice);
        let act: fn(usize) -> Act = match below(&mut dice, 3) {
            0 => |n| [Act::NewKeys, Act::Nothing, Act::EndAtOnce][n % 3],
            1 => |n| [Act::NewKeys, Act::Damage, Act::Leave][n % 3],
            _ => |_| Act::NewKeys,
        };
        let mut world = World::new(seed, tls, act);
        let (sender, receiver) = crossbeam_channel::unbounded();
        world.event_loop.commands = receiver;
        world.event_loop.begin();
        let drain = 200 + below(&mut dice, 3_000);
        for turn in 0..TURNS {
            world.event_loop.kernel().turn = turn;
            world.event_loop.turn();
            world.event_loop.kernel().enter(None).unwrap();
            world.exchange();
            if turn < drain && below(&mut dice, 60) == 0 {
                let mut ids: Vec<_> = world.event_loop.kernel().peers.keys().copied().collect();
                ids.sort_by_key(|id| (id.slot(), id.generation()));
                let Some(id) = ids.get(below(&mut dice, ids.len().max(1))).copied() else {
                    continue;
                };
                let command = match below(&mut dice, 4) {
                    0 => ShardCommand::Call(Box::new(move |shard, now| shard.abort(id, now))),
                    1 => ShardCommand::CloseSome(1),
                    _ => ShardCommand::Call(Box::new(move |shard, now| {
                        shard.disconnect(id, now);
                    })),
                };
                sender.send(command).unwrap();
            }
            if turn == drain {
                sender.send(ShardCommand::Drain).unwrap();
            }
            if turn > drain + 500 {
                let peers = world.event_loop.kernel().peers.values_mut();
                peers.for_each(|peer| peer.has_ended = true);
            }
        }
        let left = &world.event_loop.kernel().peers;
        assert!(left.is_empty(), "seed {seed}: {:?}", left.keys());
    }
}

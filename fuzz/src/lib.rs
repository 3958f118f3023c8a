//! One shard of one dialect, and clients that say anything at all; [`decoder`], [`deflate`] and [`head`]
//! are about the bytes before, [`tls`] about those before these, [`records`] about what is between a publisher and its
//! subscribers, [`settings`] about the configuration.
//!
//! An input is lines. A line that begins with `!` says what happens; one that begins with `+` is a
//! message of a gateway client that may publish; one that begins with `~` is a binary message of the client
//! that speaks; any other is a text message of that client.
//!
//! ```text
//! !connect N QUERY   client N (0 to 3) connects, and speaks
//! !as N              client N speaks
//! !leave N           the socket of client N fails
//! !end N             client N sends no more
//! !wait MS           time passes
//! !cut N             from now on messages come in fragments, with pings between, and in several
//!                    reads; N says how. 0: whole, in one read
//! ```
//!
//! A token is `USER/ROLE/PERMISSION/TENANT`. Whatever is said: nothing panics, every frame to a client
//! is sound and holds a JSON object with a `type`, or is a binary message of the gateway dialect, and when all are gone nothing of them is left.

pub mod decoder;
pub mod deflate;
pub mod head;
mod input;
pub mod records;
pub mod settings;
pub mod tls;

use self::input::{chooser, expanded};
use fanwire::auth::{Identity, Verifier};
use fanwire::base::{ConnectionId, DialectId, Now, POSITION_BYTES, ProcessState, ShardCounters};
use fanwire::config::{AccessRule, DialectPolicy, Policy, RateLimit, Routes};
use fanwire::shard::{ConnectionAction, HttpOutput, Shard, ShardParts};
use fanwire_ring::{Ring, RingConfig};
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

const CLIENTS: usize = 4;
/// The gateway client that publishes, behind the others.
const PUBLISHER: usize = CLIENTS;
const CHECKED: u8 = 0;
const OPEN: u8 = 1;

/// Plays `input` with sessions of `dialect`.
pub fn play(dialect: DialectId, input: &[u8]) {
    let mut fixture = Fixture::new(dialect);
    fixture.connect(PUBLISHER, OPEN, "");
    fixture.connect(0, CHECKED, "");
    for line in input.split(|byte| *byte == b'\n') {
        match line {
            [b'!', words @ ..] => fixture.act(&String::from_utf8_lossy(words)),
            [b'+', message @ ..] => fixture.say(PUBLISHER, 1, message),
            [b'~', message @ ..] => fixture.say(fixture.speaker, 2, message),
            message => fixture.say(fixture.speaker, 1, message),
        }
    }
    fixture.end();
}

/// A client without a socket.
struct Client {
    id: ConnectionId,
    received: Vec<u8>,
    /// The payload of the last data frame, and whether it was binary.
    last: (bool, Vec<u8>),
    is_upgraded: bool,
    is_closed: bool,
}

struct Fixture {
    dialect: DialectId,
    now: Now,
    ring: Ring,
    shard: Shard,
    counters: Arc<ShardCounters>,
    process_state: Arc<ProcessState>,
    clients: [Option<Client>; CLIENTS + 1],
    speaker: usize,
    /// How messages are cut; 0: not at all.
    cut: u64,
}

impl Fixture {
    fn new(dialect: DialectId) -> Self {
        let now = Now::at(1_000, 1_700_000_000_000);
        let config = RingConfig {
            capacity_bytes: 1 << 16,
            readers_max: 1,
        };
        let ring = Ring::new(config).expect("the configuration is valid");
        let mut policy = Policy {
            dialects: DialectId::ALL.map(|dialect| DialectPolicy {
                rate_limit: RateLimit::Off,
                ..DialectPolicy::of(dialect)
            }),
            access_rules: fanwire::dialect::access_rules().into(),
            publish_rules: AccessRule::open_dialect_channels().into(),
            routes: vec![Routes::of(dialect), Routes::of(DialectId::Gateway)],
            ..Policy::default()
        };
        if dialect != DialectId::Gateway {
            let gateway = DialectId::Gateway.index();
            policy.dialects[gateway] = policy.dialects[gateway].permissive();
        }
        let counters = Arc::<ShardCounters>::default();
        let process_state = Arc::<ProcessState>::default();
        let parts = ShardParts {
            index: 0,
            connections_max: 16,
            policy: Arc::new(policy),
            verifier: Verifier::default().with_check(Arc::new(identity)),
            process_state: Arc::clone(&process_state),
            quotas: Arc::default(),
            counters: Arc::clone(&counters),
            hooks: Arc::default(),
            reader: ring.reader().expect("the ring has a reader's place"),
            ring: ring.clone(),
        };
        Self {
            dialect,
            now,
            ring,
            shard: Shard::new(parts, now),
            counters,
            process_state,
            clients: [const { None }; CLIENTS + 1],
            speaker: 0,
            cut: 0,
        }
    }

    fn act(&mut self, words: &str) {
        let mut words = words.splitn(3, ' ');
        let act = words.next().unwrap_or_default();
        let number = words.next().and_then(|word| word.parse::<usize>().ok());
        let client = number.unwrap_or(0) % CLIENTS;
        match act {
            "connect" => {
                self.connect(client, CHECKED, words.next().unwrap_or_default());
                self.speaker = client;
            }
            "as" => self.speaker = client,
            "cut" => self.cut = number.unwrap_or(0) as u64,
            "leave" => {
                if let Some(Client { id, .. }) = self.clients[client] {
                    self.shard.abort(id, self.now);
                }
            }
            "end" => {
                if let Some(Client { id, .. }) = self.clients[client] {
                    self.shard.on_eof(id, self.now);
                }
            }
            "wait" => {
                let passed_ms = number.unwrap_or(0) as u64 % 100_000;
                self.now.monotonic_ms += passed_ms;
                self.now.unix_ms += passed_ms;
                self.shard.expire_timers(self.now);
                for (id, query) in self.shard.take_queries() {
                    self.shard.unacknowledged(id, query, None, self.now);
                }
            }
            _ => {}
        }
        self.deliver_all();
    }

    fn connect(&mut self, client: usize, listener: u8, query: &str) {
        if self.clients[client].is_some() {
            return;
        }
        let peer = ([127, 0, 0, 1], 9).into();
        let accepted = self.shard.accept(peer, listener, self.now);
        let id = accepted.expect("there are fewer clients than places");
        self.clients[client] = Some(Client {
            id,
            received: Vec::new(),
            last: (false, Vec::new()),
            is_upgraded: false,
            is_closed: false,
        });
        let mut request = format!(
            "GET /ws{query} HTTP/1.1\r\nHost: f\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        .into_bytes();
        self.shard.receive(id, &mut request, self.now);
        self.deliver_all();
    }

    /// Sends `message` with this opcode, cut as was said last.
    fn say(&mut self, client: usize, opcode: u8, message: &[u8]) {
        if self.cut == 0 {
            return self.send(client, frame(0x80 | opcode, message));
        }
        // Every message is cut in its own way.
        self.cut = self.cut.wrapping_add(1 << 32);
        let choices = expanded(self.cut, 256);
        let mut choose = chooser(&choices);
        let (mut bytes, mut left, mut opcode) = (Vec::new(), message, opcode);
        for _ in 0..choose(4) {
            let (now, later) = left.split_at(choose(left.len() + 1));
            bytes.extend(frame(opcode, now));
            (left, opcode) = (later, 0);
            if choose(3) == 0 {
                bytes.extend(frame(0x89, b"between"));
            }
        }
        bytes.extend(frame(0x80 | opcode, left));
        let reads = 1 + choose(6);
        for _ in 1..reads {
            let later = bytes.split_off(choose(bytes.len() + 1));
            let now = std::mem::replace(&mut bytes, later);
            self.send(client, now);
        }
        self.send(client, bytes);
    }

    fn send(&mut self, client: usize, mut bytes: Vec<u8>) {
        let Some(Client { id, .. }) = self.clients[client] else {
            return;
        };
        self.shard.receive(id, &mut bytes, self.now);
        self.deliver_all();
    }

    /// Lets everything arrive.
    fn deliver_all(&mut self) {
        loop {
            self.shard.retry_unsent(self.now);
            self.shard.continue_input(self.now);
            self.shard.drain_ring(self.now);
            self.flush();
            // There are no sockets to ask or to set options of.
            for (id, query) in self.shard.take_queries() {
                self.shard.unacknowledged(id, query, None, self.now);
            }
            drop(self.shard.take_admitted());
            for action in self.shard.take_actions() {
                self.carry_out(action);
            }
            let is_busy = self.shard.has_unread()
                || self.shard.is_congested()
                || self.shard.has_ready()
                || self.shard.has_actions()
                || self.shard.has_leaving()
                || self.shard.has_waiting_input();
            if !is_busy {
                return;
            }
        }
    }

    fn flush(&mut self) {
        while let Some(id) = self.shard.next_ready(&mut { usize::MAX }) {
            let bytes = self.shard.begin_send(id, 64).collect::<Vec<_>>().concat();
            let length = u32::try_from(bytes.len()).expect("a send queue is smaller");
            self.shard.sent(id, length);
            let mut clients = self.clients.iter_mut().flatten();
            let client = clients.find(|client| client.id == id);
            client.expect("only clients are sent to").take(&bytes);
        }
    }

    fn carry_out(&mut self, action: ConnectionAction) {
        match action {
            ConnectionAction::ShutdownWrite(id) => self.shard.on_eof(id, self.now),
            ConnectionAction::Close(id) | ConnectionAction::Reset(id) => {
                let mut clients = self.clients.iter_mut();
                let client = clients.find(|client| client.as_ref().is_some_and(|it| it.id == id));
                *client.expect("a connection is closed once") = None;
                self.shard.release(id);
            }
            ConnectionAction::Http(id, _) => {
                self.shard.answer_http(id, HttpOutput::End, self.now);
            }
            ConnectionAction::HttpBegin(..)
            | ConnectionAction::HttpWritten(_)
            | ConnectionAction::HttpEnd(_)
            | ConnectionAction::PauseReceive(_)
            | ConnectionAction::ResumeReceive(_) => {}
        }
    }

    /// All leave; nothing of them may be left.
    fn end(mut self) {
        for client in 0..=CLIENTS {
            if let Some(Client { id, .. }) = self.clients[client] {
                self.shard.abort(id, self.now);
                self.deliver_all();
            }
        }
        assert!(self.clients.iter().all(Option::is_none), "a client is left");
        let counters = &self.counters;
        let left = [
            ("sessions", counters.shard_sessions.value()),
            ("subscriptions", counters.subscriptions.value()),
            ("channels", counters.channels.value()),
            ("authenticated", counters.authenticated_sessions.value()),
            (
                "sessions of the dialect",
                self.process_state.sessions(self.dialect),
            ),
            (
                "sessions of the process",
                self.process_state.sessions_total(),
            ),
            ("connections", self.shard.connection_count() as u64),
        ];
        for (what, count) in left {
            assert_eq!(count, 0, "{what} are left");
        }
    }
}

/// A frame whose mask is zero, so that an input is readable.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..126), _) => frame.push(0x80 | length),
        (_, Ok(length)) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Whom a token proves.
fn identity(token: &str) -> Option<Identity> {
    let mut parts = token.split('/');
    let user = parts.next().filter(|user| !user.is_empty())?;
    let mut list = || {
        let part = parts.next().filter(|part| !part.is_empty());
        part.map(Box::from).into_iter().collect::<Vec<Box<str>>>()
    };
    let (roles, permissions) = (list(), list());
    // An hour after the beginning.
    let mut identity = Identity::new(user).until(1_700_003_600);
    (identity.roles, identity.permissions, identity.tenant) = (roles, permissions, list().pop());
    Some(identity)
        // What has no slash proves nothing.
        .filter(|_| token.contains('/'))
}

impl Client {
    /// Reads what the shard sent.
    fn take(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        if !self.is_upgraded {
            let mut heads = self.received.windows(4);
            let Some(end) = heads.position(|bytes| bytes == b"\r\n\r\n") else {
                return;
            };
            self.is_upgraded = self.received.starts_with(b"HTTP/1.1 101 ");
            if !self.is_upgraded {
                // A rejection; its body is not ours to judge.
                return;
            }
            self.received.drain(..end + 4);
        }
        while self.take_frame() {}
    }

    fn take_frame(&mut self) -> bool {
        let [first, second, rest @ ..] = &*self.received else {
            return false;
        };
        let (length, start) = match (second, rest) {
            (0..126, _) => (usize::from(*second), 2),
            (126, [a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
            (127, [length @ .., _]) if length.len() >= 8 => {
                let length: [u8; 8] = length[..8].try_into().expect("eight bytes");
                (u64::from_be_bytes(length) as usize, 10)
            }
            (126 | 127, _) => return false,
            _ => panic!("a masked frame"),
        };
        assert!(start == 2 || length >= 126, "a length in too many bytes");
        let Some(payload) = self.received.get(start..start + length) else {
            return false;
        };
        assert!(!self.is_closed, "a frame after the close frame");
        match *first {
            0x81 => {
                check_text(payload);
                self.last = (false, payload.to_vec());
            }
            0x82 => {
                check_binary(payload);
                self.last = (true, payload.to_vec());
            }
            0x88 => {
                self.is_closed = true;
                assert!(payload.len() != 1, "half a close code");
                assert!(std::str::from_utf8(payload.get(2..).unwrap_or_default()).is_ok());
            }
            0x89 | 0x8a => assert!(length < 126, "a long control frame"),
            first => panic!("a frame that begins with {first:#x}"),
        }
        self.received.drain(..start + length);
        true
    }
}

/// A binary message of the gateway dialect: a version, a kind, a channel, and as many positions as the kind
/// has.
fn check_binary(payload: &[u8]) {
    let (header, rest) = payload.split_first_chunk().expect("a header");
    let [1, kind @ 2..=4, high, low] = *header else {
        panic!("a binary message that begins with {header:?}");
    };
    let channel_bytes = usize::from(u16::from_be_bytes([high, low]));
    let (channel, rest) = rest.split_at(channel_bytes);
    assert!(std::str::from_utf8(channel).is_ok(), "a channel is text");
    let (positions, _) = rest.split_at(usize::from(kind - 2) * POSITION_BYTES);
    let positions = std::str::from_utf8(positions);
    assert!(
        positions.is_ok_and(|it| !it.contains(' ')),
        "positions are filled in"
    );
}

/// A message: UTF-8, an object, with a type.
fn check_text(payload: &[u8]) {
    let text = std::str::from_utf8(payload).expect("text is UTF-8");
    // Numbers of any size are JSON, and a key may come twice.
    let fields = serde_json::from_str::<HashMap<Cow<'_, str>, IgnoredAny>>(text);
    let fields = fields.unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(fields.contains_key("type"), "no type: {text}");
}

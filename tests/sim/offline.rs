//! Does a user who comes back receive what was published since the last of the user's connections
//! was sent everything?

use crate::client::{frame, request, whole_frame};
use crate::random::Random;
use crate::seeds::seeds;
use crate::shards::{Shards, shards_keeping};
use fanwire::auth::{Grant, issue};
use fanwire::base::counters::CloseReason;
use fanwire::base::{ConnectionId, DialectId, HistoryLimits, HistoryRule, Now, ShardCounters};
use fanwire::config::DialectPolicy;
use fanwire::shard::ConnectionAction;
use std::sync::Arc;

const BEGAN: Now = Now::at(1_000, 1_700_000_000_000);
const SECRET: &[u8] = b"a secret of the simulation, long enough";
const SHARDS: usize = 2;
const STEPS: usize = 3_000;
const CONNECTIONS_MAX: usize = 3;

/// A connection of the user.
struct Connection {
    shard: usize,
    id: ConnectionId,
    unread: Vec<u8>,
    is_upgraded: bool,
    /// The number of the first publication that it is to receive.
    first: u64,
    /// How many it has received.
    count: u64,
}

impl Connection {
    /// Each publication must be the next one.
    fn take(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        if !self.is_upgraded {
            let at = self.unread.windows(4).position(|it| it == b"\r\n\r\n");
            let Some(at) = at else { return };
            self.unread.drain(..at + 4);
            self.is_upgraded = true;
        }
        while let Some((_, payload)) = whole_frame(&self.unread) {
            let frame: Vec<_> = self.unread.drain(..payload.end).collect();
            let text = String::from_utf8_lossy(&frame[payload.start..]).into_owned();
            if let Some(rest) = text.strip_prefix(r#"{"type":"UP","n":"#) {
                let (number, _) = rest.split_once(',').unwrap();
                let expected = self.first + self.count;
                assert_eq!(number, expected.to_string(), "the next is {expected}");
                self.count += 1;
            }
        }
    }
}

struct World {
    random: Random,
    now: Now,
    shards: Shards,
    publisher: ConnectionId,
    /// Numbers are those of the order of the ring: one publisher, on shard 0.
    published: u64,
    /// How many each shard has read.
    read: [u64; SHARDS],
    connections: Vec<Connection>,
    /// How many the user had received on the last connection that ended.
    resume: Option<u64>,
    resumed: usize,
}

impl World {
    fn new(seed: u64, messages_max: u32) -> Self {
        let rule = HistoryRule {
            literal: "prop:".into(),
            is_prefix: true,
            limits: HistoryLimits {
                messages_max,
                bytes_max: 1 << 28,
                age_ms: 0,
            },
        };
        let mut shards = shards_keeping(vec![rule], SECRET, SHARDS, 1 << 24, BEGAN);
        let peer = ([127, 0, 0, 1], 9).into();
        let publisher = shards.shards[0].accept(peer, 0, BEGAN).unwrap();
        shards.shards[0].receive(publisher, &mut request(DialectId::Gateway), BEGAN);
        Self {
            random: Random::new(seed),
            now: BEGAN,
            shards,
            publisher,
            published: 0,
            read: [0; SHARDS],
            connections: Vec::new(),
            resume: None,
            resumed: 0,
        }
    }

    fn connect(&mut self) {
        let shard = self.random.below(SHARDS);
        let token = issue(&Grant::new("ann"), SECRET, 60, self.now).unwrap();
        let upgrade = String::from_utf8(request(DialectId::Monitoring)).unwrap();
        let upgrade = upgrade.replace("/monitoring", &format!("/monitoring?token={token}"));
        let state = &mut self.shards.shards[shard];
        let id = state
            .accept(([127, 0, 0, 1], 9).into(), 0, self.now)
            .unwrap();
        state.receive(id, &mut upgrade.into_bytes(), self.now);
        let subscribe = br#"{"type":"SUBSCRIBE","property_id":"1"}"#;
        state.receive(id, &mut frame(1, subscribe), self.now);
        while state.has_waiting_input() {
            state.continue_input(self.now);
        }
        let first = match self.resume.take() {
            Some(received) if self.connections.is_empty() => {
                self.resumed += 1;
                received
            }
            // The first of all, or one beside others.
            _ => self.read[shard],
        };
        self.connections.push(Connection {
            shard,
            id,
            unread: Vec::new(),
            is_upgraded: false,
            first,
            count: 0,
        });
    }

    fn publish(&mut self) {
        let padding_bytes = self.random.below(300);
        self.publish_padded(padding_bytes);
    }

    fn publish_padded(&mut self, padding_bytes: usize) {
        let number = self.published;
        self.published += 1;
        let padding = "x".repeat(padding_bytes);
        let text = format!(
            r#"{{"type":"publish","data":{{"channel":"prop:1","type":"UP","data":{{"type":"UP","n":{number},"p":"{padding}"}}}}}}"#
        );
        self.shards.shards[0].receive(self.publisher, &mut frame(1, text.as_bytes()), self.now);
    }

    fn sum_of_failures(&self) -> u64 {
        let counters = self.shards.counters.iter();
        let failures = |it: &Arc<ShardCounters>| it.closes.of(CloseReason::RecoveryFailed).value();
        counters.map(failures).sum()
    }

    /// Lets a shard read all, so that it is known what it has read.
    fn drain(&mut self, shard: usize) {
        loop {
            self.shards.shards[shard].drain_ring(self.now);
            if !self.shards.shards[shard].has_unread() {
                break;
            }
            self.flush(shard);
        }
        self.read[shard] = self.published;
    }

    /// Sends what is ready; sockets take all, a part or nothing.
    fn flush(&mut self, shard: usize) {
        while let Some(id) = self.shards.shards[shard].next_ready(&mut { usize::MAX }) {
            let slices = self.shards.shards[shard].begin_send(id, 4);
            let mut bytes = slices.collect::<Vec<_>>().concat();
            let length = bytes.len();
            if self.random.once_in(3) {
                bytes.truncate(self.random.below(length + 1));
            }
            let mut connections = self.connections.iter_mut();
            let connection = connections.find(|it| (it.shard, it.id) == (shard, id));
            if let Some(connection) = connection {
                connection.take(&bytes);
            }
            let state = &mut self.shards.shards[shard];
            state.sent(id, u32::try_from(bytes.len()).unwrap());
            if bytes.len() < length {
                state.would_block(id, self.now);
            }
        }
    }

    /// Lets all shards read and send, so many times.
    fn pass(&mut self, times: usize) {
        for _ in 0..times {
            for shard in 0..SHARDS {
                self.shards.shards[shard].drain_ring(self.now);
                self.unblock();
                self.flush(shard);
            }
        }
    }

    fn unblock(&mut self) {
        for Connection { shard, id, .. } in &self.connections {
            self.shards.shards[*shard].writable(*id);
        }
    }

    fn disconnect(&mut self) {
        let index = self.random.below(self.connections.len());
        let Connection {
            shard,
            id,
            first,
            count,
            ..
        } = self.connections.swap_remove(index);
        let state = &mut self.shards.shards[shard];
        state.abort(id, self.now);
        for action in state.take_actions() {
            if let ConnectionAction::Close(id) | ConnectionAction::Reset(id) = action {
                state.release(id);
            }
        }
        if self.connections.is_empty() {
            self.resume = Some(first + count);
        }
    }
}

#[test]
fn a_user_receives_what_the_last_connection_was_not_sent() {
    for seed in seeds(0..30) {
        let mut world = World::new(seed, 1_000_000);
        for _ in 0..STEPS {
            let shard = world.random.below(SHARDS);
            match world.random.below(12) {
                0..4 => world.publish(),
                4 | 5 => world.drain(shard),
                6 | 7 => world.flush(shard),
                8 => world.unblock(),
                9 | 10 if world.connections.len() < CONNECTIONS_MAX => world.connect(),
                11 if !world.connections.is_empty() => world.disconnect(),
                _ => {}
            }
        }
        assert!(world.resumed > 5, "{}", world.resumed);
        if world.connections.is_empty() {
            world.connect();
        }
        for _ in 0..100_000 {
            for shard in 0..SHARDS {
                world.shards.shards[shard].drain_ring(BEGAN);
                world.unblock();
                world.flush(shard);
            }
            let is_done = |it: &Connection| it.first + it.count == world.published;
            if world.connections.iter().all(is_done) {
                break;
            }
        }
        for connection in &world.connections {
            assert_eq!(connection.first + connection.count, world.published);
        }
    }
}

#[test]
fn a_user_whose_recovery_failed_receives_what_is_kept() {
    let mut world = World::new(1, 20);
    world.connect();
    world.disconnect();
    (0..20).for_each(|_| world.publish_padded(10_000));
    (0..SHARDS).for_each(|shard| world.drain(shard));
    // It is sent a part, all of that, and the rest is not kept any more.
    world.connect();
    let shard = world.connections[0].shard;
    world.shards.shards[shard].drain_ring(BEGAN);
    for _ in 0..20 {
        world.unblock();
        world.flush(shard);
    }
    (0..40).for_each(|_| world.publish_padded(100));
    world.pass(100);
    assert_eq!(world.sum_of_failures(), 1);
    assert!(world.connections[0].count < 20);
    world.disconnect();
    world.resume = Some(40);
    world.connect();
    world.pass(100);
    assert_eq!(world.connections[0].count, 20);
}

#[test]
fn an_offline_queue_begins_with_what_is_kept_when_its_turn_comes() {
    let mut world = World::new(1, 20);
    let id = subscriber(&mut world, 1, Some("ann"));
    close(&mut world, 1, id);
    (0..40).for_each(|_| world.publish());
    (0..SHARDS).for_each(|shard| world.drain(shard));
    let id = subscriber(&mut world, 1, Some("ann"));
    // Between the subscription and its turn some of the oldest give way.
    (0..5).for_each(|_| world.publish());
    let received = read_numbers(&mut world, 1, id);
    assert_eq!(received, (25..45).collect::<Vec<_>>());
    assert_eq!(world.sum_of_failures(), 0);
}

/// What connection `id` is sent: the numbers of the publications, in order.
fn read_numbers(world: &mut World, shard: usize, id: ConnectionId) -> Vec<u64> {
    let now = world.now;
    let state = &mut world.shards.shards[shard];
    let mut text = String::new();
    while state.drain_ring(now) > 0 || state.has_recovering() || state.has_ready() {
        while let Some(ready) = state.next_ready(&mut { usize::MAX }) {
            let bytes = state.begin_send(ready, 64).collect::<Vec<_>>().concat();
            state.sent(ready, u32::try_from(bytes.len()).unwrap());
            if ready == id {
                text += &String::from_utf8_lossy(&bytes);
            }
        }
    }
    let numbers = text.split(r#"{"type":"UP","n":"#).skip(1);
    let number = |rest: &str| rest.split_once(',').unwrap().0.parse().unwrap();
    numbers.map(number).collect()
}

/// A connection of `user`, or of nobody, that is subscribed.
fn subscriber(world: &mut World, shard: usize, user: Option<&str>) -> ConnectionId {
    let now = world.now;
    let state = &mut world.shards.shards[shard];
    let id = state.accept(([127, 0, 0, 1], 9).into(), 0, now).unwrap();
    state.receive(id, &mut request(DialectId::Monitoring), now);
    if let Some(user) = user {
        authenticate(world, shard, id, user);
    }
    let state = &mut world.shards.shards[shard];
    let subscribe = br#"{"type":"SUBSCRIBE","property_id":"1"}"#;
    state.receive(id, &mut frame(1, subscribe), now);
    id
}

fn authenticate(world: &mut World, shard: usize, id: ConnectionId, user: &str) {
    let now = world.now;
    let token = issue(&Grant::new(user), SECRET, 60, now).unwrap();
    let text = format!(r#"{{"type":"AUTHENTICATE","token":"{token}"}}"#);
    world.shards.shards[shard].receive(id, &mut frame(1, text.as_bytes()), now);
}

fn close(world: &mut World, shard: usize, id: ConnectionId) {
    let now = world.now;
    let state = &mut world.shards.shards[shard];
    state.abort(id, now);
    state.take_actions();
    state.release(id);
}

#[test]
fn a_user_who_authenticates_on_a_subscribed_session_receives_what_was_missed() {
    for before in [None, Some("ann")] {
        let mut world = World::new(1, 100);
        let first = subscriber(&mut world, 0, Some("bob"));
        (0..2).for_each(|_| world.publish());
        assert_eq!(read_numbers(&mut world, 0, first), [0, 1]);
        close(&mut world, 0, first);
        (0..2).for_each(|_| world.publish());
        world.drain(1);
        let session = subscriber(&mut world, 1, before);
        assert!(read_numbers(&mut world, 1, session).is_empty());
        world.publish();
        // Nobody has read number 4 yet when the user changes.
        authenticate(&mut world, 1, session, "bob");
        world.publish();
        assert_eq!(read_numbers(&mut world, 1, session), [2, 3, 4, 5]);
        // Once only.
        authenticate(&mut world, 1, session, "bob");
        assert!(read_numbers(&mut world, 1, session).is_empty());
        if before.is_some() {
            let again = subscriber(&mut world, 0, before);
            assert_eq!(read_numbers(&mut world, 0, again), [4, 5]);
        }
    }
}

#[test]
fn what_waits_for_a_session_that_gets_another_user_is_missed_by_the_first() {
    let mut world = World::new(1, 100);
    let session = subscriber(&mut world, 1, Some("ann"));
    assert!(read_numbers(&mut world, 1, session).is_empty());
    (0..3).for_each(|_| world.publish());
    // Queued, and not sent.
    world.shards.shards[1].drain_ring(world.now);
    assert!(world.shards.shards[1].has_ready());
    authenticate(&mut world, 1, session, "bob");
    let again = subscriber(&mut world, 0, Some("ann"));
    assert_eq!(read_numbers(&mut world, 0, again), [0, 1, 2]);
    // Nor is anything lost when that session of hers is closed by the server.
    world.publish();
    world.shards.shards[0].drain_ring(world.now);
    world.shards.shards[0].close_all_sessions(world.now);
    let third = subscriber(&mut world, 1, Some("ann"));
    assert_eq!(read_numbers(&mut world, 1, third), [3]);
    // That session is sent it too: what the process remembers ends with it.
    assert_eq!(read_numbers(&mut world, 0, again), [3]);
}

#[test]
fn what_waits_for_a_client_that_closes_is_sent_once() {
    // With a session of the same user on the other shard, nothing is remembered, so nothing is dropped.
    for is_last in [true, false] {
        let mut world = World::new(1, 100);
        let session = subscriber(&mut world, 0, Some("ann"));
        let other = (!is_last).then(|| subscriber(&mut world, 1, Some("ann")));
        world.drain(1);
        (0..3).for_each(|_| world.publish());
        world.drain(0);
        // The client has read a part of the first frame when it closes.
        let now = world.now;
        let state = &mut world.shards.shards[0];
        let mut text = String::new();
        while let Some(ready) = state.next_ready(&mut { usize::MAX }) {
            let bytes = state.begin_send(ready, 64).collect::<Vec<_>>().concat();
            let first = String::from_utf8_lossy(&bytes).find(r#"{"type":"UP""#);
            let taken = first.map_or(bytes.len(), |at| at + 5);
            text += &String::from_utf8_lossy(&bytes[..taken]);
            state.sent(ready, u32::try_from(taken).unwrap());
            if first.is_some() {
                state.would_block(ready, now);
            }
        }
        state.receive(session, &mut frame(8, &1_000_u16.to_be_bytes()), now);
        state.writable(session);
        while let Some(ready) = state.next_ready(&mut { usize::MAX }) {
            let bytes = state.begin_send(ready, 64).collect::<Vec<_>>().concat();
            text += &String::from_utf8_lossy(&bytes);
            state.sent(ready, u32::try_from(bytes.len()).unwrap());
        }
        let sent = text.matches(r#"{"type":"UP""#).count();
        assert_eq!(sent, if is_last { 1 } else { 3 });
        let again = subscriber(&mut world, 0, Some("ann"));
        let numbers = read_numbers(&mut world, 0, again);
        match other {
            // The frame that the client has read a part of is sent again, since nobody knows whether it
            // was read whole.
            None => assert_eq!(numbers, [0, 1, 2]),
            Some(other) => {
                assert!(numbers.is_empty());
                assert_eq!(read_numbers(&mut world, 1, other), [0, 1, 2]);
            }
        }
    }
}

#[test]
fn the_wall_clock_neither_forgets_a_user_early_nor_keeps_one() {
    const HOUR_MS: u64 = 3_600_000;
    let ttl_ms = DialectPolicy::of(DialectId::Monitoring).offline_queue_ttl.0;
    for jump_ms in [0, 24 * HOUR_MS, HOUR_MS] {
        for is_forward in [false, true] {
            for (away_ms, is_known) in [(ttl_ms - 1_000, true), (ttl_ms, false)] {
                let mut world = World::new(1, 100);
                let first = subscriber(&mut world, 0, Some("ann"));
                world.publish();
                assert_eq!(read_numbers(&mut world, 0, first), [0]);
                let jump = |now: &mut Now| {
                    now.unix_ms = match is_forward {
                        true => now.unix_ms + jump_ms,
                        false => now.unix_ms - jump_ms,
                    };
                };
                jump(&mut world.now);
                close(&mut world, 0, first);
                world.publish();
                jump(&mut world.now);
                world.now.monotonic_ms += away_ms;
                world.drain(0);
                let again = subscriber(&mut world, 0, Some("ann"));
                let missed: &[u64] = if is_known { &[1] } else { &[] };
                let numbers = read_numbers(&mut world, 0, again);
                assert_eq!(numbers, missed, "{jump_ms} {is_forward} {away_ms}");
            }
        }
    }
}

//! Does a client that comes back receive exactly what it missed, in order, and then what follows?
//!
//! Clients lose their connections at random, in the middle of frames too, and come back to any
//! shard, whose reader may be behind the one that they left. What each one received over all its
//! connections is compared with the history of the channel.

use crate::client::{frame, request, whole_frame};
use crate::random::Random;
use crate::seeds::seeds;
use crate::shards::{Shards, shards_keeping};
use fanwire::base::{
    ConnectionId, DialectId, HistoryLimits, HistoryRule, Now, Position, ShardCounters,
};
use fanwire::shard::{ConnectionAction, Shard};
use serde_json::Value;
use std::collections::HashMap;

const BEGAN: Now = Now::at(1_000, 1_700_000_000_000);
const SHARDS: usize = 3;
const CLIENTS: usize = 30;
const CHANNELS: usize = 3;
const STEPS: usize = 6_000;

fn rule(messages_max: u32, age_ms: u64) -> HistoryRule {
    HistoryRule {
        literal: "news:".into(),
        is_prefix: true,
        limits: HistoryLimits {
            messages_max,
            bytes_max: 1 << 24,
            age_ms,
        },
    }
}

/// A client, over all its connections.
#[derive(Default)]
struct Client {
    connection: Option<(usize, ConnectionId)>,
    channel: usize,
    unread: Vec<u8>,
    is_upgraded: bool,
    /// Up to where it has received everything.
    position: Option<Position>,
    began: Option<Position>,
    received: Vec<(Position, u64)>,
    /// The answers to its attempts to recover.
    recovered: Vec<bool>,
    /// Messages of the history that it requested, and whether that was complete.
    histories: Vec<(Vec<u64>, bool)>,
    /// The reasons with which the server closed its connections.
    closes: Vec<String>,
    /// A close frame has just arrived.
    is_closed: bool,
    is_blocked: bool,
    /// Whether it asks for the positions of the publications before.
    wants_previous: bool,
    /// Whether a publication has come on this connection.
    has_received: bool,
}

impl Client {
    fn take(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        if !self.is_upgraded {
            let at = self.unread.windows(4).position(|it| it == b"\r\n\r\n");
            let Some(at) = at else { return };
            self.unread.drain(..at + 4);
            self.is_upgraded = true;
        }
        while let Some((opcode, payload)) = whole_frame(&self.unread) {
            let frame: Vec<_> = self.unread.drain(..payload.end).collect();
            let payload = &frame[payload.start..];
            match opcode {
                1 => self.read(&serde_json::from_slice(payload).unwrap()),
                8 => {
                    self.closes
                        .push(String::from_utf8_lossy(&payload[2..]).into_owned());
                    self.is_closed = true;
                }
                9 => {}
                opcode => panic!("opcode {opcode}"),
            }
        }
    }

    fn read(&mut self, message: &Value) {
        let position = |value: &Value| Position::parse(value.as_str().unwrap()).unwrap();
        let data = &message["data"];
        match message["type"].as_str().unwrap() {
            "subscribed" => {
                let position = position(&data["position"]);
                self.recovered.extend(data["recovered"].as_bool());
                if data["recovered"] != true {
                    self.began.get_or_insert(position);
                }
                self.position = Some(position);
            }
            "m" => {
                let previous = &message["previous"];
                let position = position(&message["position"]);
                assert_eq!(previous.is_string(), self.wants_previous, "{message}");
                if self.wants_previous {
                    // Nothing is lost, so it is what came before on this connection.
                    let previous = Position::parse(previous.as_str().unwrap()).unwrap().offset;
                    let last = self.position.map_or(0, |it| it.offset);
                    let is_right = previous == last || previous < last && !self.has_received;
                    assert!(is_right, "{message} after {last:x}");
                }
                self.has_received = true;
                self.position = Some(position);
                self.received
                    .push((position, data["number"].as_u64().unwrap()));
            }
            "history" => {
                let numbers = data["messages"].as_array().unwrap().iter();
                let numbers = numbers.map(|message| message["data"]["number"].as_u64().unwrap());
                self.histories
                    .push((numbers.collect(), data["complete"].as_bool().unwrap()));
            }
            kind => panic!("{kind}: {message}"),
        }
    }
}

struct World {
    random: Random,
    now: Now,
    shards: Shards,
    clients: Vec<Client>,
    by_connection: HashMap<(usize, ConnectionId), usize>,
    published: u64,
}

impl World {
    fn new(seed: u64, rule: HistoryRule, clients: usize) -> Self {
        Self::with_ring(seed, rule, clients, 1 << 24)
    }

    fn with_ring(seed: u64, rule: HistoryRule, clients: usize, ring_bytes: u32) -> Self {
        let client = |index| Client {
            channel: index % CHANNELS,
            wants_previous: index % 2 == 1,
            ..Client::default()
        };
        Self {
            random: Random::new(seed),
            now: BEGAN,
            shards: shards_keeping(vec![rule], b"unused", SHARDS, ring_bytes, BEGAN),
            clients: (0..clients).map(client).collect(),
            by_connection: HashMap::new(),
            published: 0,
        }
    }

    fn connect(&mut self, client: usize, shard: usize) {
        let state = &mut self.shards.shards[shard];
        let peer = ([127, 0, 0, 1], 9).into();
        let id = state.accept(peer, 0, self.now).unwrap();
        state.receive(id, &mut request(DialectId::Gateway), self.now);
        self.by_connection.insert((shard, id), client);
        let it = &mut self.clients[client];
        it.connection = Some((shard, id));
        it.unread.clear();
        it.is_upgraded = false;
        it.is_blocked = false;
        it.has_received = false;
        let recover = it.position.map_or(String::new(), |position| {
            format!(r#","recover":"{position}""#)
        });
        let channel = it.channel;
        let previous = it.wants_previous;
        self.send(
            client,
            &format!(
                r#"{{"type":"subscribe","data":{{"channel":"news:{channel}","previous":{previous}{recover}}}}}"#
            ),
        );
    }

    fn send(&mut self, client: usize, text: &str) {
        let (shard, id) = self.clients[client].connection.unwrap();
        let state = &mut self.shards.shards[shard];
        state.receive(id, &mut frame(1, text.as_bytes()), self.now);
        while state.has_waiting_input() {
            state.continue_input(self.now);
        }
    }

    fn publish(&mut self, client: usize, channel: usize, padding_bytes: usize) {
        let (number, padding) = (self.published, "x".repeat(padding_bytes));
        self.published += 1;
        self.send(
            client,
            &format!(
                r#"{{"type":"publish","data":{{"channel":"news:{channel}","type":"m","data":{{"number":{number},"p":"{padding}"}}}}}}"#
            ),
        );
    }

    fn disconnect(&mut self, client: usize) {
        if let Some((shard, id)) = self.clients[client].connection.take() {
            self.shards.shards[shard].abort(id, self.now);
            self.carry_out(shard);
        }
    }

    fn carry_out(&mut self, shard: usize) {
        for action in self.shards.shards[shard].take_actions() {
            if let ConnectionAction::Close(id) | ConnectionAction::Reset(id) = action {
                self.shards.shards[shard].release(id);
                if let Some(client) = self.by_connection.remove(&(shard, id)) {
                    let connection = &mut self.clients[client].connection;
                    if *connection == Some((shard, id)) {
                        *connection = None;
                    }
                }
            }
        }
    }

    /// Sends what is ready, all of it or parts.
    fn flush(&mut self, shard: usize, is_whole: bool) {
        while let Some(id) = self.shards.shards[shard].next_ready(&mut { usize::MAX }) {
            let slices = self.shards.shards[shard].begin_send(id, 8);
            let mut bytes = slices.collect::<Vec<_>>().concat();
            let client = self.by_connection.get(&(shard, id)).copied();
            let is_current =
                client.filter(|client| self.clients[*client].connection == Some((shard, id)));
            let length = bytes.len();
            if !is_whole && self.random.once_in(3) {
                bytes.truncate(self.random.below(length + 1));
            }
            if let Some(client) = is_current {
                self.clients[client].take(&bytes);
            }
            let state = &mut self.shards.shards[shard];
            state.sent(id, u32::try_from(bytes.len()).unwrap());
            if bytes.len() < length {
                state.would_block(id, self.now);
                if let Some(client) = is_current {
                    self.clients[client].is_blocked = true;
                }
            }
        }
        self.carry_out(shard);
        for client in 0..self.clients.len() {
            if std::mem::take(&mut self.clients[client].is_closed) {
                self.disconnect(client);
            }
        }
    }

    fn unblock(&mut self) {
        for client in &mut self.clients {
            if let Some((shard, id)) = client.connection
                && std::mem::take(&mut client.is_blocked)
            {
                self.shards.shards[shard].writable(id);
            }
        }
    }

    /// Until nothing is left to read, to recover or to send.
    fn finish(&mut self) {
        loop {
            let mut is_busy = false;
            for shard in 0..SHARDS {
                let state = &mut self.shards.shards[shard];
                state.retry_unsent(self.now);
                is_busy |= state.drain_ring(self.now) > 0 || state.is_congested();
                is_busy |= state.has_ready() || state.has_unread() || state.has_recovering();
                self.unblock();
                self.flush(shard, true);
            }
            if !is_busy {
                return;
            }
        }
    }

    fn run(&mut self) {
        for client in 0..self.clients.len() {
            let shard = self.random.below(SHARDS);
            self.connect(client, shard);
        }
        for _ in 0..STEPS {
            let client = self.random.below(self.clients.len());
            let shard = self.random.below(SHARDS);
            match self.random.below(10) {
                0..4 if self.clients[client].connection.is_some() => {
                    let channel = self.random.below(CHANNELS);
                    // Some need several records.
                    let padding_bytes = match self.random.below(50) {
                        0 => 150_000,
                        _ => self.random.below(400),
                    };
                    self.publish(client, channel, padding_bytes);
                }
                4 => {
                    // Not always to the end.
                    self.shards.shards[shard].drain_ring(self.now);
                }
                5 | 6 => self.flush(shard, false),
                7 => self.unblock(),
                8 => self.disconnect(client),
                _ if self.clients[client].connection.is_none() => self.connect(client, shard),
                _ => {}
            }
            assert!(
                !self.shards.shards[shard].is_congested(),
                "the ring has room"
            );
            if self.random.once_in(50) {
                (0..SHARDS).for_each(|shard| {
                    while self.shards.shards[shard].drain_ring(self.now) > 0 {
                        self.flush(shard, false);
                    }
                });
            }
        }
        // All are there at the end, and live.
        while let Some(client) = self.clients.iter().position(|it| it.connection.is_none()) {
            let shard = self.random.below(SHARDS);
            self.connect(client, shard);
            self.finish();
        }
        for channel in 0..CHANNELS {
            self.publish(0, channel, 10);
        }
        self.finish();
    }

    /// The publications of a channel with their positions, as the history has them.
    fn log(&self, channel: usize) -> Vec<(Position, u64)> {
        let process_state = &self.shards.process_state;
        let tag = process_state.interests.tag(&format!("news:{channel}"));
        let mut log = Vec::new();
        let visit = |offset, content: &[u8]| {
            let text = String::from_utf8_lossy(content);
            let (_, rest) = text.split_once(r#""number":"#).unwrap();
            let (number, _) = rest.split_once(',').unwrap();
            let position = process_state.history.position(offset);
            log.push((position, number.parse().unwrap()));
            true
        };
        let history = &process_state.history;
        let oldest = history.offset_of_newest(tag, (usize::MAX, usize::MAX), u64::MAX, 0);
        history.read(tag, oldest, u64::MAX, 0, visit).unwrap();
        log
    }

    fn sum(&self, of: impl Fn(&ShardCounters) -> u64) -> u64 {
        self.shards
            .counters
            .iter()
            .map(|counters| of(counters))
            .sum()
    }
}

#[test]
fn a_client_that_comes_back_misses_nothing_and_receives_nothing_twice() {
    for seed in seeds(0..15) {
        let mut world = World::new(seed, rule(1_000_000, 0), CLIENTS);
        world.run();
        let logs: Vec<_> = (0..CHANNELS).map(|channel| world.log(channel)).collect();
        let published: usize = logs.iter().map(Vec::len).sum();
        assert_eq!(published as u64, world.published);
        let mut recoveries = 0;
        for client in &world.clients {
            assert!(client.closes.is_empty());
            assert!(client.recovered.iter().all(|it| *it), "all is kept");
            recoveries += client.recovered.len();
            let began = client.began.unwrap();
            let log = logs[client.channel].iter();
            let expected: Vec<_> = log.filter(|(it, _)| it.offset > began.offset).collect();
            assert_eq!(client.received.iter().collect::<Vec<_>>(), expected);
        }
        assert!(recoveries > 100, "{recoveries}");
        assert!(world.sum(|counters| counters.recovered.value()) > 100);
    }
}

#[test]
fn who_was_away_for_too_long_is_told_so_and_receives_what_follows() {
    for seed in seeds(0..15) {
        let mut world = World::new(seed, rule(20, 0), CLIENTS);
        world.run();
        let (mut lost, mut kept) = (0, 0);
        for client in &world.clients {
            let is_known = |reason: &&String| *reason != "recovery_failed";
            assert_eq!(client.closes.iter().find(is_known), None);
            let late = client.recovered.iter().filter(|it| !**it).count();
            lost += late;
            kept += client.recovered.len() - late;
            // Never twice, never out of order.
            let offsets = client.received.iter().map(|(it, _)| it.offset);
            assert!(offsets.is_sorted_by(|a, b| a < b));
            let newest = world.log(client.channel);
            let newest = newest.last().unwrap();
            assert_eq!(
                client.received.last(),
                Some(newest),
                "it is live at the end"
            );
        }
        assert!(lost > 10 && kept > 10, "{lost} {kept}");
        for channel in 0..CHANNELS {
            assert_eq!(world.log(channel).len(), 20);
        }
    }
}

#[test]
fn a_shard_that_is_behind_sends_nothing_again_to_who_missed_too_much() {
    let mut world = World::new(1, rule(2, 0), 2);
    world.clients[1].channel = 0;
    for client in 0..2 {
        world.connect(client, 0);
    }
    let read = |world: &mut World| {
        while world.shards.shards[0].drain_ring(world.now) > 0 {
            world.flush(0, true);
        }
    };
    (0..3).for_each(|_| world.publish(0, 0, 10));
    read(&mut world);
    world.disconnect(1);
    (0..4).for_each(|_| world.publish(0, 0, 10));
    // It has read nothing yet.
    world.connect(1, 1);
    world.finish();
    world.publish(0, 0, 10);
    world.finish();
    let client = &world.clients[1];
    assert_eq!(client.recovered, [false]);
    let numbers = client.received.iter().map(|(_, number)| *number);
    assert_eq!(numbers.collect::<Vec<_>>(), [0, 1, 2, 5, 6, 7]);
}

#[test]
fn a_position_of_another_process_or_of_the_future_recovers_nothing() {
    let mut world = World::new(1, rule(100, 0), 2);
    world.connect(0, 0);
    world.publish(0, 0, 10);
    world.finish();
    for position in [
        "00000008-0000000000000",
        "00000007-fffffffffffff",
        "00000007-0000000100000",
    ] {
        world.clients[1] = Client {
            position: Position::parse(position),
            ..Client::default()
        };
        world.connect(1, 1);
        world.finish();
        let client = &world.clients[1];
        assert_eq!(
            (&client.recovered[..], client.received.len()),
            (&[false][..], 0)
        );
        world.publish(0, 0, 10);
        world.finish();
        assert_eq!(world.clients[1].received.len(), 1, "it is live");
        world.disconnect(1);
    }
}

#[test]
fn what_is_too_old_is_neither_recovered_nor_shown() {
    let mut world = World::new(1, rule(100, 60_000), 2);
    world.connect(0, 0);
    world.connect(1, 1);
    world.finish();
    world.disconnect(1);
    world.publish(0, 0, 10);
    world.now.monotonic_ms += 61_000;
    world.publish(0, 0, 10);
    world.finish();
    let history = r#"{"type":"history","data":{"channel":"news:0"}}"#;
    world.send(0, history);
    world.clients[1].channel = 0;
    world.connect(1, 1);
    world.finish();
    assert_eq!(world.clients[0].histories, [(vec![1], true)]);
    assert_eq!(world.clients[1].recovered, [false]);
    let stats = world.shards.process_state.history.stats();
    assert_eq!((stats.channels, stats.messages), (1, 1));
    for turn in 0..64 {
        let history = &world.shards.process_state.history;
        history.sweep(turn, world.now.monotonic_ms + 61_001);
    }
    let stats = world.shards.process_state.history.stats();
    assert_eq!((stats.channels, stats.messages, stats.bytes), (0, 0, 0));
}

#[test]
fn the_wall_clock_changes_neither_ages_nor_positions() {
    const HOUR_MS: u64 = 3_600_000;
    for change in [
        |unix_ms: u64| unix_ms + HOUR_MS,
        |unix_ms: u64| unix_ms - 24 * HOUR_MS,
    ] {
        let mut world = World::new(1, rule(100, 60_000), 2);
        (0..2).for_each(|client| world.clients[client].channel = 0);
        world.connect(0, 0);
        world.connect(1, 0);
        world.publish(0, 0, 10);
        world.finish();
        world.disconnect(1);
        world.publish(0, 0, 10);
        world.now.unix_ms = change(world.now.unix_ms);
        world.publish(0, 0, 10);
        // Not a moment too early.
        world.now.monotonic_ms += 60_000;
        world.finish();
        world.connect(1, 1);
        world.finish();
        world.disconnect(1);
        world.publish(0, 0, 10);
        world.now.unix_ms = change(world.now.unix_ms);
        world.now.monotonic_ms += 1_000;
        world.shards.shards[0].drain_ring(world.now);
        world.send(0, r#"{"type":"history","data":{"channel":"news:0"}}"#);
        world.connect(1, 1);
        world.finish();
        assert_eq!(
            world.clients[0].histories,
            [(vec![3], true)],
            "not for ever"
        );
        let client = &world.clients[1];
        assert_eq!(client.recovered, [true; 2]);
        let numbers = client.received.iter().map(|(_, number)| *number);
        assert_eq!(numbers.collect::<Vec<_>>(), [0, 1, 2, 3]);
        let offsets = client.received.iter().map(|(it, _)| it.offset);
        assert!(offsets.is_sorted_by(|a, b| a < b));
    }
}

#[test]
fn a_quiet_channel_is_complete_though_others_have_lost_something_since() {
    let mut world = World::new(1, rule(1, 60_000), 2);
    (0..2).for_each(|client| world.clients[client].channel = 0);
    world.connect(0, 0);
    world.connect(1, 0);
    world.publish(0, 0, 10);
    world.finish();
    world.disconnect(1);
    // Later so many others that each part of the table has some, and then none is kept.
    for channel in 1..1_000 {
        (0..2).for_each(|_| world.publish(0, channel, 10));
        world.finish();
    }
    world.now.monotonic_ms += 61_000;
    let history = &world.shards.process_state.history;
    (0..64 * 64).for_each(|turn| history.sweep(turn, world.now.monotonic_ms));
    assert_eq!(history.stats().channels, 0);
    world.connect(1, 1);
    world.finish();
    assert_eq!(world.clients[1].recovered, [true]);
    world.publish(0, 0, 10);
    world.finish();
    assert_eq!(world.clients[1].received.len(), 2);
}

#[test]
fn history_is_read_from_a_position_or_from_the_newest() {
    let mut world = World::new(1, rule(100, 0), 1);
    world.connect(0, 0);
    for _ in 0..10 {
        world.publish(0, 0, 10);
    }
    world.finish();
    let after = world.clients[0].received[3].0;
    for (fields, expected, is_complete) in [
        (String::new(), 0..10, true),
        (r#","limit":3"#.to_owned(), 7..10, true),
        (format!(r#","after":"{after}""#), 4..10, true),
        (format!(r#","after":"{after}","limit":2"#), 4..6, false),
        (
            r#","after":"00000009-0000000000001""#.to_owned(),
            0..10,
            false,
        ),
        (r#","limit":0"#.to_owned(), 0..0, true),
    ] {
        let text = format!(r#"{{"type":"history","data":{{"channel":"news:0"{fields}}}}}"#);
        world.send(0, &text);
        world.finish();
        let found = world.clients[0].histories.pop().unwrap();
        assert_eq!(found, (expected.collect(), is_complete), "{text}");
    }
}

#[test]
fn a_publication_larger_than_an_answer_is_returned_alone() {
    let mut world = World::new(1, rule(100, 0), 1);
    world.connect(0, 0);
    for padding_bytes in [10, 300_000, 300_000, 10] {
        world.publish(0, 0, padding_bytes);
        world.finish();
    }
    let log = world.log(0);
    let after = |index: usize| format!(r#","after":"{}""#, log[index].0);
    for (parameters, expected) in [
        (after(0), (vec![1], false)),
        (after(1), (vec![2], false)),
        (after(2), (vec![3], true)),
        (String::new(), (vec![3], true)),
        (String::from(r#","limit":1"#), (vec![3], true)),
    ] {
        let text = format!(r#"{{"type":"history","data":{{"channel":"news:0"{parameters}}}}}"#);
        world.send(0, &text);
        world.finish();
        assert_eq!(world.clients[0].histories.pop(), Some(expected), "{text}");
    }
    world.publish(0, 0, 300_000);
    world.finish();
    world.send(0, r#"{"type":"history","data":{"channel":"news:0"}}"#);
    world.finish();
    assert_eq!(world.clients[0].histories.pop(), Some((vec![4], true)));
}

/// Three times the ring, twice: its text and its frame.
const LARGE_BYTES: usize = 3 * (SMALL_RING_BYTES as usize);
const SMALL_RING_BYTES: u32 = 1 << 18;

/// A publication of several records, of which shard 1 has passed the first ones without a subscriber
/// when clients 1 to 3 subscribe there: two that were away and recover, and a new one.
fn subscribe_between_fragments(rule: HistoryRule, turns: usize) -> World {
    let mut world = World::with_ring(1, rule, 4, SMALL_RING_BYTES);
    (0..4).for_each(|client| world.clients[client].channel = 0);
    for client in [0, 1, 3] {
        world.connect(client, 0);
    }
    world.publish(0, 0, 10);
    world.finish();
    world.disconnect(1);
    world.disconnect(3);
    world.publish(0, 0, LARGE_BYTES);
    assert!(world.shards.shards[0].is_congested(), "the ring is full");
    for _ in 0..turns {
        world.shards.shards[0].drain_ring(world.now);
        world.flush(0, true);
        (1..SHARDS).for_each(|shard| while world.shards.shards[shard].drain_ring(world.now) > 0 {});
        world.shards.shards[0].retry_unsent(world.now);
    }
    assert!(world.shards.shards[0].is_congested(), "more is to come");
    for client in 1..4 {
        world.connect(client, 1);
    }
    world
}

#[test]
fn who_subscribes_while_a_large_publication_is_written_receives_it() {
    for turns in 1..5 {
        let mut world = subscribe_between_fragments(rule(100, 0), turns);
        world.finish();
        world.publish(0, 0, 10);
        world.finish();
        let log = world.log(0);
        assert_eq!(log.len(), 3);
        for (client, missed) in [(0, 0), (1, 0), (2, 1), (3, 0)] {
            let it = &world.clients[client];
            assert_eq!(it.received, log[missed..], "client {client}, {turns}");
            assert!(it.closes.is_empty() && it.recovered.iter().all(|it| *it));
        }
        let recovered = world.sum(|counters| counters.fragments_recovered.value());
        assert!(recovered >= 2, "{recovered} {turns}");
    }
}

#[test]
fn a_large_publication_that_is_not_kept_is_never_missed_silently() {
    let mut rule = rule(100, 0);
    rule.limits.bytes_max = LARGE_BYTES as u64;
    let mut world = subscribe_between_fragments(rule, 3);
    world.finish();
    for client in 1..4 {
        let it = &world.clients[client];
        assert_eq!(it.closes, ["recovery_failed"], "client {client}");
        assert!(it.received.len() <= 1, "nothing after the gap");
        world.connect(client, 1);
        world.finish();
        assert_eq!(world.clients[client].recovered.last(), Some(&false));
    }
    assert_eq!(
        world.clients[0].received.len(),
        2,
        "it was subscribed before"
    );
}

/// Clients with many channels each, which do not read at first.
#[test]
fn subscribers_that_recover_and_do_not_read_cost_nothing_until_they_do() {
    const CHANNELS: u64 = 1_000;
    const CLIENTS: u64 = 20;
    let Shards {
        mut shards,
        counters,
        ..
    } = shards_keeping(vec![rule(100, 0)], b"unused", 1, 1 << 24, BEGAN);
    let shard = &mut shards[0];
    let connect = |shard: &mut Shard| {
        let id = shard.accept(([127, 0, 0, 1], 9).into(), 0, BEGAN).unwrap();
        shard.receive(id, &mut request(DialectId::Gateway), BEGAN);
        id
    };
    let send = |shard: &mut Shard, id, text: &str| {
        shard.receive(id, &mut frame(1, text.as_bytes()), BEGAN);
        while shard.has_waiting_input() {
            shard.continue_input(BEGAN);
        }
    };
    let publisher = connect(shard);
    let padding = "x".repeat(500);
    for channel in 0..CHANNELS {
        let text = format!(
            r#"{{"type":"publish","data":{{"channel":"news:{channel}","type":"m","data":"{padding}"}}}}"#
        );
        send(shard, publisher, &text);
    }
    while shard.drain_ring(BEGAN) > 0 {}
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect(shard)).collect();
    for id in &clients {
        for channel in 0..CHANNELS {
            // What comes before the answers to all is the replies', not the recovery's.
            while let Some(id) = shard.next_ready(&mut { usize::MAX }) {
                let bytes = shard.begin_send(id, 64).map(<[u8]>::len).sum::<usize>();
                shard.sent(id, u32::try_from(bytes).unwrap());
            }
            let text = format!(
                r#"{{"type":"subscribe","data":{{"channel":"news:{channel}","recover":"00000007-0000000000000"}}}}"#
            );
            send(shard, *id, &text);
        }
    }
    let turns = || counters[0].recovery_turns.value();
    let recovered = || counters[0].recovered.value();
    for _ in 0..CLIENTS * CHANNELS {
        shard.drain_ring(BEGAN);
    }
    let (turns_before, recovered_before) = (turns(), recovered());
    assert!(
        recovered_before < CLIENTS * CHANNELS / 2,
        "they do not read"
    );
    for _ in 0..1_000 {
        shard.drain_ring(BEGAN);
        assert!(!shard.has_recovering() && !shard.awaits_history());
    }
    assert_eq!(turns(), turns_before);
    // One reads, others leave or end subscriptions; the rest costs nothing still.
    send(
        shard,
        clients[1],
        r#"{"type":"unsubscribe","data":{"channel":"news:999"}}"#,
    );
    shard.abort(clients[2], BEGAN);
    while let Some(id) = shard.next_ready(&mut { usize::MAX }) {
        let bytes = shard.begin_send(id, 64).map(<[u8]>::len).sum::<usize>();
        if id == clients[0] {
            shard.sent(id, u32::try_from(bytes).unwrap());
        } else {
            shard.sent(id, 0);
            shard.would_block(id, BEGAN);
        }
        shard.drain_ring(BEGAN);
    }
    let gone = recovered() - recovered_before;
    assert!(gone > CHANNELS / 2, "{gone}");
    assert!(turns() - turns_before < 2 * CHANNELS, "{}", turns());
    for id in &clients {
        shard.writable(*id);
    }
    while shard.has_ready() || shard.has_recovering() {
        while let Some(id) = shard.next_ready(&mut { usize::MAX }) {
            let bytes = shard.begin_send(id, 64).map(<[u8]>::len).sum::<usize>();
            shard.sent(id, u32::try_from(bytes).unwrap());
        }
        shard.drain_ring(BEGAN);
    }
    assert!(
        recovered() >= (CLIENTS - 1) * CHANNELS - 1,
        "{}",
        recovered()
    );
    assert!(recovered() < CLIENTS * CHANNELS);
    assert!(turns() < 3 * CLIENTS * CHANNELS, "{}", turns());
    assert!(!shard.broker().has_recoveries());
}

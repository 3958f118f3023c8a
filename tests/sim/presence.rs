//! Who is on a channel, over three shards, and how many messages it costs to announce it.

use crate::client::{frame, request};
use crate::random::Random;
use crate::seeds::seeds;
use crate::shards::{Shards, shards_present};
use fanwire::auth::{Grant, issue};
use fanwire::base::{ConnectionId, DialectId, Now, PresenceMode};
use fanwire::shard::ConnectionAction;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const SECRET: &[u8] = b"a secret of the simulation, long enough";
const BEGAN: Now = Now::at(1_000, 1_700_000_000_000);
const SHARDS: usize = 3;
const INTERVAL_MS: u64 = 1_000;
const USERS: usize = 12;
const STEPS: usize = 1_200;

struct Connection {
    shard: usize,
    id: ConnectionId,
    user: Option<String>,
    is_subscribed: bool,
    unread: Vec<u8>,
    is_upgraded: bool,
    is_pinged: bool,
    texts: VecDeque<Value>,
}

impl Connection {
    /// The frames of the server are not masked.
    fn take(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        if !self.is_upgraded {
            let end = self
                .unread
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n");
            let Some(end) = end else {
                return;
            };
            self.unread.drain(..end + 4);
            self.is_upgraded = true;
        }
        loop {
            let (start, length) = match self.unread.as_slice() {
                [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
                [_, length @ 0..126, ..] => (2, usize::from(*length)),
                _ => return,
            };
            if self.unread.len() < start + length {
                return;
            }
            let frame: Vec<_> = self.unread.drain(..start + length).collect();
            match frame[0] & 15 {
                1 => {
                    let text = serde_json::from_slice(&frame[start..]).unwrap();
                    self.texts.push_back(text);
                }
                9 => self.is_pinged = true,
                _ => {}
            }
        }
    }
}

struct World {
    random: Random,
    now: Now,
    shards: Shards,
    connections: Vec<Connection>,
    dialect: DialectId,
    channel: &'static str,
}

impl World {
    fn new(seed: u64, dialect: DialectId, channel: &'static str, ring_bytes: u32) -> Self {
        let shards = shards_present(
            SECRET,
            (PresenceMode::Events, INTERVAL_MS),
            SHARDS,
            ring_bytes,
            BEGAN,
        );
        Self {
            random: Random::new(seed),
            now: BEGAN,
            shards,
            connections: Vec::new(),
            dialect,
            channel,
        }
    }

    fn connect(&mut self, user: Option<&str>) -> usize {
        let shard = self.random.below(SHARDS);
        self.connect_to(shard, user)
    }

    fn connect_to(&mut self, shard: usize, user: Option<&str>) -> usize {
        let upgrade = String::from_utf8(request(self.dialect)).unwrap();
        let upgrade = match user {
            Some(user) => {
                let token = issue(&Grant::new(user), SECRET, 100_000, self.now).unwrap();
                upgrade.replacen(" HTTP", &format!("?token={token} HTTP"), 1)
            }
            None => upgrade,
        };
        let state = &mut self.shards.shards[shard];
        let peer = ([127, 0, 0, 1], 9).into();
        let id = state.accept(peer, 0, self.now).unwrap();
        state.receive(id, &mut upgrade.into_bytes(), self.now);
        self.connections.push(Connection {
            shard,
            id,
            user: user.map(str::to_owned),
            is_subscribed: false,
            unread: Vec::new(),
            is_upgraded: false,
            is_pinged: false,
            texts: VecDeque::new(),
        });
        self.connections.len() - 1
    }

    fn send(&mut self, index: usize, text: &str) {
        let Connection { shard, id, .. } = self.connections[index];
        let state = &mut self.shards.shards[shard];
        state.receive(id, &mut frame(1, text.as_bytes()), self.now);
    }

    fn subscribe(&mut self, index: usize, is_subscribed: bool) {
        let text = match (self.dialect, is_subscribed) {
            (DialectId::Assist, true) => r#"{"type":"join_room","room":"R"}"#,
            (DialectId::Assist, false) => r#"{"type":"leave_room","room":"R"}"#,
            (_, true) => r#"{"type":"subscribe","data":{"channel":"R"}}"#,
            (_, false) => r#"{"type":"unsubscribe","data":{"channel":"R"}}"#,
        };
        let name = self.channel.trim_start_matches("room:");
        self.send(index, &text.replace('R', name));
        self.connections[index].is_subscribed = is_subscribed;
    }

    /// Publishes from shard 0, whatever, until the ring is full.
    fn fill_ring(&mut self, publisher: usize) {
        while self.shards.counters[0].ring_full.value() == 0 {
            let text = r#"{"type":"publish","data":{"channel":"x"}}"#;
            self.send(publisher, text);
            self.shards.shards[0].continue_input(self.now);
        }
    }

    /// The client vanishes, or sends its end.
    fn disconnect(&mut self, index: usize) {
        let vanishes = self.random.once_in(2);
        let Connection { shard, id, .. } = self.connections.swap_remove(index);
        let state = &mut self.shards.shards[shard];
        match vanishes {
            true => state.abort(id, self.now),
            false => state.on_eof(id, self.now),
        }
        self.carry_out(shard);
    }

    fn carry_out(&mut self, shard: usize) {
        let state = &mut self.shards.shards[shard];
        for action in state.take_actions() {
            if let ConnectionAction::Close(id) | ConnectionAction::Reset(id) = action {
                state.release(id);
            }
        }
    }

    /// Lets all that was published arrive.
    fn deliver(&mut self) {
        let connections = self.connections.iter().enumerate();
        let indices: BTreeMap<_, _> = connections
            .map(|(index, it)| ((it.shard, it.id.slot()), index))
            .collect();
        let mut is_idle = false;
        while !is_idle {
            is_idle = true;
            for (shard, state) in self.shards.shards.iter_mut().enumerate() {
                state.retry_unsent(self.now);
                is_idle &= state.drain_ring(self.now) == 0 && !state.is_congested();
                state.continue_input(self.now);
                is_idle &= !state.has_waiting_input();
                while let Some(id) = state.next_ready(&mut { usize::MAX }) {
                    is_idle = false;
                    let bytes = state.begin_send(id, 64).collect::<Vec<_>>().concat();
                    state.sent(id, u32::try_from(bytes.len()).unwrap());
                    if let Some(index) = indices.get(&(shard, id.slot())) {
                        self.connections[*index].take(&bytes);
                    }
                }
            }
        }
    }

    fn answer_pings(&mut self) {
        self.deliver();
        for it in &mut self.connections {
            if std::mem::take(&mut it.is_pinged) {
                let state = &mut self.shards.shards[it.shard];
                state.receive(it.id, &mut frame(10, b""), self.now);
            }
        }
    }

    /// So much time passes; the timers of the shards are looked at in any order.
    fn pass(&mut self, passed_ms: u64) {
        self.now.monotonic_ms += passed_ms;
        self.now.unix_ms += passed_ms;
        let first = self.random.below(SHARDS);
        for shard in 0..SHARDS {
            self.expire((first + shard) % SHARDS);
        }
    }

    fn expire(&mut self, shard: usize) {
        self.shards.shards[shard].expire_timers(self.now);
        for (id, query) in self.shards.shards[shard].take_queries() {
            self.shards.shards[shard].unacknowledged(id, query, Some(0), self.now);
        }
        self.carry_out(shard);
    }

    /// Who is there, by the connections themselves.
    fn expected(&self) -> (BTreeMap<&str, u32>, u64) {
        let there = || self.connections.iter().filter(|it| it.is_subscribed);
        let mut users = BTreeMap::new();
        for user in there().filter_map(|it| it.user.as_deref()) {
            *users.entry(user).or_default() += 1;
        }
        (users, there().count() as u64)
    }

    /// Reads the table in pages and compares.
    fn compare(&mut self) {
        let limit = 1 + self.random.below(USERS);
        let (expected, sessions) = self.expected();
        let state = &self.shards.process_state;
        let tag = state.interests.tag(self.channel);
        let mut members = BTreeMap::new();
        let mut after = None::<String>;
        loop {
            let place = (tag, self.channel);
            let page = state.presence.page(place, after.as_deref(), (limit, 1_000));
            assert_eq!(page.counts.sessions, sessions);
            assert_eq!(page.counts.users, expected.len() as u64);
            members.extend(page.members.iter().map(|(user, n)| (user.to_string(), *n)));
            after = members.last_key_value().map(|(user, _)| user.clone());
            if page.is_complete {
                break;
            }
        }
        let members: BTreeMap<_, _> = members.iter().map(|(user, n)| (&**user, *n)).collect();
        assert_eq!(members, expected);
    }
}

/// What a subscriber makes of the events: nobody joins who is there, and nobody leaves who is not.
fn follow(there: &mut BTreeSet<String>, event: &Value) {
    let users = |name: &str| event["data"][name].as_array().unwrap().clone();
    for user in users("left") {
        let user = user.as_str().unwrap();
        assert!(there.remove(user), "{user} leaves twice: {event}");
    }
    for user in users("joined") {
        let user = user.as_str().unwrap().to_owned();
        assert!(there.insert(user), "joins twice: {event}");
    }
    assert_eq!(event["data"]["users"], there.len(), "{event}");
}

#[test]
fn members_and_events_are_those_of_all_shards_whatever_happens() {
    for seed in seeds(0..30) {
        // A ring that is often full, or never.
        let ring_bytes = if seed % 2 == 0 { 1 << 24 } else { 1 << 16 };
        let mut world = World::new(seed, DialectId::Gateway, "news", ring_bytes);
        // It is there all the time, and of whom it is told is to be who is there.
        let watch = world.connect(Some("watch"));
        world.subscribe(watch, true);
        let mut there = BTreeSet::new();
        let (mut events, mut full_times) = (0, 0);
        for step in 0..STEPS {
            let any = 1 + world.random.below(world.connections.len());
            let any = (any < world.connections.len()).then_some(any);
            match (world.random.below(13), any) {
                (0..3, _) if world.connections.len() < 40 => {
                    let number = world.random.below(USERS + 1);
                    let user = format!("u{number}");
                    world.connect((number < USERS).then_some(&*user));
                }
                (3..6, Some(index)) => world.subscribe(index, true),
                (6 | 7, Some(index)) => world.subscribe(index, false),
                (8, Some(index)) => world.disconnect(index),
                (9, Some(index)) => {
                    // It speaks for another user from now on.
                    let user = format!("u{}", world.random.below(USERS));
                    let token = issue(&Grant::new(&user), SECRET, 100_000, world.now).unwrap();
                    world.send(
                        index,
                        &format!(r#"{{"type":"auth","data":{{"token":"{token}"}}}}"#),
                    );
                    world.connections[index].user = Some(user);
                }
                (10, _) => {
                    world.answer_pings();
                    let passed_ms = world.random.below(700) as u64;
                    world.pass(passed_ms);
                }
                (11, Some(index)) => {
                    let data = "x".repeat(5_000);
                    let text = format!(
                        r#"{{"type":"publish","data":{{"channel":"news","data":"{data}"}}}}"#
                    );
                    for _ in 0..14 {
                        world.send(index, &text);
                    }
                }
                _ => {
                    // One shard looks at its timers later than the others.
                    let shard = world.random.below(SHARDS);
                    world.expire(shard);
                }
            }
            let mut shards = world.shards.shards.iter();
            let is_congested = shards.any(|it| it.is_congested() || it.has_waiting_input());
            let full = world.shards.counters.iter();
            full_times = full.map(|counters| counters.ring_full.value()).sum::<u64>();
            // What a client asks behind a publication waits with it.
            if step % 3 == 0 || is_congested && world.random.once_in(2) {
                world.deliver();
            }
            if !is_congested {
                world.compare();
            }
        }
        for _ in 0..3 {
            world.pass(INTERVAL_MS);
            world.deliver();
        }
        for event in std::mem::take(&mut world.connections[0].texts) {
            if event["type"] == "presence_event" {
                events += 1;
                follow(&mut there, &event);
            }
        }
        assert!(events > 10, "{events}");
        assert_eq!(full_times > 0, seed % 2 == 1, "{full_times}");
        let (expected, _) = world.expected();
        let there: Vec<_> = there.iter().map(|user| &**user).collect();
        assert_eq!(there, expected.into_keys().collect::<Vec<_>>());
    }
}

/// What it costs that so many join a room within some seconds, in messages and deliveries of them.
#[test]
fn ten_thousand_who_join_a_room_cost_a_message_per_second_and_subscriber() {
    const JOINS: usize = 10_000;
    const SECONDS: usize = 4;
    let mut world = World::new(1, DialectId::Assist, "room:hall", 1 << 24);
    let connect = |world: &mut World, number| world.connect(Some(&format!("user{number}")));
    (0..JOINS).for_each(|number| {
        connect(&mut world, number);
        if number % 500 == 0 {
            world.deliver();
        }
    });
    world.deliver();
    world.connections.iter_mut().for_each(|it| it.texts.clear());
    let before = world.shards.process_state.presence.stats();
    for step in 0..40 {
        let count = JOINS / 40;
        (step * count..(step + 1) * count).for_each(|index| world.subscribe(index, true));
        world.pass(SECONDS as u64 * 1_000 / 40);
        world.deliver();
    }
    world.pass(INTERVAL_MS);
    world.deliver();
    let stats = world.shards.process_state.presence.stats();
    let (announced, gathered) = (
        stats.announced - before.announced,
        stats.gathered - before.gathered,
    );
    assert!(announced <= SECONDS as u64 + 3, "{announced} announcements");
    assert!(gathered >= JOINS as u64 - 1, "{gathered} changes gathered");
    let (mut answers, mut events, mut named, mut counted) = (0, 0, 0, 0);
    for connection in &world.connections {
        let own = connection.user.as_deref().unwrap();
        let first = &connection.texts[0];
        assert_eq!(
            (&first["event"], &first["user_id"]),
            (&"join".into(), &own.into())
        );
        answers += 1;
        events += connection.texts.len() - 1;
    }
    // The first one was there all the time.
    for event in &world.connections[0].texts {
        assert_eq!(event["event"], "join");
        match event["count"].as_u64() {
            None => counted += 1,
            Some(count) => {
                assert_eq!(event["user_id"], Value::Null);
                named += event["user_ids"].as_array().unwrap().len();
                counted += count;
            }
        }
    }
    assert_eq!((answers, counted), (JOINS, JOINS as u64));
    assert!(named <= 100 * (SECONDS + 2), "{named} named");
    assert!(
        events <= JOINS * (SECONDS + 2),
        "{events} messages to {JOINS}"
    );
    println!("{announced} announcements, {events} deliveries of them, {answers} answers");
}

#[test]
fn who_answers_no_ping_is_not_there_any_more() {
    let mut world = World::new(2, DialectId::Gateway, "news", 1 << 20);
    let policy = world.shards.shards[0]
        .broker()
        .policy()
        .dialect(world.dialect);
    let (ping_ms, pong_ms) = (policy.ping_interval.0, policy.pong_timeout.0);
    let (ann, bob) = (world.connect(Some("ann")), world.connect(Some("bob")));
    for index in [ann, bob] {
        world.subscribe(index, true);
    }
    world.deliver();
    world.compare();
    // Only bob says anything; the kernel of ann acknowledges the ping and no more.
    for _ in 0..ping_ms + pong_ms {
        world.pass(1);
        if world.now.monotonic_ms.is_multiple_of(5_000) {
            world.send(bob, r#"{"type":"ping"}"#);
        }
        world.deliver();
    }
    world.pass(INTERVAL_MS);
    world.connections[ann].is_subscribed = false;
    world.compare();
    world.deliver();
    let texts = world.connections[bob].texts.iter();
    let left = texts.filter(|text| text["data"]["left"] == serde_json::json!(["ann"]));
    assert_eq!(left.count(), 1);
}

#[test]
fn nobody_leaves_before_it_joins_though_the_announcement_waits_for_the_ring() {
    let mut world = World::new(3, DialectId::Gateway, "news", 1 << 16);
    let watch = world.connect_to(2, Some("watch"));
    world.subscribe(watch, true);
    world.deliver();
    (0..2).for_each(|_| world.pass(INTERVAL_MS));
    world.deliver();
    let publisher = world.connect_to(0, None);
    let first = world.connect_to(0, Some("ann"));
    let second = world.connect_to(1, Some("ann"));
    world.fill_ring(publisher);
    // Shard 0 announces her, and its announcement waits. The channel must not be quiet meanwhile, or
    // shard 1 would be the next to announce, and the first to find room.
    world.subscribe(first, true);
    world.subscribe(second, true);
    for _ in 0..3 {
        world.pass(INTERVAL_MS);
    }
    // The one on shard 0 first; the other then has its place in the list.
    assert_eq!((first, second), (2, 3));
    world.disconnect(first);
    world.disconnect(first);
    for shard in world.shards.shards.iter_mut() {
        shard.drain_ring(world.now);
    }
    world.shards.shards[1].retry_unsent(world.now);
    for _ in 0..3 {
        world.deliver();
        world.pass(INTERVAL_MS);
    }
    world.deliver();
    let mut there = BTreeSet::new();
    let texts = std::mem::take(&mut world.connections[watch].texts);
    let events = texts.iter().filter(|it| it["type"] == "presence_event");
    for event in events.clone() {
        follow(&mut there, event);
    }
    assert_eq!(events.count(), 3, "watch joins, ann joins, ann leaves");
    assert_eq!(there, BTreeSet::from(["watch".to_owned()]));
}

//! Does a shard that does not get on harm only its own sessions, and does it learn what it missed?

use crate::client::{Client, Received, frame, request};
use crate::shards::{Shards, shards, shards_keeping};
use fanwire::base::counters::CloseReason;
use fanwire::base::heartbeat::{CONFIRM_MS, STALL_MS};
use fanwire::base::memory::waiting_bytes;
use fanwire::base::{DialectId, HistoryLimits, HistoryRule, Now};
use fanwire::broker::Publication;
use fanwire::shard::Publisher;
use std::sync::Arc;

const BEGAN: Now = Now::at(1_000, 1_700_000_000_000);
/// A shard that began a turn at `BEGAN` and has not ended it is stalled now.
const LATER: Now = Now::at(1_000 + STALL_MS, 1_700_000_000_000 + STALL_MS);
const RING_BYTES: u32 = 64 * 1024;
const CHANNEL: usize = 1;

struct World {
    shards: Shards,
    dialect: DialectId,
    clients: Vec<Client>,
    published: u64,
}

impl World {
    /// Two shards, and on each a client that has subscribed to the channel.
    fn new() -> Self {
        Self::of(shards(2, RING_BYTES, 1 << 20, BEGAN), DialectId::Gateway)
    }

    /// The same with a history of so many publications.
    fn keeping(messages_max: u32) -> Self {
        Self::keeping_channels("prop:", messages_max)
    }

    fn keeping_channels(prefix: &str, messages_max: u32) -> Self {
        let rule = HistoryRule {
            literal: prefix.into(),
            is_prefix: true,
            limits: HistoryLimits {
                messages_max,
                bytes_max: 1 << 24,
                age_ms: 0,
            },
        };
        let shards = shards_keeping(vec![rule], b"unused", 2, RING_BYTES, BEGAN);
        Self::of(shards, DialectId::Monitoring)
    }

    fn of(shards: Shards, dialect: DialectId) -> Self {
        let mut world = Self {
            shards,
            dialect,
            clients: Vec::new(),
            published: 0,
        };
        for shard in 0..2 {
            world.connect(shard, BEGAN);
        }
        world
    }

    fn connect(&mut self, shard: usize, now: Now) {
        let peer = ([127, 0, 0, 1], 9).into();
        let id = self.shards.shards[shard].accept(peer, 0, now).unwrap();
        let mut client = Client::new(shard, id, self.dialect);
        self.shards.shards[shard].receive(id, &mut request(self.dialect), now);
        let mut subscribe = client.subscribe(CHANNEL);
        self.shards.shards[shard].receive(id, &mut subscribe, now);
        self.clients.push(client);
        self.read(shard, now);
    }

    /// The shard reads the ring and sends everything.
    fn read(&mut self, shard: usize, now: Now) {
        let state = &mut self.shards.shards[shard];
        loop {
            let count = state.drain_ring(now);
            while let Some(id) = state.next_ready(&mut { usize::MAX }) {
                let bytes = state.begin_send(id, 64).collect::<Vec<_>>().concat();
                state.sent(id, u32::try_from(bytes.len()).unwrap());
                let mut clients = self.clients.iter_mut();
                let client = clients.find(|client| client.shard == shard && client.id == id);
                client.unwrap().take(&bytes);
            }
            if count == 0 && !state.has_unread() {
                return;
            }
        }
    }

    /// The client of shard 0 publishes; shard 0 reads on.
    fn publish(&mut self, count: u64, now: Now) {
        for _ in 0..count {
            let publication = Received {
                number: self.published,
                channel: CHANNEL,
                padding_bytes: 1_500,
            };
            self.published += 1;
            let mut bytes = self.clients[0].publish(publication);
            let id = self.clients[0].id;
            self.shards.shards[0].receive(id, &mut bytes, now);
            self.read(0, now);
            if self.shards.shards[0].is_congested() {
                // A stalled shard must be seen to be so for a while.
                let confirmed = Now::at(now.monotonic_ms + CONFIRM_MS, now.unix_ms);
                self.shards.shards[0].retry_unsent(confirmed);
                self.read(0, now);
            }
            if self.shards.shards[0].is_congested() {
                return;
            }
        }
    }

    fn closes(&self, shard: usize) -> u64 {
        let counters = &self.shards.counters[shard];
        counters.closes.values().map(|(_, count)| count).sum()
    }

    fn numbers(&self, client: usize) -> Vec<u64> {
        let received = self.clients[client].received.iter();
        received.map(|publication| publication.number).collect()
    }

    fn begin_turn(&self, shard: u16, now: Now) {
        let heartbeats = &self.shards.process_state.heartbeats;
        heartbeats.begin_turn(shard, now.monotonic_ms);
    }
}

#[test]
fn a_stalled_shard_holds_nobody_and_closes_its_own_sessions_when_it_was_lapped() {
    let mut world = World::new();
    world.begin_turn(1, BEGAN);
    world.begin_turn(0, LATER);
    world.publish(500, LATER);
    assert!(
        !world.shards.shards[0].is_congested(),
        "nobody waits for it"
    );
    assert_eq!(world.numbers(0), (0..500).collect::<Vec<_>>());
    assert_eq!(world.closes(0), 0);
    // The shard gets on.
    world.begin_turn(1, LATER);
    world.read(1, LATER);
    let counters = &world.shards.counters[1];
    assert_eq!(counters.ring_lapped.value(), 1);
    assert!(counters.ring_lapped_bytes.value() > 500 * 1_500);
    assert_eq!(counters.closes.of(CloseReason::Stalled).value(), 1);
    let close = world.clients[1].close.as_ref();
    assert_eq!(close, Some(&(1013, "stalled".to_owned())));
    assert!(world.clients[1].received.is_empty(), "it was told of none");
    // A new session has everything from its subscription on.
    world.connect(1, LATER);
    world.publish(15, LATER);
    world.read(1, LATER);
    assert_eq!(world.numbers(2), (500..515).collect::<Vec<_>>());
    assert_eq!(world.numbers(0).len(), 515);
}

#[test]
fn the_sessions_of_a_lapped_shard_recover_what_the_history_has() {
    let mut world = World::keeping(1_000);
    // Another one, so that a subscriber takes the place of one that recovers.
    world.connect(1, BEGAN);
    world.publish(3, BEGAN);
    world.read(1, BEGAN);
    world.begin_turn(1, BEGAN);
    world.begin_turn(0, LATER);
    world.publish(500, LATER);
    world.begin_turn(1, LATER);
    world.read(1, LATER);
    while world.shards.shards[1].has_recovering() {
        world.read(1, LATER);
    }
    let counters = &world.shards.counters[1];
    assert_eq!(counters.ring_lapped.value(), 1);
    assert_eq!(counters.lapped_recovered.value(), 2);
    assert_eq!(world.closes(1), 0);
    world.publish(15, LATER);
    world.read(1, LATER);
    for client in 0..3 {
        assert_eq!(world.numbers(client), (0..518).collect::<Vec<_>>());
    }
}

#[test]
fn the_sessions_of_a_lapped_shard_are_closed_if_the_history_is_too_short() {
    let mut world = World::keeping(100);
    world.begin_turn(1, BEGAN);
    world.begin_turn(0, LATER);
    world.publish(500, LATER);
    world.begin_turn(1, LATER);
    world.read(1, LATER);
    let counters = &world.shards.counters[1];
    assert_eq!(counters.closes.of(CloseReason::Stalled).value(), 1);
    assert!(world.clients[1].received.is_empty(), "it was told of none");
}

#[test]
fn the_sessions_of_a_lapped_shard_are_closed_if_something_without_a_history_is_lost() {
    let mut world = World::keeping(1_000);
    world.begin_turn(1, BEGAN);
    world.begin_turn(0, LATER);
    let shards = &world.shards;
    let state = Arc::clone(&shards.process_state);
    let outside = Publisher::new(&shards.ring, state, Arc::default(), |_, _| {});
    let data = r#"{"type":"m","number":7,"channel":1,"p":""}"#;
    let everyone = Publication::new("all", "m", data);
    outside.publish(&everyone, LATER).unwrap();
    world.publish(500, LATER);
    world.begin_turn(1, LATER);
    world.read(1, LATER);
    let counters = &world.shards.counters[1];
    assert_eq!(counters.closes.of(CloseReason::Stalled).value(), 1);
}

/// A shard that has read the beginning of a publication, or nothing of it, is lapped before its end.
fn lap_within_a_publication(mut world: World, is_begun: bool) -> World {
    world.begin_turn(1, BEGAN);
    world.begin_turn(0, LATER);
    let publication = Received {
        number: 0,
        channel: CHANNEL,
        padding_bytes: 600_000,
    };
    let mut bytes = world.clients[0].publish(publication);
    let publisher = world.clients[0].id;
    world.shards.shards[0].receive(publisher, &mut bytes, LATER);
    if is_begun {
        world.shards.shards[1].drain_ring(BEGAN);
    }
    let confirmed = Now::at(LATER.monotonic_ms + CONFIRM_MS, LATER.unix_ms);
    // Several times the ring, and not all.
    for _ in 0..4 {
        world.read(0, LATER);
        world.shards.shards[0].retry_unsent(confirmed);
    }
    assert!(world.shards.shards[0].is_congested());
    world.begin_turn(1, LATER);
    world.read(1, LATER);
    assert_eq!(world.shards.counters[1].ring_lapped.value(), 1);
    world.published = 1;
    while world.shards.shards[0].is_congested() {
        world.read(0, LATER);
        world.read(1, LATER);
        world.shards.shards[0].retry_unsent(LATER);
        world.shards.shards[0].continue_input(LATER);
    }
    for shard in [0, 1, 1] {
        world.read(shard, LATER);
    }
    assert_eq!(world.numbers(0), [0]);
    world
}

#[test]
fn a_publication_that_ends_after_a_shard_was_lapped_is_recovered_or_closes_the_session() {
    for is_begun in [false, true] {
        let world = lap_within_a_publication(World::keeping(100), is_begun);
        assert_eq!((world.numbers(1), world.closes(1)), (vec![0], 0));
        assert_eq!(world.shards.counters[1].fragments_recovered.value(), 1);
        // A history of other channels only.
        let world = lap_within_a_publication(World::keeping_channels("other:", 100), is_begun);
        assert_eq!(world.numbers(1), [0; 0]);
        let closes = &world.shards.counters[1].closes;
        assert_eq!(closes.of(CloseReason::Stalled).value(), 1, "{is_begun}");
    }
}

#[test]
fn subscriptions_of_one_session_to_the_same_channel_recover_together() {
    let mut world = World::keeping_channels("stream:", 1_000);
    let peer = ([127, 0, 0, 1], 9).into();
    let shard = &mut world.shards.shards[1];
    let id = shard.accept(peer, 0, BEGAN).unwrap();
    shard.receive(id, &mut request(DialectId::Analytics), BEGAN);
    let subscribe = br#"{"type":"subscribe","data":{"type":"events"}}"#;
    for _ in 0..3 {
        shard.receive(id, &mut frame(1, subscribe), BEGAN);
    }
    let read = |world: &mut World| {
        let shard = &mut world.shards.shards[1];
        let mut text = String::new();
        while shard.drain_ring(LATER) > 0 || shard.has_recovering() || shard.has_ready() {
            while let Some(id) = shard.next_ready(&mut { usize::MAX }) {
                let bytes = shard.begin_send(id, 64).collect::<Vec<_>>().concat();
                shard.sent(id, u32::try_from(bytes.len()).unwrap());
                text += &String::from_utf8_lossy(&bytes);
            }
        }
        text
    };
    read(&mut world);
    world.begin_turn(1, BEGAN);
    world.begin_turn(0, LATER);
    let state = Arc::clone(&world.shards.process_state);
    let outside = Publisher::new(&world.shards.ring, state, Arc::default(), |_, _| {});
    let event = Publication::new("stream:events", "m", r#"{"missed":1}"#);
    outside.publish(&event, LATER).unwrap();
    world.publish(500, LATER);
    world.begin_turn(1, LATER);
    let text = read(&mut world);
    assert_eq!(text.matches(r#""missed":1"#).count(), 3, "{text}");
    assert_eq!(world.shards.counters[1].lapped_recovered.value(), 3);
    assert_eq!(world.shards.counters[1].ring_lapped.value(), 1);
}

#[test]
fn a_stalled_shard_that_was_not_lapped_has_everything() {
    let mut world = World::new();
    world.begin_turn(1, BEGAN);
    world.publish(10, LATER);
    world.read(1, LATER);
    assert_eq!(world.numbers(1), (0..10).collect::<Vec<_>>());
    assert_eq!(world.closes(0) + world.closes(1), 0);
}

#[test]
fn a_shard_that_is_only_slow_is_waited_for() {
    let mut world = World::new();
    world.begin_turn(1, LATER);
    let just_before = Now::at(
        LATER.monotonic_ms + STALL_MS - CONFIRM_MS - 1,
        LATER.unix_ms,
    );
    world.publish(500, just_before);
    assert!(world.shards.shards[0].is_congested());
    let published = world.published;
    world.read(1, just_before);
    world.shards.shards[0].retry_unsent(just_before);
    assert!(!world.shards.shards[0].is_congested());
    world.read(0, just_before);
    world.read(1, just_before);
    for client in 0..2 {
        assert_eq!(world.numbers(client), (0..published).collect::<Vec<_>>());
    }
}

#[test]
fn only_shards_that_want_a_publication_are_woken_and_no_sleeper_fills_the_ring() {
    let mut world = World::new();
    assert!(world.shards.shards[1].park());
    let mut woken = Vec::new();
    world.publish(1, BEGAN);
    world.shards.shards[0].wake_peers(|shard| woken.push(shard));
    assert_eq!(woken, [1], "its subscriber wants it");
    world.shards.shards[1].unpark();
    world.read(1, BEGAN);
    let unsubscribe = world.clients[1].unsubscribe(CHANNEL);
    let id = world.clients[1].id;
    world.shards.shards[1].receive(id, &mut { unsubscribe }, BEGAN);
    world.read(1, BEGAN);
    assert!(world.shards.shards[1].park());
    woken.clear();
    for _ in 0..2_000 {
        world.publish(1, BEGAN);
        assert!(!world.shards.shards[0].is_congested());
        world.shards.shards[0].wake_peers(|shard| woken.push(shard));
        if !woken.is_empty() {
            break;
        }
    }
    assert_eq!(woken, [1], "so that its position holds nobody");
    let part = u64::from(RING_BYTES) / 8;
    assert!(world.shards.ring.depth_bytes() <= part + 4_096);
    world.shards.shards[1].unpark();
    world.read(1, BEGAN);
    assert_eq!(world.shards.ring.depth_bytes(), 0);
    assert_eq!(world.numbers(1), [0]);
}

#[test]
fn a_shard_without_subscribers_sleeps_through_any_number_of_publications() {
    let mut world = World::new();
    let id = world.clients[1].id;
    world.shards.shards[1].abort(id, BEGAN);
    assert!(world.shards.shards[1].park());
    for _ in 0..500 {
        world.publish(1, BEGAN);
        assert!(!world.shards.shards[0].is_congested());
        world.shards.shards[0].wake_peers(|shard| panic!("shard {shard} wants nothing"));
    }
    world.shards.shards[1].unpark();
    world.connect(1, BEGAN);
    world.publish(3, BEGAN);
    world.read(1, BEGAN);
    assert_eq!(world.numbers(2), [500, 501, 502]);
}

#[test]
fn after_a_pause_of_the_whole_process_nobody_is_done_without() {
    let mut world = World::new();
    world.begin_turn(1, BEGAN);
    // The first shard to get on finds the ring full and the other one seemingly stalled.
    for number in 0..500 {
        let bytes = world.clients[0].publish(Received {
            number,
            channel: CHANNEL,
            padding_bytes: 1_500,
        });
        let id = world.clients[0].id;
        world.shards.shards[0].receive(id, &mut { bytes }, LATER);
        world.read(0, LATER);
        if world.shards.shards[0].is_congested() {
            break;
        }
    }
    world.shards.shards[0].retry_unsent(LATER);
    assert!(world.shards.shards[0].is_congested(), "it waits");
    // The other one gets on as well.
    world.begin_turn(1, LATER);
    world.read(1, LATER);
    world.shards.shards[0].retry_unsent(LATER);
    assert!(!world.shards.shards[0].is_congested());
    assert_eq!(world.shards.counters[1].ring_lapped.value(), 0);
    assert_eq!(world.closes(1), 0);
}

#[test]
fn subscribers_that_come_and_go_between_fragments_get_whole_publications_and_leave_nothing() {
    let before = waiting_bytes();
    let mut world = World::new();
    let id = world.clients[1].id;
    let mut is_subscribed = true;
    // Each is larger than the ring, so it is read in parts.
    for number in 0..20 {
        let publication = Received {
            number,
            channel: CHANNEL,
            padding_bytes: 200_000,
        };
        let mut bytes = world.clients[0].publish(publication);
        let publisher = world.clients[0].id;
        world.shards.shards[0].receive(publisher, &mut bytes, BEGAN);
        for _ in 0..13 {
            world.shards.shards[0].retry_unsent(BEGAN);
            world.shards.shards[0].continue_input(BEGAN);
            world.read(0, BEGAN);
            world.shards.shards[1].drain_ring(BEGAN);
            let mut change = if is_subscribed {
                world.clients[1].unsubscribe(CHANNEL)
            } else {
                world.clients[1].subscribe(CHANNEL)
            };
            is_subscribed = !is_subscribed;
            world.shards.shards[1].receive(id, &mut change, BEGAN);
        }
        world.read(1, BEGAN);
    }
    let numbers = world.numbers(1);
    assert!(numbers.is_sorted() && !numbers.is_empty(), "{numbers:?}");
    let malformed = &world.shards.counters[1].ring_malformed;
    assert_eq!(malformed.value(), 0);
    drop(world);
    assert_eq!(waiting_bytes(), before);
}

#[test]
fn a_record_that_is_claimed_and_not_written_holds_the_shards_until_it_is_retired() {
    let mut world = World::new();
    let ring = world.shards.ring.clone();
    let writer = ring.writer();
    let mut retirer = ring.retirer().unwrap();
    // In the place of a shard that loses its core between claim and commit.
    let grant = writer.try_reserve(0, 1_000).unwrap();
    for shard in 0..2 {
        world.begin_turn(shard, BEGAN);
    }
    let received = |world: &World| [0, 1].map(|client| world.numbers(client).len() as u64);
    // Until the ring is full.
    world.publish(100, BEGAN);
    assert!(world.shards.shards[0].is_congested());
    assert_eq!(received(&world), [0, 0]);
    for _ in 0..3 {
        retirer.look();
    }
    let now = LATER;
    for shard in 0..2 {
        world.begin_turn(shard, now);
        world.read(usize::from(shard), now);
    }
    world.shards.shards[0].retry_unsent(now);
    // Several laps over what the late writer may still write.
    for _ in 0..20 {
        for shard in 0..2 {
            world.read(shard, now);
        }
        world.publish(10, now);
    }
    for shard in 0..2 {
        world.read(shard, now);
    }
    assert!(world.published > 200);
    assert_eq!(received(&world), [world.published; 2]);
    assert!(grant.commit().is_err());
    for client in 0..2 {
        let numbers = world.numbers(client);
        assert!(numbers.is_sorted(), "in order");
    }
    assert_eq!((world.closes(0), world.closes(1)), (0, 0));
}

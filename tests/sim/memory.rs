//! Does the budget for what waits hold, and at whose cost?

use crate::client::{Client, frame, request};
use fanwire::auth::Verifier;
use fanwire::base::memory::waiting_bytes;
use fanwire::base::{DialectId, Now, ProcessState, ShardCounters};
use fanwire::config::{AccessRule, DialectPolicy, Policy};
use fanwire::shard::{Shard, ShardParts};
use fanwire_ring::{Ring, RingConfig};
use std::sync::Arc;

const NOW: Now = Now::at(1_000, 1_700_000_000_000);
const BUDGET_BYTES: u64 = 8 << 20;
const LARGE_BYTES: usize = 800_000;

struct World {
    shard: Shard,
    counters: Arc<ShardCounters>,
    clients: Vec<Client>,
}

impl World {
    fn new(clients: usize) -> Self {
        let config = RingConfig {
            capacity_bytes: 16 << 20,
            readers_max: 1,
        };
        let ring = Ring::new(config).unwrap();
        let policy = Policy {
            dialects: DialectId::ALL.map(|dialect| DialectPolicy::of(dialect).permissive()),
            publish_rules: AccessRule::open_dialect_channels().into(),
            ..Policy::default()
        };
        let counters = Arc::<ShardCounters>::default();
        let parts = ShardParts {
            index: 0,
            connections_max: 1_000,
            policy: Arc::new(policy),
            verifier: Verifier::default(),
            process_state: Arc::new(ProcessState::new(1, BUDGET_BYTES)),
            quotas: Arc::default(),
            hooks: Arc::default(),
            counters: Arc::clone(&counters),
            reader: ring.reader().unwrap(),
            ring,
        };
        let mut world = Self {
            shard: Shard::new(parts, NOW),
            counters,
            clients: Vec::new(),
        };
        for index in 0..clients {
            let peer = ([127, 0, 0, 1], 9).into();
            let id = world.shard.accept(peer, 0, NOW).unwrap();
            world.clients.push(Client::new(0, id, DialectId::Gateway));
            world.receive(index, request(DialectId::Gateway));
            world.turn();
        }
        world
    }

    fn receive(&mut self, client: usize, mut bytes: Vec<u8>) {
        self.shard.receive(self.clients[client].id, &mut bytes, NOW);
    }

    /// A turn, and sends to all clients whose sockets take bytes.
    fn turn(&mut self) {
        self.shard.continue_input(NOW);
        self.shard.drain_ring(NOW);
        for (id, query) in self.shard.take_queries() {
            self.shard.unacknowledged(id, query, None, NOW);
        }
        while let Some(id) = self.shard.next_ready(&mut { usize::MAX }) {
            let bytes = self.shard.begin_send(id, 64).collect::<Vec<_>>().concat();
            let mut clients = self.clients.iter_mut();
            let client = clients.find(|client| client.id == id).unwrap();
            if client.is_blocked {
                self.shard.sent(id, 0);
                self.shard.would_block(id, NOW);
            } else {
                self.shard.sent(id, u32::try_from(bytes.len()).unwrap());
                client.take(&bytes);
            }
        }
    }

    fn closes(&self, reason: &str) -> u64 {
        let mut values = self.counters.closes.values();
        values.find(|(name, _)| *name == reason).unwrap().1
    }
}

#[test]
fn unfinished_messages_stay_within_the_budget_and_small_ones_go_on() {
    let before = waiting_bytes();
    let mut world = World::new(40);
    let message = frame(1, &vec![b' '; LARGE_BYTES + 1_000]);
    for client in 0..39 {
        for piece in message[..LARGE_BYTES].chunks(4_096) {
            world.receive(client, piece.to_vec());
        }
        world.turn();
        // A doubling vector takes twice the bytes at most, and it is known a turn later.
        let waiting = waiting_bytes() - before;
        assert!(waiting < BUDGET_BYTES + 4 * LARGE_BYTES as u64, "{waiting}");
    }
    assert!(world.closes("memory") >= 25, "{}", world.closes("memory"));
    assert!(world.closes("memory") < 39, "the first ones fitted");
    world.receive(39, frame(9, b"?"));
    world.turn();
    assert_eq!(world.clients[39].pongs, [b"?".to_vec()]);
}

#[test]
fn while_memory_is_short_who_reads_nothing_is_cut_and_who_reads_stays() {
    let before = waiting_bytes();
    let mut world = World::new(3);
    for client in 0..2 {
        let subscribe = world.clients[client].subscribe(1);
        world.receive(client, subscribe);
        world.turn();
    }
    world.clients[0].is_blocked = true;
    // More than the budget waits elsewhere.
    let other = fanwire::base::memory::Waiting::of(usize::try_from(BUDGET_BYTES).unwrap() + 1);
    for number in 0..5 {
        let publication = crate::client::Received {
            number,
            channel: 1,
            padding_bytes: 50_000,
        };
        let bytes = world.clients[2].publish(publication);
        for piece in bytes.chunks(4_096) {
            world.receive(2, piece.to_vec());
        }
        while world.shard.has_waiting_input() {
            world.turn();
        }
        world.turn();
    }
    assert_eq!(world.closes("slow_consumer"), 1);
    assert!(world.shard.describe(world.clients[0].id, NOW).is_none());
    assert_eq!(world.clients[1].received.len(), 5);
    drop(other);
    drop(world);
    assert_eq!(waiting_bytes(), before, "all of it is given back");
}

#[test]
fn filters_count_and_new_ones_are_rejected_while_memory_is_short() {
    let before = waiting_bytes();
    let mut world = World::new(1);
    let id = world
        .shard
        .accept(([127, 0, 0, 1], 9).into(), 0, NOW)
        .unwrap();
    let send = |world: &mut World, bytes: Vec<u8>| {
        let mut bytes = bytes;
        world.shard.receive(id, &mut bytes, NOW);
        world.shard.continue_input(NOW);
        while world.shard.next_ready(&mut { usize::MAX }).is_some() {
            let sent = world
                .shard
                .begin_send(id, 64)
                .map(<[u8]>::len)
                .sum::<usize>();
            world.shard.sent(id, u32::try_from(sent).unwrap());
        }
        world
            .counters
            .message_errors
            .values()
            .find(|(name, _)| *name == "subscriptions")
            .unwrap()
            .1
    };
    let filter = |value: u32| {
        let filter = format!(r#"{{"name":"{value:01000}"}}"#);
        let data = format!(r#"{{"type":"events","filters":{filter}}}"#);
        let text = format!(r#"{{"type":"subscribe","data":{data}}}"#);
        frame(1, text.as_bytes())
    };
    send(&mut world, request(DialectId::Analytics));
    for value in 0..10 {
        assert_eq!(send(&mut world, filter(value)), 0);
    }
    let waiting = waiting_bytes() - before;
    assert!((80_000..200_000).contains(&waiting), "{waiting}");
    let other = fanwire::base::memory::Waiting::of(usize::try_from(BUDGET_BYTES).unwrap());
    assert_eq!(send(&mut world, frame(9, b"")), 0);
    assert_eq!(send(&mut world, filter(10)), 1);
    drop(other);
    assert_eq!(send(&mut world, frame(9, b"")), 1);
    assert_eq!(send(&mut world, filter(11)), 1);
    drop(world);
    assert_eq!(waiting_bytes(), before, "all of it is given back");
}

#[test]
fn publications_that_wait_for_the_ring_count() {
    let before = waiting_bytes();
    let mut world = World::new(1);
    let subscribe = world.clients[0].subscribe(1);
    world.receive(0, subscribe);
    for number in 0.. {
        let publication = crate::client::Received {
            number,
            channel: 1,
            padding_bytes: 50_000,
        };
        let bytes = world.clients[0].publish(publication);
        for piece in bytes.chunks(4_096) {
            world.receive(0, piece.to_vec());
        }
        while world.shard.has_waiting_input() {
            world.shard.continue_input(NOW);
        }
        if world.shard.is_congested() {
            break;
        }
    }
    let waiting = waiting_bytes() - before;
    assert!((50_000..1_000_000).contains(&waiting), "{waiting}");
    while world.shard.is_congested() {
        world.turn();
        world.shard.retry_unsent(NOW);
    }
    world.turn();
    drop(world);
    assert_eq!(waiting_bytes(), before);
}

//! Does a shard ever read faster than it sends?

use crate::client::{Client, Received, request};
use fanwire::auth::Verifier;
use fanwire::base::{DialectId, Now, ShardCounters};
use fanwire::config::{AccessRule, DialectPolicy, Policy};
use fanwire::shard::{Shard, ShardParts};
use fanwire_ring::{Ring, RingConfig};
use std::sync::Arc;

const NOW: Now = Now::at(1_000, 1_700_000_000_000);
const SUBSCRIBERS: usize = 600;
const PUBLICATIONS: u64 = 1_500;
/// Sends of one turn, fewer than there are subscribers.
const SENDS_PER_TURN: usize = 256;

#[test]
fn subscribers_that_take_everything_survive_a_ring_full_of_publications() {
    let config = RingConfig {
        capacity_bytes: 16 << 20,
        readers_max: 1,
    };
    let ring = Ring::new(config).unwrap();
    let policy = Policy {
        dialects: DialectId::ALL.map(|dialect| DialectPolicy::of(dialect).permissive()),
        publish_rules: AccessRule::open_dialect_channels().into(),
        send_queue_bytes_max: 64 * 1024,
        ..Policy::default()
    };
    let counters = Arc::<ShardCounters>::default();
    let parts = ShardParts {
        index: 0,
        connections_max: 1_000,
        policy: Arc::new(policy),
        verifier: Verifier::default(),
        process_state: Arc::default(),
        quotas: Arc::default(),
        hooks: Arc::default(),
        counters: Arc::clone(&counters),
        reader: ring.reader().unwrap(),
        ring,
    };
    let mut shard = Shard::new(parts, NOW);
    let mut clients = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let id = shard.accept(([127, 0, 0, 1], 9).into(), 0, NOW).unwrap();
        let mut client = Client::new(0, id, DialectId::Gateway);
        shard.receive(id, &mut request(DialectId::Gateway), NOW);
        shard.receive(id, &mut client.subscribe(1), NOW);
        clients.push(client);
    }
    // Four megabytes, all published before the shard reads on: as after a pause of its machine.
    let all: Vec<_> = (0..PUBLICATIONS)
        .map(|number| Received {
            number,
            channel: 1,
            padding_bytes: 3_000,
        })
        .collect();
    for publication in &all {
        let mut bytes = clients[0].publish(*publication);
        shard.receive(clients[0].id, &mut bytes, NOW);
    }
    assert!(!shard.is_congested(), "the ring was to hold all of them");
    while shard.has_unread() || shard.has_ready() {
        shard.drain_ring(NOW);
        for _ in 0..SENDS_PER_TURN {
            let Some(id) = shard.next_ready(&mut { usize::MAX }) else {
                break;
            };
            let bytes = shard.begin_send(id, 64).collect::<Vec<_>>().concat();
            shard.sent(id, u32::try_from(bytes.len()).unwrap());
            clients[id.slot() as usize].take(&bytes);
        }
    }
    assert!(clients.iter().all(|client| client.received == all));
    assert_eq!(
        counters
            .closes
            .values()
            .map(|(_, count)| count)
            .sum::<u64>(),
        0
    );
}

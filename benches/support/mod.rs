//! A shard with subscribers and no kernel below it.

use fanwire::auth::Verifier;
use fanwire::base::{ConnectionId, DialectId, Now, ProcessState, ShardCounters};
use fanwire::config::{AccessRule, DialectPolicy, Policy};
use fanwire::shard::{Shard, ShardParts};
use fanwire::ws::Opcode;
use fanwire::ws::frame::{server_header, unmask};
use fanwire_ring::{Ring, RingConfig};
use std::sync::Arc;

pub(crate) const NOW: Now = Now::at(1_000, 1_700_000_000_000);

#[allow(dead_code, reason = "one bench has a ring of its own")]
pub(crate) fn shard() -> Shard {
    let config = RingConfig {
        capacity_bytes: 8 << 20,
        readers_max: 1,
    };
    let ring = Ring::new(config).expect("the configuration is valid");
    shard_on(ring, Arc::default(), Verifier::default())
}

/// A shard that is the one reader of a ring.
pub(crate) fn shard_on(ring: Ring, process_state: Arc<ProcessState>, verifier: Verifier) -> Shard {
    let policy = Policy {
        dialects: DialectId::ALL.map(|dialect| DialectPolicy::of(dialect).permissive()),
        publish_rules: AccessRule::open_dialect_channels().into(),
        ..Policy::default()
    };
    let parts = ShardParts {
        index: 0,
        connections_max: 20_000,
        policy: Arc::new(policy),
        verifier,
        process_state,
        quotas: Arc::default(),
        hooks: Arc::default(),
        counters: Arc::<ShardCounters>::default(),
        reader: ring.reader().expect("the ring has a reader's place"),
        ring,
    };
    Shard::new(parts, NOW)
}

/// A session of the gateway dialect.
pub(crate) fn connect(shard: &mut Shard) -> ConnectionId {
    connect_at(shard, "/ws")
}

/// A session of the dialect that is spoken at `path`.
pub(crate) fn connect_at(shard: &mut Shard, path: &str) -> ConnectionId {
    let peer = ([127, 0, 0, 1], 9).into();
    let id = shard.accept(peer, 0, NOW).expect("the shard has room");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    shard.receive(id, &mut request.into_bytes(), NOW);
    id
}

/// A text frame as a client sends it.
pub(crate) fn masked(text: &str) -> Vec<u8> {
    let mask = [7, 8, 9, 10];
    let (header, header_bytes) = server_header(Opcode::Text, text.len());
    let mut frame = header[..header_bytes].to_vec();
    frame[1] |= 0x80;
    frame.extend(mask);
    let mut payload = text.as_bytes().to_vec();
    unmask(&mut payload, mask, 0);
    frame.extend(payload);
    frame
}

/// "Sends" all that waits to sockets that take everything; returns the bytes.
pub(crate) fn flush(shard: &mut Shard) -> usize {
    let mut total = 0;
    while let Some(id) = shard.next_ready(&mut { usize::MAX }) {
        let bytes: usize = shard.begin_send(id, 64).map(<[u8]>::len).sum();
        shard.sent(id, u32::try_from(bytes).expect("send queues are small"));
        total += bytes;
    }
    total
}

/// Measures deliveries of `publish` to `subscribers`, one publication at a time and 64 at once.
#[allow(dead_code, reason = "not every bench delivers")]
pub(crate) fn measure_deliveries(
    criterion: &mut criterion::Criterion,
    name: &str,
    shard: &mut Shard,
    publish: &[u8],
    subscribers: u64,
) {
    let publisher = connect(shard);
    flush(shard);
    let mut group = criterion.benchmark_group(name);
    for count in [1, 64] {
        group.throughput(criterion::Throughput::Elements(subscribers * count));
        group.bench_function(format!("{count}_publications"), |bencher| {
            bencher.iter(|| {
                for _ in 0..count {
                    shard.receive(publisher, &mut publish.to_vec(), NOW);
                }
                let mut bytes = 0;
                while shard.has_unread() {
                    shard.drain_ring(NOW);
                    bytes += flush(shard);
                }
                std::hint::black_box(bytes)
            });
        });
    }
    group.finish();
}

//! Does the cost of a publication grow with those who receive it, not with those who could? 10,000
//! sessions of one shard are subscribed to a channel; a publication is for one user, for a role that
//! 100 have, for a permission that 1,000 have, or for all.

mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanwire::auth::{Identity, Verifier};
use fanwire::base::ProcessState;
use fanwire::broker::{BroadcastTarget, Publication};
use fanwire::shard::{Publisher, Shard};
use fanwire_ring::{Ring, RingConfig};
use std::sync::Arc;
use support::{NOW, connect_at, flush, masked, shard_on};

const SESSIONS: u32 = 10_000;

/// A token is the number of its user.
fn identity_of(token: &str) -> Option<Identity> {
    let number: u32 = token.parse().ok()?;
    let identity = Identity::new(&format!("user-{number}"));
    let identity = identity.with_role(&format!("role-{}", number % 100));
    Some(identity.with_permission(&format!("permission-{}", number % 10)))
}

fn targets(criterion: &mut Criterion) {
    let config = RingConfig {
        capacity_bytes: 8 << 20,
        readers_max: 1,
    };
    let ring = Ring::new(config).expect("the configuration is valid");
    let process_state = Arc::<ProcessState>::default();
    let publisher = Publisher::new(&ring, Arc::clone(&process_state), Arc::default(), |_, _| {});
    let verifier = Verifier::default().with_check(Arc::new(identity_of));
    let mut shard = shard_on(ring, process_state, verifier);
    let subscribe = masked(r#"{"type":"subscribe","data":{"channel":"news"}}"#);
    for number in 0..SESSIONS {
        let id = connect_at(&mut shard, &format!("/ws?token={number}"));
        shard.receive(id, &mut subscribe.clone(), NOW);
        flush(&mut shard);
    }
    let data = format!("\"{}\"", "x".repeat(200));
    let deliver = |shard: &mut Shard, target| {
        let publication = Publication::new("news", "m", &data);
        let publication = Publication {
            target,
            ..publication
        };
        publisher
            .publish(&publication, NOW)
            .expect("the ring has room");
        while shard.has_unread() {
            shard.drain_ring(NOW);
        }
        flush(shard)
    };
    let one = deliver(&mut shard, BroadcastTarget::User("user-7"));
    let mut group = criterion.benchmark_group("targets");
    for (name, target, receivers) in [
        ("user", BroadcastTarget::User("user-7"), 1),
        ("role", BroadcastTarget::Role("role-7"), 100),
        (
            "permission",
            BroadcastTarget::Permission("permission-7"),
            1_000,
        ),
        ("all", BroadcastTarget::All, 10_000),
    ] {
        let bytes = deliver(&mut shard, target);
        assert_eq!(bytes, receivers * one, "{name}: those who match receive it");
        group.throughput(Throughput::Elements(receivers as u64));
        group.bench_function(BenchmarkId::new(name, receivers), |bencher| {
            bencher.iter(|| deliver(&mut shard, target));
        });
    }
    group.finish();
}

criterion_group!(benches, targets);
criterion_main!(benches);

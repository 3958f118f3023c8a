//! What does a delivery with the subscriber's own id cost against a plain one, outside the kernel?

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use fanwire::shard::Shard;
use support::{NOW, connect_at, flush, masked, measure_deliveries, shard};

const SUBSCRIBERS: u64 = 9_000;

/// A shard whose subscribers all hear `stream:events`, each in its way.
fn subscribed(path: &str, subscribe: &str) -> Shard {
    let mut shard = shard();
    let subscribe = masked(subscribe);
    for _ in 0..SUBSCRIBERS {
        let id = connect_at(&mut shard, path);
        shard.receive(id, &mut subscribe.clone(), NOW);
    }
    flush(&mut shard);
    shard
}

fn splice(criterion: &mut Criterion) {
    let data = "x".repeat(80);
    let publish = masked(&format!(
        r#"{{"type":"publish","data":{{"channel":"stream:events","type":"m","data":{{"p":"{data}"}}}}}}"#
    ));
    for (name, path, subscribe) in [
        (
            "plain",
            "/ws",
            r#"{"type":"subscribe","data":{"channel":"stream:events"}}"#,
        ),
        (
            "tagged",
            "/analytics",
            r#"{"type":"subscribe","data":{"type":"events"}}"#,
        ),
        (
            "tagged_and_filtered",
            "/analytics",
            r#"{"type":"subscribe","data":{"type":"events","filters":{"p":["a","PPP"]}}}"#,
        ),
    ] {
        let mut shard = subscribed(path, &subscribe.replace("PPP", &data));
        let name = format!("splice_9000_{name}");
        measure_deliveries(criterion, &name, &mut shard, &publish, SUBSCRIBERS);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = splice
}
criterion_main!(benches);

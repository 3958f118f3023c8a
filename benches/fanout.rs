//! What does a delivery cost outside the kernel, one publication at a time and 64 at once?

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{NOW, connect, masked, measure_deliveries, shard};

const SUBSCRIBERS: u64 = 9_000;

fn fanout(criterion: &mut Criterion) {
    let mut shard = shard();
    let subscribe = masked(r#"{"type":"subscribe","data":{"channel":"bench"}}"#);
    for _ in 0..SUBSCRIBERS {
        let id = connect(&mut shard);
        shard.receive(id, &mut subscribe.clone(), NOW);
    }
    let data = "x".repeat(80);
    let publish = masked(&format!(
        r#"{{"type":"publish","data":{{"channel":"bench","type":"m","data":"{data}"}}}}"#
    ));
    measure_deliveries(criterion, "fanout_9000", &mut shard, &publish, SUBSCRIBERS);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = fanout
}
criterion_main!(benches);

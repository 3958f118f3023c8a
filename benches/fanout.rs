//! What does a delivery cost outside the kernel, one publication at a time and 64 at once?

mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use support::{NOW, connect, flush, masked, shard};

const SUBSCRIBERS: u64 = 9_000;

fn fanout(criterion: &mut Criterion) {
    let mut shard = shard();
    let subscribe = masked(r#"{"type":"subscribe","data":{"channel":"bench"}}"#);
    for _ in 0..SUBSCRIBERS {
        let id = connect(&mut shard);
        shard.receive(id, &mut subscribe.clone(), NOW);
    }
    let publisher = connect(&mut shard);
    flush(&mut shard);
    let data = "x".repeat(80);
    let publish = masked(&format!(
        r#"{{"type":"publish","data":{{"channel":"bench","type":"m","data":"{data}"}}}}"#
    ));
    let mut group = criterion.benchmark_group("fanout_9000");
    for count in [1, 64] {
        group.throughput(Throughput::Elements(SUBSCRIBERS * count));
        group.bench_function(format!("{count}_publications"), |bencher| {
            bencher.iter(|| {
                for _ in 0..count {
                    shard.receive(publisher, &mut publish.clone(), NOW);
                }
                let mut bytes = 0;
                while shard.has_unread() {
                    shard.drain_ring(NOW);
                    bytes += flush(&mut shard);
                }
                black_box(bytes)
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = fanout
}
criterion_main!(benches);

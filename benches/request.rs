//! What does a request and its answer cost outside the kernel?

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use support::{NOW, connect, flush, masked, shard};

fn request(criterion: &mut Criterion) {
    let mut shard = shard();
    let id = connect(&mut shard);
    flush(&mut shard);
    for (name, text) in [
        ("ping", r#"{"type":"ping"}"#),
        (
            "subscribe_again",
            r#"{"type":"subscribe","data":{"channel":"bench"}}"#,
        ),
        ("invalid_json", r#"{"type":"#),
    ] {
        let message = masked(text);
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                shard.receive(id, &mut message.clone(), NOW);
                black_box(flush(&mut shard))
            });
        });
    }
}

criterion_group!(benches, request);
criterion_main!(benches);

//! What does it cost to hand a record through the ring, and what does an exact bound cost?
//!
//! The second half compares the claim this ring makes (compare-and-swap, with a look at the limit)
//! with a bare fetch-and-add, on an atomic of its own, so that nothing else differs. A fetch-and-add
//! cannot be taken back: a writer that finds the ring full after it has claimed bytes that readers
//! now wait for, and with any number of writers no reserve makes that bound exact.
//!
//! Measured on two shared cores of an AMD EPYC under KVM, Linux 6.18, medians of five runs of
//! `cargo bench -p fanwire-ring -- 'claim|two_threads'` beside other work: one thread claims in
//! 2.1 ns by fetch-and-add and in 2.8 ns by compare-and-swap; two threads that do nothing else in
//! 12 ns (4 to 19) and 17 ns (13 to 24). So exactness costs 0.6 ns alone and about 5 ns where two
//! writers collide all the time, beside 16 ns for a whole record of 128 bytes.
//!
//! The commit is a compare-and-swap, too, so that a record which was retired is not committed. Against
//! a release store, on the same machine on another day, medians of three interleaved runs of
//! `one_thread/128`: 52 to 57 ns for a write and a drain, and in batches of 32 41 to 49 ns.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanwire_ring::{Reader, Ring, RingConfig, Writer};

const CAPACITY_BYTES: u32 = 1 << 20;
/// Readers of a large host, one per shard.
const READERS: usize = 64;
const PAYLOADS_BYTES: [usize; 2] = [128, 4096];
/// Records a shard might write before it looks at its inbox.
const BATCH: usize = 32;
/// Bytes of one claim: a record of 128 bytes with its header.
const SPAN: u64 = 160;

fn ring() -> (Ring, Writer, Reader) {
    let config = RingConfig {
        capacity_bytes: CAPACITY_BYTES,
        readers_max: 64,
    };
    let ring = Ring::new(config).expect("a valid configuration");
    let (writer, reader) = (ring.writer(), ring.reader().expect("a free slot"));
    (ring, writer, reader)
}

/// Copies, as a shard does.
fn drain(reader: &mut Reader, copy: &mut [u8]) -> usize {
    let drained = reader.drain(BATCH, |payload| {
        copy[..payload.len()].copy_from_slice(payload);
        black_box(&copy);
    });
    drained.expect("nobody puts it out of the gate")
}

fn one_thread(criterion: &mut Criterion) {
    for bytes in PAYLOADS_BYTES {
        let mut group = criterion.benchmark_group(format!("one_thread/{bytes}"));
        let (_ring, writer, mut reader) = ring();
        let (payload, mut copy) = (vec![7; bytes], vec![0; bytes]);
        group.throughput(Throughput::Elements(1));
        group.bench_function("write_drain", |bencher| {
            bencher.iter(|| {
                writer
                    .try_write(0, &[black_box(&payload)])
                    .expect("the ring is empty");
                drain(&mut reader, &mut copy)
            });
        });
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function("write_drain_batch_of_32", |bencher| {
            bencher.iter(|| {
                for _ in 0..BATCH {
                    writer
                        .try_write(0, &[black_box(&payload)])
                        .expect("the ring is empty");
                }
                drain(&mut reader, &mut copy)
            });
        });
        group.finish();
    }
    let (_ring, writer, _reader) = ring();
    criterion.bench_function("one_thread/wake_parked_nobody", |bencher| {
        bencher.iter(|| {
            writer.wake_parked(
                |_| u64::MAX,
                |index| {
                    black_box(index);
                },
            );
        });
    });
}

/// A writer and a reader on two threads; time per record from the first write to the last drain.
fn two_threads(criterion: &mut Criterion) {
    for bytes in PAYLOADS_BYTES {
        let mut group = criterion.benchmark_group(format!("two_threads/{bytes}"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("write_drain", |bencher| {
            bencher.iter_custom(|records| {
                let (_ring, writer, mut reader) = ring();
                let start = Barrier::new(2);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        let payload = vec![7; bytes];
                        start.wait();
                        for _ in 0..records {
                            while writer.try_write(0, &[black_box(&payload)]).is_err() {
                                std::hint::spin_loop();
                            }
                        }
                    });
                    let mut copy = vec![0; bytes];
                    start.wait();
                    time(|| {
                        let mut drained = 0;
                        while drained < records {
                            drained += drain(&mut reader, &mut copy) as u64;
                        }
                    })
                })
            });
        });
        group.finish();
    }
}

/// A record that nobody wants: what it costs one of 64 readers to pass it. All others are in use
/// and kept up, so the slots are as on a large host. The writer is on the reader's thread, or on
/// another, where each record's first line comes from another core's cache. Time per record.
fn skip(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("skip/64_readers");
    group.throughput(Throughput::Elements(1));
    for bytes in PAYLOADS_BYTES {
        group.bench_function(format!("{bytes}/one_thread"), |bencher| {
            bencher.iter_custom(|records| skips(records, bytes, |write| write()));
        });
        group.bench_function(format!("{bytes}/two_threads"), |bencher| {
            bencher.iter_custom(|records| {
                skips(records, bytes, |write| {
                    thread::scope(|scope| {
                        let writing = scope.spawn(write);
                        writing.join().expect("the ring has room");
                    });
                })
            });
        });
    }
    group.finish();
}

/// Lets `run` write batches, and times one reader that wants none of the records.
fn skips(records: u64, bytes: usize, run: impl Fn(&(dyn Fn() + Sync))) -> Duration {
    /// Wanted by nobody.
    const TAG: u64 = 1;
    let (ring, writer, mut reader) = ring();
    let mut others: Vec<_> = (1..READERS)
        .map(|_| ring.reader().expect("a free slot"))
        .collect();
    let payload = vec![7; bytes];
    // Half of the ring at a time.
    let batch_max = u64::from(CAPACITY_BYTES) / 2 / (bytes as u64 + 64);
    let mut left = records;
    let mut total = Duration::ZERO;
    while left > 0 {
        let batch = left.min(batch_max);
        left -= batch;
        run(&|| {
            for _ in 0..batch {
                writer
                    .try_write(TAG, &[&payload])
                    .expect("half of the ring is free");
            }
        });
        total += time(|| pass(&mut reader, batch));
        for other in &mut others {
            pass(other, batch);
        }
    }
    total
}

/// Passes so many records without a look at their payload.
fn pass(reader: &mut Reader, records: u64) {
    let visit = |_, _, _: &[u8]| unreachable!("no record is wanted");
    let passed = reader.drain_while(usize::MAX, &mut (|tag| black_box(tag) == 0, visit));
    assert_eq!(passed, Ok(usize::try_from(records).unwrap_or(usize::MAX)));
}

fn fetch_add(tail: &AtomicU64, _limit: &AtomicU64) -> u64 {
    // AcqRel: it would have to acquire as the loads below do.
    tail.fetch_add(SPAN, Ordering::AcqRel)
}

fn compare_and_swap(tail: &AtomicU64, limit: &AtomicU64) -> u64 {
    // Orderings as in `Writer::claim`.
    let mut position = tail.load(Ordering::Acquire);
    loop {
        assert!(position + SPAN <= limit.load(Ordering::Acquire));
        match tail.compare_exchange_weak(
            position,
            position + SPAN,
            Ordering::Release,
            Ordering::Acquire,
        ) {
            Ok(claimed) => return claimed,
            Err(moved) => position = moved,
        }
    }
}

/// Time per claim and thread: with two threads, each makes all the claims that are asked for.
fn claim(criterion: &mut Criterion) {
    type Claim = fn(&AtomicU64, &AtomicU64) -> u64;
    let claims: [(&str, Claim); 2] = [
        ("fetch_add", fetch_add),
        ("compare_and_swap", compare_and_swap),
    ];
    for threads in [1, 2] {
        let mut group = criterion.benchmark_group(format!("claim/{threads}_threads"));
        for (name, claim) in claims {
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|count| claims_of(threads, count, claim));
            });
        }
        group.finish();
    }
}

/// Tail and limit in one line, as in the ring.
#[repr(align(128))]
struct ClaimLine {
    tail: AtomicU64,
    limit: AtomicU64,
}

fn claims_of(threads: usize, count: u64, claim: fn(&AtomicU64, &AtomicU64) -> u64) -> Duration {
    let line = ClaimLine {
        tail: AtomicU64::new(0),
        limit: AtomicU64::new(u64::MAX),
    };
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    time(|| {
                        for _ in 0..count {
                            black_box(claim(&line.tail, &line.limit));
                        }
                    })
                })
            })
            .collect();
        let times = workers
            .into_iter()
            .map(|worker| worker.join().expect("a claim cannot fail"));
        times.max().expect("at least one thread")
    })
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// What an announced claim costs: the same record through a ring of one process and through one that is
/// shared, on one thread.
#[cfg(target_os = "linux")]
fn announced(criterion: &mut Criterion) {
    use fanwire_ring::SharedConfig;
    use fanwire_ring::shared::SharedRing;
    let config = RingConfig {
        capacity_bytes: CAPACITY_BYTES,
        readers_max: 64,
    };
    let heap = Ring::new(config).expect("a valid configuration");
    let shared = SharedRing::memfd("bench", &SharedConfig::new(config)).expect("a memfd");
    let mut group = criterion.benchmark_group("announced/128");
    for (name, ring) in [("heap", &heap), ("memfd", shared.ring())] {
        let (writer, mut reader) = (ring.writer(), ring.reader().expect("a free slot"));
        let (payload, mut copy) = (vec![7; 128], vec![0; 128]);
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(format!("{name}/write_drain_batch_of_32"), |bencher| {
            bencher.iter(|| {
                for _ in 0..BATCH {
                    writer
                        .try_write(0, &[black_box(&payload)])
                        .expect("the ring is empty");
                }
                drain(&mut reader, &mut copy)
            });
        });
    }
    group.finish();
}

#[cfg(not(target_os = "linux"))]
fn announced(_: &mut Criterion) {}

criterion_group!(benches, one_thread, two_threads, skip, claim, announced);
criterion_main!(benches);

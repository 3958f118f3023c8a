//! How fast is the ring beside channels that a program could use instead?
//!
//! Records of 64 bytes go from one thread to one or four others: through the ring, through a bounded channel
//! of crossbeam (one reader: it hands each record to one of them) and through tokio's broadcast channel.
//! All are lossless here, hold about as many records, and spin, then yield, where there is nothing to do. The
//! kinds take turns, and the median of the rounds counts. In tests it moves little.
//!
//! Then the time from before a write to behind the read of a reader that spins, for single records.

#![expect(clippy::disallowed_methods, reason = "a bench measures")]
#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use fanwire_ring::{Ring, RingConfig, WriteError};
use tokio::sync::broadcast;

const ROUNDS: usize = 7;
const RECORD_BYTES: usize = 64;
/// What a record takes in the ring.
const SPAN_BYTES: usize = 96;
const CAPACITY_BYTES: u32 = 1 << 20;
const HELD: usize = CAPACITY_BYTES as usize / SPAN_BYTES;
/// Doublings of the pause before a thread yields.
const SPIN_STEPS: u32 = 6;

type Record = [u8; RECORD_BYTES];

/// Waits longer each time, as all such loops do: who looks again at once takes the memory away from who
/// writes it.
#[derive(Default)]
struct Idle(u32);

impl Idle {
    fn wait(&mut self) {
        if self.0 > SPIN_STEPS {
            return thread::yield_now();
        }
        for _ in 0..1 << self.0 {
            std::hint::spin_loop();
        }
        self.0 += 1;
    }
}

fn record(number: usize) -> Record {
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&number.to_le_bytes());
    record
}

fn number_of(bytes: &[u8]) -> usize {
    usize::from_le_bytes(bytes[..8].try_into().unwrap())
}

/// Runs a writer beside readers, each of which must see all records in order; seconds.
fn run<R: FnMut(usize) -> usize + Send + 'static>(
    records: usize,
    readers: Vec<R>,
    mut write: impl FnMut(usize),
) -> f64 {
    let barrier = Arc::new(Barrier::new(readers.len() + 1));
    let threads = readers.into_iter().map(|mut read| {
        let barrier = Arc::clone(&barrier);
        thread::spawn(move || {
            barrier.wait();
            let (mut next, mut idle) = (0, Idle::default());
            while next < records {
                let read = read(next);
                next += read;
                if read == 0 {
                    idle.wait();
                } else {
                    idle = Idle::default();
                }
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    barrier.wait();
    let began = Instant::now();
    for number in 0..records {
        write(number);
    }
    for thread in threads {
        thread.join().unwrap();
    }
    began.elapsed().as_secs_f64()
}

fn through_ring(records: usize, readers: u32) -> f64 {
    let config = RingConfig {
        capacity_bytes: CAPACITY_BYTES,
        readers_max: readers,
    };
    let ring = Ring::new(config).unwrap();
    let readers = (0..readers).map(|_| {
        let mut reader = ring.reader().unwrap();
        move |mut next: usize| {
            reader
                .drain(256, |payload| {
                    assert_eq!(number_of(payload), next);
                    next += 1;
                })
                .unwrap()
        }
    });
    let readers = readers.collect();
    let writer = ring.writer();
    run(records, readers, |number| {
        let mut idle = Idle::default();
        while let Err(error) = writer.try_write(0, &[&record(number)]) {
            assert_eq!(error, WriteError::Full);
            idle.wait();
        }
    })
}

fn through_crossbeam(records: usize) -> f64 {
    let (sender, receiver) = crossbeam_channel::bounded::<Record>(HELD);
    let read = move |next: usize| match receiver.try_recv() {
        Ok(record) => {
            assert_eq!(number_of(&record), next);
            1
        }
        Err(TryRecvError::Empty) => 0,
        Err(error) => panic!("{error}"),
    };
    run(records, vec![read], |number| {
        let mut idle = Idle::default();
        while sender.is_full() {
            idle.wait();
        }
        sender.try_send(record(number)).unwrap();
    })
}

fn through_tokio(records: usize, readers: u32) -> f64 {
    let (sender, _) = broadcast::channel::<Record>(HELD);
    let readers = (0..readers).map(|_| {
        let mut receiver = sender.subscribe();
        move |next: usize| match receiver.try_recv() {
            Ok(record) => {
                assert_eq!(number_of(&record), next);
                1
            }
            Err(broadcast::error::TryRecvError::Empty) => 0,
            Err(error) => panic!("{error}"),
        }
    });
    let readers = readers.collect();
    run(records, readers, |number| {
        let mut idle = Idle::default();
        // It would overwrite what a reader has not read.
        while sender.len() >= HELD {
            idle.wait();
        }
        sender.send(record(number)).unwrap();
    })
}

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (
        values[values.len() / 2],
        values[0],
        values[values.len() - 1],
    )
}

fn report(records: usize, rounds: usize, readers: u32) {
    let mut kinds: Vec<(&str, Vec<f64>)> = vec![("ring", vec![]), ("tokio broadcast", vec![])];
    if readers == 1 {
        kinds.push(("crossbeam", vec![]));
    }
    for _ in 0..rounds {
        for (kind, times) in &mut kinds {
            times.push(match *kind {
                "ring" => through_ring(records, readers),
                "crossbeam" => through_crossbeam(records),
                _ => through_tokio(records, readers),
            });
        }
    }
    let mut of_ring = 0.0;
    for (kind, times) in kinds {
        let nanoseconds = times.iter().map(|time| time / records as f64 * 1e9);
        let (middle, least, most) = median(nanoseconds.collect());
        if kind == "ring" {
            of_ring = middle;
        }
        println!(
            "{readers} reader(s), {kind:>15}: {middle:>6.1} ns per record ({least:.1}-{most:.1}), {:.1} x the ring's",
            middle / of_ring
        );
    }
}

/// Nanoseconds from before the write of a record to behind its read.
fn latency(samples: usize) {
    let config = RingConfig {
        capacity_bytes: CAPACITY_BYTES,
        readers_max: 1,
    };
    let ring = Ring::new(config).unwrap();
    let mut reader = ring.reader().unwrap();
    let writer = ring.writer();
    let base = Instant::now();
    let is_done = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&is_done);
    let thread = thread::spawn(move || {
        let mut times = Vec::with_capacity(samples);
        while times.len() < samples {
            reader
                .drain(1, |payload| {
                    let now = base.elapsed().as_nanos();
                    times.push((now as usize).saturating_sub(number_of(payload)) as f64);
                })
                .unwrap();
        }
        done.store(true, Ordering::Relaxed);
        times
    });
    while !is_done.load(Ordering::Relaxed) {
        let pause = Instant::now();
        while pause.elapsed() < Duration::from_micros(2) {
            std::hint::spin_loop();
        }
        let now = base.elapsed().as_nanos() as usize;
        let _ = writer.try_write(0, &[&record(now)]);
    }
    let mut times = thread.join().unwrap();
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "write to read, spinning: median {:.0} ns, 90 % {:.0} ns, 99 % {:.0} ns of {samples}",
        at(50),
        at(90),
        at(99)
    );
}

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let (records, rounds) = if is_bench {
        (2_000_000, ROUNDS)
    } else {
        (20_000, 1)
    };
    for readers in [1, 4] {
        report(records, rounds, readers);
    }
    latency(if is_bench { 200_000 } else { 100 });
}

//! What does a peer reach that stores anything anywhere in a shared ring at any time?
//!
//! The region stands between pages that nobody may touch. One thread stores random words all over it,
//! plain noise and numbers that look right, while a reader, a writer, an observer, a retirer and an
//! evicting peer work on it. Content may be spoilt; but no call may panic, go on for ever, or touch a
//! guard page (which kills the test).
//!
//! `RING_GARBAGE_SEED` replays a run as far as threads allow.
#![cfg(all(target_os = "linux", not(loom)))]
#![cfg_attr(
    not(loom),
    allow(
        clippy::cast_possible_truncation,
        reason = "numbers at random, and small ones"
    )
)]

use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use fanwire_ring::{
    Liveness, Observer, PeerIdentity, Reader, Ring, RingConfig, SharedConfig, Start, Writer,
};
use rustix::mm::{self, MapFlags, MprotectFlags, ProtFlags};

const PAGE_BYTES: usize = 4096;
const ROUNDS: u32 = 70;
/// Calls of each worker in a round.
const CALLS: u32 = 3000;
/// Far more than a round takes: a thread that is not back by then is in a loop.
const ROUND_TIMEOUT: Duration = Duration::from_secs(60);

fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// Memory between two pages without access. Never unmapped: threads that hang would touch it.
#[derive(Clone, Copy)]
struct Guarded {
    start: NonNull<u8>,
    bytes: usize,
}

#[expect(unsafe_code, reason = "a hostile peer needs no permission")]
mod memory {
    use super::*;

    // SAFETY: an address belongs to no thread.
    unsafe impl Send for Guarded {}

    impl Guarded {
        /// `bytes` that end where the guard page begins.
        pub(super) fn new(bytes: usize) -> Self {
            let pages = bytes.next_multiple_of(PAGE_BYTES);
            // SAFETY: the kernel chooses the address.
            let start = unsafe {
                mm::mmap_anonymous(
                    ptr::null_mut(),
                    pages + 2 * PAGE_BYTES,
                    ProtFlags::empty(),
                    MapFlags::PRIVATE,
                )
            }
            .expect("memory");
            let inside = start.cast::<u8>().wrapping_add(PAGE_BYTES);
            let access = MprotectFlags::READ | MprotectFlags::WRITE;
            // SAFETY: these pages are part of the mapping made above, which nobody uses yet.
            unsafe { mm::mprotect(inside.cast(), pages, access) }.expect("our own mapping");
            let start = NonNull::new(inside.wrapping_add(pages - bytes)).expect("mapped");
            Self { start, bytes }
        }

        pub(super) fn words(self) -> &'static [AtomicU64] {
            let words = self.start.as_ptr().cast::<AtomicU64>();
            // SAFETY: mapped for ever, aligned to lines as the size is a multiple of them, accessed
            // by atomics alone.
            unsafe { std::slice::from_raw_parts(words, self.bytes / 8) }
        }

        pub(super) fn create(self, config: &SharedConfig) -> Ring {
            // SAFETY: mapped for ever, for reading and writing; nobody else uses it yet.
            unsafe { Ring::create_in_memory(self.start, self.bytes, config, identity(0)) }
                .expect("a valid configuration")
        }

        pub(super) fn attach(self, number: Option<u32>) -> Option<Ring> {
            // SAFETY: as above; all accesses are atomic.
            unsafe { Ring::attach_to_memory(self.start, self.bytes, number.map(identity)) }.ok()
        }
    }
}

/// Nobody is sure who lives.
struct Random(AtomicU64);

impl Liveness for Random {
    fn is_alive(&self, _number: u32) -> bool {
        let mut state = self.0.load(Ordering::Relaxed);
        let is_alive = !random(&mut state).is_multiple_of(64);
        self.0.store(state, Ordering::Relaxed);
        is_alive
    }
}

fn identity(number: u32) -> PeerIdentity {
    PeerIdentity {
        number,
        liveness: Box::new(Random(AtomicU64::new(u64::from(number) + 1))),
    }
}

/// Stores at random until told to stop: noise, bits of what is there, positions nearby the tail, stamps
/// of such positions, and small numbers.
fn store_garbage(words: &[AtomicU64], area: &Range<usize>, seed: u64, stop: &AtomicBool) -> u64 {
    let (data, mut state) = (words.len() - 4096 / 8, seed);
    let salt = words[6].load(Ordering::Relaxed);
    let mut stores = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let bits = random(&mut state);
        let index = area.start + random(&mut state) as usize % area.len();
        let nearby = words[16]
            .load(Ordering::Relaxed)
            .wrapping_add(random(&mut state) % 16384)
            .wrapping_sub(8192);
        let value = match bits >> 1 & 7 {
            0 => random(&mut state),
            1 => words[index].load(Ordering::Relaxed) ^ 1 << (random(&mut state) & 63),
            2 => nearby,
            3 => nearby & !31,
            4 => (nearby & !31) ^ salt ^ (random(&mut state) & 3),
            5 => random(&mut state) & 0xff | 1 << 32,
            6 => u64::MAX.wrapping_sub(random(&mut state) & 0xff),
            _ => words[random(&mut state) as usize % words.len()].load(Ordering::Relaxed),
        };
        if bits >> 4 & 15 == 0 && seed >> 39 & 1 == 1 {
            // Stamps of the whole ring, so that readers have something to go on with.
            let position = words[16].load(Ordering::Relaxed) & !31;
            for back in (0..4096).step_by(32) {
                let position = position.wrapping_sub(4096).wrapping_add(back);
                let word = data + position as usize % 4096 / 8;
                words[word].store(position ^ salt, Ordering::Relaxed);
            }
        }
        let before = words[index].swap(value, Ordering::Relaxed);
        stores += 1;
        // In every other round the garbage is taken back a little later, so that the ring works on and
        // its deeper parts are reached.
        let is_gentle = seed >> 39 & 1 == 0;
        if is_gentle || stores.is_multiple_of(64) {
            thread::sleep(Duration::from_micros(20));
        }
        if is_gentle {
            let _ =
                words[index].compare_exchange(value, before, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
    stores
}

fn read(ring: &Ring, mut state: u64) -> u64 {
    let mut records = 0_u64;
    let mut reader: Option<Reader> = None;
    for _ in 0..CALLS {
        let Some(current) = reader.as_mut() else {
            reader = ring.reader().ok();
            continue;
        };
        match random(&mut state) % 8 {
            0 => drop(reader.take()),
            1 => {
                let _ = current.park();
                current.unpark();
            }
            2 => {
                current.park_away();
                current.unpark();
            }
            3 => {
                let _ = (
                    current.wait(2, Some(Duration::from_micros(1))),
                    current.lag_bytes(),
                );
            }
            4 => {
                while let Ok(Some(record)) = current.next() {
                    if let Ok(Some(payload)) = current.payload() {
                        assert_eq!(payload.len(), record.payload_bytes as usize);
                    }
                    current.advance();
                    records += 1;
                    if records.is_multiple_of(256) {
                        break;
                    }
                }
            }
            _ => {
                let drained = current.drain(256, |_| ()).unwrap_or(0) as u64;
                records += drained;
                if drained == 0 {
                    thread::sleep(Duration::from_micros(1));
                }
            }
        }
    }
    records
}

fn write(ring: &Ring, mut state: u64) -> u64 {
    let mut records = 0;
    let mut writer: Option<Writer> = None;
    let mut kept = Vec::new();
    for _ in 0..CALLS {
        let current = writer.get_or_insert_with(|| ring.writer().with_lag_bytes_max(3000));
        let bytes = u32::try_from(random(&mut state) % 512).expect("small");
        match random(&mut state) % 8 {
            0 => writer = None,
            1 => current.wake_sleepers(),
            2 => {
                let _ = current.try_reserve_owned(0, bytes).map(|mut grant| {
                    grant.write(&[1; 600][..bytes as usize / 2]);
                    kept.push(grant);
                    if kept.len() > 3 {
                        drop(kept.remove(0));
                    }
                });
            }
            3 => drop(kept.pop()),
            4 => {
                let _ = kept.pop().map(|grant| grant.commit_shortened(0));
            }
            _ => records += u64::from(current.try_write(1, &[&[2; 512][..bytes as usize]]).is_ok()),
        }
    }
    records
}

fn observe(ring: &Ring, mut state: u64) -> u64 {
    let mut records = 0;
    let mut observer: Option<Observer> = None;
    for _ in 0..CALLS {
        let Some(current) = observer.as_mut() else {
            let start = match random(&mut state) % 3 {
                0 => Start::Tail,
                _ => Start::Oldest,
            };
            observer = ring.observer(start).ok();
            continue;
        };
        if random(&mut state).is_multiple_of(64) {
            let mut place = current.bookmark();
            place.position ^= random(&mut state) >> (random(&mut state) & 63);
            observer = ring.observer(Start::At(place)).ok();
            continue;
        }
        if let Ok(Some(record)) = current.next() {
            if let Ok(Some(payload)) = current.payload() {
                assert_eq!(payload.len(), record.payload_bytes as usize);
            }
            current.advance();
            records += 1;
        } else {
            thread::yield_now();
        }
    }
    records
}

fn tend(ring: &Ring) -> u64 {
    let mut retired = 0;
    for call in 0..CALLS {
        let Ok(mut retirer) = ring.retirer() else {
            ring.evict_dead();
            continue;
        };
        for _ in 0..4 {
            retired += u64::from(retirer.look());
        }
        if call.is_multiple_of(4) {
            ring.evict_dead();
            ring.put_out_laggards(2048);
        }
        let _ = (
            ring.depth_bytes(),
            ring.held_bytes(),
            ring.lag_bytes_of(0),
            ring.put_out(1),
        );
    }
    retired
}

/// One ring, a new seed. Returns how often the workers did something.
fn round(number: u32, seed: u64) -> [u64; 4] {
    let config = SharedConfig {
        ring: RingConfig {
            capacity_bytes: 4096,
            readers_max: 2,
        },
        peers_max: 5,
        writers_max: 3,
    };
    let bytes = config.region_bytes().expect("a valid configuration");
    let guarded = Guarded::new(bytes);
    let ring = guarded.create(&config);
    let attach = |number| guarded.attach(number).expect("nobody stores garbage yet");
    let rings = [
        attach(Some(1)),
        attach(Some(2)),
        attach(None),
        attach(Some(3)),
    ];
    let stop = Arc::new(AtomicBool::new(false));
    let (words, data) = (bytes / 8, (bytes - 4096) / 8);
    // All; the data; a line each: claims, parked, gaps; slots; peers and writers.
    let areas = [
        0..words,
        data..words,
        16..32,
        32..48,
        64..80,
        80..144,
        144..data,
    ];
    let area = areas[number as usize % areas.len()].clone();
    let hostile = thread::spawn({
        let stop = Arc::clone(&stop);
        move || store_garbage(guarded.words(), &area, seed, &stop)
    });
    let (done, all_done) = mpsc::channel();
    let [reading, writing, observing, tending] = rings;
    let workers: [Box<dyn FnOnce() -> u64 + Send>; 4] = [
        Box::new(move || read(&reading, seed ^ 1)),
        Box::new(move || write(&writing, seed ^ 2)),
        Box::new(move || observe(&observing, seed ^ 3)),
        Box::new(move || tend(&tending)),
    ];
    let workers = workers.map(|work| {
        let done = done.clone();
        thread::spawn(move || {
            let outcome = work();
            done.send(()).expect("the test waits");
            outcome
        })
    });
    drop(done);
    for _ in 0..workers.len() {
        match all_done.recv_timeout(ROUND_TIMEOUT) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => panic!("a worker is in a loop; seed {seed}"),
            // One of them panicked: the join below says which.
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    stop.store(true, Ordering::Relaxed);
    let outcomes = workers.map(|worker| worker.join());
    let stores = hostile.join().expect("it only stores");
    assert!(stores > 0);
    drop(ring);
    outcomes.map(|outcome| outcome.unwrap_or_else(|_| panic!("seed {seed}")))
}

#[test]
fn garbage_all_over_the_memory_causes_no_panic_no_loop_and_no_access_outside() {
    let seed = match std::env::vars().find(|(name, _)| name == "RING_GARBAGE_SEED") {
        Some((_, seed)) => seed.parse().expect("a number"),
        None => getrandom::u64().expect("randomness") | 1,
    };
    println!("RING_GARBAGE_SEED={seed}");
    let mut totals = [0; 4];
    for number in 0..ROUNDS {
        let outcome = round(number, seed.wrapping_add(u64::from(number) << 39));
        for (total, done) in totals.iter_mut().zip(outcome) {
            *total += done;
        }
    }
    let [read, written, observed, retired] = totals;
    println!("{read} read, {written} written, {observed} observed, {retired} retired");
    // It is no test of rings that are broken from the start.
    assert!(written > 1000 && read + observed > 50);
}

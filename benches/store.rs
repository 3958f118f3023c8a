//! How fast is the store beside a bare sequential writer of the same disk, and how long does it take
//! to recover 1 GiB?
//!
//! Both write files of 64 MiB with O_DIRECT, the bare writer 4 MiB at once, one after the other in the
//! same run, and the better of three counts: the bytes of keys and payloads for the store, all bytes for
//! the bare writer. The store should reach at least four fifths of it on the disk. In tests it writes little.

use fanwire::base::now::Clock;
use fanwire::store::{Store, StoreConfig, SyncPolicy};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RUNS: usize = 3;
const MIB: usize = 1 << 20;
const BLOCK: usize = 4_096;
const BATCH: usize = 4 * MIB;

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let megabytes = if is_bench { 1_024 } else { 8 };
    let directory = Folder::new();
    for payload in [128, 1_024, 16 * 1_024] {
        let mut best = (0.0_f64, 0.0_f64);
        for _ in 0..RUNS {
            best.0 = best.0.max(bare(&directory.0, megabytes));
            best.1 = best.1.max(store(&directory.0, megabytes, payload));
        }
        let frame = (24 + 16 + payload).next_multiple_of(8);
        let (bare, stored) = best;
        let on_disk = stored * frame as f64 / (16 + payload) as f64;
        println!(
            "records of {payload:>5} B: {stored:>6.0} MiB/s of records ({on_disk:.0} MiB/s on the \
            disk), bare writer {bare:.0} MiB/s, ratio {:.2} ({:.2} on the disk)",
            stored / bare,
            on_disk / bare
        );
    }
    for payload in [128, 1_024, 16 * 1_024] {
        let config = config(&directory.0);
        store(&directory.0, megabytes, payload);
        let mut times = Vec::new();
        let mut records = 0;
        for _ in 0..RUNS {
            let began = now();
            let (_store, scan) = Store::open(&config, Clock::start(), |record| {
                std::hint::black_box(record);
            })
            .expect("the store was written by this bench");
            times.push(began.elapsed().as_secs_f64());
            assert!(scan.damages.is_empty() && scan.was_closed, "{scan:?}");
            records = scan.records;
        }
        // Past the page cache, so each time reads from the disk.
        let again = times[1..].iter().copied().fold(f64::MAX, f64::min);
        println!(
            "recovery of {megabytes} MiB, {records} records of {payload} B: {:.2} s, again {again:.2} s",
            times[0]
        );
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn now() -> Instant {
    Instant::now()
}

/// A directory beside the program, on the disk that is measured.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let program = std::env::current_exe().expect("the program has a path");
        Self(program.with_extension("store"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config(directory: &Path) -> StoreConfig {
    StoreConfig {
        sync: SyncPolicy::Never,
        store_bytes_max: 4 << 30,
        ..StoreConfig::new(directory)
    }
}

/// Writes records with a key of 16 bytes; MiB of keys and payloads per second.
fn store(directory: &Path, megabytes: usize, payload: usize) -> f64 {
    let _ = fs::remove_dir_all(directory);
    let (store, _) =
        Store::open(&config(directory), Clock::start(), |_| {}).expect("the directory can be used");
    let mut appender = store.appender();
    let payload = vec![b'x'; payload];
    let count = megabytes * MIB / (16 + payload.len());
    let began = now();
    for _ in 0..count {
        // The queue is full now and then: this measures the disk.
        while appender.append(1, b"channel:12345678", &payload).is_err() {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
    while appender.flush().is_err() {
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    store.close();
    (count * (16 + payload.len())) as f64 / MIB as f64 / began.elapsed().as_secs_f64()
}

/// Writes the same number of bytes; MiB per second.
fn bare(directory: &Path, megabytes: usize) -> f64 {
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory).expect("the directory can be made");
    let bytes = vec![b'x'; BATCH + BLOCK];
    let aligned = bytes.as_ptr().align_offset(BLOCK);
    let batch = &bytes[aligned..aligned + BATCH];
    let began = now();
    for segment in 0..megabytes.div_ceil(64) {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .custom_flags(libc::O_DIRECT)
            .open(directory.join(segment.to_string()))
            .expect("the file system knows O_DIRECT");
        for _ in 0..64.min(megabytes) * MIB / BATCH {
            file.write_all(batch).expect("the disk has room");
        }
    }
    megabytes as f64 / began.elapsed().as_secs_f64()
}

//! Directories, records whose content follows from their number, and random numbers from a seed.

use fanwire::base::now::Clock;
use fanwire::store::{Store, StoreConfig, StoreScan, StoredRecord, SyncPolicy};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// A directory that is deleted at the end.
#[derive(Debug)]
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let name = format!("fanwire-store-{name}-{process}-{count}");
        Self(std::env::temp_dir().join(name))
    }

    pub(crate) fn config(&self, sync: SyncPolicy) -> StoreConfig {
        StoreConfig {
            segment_bytes: 1 << 20,
            sync,
            retry_interval: Duration::from_millis(50),
            ..StoreConfig::new(&self.0)
        }
    }

    /// The segments, the oldest first.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut segments: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|it| it == "seg"))
            .collect();
        segments.sort();
        segments
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// xorshift64*.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// Kind, key and payload of the record with this number in a run.
pub(crate) fn content(run: u64, index: u64, payload_max: usize) -> (u8, Vec<u8>, Vec<u8>) {
    let mut random = Random::new(run << 32 | index);
    let kind = u8::try_from(random.below(255)).unwrap() + 1;
    let key = format!("{run}:{index}").into_bytes();
    let bytes = random.below(payload_max);
    let mut payload = vec![0; bytes];
    for byte in &mut payload {
        *byte = u8::try_from(random.below(256)).unwrap();
    }
    (kind, key, payload)
}

/// Kind, key and payload.
pub(crate) type Content = (u8, Vec<u8>, Vec<u8>);

pub(crate) fn owned(record: StoredRecord<'_>) -> Content {
    (record.kind, record.key.to_vec(), record.payload.to_vec())
}

/// Opens the store, and the records in it by their sequence numbers.
pub(crate) fn open(config: &StoreConfig) -> (Store, StoreScan, BTreeMap<u64, Content>) {
    let mut records = BTreeMap::new();
    let (store, scan) = Store::open(config, Clock::start(), |record| {
        let before = records.insert(record.sequence, owned(record));
        assert_eq!(before, None, "record {} twice", record.sequence);
    })
    .unwrap();
    assert_eq!(scan.records, records.len() as u64);
    (store, scan, records)
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("not within ten seconds: {what}");
}

/// Appends records `0..count` of a run, and waits until all are written.
pub(crate) fn write_run(config: &StoreConfig, run: u64, count: u64, payload_max: usize) {
    let (store, _, _) = open(config);
    let mut appender = store.appender();
    for index in 0..count {
        let (kind, key, payload) = content(run, index, payload_max);
        while appender.append(kind, &key, &payload).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
    }
    while appender.flush().is_err() {
        thread::sleep(Duration::from_millis(1));
    }
    drop(appender);
    store.close();
}

pub(crate) fn fanwire(arguments: &[&str], directory: &Path) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fanwire"));
    let output = command.args(arguments).arg(directory).output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

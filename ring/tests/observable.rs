//! A ring of one process that others can look at.

#![cfg(all(feature = "shared-memory", target_os = "linux", not(loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

use fanwire_ring::shared::SharedRing;
use fanwire_ring::{RingConfig, RingError, Start};
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

const CONFIG: RingConfig = RingConfig {
    capacity_bytes: 1 << 16,
    readers_max: 2,
};

/// Where this process has the memfd of that name.
fn path_of(name: &str) -> PathBuf {
    let mut descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let found = descriptors.find_map(|entry| {
        let path = entry.unwrap().path();
        let target = std::fs::read_link(&path).ok()?;
        target.to_str()?.contains(name).then_some(path)
    });
    found.unwrap()
}

#[test]
fn others_see_every_record_and_can_change_nothing() {
    let name = "observable-test";
    let ring = SharedRing::observable(name, CONFIG).unwrap();
    let mut reader = ring.reader().unwrap();
    let writer = ring.writer();
    writer.try_write(7, &[b"one"]).unwrap();
    let path = path_of(name);
    let file = File::open(&path).unwrap();
    let seen = SharedRing::from_fd(OwnedFd::from(file)).unwrap();
    assert!(seen.is_read_only());
    let mut observer = seen.ring().observer(Start::Oldest).unwrap();
    for (payload, tag) in [(&b"one"[..], 7), (b"two", 8)] {
        if tag == 8 {
            writer.try_write(tag, &[payload]).unwrap();
        }
        assert_eq!(observer.next().unwrap().unwrap().tag, tag);
        assert_eq!(observer.payload().unwrap(), Some(payload));
        observer.advance();
    }
    assert_eq!(reader.drain(8, |_| {}), Ok(2));
    // Neither a reader, which would gate the writers, nor a mapping or a write.
    assert_eq!(seen.ring().reader().unwrap_err(), RingError::ReadOnly);
    let for_writing = OpenOptions::new().read(true).write(true).open(&path);
    let for_writing = for_writing.unwrap();
    assert!(SharedRing::from_fd(OwnedFd::from(for_writing.try_clone().unwrap())).is_err());
    let written = std::os::unix::fs::FileExt::write_all_at(&for_writing, b"x", 0);
    assert!(written.is_err());
    assert!(for_writing.set_len(0).is_err());
}

#[test]
fn an_observer_that_is_overtaken_is_told_and_holds_nobody() {
    let name = "observable-slow";
    let ring = SharedRing::observable(name, CONFIG).unwrap();
    let mut reader = ring.reader().unwrap();
    let writer = ring.writer();
    let file = File::open(path_of(name)).unwrap();
    let seen = SharedRing::from_fd(OwnedFd::from(file)).unwrap();
    let mut observer = seen.ring().observer(Start::Tail).unwrap();
    for _ in 0..10_000 {
        writer.try_write(0, &[&[1; 100]]).unwrap();
        reader.drain(8, |_| {}).unwrap();
    }
    let mut missed = 0;
    let mut seen = 0;
    loop {
        match observer.next() {
            Ok(Some(_)) => {
                seen += 1;
                observer.advance();
            }
            Ok(None) => break,
            Err(fanwire_ring::ObserveError::Missed { records, .. }) => missed += records,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(missed > 0);
    assert_eq!(missed + seen, 10_000);
}

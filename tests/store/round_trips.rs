//! Records, segments and limits while nothing fails.

use crate::harness::{Content, Directory, content, open, wait_until, write_run};
use fanwire::base::limits::STORE_PAYLOAD_BYTES_MAX;
use fanwire::store::{AppendError, StoreState, SyncPolicy};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const POLICIES: [SyncPolicy; 3] = [
    SyncPolicy::Always,
    SyncPolicy::Interval(Duration::from_millis(30)),
    SyncPolicy::Never,
];

#[test]
fn records_of_several_threads_come_back_in_the_order_of_each() {
    for policy in POLICIES {
        let directory = Directory::new("threads");
        let config = directory.config(policy);
        let (store, scan, records) = open(&config);
        assert!(records.is_empty() && scan.was_closed, "{scan:?}");
        let completed = Arc::new(AtomicU64::new(0));
        thread::scope(|scope| {
            for run in 1..=3 {
                let mut appender = store.appender();
                let completed = &completed;
                scope.spawn(move || {
                    for index in 0..2_000 {
                        let (kind, key, payload) = content(run, index, 1_000);
                        let completed = Arc::clone(completed);
                        let done = move |result: Result<u64, _>| {
                            assert!(result.is_ok());
                            completed.fetch_add(1, Ordering::Relaxed);
                        };
                        appender.append_with(kind, &key, &payload, done).unwrap();
                        if index % 7 == 0 {
                            appender.flush().unwrap();
                        }
                    }
                    appender.flush().unwrap();
                });
            }
        });
        wait_until("all are completed", || {
            completed.load(Ordering::Relaxed) == 6_000
        });
        let stats = store.stats();
        assert_eq!(stats.records_queued_total, 6_000);
        assert_eq!(stats.records_written_total, 6_000);
        assert_eq!(stats.last_sequence, 6_000);
        assert_eq!((stats.records_lost_total, stats.queue_bytes), (0, 0));
        assert!(stats.writes_total < 3_000, "batches: {stats:?}");
        match policy {
            SyncPolicy::Always => assert_eq!(stats.syncs_total, stats.writes_total),
            SyncPolicy::Interval(_) => assert!(stats.syncs_total > 0),
            SyncPolicy::Never => assert_eq!(stats.syncs_total, 0),
        }
        assert_eq!(store.state(), StoreState::Running);
        store.close();

        let (_store, scan, records) = open(&config);
        assert!(scan.was_closed && scan.damages.is_empty(), "{scan:?}");
        assert_eq!((scan.first_sequence, scan.last_sequence), (1, 6_000));
        let found: Vec<&Content> = records.values().collect();
        for run in 1..=3 {
            let prefix = format!("{run}:").into_bytes();
            let of_run = found.iter().filter(|it| it.1.starts_with(&prefix));
            let expected = (0..2_000).map(|index| content(run, index, 1_000));
            assert!(of_run.copied().eq(expected.collect::<Vec<_>>().iter()));
        }
    }
}

#[test]
fn a_segment_begins_where_it_is_wanted_and_those_before_it_can_go() {
    let directory = Directory::new("begin");
    let config = directory.config(SyncPolicy::Always);
    let (store, ..) = open(&config);
    let mut appender = store.appender();
    for round in 0..5 {
        for _ in 0..3 {
            appender.append(1, b"key", b"payload").unwrap();
        }
        let sequence = Arc::new(AtomicU64::new(0));
        appender.begin_segment().unwrap();
        let begun = Arc::clone(&sequence);
        let done = move |result: Result<u64, _>| begun.store(result.unwrap(), Ordering::Relaxed);
        appender.append_with(2, b"begin", b"", done).unwrap();
        appender.flush().unwrap();
        wait_until("it is written", || sequence.load(Ordering::Relaxed) > 0);
        assert_eq!(sequence.load(Ordering::Relaxed), 4 * (round + 1));
        appender
            .delete_before(sequence.load(Ordering::Relaxed))
            .unwrap();
        wait_until("those before it are deleted", || {
            store.stats().oldest_sequence == 4 * (round + 1)
        });
        assert_eq!(directory.segments().len(), 1);
    }
    drop(appender);
    store.close();
    let (_store, scan, records) = open(&config);
    assert!(scan.was_closed && scan.damages.is_empty(), "{scan:?}");
    assert_eq!(records.len(), 1);
    assert_eq!(records[&20].0, 2);
}

#[test]
fn each_start_continues_the_numbers_and_the_epoch() {
    let directory = Directory::new("starts");
    let config = directory.config(SyncPolicy::Never);
    let mut epochs = Vec::new();
    for run in 0..4 {
        let (store, scan, records) = open(&config);
        epochs.push(scan.epoch);
        assert_eq!(records.len() as u64, 10 * run);
        assert!(scan.was_closed);
        drop(store);
        write_run(&config, run, 10, 100);
    }
    assert!(epochs[0].is_some());
    assert!(epochs[1..].iter().all(|epoch| *epoch == epochs[1]));
    let (_store, _, records) = open(&config);
    // The mark at the end of each run has a number, too.
    let numbers: Vec<_> = records.keys().copied().collect();
    let expected = (0..4).flat_map(|run| (11 * run + 1)..=(11 * run + 10));
    assert_eq!(numbers, expected.collect::<Vec<_>>());
}

#[test]
fn records_of_any_size_are_stored() {
    let directory = Directory::new("sizes");
    let config = directory.config(SyncPolicy::Always);
    let (store, _, _) = open(&config);
    let mut appender = store.appender();
    let key = vec![7; 65_535];
    let sizes = [0, 1, 4_096, 65_536, 1 << 20, (1 << 20) + 1, 20 << 20, 3];
    for size in sizes {
        let payload = vec![9; size];
        while let Err(error) = appender.append(1, &key, &payload) {
            assert_eq!(error, AppendError::QueueFull);
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(appender.append(0, b"", b""), Err(AppendError::ReservedKind));
    let long = vec![0; 65_536];
    assert_eq!(appender.append(1, &long, b""), Err(AppendError::KeyTooLong));
    let long = vec![0; STORE_PAYLOAD_BYTES_MAX + 1];
    let too_long = Err(AppendError::PayloadTooLong);
    assert_eq!(appender.append(1, b"", &long), too_long);
    while appender.flush().is_err() {
        thread::sleep(Duration::from_millis(1));
    }
    store.close();
    assert_eq!(
        appender.append(1, b"", b""),
        Ok(()),
        "it waits in its chunk"
    );
    assert_eq!(appender.flush(), Err(AppendError::Closed));
    let (_store, scan, records) = open(&config);
    assert!(scan.damages.is_empty(), "{scan:?}");
    let found: Vec<_> = records.values().map(|it| it.2.len()).collect();
    assert_eq!(found, sizes);
}

#[test]
fn the_oldest_segments_are_deleted_and_the_numbers_go_on() {
    let directory = Directory::new("bounded");
    let mut config = directory.config(SyncPolicy::Never);
    config.store_bytes_max = 3 << 20;
    for run in 0..3 {
        write_run(&config, run, 8_000, 1_000);
        let bytes: u64 = directory
            .segments()
            .iter()
            .map(|path| path.metadata().unwrap().len())
            .sum();
        assert!(bytes <= 3 << 20, "{bytes}");
    }
    let (store, scan, records) = open(&config);
    assert!(scan.damages.is_empty() && scan.was_closed, "{scan:?}");
    assert_eq!(scan.last_sequence, 3 * 8_001 - 1);
    wait_until("it says so", || {
        store.stats().oldest_sequence == scan.first_sequence
    });
    let kept = records.len() as u64;
    assert!((1_000..8_000).contains(&kept), "{kept}");
    let expected = (8_000 - kept..8_000).map(|index| content(2, index, 1_000));
    assert!(records.into_values().eq(expected));
    drop(store);

    // By age: all but the newest records go when something is written.
    config.age_max = Some(Duration::from_millis(400));
    thread::sleep(Duration::from_millis(500));
    let (store, _, _) = open(&config);
    let mut appender = store.appender();
    wait_until("old segments are deleted", || store.stats().segments == 1);
    appender.append(1, b"new", b"").unwrap();
    appender.flush().unwrap();
    wait_until("it is written", || store.stats().records_written_total == 1);
    assert_eq!(store.stats().segments, 1);
    drop((appender, store));
    let (_store, scan, records) = open(&config);
    assert!(scan.damages.is_empty(), "{scan:?}");
    assert_eq!(
        records.into_values().collect::<Vec<_>>(),
        [(1, b"new".to_vec(), vec![])]
    );
}

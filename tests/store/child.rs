//! What runs in a process of its own: tests that do nothing unless one of the other tests starts
//! them, with a directory and a number on standard input.

use crate::harness::{Directory, content, open, wait_until};
use fanwire::store::{AppendError, StoreState, SyncPolicy};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Starts the test `name` of this file; `script` is a shell script that ends with `exec "$@"`, and
/// `$0` in it is the directory.
pub(crate) fn spawn(name: &str, script: &[&str], directory: &Directory, number: u64) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(script.first().map_or("sh", |it| *it));
    command
        .args(script.get(1..).unwrap_or(&["-c", "exec \"$@\""]))
        .arg(&directory.0)
        .arg(program)
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
        .arg(format!("child::{name}"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = format!("{number} {}", directory.0.display());
    // A script that fails reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child
}

/// The directory and the number; `None` if a person has started the test.
fn arguments() -> Option<(Directory, u64)> {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).unwrap();
    let (number, directory) = input.split_once(' ')?;
    Some((Directory(PathBuf::from(directory)), number.parse().unwrap()))
}

fn print(line: &str) {
    let mut output = std::io::stdout().lock();
    output.write_all(line.as_bytes()).unwrap();
    output.flush().unwrap();
}

/// Appends until it is killed, and prints the index and the sequence number of each record that is
/// acknowledged.
#[test]
#[ignore = "kills::what_was_acknowledged_survives_kills starts it"]
fn writes_until_killed() {
    let Some((directory, run)) = arguments() else {
        return;
    };
    let (store, _, _) = open(&directory.config(SyncPolicy::Always));
    let mut appender = store.appender();
    print("\nbegun\n");
    for index in 0.. {
        let (kind, key, payload) = content(run, index, 3_000);
        let done = move |result: Result<u64, _>| {
            print(&format!("ack {index} {}\n", result.unwrap()));
        };
        let _ = appender.append_with(kind, &key, &payload, done);
        if index % (run % 5 + 1) == 0 {
            let _ = appender.flush();
        }
    }
    // Not dropped by a panic: the other process looks at the files.
    std::mem::forget(directory);
}

/// Fills a file system of a few MiB, and then makes it larger.
#[test]
#[ignore = "failures::a_full_disk_is_visible_and_nothing_accepted_is_lost starts it"]
fn fills_its_disk() {
    let Some((directory, _)) = arguments() else {
        return;
    };
    let mut config = directory.config(SyncPolicy::Always);
    config.queue_bytes_max = 1 << 20;
    let (store, _, _) = open(&config);
    let mut appender = store.appender();
    let completed = Arc::new(AtomicU64::new(0));
    let mut accepted = 0;
    let mut last = Ok(());
    for index in 0..20_000 {
        let (kind, key, payload) = content(1, accepted, 1_000);
        let completed = Arc::clone(&completed);
        let done = move |result: Result<u64, _>| {
            assert!(result.is_ok());
            completed.fetch_add(1, Ordering::Relaxed);
        };
        last = appender.append_with(kind, &key, &payload, done);
        accepted += u64::from(last.is_ok());
        if index % 64 == 0 {
            let _ = appender.flush();
            thread::sleep(Duration::from_micros(500));
        }
    }
    assert_eq!(last, Err(AppendError::QueueFull));
    let StoreState::Failed { error } = store.state() else {
        panic!("{:?}", store.state());
    };
    assert!(
        error.contains("No space left") || error.contains("were written"),
        "{error}"
    );
    let stats = store.stats();
    assert_eq!(stats.rejected_queue_full_total, 20_000 - accepted);
    assert!(
        stats.errors_total > 0 && stats.records_lost_total == 0,
        "{stats:?}"
    );
    assert!(!stats.is_direct, "tmpfs is written through the page cache");

    let larger = Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(&directory.0)
        .status();
    assert!(larger.unwrap().success());
    wait_until("the store writes again", || {
        store.state() == StoreState::Running
    });
    wait_until("the queue has room", || appender.flush().is_ok());
    wait_until("all are completed", || {
        completed.load(Ordering::Relaxed) == accepted
    });
    drop((appender, store));
    let (_store, scan, records) = open(&config);
    assert!(scan.damages.is_empty() && scan.was_closed, "{scan:?}");
    let expected = (0..accepted).map(|index| content(1, index, 1_000));
    assert!(records.into_values().eq(expected));
    print(&format!("passed: {error}\n"));
}

/// Writes where files have a limit of size, in small batches.
#[test]
#[ignore = "failures::a_write_that_fails_is_repeated_in_another_segment starts it"]
fn writes_small_files_only() {
    let Some((directory, _)) = arguments() else {
        return;
    };
    let (store, _, _) = open(&directory.config(SyncPolicy::Always));
    let mut appender = store.appender();
    let completed = Arc::new(AtomicU64::new(0));
    for index in 0..1_000 {
        let (kind, key, payload) = content(1, index, 1_000);
        let counter = Arc::clone(&completed);
        let done = move |result: Result<u64, _>| {
            assert_eq!(result, Ok(index + 1));
            counter.fetch_add(1, Ordering::Relaxed);
        };
        appender.append_with(kind, &key, &payload, done).unwrap();
        appender.flush().unwrap();
        wait_until("earlier ones are completed", || {
            completed.load(Ordering::Relaxed) + 10 > index
        });
    }
    wait_until("all are completed", || {
        completed.load(Ordering::Relaxed) == 1_000
    });
    let stats = store.stats();
    assert_eq!(store.state(), StoreState::Running);
    drop((appender, store));
    print(&format!("passed: {} errors\n", stats.errors_total));
    std::mem::forget(directory);
}

/// Writes to a file system without O_DIRECT.
#[test]
#[ignore = "failures::a_file_system_without_direct_writes_is_written_through_the_page_cache starts it"]
fn writes_through_the_page_cache() {
    let Some((directory, _)) = arguments() else {
        return;
    };
    for run in 0..2 {
        let (store, scan, records) = open(&directory.config(SyncPolicy::Always));
        assert!(scan.damages.is_empty() && scan.was_closed, "{scan:?}");
        assert_eq!(records.len() as u64, 100 * run);
        let mut appender = store.appender();
        for index in 0..100 {
            let (kind, key, payload) = content(run, index, 1_000);
            appender.append(kind, &key, &payload).unwrap();
        }
        appender.flush().unwrap();
        wait_until("all are written", || {
            store.stats().records_written_total == 100
        });
        assert!(!store.stats().is_direct);
        drop(appender);
    }
    print("passed\n");
}

/// Reads the store of a disk that lost its power, with the acknowledgements of its writer beside it.
#[test]
#[ignore = "disks::what_was_acknowledged_survives_a_loss_of_power starts it"]
fn reads_after_a_loss_of_power() {
    let Some((directory, run)) = arguments() else {
        return;
    };
    let acknowledged = directory.0.parent().unwrap().join("acknowledged");
    let acknowledged = std::fs::read_to_string(acknowledged).unwrap();
    let (store, scan, records) = open(&directory.config(SyncPolicy::Always));
    assert!(scan.damages.is_empty() && !scan.was_closed, "{scan:?}");
    for line in acknowledged.lines() {
        let (index, sequence) = line.split_once(' ').unwrap();
        let expected = content(run, index.parse().unwrap(), 3_000);
        let found = records.get(&sequence.parse().unwrap());
        assert_eq!(found, Some(&expected), "record {sequence} was acknowledged");
    }
    drop(store);
    print(&format!("passed: {} records\n", records.len()));
    std::mem::forget(directory);
}

/// Writes to a file system whose disk fails in the end, and reads it when the disk is well again.
#[test]
#[ignore = "disks::a_disk_that_fails_is_visible_and_nothing_acknowledged_is_lost starts it"]
fn has_a_disk_that_fails() {
    let Some((directory, run)) = arguments() else {
        return;
    };
    let mounted = Directory(directory.0.join("mounted"));
    let mut config = mounted.config(SyncPolicy::Always);
    config.queue_bytes_max = 1 << 20;
    let (store, _, _) = open(&config);
    let mut appender = store.appender();
    let acknowledged = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut is_rejected = false;
    for index in 0..200_000 {
        let (kind, key, payload) = content(run, index, 3_000);
        let acknowledged = Arc::clone(&acknowledged);
        let done = move |result: Result<u64, _>| {
            if let Ok(sequence) = result {
                acknowledged.lock().unwrap().push((index, sequence));
            }
        };
        is_rejected = appender.append_with(kind, &key, &payload, done).is_err();
        let _ = appender.flush();
        if is_rejected && matches!(store.state(), StoreState::Failed { .. }) {
            break;
        }
        if is_rejected {
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(is_rejected, "the disk did not fail");
    let StoreState::Failed { error } = store.state() else {
        panic!("{:?}", store.state());
    };
    // It stays so: every attempt fails.
    thread::sleep(Duration::from_millis(300));
    assert!(matches!(store.state(), StoreState::Failed { .. }));
    drop(appender);
    store.close();
    let acknowledged = acknowledged.lock().unwrap().clone();
    let shell = |command: &str| {
        let status = Command::new("sh").args(["-c", command]).status();
        assert!(status.unwrap().success(), "{command}");
    };
    // What the kernel could not write is gone with the mount.
    let (at, disk) = (mounted.0.display(), directory.0.display());
    shell(&format!("umount {at}; mount -o remount,size=300m {disk}"));
    shell(&format!("mount -o loop {disk}/image {at}"));
    let (store, scan, records) = open(&config);
    // With `data=journal`, ext4 takes back what it has synced if the disk fails afterwards, at the end of
    // the file or a block in the middle.
    let is_direct = run == 1;
    assert!(scan.damages.is_empty() || !is_direct, "{scan:?}");
    for (index, sequence) in &acknowledged {
        let expected = content(run, *index, 3_000);
        let found = records.get(sequence);
        let is_there = found.is_some_and(|found| *found == expected);
        let is_lost = found.is_none() && !is_direct;
        assert!(is_there || is_lost, "record {sequence} was acknowledged");
    }
    assert!(records.len() > 100, "{}", records.len());
    drop(store);
    let count = acknowledged.len();
    print(&format!("passed: {error}; {count} acknowledged before\n"));
    std::mem::forget((directory, mounted));
}

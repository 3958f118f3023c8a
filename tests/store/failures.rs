//! Disks that are full, directories that cannot be used.

use crate::child;
use crate::harness::{Directory, content, open, wait_until, write_run};
use fanwire::base::now::Clock;
use fanwire::store::{AppendError, Store, StoreConfig, StoreState, SyncPolicy};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// Runs a test of `child.rs` in a mount namespace of its own, with a new file system at the
/// directory. Prints why not where the kernel does not allow that.
fn on_file_system(kind: &str, options: &str, test: &str) {
    let directory = Directory::new(test);
    fs::create_dir(&directory.0).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let namespaces = if is_root { "-m" } else { "-rm" };
    let script = format!("mount -t {kind} -o {options} none \"$0\" || exit 77; exec \"$@\"");
    let script = ["unshare", namespaces, "sh", "-c", &script];
    let child = child::spawn(test, &script, &directory, 0);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    let is_impossible = output.status.code() == Some(77) || errors.contains("unshare");
    assert!(!(is_root && is_impossible), "root may mount: {errors}");
    if is_impossible {
        println!("not tested: this user cannot mount a {kind}: {errors}");
        return;
    }
    assert!(
        output.status.success() && said.contains("passed"),
        "{said}{errors}"
    );
}

#[test]
fn a_full_disk_is_visible_and_nothing_accepted_is_lost() {
    on_file_system("tmpfs", "size=3m", "fills_its_disk");
}

#[test]
fn a_file_system_without_direct_writes_is_written_through_the_page_cache() {
    on_file_system("ramfs", "mode=700", "writes_through_the_page_cache");
}

#[test]
fn a_write_that_fails_is_repeated_in_another_segment() {
    let directory = Directory::new("limit");
    // Files of at most 512 blocks of 512 bytes; the signal would end the process.
    let script = ["sh", "-c", "trap '' XFSZ; ulimit -f 512; exec \"$@\""];
    let child = child::spawn("writes_small_files_only", &script, &directory, 0);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("passed"),
        "{said}{errors}"
    );
    assert!(!said.contains("passed: 0 errors"), "{said}");
    for segment in directory.segments() {
        assert!(segment.metadata().unwrap().len() <= 512 * 512);
    }
    let (_store, scan, records) = open(&directory.config(SyncPolicy::Always));
    assert!(scan.damages.is_empty() && scan.was_closed, "{scan:?}");
    let expected = (0..1_000).map(|index| content(1, index, 1_000));
    assert!(records.into_values().eq(expected));
}

#[test]
fn a_store_without_its_directory_goes_on_when_it_is_back() {
    let directory = Directory::new("moved");
    let mut config = directory.config(SyncPolicy::Always);
    config.queue_bytes_max = 200_000;
    let (store, _, _) = open(&config);
    let elsewhere = directory.0.with_extension("elsewhere");
    fs::rename(&directory.0, &elsewhere).unwrap();
    let mut appender = store.appender();
    let mut accepted = 0;
    loop {
        let (kind, key, payload) = content(1, accepted, 1_000);
        match appender.append(kind, &key, &payload) {
            Ok(()) => accepted += 1,
            Err(AppendError::QueueFull) => break,
            Err(error) => panic!("{error}"),
        }
        let _ = appender.flush();
    }
    wait_until("the store has failed", || {
        matches!(store.state(), StoreState::Failed { .. })
    });
    let StoreState::Failed { error } = store.state() else {
        panic!("{:?}", store.state());
    };
    assert!(error.contains(".seg: No such file"), "{error}");
    assert!(store.stats().rejected_queue_full_total > 0);

    fs::rename(&elsewhere, &directory.0).unwrap();
    wait_until("the store writes again", || appender.flush().is_ok());
    drop(appender);
    store.close();
    let (_store, scan, records) = open(&config);
    assert!(scan.damages.is_empty() && scan.was_closed, "{scan:?}");
    let expected = (0..accepted).map(|index| content(1, index, 1_000));
    assert!(records.into_values().eq(expected));
}

#[test]
fn records_that_cannot_be_written_before_the_end_are_counted_and_told() {
    let directory = Directory::new("gone");
    let mut config = directory.config(SyncPolicy::Always);
    config.retry_interval = std::time::Duration::from_secs(3_600);
    let (store, _, _) = open(&config);
    let elsewhere = directory.0.with_extension("elsewhere");
    fs::rename(&directory.0, &elsewhere).unwrap();
    let mut appender = store.appender();
    let (answers, answer) = std::sync::mpsc::channel();
    let done = move |result: Result<u64, _>| answers.send(result.is_ok()).unwrap();
    appender.append_with(1, b"key", b"", done).unwrap();
    appender.flush().unwrap();
    wait_until("it has failed", || store.state() != StoreState::Running);
    drop(store);
    assert_eq!(answer.try_recv(), Ok(false));
    fs::rename(&elsewhere, &directory.0).unwrap();
    let (_store, _, records) = open(&config);
    assert!(records.is_empty());
}

#[test]
fn a_directory_that_cannot_be_used_is_a_clear_error() {
    let check = |config: &StoreConfig, expected: &str| {
        let error = Store::open(config, Clock::start(), |_| {}).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
    };
    let config = |path: &Path| StoreConfig::new(path);

    let directory = Directory::new("use");
    check(&config(&directory.0.join("store")), "cannot create");
    check(
        &config(Path::new("/proc/fanwire")),
        "cannot create /proc/fanwire",
    );
    fs::create_dir(&directory.0).unwrap();
    fs::write(directory.0.join("notes.txt"), "").unwrap();
    check(&config(&directory.0), "notes.txt is no file of a store");
    assert!(!directory.0.join("lock").exists());
    fs::remove_file(directory.0.join("notes.txt")).unwrap();
    check(&config(&directory.0.join("lock/x")), "cannot create");
    fs::create_dir(directory.0.join("lock")).unwrap();
    check(&config(&directory.0), "lock: Is a directory");
    fs::remove_dir(directory.0.join("lock")).unwrap();

    let (_store, _, _) = open(&config(&directory.0));
    let process = std::process::id();
    check(
        &config(&directory.0),
        &format!("is in use by process {process}"),
    );

    let mut small = config(&directory.0);
    small.segment_bytes = 1;
    check(&small, "segment size of 1 bytes, expected 1048576 to");
    small.segment_bytes = 1 << 20;
    small.store_bytes_max = 1 << 20;
    check(&small, "expected at least two segments");
}

#[test]
fn a_directory_of_another_user_is_a_clear_error() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Root may write everywhere, so another user tries.
    let directory = Directory::new("other");
    write_run(&directory.config(SyncPolicy::Always), 1, 1, 10);
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanwire"));
    command.args(["store", "verify"]).arg(&directory.0);
    let segment = &directory.segments()[0];
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(segment, permissions).unwrap();
    let output = command.uid(65_534).gid(65_534).output();
    // The program itself may be in a folder of root's.
    let Ok(output) = output else { return };
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains(".seg: Permission denied"), "{errors}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_second_process_is_kept_out_though_the_lock_file_was_removed() {
    let directory = Directory::new("unlocked");
    let config = directory.config(SyncPolicy::Always);
    let (_store, _, _) = open(&config);
    fs::remove_file(directory.0.join("lock")).unwrap();
    let error = Store::open(&config, Clock::start(), |_| {}).unwrap_err();
    assert!(error.to_string().contains("is in use by"), "{error}");
}

#[test]
fn a_disk_that_does_not_answer_is_a_failure_until_it_does() {
    let directory = Directory::new("hangs");
    let (store, _, _) = open(&directory.config(SyncPolicy::Always));
    let mut appender = store.appender();
    let (answer, awaited) = std::sync::mpsc::channel::<()>();
    // It runs on the thread of the store, which stands still as it does while a disk hangs.
    let hang = move |_| {
        let _ = awaited.recv();
    };
    appender.append_with(1, b"key", b"", hang).unwrap();
    appender.flush().unwrap();
    wait_until("it has failed", || store.state() != StoreState::Running);
    let StoreState::Failed { error } = store.state() else {
        panic!("{:?}", store.state());
    };
    assert!(
        error.starts_with("the disk has not answered for"),
        "{error}"
    );
    drop(answer);
    wait_until("it answers", || store.state() == StoreState::Running);
}

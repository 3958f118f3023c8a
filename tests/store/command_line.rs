//! `fanwire store verify` and `fanwire store dump`.

use crate::harness::{Directory, fanwire, open, write_run};
use fanwire::store::{SyncPolicy, dump};
use serde_json::{Value, json};
use std::fs;
use std::thread;

#[test]
fn a_dump_has_each_record_in_a_line() {
    let directory = Directory::new("dump");
    let (store, _, _) = open(&directory.config(SyncPolicy::Always));
    let mut appender = store.appender();
    appender
        .append(3, b"news", "{\"text\":\"hällo\"}".as_bytes())
        .unwrap();
    appender.append(4, b"\xff", b"\x00\xfe").unwrap();
    appender.flush().unwrap();
    drop((appender, store));
    let (code, output, _) = fanwire(&["store", "dump"], &directory.0);
    assert_eq!(code, Some(0));
    let lines: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let segment = "00000000000000000001.seg";
    assert_eq!(
        lines,
        [
            json!({"segment": segment, "sequence": 1, "kind": 3, "key": "news",
                "payload": "{\"text\":\"hällo\"}"}),
            json!({"segment": segment, "sequence": 2, "kind": 4, "key_base64": "/w==",
                "payload_base64": "AP4="}),
        ]
    );
}

#[test]
fn verify_names_each_damage_and_changes_nothing() {
    let directory = Directory::new("verify");
    write_run(&directory.config(SyncPolicy::Always), 1, 100, 500);
    let (code, output, _) = fanwire(&["store", "verify"], &directory.0);
    assert_eq!(code, Some(0), "{output}");
    assert!(
        output.contains("100 records (1 to 100) in 1 segments"),
        "{output}"
    );
    assert!(output.contains("closed in order; 0 damages"), "{output}");

    let segment = &directory.segments()[0];
    let mut bytes = fs::read(segment).unwrap();
    bytes[4_096 + 30] ^= 1;
    fs::write(segment, &bytes).unwrap();
    for command in ["verify", "dump"] {
        let (code, output, errors) = fanwire(&["store", command], &directory.0);
        assert_eq!(code, Some(1), "{output}{errors}");
        let report = if command == "verify" { output } else { errors };
        assert!(report.contains(".seg at 4096: "), "{report}");
        assert!(report.contains("record 1 is lost"), "{report}");
    }
    // A tail is cut by the next start only.
    // No record ends at an odd place.
    let cut = bytes.len() / 2 + 1;
    fs::write(segment, &bytes[..cut]).unwrap();
    let (code, output, _) = fanwire(&["store", "verify"], &directory.0);
    assert_eq!(code, Some(1));
    assert!(output.contains("of a write that did not end"), "{output}");
    assert_eq!(fs::read(segment).unwrap(), &bytes[..cut]);

    let (code, _, errors) = fanwire(&["store", "verify"], &directory.0.join("none"));
    assert_eq!(code, Some(2));
    assert!(errors.contains("cannot read"), "{errors}");
    fs::write(directory.0.join("x"), "").unwrap();
    let (code, _, errors) = fanwire(&["store", "dump"], &directory.0);
    assert_eq!(code, Some(2));
    assert!(errors.contains("/x is no file of a store"), "{errors}");
}

#[test]
fn verify_works_while_the_store_is_written() {
    let directory = Directory::new("live");
    let mut config = directory.config(SyncPolicy::Always);
    config.store_bytes_max = 4 << 20;
    let (store, _, _) = open(&config);
    let mut appender = store.appender();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let payload = [b'x'; 700];
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = appender.append(1, b"key", &payload);
                let _ = appender.flush();
            }
        });
        // Until segments were deleted meanwhile.
        let verifications = (0..5_000).take_while(|count| {
            let is_moving = store.stats().segments_deleted_total > 0;
            *count < 5 || !is_moving
        });
        for _ in verifications {
            let (code, output, errors) = fanwire(&["store", "verify"], &directory.0);
            assert_eq!(code, Some(0), "{output}{errors}");
            assert!(output.contains("in use; 0 damages"), "{output}");
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(
        store.stats().segments_deleted_total > 0,
        "{:?}",
        store.stats()
    );
}

/// Deletes segments when the first record is written to it, as a checkpoint does.
struct Deleting(Vec<std::path::PathBuf>);

impl std::io::Write for Deleting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for path in self.0.drain(..) {
            fs::remove_file(path)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_dump_reports_nothing_that_is_deleted_meanwhile() {
    let directory = Directory::new("deleted");
    write_run(&directory.config(SyncPolicy::Never), 1, 6_000, 800);
    let segments = directory.segments();
    assert!(segments.len() > 2);
    let mut output = Deleting(segments[..segments.len() - 1].to_vec());
    let inspection = dump(&directory.0, &mut output).unwrap().unwrap();
    assert_eq!(inspection.scan.damages, []);
    assert_eq!(inspection.scan.last_sequence, 6_000);
    assert!(inspection.scan.records < 6_000);
}

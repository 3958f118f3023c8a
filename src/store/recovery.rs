//! Reads what an earlier process has written, and repairs the end.

use super::directory::LockedDirectory;
use super::error::StoreError;
use super::format::BLOCK_BYTES;
use super::scan::{StoreScan, StoredRecord, scan};
use std::fs::{self, OpenOptions};
use std::ops::ControlFlow;

/// Passes all records to `on_record` and cuts off the tail of a write that did not end.
pub(super) fn recover(
    directory: &LockedDirectory,
    mut on_record: impl FnMut(StoredRecord<'_>),
) -> Result<StoreScan, StoreError> {
    let mut scan = scan(directory.path(), &mut |_, record| {
        on_record(record);
        ControlFlow::Continue(())
    })?;
    if let Some(tail) = &scan.torn_tail {
        let is_cut = OpenOptions::new().write(true).open(&tail.segment);
        let is_cut = is_cut.and_then(|file| {
            file.set_len(tail.offset)?;
            file.sync_all()
        });
        is_cut.map_err(StoreError::io("cut the torn tail of", &tail.segment))?;
        scan.bytes -= tail.bytes;
        for file in &mut scan.files {
            if directory.segment_path(file.first_sequence) == tail.segment {
                file.bytes = tail.offset;
            }
        }
    }
    // A segment without records would have the name of the next one.
    while let Some(file) = scan.files.last() {
        if file.records > 0 || file.bytes > BLOCK_BYTES as u64 {
            break;
        }
        let path = directory.segment_path(file.first_sequence);
        fs::remove_file(&path).map_err(StoreError::io("delete", &path))?;
        scan.segments -= 1;
        scan.bytes -= file.bytes;
        scan.files.pop();
    }
    directory
        .sync()
        .map_err(StoreError::io("sync", directory.path()))?;
    Ok(scan)
}

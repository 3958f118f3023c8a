//! `fanwire store verify` and `fanwire store dump`: reads a store and changes nothing, while a
//! server writes it or not.

use super::directory;
use super::error::StoreError;
use super::scan::{StoreScan, StoredRecord, TornTail, scan};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use std::fmt;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Reads of a store that is written, and the time between them: a batch that is written just now
/// may look damaged.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// What an inspection has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The content of the store.
    pub scan: StoreScan,
    /// Whether a process writes it: what is behind the last record may be written just now.
    pub is_written: bool,
}

impl Inspection {
    /// Whether anything is damaged, or was not written to its end by a process that is gone.
    #[must_use]
    pub const fn is_damaged(&self) -> bool {
        self.scan.damages_total > 0 || (self.scan.torn_tail.is_some() && !self.is_written)
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scan = &self.scan;
        for damage in &scan.damages {
            writeln!(formatter, "damaged  {damage}")?;
        }
        let unlisted = scan.damages_total - scan.damages.len() as u64;
        if unlisted > 0 {
            writeln!(formatter, "damaged  {unlisted} further places")?;
        }
        if let Some(TornTail {
            segment,
            offset,
            bytes,
        }) = &scan.torn_tail
        {
            let why = if self.is_written {
                "of a write that goes on"
            } else {
                "of a write that did not end"
            };
            let segment = segment.display();
            writeln!(
                formatter,
                "tail     {segment} at {offset}: {bytes} bytes {why}"
            )?;
        }
        let StoreScan {
            records,
            segments,
            bytes,
            first_sequence,
            last_sequence,
            ..
        } = scan;
        write!(formatter, "{records} records")?;
        if *records > 0 {
            write!(formatter, " ({first_sequence} to {last_sequence})")?;
        }
        write!(formatter, " in {segments} segments, {bytes} bytes")?;
        if let Some(epoch) = scan.epoch {
            write!(formatter, ", epoch {epoch:016x}")?;
        }
        let end = match (self.is_written, scan.was_closed) {
            (true, _) => "in use",
            (false, true) => "closed in order",
            (false, false) => "not closed in order",
        };
        writeln!(formatter, ", {end}; {} damages", scan.damages_total)
    }
}

/// Reads all records of a store and checks them.
///
/// # Errors
/// If the directory or a segment cannot be read, has foreign files, or is of a later version. Damage
/// is no error.
pub fn verify(directory: &Path) -> Result<Inspection, StoreError> {
    let mut attempts = ATTEMPTS;
    loop {
        let is_written = directory::is_locked(directory);
        let scan = scan(directory, &mut |_, _| ControlFlow::Continue(()))?;
        attempts -= 1;
        if !is_written || scan.damages_total == 0 || attempts == 0 {
            return Ok(Inspection { scan, is_written });
        }
        thread::sleep(PAUSE);
    }
}

/// Writes all records to `output`, one JSON object in a line: `segment`, `sequence`, `kind`, and
/// `key` and `payload` as text, or as `key_base64` and `payload_base64` if they are no UTF-8.
///
/// # Errors
/// Like [`verify`]; the inner error is that of `output`, which ends the dump.
pub fn dump(
    directory: &Path,
    output: &mut dyn Write,
) -> Result<Result<Inspection, io::Error>, StoreError> {
    let mut result = Ok(());
    let is_written = directory::is_locked(directory);
    let scan = scan(directory, &mut |path, record| {
        result = write_record(path, record, output);
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    let inspection = Inspection { scan, is_written };
    Ok(result.map(|()| inspection))
}

fn write_record(path: &Path, record: StoredRecord<'_>, output: &mut dyn Write) -> io::Result<()> {
    let mut line = Map::new();
    let segment = path.file_name().unwrap_or_default().to_string_lossy();
    line.insert("segment".to_owned(), segment.into());
    line.insert("sequence".to_owned(), record.sequence.into());
    line.insert("kind".to_owned(), record.kind.into());
    for (name, bytes) in [("key", record.key), ("payload", record.payload)] {
        match std::str::from_utf8(bytes) {
            Ok(text) => line.insert(name.to_owned(), text.into()),
            Err(_) => line.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
        };
    }
    writeln!(output, "{}", Value::Object(line))
}

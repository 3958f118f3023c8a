//! Reads all segments of a store in their order.

use super::directory;
use super::error::StoreError;
use super::format::{
    BLOCK_BYTES, Checksum, FRAME_HEADER_BYTES, HeaderError, KIND_CLOSED, SegmentHeader,
};
use super::image::Image;
use super::segment_reader::{Found, SegmentReader};
use crate::base::limits::STORE_DAMAGES_LISTED;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::{ControlFlow, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

pub use super::format::StoredRecord;

/// What is wrong with a part of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// Bytes that are neither a record nor padding.
    Unreadable,
    /// Neither copy of the segment's header is valid, so that nothing in it can be read.
    Header,
    /// One copy of the segment's header, or what is beside the copies, has changed. Nothing is lost
    /// by it.
    HeaderCopy,
    /// The segment is one of another store, so that nothing of it is read.
    OtherStore,
    /// The segment has the name of another one, so that nothing of it is read: its header says with
    /// which sequence number it begins.
    Renamed(u64),
    /// Everything is readable, and yet sequence numbers are missing in front of this place.
    Missing,
    /// The operating system cannot read the segment from here on; its answer.
    Read(String),
}

/// Damage at one place of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What is wrong.
    pub kind: DamageKind,
    /// The segment.
    pub segment: PathBuf,
    /// Where it begins, bytes from the start of the segment.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// The records that are lost by it; `None` = none, or unknown because none follows.
    pub lost: Option<RangeInclusive<u64>>,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, bytes, .. } = self;
        write!(formatter, "{} at {offset}: ", self.segment.display())?;
        match &self.kind {
            DamageKind::Unreadable => write!(formatter, "{bytes} unreadable bytes")?,
            DamageKind::Header => write!(formatter, "no valid header, {bytes} unreadable bytes")?,
            DamageKind::OtherStore => formatter.write_str("a segment of another store")?,
            DamageKind::Renamed(first) => {
                write!(formatter, "it was renamed: the header says {first}")?;
            }
            DamageKind::HeaderCopy => formatter.write_str("changed bytes in the first block")?,
            DamageKind::Missing => formatter.write_str("records are missing")?,
            DamageKind::Read(error) => write!(formatter, "{bytes} bytes cannot be read: {error}")?,
        }
        match &self.lost {
            Some(lost) if lost.start() == lost.end() => {
                write!(formatter, "; record {} is lost", lost.start())
            }
            Some(lost) => write!(
                formatter,
                "; records {} to {} are lost",
                lost.start(),
                lost.end()
            ),
            None => Ok(()),
        }
    }
}

/// What is behind the last whole record of the last segment: what a kill or a loss of power left of
/// a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub segment: PathBuf,
    /// Where it begins, bytes from the start of the segment.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

/// What is in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreScan {
    /// The random number that the store got when its directory was empty; `None` if it has no
    /// segment.
    pub epoch: Option<u64>,
    /// Segments.
    pub segments: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Records that were read.
    pub records: u64,
    /// Sequence number of the first of them; 0 = none.
    pub first_sequence: u64,
    /// Sequence number of the last of them; 0 = none.
    pub last_sequence: u64,
    /// Whether the store was closed in order after its last record, so that none that was queued is
    /// missing at the end. True if there are no segments.
    pub was_closed: bool,
    /// What is damaged, in its order: the first thousand places.
    pub damages: Vec<Damage>,
    /// All places that are damaged.
    pub damages_total: u64,
    /// What a write that did not end has left.
    pub torn_tail: Option<TornTail>,
    /// The segments by their names, with what retention needs of them.
    pub(super) files: Vec<SegmentFile>,
    /// A sequence number behind all that can be in the segments.
    pub(super) next_sequence: u64,
}

/// A segment and its place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentFile {
    pub(super) first_sequence: u64,
    pub(super) bytes: u64,
    pub(super) records: u64,
    pub(super) written_unix_ms: u64,
}

/// Reads the store in `directory` and passes each record to `on_record` until that breaks. Changes
/// nothing. A segment that is deleted meanwhile counts as never there.
///
/// # Errors
/// If the directory cannot be read or has foreign files, a segment cannot be opened, or is of a
/// later version.
pub(super) fn scan(
    directory: &Path,
    on_record: &mut dyn FnMut(&Path, StoredRecord<'_>) -> ControlFlow<()>,
) -> Result<StoreScan, StoreError> {
    let mut scanner = Scanner {
        scan: StoreScan {
            was_closed: true,
            next_sequence: 1,
            ..StoreScan::default()
        },
        epoch: None,
        expected: None,
        pending: Vec::new(),
        is_stopped: false,
        on_record,
    };
    let mut image = Image::new();
    let names = directory::list_segments(directory)?;
    scanner.epoch = common_epoch(directory, &names);
    scanner.scan.epoch = scanner.epoch;
    for name in names.iter().copied() {
        if scanner.is_stopped {
            break;
        }
        scanner.read_segment(directory, name, &mut image)?;
    }
    Ok(scanner.finish())
}

/// The epoch of most segments; of equally many, the newest one.
fn common_epoch(directory: &Path, names: &[u64]) -> Option<u64> {
    let mut counts = HashMap::<u64, (usize, usize)>::new();
    for (index, name) in names.iter().enumerate() {
        let mut block = [0; BLOCK_BYTES];
        let file = File::open(directory::segment_path(directory, *name));
        let read = file.and_then(|mut file| file.read_exact(&mut block));
        if let (Ok(()), Ok((header, _))) = (read, SegmentHeader::decode(&block)) {
            let count = counts.entry(header.epoch).or_default();
            *count = (count.0 + 1, index);
        }
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(epoch, _)| epoch)
}

/// The state between two segments.
struct Scanner<'a> {
    scan: StoreScan,
    /// The epoch that the segments should have.
    epoch: Option<u64>,
    /// The next sequence number, once there is a first.
    expected: Option<u64>,
    /// Damages of which it is not known yet what is lost by them. What a failed write has left is
    /// none if nothing is lost.
    pending: Vec<(Damage, IsTail)>,
    is_stopped: bool,
    on_record: &'a mut dyn FnMut(&Path, StoredRecord<'_>) -> ControlFlow<()>,
}

/// Whether a damage is behind the last record of its segment.
type IsTail = bool;

impl Scanner<'_> {
    fn read_segment(
        &mut self,
        directory: &Path,
        name: u64,
        image: &mut Image,
    ) -> Result<(), StoreError> {
        let path = directory::segment_path(directory, name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // It was deleted, as all before it: what is missing is none of the store.
                self.expected = None;
                return Ok(());
            }
            opened => opened.map_err(StoreError::io("open", &path))?,
        };
        let metadata = file.metadata().map_err(StoreError::io("read", &path))?;
        let length = metadata.len();
        let image = image.read(&path, &file, length);
        let (bytes, read) = image.map_err(StoreError::io("read", &path))?;

        let mut segment = SegmentFile {
            first_sequence: name,
            bytes: length,
            records: 0,
            written_unix_ms: metadata
                .modified()
                .ok()
                .and_then(|it| it.duration_since(UNIX_EPOCH).ok())
                .map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
        };
        self.scan.segments += 1;
        self.scan.bytes += length;
        let damage = |kind, offset, bytes: usize| Damage {
            kind,
            segment: path.clone(),
            offset: offset as u64,
            bytes: bytes as u64,
            lost: None,
        };
        match SegmentHeader::decode(bytes) {
            Ok((header, _))
                if Some(header.epoch) != self.epoch || header.first_sequence != name =>
            {
                let kind = match Some(header.epoch) == self.epoch {
                    true => DamageKind::Renamed(header.first_sequence),
                    false => DamageKind::OtherStore,
                };
                for first in [name, header.first_sequence] {
                    self.skip_numbers(first, length);
                }
                self.pending.push((damage(kind, 0, bytes.len()), false));
            }
            Ok((header, is_whole)) => {
                self.scan.next_sequence = self.scan.next_sequence.max(header.first_sequence);
                self.expected.get_or_insert(header.first_sequence);
                if !is_whole {
                    self.report(damage(DamageKind::HeaderCopy, 0, 0));
                }
                for found in SegmentReader::new(bytes, Checksum::salted(header.salt)) {
                    match found {
                        Found::Record(record, offset) => {
                            segment.records += 1;
                            self.on_record(&path, offset, record);
                        }
                        Found::Unreadable { offset, bytes } => {
                            let damage = damage(DamageKind::Unreadable, offset, bytes);
                            self.pending.push((damage, false));
                        }
                        Found::Tail { offset, bytes } => {
                            let damage = damage(DamageKind::Unreadable, offset, bytes);
                            self.pending.push((damage, true));
                        }
                    }
                }
            }
            Err(HeaderError::Version(version)) => {
                return Err(StoreError::Version { path, version });
            }
            Err(error) => {
                if error == HeaderError::Damaged {
                    self.skip_numbers(name, length);
                }
                let is_tail = error == HeaderError::Unwritten;
                let damage = damage(DamageKind::Header, 0, bytes.len());
                self.pending.push((damage, is_tail));
            }
        }
        if let Err(error) = read {
            let mut damage = damage(DamageKind::Read(error.to_string()), bytes.len(), 0);
            damage.bytes = length - damage.offset;
            self.pending.push((damage, false));
        }
        self.scan.files.push(segment);
        Ok(())
    }

    /// Gives no number that a segment of this length which begins with `first` can have at most.
    fn skip_numbers(&mut self, first: u64, length: u64) {
        let behind = first.saturating_add(length / FRAME_HEADER_BYTES as u64 + 1);
        if behind < u64::MAX / 2 {
            self.scan.next_sequence = self.scan.next_sequence.max(behind);
        }
    }

    fn on_record(&mut self, path: &Path, offset: usize, record: StoredRecord<'_>) {
        let expected = self.expected.unwrap_or(record.sequence);
        if record.sequence < expected {
            // A write that failed, and was repeated in the next segment, may be in both.
            return;
        }
        if record.sequence > expected && self.pending.is_empty() {
            let damage = Damage {
                kind: DamageKind::Missing,
                segment: path.to_owned(),
                offset: offset as u64,
                bytes: 0,
                lost: None,
            };
            self.pending.push((damage, false));
        }
        let mut lost = (record.sequence > expected).then(|| expected..=record.sequence - 1);
        for (mut damage, is_tail) in std::mem::take(&mut self.pending) {
            damage.lost = lost.take();
            // What a failed write leaves begins where its batch did.
            let is_at_batch = damage.offset.is_multiple_of(BLOCK_BYTES as u64);
            if damage.lost.is_some() || !(is_tail && is_at_batch) {
                self.report(damage);
            }
        }
        self.expected = Some(record.sequence + 1);
        self.scan.next_sequence = self.scan.next_sequence.max(record.sequence + 1);
        self.scan.was_closed = record.kind == KIND_CLOSED;
        if record.kind == KIND_CLOSED || self.is_stopped {
            return;
        }
        self.scan.records += 1;
        self.scan.last_sequence = record.sequence;
        if self.scan.first_sequence == 0 {
            self.scan.first_sequence = record.sequence;
        }
        self.is_stopped = (self.on_record)(path, record).is_break();
    }

    fn report(&mut self, damage: Damage) {
        self.scan.damages_total += 1;
        if self.scan.damages.len() < STORE_DAMAGES_LISTED {
            self.scan.damages.push(damage);
        }
    }

    fn finish(mut self) -> StoreScan {
        let mut pending = std::mem::take(&mut self.pending);
        if let Some((damage, true)) = pending.last() {
            self.scan.torn_tail = Some(TornTail {
                segment: damage.segment.clone(),
                offset: damage.offset,
                bytes: damage.bytes,
            });
            pending.pop();
        }
        if !pending.is_empty() || self.scan.torn_tail.is_some() {
            self.scan.was_closed = false;
        }
        for (damage, is_tail) in pending {
            if !is_tail {
                self.report(damage);
            }
        }
        self.scan
    }
}

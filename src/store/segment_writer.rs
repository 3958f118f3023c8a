//! Writes segments: one file at a time, whole batches, with or without the page cache.

use super::buffer::BlockBuffer;
use super::config::{StoreConfig, SyncPolicy};
use super::directory::LockedDirectory;
use super::format::{BLOCK_BYTES, SegmentHeader};
use super::retention::{ClosedSegment, Retention};
use super::segment_file::SegmentFile;
use super::status::{self, Status};
use crate::base::Now;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const SYNC: &str = "sync";

/// A failed operation on a file: what, where, and the answer of the operating system.
#[derive(Debug)]
pub(super) struct WriteError {
    action: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl WriteError {
    fn is_sync(&self) -> bool {
        self.action == SYNC
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            action,
            path,
            error,
        } = self;
        write!(formatter, "cannot {action} {}: {error}", path.display())
    }
}

/// A batch that can be written, any number of times.
#[derive(Debug)]
pub(super) struct SealedBatch {
    pub(super) buffer: BlockBuffer,
    /// Its length, a multiple of a block.
    pub(super) bytes: usize,
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    /// Whether it is to be the first of a segment.
    pub(super) begins_segment: bool,
}

impl SealedBatch {
    fn blocks(&self) -> &[u8] {
        &self.buffer.bytes()[..self.bytes]
    }
}

/// The segment that is written.
#[derive(Debug)]
struct ActiveSegment {
    file: SegmentFile,
    path: PathBuf,
    first_sequence: u64,
    /// Up to the last whole batch.
    bytes: u64,
    begun_ms: u64,
    is_synced: bool,
}

/// Writes batches to segments and deletes old ones.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    directory: LockedDirectory,
    segment_bytes: u64,
    sync_policy: SyncPolicy,
    epoch: u64,
    salt: u64,
    retention: Retention,
    active: Option<ActiveSegment>,
    status: Arc<Status>,
}

impl SegmentWriter {
    pub(super) fn new(
        directory: LockedDirectory,
        config: &StoreConfig,
        (epoch, salt): (u64, u64),
        retention: Retention,
        status: Arc<Status>,
    ) -> Self {
        let writer = Self {
            directory,
            segment_bytes: config.segment_bytes,
            sync_policy: config.sync,
            epoch,
            salt,
            retention,
            active: None,
            status,
        };
        writer.publish_totals();
        writer
    }

    /// Writes a batch, to the next segment if this one is full or old, and makes it durable with
    /// all before it if `sync` says so.
    ///
    /// # Errors
    /// The batch is not in the store then, or not durable. The caller calls
    /// [`abandon`](Self::abandon).
    pub(super) fn write(
        &mut self,
        batch: &SealedBatch,
        sync: bool,
        now: Now,
    ) -> Result<(), WriteError> {
        let length = batch.bytes as u64;
        if self.is_finished(length, now) || batch.begins_segment && self.has_records() {
            self.close(now)?;
        }
        if self.active.is_none() {
            self.delete_expired(self.segment_bytes.max(length), now);
            self.begin(batch.first_sequence, now)?;
        }
        let active = self.active.as_mut().expect("it was begun above");
        let written = active.file.write(batch.blocks(), active.bytes);
        written.map_err(failed("write", &active.path))?;
        active.is_synced = false;
        if sync {
            self.sync()?;
        }
        let active = self.active.as_mut().expect("nothing closes it here");
        active.bytes += length;
        status::add(&self.status.writes, 1);
        status::add(&self.status.bytes_written, length);
        let records = batch.last_sequence - batch.first_sequence + 1;
        status::add(&self.status.records_written, records);
        status::set(&self.status.last_sequence, batch.last_sequence);
        self.publish_totals();
        Ok(())
    }

    fn is_finished(&self, length: u64, now: Now) -> bool {
        let Some(active) = &self.active else {
            return false;
        };
        let age_ms = now.monotonic_ms.saturating_sub(active.begun_ms);
        let is_old = self.retention.segment_age_max_ms();
        self.has_records()
            && (active.bytes + length > self.segment_bytes
                || is_old.is_some_and(|max| age_ms >= max))
    }

    fn has_records(&self) -> bool {
        let active = self.active.as_ref();
        active.is_some_and(|active| active.bytes > BLOCK_BYTES as u64)
    }

    /// Creates a segment and writes its header.
    fn begin(&mut self, first_sequence: u64, now: Now) -> Result<(), WriteError> {
        let path = self.directory.segment_path(first_sequence);
        let header = SegmentHeader {
            epoch: self.epoch,
            salt: self.salt,
            first_sequence,
        };
        let file = SegmentFile::create(&path, &header.encode());
        let file = file.map_err(failed("create", &path))?;
        let is_direct = file.is_direct();
        // Relaxed: readers need only the value itself.
        let was_direct = self.status.is_direct.swap(is_direct, Ordering::Relaxed);
        let is_first = self.status.writes.load(Ordering::Relaxed) == 0;
        if !is_direct && (was_direct || is_first) {
            let directory = self.directory.path().display();
            tracing::warn!(%directory, "the store is written through the page cache, \
                because its file system does not allow O_DIRECT");
        }
        self.active = Some(ActiveSegment {
            file,
            path,
            first_sequence,
            bytes: BLOCK_BYTES as u64,
            begun_ms: now.monotonic_ms,
            is_synced: false,
        });
        if self.sync_policy != SyncPolicy::Never {
            // The name of the file, too, must be durable.
            let synced = self.directory.sync();
            synced.map_err(|error| WriteError {
                action: SYNC,
                path: self.directory.path().to_owned(),
                error,
            })?;
        }
        Ok(())
    }

    /// Makes durable what was written.
    pub(super) fn sync(&mut self) -> Result<(), WriteError> {
        let Some(active) = self.active.as_mut().filter(|it| !it.is_synced) else {
            return Ok(());
        };
        let synced = active.file.sync();
        synced.map_err(failed(SYNC, &active.path))?;
        active.is_synced = true;
        status::add(&self.status.syncs, 1);
        Ok(())
    }

    /// Closes the segment; the next batch begins another one.
    pub(super) fn close(&mut self, now: Now) -> Result<(), WriteError> {
        if self.sync_policy != SyncPolicy::Never {
            self.sync()?;
        }
        if let Some(active) = self.active.take() {
            self.keep(&active, now);
        }
        Ok(())
    }

    /// Gives up the segment after an error, with what was written to it whole, and returns whether
    /// that is durable. After a failed sync nobody can tell: a further one may succeed although
    /// pages were lost (fsync(2), and <https://lwn.net/Articles/752063/>).
    pub(super) fn abandon(&mut self, error: &WriteError, now: Now) -> bool {
        status::add(&self.status.errors, 1);
        let Some(active) = self.active.take() else {
            return false;
        };
        let mut is_durable = active.is_synced;
        // What cannot be removed here is a torn tail, or an empty segment, when the store is read.
        if active.bytes > BLOCK_BYTES as u64 {
            let _ = active.file.cut(active.bytes);
            is_durable |= !error.is_sync() && active.file.sync().is_ok();
            self.keep(&active, now);
        } else {
            let _ = fs::remove_file(&active.path);
        }
        self.publish_totals();
        is_durable
    }

    /// Whether a segment is written.
    pub(super) const fn has_active(&self) -> bool {
        self.active.is_some()
    }

    fn keep(&mut self, active: &ActiveSegment, now: Now) {
        let segment = ClosedSegment {
            first_sequence: active.first_sequence,
            bytes: active.bytes,
        };
        self.retention.add(segment, now.unix_ms, now);
    }

    /// Deletes segments that are too old, or too many with `active_bytes` in the one that is
    /// written or about to be.
    fn delete_expired(&mut self, active_bytes: u64, now: Now) {
        self.delete_while(|retention| retention.take_expired(active_bytes, now));
    }

    /// Deletes the segments whose records are all before this sequence number.
    pub(super) fn delete_before(&mut self, sequence: u64) {
        let active = self.active.as_ref().map(|active| active.first_sequence);
        self.delete_while(|retention| retention.take_before(sequence, active));
    }

    fn delete_while(&mut self, mut next: impl FnMut(&mut Retention) -> Option<ClosedSegment>) {
        let mut is_deleted = false;
        while let Some(segment) = next(&mut self.retention) {
            let path = self.directory.segment_path(segment.first_sequence);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // It is found again at the next start.
                    status::add(&self.status.errors, 1);
                    let path = path.display();
                    tracing::warn!(%path, %error, "cannot delete a segment of the store");
                }
                _ => {
                    status::add(&self.status.segments_deleted, 1);
                    is_deleted = true;
                }
            }
        }
        if is_deleted {
            self.publish_totals();
        }
    }

    /// Deletes what is too old; to be called now and then.
    pub(super) fn delete_old(&mut self, now: Now) {
        let active_bytes = self.active.as_ref().map_or(0, |active| active.bytes);
        self.delete_expired(active_bytes, now);
    }

    fn publish_totals(&self) {
        let (mut segments, mut bytes) = self.retention.totals();
        let active = self.active.as_ref();
        segments += u64::from(active.is_some());
        bytes += active.map_or(0, |active| active.bytes);
        let oldest = self.retention.oldest();
        let oldest = oldest.or(active.map(|active| active.first_sequence));
        status::set(&self.status.segments, segments);
        status::set(&self.status.bytes, bytes);
        status::set(&self.status.oldest_sequence, oldest.unwrap_or(0));
    }
}

fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> WriteError + use<'a> {
    move |error| WriteError {
        action,
        path: path.to_owned(),
        error,
    }
}

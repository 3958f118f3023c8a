//! Writes segments: one file at a time, whole batches, with or without the page cache.

use super::config::{StoreConfig, SyncPolicy};
use super::directory::LockedDirectory;
use super::format::{BLOCK_BYTES, SegmentHeader};
use super::retention::{ClosedSegment, Retention};
use super::status::{self, Status};
use crate::base::Now;
use glommio::GlommioError;
use glommio::io::{BufferedFile, DmaBuffer, DmaFile, OpenOptions};
use rustix::fs::{major, statfs};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
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
#[derive(Clone, Debug)]
pub(super) struct SealedBatch {
    /// Whole blocks.
    pub(super) bytes: Rc<DmaBuffer>,
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    /// Whether it is to be the first of a segment.
    pub(super) begins_segment: bool,
}

/// A file that is written at multiples of a block.
#[derive(Debug)]
enum SegmentHandle {
    Direct(DmaFile),
    /// Where the file system, or what is known of its disk, does not allow O_DIRECT.
    Buffered(BufferedFile),
}

impl SegmentHandle {
    /// Creates the file, or empties what an earlier attempt has left.
    ///
    /// It is opened for writing only. glommio then does not poll the device for completions
    /// (DataDog/glommio#670), which would keep a core busy, and fails where the device does not
    /// allow it (DataDog/glommio#605).
    async fn create(path: &Path, may_be_direct: bool) -> Result<Self, GlommioError<()>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o640);
        if may_be_direct {
            match options.dma_open(path).await {
                Ok(file) if file.alignment() <= BLOCK_BYTES as u64 => {
                    return Ok(Self::Direct(file));
                }
                Ok(file) => file.close().await?,
                Err(error) if is_invalid(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self::Buffered(options.buffered_open(path).await?))
    }

    async fn write(&self, bytes: &Rc<DmaBuffer>, offset: u64) -> Result<(), GlommioError<()>> {
        let written = match self {
            Self::Direct(file) => file.write_rc_at(Rc::clone(bytes), offset).await?,
            Self::Buffered(file) => file.write_at(bytes.as_bytes().to_vec(), offset).await?,
        };
        if written == bytes.len() {
            return Ok(());
        }
        let message = format!("{written} of {} bytes were written", bytes.len());
        let error = io::Error::new(io::ErrorKind::StorageFull, message);
        Err(GlommioError::IoError(error))
    }

    async fn sync(&self) -> Result<(), GlommioError<()>> {
        match self {
            Self::Direct(file) => file.fdatasync().await,
            Self::Buffered(file) => file.fdatasync().await,
        }
    }

    async fn close(self) -> Result<(), GlommioError<()>> {
        match self {
            Self::Direct(file) => file.close().await,
            Self::Buffered(file) => file.close().await,
        }
    }
}

/// Whether the file system does not know O_DIRECT (open(2)).
fn is_invalid(error: &GlommioError<()>) -> bool {
    io_error(error).kind() == io::ErrorKind::InvalidInput
}

/// The operating system's part of an error, without what glommio adds to it.
fn io_error(error: &GlommioError<()>) -> io::Error {
    match error {
        GlommioError::IoError(error) => copy(error),
        GlommioError::EnhancedIoError { source, .. } => copy(source),
        other => io::Error::other(other.to_string()),
    }
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Whether the files of this directory may be opened with O_DIRECT through glommio.
///
/// glommio leaves the flag out on tmpfs without saying so. Elsewhere it reads what the kernel tells
/// about the disk with the minor number 0, and panics if that is a partition, as it can be for NVMe.
fn may_be_direct(directory: &Path) -> bool {
    /// `TMPFS_MAGIC` of statfs(2).
    const TMPFS: u64 = 0x0102_1994;
    let (Ok(metadata), Ok(file_system)) = (fs::metadata(directory), statfs(directory)) else {
        return false;
    };
    let device = format!("/sys/dev/block/{}:0", major(metadata.dev()));
    let device = Path::new(&device);
    let is_known = !device.exists() || device.join("queue/write_cache").exists();
    is_known && u64::try_from(file_system.f_type) != Ok(TMPFS)
}

/// The segment that is written.
#[derive(Debug)]
struct ActiveSegment {
    handle: SegmentHandle,
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
    may_be_direct: bool,
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
            may_be_direct: may_be_direct(directory.path()),
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
    pub(super) async fn write(
        &mut self,
        batch: &SealedBatch,
        sync: bool,
        now: Now,
    ) -> Result<(), WriteError> {
        let length = batch.bytes.len() as u64;
        if self.is_finished(length, now) || batch.begins_segment && self.has_records() {
            self.close(now).await?;
        }
        if self.active.is_none() {
            self.delete_expired(self.segment_bytes.max(length), now);
            self.begin(batch.first_sequence, now).await?;
        }
        let active = self.active.as_mut().expect("it was begun above");
        let written = active.handle.write(&batch.bytes, active.bytes).await;
        written.map_err(failed("write", &active.path))?;
        active.is_synced = false;
        if sync {
            self.sync().await?;
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
    async fn begin(&mut self, first_sequence: u64, now: Now) -> Result<(), WriteError> {
        let path = self.directory.segment_path(first_sequence);
        let handle = SegmentHandle::create(&path, self.may_be_direct).await;
        let handle = handle.map_err(failed("create", &path))?;
        let is_direct = matches!(handle, SegmentHandle::Direct(_));
        // Relaxed: readers need only the value itself.
        let was_direct = self.status.is_direct.swap(is_direct, Ordering::Relaxed);
        let is_first = self.status.writes.load(Ordering::Relaxed) == 0;
        if !is_direct && (was_direct || is_first) {
            let directory = self.directory.path().display();
            tracing::warn!(%directory, "the store is written through the page cache, \
                because its file system does not allow O_DIRECT");
        }
        let header = SegmentHeader {
            epoch: self.epoch,
            salt: self.salt,
            first_sequence,
        };
        let mut block = glommio::allocate_dma_buffer(BLOCK_BYTES);
        block.as_bytes_mut().copy_from_slice(&header.encode());
        let active = self.active.insert(ActiveSegment {
            handle,
            path,
            first_sequence,
            bytes: BLOCK_BYTES as u64,
            begun_ms: now.monotonic_ms,
            is_synced: false,
        });
        let written = active.handle.write(&Rc::new(block), 0).await;
        written.map_err(failed("write", &active.path))?;
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
    pub(super) async fn sync(&mut self) -> Result<(), WriteError> {
        let Some(active) = self.active.as_mut().filter(|it| !it.is_synced) else {
            return Ok(());
        };
        let synced = active.handle.sync().await;
        synced.map_err(failed(SYNC, &active.path))?;
        active.is_synced = true;
        status::add(&self.status.syncs, 1);
        Ok(())
    }

    /// Closes the segment; the next batch begins another one.
    pub(super) async fn close(&mut self, now: Now) -> Result<(), WriteError> {
        if self.sync_policy != SyncPolicy::Never {
            self.sync().await?;
        }
        let Some(active) = self.active.take() else {
            return Ok(());
        };
        self.keep(&active, now);
        let closed = active.handle.close().await;
        closed.map_err(failed("close", &active.path))
    }

    /// Gives up the segment after an error, with what was written to it whole, and returns whether
    /// that is durable. After a failed sync nobody can tell: a further one may succeed although
    /// pages were lost (fsync(2), and <https://lwn.net/Articles/752063/>).
    pub(super) async fn abandon(&mut self, error: &WriteError, now: Now) -> bool {
        status::add(&self.status.errors, 1);
        let Some(active) = self.active.take() else {
            return false;
        };
        let mut is_durable = active.is_synced;
        // What cannot be removed here is a torn tail, or an empty segment, when the store is read.
        if active.bytes > BLOCK_BYTES as u64 {
            let file = fs::OpenOptions::new().write(true).open(&active.path);
            let _ = file.and_then(|file| file.set_len(active.bytes));
            is_durable |= !error.is_sync() && active.handle.sync().await.is_ok();
            self.keep(&active, now);
        } else {
            let _ = fs::remove_file(&active.path);
        }
        let _ = active.handle.close().await;
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
) -> impl FnOnce(GlommioError<()>) -> WriteError + use<'a> {
    move |error| WriteError {
        action,
        path: path.to_owned(),
        error: io_error(&error),
    }
}

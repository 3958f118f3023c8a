//! What the operator may choose about the store.

use super::error::StoreError;
use crate::base::limits::STORE_SEGMENT_BYTES;
use std::path::PathBuf;
use std::time::Duration;

/// When records are made durable, and when their completions are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// At once: one fdatasync for all records that wait. What was completed survives a kill of the
    /// process and a loss of power.
    Always,
    /// Written and synced this long after the first record that waits, or a little later. A kill or
    /// a loss of power costs the records of that time.
    Interval(Duration),
    /// Written 50 ms after the first record that waits, and never synced. A kill costs the records
    /// of that time, a loss of power whatever the disk had not stored.
    Never,
}

/// The place and the limits of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// A directory of its own, created if it is missing; its parent must exist.
    pub directory: PathBuf,
    /// Size at which a new segment is begun, bytes: 1 MiB to 1 GiB. Only a single record can make a
    /// segment larger.
    pub segment_bytes: u64,
    /// Limit of all segments together, bytes; at least two segments. The oldest segments are deleted
    /// for it.
    pub store_bytes_max: u64,
    /// Age after which a record may be deleted. Whole segments are deleted, so a record stays up to
    /// a quarter longer, and the newest records stay until further ones are written.
    pub age_max: Option<Duration>,
    /// When records are made durable.
    pub sync: SyncPolicy,
    /// Bytes that may wait for the thread of the store.
    pub queue_bytes_max: usize,
    /// Time between a failed write and the next attempt.
    pub retry_interval: Duration,
    /// Cores that the thread of the store leaves to others, if there are any besides.
    pub avoid_cores: Vec<usize>,
}

impl StoreConfig {
    /// Segments of 64 MiB, 1 GiB in all, any age, a sync per second, a queue of 16 MiB, a new
    /// attempt after five seconds, on any core.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            segment_bytes: 64 << 20,
            store_bytes_max: 1 << 30,
            age_max: None,
            sync: SyncPolicy::Interval(Duration::from_secs(1)),
            queue_bytes_max: 16 << 20,
            retry_interval: Duration::from_secs(5),
            avoid_cores: Vec::new(),
        }
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        let (min, max) = STORE_SEGMENT_BYTES;
        if !(min..=max).contains(&self.segment_bytes) {
            let bytes = self.segment_bytes;
            return Err(StoreError::Config(format!(
                "segment size of {bytes} bytes, expected {min} to {max}"
            )));
        }
        if self.store_bytes_max < 2 * self.segment_bytes {
            return Err(StoreError::Config(format!(
                "store of {} bytes, expected at least two segments of {} bytes",
                self.store_bytes_max, self.segment_bytes
            )));
        }
        Ok(())
    }
}

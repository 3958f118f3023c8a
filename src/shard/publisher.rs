//! The way into the ring for threads that are no shards.

use super::publication_writer::PublicationWriter;
use crate::base::limits::SHARDS_MAX;
use crate::base::{Now, ProcessCounts, ShardCounters};
use crate::broker::Publication;
use fanwire_ring::Ring;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Publishes from any thread.
pub struct Publisher {
    publication_writer: Mutex<PublicationWriter>,
    counters: Arc<ShardCounters>,
    wake: Box<dyn Fn(u32) + Send + Sync>,
}

/// Why a publication was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// The ring has no room: the shards have much to deliver. Try again in a moment.
    Full,
    /// The channel's or the type's name is empty or too long, or the data is no JSON.
    Invalid,
}

impl fmt::Display for PublishError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Full => "the ring has no room for the publication now",
            Self::Invalid => "the names must have 1 to 256 (channel) and 128 (type) bytes",
        })
    }
}

impl std::error::Error for PublishError {}

impl fmt::Debug for Publisher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Publisher")
    }
}

impl Publisher {
    /// A publisher for the ring. `wake` is called with the index of each shard that sleeps and has
    /// something to read.
    #[must_use]
    pub fn new(
        ring: &Ring,
        process_counts: Arc<ProcessCounts>,
        counters: Arc<ShardCounters>,
        wake: impl Fn(u32) + Send + Sync + 'static,
    ) -> Self {
        let writer = u16::try_from(SHARDS_MAX).expect("shards are numbered with sixteen bits");
        Self {
            publication_writer: Mutex::new(PublicationWriter::new(
                writer,
                ring,
                process_counts,
                Arc::clone(&counters),
            )),
            counters,
            wake: Box::new(wake),
        }
    }

    /// Publishes, without waiting.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was published then.
    pub fn publish(&self, publication: &Publication<'_>, now: Now) -> Result<(), PublishError> {
        if !publication.is_valid() {
            return Err(PublishError::Invalid);
        }
        // A panic while the lock was held would leave a record unwritten, never half of one.
        let mut publication_writer = self
            .publication_writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        publication_writer.retry();
        if publication_writer.is_congested() {
            publication_writer.wake_peers(&self.wake);
            return Err(PublishError::Full);
        }
        self.counters.publications.add(1);
        publication_writer.publish(publication, now.unix_ms);
        publication_writer.wake_peers(&self.wake);
        Ok(())
    }

    /// Writes what found the ring full, as far as there is room now; whether all is written.
    pub fn retry(&self) -> bool {
        let mut publication_writer = self
            .publication_writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        publication_writer.retry();
        publication_writer.wake_peers(&self.wake);
        !publication_writer.is_congested()
    }
}

//! Publishing from threads that are not shards.

use super::publication_writer::PublicationWriter;
use crate::base::limits::{CHANNEL_BYTES_MAX, KIND_BYTES_MAX, SHARDS_MAX};
use crate::base::{Now, ProcessCounts, ShardCounters};
use crate::broker::Publication;
use fanwire_ring::Ring;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Publishes from any thread.
pub struct Publisher {
    publication_writer: Mutex<PublicationWriter>,
    counters: Arc<ShardCounters>,
    is_stopped: AtomicBool,
    wake: Box<dyn Fn(u32) + Send + Sync>,
}

/// Why a publication was not accepted.
///
/// ```no_run
/// use fanwire::PublishError;
/// # let server = fanwire::Server::builder().dev().start()?;
/// if let Err(PublishError::RingFull) = server.broadcast("news", "headline", &"hello") {
///     println!("the shards are behind with deliveries");
/// }
/// # Ok::<(), fanwire::StartError>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum PublishError {
    /// The ring has no space: the shards are behind with deliveries. Try again in a moment.
    RingFull,
    /// The name of the channel or the type is empty, too long, or has control characters.
    Name,
    /// The data cannot be written as JSON.
    Data(serde_json::Error),
    /// The server has stopped.
    Stopped,
}

impl fmt::Display for PublishError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RingFull => formatter.write_str("the ring has no space for the publication"),
            Self::Name => write!(
                formatter,
                "expected a channel of 1 to {CHANNEL_BYTES_MAX} bytes and a type of 1 to \
                 {KIND_BYTES_MAX} bytes, without control characters"
            ),
            Self::Data(error) => write!(formatter, "data cannot be written as JSON: {error}"),
            Self::Stopped => formatter.write_str("the server has stopped"),
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Data(error) => Some(error),
            Self::RingFull | Self::Name | Self::Stopped => None,
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Publisher")
    }
}

impl Publisher {
    /// A publisher for the ring. `wake` is called with the index of each shard that sleeps and has
    /// records to read.
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
            is_stopped: AtomicBool::new(false),
            wake: Box::new(wake),
        }
    }

    /// Publishes, without waiting.
    ///
    /// # Errors
    /// [`PublishError`], in which case nothing was published.
    pub fn publish(&self, publication: &Publication<'_>, now: Now) -> Result<(), PublishError> {
        // Relaxed: a caller that stops the server and then publishes orders the two itself.
        if self.is_stopped.load(Ordering::Relaxed) {
            return Err(PublishError::Stopped);
        }
        if !publication.is_valid() {
            return Err(PublishError::Name);
        }
        // A panic while the lock was held leaves a record unwritten, never half written.
        let mut publication_writer = self
            .publication_writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        publication_writer.retry();
        if publication_writer.is_congested() {
            publication_writer.wake_peers(&self.wake);
            return Err(PublishError::RingFull);
        }
        self.counters.publications.add(1);
        publication_writer.publish(publication, now.unix_ms);
        publication_writer.wake_peers(&self.wake);
        Ok(())
    }

    /// Rejects all further publications.
    pub fn stop(&self) {
        // Relaxed: see `publish`.
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Writes the publications that found the ring full, as far as there is room; true when all are
    /// written.
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

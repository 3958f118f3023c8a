//! Publishing from threads that are not shards.

use super::frame_encoder::FrameEncoder;
use super::publication_writer::{ID_BITS, Pieces, RingWriter, Unannounced, outgoing};
use super::stored;
use crate::base::interest::variants_of;
use crate::base::limits::{CHANNEL_BYTES_MAX, KIND_BYTES_MAX, SHARDS_MAX, TENANT_BYTES_MAX};
use crate::base::now::Stopwatch;
use crate::base::{Now, Position, ProcessState, Sent, ShardCounters, Variant};
use crate::broker::Publication;
use crate::config::CompressionPolicy;
use crate::dialect::{self, PublicationMeta};
use crate::journal::PublicationLog;
use crate::store::{AppendError, Completion};
use fanwire_ring::Ring;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Publishes from any thread. Calls of several threads encode and write at the same time; none waits
/// for another, but for the short order of publications that are larger than a record.
pub struct Publisher {
    ring_writer: RingWriter,
    process_state: Arc<ProcessState>,
    /// Locked, because a counter has one writer at a time.
    counters: Mutex<Arc<ShardCounters>>,
    compression: CompressionPolicy,
    /// Those that no thread has in use.
    encoders: Mutex<Vec<FrameEncoder>>,
    /// Publications so far.
    count: AtomicU64,
    /// Publications of which only some fragments found room in the ring, oldest first.
    unsent: Mutex<VecDeque<Pieces>>,
    /// Whether `unsent` has any, to be read without the lock.
    is_congested: AtomicBool,
    is_stopped: AtomicBool,
    stopwatch: Stopwatch,
    /// With a durable store: what is published on channels with a history.
    log: Option<Mutex<PublicationLog>>,
    wake: Box<dyn Fn(u32, Now) + Send + Sync>,
    /// Callers that wait for room.
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
    /// Called when publications begin to wait for room, or callers do: `retry` is due.
    call_for_retry: Box<dyn Fn() + Send + Sync>,
}

/// Encoders that are kept; more exist while more threads publish at the same time.
const ENCODERS_KEPT: usize = 4;

/// How a publication has come from the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The node that has accepted it, and its number among those of that node.
    pub origin: (u64, u64),
    /// When that was, milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// Its position among the publications of all nodes, on a channel with a history.
    pub position: Option<Position>,
    /// Whether it is for the history only: those who are subscribed have received it before.
    pub is_quiet: bool,
}

/// The id of a publication of no shard.
fn outside_id(number: u64) -> u64 {
    let writer = u64::try_from(SHARDS_MAX).expect("a small number");
    writer << ID_BITS | number
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
    /// The tenant is no tenant id, or the channel is not one of this tenant, or not one that reaches
    /// all tenants.
    Tenant,
    /// The data cannot be written as JSON.
    Data(serde_json::Error),
    /// The server has stopped.
    Stopped,
}

impl PublishError {
    /// For spans.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::Name => "name",
            Self::Tenant => "tenant",
            Self::Data(_) => "data",
            Self::Stopped => "stopped",
        }
    }
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
            Self::Tenant => write!(
                formatter,
                "expected a tenant of 1 to {TENANT_BYTES_MAX} bytes without `:` and control \
                 characters, its own channel, and for all tenants a channel of the server"
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
            Self::RingFull | Self::Name | Self::Tenant | Self::Stopped => None,
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
        process_state: Arc<ProcessState>,
        counters: Arc<ShardCounters>,
        wake: impl Fn(u32, Now) + Send + Sync + 'static,
    ) -> Self {
        Self {
            ring_writer: RingWriter::new(ring, Arc::clone(&process_state), None),
            process_state,
            counters: Mutex::new(counters),
            compression: CompressionPolicy::default(),
            encoders: Mutex::default(),
            count: AtomicU64::new(0),
            unsent: Mutex::default(),
            is_congested: AtomicBool::new(false),
            waiting: Mutex::default(),
            is_stopped: AtomicBool::new(false),
            stopwatch: Stopwatch::STOPPED,
            log: None,
            wake: Box::new(wake),
            call_for_retry: Box::new(|| {}),
        }
    }

    /// The same, compressing so for clients that have agreed on it.
    #[must_use]
    pub fn compressing(mut self, compression: CompressionPolicy) -> Self {
        self.compression = compression;
        self
    }

    /// The same, with a call to the thread that calls [`retry`](Self::retry).
    #[must_use]
    pub fn calling_for_retry(mut self, call: impl Fn() + Send + Sync + 'static) -> Self {
        self.call_for_retry = Box::new(call);
        self
    }

    /// The same, measuring how long some publications take.
    #[must_use]
    pub fn measuring(mut self, stopwatch: Stopwatch) -> Self {
        self.stopwatch = stopwatch;
        self
    }

    /// The same, appending what is published on channels with a history to a log.
    #[must_use]
    pub fn storing(mut self, log: Option<PublicationLog>) -> Self {
        self.log = log.map(Mutex::new);
        self
    }

    /// Whether publications are acknowledged only when they are stored.
    #[must_use]
    pub fn acknowledges_stored(&self) -> bool {
        let log = self.log.as_ref();
        log.is_some_and(|log| lock(log).acknowledges_stored())
    }

    /// Calls `completion` when all that was published before by calls that have returned is stored, or
    /// something of it lost; at once without a store. What waits for room in the ring is not part of it.
    ///
    /// # Errors
    /// If the store has no room or is closed.
    pub fn mark_stored(&self, completion: Completion) -> Result<(), AppendError> {
        match &self.log {
            Some(log) => lock(log).mark(completion),
            None => {
                completion(Ok(0));
                Ok(())
            }
        }
    }

    /// Publishes to the shards of all nodes, without waiting. Returns its position, if the channel has a
    /// history, all of it found room, and there is one node only.
    ///
    /// # Errors
    /// [`PublishError`], in which case nothing was published.
    pub fn publish(
        &self,
        publication: &Publication<'_>,
        now: Now,
    ) -> Result<Option<Position>, PublishError> {
        self.publish_and_tell(publication, None, now)
    }

    /// Publishes, and calls `sent` when the other nodes have it or never will; not without other nodes.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub(crate) fn publish_and_tell(
        &self,
        publication: &Publication<'_>,
        sent: Option<Sent>,
        now: Now,
    ) -> Result<Option<Position>, PublishError> {
        let Some(link) = &self.process_state.link else {
            return self.publish_here(publication, now);
        };
        self.check(publication)?;
        let outgoing = outgoing(publication, &self.process_state, sent, now);
        if link.send(outgoing).is_err() {
            self.counters().ring_full.add(1);
            return Err(PublishError::RingFull);
        }
        self.counters().publications.add(1);
        Ok(None)
    }

    /// Whether a publication may be accepted.
    fn check(&self, publication: &Publication<'_>) -> Result<(), PublishError> {
        // Relaxed: a caller that stops the server and then publishes orders the two itself.
        if self.is_stopped.load(Ordering::Relaxed) {
            return Err(PublishError::Stopped);
        }
        let mut key = String::new();
        let publication = &dialect::retaining(publication, &mut key);
        if !publication.is_scope_valid() {
            return Err(PublishError::Tenant);
        }
        if !publication.is_valid() {
            return Err(PublishError::Name);
        }
        Ok(())
    }

    fn store(&self, pieces: &Pieces, now: Now) {
        if let (Some(log), Some(_)) = (&self.log, pieces.offset) {
            let mut log = lock(log);
            stored::log(&mut log, pieces, None, now);
            log.flush();
        }
    }

    /// Publishes to the shards of this node, without waiting. Returns its position, if the channel has a
    /// history and all of it found room.
    ///
    /// # Errors
    /// [`PublishError`], in which case nothing was published.
    pub fn publish_here(
        &self,
        publication: &Publication<'_>,
        now: Now,
    ) -> Result<Option<Position>, PublishError> {
        self.check(publication)?;
        // Relaxed: ids need only be different.
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let meta = PublicationMeta::new(now.unix_ms, outside_id(count));
        let position = self.write(publication, meta, now)?;
        self.counters().publications.add(1);
        Ok(position)
    }

    /// Delivers a publication that has come from the nodes.
    ///
    /// # Errors
    /// [`PublishError`], in which case nothing was delivered.
    pub fn deliver(
        &self,
        publication: &Publication<'_>,
        received: Received,
        now: Now,
    ) -> Result<(), PublishError> {
        self.check(publication)?;
        let (node, number) = received.origin;
        let mixed = (node ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let meta = PublicationMeta {
            shared: received.position,
            is_quiet: received.is_quiet,
            // The same on all nodes, as clients see it.
            ..PublicationMeta::new(received.unix_ms, outside_id(mixed >> (64 - ID_BITS)))
        };
        self.write(publication, meta, now).map(|_| ())
    }

    fn write(
        &self,
        publication: &Publication<'_>,
        meta: PublicationMeta,
        now: Now,
    ) -> Result<Option<Position>, PublishError> {
        let mut key = String::new();
        let publication = &dialect::retaining(publication, &mut key);
        // Acquire: pairs with the release in `set_congested`.
        if self.is_congested.load(Ordering::Acquire) && !self.retry(now) {
            return Err(PublishError::RingFull);
        }
        self.ring_writer.note_time(meta.id, self.stopwatch);
        let mut encoded = 0;
        let note_encode = |variant: Variant| encoded |= variant.bit();
        let mut encoder = self.take_encoder();
        let mut pieces =
            self.ring_writer
                .encode(publication, meta, (Vec::new(), &mut encoder), note_encode);
        pieces.set_age(now.unix_ms.saturating_sub(meta.unix_ms));
        let mut unannounced = Unannounced::default();
        let is_written = self.ring_writer.write(&mut pieces, &mut unannounced, now);
        self.store(&pieces, now);
        let is_accepted = is_written || pieces.is_begun();
        let history = &self.process_state.history;
        let position = pieces.offset.map(|offset| history.position(offset));
        let is_retained = !is_accepted || publication.retain_in(&self.process_state);
        if !is_written && is_accepted {
            let mut unsent = self.unsent();
            unsent.push_back(pieces);
            self.set_congested(&unsent);
        }
        self.ring_writer
            .announce(&mut unannounced, |shard| (self.wake)(shard, now));
        let counters = self.counters();
        encoder.count(&counters);
        let mut encoders = lock(&self.encoders);
        if encoders.len() < ENCODERS_KEPT {
            encoders.push(encoder);
        }
        drop(encoders);
        variants_of(encoded).for_each(|variant| counters.encodes.of(variant).add(1));
        counters.ring_full.add(u64::from(!is_written));
        counters.retained_rejected.add(u64::from(!is_retained));
        drop(counters);
        if !is_accepted {
            return Err(PublishError::RingFull);
        }
        if !is_written {
            (self.call_for_retry)();
        }
        Ok(position)
    }

    /// Ready when there may be room in the ring, or the publisher was stopped.
    pub async fn wait_for_room(&self) {
        let (sender, room) = oneshot::channel();
        lock(&self.waiting).push(sender);
        (self.call_for_retry)();
        // Fails when the publisher is gone, with the ring.
        let _ = room.await;
    }

    /// Whether callers wait for room.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !lock(&self.waiting).is_empty()
    }

    /// Lets the callers that wait for room try again.
    pub fn wake_waiting(&self) {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        for sender in waiting {
            // Fails when the caller has given up.
            let _ = sender.send(());
        }
    }

    /// The position of the ring at which the next record is claimed, or an earlier one.
    #[must_use]
    pub fn ring_position(&self) -> u64 {
        self.ring_writer.ring_position()
    }

    /// An encoder that no other thread has in use.
    fn take_encoder(&self) -> FrameEncoder {
        let encoder = lock(&self.encoders).pop();
        encoder.unwrap_or_else(|| FrameEncoder::new(self.compression))
    }

    fn counters(&self) -> MutexGuard<'_, Arc<ShardCounters>> {
        lock(&self.counters)
    }

    fn unsent(&self) -> MutexGuard<'_, VecDeque<Pieces>> {
        lock(&self.unsent)
    }

    fn set_congested(&self, unsent: &VecDeque<Pieces>) {
        // Release: pairs with the acquire in `publish`; the lock orders the stores.
        self.is_congested
            .store(!unsent.is_empty(), Ordering::Release);
    }

    /// Rejects all further publications.
    pub fn stop(&self) {
        // Relaxed: see `publish`.
        self.is_stopped.store(true, Ordering::Relaxed);
        self.wake_waiting();
    }

    /// Writes what found the ring full, as far as there is room; true when all is written.
    pub fn retry(&self, now: Now) -> bool {
        let mut unannounced = Unannounced::default();
        let mut unsent = self.unsent();
        while let Some(pieces) = unsent.front_mut() {
            if !self.ring_writer.write(pieces, &mut unannounced, now) {
                break;
            }
            self.store(pieces, now);
            unsent.pop_front();
        }
        self.set_congested(&unsent);
        let is_written = unsent.is_empty();
        drop(unsent);
        self.ring_writer
            .announce(&mut unannounced, |shard| (self.wake)(shard, now));
        is_written
    }
}

/// A panic of another thread leaves what is behind a lock whole: a fragment is unwritten, never half
/// written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

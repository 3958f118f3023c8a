//! The ring's handle: makes writers and readers, and says how full it is.

use alloc::sync::Arc;
use core::fmt;

use crate::error::RingError;
use crate::gaps::Gaps;
use crate::layout::{Geometry, SALT_BIT, SLOT_UNGATED};
use crate::observer::{Observer, Start};
use crate::reader::Reader;
use crate::region::Region;
use crate::retirer::Retirer;
use crate::sync::Ordering;
use crate::writer::Writer;

/// The size of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Bytes of records the ring holds: a power of two, at least 4096.
    pub capacity_bytes: u32,
    /// Readers that can be attached at a time, `1..=1023`. Each costs 128 bytes.
    pub readers_max: u32,
}

/// A bounded broadcast ring. Clones are the same ring; it lives until the last handle, writer and
/// reader is gone.
#[derive(Clone)]
pub struct Ring {
    pub(crate) region: Arc<Region>,
}

impl Ring {
    /// Makes an empty ring with a salt from the system.
    ///
    /// # Errors
    ///
    /// If the configuration is out of range, or there is no memory or no randomness.
    pub fn new(config: RingConfig) -> Result<Self, RingError> {
        Self::with_salt(config, Self::random_salt()?)
    }

    pub(crate) fn random_salt() -> Result<u64, RingError> {
        let salt = getrandom::u64().map_err(|_| RingError::NoRandomness)?;
        Ok(salt | SALT_BIT)
    }

    /// Makes an empty ring with a given salt, for simulations that must repeat themselves. The top
    /// bit is set by the ring.
    ///
    /// The salt must not be known to those whose bytes are written: it is what keeps payloads from
    /// looking like commits.
    ///
    /// # Errors
    ///
    /// If the configuration is out of range, or there is no memory.
    pub fn with_salt(config: RingConfig, salt: u64) -> Result<Self, RingError> {
        let geometry = Geometry::new(config.capacity_bytes, config.readers_max)?;
        let region = Region::new(geometry, salt | SALT_BIT)?;
        Ok(Self {
            region: Arc::new(region),
        })
    }

    /// One ring as two peers see it; for models, which have no memory that two regions could share.
    #[cfg(loom)]
    #[doc(hidden)]
    pub fn peers_for_models<L: crate::peers::Liveness + 'static>(
        capacity_bytes: u32,
        readers_max: u32,
        salt: u64,
        liveness: [alloc::boxed::Box<L>; 2],
    ) -> [Self; 2] {
        let geometry = Geometry::new(capacity_bytes, readers_max)
            .and_then(|it| it.with_peers(2, 2))
            .expect("numbers in range");
        let first = Region::new(geometry, salt | SALT_BIT).expect("memory");
        let second = Region::over(first.words().clone(), geometry, salt | SALT_BIT);
        let mut number = 0;
        let mut regions = [Some(first), Some(second)].into_iter().flatten();
        liveness.map(|liveness| {
            let mut region = regions.next().expect("two of them");
            region.enlist(number, liveness);
            number += 1;
            Self {
                region: Arc::new(region),
            }
        })
    }

    /// A writer. Any number may exist.
    #[must_use]
    pub fn writer(&self) -> Writer {
        Writer::new(Arc::clone(&self.region))
    }

    /// A reader that sees every record claimed after this call, and perhaps some claimed during it.
    /// Writers wait for it until it is dropped, or put out of the gate.
    ///
    /// # Errors
    ///
    /// [`RingError::ReadersFull`] if all slots are taken.
    pub fn reader(&self) -> Result<Reader, RingError> {
        if self.region.is_read_only() {
            return Err(RingError::ReadOnly);
        }
        let readers_max = self.region.geometry().readers_max();
        (0..readers_max)
            .find_map(|index| Reader::attach(&self.region, index))
            .ok_or_else(|| self.error_or(RingError::ReadersFull { readers_max }))
    }

    fn error_or(&self, error: RingError) -> RingError {
        if self.region.is_damaged() {
            RingError::Damaged
        } else {
            error
        }
    }

    /// An observer: it reads without being waited for.
    ///
    /// # Errors
    ///
    /// [`RingError::Damaged`] where a peer has damaged a shared ring.
    pub fn observer(&self, start: Start) -> Result<Observer, RingError> {
        Observer::new(&self.region, start).map_err(|_| RingError::Damaged)
    }

    /// What retires claims that are too old.
    ///
    /// # Errors
    ///
    /// [`RingError::RetirerTaken`] while there is another one.
    pub fn retirer(&self) -> Result<Retirer, RingError> {
        if self.region.is_read_only() {
            return Err(RingError::ReadOnly);
        }
        Retirer::attach(&self.region).ok_or(RingError::RetirerTaken)
    }

    /// Frees the slots of dead peers of a shared ring, which gate the writers for ever otherwise, and
    /// the place of a dead retirer and the lines of dead writers that had claimed nothing. Returns how
    /// many slots were freed. Readers stop nobody else, so call it when the ring is full and now and
    /// then, beside the retirer's looks; it asks the system once per slot that somebody else has.
    ///
    /// Claims of dead writers are the retirer's: see [`Retirer::look`].
    #[expect(clippy::must_use_candidate, reason = "the answer need not matter")]
    pub fn evict_dead(&self) -> u32 {
        if self.region.peer.is_none() {
            return 0;
        }
        self.region.free_lines_of_the_dead(0, &Gaps::NONE);
        self.region.free_slots_of_the_dead()
    }

    /// Puts every reader out of the gate that lags more than `lag_bytes_max` behind the tail; how many
    /// there were. See [`Ring::put_out`].
    #[expect(clippy::must_use_candidate, reason = "the answer need not matter")]
    pub fn put_out_laggards(&self, lag_bytes_max: u64) -> u32 {
        if self.region.is_read_only() {
            return 0;
        }
        self.region.put_out_laggards(lag_bytes_max)
    }

    /// Our number among the peers of a shared ring.
    #[must_use]
    pub fn peer_number(&self) -> Option<u32> {
        self.region.peer_number()
    }

    /// Whether this handle, or what was made from it, has found the memory damaged; see
    /// [`Damaged`](crate::Damaged).
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.region.is_damaged()
    }

    /// The largest payload, in bytes: an eighth of the capacity.
    #[must_use]
    pub fn record_bytes_max(&self) -> u32 {
        self.region.geometry().record_bytes_max()
    }

    /// The position at which the next record is claimed, unless others claim before. A lower bound: it
    /// may be old when it arrives.
    #[must_use]
    pub fn tail_position(&self) -> u64 {
        // Relaxed: it only grows, so an old value is a lower bound.
        self.region.tail().load(Ordering::Relaxed)
    }

    /// Bytes the slowest reader in the gate has not passed, `0..=capacity`; zero without readers. A gauge: it
    /// may be old when it arrives.
    #[must_use]
    pub fn depth_bytes(&self) -> u64 {
        let geometry = self.region.geometry();
        // Acquire: pairs with the release store of a reader's position, so the tail loaded after
        // it is not the older one of the two.
        let slowest = (0..geometry.readers_max())
            .map(|index| self.region.slot(index).load(Ordering::Acquire))
            .min()
            .expect("readers_max is at least 1");
        // Relaxed: the acquire above orders it. A free slot's value is above every tail.
        let tail = self.region.tail().load(Ordering::Relaxed);
        tail.saturating_sub(slowest).min(geometry.capacity())
    }

    /// Puts a reader out of the gate: writers do not wait for it any longer. False if it was not in
    /// the gate. For a reader whose thread does not get on.
    ///
    /// At its next look the reader enters the gate again where it stands; if its next record is
    /// overwritten by then, it is told so ([`Lapped`](crate::Lapped)).
    ///
    /// # Panics
    ///
    /// If the index is not below `readers_max`.
    #[expect(clippy::must_use_candidate, reason = "the answer need not matter")]
    pub fn put_out(&self, reader_index: u32) -> bool {
        assert!(reader_index < self.region.geometry().readers_max());
        !self.region.is_read_only() && self.region.put_out(reader_index)
    }

    /// Bytes that this reader has not passed; nothing if it is not in the gate. A gauge: it may be
    /// old when it arrives.
    #[must_use]
    pub fn lag_bytes_of(&self, reader_index: u32) -> Option<u64> {
        // Acquire: as in `depth_bytes`.
        let position = self.region.slot(reader_index).load(Ordering::Acquire);
        // Relaxed: the acquire above orders it.
        let tail = self.region.tail().load(Ordering::Relaxed);
        (position < SLOT_UNGATED).then(|| tail.saturating_sub(position))
    }

    /// Up to where this reader has let the writers have the bytes; nothing if it is not in the gate. A
    /// lower bound: it may be old when it arrives. All records before it have been read.
    #[must_use]
    pub fn position_of(&self, reader_index: u32) -> Option<u64> {
        // Acquire: pairs with the release store of a reader's position: what the reader did with its
        // records is seen by whoever relies on them being read.
        let position = self.region.slot(reader_index).load(Ordering::Acquire);
        (position < SLOT_UNGATED).then_some(position)
    }

    /// Readers that can be attached at a time.
    #[must_use]
    pub fn readers_max(&self) -> u32 {
        self.region.geometry().readers_max()
    }

    /// Bytes of records the ring holds.
    #[must_use]
    pub fn capacity_bytes(&self) -> u32 {
        self.region.geometry().capacity_bytes()
    }

    /// Grants that were dropped without a commit since the ring was made.
    #[must_use]
    pub fn aborted_total(&self) -> u64 {
        // Relaxed: a counter, it orders nothing.
        self.region.aborted_total().load(Ordering::Relaxed)
    }

    /// Gaps made since the ring was made, each of one or more claims that were retired together.
    #[must_use]
    pub fn retirements_total(&self) -> u64 {
        // Relaxed: a counter, it orders nothing.
        self.region.retirements_total().load(Ordering::Relaxed)
    }

    /// Claims that were too old and not retired, because there were four gaps already or a quarter of
    /// the ring was held.
    #[must_use]
    pub fn retirements_rejected_total(&self) -> u64 {
        // Relaxed: a counter, it orders nothing.
        self.region
            .retirements_rejected_total()
            .load(Ordering::Relaxed)
    }

    /// Records that [`Writer::try_write`] wrote again, or tried to, because they were retired.
    #[must_use]
    pub fn rewritten_total(&self) -> u64 {
        // Relaxed: a counter, it orders nothing.
        self.region.rewritten_total().load(Ordering::Relaxed)
    }

    /// Bytes of retired claims, which are not used until their writers return them. A gauge: it may
    /// be old when it arrives.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.region.gaps().bytes()
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Ring")
            .field("capacity_bytes", &self.capacity_bytes())
            .field("depth_bytes", &self.depth_bytes())
            .finish_non_exhaustive()
    }
}

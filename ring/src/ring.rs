//! The ring's handle: makes writers and readers, and says how full it is.

use std::fmt;
use std::sync::Arc;

use crate::error::RingError;
use crate::layout::{Geometry, SLOT_UNGATED};
use crate::reader::Reader;
use crate::region::Region;
use crate::retirer::Retirer;
use crate::sync::Ordering;
use crate::writer::Writer;

/// No position has this bit, so no stamp made with it is zero.
const SALT_BIT: u64 = 1 << 63;

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
    region: Arc<Region>,
}

impl Ring {
    /// Makes an empty ring with a salt from the system.
    ///
    /// # Errors
    ///
    /// If the configuration is out of range, or there is no memory or no randomness.
    pub fn new(config: RingConfig) -> Result<Self, RingError> {
        let salt = getrandom::u64().map_err(|_| RingError::NoRandomness)?;
        Self::with_salt(config, salt)
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
        let readers_max = self.region.geometry().readers_max();
        (0..readers_max)
            .find_map(|index| Reader::attach(&self.region, index))
            .ok_or(RingError::ReadersFull { readers_max })
    }

    /// What retires claims that are too old.
    ///
    /// # Errors
    ///
    /// [`RingError::RetirerTaken`] while there is another one.
    pub fn retirer(&self) -> Result<Retirer, RingError> {
        Retirer::attach(&self.region).ok_or(RingError::RetirerTaken)
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
        self.region.put_out(reader_index)
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

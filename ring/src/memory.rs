//! Rings in memory that the caller gives: hugepages, a mapping of its own, a device's memory.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::ptr::NonNull;

use crate::error::{AttachError, RingError};
use crate::layout::{Geometry, LINE_BYTES, WORD_BYTES};
use crate::peers::Liveness;
use crate::region::Region;
use crate::ring::{Ring, RingConfig};
use crate::words::{Owner, Words};

/// The size of a ring that is shared between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedConfig {
    /// Capacity and readers.
    pub ring: RingConfig,
    /// Processes that can be attached at a time for more than observing, `1..=1023`.
    pub peers_max: u32,
    /// Writers that can exist at a time, in all processes, clones not counted, `1..=1023`. Each costs
    /// 128 bytes.
    pub writers_max: u32,
}

impl SharedConfig {
    /// A ring for 64 peers and 64 writers.
    #[must_use]
    pub fn new(ring: RingConfig) -> Self {
        Self {
            ring,
            peers_max: 64,
            writers_max: 64,
        }
    }

    pub(crate) fn geometry(&self) -> Result<Geometry, RingError> {
        if self.peers_max == 0 || self.writers_max == 0 {
            return Err(RingError::PeersInvalid {
                peers_max: self.peers_max,
                writers_max: self.writers_max,
            });
        }
        Geometry::new(self.ring.capacity_bytes, self.ring.readers_max)?
            .with_peers(self.peers_max, self.writers_max)
    }

    /// Bytes of memory that the ring needs.
    ///
    /// # Errors
    ///
    /// If a number is out of range.
    pub fn region_bytes(&self) -> Result<usize, RingError> {
        Ok(self.geometry()?.total_bytes())
    }
}

/// Who the caller is among the peers of a ring in its own memory.
pub struct PeerIdentity {
    /// A number that no other peer has while this one lives, below `peers_max`.
    pub number: u32,
    /// Who knows which peers live.
    pub liveness: Box<dyn Liveness>,
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PeerIdentity")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

#[expect(unsafe_code, reason = "the caller vouches for the memory")]
impl Ring {
    /// Makes an empty ring in memory that the caller gives.
    ///
    /// # Errors
    ///
    /// If a number is out of range, the memory is too small or not aligned to 128 bytes, or there is no
    /// randomness for the salt.
    ///
    /// # Safety
    ///
    /// - `bytes` bytes from `memory` can be read and written, and stay where they are, until this
    ///   ring and everything that was made from it is dropped.
    /// - Until then no code of this process reads or writes them except through rings of this crate,
    ///   or by atomic operations of 8 bytes. Other processes may write them at any time and whatever
    ///   they like.
    /// - Nobody is attached to a ring in this memory.
    pub unsafe fn create_in_memory(
        memory: NonNull<u8>,
        bytes: usize,
        config: &SharedConfig,
        identity: PeerIdentity,
    ) -> Result<Self, AttachError> {
        let geometry = config.geometry().map_err(AttachError::Geometry)?;
        let salt = Self::random_salt().map_err(AttachError::Geometry)?;
        let start = checked(memory, bytes)?;
        if bytes < geometry.total_bytes() {
            return Err(AttachError::TooSmall { found: bytes });
        }
        let count = geometry.total_bytes() / WORD_BYTES;
        // SAFETY: aligned by `checked`; there are as many words by the comparison above; the rest is
        // the caller's promise. The memory is not ours, so there is nothing to be owned.
        let words = unsafe { Words::from_raw(start, count, Box::new(())) };
        let mut region = Region::over(words, geometry, salt);
        region.clear();
        region.write();
        join(&mut region, identity)?;
        Ok(Self::of(region))
    }

    /// Attaches to the ring in memory that the caller gives. Without a identity only observers can
    /// be made, and the memory is never written.
    ///
    /// # Errors
    ///
    /// [`AttachError`], if there is no valid ring in it.
    ///
    /// # Safety
    ///
    /// As [`Ring::create_in_memory`], but that others may be attached, and that the memory need not be
    /// writable without a identity.
    pub unsafe fn attach_to_memory(
        memory: NonNull<u8>,
        bytes: usize,
        identity: Option<PeerIdentity>,
    ) -> Result<Self, AttachError> {
        let start = checked(memory, bytes)?;
        // SAFETY: aligned by `checked`; the rest is the caller's promise.
        let words = unsafe { Words::from_raw(start, bytes / WORD_BYTES, Box::new(())) };
        let mut region = Region::attach(words, identity.is_none())?;
        if let Some(identity) = identity {
            join(&mut region, identity)?;
        }
        Ok(Self::of(region))
    }

    /// The ring in `bytes` bytes from `start`, aligned to lines, of memory that `owner` keeps.
    ///
    /// # Safety
    ///
    /// As [`Words::from_raw`].
    #[cfg_attr(
        not(all(feature = "shared-memory", target_os = "linux")),
        expect(dead_code, reason = "only mappings have owners")
    )]
    pub(crate) unsafe fn region_in(
        start: NonNull<u64>,
        bytes: usize,
        owner: Owner,
        created: Option<(Geometry, u64)>,
        is_read_only: bool,
    ) -> Result<Region, AttachError> {
        // SAFETY: the caller's promise.
        let words = unsafe { Words::from_raw(start, bytes / WORD_BYTES, owner) };
        match created {
            Some((geometry, salt)) => {
                let region = Region::over(words, geometry, salt);
                region.write();
                Ok(region)
            }
            None => Region::attach(words, is_read_only),
        }
    }
}

impl Ring {
    pub(crate) fn of(region: Region) -> Self {
        Self {
            region: Arc::new(region),
        }
    }
}

fn checked(memory: NonNull<u8>, bytes: usize) -> Result<NonNull<u64>, AttachError> {
    if !memory.addr().get().is_multiple_of(LINE_BYTES) || bytes < LINE_BYTES {
        return Err(AttachError::TooSmall { found: bytes });
    }
    Ok(memory.cast())
}

fn join(region: &mut Region, identity: PeerIdentity) -> Result<(), AttachError> {
    let peers_max = region.geometry().peers_max();
    if identity.number >= peers_max {
        return Err(AttachError::PeersFull { peers_max });
    }
    region.enlist(identity.number, identity.liveness);
    Ok(())
}

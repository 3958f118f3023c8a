//! Who is attached to a shared ring, what belongs to whom, and what happens to the things of the
//! dead.
//!
//! Each attachment has a *number*, `0 <= number < peers_max`, which nobody else has while it lives;
//! somebody outside of the region vouches for both (a [`Liveness`]; for files, locks of the kernel).
//! A number is used again, so each use has an *epoch*: it is counted in the region by the one who
//! takes the number, before anything else. Number and epoch together are a *mark*:
//!
//! ```text
//!  63        32 31         0
//!  ┌───────────┬────────────┐
//!  │ number+1  │ epoch      │     zero: nobody
//!  └───────────┴────────────┘
//! ```
//!
//! Slots and lines of writers of a shared ring are taken by a swap of their owner's word from zero to
//! a mark, and given back by a store of zero after everything else is as it was before. So whatever a
//! peer had when it died stands under its mark.
//!
//! *A mark is dead* when its number is not alive, or has another epoch: then somebody has taken the
//! number later, so whoever had it before is gone. The mark is loaded with acquire and was stored
//! with release after its epoch was counted, so an epoch older than the mark's is never seen. A
//! mark of a living peer is never taken for a dead one; a dead one may be taken for a living one for
//! a moment, while the number is taken again and the epoch is not counted yet.
//!
//! *What is taken from the dead* is taken by a swap of the owner's word from the dead mark to one's own,
//! so that one peer does it, and if that one dies, too, the next one finds a dead mark again.
//!
//! *Happens-before.* The kernel lets go of a dead process's locks after the process's last store, and
//! both sides go through the lock of its list of locks. So whoever finds a peer dead sees all that it
//! stored. Another [`Liveness`] must promise the same.

use alloc::boxed::Box;

use crate::layout::{SLOT_FREE, SLOT_UNGATED};
use crate::region::Region;
use crate::sync::Ordering;

/// Says which peers of a ring live; for rings in memory that the caller gives.
///
/// Where an answer is false, everything that the peer has stored in the ring must be visible to the
/// caller, and it never stores anything again under this number.
pub trait Liveness: Send + Sync {
    /// Whether the peer with this number lives. True when in doubt.
    fn is_alive(&self, number: u32) -> bool;
}

/// Who we are.
pub(crate) struct Peer {
    number: u32,
    mark: u64,
    liveness: Box<dyn Liveness>,
}

const NOBODY: u64 = 0;

fn mark(number: u32, epoch: u64) -> u64 {
    u64::from(number + 1) << u32::BITS | epoch & u64::from(u32::MAX)
}

impl Region {
    /// Makes us the peer with a number that we alone have.
    pub(crate) fn enlist(&mut self, number: u32, liveness: Box<dyn Liveness>) {
        // Relaxed: marks of this epoch are stored with release.
        let epoch = self.peer_epoch(number).fetch_add(1, Ordering::Relaxed);
        self.peer = Some(Peer {
            number,
            mark: mark(number, epoch.wrapping_add(1)),
            liveness,
        });
    }

    /// Our number among the peers.
    pub(crate) fn peer_number(&self) -> Option<u32> {
        self.peer.as_ref().map(|peer| peer.number)
    }

    pub(crate) fn own_mark(&self) -> u64 {
        self.peer.as_ref().map_or(NOBODY, |peer| peer.mark)
    }

    /// Whether a mark, loaded with acquire, is that of a peer which lives no longer.
    pub(crate) fn is_dead(&self, mark: u64) -> bool {
        let Some(own) = self.peer.as_ref() else {
            return false;
        };
        if mark == NOBODY || mark == own.mark {
            return false;
        }
        let number = u32::try_from((mark >> u32::BITS).wrapping_sub(1));
        let Some(number) = number.ok().filter(|it| *it < self.geometry().peers_max()) else {
            // No peer has ever stored this: it is nobody's.
            return true;
        };
        // Relaxed: ordered by the acquire load of the mark.
        let epoch = self.peer_epoch(number).load(Ordering::Relaxed);
        let is_former = (mark ^ epoch) & u64::from(u32::MAX) != 0;
        is_former || number == own.number || !own.liveness.is_alive(number)
    }

    /// Takes slot `index`, out of the gate; false if it is taken.
    pub(crate) fn take_slot(&self, index: u32) -> bool {
        if self.peer.is_some() {
            // Acquire: pairs with the release store in `free_slot`, as the swap below does in a ring
            // of one process. Release: the mark comes behind its epoch.
            let taken = self.slot_owner(index).compare_exchange(
                NOBODY,
                self.own_mark(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if taken.is_err() {
                return false;
            }
        }
        // Acquire: pairs with the release store by which the slot's last reader left, so that a
        // scan which sees what this reader publishes is ordered after that reader too. No release:
        // the value says nothing.
        let taken = self.slot(index).compare_exchange(
            SLOT_FREE,
            SLOT_UNGATED,
            Ordering::Acquire,
            Ordering::Relaxed,
        );
        if taken.is_err() && self.peer.is_some() {
            // A slot without an owner is free, so this peer's number is somebody else's, or a peer
            // stored where it had nothing to store.
            self.damage();
            self.slot_owner(index).store(NOBODY, Ordering::Release);
        }
        taken.is_ok()
    }

    /// Gives slot `index` back.
    pub(crate) fn free_slot(&self, index: u32) {
        // Release: pairs with the acquire load in `Region::slowest` and the swap in `take_slot`.
        self.slot(index).store(SLOT_FREE, Ordering::Release);
        if self.peer.is_some() {
            // Release: pairs with the swap in `take_slot`: the slot is free before its owner is gone.
            self.slot_owner(index).store(NOBODY, Ordering::Release);
        }
    }

    /// Frees the slots of the dead, the sweeper's and the retirer's among them. How many there were.
    pub(crate) fn free_slots_of_the_dead(&self) -> u32 {
        let slots = 0..self.geometry().slots();
        let freed = slots.filter(|index| {
            let owner = self.slot_owner(*index);
            self.take_over(owner) && {
                self.clear_parked(*index);
                self.free_slot(*index);
                true
            }
        });
        u32::try_from(freed.count()).unwrap_or(u32::MAX)
    }

    /// Makes an owner's word ours if its mark is dead.
    pub(crate) fn take_over(&self, owner: &crate::sync::AtomicU64) -> bool {
        // Acquire: pairs with the release swap by which the mark came there.
        let mark = owner.load(Ordering::Acquire);
        // Release: our mark comes behind its epoch. Acquire: behind what another one did who took
        // it over before.
        self.is_dead(mark)
            && owner
                .compare_exchange(mark, self.own_mark(), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    fn clear_parked(&self, index: u32) {
        if index < self.geometry().readers_max() {
            let bit = 1 << (index % u64::BITS);
            // Relaxed: clearing it promises nothing.
            self.parked(index / u64::BITS)
                .fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

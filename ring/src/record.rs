//! What a record is: how it is committed and how a commit is recognised.
//!
//! The rules on which every SAFETY comment of this crate rests:
//!
//! 1. The claim of `[position, end)` succeeded by moving the tail, so no two claims overlap, and it
//!    ended at or below a limit that the writer had read with acquire.
//! 2. The release chain of that limit (commit, then reader, then slot, then gate) orders everything
//!    ever done to the bytes of `[position - capacity, end - capacity)` before the claim: each
//!    record there was committed by its writer and passed by every reader. `gate.rs` proves it.
//! 3. Between claim and commit only the claimer touches the record, except that readers load its
//!    stamp, which is an atomic.
//! 4. After the commit nobody writes it, until rule 2 allows the next lap.
//! 5. A reader looks only at the record at its own position. Its slot holds a position at or before
//!    that, so the limit is at most a capacity ahead of it and the next lap cannot have started.
#![expect(
    unsafe_code,
    reason = "a record's metadata lies in memory that is reused"
)]

use crate::region::Region;
use crate::sync::Ordering;

/// Length and kind, as they lie in a record behind the stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Meta {
    pub(crate) payload_bytes: u32,
    pub(crate) kind: u32,
}

/// A record for the readers.
pub(crate) const KIND_DATA: u32 = 1;
/// The rest of a lap.
pub(crate) const KIND_PADDING: u32 = 2;
/// A grant that was dropped.
pub(crate) const KIND_ABORTED: u32 = 3;

impl Region {
    /// The stamp that commits `position`. The salt's top bit is set and no position has it, so a
    /// stamp is never zero, which is what memory holds before its first lap.
    fn stamp_value(&self, position: u64) -> u64 {
        position ^ self.salt()
    }

    /// # Safety
    ///
    /// The caller claimed the record at `position` with this length, has not committed it before
    /// and uses no reference to its payload any more.
    pub(crate) unsafe fn commit(&self, position: u64, meta: Meta) {
        // SAFETY: claimed and not yet committed, says the caller (rule 3).
        unsafe { self.write_meta(position, meta) };
        // Release: pairs with the acquire load in `committed`, so whoever sees the stamp sees the
        // payload and the metadata.
        self.stamp(position)
            .store(self.stamp_value(position), Ordering::Release);
    }

    /// The metadata of the record at `position`, or nothing if it is not committed yet.
    ///
    /// # Safety
    ///
    /// A slot that the caller owns holds a position `p` with `p <= position`, every record from `p`
    /// up to `position` was seen committed, and `p` came from `join` or from such a walk.
    pub(crate) unsafe fn committed(&self, position: u64) -> Option<Meta> {
        // Acquire: pairs with the release store in `commit`.
        let stamp = self.stamp(position).load(Ordering::Acquire);
        if stamp != self.stamp_value(position) {
            return None;
        }
        // SAFETY: committed, as the stamp says: no other position has it, and whoever could forge
        // it as payload does not know the salt. The caller's slot keeps the next lap away (rule 5).
        Some(unsafe { self.meta(position) })
    }
}

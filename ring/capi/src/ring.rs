//! Rings in the memory of one process, and what every ring has.

use core_ring::shared::SharedRing;
use core_ring::{Retirer, Ring, RingConfig};

use crate::pointer::{answer, give, shared, take};
use crate::status::{FanwireRingStatus, call, check_abi};

/// A ring that this process has made or is attached to.
pub struct FanwireRing(pub(crate) Attached);

/// Where the ring is.
pub(crate) enum Attached {
    Here(Ring),
    Shared(SharedRing),
}

impl FanwireRing {
    pub(crate) fn ring(&self) -> &Ring {
        match &self.0 {
            Attached::Here(ring) => ring,
            Attached::Shared(shared) => shared.ring(),
        }
    }
}

/// What a ring tells about itself. Numbers may be old when they arrive.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FanwireRingInfo {
    /// Bytes of records that the ring holds, with their headers of 32 bytes at most each.
    pub capacity_bytes: u32,
    /// The largest payload, bytes.
    pub record_bytes_max: u32,
    /// Readers that can be attached at a time.
    pub readers_max: u32,
    /// Whether a peer has damaged the memory.
    pub is_damaged: bool,
    /// Where the next record is claimed: bytes since the ring was made.
    pub tail_position: u64,
    /// Bytes that the slowest reader has not passed.
    pub depth_bytes: u64,
    /// Bytes of retired grants that nobody has returned.
    pub held_bytes: u64,
    /// Grants that were freed without a commit.
    pub aborted_total: u64,
    /// Times that grants were retired.
    pub retirements_total: u64,
}

/// Makes a ring in the memory of this process. `capacity_bytes` is a power of two of at least 4096,
/// `readers_max` is 1 to 1023. Free it with `fanwire_ring_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_new(
    abi_version: u32,
    capacity_bytes: u32,
    readers_max: u32,
    ring: *mut *mut FanwireRing,
) -> FanwireRingStatus {
    call(|| {
        check_abi(abi_version)?;
        let config = RingConfig {
            capacity_bytes,
            readers_max,
        };
        let made = FanwireRing(Attached::Here(Ring::new(config)?));
        // SAFETY: the caller's promise.
        unsafe { give(ring, made) }
    })
}

/// Gives the handle back. The ring lives on until its writers, readers and other handles are freed, too.
/// Null is allowed, here and in the other functions that free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_free(ring: *mut FanwireRing) {
    call(|| {
        // SAFETY: the caller's promise.
        drop(unsafe { take(ring) });
        Ok(())
    });
}

/// Tells how full the ring is, and more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_info(
    ring: *const FanwireRing,
    info: *mut FanwireRingInfo,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let ring = unsafe { shared(ring) }?.ring();
        let value = FanwireRingInfo {
            capacity_bytes: ring.capacity_bytes(),
            record_bytes_max: ring.record_bytes_max(),
            readers_max: ring.readers_max(),
            is_damaged: ring.is_damaged(),
            tail_position: ring.tail_position(),
            depth_bytes: ring.depth_bytes(),
            held_bytes: ring.held_bytes(),
            aborted_total: ring.aborted_total(),
            retirements_total: ring.retirements_total(),
        };
        // SAFETY: the caller's promise.
        unsafe { answer(info, value) };
        Ok(())
    })
}

/// Puts a reader out of the gate, so that writers wait for it no longer: for a reader that does not get on.
/// It is told what it missed. `was_in_gate` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_put_out(
    ring: *const FanwireRing,
    reader_index: u32,
    was_in_gate: *mut bool,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let ring = unsafe { shared(ring) }?.ring();
        if reader_index >= ring.readers_max() {
            return Err(crate::status::Failure::argument("there is no such reader"));
        }
        let value = ring.put_out(reader_index);
        // SAFETY: the caller's promise.
        unsafe { answer(was_in_gate, value) };
        Ok(())
    })
}

/// Frees what processes that are gone have left in a shared ring: slots of readers, announcements of writers.
/// `count` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_evict_dead(
    ring: *const FanwireRing,
    count: *mut u32,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let evicted = unsafe { shared(ring) }?.ring().evict_dead();
        // SAFETY: the caller's promise.
        unsafe { answer(count, evicted) };
        Ok(())
    })
}

/// What lets readers pass grants that are not committed. A ring has at most one.
pub struct FanwireRingRetirer(Retirer);

/// Makes the retirer of a ring: one thread, of one process, calls `fanwire_ring_retirer_look` regularly.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_retirer_new(
    ring: *const FanwireRing,
    retirer: *mut *mut FanwireRingRetirer,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let made = unsafe { shared(ring) }?.ring().retirer()?;
        // SAFETY: the caller's promise.
        unsafe { give(retirer, FanwireRingRetirer(made)) }
    })
}

/// Retires what was claimed before the last look and is not committed. So the time between two looks is how
/// long a grant may be open: 100 ms, say. Where `has_retired` is true, wake the readers with
/// `fanwire_ring_writer_wake`. It may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_retirer_look(
    retirer: *mut FanwireRingRetirer,
    has_retired: *mut bool,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let value = unsafe { crate::pointer::exclusive(retirer) }?.0.look();
        // SAFETY: the caller's promise.
        unsafe { answer(has_retired, value) };
        Ok(())
    })
}

/// Gives the retirer back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_retirer_free(retirer: *mut FanwireRingRetirer) {
    call(|| {
        // SAFETY: the caller's promise.
        drop(unsafe { take(retirer) });
        Ok(())
    });
}

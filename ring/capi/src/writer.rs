//! Writing.

use core_ring::{Grant, Writer};

use crate::pointer::{answer, exclusive, give, items, shared, take};
use crate::ring::FanwireRing;
use crate::status::{Failure, FanwireRingStatus, call};

/// Writes records into a ring. Any number may exist; one may be used by several threads.
pub struct FanwireRingWriter(Writer);

/// A record to be written.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FanwireRingInput {
    /// What readers decide by whether they want it.
    pub tag: u64,
    /// The payload.
    pub payload: *const u8,
    /// Its length, bytes.
    pub payload_bytes: usize,
}

/// Makes a writer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_writer_new(
    ring: *const FanwireRing,
    writer: *mut *mut FanwireRingWriter,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let made = unsafe { shared(ring) }?.ring().writer();
        // SAFETY: the caller's promise.
        unsafe { give(writer, FanwireRingWriter(made)) }
    })
}

/// Gives a writer back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_writer_free(writer: *mut FanwireRingWriter) {
    call(|| {
        // SAFETY: the caller's promise.
        drop(unsafe { take(writer) });
        Ok(())
    });
}

/// Writes one record: a copy of the payload. `FANWIRE_RING_STATUS_FULL` is the answer when there is no room; this
/// never waits. Its position goes to `position`, which may be null. Call `fanwire_ring_writer_wake` after it, or
/// once after several.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_writer_write(
    writer: *const FanwireRingWriter,
    tag: u64,
    payload: *const u8,
    payload_bytes: usize,
    position: *mut u64,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let writer = &unsafe { shared(writer) }?.0;
        // SAFETY: the caller's promise.
        let payload = unsafe { items(payload, payload_bytes) }?;
        let written = writer.try_write(tag, &[payload])?;
        // SAFETY: the caller's promise.
        unsafe { answer(position, written) };
        Ok(())
    })
}

/// Writes records until one does not fit, and wakes the readers that sleep. The number of those that are
/// written goes to `written`, also when the answer is not `FANWIRE_RING_STATUS_SUCCESS`. Records of others may lie
/// between them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_writer_write_batch(
    writer: *const FanwireRingWriter,
    records: *const FanwireRingInput,
    count: usize,
    written: *mut usize,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let writer = &unsafe { shared(writer) }?.0;
        // SAFETY: the caller's promise.
        let records = unsafe { items(records, count) }?;
        let mut done = 0;
        let outcome = records.iter().try_for_each(|record| {
            // SAFETY: the caller's promise.
            let payload = unsafe { items(record.payload, record.payload_bytes) }?;
            writer.try_write(record.tag, &[payload])?;
            done += 1;
            Ok(())
        });
        writer.wake_sleepers();
        // SAFETY: the caller's promise.
        unsafe { answer(written, done) };
        outcome
    })
}

/// Wakes the readers that sleep in `fanwire_ring_reader_wait`, in all processes. Enters the kernel only if some
/// do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_writer_wake(
    writer: *const FanwireRingWriter,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        unsafe { shared(writer) }?.0.wake_sleepers();
        Ok(())
    })
}

/// A record that is claimed and not written yet. Readers do not get past it until it is committed, freed or
/// retired.
pub struct FanwireRingGrant {
    grant: Option<Grant<'static>>,
    reserved_bytes: u32,
}

/// Claims a record of at most `payload_bytes`, to be filled piece by piece.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_writer_reserve(
    writer: *const FanwireRingWriter,
    tag: u64,
    payload_bytes: u32,
    grant: *mut *mut FanwireRingGrant,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let writer = &unsafe { shared(writer) }?.0;
        if grant.is_null() {
            return Err(Failure::argument("the pointer for the handle is null"));
        }
        let made = FanwireRingGrant {
            grant: Some(writer.try_reserve_owned(tag, payload_bytes)?),
            reserved_bytes: payload_bytes,
        };
        // SAFETY: the caller's promise.
        unsafe { give(grant, made) }
    })
}

fn open(grant: &mut FanwireRingGrant) -> Result<&mut Grant<'static>, Failure> {
    let ended = || Failure::argument("the grant is committed");
    grant.grant.as_mut().ok_or_else(ended)
}

/// Appends bytes to the record. More than are left are `FANWIRE_RING_STATUS_TOO_LARGE`, and none of them is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_grant_write(
    grant: *mut FanwireRingGrant,
    payload: *const u8,
    payload_bytes: usize,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let grant = open(unsafe { exclusive(grant) }?)?;
        if payload_bytes > grant.rest_bytes() {
            return Err(Failure::plain(FanwireRingStatus::TooLarge));
        }
        // SAFETY: the caller's promise.
        grant.write(unsafe { items(payload, payload_bytes) }?);
        Ok(())
    })
}

/// Makes the record visible with the bytes that were written; its length is theirs. `FANWIRE_RING_STATUS_RETIRED` if
/// it took too long. The grant is ended either way, and still to be freed. `position` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_grant_commit(
    grant: *mut FanwireRingGrant,
    position: *mut u64,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let grant = unsafe { exclusive(grant) }?;
        let ended = grant.grant.take();
        let ended = ended.ok_or_else(|| Failure::argument("the grant is committed"))?;
        let value = ended.position();
        // No more are left than were reserved, a u32.
        let left = u32::try_from(ended.rest_bytes()).unwrap_or(0);
        ended.commit_shortened(grant.reserved_bytes - left)?;
        // SAFETY: the caller's promise.
        unsafe { answer(position, value) };
        Ok(())
    })
}

/// Gives a grant back. One that is not committed becomes a record that readers skip.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_grant_free(grant: *mut FanwireRingGrant) {
    call(|| {
        // SAFETY: the caller's promise.
        drop(unsafe { take(grant) });
        Ok(())
    });
}

//! Reading, with writers that wait.

use std::ffi::c_void;
use std::time::{Duration, Instant};

use core_ring::{Reader, Record};

use crate::pointer::{answer, exclusive, give, shared, take};
use crate::ring::FanwireRing;
use crate::status::{Failure, FanwireRingStatus, call};

/// Reads every record in the ring's order. Writers wait for it.
pub struct FanwireRingReader(Reader);

/// A record that was written.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FanwireRingRecord {
    /// Where it is: bytes since the ring was made.
    pub position: u64,
    /// Records before it.
    pub number: u64,
    /// Its tag.
    pub tag: u64,
    /// A copy of its payload, the library's, valid until the next call with the same handle.
    pub payload: *const u8,
    /// Its length, bytes.
    pub payload_bytes: usize,
}

impl FanwireRingRecord {
    pub(crate) fn new(record: Record, payload: &[u8]) -> Self {
        Self {
            position: record.position,
            number: record.number,
            tag: record.tag,
            payload: payload.as_ptr(),
            payload_bytes: payload.len(),
        }
    }
}

/// Called for a record; false = go no further. The payload is valid during the call. It must not use the reader,
/// and let no exception out.
pub type FanwireRingVisit = Option<
    unsafe extern "C" fn(
        context: *mut c_void,
        position: u64,
        tag: u64,
        payload: *const u8,
        payload_bytes: usize,
    ) -> bool,
>;

/// Makes a reader, which sees every record that is claimed after this call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_reader_new(
    ring: *const FanwireRing,
    reader: *mut *mut FanwireRingReader,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let made = unsafe { shared(ring) }?.ring().reader()?;
        // SAFETY: the caller's promise.
        unsafe { give(reader, FanwireRingReader(made)) }
    })
}

/// Gives a reader back. Writers wait for it no longer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_reader_free(reader: *mut FanwireRingReader) {
    call(|| {
        // SAFETY: the caller's promise.
        drop(unsafe { take(reader) });
        Ok(())
    });
}

/// The reader's slot, which `fanwire_ring_put_out` takes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_reader_index(
    reader: *const FanwireRingReader,
    index: *mut u32,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let value = unsafe { shared(reader) }?.0.index();
        // SAFETY: the caller's promise.
        unsafe { answer(index, value) };
        Ok(())
    })
}

/// Shows the next record; `FANWIRE_RING_STATUS_EMPTY` if there is none. The same again until
/// `fanwire_ring_reader_advance`. After `FANWIRE_RING_STATUS_MISSED` (the reader was put out and overtaken) it goes on
/// with what is written from then on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_reader_next(
    reader: *mut FanwireRingReader,
    record: *mut FanwireRingRecord,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let reader = &mut unsafe { exclusive(reader) }?.0;
        let empty = || Failure::plain(FanwireRingStatus::Empty);
        let shown = reader.next()?.ok_or_else(empty)?;
        let payload = reader.payload()?.ok_or_else(empty)?;
        // SAFETY: the caller's promise.
        unsafe { answer(record, FanwireRingRecord::new(shown, payload)) };
        Ok(())
    })
}

/// Passes the record that `fanwire_ring_reader_next` has shown; `FANWIRE_RING_STATUS_EMPTY` if it has shown none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_reader_advance(
    reader: *mut FanwireRingReader,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        match unsafe { exclusive(reader) }?.0.advance() {
            true => Ok(()),
            false => Err(Failure::plain(FanwireRingStatus::Empty)),
        }
    })
}

/// Hands up to `records_max` records to `visit`, and passes them: faster than one by one. The number goes to
/// `count`, which may be null; zero is no error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_reader_drain(
    reader: *mut FanwireRingReader,
    records_max: usize,
    visit: FanwireRingVisit,
    context: *mut c_void,
    count: *mut usize,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let reader = &mut unsafe { exclusive(reader) }?.0;
        let visit = visit.ok_or_else(|| Failure::argument("the function is null"))?;
        let see = |position, tag, payload: &[u8]| {
            // SAFETY: the caller's promise: the function may be called so.
            unsafe { visit(context, position, tag, payload.as_ptr(), payload.len()) }
        };
        let passed = reader.drain_while(records_max, &mut (|_| true, see))?;
        // SAFETY: the caller's promise.
        unsafe { answer(count, passed) };
        Ok(())
    })
}

/// Waits until there is a record: looks `spins` times, then sleeps for up to `timeout_ns` nanoseconds (without end
/// if it is negative). `FANWIRE_RING_STATUS_TIMEOUT` if there is still none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_reader_wait(
    reader: *const FanwireRingReader,
    spins: u32,
    timeout_ns: i64,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let reader = &unsafe { shared(reader) }?.0;
        if reader.wait(spins, Some(Duration::ZERO)) {
            return Ok(());
        }
        let timeout = u64::try_from(timeout_ns).map(Duration::from_nanos).ok();
        let deadline = timeout.and_then(|timeout| now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now()));
            // A reader may be woken for nothing.
            if reader.wait(0, left) {
                return Ok(());
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Failure::plain(FanwireRingStatus::Timeout));
            }
        }
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a timeout of the caller; nothing here is simulated"
)]
fn now() -> Instant {
    Instant::now()
}

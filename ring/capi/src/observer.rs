//! Reading without being waited for.

use core_ring::{Bookmark, ObserveError, Observer, Start};

use crate::pointer::{answer, exclusive, give, shared, take};
use crate::reader::FanwireRingRecord;
use crate::ring::FanwireRing;
use crate::status::{Failure, FanwireRingStatus, call};

/// Reads records without holding up anybody. It can be overtaken, and is told how many records it missed.
pub struct FanwireRingObserver(Observer);

/// Where an observer begins.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FanwireRingStart {
    /// With what is written from now on.
    Tail = 0,
    /// With the oldest record of which the number is known.
    Oldest = 1,
    /// At the bookmark that is given.
    At = 2,
}

/// Makes an observer. `start` is one of `FanwireRingStart`; `position` and `number` are those of a record or of
/// `fanwire_ring_observer_bookmark`, and count only with `FANWIRE_RING_START_AT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_observer_new(
    ring: *const FanwireRing,
    start: u32,
    position: u64,
    number: u64,
    observer: *mut *mut FanwireRingObserver,
) -> FanwireRingStatus {
    call(|| {
        // Not an enumeration: a number that is none of it must not get in.
        let start = match start {
            0 => Start::Tail,
            1 => Start::Oldest,
            2 => Start::At(Bookmark { position, number }),
            _ => return Err(Failure::argument("there is no such start")),
        };
        // SAFETY: the caller's promise.
        let made = unsafe { shared(ring) }?.ring().observer(start)?;
        // SAFETY: the caller's promise.
        unsafe { give(observer, FanwireRingObserver(made)) }
    })
}

/// Gives an observer back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_observer_free(observer: *mut FanwireRingObserver) {
    call(|| {
        // SAFETY: the caller's promise.
        drop(unsafe { take(observer) });
        Ok(())
    });
}

/// Shows the next record and passes it; `FANWIRE_RING_STATUS_EMPTY` if there is none. When it has been overtaken, the
/// answer is `FANWIRE_RING_STATUS_MISSED` and the number of records that were missed goes to `missed`, which may be
/// null; the next call goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_observer_next(
    observer: *mut FanwireRingObserver,
    record: *mut FanwireRingRecord,
    missed: *mut u64,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let observer = &mut unsafe { exclusive(observer) }?.0;
        let told = |error: ObserveError| {
            if let ObserveError::Missed { records, .. } = error {
                // SAFETY: the caller's promise.
                unsafe { answer(missed, records) };
            }
            Failure::from(error)
        };
        let empty = || Failure::plain(FanwireRingStatus::Empty);
        let shown = observer.next().map_err(told)?.ok_or_else(empty)?;
        let payload = observer.payload().map_err(told)?.ok_or_else(empty)?;
        let found = FanwireRingRecord::new(shown, payload);
        observer.advance();
        // SAFETY: the caller's promise.
        unsafe { answer(record, found) };
        Ok(())
    })
}

/// Where the observer is, for `FANWIRE_RING_START_AT`, in this process or another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fanwire_ring_observer_bookmark(
    observer: *const FanwireRingObserver,
    position: *mut u64,
    number: *mut u64,
) -> FanwireRingStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let bookmark = unsafe { shared(observer) }?.0.bookmark();
        // SAFETY: the caller's promise.
        unsafe { answer(position, bookmark.position) };
        // SAFETY: the caller's promise.
        unsafe { answer(number, bookmark.number) };
        Ok(())
    })
}

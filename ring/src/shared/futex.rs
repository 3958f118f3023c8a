//! Blocking: a reader sleeps on a word of its slot's line, by futex, so that a writer in any process
//! can wake it.
//!
//! *No wake-up is lost.* The reader loads the word, sets its mark in the parked line and looks at the ring
//! (`Reader::park`), and sleeps only while the word is as it was. A writer that takes the mark changes
//! the word and then wakes. Of the fences in `park` and `wake_parked` one comes first. If it is the
//! writer's, the reader's look sees its record. If it is the reader's, the word is changed behind the
//! reader's load of it: so the kernel finds it changed, or the reader asleep.
//!
//! A peer that changes the word for nothing, or wakes nobody, makes readers wake for nothing, or sleep
//! until their timeout.

use std::prelude::v1::*;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::{ClockId, Timespec, futex};
use rustix::time::clock_gettime;

use crate::reader::Reader;
use crate::sync::{AtomicU64, Ordering};
use crate::writer::Writer;

/// The half of a word that has its low bits, which is what the kernel compares.
#[expect(unsafe_code, reason = "the kernel's futexes have 32 bits")]
fn low_half(word: &AtomicU64) -> &AtomicU32 {
    let halves = std::ptr::from_ref(word).cast::<AtomicU32>();
    let low = if cfg!(target_endian = "little") {
        halves
    } else {
        halves.wrapping_add(1)
    };
    // SAFETY: both halves are inside of the word, which lives as long as the borrow and is aligned;
    // it is an atomic, so that it may change while it is borrowed. This process accesses it through
    // the whole word alone: the half is an address for the kernel.
    unsafe { &*low }
}

impl Reader {
    /// Waits until there is a record to drain: looks `spins` times, then sleeps until a writer calls
    /// [`Writer::wake_sleepers`], in any process, or `timeout` is over (never, if there is none). False
    /// if there is no record then. May return early.
    ///
    /// A reader that sleeps stays in the gate where it stands.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half of a word")]
    pub fn wait(&self, spins: u32, timeout: Option<Duration>) -> bool {
        for _ in 0..spins {
            if !self.is_empty() {
                return true;
            }
            std::hint::spin_loop();
        }
        let word = self.wake_word();
        // Relaxed: the fence in `park` orders it, see above.
        let seen = word.load(Ordering::Relaxed) as u32;
        if !self.park() {
            return true;
        }
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        // Whatever the answer is, what there is to read decides. Not FUTEX_PRIVATE: the word may be
        // another process's, too.
        let _ = futex::wait(
            low_half(word),
            futex::Flags::empty(),
            seen,
            timeout.as_ref(),
        );
        self.unpark();
        !self.is_empty()
    }
}

/// Readers that can be waited for together (`FUTEX_WAITV_MAX` of the kernel).
pub const WAIT_ANY_MAX: usize = 128;
/// How long a reader sleeps at most where the kernel does not wait for several words.
const NAP: Duration = Duration::from_millis(1);

/// Waits until one of the readers, of rings of any kind, has a record to drain: sleeps until a writer of one of
/// the rings calls [`Writer::wake_sleepers`], or `timeout` is over. False if there is no record then.
/// May return early. As [`Reader::wait`] otherwise.
///
/// Linux 5.16 or newer; where that call is not there or not allowed, it looks every millisecond.
///
/// # Panics
///
/// If there are more readers than [`WAIT_ANY_MAX`].
#[expect(clippy::cast_possible_truncation, reason = "the lower half of a word")]
pub fn wait_any(readers: &[&Reader], timeout: Duration) -> bool {
    assert!(
        readers.len() <= WAIT_ANY_MAX,
        "at most {WAIT_ANY_MAX} readers"
    );
    let mut waits = Vec::with_capacity(readers.len());
    let mut has_record = false;
    for reader in readers {
        let word = reader.wake_word();
        // Relaxed: the fence in `park` orders it, see above.
        let seen = word.load(Ordering::Relaxed) as u32;
        if !reader.park() {
            has_record = true;
            break;
        }
        let mut wait = futex::Wait::new();
        wait.val = seen.into();
        wait.uaddr = futex::WaitPtr::new(std::ptr::from_ref(low_half(word)).cast_mut().cast());
        wait.flags = futex::WaitFlags::SIZE_U32;
        waits.push(wait);
    }
    if !has_record {
        sleep_on(&waits, timeout);
    }
    for reader in &readers[..waits.len()] {
        reader.unpark();
    }
    readers.iter().any(|reader| !reader.is_empty())
}

/// Sleeps until one of the words is woken or changes.
fn sleep_on(waits: &[futex::Wait], timeout: Duration) {
    // The kernel takes a point of time here, not a duration.
    let now = clock_gettime(ClockId::Monotonic);
    let nanos = now.tv_nsec + i64::from(timeout.subsec_nanos());
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
    let until = Timespec {
        tv_sec: now
            .tv_sec
            .saturating_add(seconds)
            .saturating_add(nanos / 1_000_000_000),
        tv_nsec: nanos % 1_000_000_000,
    };
    let flags = futex::WaitvFlags::empty();
    // No words are an error of the call, and so are kernels and sandboxes without it.
    if let Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) =
        futex::waitv(waits, flags, Some(&until), ClockId::Monotonic)
    {
        std::thread::sleep(timeout.min(NAP));
    }
}

impl Writer {
    /// Wakes all readers that sleep in [`Reader::wait`]. Enters the kernel once for each reader that
    /// sleeps, and not at all if none does. To be called like [`Writer::wake_parked`], of which it is
    /// one use.
    pub fn wake_sleepers(&self) {
        self.wake_parked(|_| u64::MAX, |index| self.wake_sleeper(index));
    }

    /// Wakes one reader that sleeps in [`Reader::wait`]; for callers of [`Writer::wake_parked`] that
    /// wake others in other ways.
    ///
    /// # Panics
    ///
    /// If the index is not below `readers_max`.
    pub fn wake_sleeper(&self, reader_index: u32) {
        let word = self.wake_word(reader_index);
        // Relaxed: the kernel orders it before the wake, and the reader learns of records by their
        // stamps.
        word.fetch_add(1, Ordering::Relaxed);
        // One reader sleeps on it; a wake that cannot be is like one that nobody needs.
        let _ = futex::wake(low_half(word), futex::Flags::empty(), 1);
    }
}

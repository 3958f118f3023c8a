//! When some publications were made, so that the shards that deliver them can say how long it took.
//!
//! One publication in [`SAMPLED`] is noted, in one word of its writer. A shard that reads its record
//! finds the time there, unless a later one of the same writer is noted already.

use std::sync::atomic::{AtomicU64, Ordering};

/// Of so many publications of a writer, one is noted: the first.
pub const SAMPLED: u64 = 64;

/// The lower bits of a word are nanoseconds, modulo 78 hours; the upper ones say which sample it is.
const NANOS_BITS: u32 = 48;
const NANOS: u64 = (1 << NANOS_BITS) - 1;

/// A word, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Slot(AtomicU64);

/// The words of all writers.
///
/// All accesses are relaxed: a word holds all that belongs together, and one that is seen late is
/// taken for another sample.
#[derive(Debug, Default)]
pub struct PublishTimes(Box<[Slot]>);

/// A moment when a publication was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishTime(u64);

impl PublishTime {
    /// How long ago it was, nanoseconds.
    #[must_use]
    pub const fn elapsed(self, now_nanos: u64) -> u64 {
        now_nanos.wrapping_sub(self.0) & NANOS
    }
}

impl PublishTimes {
    /// For this many shards, and one writer for all other threads.
    #[must_use]
    pub fn new(shard_count: usize) -> Self {
        Self((0..=shard_count).map(|_| Slot::default()).collect())
    }

    /// Whether the publication with this number, from 1, is noted.
    #[must_use]
    pub const fn is_sampled(number: u64) -> bool {
        number % SAMPLED == 1
    }

    fn slot(&self, writer: usize) -> Option<&Slot> {
        self.0.get(writer).or(self.0.last())
    }

    /// Notes that a writer makes a publication now. All threads that are no shards are one writer.
    pub fn note(&self, writer: usize, number: u64, now_nanos: u64) {
        if let Some(Slot(word)) = self.slot(writer) {
            let sample = number / SAMPLED;
            word.store(sample << NANOS_BITS | now_nanos & NANOS, Ordering::Relaxed);
        }
    }

    /// When a writer made the publication, if that is still known.
    #[must_use]
    pub fn find(&self, writer: usize, number: u64) -> Option<PublishTime> {
        let word = self.slot(writer)?.0.load(Ordering::Relaxed);
        let is_same = word >> NANOS_BITS == (number / SAMPLED) & (u64::MAX >> NANOS_BITS);
        (is_same && word != 0).then_some(PublishTime(word & NANOS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_found_until_the_next_one_of_the_writer() {
        let times = PublishTimes::new(2);
        assert_eq!(times.find(0, 1), None);
        times.note(0, 65, 1_000);
        let elapsed = |writer, number| times.find(writer, number).map(|it| it.elapsed(1_500));
        assert_eq!(elapsed(0, 65), Some(500));
        assert_eq!(
            (elapsed(0, 1), elapsed(0, 129), elapsed(1, 65)),
            (None, None, None)
        );
        times.note(0, 129, 1_400);
        assert_eq!((elapsed(0, 65), elapsed(0, 129)), (None, Some(100)));
        // Threads that are no shards.
        times.note(999, 1, 1_499);
        assert_eq!(elapsed(1_024, 1), Some(1));
        // The clock is past its bits.
        times.note(1, 1, (1 << 60) - 1);
        assert_eq!(times.find(1, 1).unwrap().elapsed((1 << 60) + 9), 10);
    }

    #[test]
    fn the_first_of_so_many_is_noted() {
        let sampled: Vec<_> = (1..200)
            .filter(|it| PublishTimes::is_sampled(*it))
            .collect();
        assert_eq!(sampled, [1, 65, 129, 193]);
    }
}

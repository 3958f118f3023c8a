//! Which segments are too many or too old.

use crate::base::Now;
use std::collections::VecDeque;
use std::time::Duration;

/// A segment that is no longer written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClosedSegment {
    pub(super) first_sequence: u64,
    pub(super) bytes: u64,
}

/// The closed segments, the oldest first, and the limits that they are deleted for.
///
/// While the process runs, age is measured on the monotonic clock. The wall clock counts once, for
/// what an earlier process wrote; a time in the future is no age at all.
#[derive(Debug)]
pub(super) struct Retention {
    bytes_max: u64,
    age_max_ms: Option<u64>,
    /// Segments, and the monotonic time from which on they may be deleted for their age.
    segments: VecDeque<(ClosedSegment, u64)>,
    bytes: u64,
}

impl Retention {
    pub(super) fn new(bytes_max: u64, age_max: Option<Duration>) -> Self {
        let milliseconds = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Self {
            bytes_max,
            age_max_ms: age_max.map(milliseconds),
            segments: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Time after which a segment is closed although it has room, so that its first records do not
    /// outlive their age for long, milliseconds.
    pub(super) fn segment_age_max_ms(&self) -> Option<u64> {
        self.age_max_ms.map(|age| (age / 4).max(1))
    }

    /// Adds a segment whose last record was written at `written_unix_ms`, which is now for a segment
    /// of this process.
    pub(super) fn add(&mut self, segment: ClosedSegment, written_unix_ms: u64, now: Now) {
        let age_ms = now.unix_ms.saturating_sub(written_unix_ms);
        let expires_ms = self.age_max_ms.map_or(u64::MAX, |max| {
            now.monotonic_ms.saturating_add(max.saturating_sub(age_ms))
        });
        self.bytes += segment.bytes;
        self.segments.push_back((segment, expires_ms));
    }

    /// Takes the oldest segment out if it is too old, or if there are too many bytes with
    /// `active_bytes` in the segment that is written. The newest segment with records stays: the
    /// store takes its epoch and its next sequence number from it.
    pub(super) fn take_expired(&mut self, active_bytes: u64, now: Now) -> Option<ClosedSegment> {
        if active_bytes == 0 && self.segments.len() == 1 {
            return None;
        }
        let (segment, expires_ms) = *self.segments.front()?;
        let is_old = now.monotonic_ms >= expires_ms;
        if !is_old && self.bytes + active_bytes <= self.bytes_max {
            return None;
        }
        self.segments.pop_front();
        self.bytes -= segment.bytes;
        Some(segment)
    }

    /// Takes the oldest segment out if all its records are before a sequence number. `active` is the
    /// first one in the segment that is written.
    pub(super) fn take_before(
        &mut self,
        sequence: u64,
        active: Option<u64>,
    ) -> Option<ClosedSegment> {
        let next = self.segments.get(1).map(|(next, _)| next.first_sequence);
        if next.or(active)? > sequence {
            return None;
        }
        let (segment, _) = self.segments.pop_front()?;
        self.bytes -= segment.bytes;
        Some(segment)
    }

    /// Segments and their bytes.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.segments.len() as u64, self.bytes)
    }

    /// The sequence number of the first record of the oldest segment.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.segments.front().map(|(it, _)| it.first_sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(first_sequence: u64) -> ClosedSegment {
        ClosedSegment {
            first_sequence,
            bytes: 10,
        }
    }

    fn expired(retention: &mut Retention, active_bytes: u64, now: Now) -> Vec<u64> {
        let taken = std::iter::from_fn(|| retention.take_expired(active_bytes, now));
        taken.map(|it| it.first_sequence).collect()
    }

    #[test]
    fn the_oldest_segments_go_when_there_are_too_many_bytes() {
        let now = Now::at(0, 0);
        let mut retention = Retention::new(30, None);
        for first_sequence in 1..=4 {
            retention.add(segment(first_sequence), 0, now);
        }
        assert_eq!(expired(&mut retention, 0, now), [1]);
        assert_eq!(expired(&mut retention, 15, now), [2, 3]);
        assert_eq!(retention.totals(), (1, 10));
    }

    #[test]
    fn segments_go_at_their_age_however_the_wall_clock_jumps() {
        let day = 86_400_000;
        let age = Some(Duration::from_secs(60));
        let mut retention = Retention::new(u64::MAX, age);
        // Of an earlier process: 50 s old, from the future, and just written.
        retention.add(segment(1), 9 * day - 50_000, Now::at(1_000, 9 * day));
        retention.add(segment(2), 10 * day, Now::at(1_000, 9 * day));
        retention.add(segment(3), 9 * day, Now::at(1_000, 9 * day));
        let none: [u64; 0] = [];
        let at = |retention: &mut _, monotonic_ms, unix_ms| {
            expired(retention, 1, Now::at(monotonic_ms, unix_ms))
        };
        assert_eq!(at(&mut retention, 10_999, 9 * day), none);
        assert_eq!(at(&mut retention, 10_999, 99 * day), none, "a jump forward");
        assert_eq!(at(&mut retention, 11_000, 0), [1], "a jump back");
        assert_eq!(at(&mut retention, 60_999, 99 * day), none);
        assert_eq!(at(&mut retention, 61_000, 0), [2, 3]);
    }

    #[test]
    fn segments_before_a_sequence_number_go() {
        let mut retention = Retention::new(u64::MAX, None);
        for first_sequence in [1, 4, 7] {
            retention.add(segment(first_sequence), 0, Now::at(0, 0));
        }
        let before = |retention: &mut Retention, sequence, active| {
            let taken = std::iter::from_fn(|| retention.take_before(sequence, active));
            taken.map(|it| it.first_sequence).collect::<Vec<_>>()
        };
        let none: [u64; 0] = [];
        assert_eq!(before(&mut retention, 3, Some(9)), none);
        assert_eq!(before(&mut retention, 6, Some(9)), [1]);
        assert_eq!(
            before(&mut retention, 9, None),
            [4],
            "the newest records stay"
        );
        assert_eq!(before(&mut retention, 8, Some(9)), none);
        assert_eq!(before(&mut retention, 9, Some(9)), [7]);
    }

    #[test]
    fn the_newest_records_stay_whatever_their_age() {
        let age = Some(Duration::from_secs(1));
        let mut retention = Retention::new(1, age);
        retention.add(segment(1), 0, Now::at(0, 0));
        retention.add(segment(2), 0, Now::at(0, 0));
        assert_eq!(expired(&mut retention, 0, Now::at(9_000, 0)), [1]);
        assert_eq!(expired(&mut retention, 1, Now::at(9_000, 0)), [2]);
    }
}

//! Where everything lies in the region, and the arithmetic of positions. Pure: no memory, no
//! atomics. The picture is in the crate's documentation.

use crate::error::RingError;

/// First bytes of a region: "fanwring" in memory order on a little-endian machine.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"fanwring");
/// Changes with every change of the layout.
pub(crate) const VERSION: u32 = 2;

/// Two cache lines, because processors prefetch them in pairs.
pub(crate) const LINE_BYTES: usize = 128;
/// All memory of a region is accessed as words of this size.
pub(crate) const WORD_BYTES: usize = 8;
/// Stamp, size and kind, tag.
pub(crate) const HEADER_BYTES: u32 = 24;
/// Records start at multiples of this. Whatever is left at the end of the data has room for the
/// header of a padding record, and no header crosses a cache line.
pub(crate) const GRANULE_BYTES: u32 = 32;

/// Two records of the largest size and their padding always fit (asserted below). Under loom a few
/// records must already fill the ring, or its models would never reach the limit.
pub(crate) const CAPACITY_BYTES_MIN: u32 = if cfg!(loom) { 256 } else { 4096 };
/// One parked bit per reader in one line, one of them unused for the sweeper's slot.
pub(crate) const READERS_MAX: u32 = 1023;
/// A record may take this part of the ring, so that a few in flight never fill it.
pub(crate) const RECORD_PARTS: u32 = 8;

/// Value of a slot without a reader.
pub(crate) const SLOT_FREE: u64 = u64::MAX;
/// Bit of a slot whose reader does not gate the writers; the bits below are the position at which
/// it stopped. Positions are below it: a ring that moves 10 GB/s needs 29 years to get there.
pub(crate) const SLOT_UNGATED: u64 = 1 << 63;

const _: () = assert!(
    usize::BITS >= 64,
    "offsets and sizes of a region are computed in usize"
);
const _: () = assert!(CAPACITY_BYTES_MIN.is_power_of_two());
const _: () = assert!(HEADER_BYTES <= GRANULE_BYTES && 64 % GRANULE_BYTES == 0);
const _: () = assert!((READERS_MAX + 1) as usize <= LINE_BYTES * 8);
const _: () = {
    let span_max = CAPACITY_BYTES_MIN / RECORD_PARTS + 2 * GRANULE_BYTES;
    assert!(
        2 * span_max <= CAPACITY_BYTES_MIN,
        "a padded record must fit an empty ring"
    );
};

/// The two numbers from which every offset follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    capacity_bytes: u32,
    readers_max: u32,
}

/// Bytes taken from the tail for one record: `[tail, position)` is padding, `[position, end)` the
/// record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) position: u64,
    pub(crate) end: u64,
}

impl Geometry {
    pub(crate) fn new(capacity_bytes: u32, readers_max: u32) -> Result<Self, RingError> {
        if !capacity_bytes.is_power_of_two() || capacity_bytes < CAPACITY_BYTES_MIN {
            return Err(RingError::CapacityInvalid { capacity_bytes });
        }
        if !(1..=READERS_MAX).contains(&readers_max) {
            return Err(RingError::ReadersInvalid { readers_max });
        }
        Ok(Self {
            capacity_bytes,
            readers_max,
        })
    }

    pub(crate) fn capacity_bytes(self) -> u32 {
        self.capacity_bytes
    }

    pub(crate) fn capacity(self) -> u64 {
        u64::from(self.capacity_bytes)
    }

    pub(crate) fn readers_max(self) -> u32 {
        self.readers_max
    }

    pub(crate) fn record_bytes_max(self) -> u32 {
        self.capacity_bytes / RECORD_PARTS
    }

    /// The slot in which a writer stands as a reader while it looks for room in a ring that has
    /// no reader.
    pub(crate) fn sweeper_index(self) -> u32 {
        self.readers_max
    }

    /// Words of the parked line that are in use.
    pub(crate) fn parked_words(self) -> u32 {
        self.readers_max.div_ceil(u64::BITS)
    }

    /// Offset of a position in the data, `0 <= offset < capacity`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "asserted above: usize has 64 bits"
    )]
    pub(crate) fn offset(self, position: u64) -> usize {
        (position & (self.capacity() - 1)) as usize
    }

    /// Takes `span` bytes (of one record) after `tail`.
    pub(crate) fn claim(self, tail: u64, span: u64) -> Claim {
        let room = self.capacity() - (tail & (self.capacity() - 1));
        let position = if span <= room { tail } else { tail + room };
        Claim {
            position,
            end: position + span,
        }
    }
}

/// Bytes from the start of a record to the start of the next.
pub(crate) fn span(payload_bytes: u32) -> u64 {
    (u64::from(HEADER_BYTES) + u64::from(payload_bytes)).next_multiple_of(u64::from(GRANULE_BYTES))
}

/// The cached limit and a count of joins, in one word so that one compare-and-swap checks both.
///
/// ```text
///  63           32 31                   0
///  ┌──────────────┬──────────────────────┐
///  │ joins        │ limit / 32 mod 2^32  │
///  └──────────────┴──────────────────────┘
/// ```
///
/// The limit is cut to 32 bits, a window of 128 GiB, and restored from a tail that is known to be at
/// most [`Gate::WINDOW_BYTES`] behind it; it is never more than 2 GiB ahead of the present tail.
/// Joins are counted because a scan of the slots must not be used once a reader has joined after
/// it; a scan would have to sleep through 2^32 joins to be deceived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gate(pub(crate) u64);

impl Gate {
    const LIMIT_MASK: u64 = u32::MAX as u64;
    pub(crate) const WINDOW_BYTES: u64 = (GRANULE_BYTES as u64) << u32::BITS;

    /// The gate of a new ring.
    pub(crate) fn new(limit: u64) -> Self {
        Self(0).raised(limit)
    }

    /// The limit, for a `tail` with `tail <= limit < tail + WINDOW_BYTES`.
    pub(crate) fn limit(self, tail: u64) -> u64 {
        let granule = u64::from(GRANULE_BYTES);
        tail + (self.0.wrapping_sub(tail / granule) & Self::LIMIT_MASK) * granule
    }

    /// The same joins with another limit.
    pub(crate) fn raised(self, limit: u64) -> Self {
        let granules = limit / u64::from(GRANULE_BYTES);
        Self((self.0 & !Self::LIMIT_MASK) | (granules & Self::LIMIT_MASK))
    }

    /// The same limit after one more join.
    pub(crate) fn joined(self) -> Self {
        Self(self.0.wrapping_add(1 << u32::BITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_that_would_cross_the_end_starts_the_next_lap() {
        let geometry = Geometry::new(4096, 1).unwrap();
        let check = |tail: u64, span: u64, expected: (u64, u64)| {
            let claim = geometry.claim(tail, span);
            assert_eq!(
                (claim.position, claim.end),
                expected,
                "claim({tail}, {span})"
            );
        };
        check(0, 32, (0, 32));
        check(4064, 32, (4064, 4096));
        check(4064, 64, (4096, 4160));
        check(4096 * 7 + 4000, 96, (4096 * 7 + 4000, 4096 * 8));
        check(4096 * 7 + 4000, 128, (4096 * 8, 4096 * 8 + 128));
    }

    #[test]
    fn span_is_a_multiple_of_the_granule_with_room_for_the_header() {
        for (payload_bytes, expected) in [(0, 32), (8, 32), (9, 64), (40, 64), (41, 96), (128, 160)]
        {
            assert_eq!(span(payload_bytes), expected);
        }
        assert_eq!(span(u32::MAX), (1 << 32) + 32);
    }

    #[test]
    fn gate_gives_back_the_limit_at_any_tail_and_keeps_joins_apart() {
        let tails = [
            0,
            32,
            4096,
            Gate::WINDOW_BYTES - 32,
            Gate::WINDOW_BYTES,
            (1 << 62) + 96,
        ];
        let aheads = [0, 32, 4096, 1 << 31, Gate::WINDOW_BYTES - 32];
        for (tail, ahead) in tails
            .into_iter()
            .flat_map(|tail| aheads.map(|ahead| (tail, ahead)))
        {
            let gate = Gate::new(0).joined().raised(tail + ahead);
            assert_eq!(gate.limit(tail), tail + ahead);
            assert_eq!(gate.joined().limit(tail), tail + ahead);
            assert_ne!(gate.joined(), gate);
        }
    }

    #[test]
    fn geometry_refuses_what_it_cannot_hold() {
        let check = |capacity, readers, expected| {
            assert_eq!(Geometry::new(capacity, readers).err(), expected);
        };
        let invalid = |capacity_bytes| Some(RingError::CapacityInvalid { capacity_bytes });
        check(0, 1, invalid(0));
        check(CAPACITY_BYTES_MIN / 2, 1, invalid(CAPACITY_BYTES_MIN / 2));
        check(4096 + 16, 1, invalid(4096 + 16));
        check(4096, 0, Some(RingError::ReadersInvalid { readers_max: 0 }));
        check(
            4096,
            1024,
            Some(RingError::ReadersInvalid { readers_max: 1024 }),
        );
        check(1 << 31, 1023, None);
    }
}

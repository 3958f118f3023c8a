//! Where everything lies in the region, and the arithmetic of positions. Pure: no memory, no
//! atomics. The picture is in the crate's documentation.

use crate::error::RingError;

/// First bytes of a region: "fanwring" in memory order on a little-endian machine.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"fanwring");
/// Changes with every change of the layout.
pub(crate) const VERSION: u32 = 4;

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
/// One parked bit per reader in one line.
pub(crate) const READERS_MAX: u32 = 1023;
/// A record may take this part of the ring, so that a few in flight never fill it.
pub(crate) const RECORD_PARTS: u32 = 8;
/// Gaps that a ring can have at a time.
pub(crate) const GAPS_MAX: usize = if cfg!(loom) { 2 } else { 4 };

/// Processes that can be attached to a shared ring at a time, each with a lock of its own.
pub(crate) const PEERS_MAX: u32 = 1023;
/// Lines in which the writers of a shared ring announce their claims.
pub(crate) const WRITERS_MAX: u32 = 1023;
/// Claims that one line of a writer has room for: grants that it can have open at a time.
pub(crate) const ANNOUNCEMENTS: usize = 7;

/// How often a step is tried again because others have changed what it had read. In a ring whose
/// memory nobody else writes, each further round means that another thread got on, and nobody loses
/// so often in a row; where a peer writes what it likes, this bound is what ends the loop.
pub(crate) const ROUNDS_MAX: u32 = 1 << 16;

/// Value of a slot without a reader.
pub(crate) const SLOT_FREE: u64 = u64::MAX;
/// Bit of a slot whose reader does not gate the writers; the bits below are the position at which
/// it stopped. Positions are below it: a ring that moves 10 GB/s needs 29 years to get there.
pub(crate) const SLOT_UNGATED: u64 = 1 << 63;

/// No position has this bit, and each salt has it, so no stamp is zero.
pub(crate) const SALT_BIT: u64 = 1 << 63;

/// Lines in front of the slots: identity, claim, parked, counters, gaps.
pub(crate) const SLOTS_LINE: usize = 5;

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
    // Gaps divide what they leave of a lap into GAPS_MAX + 1 pieces at most; the largest of
    // them has at least this many granules. In a larger ring they are more.
    let span_max = record_span_max(CAPACITY_BYTES_MIN);
    let rest = ((CAPACITY_BYTES_MIN - 2 * span_max) / GRANULE_BYTES) as usize;
    assert!(
        rest.div_ceil(GAPS_MAX + 1) >= (span_max / GRANULE_BYTES) as usize,
        "a record of the largest size must fit between gaps"
    );
};

/// Bytes of a record of the largest size in a ring of `capacity_bytes`.
const fn record_span_max(capacity_bytes: u32) -> u32 {
    (capacity_bytes / RECORD_PARTS + HEADER_BYTES).next_multiple_of(GRANULE_BYTES)
}

/// The numbers from which every offset follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    capacity_bytes: u32,
    readers_max: u32,
    /// Zero in a ring of one process: then there are no announcements either.
    peers_max: u32,
    writers_max: u32,
}

/// Bytes taken from the tail: `[position, end)` is a record, or padding where the record does not
/// fit; `[tail, position)` are gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) position: u64,
    pub(crate) end: u64,
    pub(crate) is_padding: bool,
}

/// Bytes of retired claims, which their writers may still store into. The positions
/// `[start, start + bytes)` hold no record, and neither do those of the same bytes in each later lap
/// that begin before `until`. A gap lies within a lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    /// `u64::MAX` until all the bytes are returned.
    pub(crate) until: u64,
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
            peers_max: 0,
            writers_max: 0,
        })
    }

    /// The same with room for the peers of a shared ring.
    pub(crate) fn with_peers(self, peers_max: u32, writers_max: u32) -> Result<Self, RingError> {
        if peers_max > PEERS_MAX
            || writers_max > WRITERS_MAX
            || (peers_max == 0) != (writers_max == 0)
        {
            return Err(RingError::PeersInvalid {
                peers_max,
                writers_max,
            });
        }
        Ok(Self {
            peers_max,
            writers_max,
            ..self
        })
    }

    pub(crate) fn peers_max(self) -> u32 {
        self.peers_max
    }

    pub(crate) fn writers_max(self) -> u32 {
        self.writers_max
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

    /// The slot in which the retirer stands as a reader while it changes the gaps.
    pub(crate) fn retirer_index(self) -> u32 {
        self.readers_max + 1
    }

    /// Slots of readers, the sweeper and the retirer.
    pub(crate) fn slots(self) -> u32 {
        self.readers_max + 2
    }

    /// The line of the first peer's word, behind the slots.
    pub(crate) fn peers_line(self) -> usize {
        SLOTS_LINE + self.slots() as usize
    }

    /// The line of the first writer's announcements, behind the peers.
    pub(crate) fn writers_line(self) -> usize {
        self.peers_line() + (self.peers_max() as usize).div_ceil(LINE_BYTES / WORD_BYTES)
    }

    /// Where the data begins.
    pub(crate) fn data_offset(self) -> usize {
        (self.writers_line() + self.writers_max() as usize) * LINE_BYTES
    }

    /// Bytes of the whole region.
    pub(crate) fn total_bytes(self) -> usize {
        self.data_offset() + self.capacity_bytes as usize
    }

    /// Bytes that all gaps together may have: two records of the largest size, about a quarter of
    /// the ring.
    pub(crate) fn held_bytes_max(self) -> u64 {
        2 * u64::from(record_span_max(self.capacity_bytes))
    }

    /// Words of the parked line that are in use.
    pub(crate) fn parked_words(self) -> u32 {
        self.readers_max.div_ceil(u64::BITS)
    }

    /// Offset of a position in the data, a multiple of the granule, `0 <= offset < capacity`. A
    /// position that is none, as a peer may make it, is rounded down: a header always fits.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "asserted above: usize has 64 bits"
    )]
    pub(crate) fn offset(self, position: u64) -> usize {
        (position & (self.capacity() - u64::from(GRANULE_BYTES))) as usize
    }

    /// Whether a gap that was read from the table can be one: anything may be there.
    pub(crate) fn is_gap(self, gap: Gap) -> bool {
        let granule = u64::from(GRANULE_BYTES);
        gap.start.is_multiple_of(granule)
            && gap.bytes.is_multiple_of(granule)
            && gap.start < SLOT_UNGATED
            && (1..=self.capacity()).contains(&gap.bytes)
            && self.offset(gap.start) as u64 + gap.bytes <= self.capacity()
    }

    /// Bytes from `position` to `next`, if a look that began at `position` can have come to `next`:
    /// a look passes a capacity at most, as no writer gets further while the looker is in the gate.
    pub(crate) fn is_ahead(self, position: u64, next: u64) -> bool {
        next < SLOT_UNGATED && next.wrapping_sub(position) <= self.capacity()
    }

    /// The first position after `position` at which a lap begins.
    pub(crate) fn lap_end(self, position: u64) -> u64 {
        (position | (self.capacity() - 1)).wrapping_add(1)
    }

    /// Where `gap` begins next, at `position` or behind it; nothing if it has ended by then.
    fn next_start(self, gap: Gap, position: u64) -> Option<u64> {
        let start = if position <= gap.start {
            gap.start
        } else {
            position.wrapping_add(gap.start.wrapping_sub(position) & (self.capacity() - 1))
        };
        (start < gap.until).then_some(start)
    }

    /// The end of the gap that begins at `position`.
    pub(crate) fn gap_end(self, position: u64, gaps: &[Gap]) -> Option<u64> {
        let begins = |gap: &&Gap| self.next_start(**gap, position) == Some(position);
        let gap = gaps.iter().find(begins);
        gap.map(|gap| position.wrapping_add(gap.bytes))
    }

    /// Where a record at `position` must end: the end of the lap or the next gap.
    pub(crate) fn room_end(self, position: u64, gaps: &[Gap]) -> u64 {
        let starts = gaps
            .iter()
            .filter_map(|gap| self.next_start(*gap, position));
        starts.fold(self.lap_end(position), u64::min)
    }

    /// What to take after `tail` for a record of `span` bytes: the record, or padding in front of
    /// what it cannot cross.
    pub(crate) fn claim(self, tail: u64, span: u64, gaps: &[Gap]) -> Claim {
        let mut position = tail;
        // At most once per gap: they do not overlap.
        for _ in gaps {
            match self.gap_end(position, gaps) {
                Some(end) => position = end,
                None => break,
            }
        }
        let room_end = self.room_end(position, gaps);
        let end = position.wrapping_add(span);
        let is_padding = end > room_end;
        Claim {
            position,
            end: if is_padding { room_end } else { end },
            is_padding,
        }
    }
}

/// Bytes from the start of a record to the start of the next.
pub(crate) fn span(payload_bytes: u32) -> u64 {
    (u64::from(HEADER_BYTES) + u64::from(payload_bytes)).next_multiple_of(u64::from(GRANULE_BYTES))
}

/// The cached limit and a count of changes, in one word so that one compare-and-swap checks both.
///
/// ```text
///  63           32 31                   0
///  ┌──────────────┬──────────────────────┐
///  │ changes      │ limit / 32 mod 2^32  │
///  └──────────────┴──────────────────────┘
/// ```
///
/// The limit is cut to 32 bits, a window of 128 GiB, and restored from a tail that is known to be at
/// most [`Gate::WINDOW_BYTES`] behind it; it is never more than 2 GiB ahead of the present tail.
/// Joins are counted because a scan of the slots must not be used once a reader has joined after
/// it, and raises because the cut limit is the same again after 128 GiB.
///
/// A value can come back: after a multiple of 2^32 changes, if the cut limit is then the same, too.
/// The swap of a thread that slept for exactly that long between its load and its swap succeeds and
/// must not. The fastest changes, a thread that joins and leaves in a loop, come every 100 ns or
/// so, which makes it 7 minutes before the count is at its old value for 100 ns for the first time;
/// raises move the limit as well, and then both have to agree. It is a chance and not an
/// impossibility, of about one in 2^32 for each thread that is stopped for minutes between these two
/// instructions (a debugger, SIGSTOP, a suspended machine).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gate(pub(crate) u64);

impl Gate {
    const LIMIT_MASK: u64 = u32::MAX as u64;
    pub(crate) const WINDOW_BYTES: u64 = (GRANULE_BYTES as u64) << u32::BITS;

    /// The gate of a new ring.
    pub(crate) fn new(limit: u64) -> Self {
        Self(0).with_limit(limit)
    }

    /// The limit, for a `tail` with `tail <= limit < tail + WINDOW_BYTES`.
    pub(crate) fn limit(self, tail: u64) -> u64 {
        let granule = u64::from(GRANULE_BYTES);
        let ahead = (self.0.wrapping_sub(tail / granule) & Self::LIMIT_MASK) * granule;
        tail.wrapping_add(ahead)
    }

    fn with_limit(self, limit: u64) -> Self {
        let granules = limit / u64::from(GRANULE_BYTES);
        Self((self.0 & !Self::LIMIT_MASK) | (granules & Self::LIMIT_MASK))
    }

    /// Another limit.
    pub(crate) fn raised(self, limit: u64) -> Self {
        self.joined().with_limit(limit)
    }

    /// The same limit after a join.
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
            let claim = geometry.claim(tail, span, &[]);
            assert_eq!(
                (claim.position, claim.end),
                expected,
                "claim({tail}, {span})"
            );
            assert_eq!(claim.is_padding, claim.end - claim.position < span);
        };
        check(0, 32, (0, 32));
        check(4064, 32, (4064, 4096));
        check(4064, 64, (4064, 4096));
        check(4096, 64, (4096, 4160));
        check(4096 * 7 + 4000, 96, (4096 * 7 + 4000, 4096 * 8));
        check(4096 * 7 + 4000, 128, (4096 * 7 + 4000, 4096 * 8));
    }

    #[test]
    fn claim_takes_no_byte_of_a_gap_until_the_gap_ends() {
        let geometry = Geometry::new(4096, 1).unwrap();
        let gap = |start, bytes, until| Gap {
            start,
            bytes,
            until,
        };
        let gaps = [
            gap(4096 + 128, 64, u64::MAX),
            gap(4096 + 192, 32, 3 * 4096 + 192),
            gap(4096 + 4000, 96, u64::MAX),
        ];
        let check = |tail: u64, span: u64, expected: (u64, u64, bool)| {
            let claim = geometry.claim(tail, span, &gaps);
            let claim = (claim.position, claim.end, claim.is_padding);
            assert_eq!(claim, expected, "claim({tail}, {span})");
        };
        let lap = 2 * 4096;
        check(lap, 128, (lap, lap + 128, false));
        check(lap, 160, (lap, lap + 128, true));
        check(lap + 128, 160, (lap + 224, lap + 384, false));
        check(lap + 3968, 64, (lap + 3968, lap + 4000, true));
        check(lap + 4000, 64, (lap + 4096, lap + 4160, false));
        // The second gap has ended.
        let lap = 3 * 4096;
        check(lap + 128, 160, (lap + 192, lap + 352, false));
        // Before a gap was made, its bytes held records.
        assert_eq!(geometry.gap_end(128, &gaps), None);
        assert_eq!(geometry.gap_end(4096 + 128, &gaps), Some(4096 + 192));
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
            assert_ne!(gate.raised(tail + ahead), gate);
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
        let geometry = Geometry::new(1 << 31, 1023).unwrap();
        assert!(geometry.with_peers(1023, 1023).is_ok());
        let peers = |peers, writers| geometry.with_peers(peers, writers).err();
        for (peers_max, writers_max) in [(1024, 1), (1, 1024), (1, 0), (0, 1)] {
            let expected = RingError::PeersInvalid {
                peers_max,
                writers_max,
            };
            assert_eq!(peers(peers_max, writers_max), Some(expected));
        }
    }
}

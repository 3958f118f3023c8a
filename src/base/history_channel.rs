//! The history of one channel.

use super::history::{HistoryError, HistoryLimits};
use super::history_position::Position;
use std::collections::VecDeque;

/// Bytes of an entry before its content: the offset, and when it was stored in seconds.
const PREFIX_BYTES: usize = 12;
/// Upper bit of the time: the offset of all nodes follows it.
const IS_SHARED: u32 = 1 << 31;
/// The offset of all nodes.
const SHARED_BYTES: usize = 8;
/// Seconds on the clock of entries when the process starts, so that what an earlier process stored has
/// a time too: ten years.
const START_S: u64 = 10 * 365 * 86_400;
/// What an entry costs beside its bytes: its place in the list.
const OVERHEAD_BYTES: u64 = size_of::<Stored>() as u64;

/// What a channel costs beside its entries: its places in the tables, and its list.
const CHANNEL_BYTES: u64 = 192;

/// An entry, in one allocation: `offset u64 │ time u32, seconds │ shared offset u64, if there is one │
/// content`.
#[derive(Debug)]
pub(super) struct Stored(Box<[u8]>);

impl Stored {
    /// Stored at `now_ms`, and before that for `age_ms` elsewhere. The second offset is that of all nodes;
    /// 0 = it has none.
    pub(super) fn new(
        (offset, shared): (u64, u64),
        (now_ms, age_ms): (u64, u64),
        parts: &[&[u8]],
    ) -> Self {
        let content_bytes: usize = parts.iter().map(|part| part.len()).sum();
        let mut bytes = Vec::with_capacity(PREFIX_BYTES + SHARED_BYTES + content_bytes);
        let seconds = (now_ms / 1_000 + START_S).saturating_sub(age_ms.div_ceil(1_000));
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX).min(!IS_SHARED);
        let flag = if shared > 0 { IS_SHARED } else { 0 };
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&(seconds | flag).to_le_bytes());
        if shared > 0 {
            bytes.extend_from_slice(&shared.to_le_bytes());
        }
        for part in parts {
            bytes.extend_from_slice(part);
        }
        Self(bytes.into())
    }

    fn offset(&self) -> u64 {
        let (offset, _) = self.0.split_first_chunk().expect("it has a prefix");
        u64::from_le_bytes(*offset)
    }

    /// Its offset among all nodes; 0 = it has none.
    fn shared(&self) -> u64 {
        match self.time() & IS_SHARED {
            0 => 0,
            _ => {
                let shared = self.0[PREFIX_BYTES..].first_chunk();
                u64::from_le_bytes(*shared.expect("the flag says so"))
            }
        }
    }

    fn time(&self) -> u32 {
        let time = self.0[8..].first_chunk().expect("it has a prefix");
        u32::from_le_bytes(*time)
    }

    /// When it was stored, milliseconds on the clock of entries, rounded down.
    fn stored_ms(&self) -> u64 {
        u64::from(self.time() & !IS_SHARED) * 1_000
    }

    /// How long ago it was stored, milliseconds, up to a second more.
    fn age_ms(&self, now_ms: u64) -> u64 {
        (now_ms + START_S * 1_000).saturating_sub(self.stored_ms())
    }

    fn content(&self) -> &[u8] {
        match self.time() & IS_SHARED {
            0 => &self.0[PREFIX_BYTES..],
            _ => &self.0[PREFIX_BYTES + SHARED_BYTES..],
        }
    }

    fn cost_bytes(&self) -> u64 {
        self.0.len() as u64 + OVERHEAD_BYTES
    }
}

/// The entries of a channel, in the order of their offsets.
#[derive(Debug)]
pub(super) struct ChannelHistory {
    entries: VecDeque<Stored>,
    bytes: u64,
    age_ms: u64,
    /// Entries up to this offset may have been removed.
    lost_through: u64,
    /// What all nodes call its entries, where there are several.
    shared: Option<SharedOffsets>,
}

/// What all nodes call the entries of a channel: offsets without gaps, in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SharedOffsets {
    epoch: u32,
    /// Of the entries up to here, some may be missing.
    complete_after: u64,
    /// That of the newest entry, or of one before it that is not here.
    newest: u64,
}

impl ChannelHistory {
    /// No entries; those up to an offset may have been removed.
    pub(super) fn new(lost_through: u64) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            age_ms: 0,
            lost_through,
            shared: None,
        }
    }

    /// Removes all entries; those that are inserted from now on have offsets of all nodes after this
    /// position.
    pub(super) fn begin_shared(&mut self, after: Position) {
        self.end_shared();
        self.shared = Some(SharedOffsets {
            epoch: after.epoch,
            complete_after: after.offset,
            newest: after.offset,
        });
    }

    /// Removes all entries, and what all nodes call them.
    pub(super) fn end_shared(&mut self) {
        while self.remove_oldest() {}
        self.shared = None;
    }

    /// Whether its entries have offsets of all nodes.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// What all nodes call an offset: the newest entry up to there.
    pub(super) fn shared_position(&self, offset: u64) -> Option<Position> {
        let shared = self.shared?;
        let end = self.entries.partition_point(|it| it.offset() <= offset);
        let newest = self.entries.range(..end).next_back();
        Some(Position {
            epoch: shared.epoch,
            offset: newest.map_or(shared.complete_after, Stored::shared),
        })
    }

    /// The offset here of a position of all nodes.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub(super) fn resume_shared(&self, position: Position) -> Result<u64, HistoryError> {
        let shared = self.shared.filter(|it| it.epoch == position.epoch);
        let shared = shared.filter(|it| position.offset <= it.newest);
        let shared = shared.ok_or(HistoryError::UnknownPosition)?;
        if position.offset < shared.complete_after {
            return Err(HistoryError::TooOld);
        }
        let end = self
            .entries
            .partition_point(|it| it.shared() <= position.offset);
        let newest = self.entries.range(..end).next_back();
        Ok(newest.map_or(self.lost_through, Stored::offset))
    }

    pub(super) fn lost_through(&self) -> u64 {
        self.lost_through
    }

    /// Entries, and what they and the channel cost, bytes; nothing without entries, as such a channel is
    /// soon removed.
    pub(super) fn size(&self) -> (u64, u64) {
        match self.entries.len() as u64 {
            0 => (0, 0),
            count => (count, self.bytes + CHANNEL_BYTES),
        }
    }

    /// Inserts an entry where its offset belongs, which is nearly always the end, and removes what is
    /// over the limits; returns how many were over its limits, and how many over their age.
    pub(super) fn insert(
        &mut self,
        stored: Stored,
        limits: HistoryLimits,
        now_ms: u64,
    ) -> (u64, u64) {
        self.age_ms = limits.age_ms;
        let offset = stored.offset();
        if offset <= self.lost_through {
            return (1, 0);
        }
        let at = match self.entries.back() {
            Some(newest) if newest.offset() >= offset => {
                self.entries.partition_point(|it| it.offset() <= offset)
            }
            _ => self.entries.len(),
        };
        if at > 0 && self.entries[at - 1].offset() == offset {
            // A store has it twice.
            return (0, 0);
        }
        if let Some(shared) = &mut self.shared {
            let own = stored.shared();
            if own > shared.newest + 1 {
                shared.complete_after = own - 1;
            }
            shared.newest = shared.newest.max(own);
        }
        self.bytes += stored.cost_bytes();
        if self.entries.len() == self.entries.capacity() {
            // Doubles, but not beyond the limit.
            let more = self.entries.len().max(2);
            let most = (limits.messages_max as usize + 1).saturating_sub(self.entries.len());
            self.entries.reserve_exact(more.min(most.max(1)));
        }
        self.entries.insert(at, stored);
        let mut over_limit = 0;
        while self.entries.len() > limits.messages_max as usize || self.bytes > limits.bytes_max {
            if !self.remove_oldest() {
                break;
            }
            over_limit += 1;
        }
        (over_limit, self.expire(now_ms))
    }

    /// Removes the oldest entry; false if there is none.
    pub(super) fn remove_oldest(&mut self) -> bool {
        let Some(oldest) = self.entries.pop_front() else {
            return false;
        };
        self.bytes -= oldest.cost_bytes();
        self.lost_through = oldest.offset();
        if let Some(shared) = &mut self.shared {
            shared.complete_after = shared.complete_after.max(oldest.shared());
        }
        true
    }

    /// Removes the entries up to an offset; none of them is inserted again.
    pub(super) fn delete_through(&mut self, through: u64) {
        while self.oldest().is_some_and(|oldest| oldest <= through) && self.remove_oldest() {}
        self.lost_through = self.lost_through.max(through);
    }

    fn oldest(&self) -> Option<u64> {
        self.entries.front().map(Stored::offset)
    }

    /// Removes the entries that `is_it` names. What they were is not missed: a client that resumes
    /// before them receives the others.
    pub(super) fn delete_where(&mut self, is_it: &mut impl FnMut(u64, &[u8]) -> bool) {
        self.entries
            .retain(|entry| !is_it(entry.offset(), entry.content()));
        self.bytes = self.entries.iter().map(Stored::cost_bytes).sum();
    }

    /// Removes the entries over their age; returns how many.
    pub(super) fn expire(&mut self, now_ms: u64) -> u64 {
        let mut count = 0;
        while self.is_oldest_expired(now_ms) {
            self.remove_oldest();
            count += 1;
        }
        count
    }

    fn is_oldest_expired(&self, now_ms: u64) -> bool {
        // Times are rounded down to seconds, so one is added.
        let lives_ms = self.age_ms.saturating_add(1_000);
        let oldest = self.entries.front().filter(|_| self.age_ms > 0);
        oldest.is_some_and(|oldest| oldest.age_ms(now_ms) >= lives_ms)
    }

    /// Calls `visit` with the entries after one offset and up to another.
    pub(super) fn visit(
        &self,
        after: u64,
        through: u64,
        mut visit: impl FnMut(u64, &[u8]) -> bool,
    ) {
        let first = self.entries.partition_point(|it| it.offset() <= after);
        let entries = self.entries.range(first..);
        for entry in entries.take_while(|entry| entry.offset() <= through) {
            if !visit(entry.offset(), entry.content()) {
                return;
            }
        }
    }

    /// Calls `visit` with the offset, the age in milliseconds and the content of the entries after an
    /// offset, until it returns false.
    pub(super) fn export(
        &self,
        after: u64,
        now_ms: u64,
        mut visit: impl FnMut(u64, u64, &[u8]) -> bool,
    ) {
        let first = self.entries.partition_point(|it| it.offset() <= after);
        let mut entries = self.entries.range(first..);
        entries.all(|entry| visit(entry.offset(), entry.age_ms(now_ms), entry.content()));
    }

    /// The offset after which it has, up to another offset, at most `count` entries with so many bytes
    /// together, or one that is larger.
    pub(super) fn before_newest(&self, count: usize, bytes_max: usize, through: u64) -> u64 {
        let end = self.entries.partition_point(|it| it.offset() <= through);
        let (mut newest, mut bytes) = (0, 0);
        for entry in self.entries.range(..end).rev() {
            bytes += entry.content().len();
            if newest == count || (newest > 0 && bytes > bytes_max) {
                return entry.offset();
            }
            newest += 1;
        }
        self.lost_through
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HistoryLimits = HistoryLimits {
        messages_max: 3,
        bytes_max: 10_000,
        age_ms: 0,
    };

    fn at(epoch: u32, offset: u64) -> Position {
        Position { epoch, offset }
    }

    #[test]
    fn a_position_of_all_nodes_is_an_offset_of_this_one() {
        let mut channel = ChannelHistory::new(40);
        assert_eq!(channel.shared_position(50), None);
        channel.begin_shared(at(7, 100));
        assert_eq!(channel.shared_position(50), Some(at(7, 100)));
        assert_eq!(channel.resume_shared(at(7, 100)), Ok(40));
        let insert = |channel: &mut ChannelHistory, offset, shared| {
            let stored = Stored::new((offset, shared), (0, 0), &[b"1"]);
            channel.insert(stored, LIMITS, 0);
        };
        insert(&mut channel, 50, 101);
        insert(&mut channel, 60, 102);
        assert_eq!(channel.shared_position(59), Some(at(7, 101)));
        assert_eq!(channel.shared_position(60), Some(at(7, 102)));
        assert_eq!(channel.resume_shared(at(7, 100)), Ok(40));
        assert_eq!(channel.resume_shared(at(7, 101)), Ok(50));
        // Not here yet, of other publications, and over the limit.
        let unknown = Err(HistoryError::UnknownPosition);
        assert_eq!(channel.resume_shared(at(7, 103)), unknown);
        assert_eq!(channel.resume_shared(at(8, 101)), unknown);
        insert(&mut channel, 70, 103);
        insert(&mut channel, 80, 104);
        let too_old = Err(HistoryError::TooOld);
        assert_eq!(channel.resume_shared(at(7, 100)), too_old);
        assert_eq!(channel.resume_shared(at(7, 101)), Ok(50));
        // One that is not here is missed by whoever was before it.
        insert(&mut channel, 90, 106);
        assert_eq!(channel.resume_shared(at(7, 104)), too_old);
        assert_eq!(channel.resume_shared(at(7, 105)), Ok(80));
        channel.end_shared();
        assert_eq!((channel.size(), channel.is_shared()), ((0, 0), false));
        assert_eq!(channel.resume_shared(at(7, 106)), unknown);
    }
}

//! What was published on channels, kept for clients that come back and for those that request it.
//!
//! The process has one table. Publishers write it, so a shard that reads it need not have read the
//! ring. An entry is kept under its *offset*: a number that grows along the ring, so the order of a
//! channel's entries is the order in which every subscriber receives the publications.
//!
//! A publisher inserts its entry after it has written the ring, because only then it knows the
//! offset. A shard that hands over from the history to the ring must not miss what is in the ring
//! and not yet here. So each publisher states, before it writes, from which position of the ring on
//! its entry may be ([`Writing`]), and [`History::is_settled`] says whether all entries before a
//! position are here.

use super::channel_names::name_for_clients;
use super::history_channel::{ChannelHistory, Stored};
use super::history_position::Position;
use super::history_removed::RemovedChannels;
use super::interest::{ChannelTag, TagMap, is_mostly_empty};
use super::label::{Label, label};
use super::limits::{HISTORY_SPINS, HISTORY_SWEEP_MAX, OUTSIDE_WRITERS_MAX};
use super::name_hash::NameKey;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Independently locked parts of the table.
const STRIPES: usize = 64;
/// The parts of the table that are exported one after the other.
pub const PARTS: usize = STRIPES;
/// Records of the ring begin at multiples of this, bytes.
const RECORD_ALIGNMENT: u64 = 32;
/// All channels share so many notes of their newest records that are not kept.
const UNKEPT_SLOTS: usize = 1024;
/// A writer that is not between its claim and its entry.
const IDLE: u64 = u64::MAX;

/// How much of a channel is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Publications; 0 = none is kept.
    pub messages_max: u32,
    /// Bytes of all of them.
    pub bytes_max: u64,
    /// How long one is kept, milliseconds; 0 = as long as there is room.
    pub age_ms: u64,
}

/// Which channels have a history: one, or all whose names begin with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRule {
    /// The name, or what names begin with.
    pub literal: Box<str>,
    /// Whether any rest may follow.
    pub is_prefix: bool,
    /// How much of each channel is kept.
    pub limits: HistoryLimits,
}

impl HistoryRule {
    fn matches(&self, channel: &str) -> bool {
        match self.is_prefix {
            true => channel.starts_with(&*self.literal),
            false => *channel == *self.literal,
        }
    }
}

label! {
    /// Why an entry was removed.
    HistoryRemoval {
        /// Its channel had more publications or bytes than its rule says.
        Limit = "limit",
        /// It was older than its rule says.
        Age = "age",
        /// All channels together had more than `history_bytes_max`.
        Memory = "memory",
        /// The embedding program deleted it.
        Deleted = "deleted",
    }
}

/// What the table holds and has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryStats {
    /// Channels with entries.
    pub channels: u64,
    /// Entries.
    pub messages: u64,
    /// Bytes of all entries, with what each one costs beside its content.
    pub bytes: u64,
    /// Entries that were removed, by the indices of [`HistoryRemoval`].
    pub removed: [u64; HistoryRemoval::ALL.len()],
}

/// Why entries cannot be read from a position on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryError {
    /// Some of them are not kept any more.
    TooOld,
    /// The position is not of this history: the process has started anew without a durable history,
    /// or the position is not reached yet.
    UnknownPosition,
}

/// The part of a durable history that one process wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRun {
    /// The epoch of its positions.
    pub epoch: u32,
    /// Its offsets are greater than this.
    pub base: u64,
}

/// The history of all channels.
#[derive(Debug)]
pub struct History {
    epoch: u32,
    rules: Vec<HistoryRule>,
    stripes: Box<[Stripe]>,
    writers: Box<[Writer]>,
    /// By parts of tags, the newest offset of a record that `note_unkept` was told of.
    newest_unkept: Box<[AtomicU64]>,
    shard_count: usize,
    /// The offset of the ring's first record is the next one; those up to it are of earlier processes.
    base: u64,
    /// The earlier processes whose positions count, the oldest first.
    runs: Vec<HistoryRun>,
    /// Of earlier processes, entries up to this offset may be missing anywhere.
    incomplete_through: u64,
    bytes_max: u64,
    /// Whether entries have offsets of all nodes.
    is_shared: bool,
    bytes: AtomicU64,
    messages: AtomicU64,
    channels: AtomicU64,
    removed: [AtomicU64; HistoryRemoval::ALL.len()],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(Mutex<Channels>);

#[derive(Debug)]
#[repr(align(128))]
struct Writer(AtomicU64);

#[derive(Debug, Default)]
struct Channels {
    by_tag: TagMap<ChannelHistory>,
    /// The channels of the table, each once: the next one to look at is the first.
    order: VecDeque<ChannelTag>,
    removed: RemovedChannels,
}

impl Channels {
    /// A channel, which is in the table from now on.
    fn open(&mut self, tag: ChannelTag) -> &mut ChannelHistory {
        self.by_tag.entry(tag).or_insert_with(|| {
            self.order.push_back(tag);
            ChannelHistory::new(self.removed.take(tag))
        })
    }
}

/// A writer that is about to write the ring and to insert an entry; the entry must be inserted
/// before this is dropped.
#[derive(Debug)]
pub struct Writing<'a> {
    writer: &'a AtomicU64,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        // Release: pairs with the acquire load in `is_settled`, which then sees the entry.
        self.writer.store(IDLE, Ordering::Release);
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new(0, Vec::new(), 0, 0)
    }
}

impl History {
    /// An empty history for so many shards, of at most `bytes_max` bytes in all. The first rule that
    /// matches a channel counts. Positions of another epoch are not of this history.
    #[must_use]
    pub fn new(shard_count: usize, rules: Vec<HistoryRule>, epoch: u32, bytes_max: u64) -> Self {
        let stripes = std::iter::repeat_with(Stripe::default);
        let writers = std::iter::repeat_with(|| Writer(AtomicU64::new(IDLE)));
        let unkept = std::iter::repeat_with(|| AtomicU64::new(0));
        Self {
            epoch,
            rules,
            stripes: stripes.take(STRIPES).collect(),
            writers: writers.take(shard_count + OUTSIDE_WRITERS_MAX).collect(),
            newest_unkept: unkept.take(UNKEPT_SLOTS).collect(),
            shard_count,
            base: 0,
            runs: Vec::new(),
            incomplete_through: 0,
            bytes_max,
            is_shared: false,
            bytes: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            channels: AtomicU64::new(0),
            removed: [const { AtomicU64::new(0) }; HistoryRemoval::ALL.len()],
        }
    }

    /// The same of entries that come from all nodes, with their offsets.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.is_shared = true;
        self
    }

    /// How much is kept of a channel, by its full name; `None` if it has no history.
    #[must_use]
    pub fn limits_of(&self, channel: &str) -> Option<HistoryLimits> {
        if self.rules.is_empty() {
            return None;
        }
        let channel = name_for_clients(channel);
        let rule = self.rules.iter().find(|rule| rule.matches(channel))?;
        (rule.limits.messages_max > 0).then_some(rule.limits)
    }

    /// Continues what earlier processes have stored: their last offset, and whose positions count.
    /// Entries up to `incomplete_through` may be missing anywhere.
    pub fn continue_from(&mut self, base: u64, runs: Vec<HistoryRun>, incomplete_through: u64) {
        self.base = base;
        self.runs = runs;
        self.incomplete_through = incomplete_through;
    }

    /// The same history without entries.
    #[must_use]
    pub fn empty_copy(&self) -> Self {
        Self::new(
            self.shard_count,
            self.rules.clone(),
            self.epoch,
            self.bytes_max,
        )
    }

    /// Which channels have a history, as a number: equal for equal patterns, whatever is kept of each.
    #[must_use]
    pub fn coverage(&self) -> u64 {
        let rules = self.rules.iter().map(|rule| {
            let has_history = rule.limits.messages_max > 0;
            (&rule.literal, rule.is_prefix, has_history)
        });
        let text = format!("{:?}", rules.collect::<Vec<_>>());
        // No secret: whoever sets the rules wants no equal numbers.
        NameKey::from_bytes([0; 16]).hash(&text)
    }

    /// The processes whose positions count, the oldest first and this one last.
    #[must_use]
    pub fn runs(&self) -> Vec<HistoryRun> {
        let this = HistoryRun {
            epoch: self.epoch,
            base: self.base,
        };
        self.runs.iter().copied().chain([this]).collect()
    }

    /// Of earlier processes, entries up to this offset may be missing anywhere.
    #[must_use]
    pub const fn incomplete_through(&self) -> u64 {
        self.incomplete_through
    }

    /// The channels in one of [`PARTS`] parts of the table.
    #[must_use]
    pub fn channels_of(&self, part: usize) -> Vec<ChannelTag> {
        lock(&self.stripes[part].0).by_tag.keys().copied().collect()
    }

    /// Calls `visit` with the offset, the age in milliseconds and the content of the entries of a
    /// channel after an offset, oldest first, until it returns false. Returns the offset up to which
    /// entries may have been removed; `None` if the channel has no place in the table any more.
    pub fn export(
        &self,
        tag: ChannelTag,
        after: u64,
        now_ms: u64,
        visit: impl FnMut(u64, u64, &[u8]) -> bool,
    ) -> Option<u64> {
        let channels = self.lock(tag);
        let channel = channels.by_tag.get(&tag)?;
        channel.export(after, now_ms, visit);
        Some(channel.lost_through())
    }

    /// The offset of a record of the ring.
    #[must_use]
    pub fn offset_of(&self, ring_position: u64) -> u64 {
        self.base + ring_position / RECORD_ALIGNMENT + 1
    }

    /// The offset of the last record before this position of the ring, or a later one that no record
    /// has; 0 = there is none.
    #[must_use]
    pub fn offset_before(&self, ring_position: u64) -> u64 {
        self.base + ring_position / RECORD_ALIGNMENT
    }

    /// What clients are shown of an offset, unless their channel has offsets of all nodes.
    #[must_use]
    pub fn position(&self, offset: u64) -> Position {
        Position {
            epoch: self.epoch,
            offset,
        }
    }

    /// What clients are shown of an offset on a channel.
    #[must_use]
    pub fn position_on(&self, tag: ChannelTag, offset: u64) -> Position {
        let shared = self.is_shared.then(|| {
            let channels = self.lock(tag);
            channels.by_tag.get(&tag)?.shared_position(offset)
        });
        shared.flatten().unwrap_or_else(|| self.position(offset))
    }

    /// What all nodes call an offset of a channel; 0 = it has no such offsets now.
    #[must_use]
    pub fn shared_offset(&self, tag: ChannelTag, offset: u64) -> u64 {
        let channels = self.lock(tag);
        let channel = channels.by_tag.get(&tag);
        let position = channel.and_then(|channel| channel.shared_position(offset));
        position.map_or(0, |position| position.offset)
    }

    /// The entries of a channel come from all nodes from now on; the first one is behind a position.
    /// Those that it has are removed.
    pub fn begin_shared(&self, tag: ChannelTag, after: Position) {
        let mut channels = self.lock(tag);
        let channel = channels.open(tag);
        let before = channel.size();
        channel.begin_shared(after);
        self.count(before, channel.size());
    }

    /// What all nodes publish on a channel does not come here any more.
    pub fn end_shared(&self, tag: ChannelTag) {
        let mut channels = self.lock(tag);
        if let Some(channel) = channels.by_tag.get_mut(&tag) {
            let before = channel.size();
            channel.end_shared();
            self.count(before, channel.size());
        }
    }

    /// States that a shard is about to write the ring, at `tail_position` or later.
    #[must_use]
    pub fn begin_in_shard(&self, shard: u16, tail_position: u64) -> Writing<'_> {
        let writer = &self.writers[usize::from(shard)].0;
        // Release, though the claim that follows releases it too: whoever sees the claim sees this.
        writer.store(tail_position, Ordering::Release);
        Writing { writer }
    }

    /// The same for a thread that is not a shard; `None` when too many write at once.
    #[must_use]
    pub fn begin_outside(&self, tail_position: u64) -> Option<Writing<'_>> {
        let outside = self.writers[self.shard_count..].iter();
        let mut free = outside.filter(|Writer(writer)| {
            // AcqRel: as in `begin_in_shard`, and after the last writer of this place.
            let taken =
                writer.compare_exchange(IDLE, tail_position, Ordering::AcqRel, Ordering::Relaxed);
            taken.is_ok()
        });
        free.next().map(|Writer(writer)| Writing { writer })
    }

    /// Whether all entries of records before this position of the ring, which the caller has read up
    /// to there, are inserted. Looks a few times, because a writer needs a moment only.
    #[must_use]
    pub fn is_settled(&self, ring_position: u64) -> bool {
        self.writers.iter().all(|Writer(writer)| {
            (0..HISTORY_SPINS).any(|_| {
                // Acquire: pairs with the release in `Writing::drop`.
                let is_settled = writer.load(Ordering::Acquire) >= ring_position;
                if !is_settled {
                    std::hint::spin_loop();
                }
                is_settled
            })
        })
    }

    /// Whether some channel has a history.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Notes a record that is not kept under its offset: a publication on a channel without a history,
    /// or the beginning of a publication in several records.
    pub fn note_unkept(&self, tag: ChannelTag, offset: u64) {
        // Release, though whoever asks has made sure that no publisher is writing (`is_settled`).
        self.unkept(tag).fetch_max(offset, Ordering::Release);
    }

    /// The newest offset on a channel that `note_unkept` was told of, or a later one.
    #[must_use]
    pub fn newest_unkept(&self, tag: ChannelTag) -> u64 {
        self.unkept(tag).load(Ordering::Acquire)
    }

    fn unkept(&self, tag: ChannelTag) -> &AtomicU64 {
        let slot = usize::try_from(tag.bits() % UNKEPT_SLOTS as u64);
        &self.newest_unkept[slot.expect("a small number")]
    }

    /// Inserts an entry, the concatenation of `parts`, and removes what is then over a limit.
    pub fn insert(
        &self,
        tag: ChannelTag,
        offset: u64,
        parts: &[&[u8]],
        limits: HistoryLimits,
        now_ms: u64,
    ) {
        let stored = Stored::new((offset, 0), (now_ms, 0), parts);
        self.insert_stored(tag, stored, limits, now_ms);
    }

    /// Inserts an entry with an offset of all nodes, which is as old as `age_ms`.
    pub fn insert_shared(
        &self,
        tag: ChannelTag,
        offsets: (u64, u64),
        parts: &[&[u8]],
        limits: HistoryLimits,
        times_ms: (u64, u64),
    ) {
        let stored = Stored::new(offsets, times_ms, parts);
        self.insert_stored(tag, stored, limits, times_ms.0);
    }

    /// Inserts an entry of an earlier process, which is as old as `age_ms`.
    pub fn restore(
        &self,
        tag: ChannelTag,
        offset: u64,
        content: &[u8],
        limits: HistoryLimits,
        (now_ms, age_ms): (u64, u64),
    ) {
        let stored = Stored::new((offset, 0), (now_ms, age_ms), &[content]);
        self.insert_stored(tag, stored, limits, now_ms);
    }

    fn insert_stored(&self, tag: ChannelTag, stored: Stored, limits: HistoryLimits, now_ms: u64) {
        let mut channels = self.lock(tag);
        let channel = channels.open(tag);
        let before = channel.size();
        let (over_limit, too_old) = channel.insert(stored, limits, now_ms);
        self.count(before, channel.size());
        self.count_removed(HistoryRemoval::Limit, over_limit);
        self.count_removed(HistoryRemoval::Age, too_old);
        if self.bytes.load(Ordering::Relaxed) > self.bytes_max {
            self.evict(&mut channels, tag);
        }
    }

    /// Removes channels of a stripe, but not `tag`, until all channels together have room.
    #[cold]
    fn evict(&self, channels: &mut Channels, tag: ChannelTag) {
        for _ in 0..channels.order.len() {
            if self.bytes.load(Ordering::Relaxed) <= self.bytes_max {
                return;
            }
            let Some(next) = channels.order.pop_front() else {
                return;
            };
            if next == tag {
                channels.order.push_back(next);
            } else {
                self.remove(channels, next);
            }
        }
        // This one alone has too many.
        if let Some(channel) = channels.by_tag.get_mut(&tag) {
            let before = channel.size();
            while self.bytes.load(Ordering::Relaxed) - before.1 + channel.size().1 > self.bytes_max
                && channel.remove_oldest()
            {}
            self.count_removed(HistoryRemoval::Memory, before.0 - channel.size().0);
            self.count(before, channel.size());
        }
    }

    fn remove(&self, channels: &mut Channels, tag: ChannelTag) {
        if let Some(mut channel) = channels.by_tag.remove(&tag) {
            let before = channel.size();
            while channel.remove_oldest() {}
            self.count(before, (0, 0));
            self.count_removed(HistoryRemoval::Memory, before.0);
            if channel.is_shared() {
                channels.order.push_back(tag);
                channels.by_tag.insert(tag, channel);
            } else {
                channels.removed.add(tag, channel.lost_through());
            }
        }
    }

    /// Relaxed, all of them: sums that order nothing.
    fn count(&self, before: (u64, u64), after: (u64, u64)) {
        let add = |sum: &AtomicU64, before: u64, after: u64| {
            sum.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        };
        add(&self.messages, before.0, after.0);
        add(&self.bytes, before.1, after.1);
        if (before.0 == 0) != (after.0 == 0) {
            add(&self.channels, before.0.min(1), after.0.min(1));
        }
    }

    fn count_removed(&self, removal: HistoryRemoval, count: u64) {
        if count > 0 {
            self.removed[removal.index()].fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Removes what is too old from a channel.
    fn expire(&self, channel: &mut ChannelHistory, now_ms: u64) {
        let before = channel.size();
        self.count_removed(HistoryRemoval::Age, channel.expire(now_ms));
        self.count(before, channel.size());
    }

    /// Whether what follows a position on a channel can be read: the offset to read from. No client
    /// has received the offset `unreached`.
    ///
    /// # Errors
    /// [`HistoryError`]
    pub fn resume(
        &self,
        tag: ChannelTag,
        position: Position,
        unreached: u64,
        now_ms: u64,
    ) -> Result<u64, HistoryError> {
        if self.is_shared {
            let offset = self.resume_shared(tag, position)?;
            self.read(tag, offset, 0, now_ms, |_, _| false)?;
            return Ok(offset);
        }
        let offset = self.offset_in_this_run(position);
        let offset = offset.filter(|offset| *offset < unreached);
        let offset = offset.ok_or(HistoryError::UnknownPosition)?;
        if position.epoch != self.epoch && offset < self.incomplete_through {
            return Err(HistoryError::TooOld);
        }
        self.read(tag, offset, 0, now_ms, |_, _| false)?;
        Ok(offset)
    }

    fn resume_shared(&self, tag: ChannelTag, position: Position) -> Result<u64, HistoryError> {
        let channels = self.lock(tag);
        let channel = channels.by_tag.get(&tag);
        let channel = channel.ok_or(HistoryError::UnknownPosition)?;
        channel.resume_shared(position)
    }

    /// What this process calls the offset of a position. Who has received everything up to an offset
    /// that an earlier process gave to something that was not stored has everything of that process.
    fn offset_in_this_run(&self, position: Position) -> Option<u64> {
        let Position { epoch, offset } = position;
        if epoch == self.epoch {
            return Some(offset);
        }
        let index = self.runs.iter().position(|run| run.epoch == epoch)?;
        let next = self.runs.get(index + 1);
        let end = next.map_or(self.base, |next| next.base);
        // Offsets below its base are of processes before it, which it has shown, too.
        Some(offset.min(end))
    }

    /// Calls `visit` with the entries of a channel after one offset and up to another, oldest first,
    /// until it returns false. The table is locked meanwhile.
    ///
    /// # Errors
    /// [`HistoryError::TooOld`] when there were more that are not kept any more.
    pub fn read(
        &self,
        tag: ChannelTag,
        after: u64,
        through: u64,
        now_ms: u64,
        visit: impl FnMut(u64, &[u8]) -> bool,
    ) -> Result<(), HistoryError> {
        let mut channels = self.lock(tag);
        let Some(channel) = channels.by_tag.get_mut(&tag) else {
            let is_complete = channels.removed.lost_through(tag) <= after;
            return is_complete.then_some(()).ok_or(HistoryError::TooOld);
        };
        self.expire(channel, now_ms);
        if channel.lost_through() > after {
            return Err(HistoryError::TooOld);
        }
        channel.visit(after, through, visit);
        Ok(())
    }

    /// The offset after which all entries of a channel are kept.
    #[must_use]
    pub fn oldest_offset(&self, tag: ChannelTag, now_ms: u64) -> u64 {
        let mut channels = self.lock(tag);
        let Some(channel) = channels.by_tag.get_mut(&tag) else {
            return channels.removed.lost_through(tag);
        };
        self.expire(channel, now_ms);
        channel.lost_through()
    }

    /// The offset after which a channel has, up to another offset, at most `count` entries with so many
    /// bytes together, or one that is larger.
    #[must_use]
    pub fn offset_of_newest(
        &self,
        tag: ChannelTag,
        (count, bytes_max): (usize, usize),
        through: u64,
        now_ms: u64,
    ) -> u64 {
        let mut channels = self.lock(tag);
        let Some(channel) = channels.by_tag.get_mut(&tag) else {
            return channels.removed.lost_through(tag);
        };
        // What is read next would find it gone.
        self.expire(channel, now_ms);
        channel.before_newest(count, bytes_max, through)
    }

    /// Removes the entries of a channel up to an offset.
    pub fn delete(&self, tag: ChannelTag, through: u64) {
        let mut channels = self.lock(tag);
        if let Some(channel) = channels.by_tag.get_mut(&tag) {
            let before = channel.size();
            channel.delete_through(through);
            self.count_removed(HistoryRemoval::Deleted, before.0 - channel.size().0);
            self.count(before, channel.size());
        }
    }

    /// Removes the entries of a channel up to an offset, and remembers that there may have been some.
    pub fn lose(&self, tag: ChannelTag, through: u64) {
        let mut channels = self.lock(tag);
        let channel = channels.open(tag);
        let before = channel.size();
        channel.delete_through(through);
        self.count(before, channel.size());
    }

    /// Of channels in a part of the table without entries: the offset up to which there may have been
    /// some.
    #[must_use]
    pub fn absent_lost_through(&self, part: usize) -> u64 {
        lock(&self.stripes[part].0).removed.max()
    }

    /// Remembers that channels in a part of the table without entries may have had some up to an offset.
    pub fn lose_absent(&self, part: u64, through: u64) {
        if let Some(Stripe(stripe)) = usize::try_from(part)
            .ok()
            .and_then(|it| self.stripes.get(it))
        {
            let mut channels = lock(stripe);
            channels.removed.raise(through);
        }
    }

    /// Removes the entries of all channels that `is_it` names by their offsets and contents. Locks one part of the table after the
    /// other, each for a time that grows with its entries.
    pub fn delete_where(&self, mut is_it: impl FnMut(u64, &[u8]) -> bool) {
        for Stripe(stripe) in &self.stripes {
            let mut channels = lock(stripe);
            for channel in channels.by_tag.values_mut() {
                let before = channel.size();
                channel.delete_where(&mut is_it);
                self.count_removed(HistoryRemoval::Deleted, before.0 - channel.size().0);
                self.count(before, channel.size());
            }
        }
    }

    /// Removes what is too old, in one part of the table: call it with each number in turn. A part that
    /// a publisher has locked is left out, as its thread may have lost its core.
    pub fn sweep(&self, turn: usize, now_ms: u64) {
        let Ok(mut channels) = self.stripes[turn % STRIPES].0.try_lock() else {
            return;
        };
        let Channels {
            by_tag,
            order,
            removed,
        } = &mut *channels;
        for _ in 0..order.len().min(HISTORY_SWEEP_MAX) {
            let Some(tag) = order.pop_front() else { break };
            let Some(channel) = by_tag.get_mut(&tag) else {
                continue;
            };
            self.expire(channel, now_ms);
            if channel.size().0 > 0 || channel.is_shared() {
                order.push_back(tag);
            } else {
                removed.add(tag, channel.lost_through());
                by_tag.remove(&tag);
            }
        }
        if is_mostly_empty(by_tag.len(), by_tag.capacity()) {
            by_tag.shrink_to_fit();
            order.shrink_to_fit();
        }
    }

    /// What the table holds.
    #[must_use]
    pub fn stats(&self) -> HistoryStats {
        let load = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        HistoryStats {
            channels: load(&self.channels),
            messages: load(&self.messages),
            bytes: load(&self.bytes),
            removed: std::array::from_fn(|index| load(&self.removed[index])),
        }
    }

    fn lock(&self, tag: ChannelTag) -> MutexGuard<'_, Channels> {
        lock(&self.stripes[tag.stripe()].0)
    }
}

/// A panic of another thread leaves a stripe as it was.
fn lock(stripe: &Mutex<Channels>) -> MutexGuard<'_, Channels> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(number: u64) -> ChannelTag {
        ChannelTag::from_bits(number)
    }

    #[test]
    fn what_is_removed_is_counted_by_its_reason() {
        let limits = HistoryLimits {
            messages_max: 2,
            bytes_max: 10_000,
            age_ms: 1_000,
        };
        let history = History::new(1, Vec::new(), 1, 4_000);
        let insert = |channel, offset, bytes, now_ms| {
            history.insert(tag(channel), offset, &[&vec![0; bytes]], limits, now_ms);
        };
        let counts = || {
            let HistoryStats {
                channels,
                messages,
                removed,
                ..
            } = history.stats();
            (channels, messages, removed)
        };
        // Three of two, then two over their age, seen by a reader.
        (1..4).for_each(|offset| insert(1, offset, 10, 0));
        assert_eq!(counts(), (1, 2, [1, 0, 0, 0]));
        assert_eq!(history.oldest_offset(tag(1), 2_000), 3);
        assert_eq!(counts(), (0, 0, [1, 2, 0, 0]));
        // Another channel of the same part has no room beside the first one.
        insert(1, 4, 3_000, 2_000);
        insert(2, 5, 3_000, 2_000);
        assert_eq!(counts(), (1, 1, [1, 2, 1, 0]));
        history.delete(tag(2), u64::MAX);
        assert_eq!(counts(), (0, 0, [1, 2, 1, 1]));
        assert_eq!(history.stats().bytes, 0);
        insert(3, 6, 10, 2_000);
        history.delete_where(|_, _| true);
        assert_eq!(counts(), (0, 0, [1, 2, 1, 2]));
    }
}

//! Rebuilds the tables from the records of the store.

use super::entry::{Entry, RunSettings};
use crate::base::history::HistoryRun;
use crate::base::limits::HISTORY_RUNS_MAX;
use crate::base::offline::{OfflineUser, OfflineUsers, UserKey};
use crate::base::persistent::{PersistentSubscriptions, PersistentUser};
use crate::base::retained::{RetainedRecord, RetainedValues};
use crate::base::{ChannelTag, History, NameKey, Now};
use crate::store::{Damage, DamageKind, StoreScan, StoredRecord};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What the journal does not know of the entries of the history.
#[derive(Clone, Copy, Debug)]
pub struct EntryFormat {
    /// The full name of the channel of an entry.
    pub channel: fn(&[u8]) -> Option<&str>,
    /// Whether an entry is for this user only, of a tenant or without one.
    pub is_for_user: fn(content: &[u8], tenant: Option<&str>, user: &str) -> bool,
}

/// The tables of a process, as they are before the store is read.
#[derive(Debug)]
pub struct Tables {
    /// Without entries. Its epoch is new.
    pub history: History,
    /// At most so many users without a session are remembered.
    pub offline_users_max: u64,
    /// Of nobody yet.
    pub persistent: PersistentSubscriptions,
    /// How long a user is remembered who was subscribed when the last process ended, milliseconds.
    pub offline_ttl_ms: u64,
}

/// What was found in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Publications that are in the history again.
    pub publications: u64,
    /// Users of whom it is known where they stopped.
    pub offline_users: u64,
    /// Records of no meaning here.
    pub unknown_records: u64,
    /// Whether clients can recover from positions of earlier processes: nothing that was acknowledged
    /// is missing in the store.
    pub is_complete: bool,
}

/// When a user is forgotten in unix milliseconds, and the channels as in [`OfflineUser`].
type StoredUser = (u64, Vec<(ChannelTag, Option<u64>)>);

/// Stands for the expiry of a user whom the end of a process has taken away: from the next start on.
const FROM_NOW: u64 = u64::MAX;

/// The tables, as records since a checkpoint make them.
struct State {
    history: History,
    name_key: NameKey,
    /// Whether hashes in the store are of `name_key`.
    is_key_stored: bool,
    offline: HashMap<u64, StoredUser>,
    persistent: HashMap<PersistentUser, (Vec<Arc<str>>, u64)>,
    /// By channel and key.
    retained: HashMap<(Box<str>, Box<str>), Box<str>>,
    deleted_channels: Vec<(ChannelTag, u64)>,
    deleted_users: Vec<(Option<Box<str>>, Box<str>, u64)>,
    /// Whether it is all that counts: it began with a checkpoint, which is complete.
    is_whole: bool,
    /// The sequence number of its first record.
    first_sequence: u64,
}

impl State {
    fn new(history: &History, stored_key: Option<NameKey>, first_sequence: u64) -> Self {
        Self {
            history: history.empty_copy(),
            name_key: stored_key.unwrap_or_else(NameKey::random),
            is_key_stored: stored_key.is_some(),
            offline: HashMap::new(),
            persistent: HashMap::new(),
            retained: HashMap::new(),
            deleted_channels: Vec::new(),
            deleted_users: Vec::new(),
            is_whole: false,
            first_sequence,
        }
    }

    fn apply(&mut self, entry: &Entry<'_>, format: EntryFormat, now: Now) {
        match entry {
            Entry::Run { run, .. } => {
                // Who was subscribed when the process before it ended was sent everything.
                for (expires_unix_ms, channels) in self.offline.values_mut() {
                    for (_, offset) in channels {
                        if offset.is_none() {
                            *offset = Some(run.base);
                            *expires_unix_ms = FROM_NOW;
                        }
                    }
                }
            }
            Entry::Publication {
                offset,
                unix_ms,
                content,
                ..
            } => self.add_publication(*offset, *unix_ms, content, format, now),
            Entry::Channel { tag, lost_through } if self.is_key_stored => {
                self.history.lose(*tag, *lost_through);
            }
            Entry::Part { part, lost_through } if self.is_key_stored => {
                self.history.lose_absent(*part, *lost_through);
            }
            Entry::DeletedChannel { tag, through } if self.is_key_stored => {
                self.history.delete(*tag, *through);
                self.deleted_channels.push((*tag, *through));
            }
            Entry::DeletedUser {
                tenant,
                user,
                through,
            } => {
                self.deleted_users
                    .push((tenant.map(Into::into), (*user).into(), *through));
                let index = self.deleted_users.len() - 1;
                self.history.delete_where(|offset, content| {
                    self.is_of_deleted_user(index, offset, content, format)
                });
            }
            Entry::OfflineUser {
                user,
                expires_unix_ms,
                channels,
            } if self.is_key_stored => {
                if channels.is_empty() {
                    self.offline.remove(user);
                } else {
                    let known = (*expires_unix_ms, channels.clone());
                    self.offline.insert(*user, known);
                }
            }
            Entry::PersistentUser {
                user,
                expires_unix_ms,
                channels,
            } => {
                if channels.is_empty() {
                    self.persistent.remove(user);
                } else {
                    let known = (channels.clone(), *expires_unix_ms);
                    self.persistent.insert(user.clone(), known);
                }
            }
            Entry::Retained {
                channel,
                key,
                value,
            } => {
                let name = ((*channel).into(), (*key).into());
                match value {
                    Some(value) => self.retained.insert(name, (*value).into()),
                    None => self.retained.remove(&name),
                };
            }
            // The loader's matter, or hashes with another key, which mean nothing here.
            _ => {}
        }
    }

    fn add_publication(
        &self,
        offset: u64,
        unix_ms: u64,
        content: &[u8],
        format: EntryFormat,
        now: Now,
    ) {
        let Some(channel) = (format.channel)(content) else {
            return;
        };
        // The rules may have changed.
        let Some(limits) = self.history.limits_of(channel) else {
            return;
        };
        // A shard may have appended it after the deletion.
        let is_deleted = (0..self.deleted_users.len())
            .any(|index| self.is_of_deleted_user(index, offset, content, format));
        if is_deleted {
            return;
        }
        let tag = ChannelTag::from_bits(self.name_key.hash(channel));
        // A clock that was set back makes an entry young.
        let age_ms = now.unix_ms.saturating_sub(unix_ms);
        let times = (now.monotonic_ms, age_ms);
        self.history.restore(tag, offset, content, limits, times);
    }

    fn is_of_deleted_user(
        &self,
        index: usize,
        offset: u64,
        content: &[u8],
        format: EntryFormat,
    ) -> bool {
        let (tenant, user, through) = &self.deleted_users[index];
        offset <= *through && (format.is_for_user)(content, tenant.as_deref(), user)
    }

    /// Fills the table of persistent subscriptions. Who had a session when the last process ended is
    /// remembered as if it ended now, and the store is told so.
    fn restore_persistent(&mut self, table: &mut PersistentSubscriptions, now: Now) {
        let Now {
            monotonic_ms,
            unix_ms,
        } = now;
        let (held, gone): (Vec<_>, Vec<_>) = self
            .persistent
            .drain()
            .partition(|(_, (_, expires_unix_ms))| *expires_unix_ms == u64::MAX);
        for (user, (channels, expires_unix_ms)) in gone {
            let left_ms = expires_unix_ms.saturating_sub(unix_ms);
            if left_ms > 0 {
                table.load(&user, &channels, monotonic_ms + left_ms);
            }
        }
        table.record_changes();
        let expires_ms = monotonic_ms + table.ttl_ms();
        for (user, (channels, _)) in held {
            table.load(&user, &channels, expires_ms);
        }
    }

    fn restore_retained(&mut self) -> RetainedValues {
        let values = self.retained.drain();
        RetainedValues::recorded(values.map(|((channel, key), value)| RetainedRecord {
            channel,
            key,
            value: Some(value),
        }))
    }

    fn restore_offline(&mut self, table: &OfflineUsers, newest: u64, ttl_ms: u64, now: Now) {
        let mut users: Vec<_> = self.offline.drain().collect();
        users.sort_by_key(|(_, (expires_unix_ms, _))| *expires_unix_ms);
        for (user, (expires_unix_ms, channels)) in users {
            let is_connected = channels.iter().any(|(_, offset)| offset.is_none());
            let is_changed = is_connected || expires_unix_ms == FROM_NOW;
            let left_ms = match is_changed {
                true => ttl_ms,
                false => expires_unix_ms.saturating_sub(now.unix_ms),
            };
            if left_ms > 0 {
                let known = OfflineUser {
                    expires_ms: now.monotonic_ms + left_ms,
                    channels,
                };
                table.restore(UserKey::from_bits(user), &known, newest, is_changed);
            }
        }
    }
}

/// Rebuilds the tables.
///
/// A checkpoint replaces all that came before it, when it is complete; until then, what came before it
/// goes on beside it.
pub(super) struct Loader {
    format: EntryFormat,
    /// Without entries.
    blank: History,
    previous: Option<State>,
    current: State,
    runs: Vec<HistoryRun>,
    /// How the last process stored, and which channels had a history.
    last: Option<RunSettings>,
    newest: u64,
    incomplete_through: u64,
    records: u64,
    unknown_records: u64,
    now: Now,
}

impl Loader {
    pub(super) fn new(format: EntryFormat, history: History, now: Now) -> Self {
        Self {
            format,
            current: State::new(&history, None, 0),
            blank: history,
            previous: None,
            runs: Vec::new(),
            last: None,
            newest: 0,
            incomplete_through: 0,
            records: 0,
            unknown_records: 0,
            now,
        }
    }

    pub(super) fn add(&mut self, record: &StoredRecord<'_>) {
        self.records += 1;
        let Some(entry) = Entry::read(record) else {
            self.unknown_records += 1;
            return;
        };
        self.newest = self.newest.max(entry.newest_offset());
        match &entry {
            Entry::Begin {
                name_key,
                incomplete_through,
                runs,
                settings,
            } => {
                let begun = State::new(&self.blank, Some(*name_key), record.sequence);
                let before = std::mem::replace(&mut self.current, begun);
                if before.is_whole || self.previous.is_none() {
                    self.previous = Some(before);
                }
                self.runs.clone_from(runs);
                self.last = Some(*settings);
                self.incomplete_through = self.incomplete_through.max(*incomplete_through);
            }
            Entry::End => {
                self.current.is_whole = self.current.first_sequence > 0;
                self.previous = None;
            }
            Entry::Run {
                run,
                continues,
                settings,
            } => {
                self.check_coverage(*settings);
                if !continues {
                    self.runs.clear();
                }
                self.runs.push(*run);
                self.last = Some(*settings);
            }
            Entry::Lost { through } => {
                self.incomplete_through = self.incomplete_through.max(*through);
            }
            _ => {}
        }
        let states = self.previous.iter_mut().chain([&mut self.current]);
        for state in states {
            state.apply(&entry, self.format, self.now);
        }
    }

    /// While a channel had no history, what was published there was not stored.
    fn check_coverage(&mut self, settings: RunSettings) {
        let before = self.last.map(|last| last.coverage);
        if before.is_some_and(|before| before != settings.coverage) {
            self.runs.clear();
        }
    }

    /// The tables with what was in the store. `is_intact`: nobody has said that something is missing.
    pub(super) fn finish(
        mut self,
        scan: &StoreScan,
        is_intact: bool,
        (offline_users_max, offline_ttl_ms): (u64, u64),
        settings: RunSettings,
        persistent: &mut PersistentSubscriptions,
    ) -> (History, OfflineUsers, RetainedValues, Loaded) {
        let mut state = match self.previous.take() {
            // A checkpoint that was not written to its end.
            Some(before) => before,
            None => self.current,
        };
        for (tag, through) in &state.deleted_channels {
            state.history.delete(*tag, *through);
        }
        let is_new = self.records == 0;
        // What is damaged before a complete checkpoint does not count any more.
        let counts = |damage: &Damage| {
            let is_before = |lost: &RangeInclusive<u64>| *lost.end() < state.first_sequence;
            damage.kind != DamageKind::HeaderCopy && !damage.lost.as_ref().is_some_and(is_before)
        };
        let is_damaged =
            scan.damages.len() as u64 != scan.damages_total || scan.damages.iter().any(counts);
        let is_durable = self.last.is_some_and(|last| last.acknowledges_stored);
        let is_complete =
            is_new || state.is_whole && !is_damaged && is_intact && (scan.was_closed || is_durable);
        self.last = self.last.filter(|_| is_complete);
        if !is_complete {
            self.runs.clear();
        }
        if let Some(last) = self.last
            && last.coverage != settings.coverage
        {
            self.runs.clear();
        }
        let excess = self.runs.len().saturating_sub(HISTORY_RUNS_MAX);
        self.runs.drain(..excess);
        let mut history = state.history.empty_copy();
        std::mem::swap(&mut history, &mut state.history);
        history.continue_from(self.newest, self.runs, self.incomplete_through);

        state.restore_persistent(persistent, self.now);
        let offline = OfflineUsers::new(offline_users_max, state.name_key).recorded();
        state.restore_offline(&offline, self.newest, offline_ttl_ms, self.now);
        let loaded = Loaded {
            publications: history.stats().messages,
            offline_users: offline.counts().0,
            unknown_records: self.unknown_records,
            is_complete,
        };
        (history, offline, state.restore_retained(), loaded)
    }
}

//! Rebuilds the tables from the records of the store.

use super::entry::Entry;
use crate::base::history::HistoryRun;
use crate::base::limits::HISTORY_RUNS_MAX;
use crate::base::offline::{OfflineUser, OfflineUsers, UserKey};
use crate::base::persistent::{PersistentSubscriptions, PersistentUser};
use crate::base::{ChannelTag, History, NameKey, Now};
use crate::store::{DamageKind, StoreScan, StoredRecord};
use std::collections::HashMap;
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

pub(super) struct Loader {
    format: EntryFormat,
    history: History,
    name_key: Option<NameKey>,
    /// Whether the keys in the store are of `name_key`.
    is_key_stored: bool,
    offline: HashMap<u64, StoredUser>,
    runs: Vec<HistoryRun>,
    newest: u64,
    incomplete_through: u64,
    persistent: HashMap<PersistentUser, (Vec<Arc<str>>, u64)>,
    deleted_channels: Vec<(ChannelTag, u64)>,
    deleted_users: Vec<(Option<Box<str>>, Box<str>, u64)>,
    begins_with_checkpoint: bool,
    has_checkpoint: bool,
    records: u64,
    unknown_records: u64,
    now: Now,
}

impl Loader {
    pub(super) fn new(format: EntryFormat, history: History, now: Now) -> Self {
        Self {
            format,
            history,
            name_key: None,
            is_key_stored: false,
            offline: HashMap::new(),
            runs: Vec::new(),
            newest: 0,
            incomplete_through: 0,
            persistent: HashMap::new(),
            deleted_channels: Vec::new(),
            deleted_users: Vec::new(),
            begins_with_checkpoint: false,
            has_checkpoint: false,
            records: 0,
            unknown_records: 0,
            now,
        }
    }

    pub(super) fn add(&mut self, record: &StoredRecord<'_>) {
        let is_first = self.records == 0;
        self.records += 1;
        match Entry::read(record) {
            Some(entry) => {
                self.begins_with_checkpoint |= is_first && matches!(entry, Entry::Begin { .. });
                self.apply(entry);
            }
            None => self.unknown_records += 1,
        }
    }

    fn apply(&mut self, entry: Entry<'_>) {
        match entry {
            Entry::Begin {
                name_key,
                incomplete_through,
                runs,
            } => {
                self.is_key_stored = *self.name_key.get_or_insert(name_key) == name_key;
                self.runs = runs;
                self.raise_bases();
                self.incomplete_through = self.incomplete_through.max(incomplete_through);
            }
            Entry::Run { run, continues } => {
                if !continues {
                    self.runs.clear();
                }
                self.runs.push(run);
                self.raise_bases();
                // Who was subscribed when the process before it ended was sent everything.
                let channels = self.offline.values_mut();
                for (_, offset) in channels.flat_map(|(_, channels)| channels) {
                    offset.get_or_insert(run.base);
                }
            }
            Entry::Publication {
                offset,
                unix_ms,
                content,
                ..
            } => self.add_publication(offset, unix_ms, content),
            Entry::Channel { tag, lost_through } if self.is_key_stored => {
                self.history.lose(tag, lost_through);
            }
            Entry::Part { part, lost_through } if self.is_key_stored => {
                self.history.lose_absent(part, lost_through);
            }
            Entry::DeletedChannel { tag, through } if self.is_key_stored => {
                self.history.delete(tag, through);
                self.deleted_channels.push((tag, through));
            }
            Entry::DeletedUser {
                tenant,
                user,
                through,
            } => {
                self.deleted_users
                    .push((tenant.map(Into::into), user.into(), through));
                self.delete_of_user(self.deleted_users.len() - 1);
            }
            Entry::OfflineUser {
                user,
                expires_unix_ms,
                channels,
            } if self.is_key_stored => {
                if channels.is_empty() {
                    self.offline.remove(&user);
                } else {
                    self.offline.insert(user, (expires_unix_ms, channels));
                }
            }
            Entry::Lost { through } => {
                self.incomplete_through = self.incomplete_through.max(through);
            }
            Entry::End => self.has_checkpoint = true,
            Entry::Mark => {}
            Entry::PersistentUser {
                user,
                expires_unix_ms,
                channels,
            } => {
                if channels.is_empty() {
                    self.persistent.remove(&user);
                } else {
                    self.persistent.insert(user, (channels, expires_unix_ms));
                }
            }
            // Their hashes mean nothing here.
            Entry::Channel { .. }
            | Entry::Part { .. }
            | Entry::DeletedChannel { .. }
            | Entry::OfflineUser { .. } => self.unknown_records += 1,
        }
    }

    fn raise_bases(&mut self) {
        let bases = self.runs.iter().map(|run| run.base);
        self.newest = bases.fold(self.newest, u64::max);
    }

    fn add_publication(&mut self, offset: u64, unix_ms: u64, content: &[u8]) {
        self.newest = self.newest.max(offset);
        let Some(channel) = (self.format.channel)(content) else {
            self.unknown_records += 1;
            return;
        };
        // The rules may have changed.
        let Some(limits) = self.history.limits_of(channel) else {
            return;
        };
        let key = *self.name_key.get_or_insert_with(NameKey::random);
        let tag = ChannelTag::from_bits(key.hash(channel));
        // A shard may have appended it after the deletion.
        let is_deleted = (0..self.deleted_users.len())
            .any(|index| self.is_of_deleted_user(index, offset, content));
        if is_deleted {
            return;
        }
        // A clock that was set back makes an entry young.
        let age_ms = self.now.unix_ms.saturating_sub(unix_ms);
        let times = (self.now.monotonic_ms, age_ms);
        self.history.restore(tag, offset, content, limits, times);
    }

    /// Fills the table of persistent subscriptions. Who had a session when the last process ended is
    /// remembered as if it ended now, and the store is told so.
    fn restore_persistent(&mut self, table: &mut PersistentSubscriptions) {
        let Now {
            monotonic_ms,
            unix_ms,
        } = self.now;
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

    fn is_of_deleted_user(&self, index: usize, offset: u64, content: &[u8]) -> bool {
        let (tenant, user, through) = &self.deleted_users[index];
        offset <= *through && (self.format.is_for_user)(content, tenant.as_deref(), user)
    }

    fn delete_of_user(&self, index: usize) {
        self.history
            .delete_where(|offset, content| self.is_of_deleted_user(index, offset, content));
    }

    /// The tables with what was in the store. `is_durable`: whether what was acknowledged is in the
    /// store although it was not closed.
    pub(super) fn finish(
        mut self,
        scan: &StoreScan,
        is_durable: bool,
        tables: (u64, u64),
        persistent: &mut PersistentSubscriptions,
    ) -> (History, OfflineUsers, Loaded) {
        self.restore_persistent(persistent);
        for (tag, through) in &self.deleted_channels {
            self.history.delete(*tag, *through);
        }
        let is_new = self.records == 0;
        let is_whole = is_new || self.begins_with_checkpoint && self.has_checkpoint;
        let is_damaged = scan.damages.iter();
        let is_damaged = is_damaged.clone().count() as u64 != scan.damages_total
            || is_damaged
                .clone()
                .any(|it| it.kind != DamageKind::HeaderCopy);
        let is_complete = is_whole && !is_damaged && (scan.was_closed || is_durable);
        if !is_complete {
            self.runs.clear();
        }
        let excess = self.runs.len().saturating_sub(HISTORY_RUNS_MAX);
        self.runs.drain(..excess);
        self.history
            .continue_from(self.newest, self.runs, self.incomplete_through);

        let (offline_users_max, offline_ttl_ms) = tables;
        let key = self.name_key.unwrap_or_else(NameKey::random);
        let offline = OfflineUsers::new(offline_users_max, key).recorded();
        let Now {
            monotonic_ms,
            unix_ms,
        } = self.now;
        let mut users: Vec<_> = self.offline.into_iter().collect();
        users.sort_by_key(|(_, (expires_unix_ms, _))| *expires_unix_ms);
        for (user, (expires_unix_ms, channels)) in users {
            let left_ms = expires_unix_ms.saturating_sub(unix_ms);
            let known = OfflineUser {
                expires_ms: if left_ms > 0 {
                    monotonic_ms + left_ms
                } else {
                    0
                },
                channels,
            };
            let expires_ms = monotonic_ms + offline_ttl_ms;
            let user = UserKey::from_bits(user);
            offline.restore(user, &known, self.newest, expires_ms);
        }
        let loaded = Loaded {
            publications: self.history.stats().messages,
            offline_users: offline.counts().0,
            unknown_records: self.unknown_records,
            is_complete,
        };
        (self.history, offline, loaded)
    }
}

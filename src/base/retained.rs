//! Retained values of channels, which clients can request later.

use super::limits::{RETAINED_CHANGED_MAX, RETAINED_PER_CHANNEL_MAX};
use super::memory::Waiting;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Channels = HashMap<Box<str>, BTreeMap<Box<str>, Retained>>;

#[derive(Debug)]
struct Retained {
    value: Box<str>,
    _waiting: Waiting,
}

#[derive(Debug, Default)]
struct Table {
    channels: Channels,
    /// Whether a store wants to know what has changed.
    is_recorded: bool,
    /// Channels and keys since a store was told last.
    changed: HashSet<(Box<str>, Box<str>)>,
    /// More has changed than `changed` has.
    has_unknown_changes: bool,
}

/// The value of a key of a channel; `None` = it is not retained any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetainedRecord {
    /// The whole name of the channel.
    pub channel: Box<str>,
    /// The key.
    pub key: Box<str>,
    /// The value.
    pub value: Option<Box<str>>,
}

/// The retained values of all channels, by key. The process has one table, which publishers change
/// when they publish, so a shard that is asked for them need not have read the ring.
#[derive(Debug, Default)]
pub struct RetainedValues(Mutex<Table>);

impl RetainedValues {
    /// A table with the values of an earlier process, which notes from now on what changes, for
    /// [`take_changed`](Self::take_changed).
    #[must_use]
    pub fn recorded(values: impl Iterator<Item = RetainedRecord>) -> Self {
        let table = Self::default();
        for RetainedRecord {
            channel,
            key,
            value,
        } in values
        {
            if let Some(value) = value {
                table.put(&channel, &key, &value);
            }
        }
        table.lock().is_recorded = true;
        table
    }

    /// Retains a value; false when the channel has no room for its key.
    pub fn put(&self, channel: &str, key: &str, value: &str) -> bool {
        let mut table = self.lock();
        let values = table.channels.entry(channel.into()).or_default();
        if values.len() >= RETAINED_PER_CHANNEL_MAX && !values.contains_key(key) {
            return false;
        }
        let retained = Retained {
            value: value.into(),
            _waiting: Waiting::of(key.len() + value.len()),
        };
        values.insert(key.into(), retained);
        table.note_changed(channel, key);
        true
    }

    /// Forgets a value, and a channel without values.
    pub fn remove(&self, channel: &str, key: &str) {
        let mut table = self.lock();
        let Some(values) = table.channels.get_mut(channel) else {
            return;
        };
        let is_removed = values.remove(key).is_some();
        if values.is_empty() {
            table.channels.remove(channel);
        }
        if is_removed {
            table.note_changed(channel, key);
        }
    }

    /// Makes the values of a channel those that all nodes know, as far as there is room.
    pub fn replace(&self, channel: &str, values: &[(String, String)]) {
        self.lock().channels.remove(channel);
        for (key, value) in values {
            // Without room the others have come before.
            let _ = self.put(channel, key, value);
        }
    }

    /// The values of a channel, in the order of their keys.
    #[must_use]
    pub fn of(&self, channel: &str) -> Vec<Box<str>> {
        let table = self.lock();
        let values = table.channels.get(channel).into_iter();
        let values = values.flat_map(BTreeMap::values);
        values.map(|retained| retained.value.clone()).collect()
    }

    /// What has changed since the last call, as it is now, and whether more has than is told.
    pub fn take_changed(&self) -> (Vec<RetainedRecord>, bool) {
        let mut table = self.lock();
        let changed = std::mem::take(&mut table.changed);
        let has_more = std::mem::take(&mut table.has_unknown_changes);
        let changed = changed.into_iter().map(|(channel, key)| {
            let values = table.channels.get(&channel);
            let value = values.and_then(|values| values.get(&key));
            RetainedRecord {
                value: value.map(|retained| retained.value.clone()),
                channel,
                key,
            }
        });
        (changed.collect(), has_more)
    }

    /// The channels that have values.
    #[must_use]
    pub fn channels(&self) -> Vec<Box<str>> {
        self.lock().channels.keys().cloned().collect()
    }

    /// The values of a channel with their keys.
    #[must_use]
    pub fn export(&self, channel: &str) -> Vec<RetainedRecord> {
        let table = self.lock();
        let values = table.channels.get(channel).into_iter().flatten();
        let records = values.map(|(key, retained)| RetainedRecord {
            channel: channel.into(),
            key: key.clone(),
            value: Some(retained.value.clone()),
        });
        records.collect()
    }

    /// A panic of another thread leaves the table as it was.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn note_changed(&mut self, channel: &str, key: &str) {
        if !self.is_recorded {
            return;
        }
        if self.changed.len() < RETAINED_CHANGED_MAX {
            self.changed.insert((channel.into(), key.into()));
        } else {
            self.has_unknown_changes = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_until_they_are_gone() {
        let retained = RetainedValues::default();
        assert!(retained.put("jobs", "b", "1"));
        assert!(retained.put("jobs", "a", "2"));
        assert!(retained.put("jobs", "b", "3"));
        assert_eq!(retained.of("jobs"), ["2", "3"].map(Box::<str>::from));
        retained.remove("jobs", "a");
        assert_eq!(retained.of("jobs"), ["3"].map(Box::<str>::from));
        assert!(retained.of("other").is_empty());
        retained.remove("jobs", "b");
        assert!(
            retained.lock().channels.is_empty(),
            "nothing is kept for a channel without values"
        );
    }

    #[test]
    fn a_full_table_takes_no_new_key() {
        let retained = RetainedValues::default();
        for index in 0..RETAINED_PER_CHANNEL_MAX {
            assert!(retained.put("jobs", &index.to_string(), "1"));
        }
        assert!(!retained.put("jobs", "new", "2"));
        assert!(retained.put("jobs", "7", "2"));
    }

    #[test]
    fn a_store_is_told_what_has_changed_and_loads_it_again() {
        let retained = RetainedValues::default();
        assert!(retained.put("jobs", "a", "1"));
        assert_eq!(retained.take_changed(), (Vec::new(), false));
        let retained = RetainedValues::recorded(retained.export("jobs").into_iter());
        assert_eq!(retained.of("jobs"), ["1"].map(Box::<str>::from));
        assert_eq!(retained.take_changed(), (Vec::new(), false));
        assert!(retained.put("jobs", "b", "2"));
        assert!(retained.put("jobs", "b", "3"));
        retained.remove("jobs", "a");
        retained.remove("jobs", "none");
        let (mut changed, has_more) = retained.take_changed();
        changed.sort();
        let record = |key: &str, value: Option<&str>| RetainedRecord {
            channel: "jobs".into(),
            key: key.into(),
            value: value.map(Into::into),
        };
        assert_eq!(changed, [record("a", None), record("b", Some("3"))]);
        assert!(!has_more);
        for channel in 0..=RETAINED_CHANGED_MAX {
            assert!(retained.put(&channel.to_string(), "key", "1"));
        }
        let (changed, has_more) = retained.take_changed();
        assert_eq!((changed.len(), has_more), (RETAINED_CHANGED_MAX, true));
        assert_eq!(retained.channels().len(), RETAINED_CHANGED_MAX + 2);
    }
}

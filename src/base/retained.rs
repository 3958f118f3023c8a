//! Retained values of channels, which clients can request later.

use super::limits::RETAINED_PER_CHANNEL_MAX;
use super::memory::Waiting;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Channels = HashMap<Box<str>, BTreeMap<Box<str>, Retained>>;

#[derive(Debug)]
struct Retained {
    value: Box<str>,
    _waiting: Waiting,
}

/// The retained values of all channels, by key. The process has one table, which publishers change
/// when they publish, so a shard that is asked for them need not have read the ring.
#[derive(Debug, Default)]
pub struct RetainedValues(Mutex<Channels>);

impl RetainedValues {
    /// Retains a value; false when the channel has no room for its key.
    pub fn put(&self, channel: &str, key: &str, value: &str) -> bool {
        let mut channels = self.lock();
        let values = channels.entry(channel.into()).or_default();
        if values.len() >= RETAINED_PER_CHANNEL_MAX && !values.contains_key(key) {
            return false;
        }
        let retained = Retained {
            value: value.into(),
            _waiting: Waiting::of(key.len() + value.len()),
        };
        values.insert(key.into(), retained);
        true
    }

    /// Forgets a value, and a channel without values.
    pub fn remove(&self, channel: &str, key: &str) {
        let mut channels = self.lock();
        if let Some(values) = channels.get_mut(channel) {
            values.remove(key);
            if values.is_empty() {
                channels.remove(channel);
            }
        }
    }

    /// The values of a channel, in the order of their keys.
    #[must_use]
    pub fn of(&self, channel: &str) -> Vec<Box<str>> {
        let channels = self.lock();
        let values = channels.get(channel).into_iter();
        let values = values.flat_map(BTreeMap::values);
        values.map(|retained| retained.value.clone()).collect()
    }

    /// A panic of another thread leaves the table as it was.
    fn lock(&self) -> MutexGuard<'_, Channels> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert_eq!(retained.of("jobs"), ["2".into(), "3".into()]);
        retained.remove("jobs", "a");
        assert_eq!(retained.of("jobs"), ["3".into()]);
        assert!(retained.of("other").is_empty());
        retained.remove("jobs", "b");
        assert!(
            retained.lock().is_empty(),
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
}

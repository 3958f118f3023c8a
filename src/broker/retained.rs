//! Retained values of channels, which clients can request later.

use super::command::{Publication, Retain};
use crate::base::limits::RETAINED_PER_CHANNEL_MAX;
use std::collections::{BTreeMap, HashMap};

/// The retained values of channels, by key. All shards read the same records, so each has all
/// values.
#[derive(Debug, Default)]
pub(super) struct RetainedValues(HashMap<Box<str>, BTreeMap<Box<str>, Box<str>>>);

impl RetainedValues {
    /// Applies a publication; false when the channel has no room for its value.
    pub(super) fn apply(&mut self, publication: &Publication<'_>) -> bool {
        match publication.retain {
            Retain::None => {}
            Retain::Value(key) => {
                let values = self.0.entry(publication.channel.into()).or_default();
                if values.len() >= RETAINED_PER_CHANNEL_MAX && !values.contains_key(key) {
                    return false;
                }
                values.insert(key.into(), publication.data.into());
            }
            Retain::Clear(key) => {
                if let Some(values) = self.0.get_mut(publication.channel) {
                    values.remove(key);
                }
            }
        }
        true
    }

    pub(super) fn of(&self, channel: &str) -> Vec<&str> {
        let values = self.0.get(channel).into_iter().flat_map(BTreeMap::values);
        values.map(|value| &**value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_until_they_are_gone() {
        let mut retained = RetainedValues::default();
        let publication = |retain, data| Publication {
            retain,
            ..Publication::new("jobs", "m", data)
        };
        assert!(retained.apply(&publication(Retain::Value("b"), "1")));
        assert!(retained.apply(&publication(Retain::Value("a"), "2")));
        assert!(retained.apply(&publication(Retain::Value("b"), "3")));
        assert_eq!(retained.of("jobs"), ["2", "3"]);
        assert!(retained.apply(&publication(Retain::Clear("a"), "4")));
        assert_eq!(retained.of("jobs"), ["3"]);
        assert!(retained.of("other").is_empty());
    }

    #[test]
    fn a_full_table_takes_no_new_key() {
        let mut retained = RetainedValues::default();
        for index in 0..RETAINED_PER_CHANNEL_MAX {
            let key = index.to_string();
            let publication = Publication {
                retain: Retain::Value(&key),
                ..Publication::new("jobs", "m", "1")
            };
            assert!(retained.apply(&publication));
        }
        let publication = |key| Publication {
            retain: Retain::Value(key),
            ..Publication::new("jobs", "m", "2")
        };
        assert!(!retained.apply(&publication("new")));
        assert!(retained.apply(&publication("7")));
    }
}

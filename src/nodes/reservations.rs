//! Sessions that Redis counts already, and this node does not yet.

use crate::base::CountedOwner;
use crate::base::limits::NODE_ADMISSION_MS;
use std::collections::{HashMap, HashSet};

/// How many there are of each owner.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    counts: HashMap<CountedOwner, u32>,
    /// Those that end at a time, monotonic milliseconds.
    ending: Vec<(u64, CountedOwner)>,
    /// Whose count in Redis contains some.
    told: HashSet<CountedOwner>,
}

impl Reservations {
    /// Redis counts a session that waits.
    pub(super) fn add(&mut self, owner: CountedOwner) {
        *self.counts.entry(owner).or_default() += 1;
    }

    /// The session is admitted: its shard counts it in a moment.
    pub(super) fn end_soon(&mut self, owner: CountedOwner, now_ms: u64) {
        self.ending.push((now_ms + NODE_ADMISSION_MS, owner));
    }

    /// The session has ended before it began.
    pub(super) fn end(&mut self, owner: &CountedOwner) {
        let Some(count) = self.counts.get_mut(owner) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(owner);
        }
    }

    /// Ends those whose time has come; returns whose sessions may have been counted twice meanwhile.
    pub(super) fn end_due(&mut self, now_ms: u64) -> Vec<CountedOwner> {
        let due = self.ending.extract_if(.., |(at_ms, _)| now_ms >= *at_ms);
        let due: Vec<_> = due.map(|(_, owner)| owner).collect();
        due.iter().for_each(|owner| self.end(owner));
        due.into_iter()
            .filter(|owner| self.told.remove(owner))
            .collect()
    }

    /// How many there are, for a count that Redis is told.
    pub(super) fn tell(&mut self, owner: &CountedOwner) -> u32 {
        let count = self.of(owner);
        if count > 0 {
            self.told.insert(owner.clone());
        }
        count
    }

    fn of(&self, owner: &CountedOwner) -> u32 {
        self.counts.get(owner).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DialectId;

    #[test]
    fn a_session_counts_until_its_shard_counts_it() {
        let owner = || CountedOwner::Tenant(DialectId::Gateway, "acme".into());
        let mut reservations = Reservations::default();
        reservations.add(owner());
        reservations.add(owner());
        reservations.end_soon(owner(), 7);
        assert_eq!(reservations.end_due(7 + NODE_ADMISSION_MS - 1), []);
        assert_eq!(reservations.tell(&owner()), 2);
        assert_eq!(reservations.end_due(7 + NODE_ADMISSION_MS), [owner()]);
        assert_eq!(reservations.of(&owner()), 1);
        reservations.end(&owner());
        reservations.end(&owner());
        assert_eq!(reservations.of(&owner()), 0);
        assert!(reservations.counts.is_empty() && reservations.ending.is_empty());
    }
}

//! The channels of a shard with the most subscriptions, for metrics.

use std::sync::{Mutex, PoisonError};

/// A list that its shard replaces now and then and others read. The shard never waits for them.
#[derive(Debug, Default)]
pub struct TopChannels(Mutex<TopList>);

/// The channels with the most subscriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopList {
    /// Names and counts, in no particular order.
    pub channels: Vec<(Box<str>, u64)>,
    /// The subscriptions of all channels, also of those that are not in the list.
    pub total: u64,
}

impl TopChannels {
    /// Replaces the list; false if somebody reads it now, and it stays as it is.
    pub fn publish(&self, channels: Vec<(Box<str>, u64)>, total: u64) -> bool {
        let list = self.0.try_lock();
        list.map(|mut list| *list = TopList { channels, total })
            .is_ok()
    }

    /// The list now.
    #[must_use]
    pub fn snapshot(&self) -> TopList {
        // It is replaced as a whole.
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.clone()
    }
}

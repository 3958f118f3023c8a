//! Counters of what goes to the other nodes and comes from them.

use super::label::{Label, label};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

label! {
    /// Why a publication did not reach the other nodes.
    NodeDrop {
        /// Redis was away for so long that there was no room for more.
        Backlog = "backlog",
        /// Redis has rejected it.
        Rejected = "rejected",
        /// The server ended before.
        Stopped = "stopped",
    }
}

macro_rules! counts {
    ($($(#[doc = $help:literal])+ $name:ident,)+) => {
        /// Counters of one node.
        ///
        /// All accesses are relaxed: the values are independent, and no other data is published through
        /// them.
        #[derive(Debug, Default)]
        pub struct NodeCounters {
            /// Whether Redis answers, and publications come back from it.
            is_up: AtomicBool,
            dropped: [AtomicU64; NodeDrop::ALL.len()],
            $($(#[doc = $help])+ pub $name: NodeCount,)+
        }
    };
}

/// A count, or a number that goes up and down.
#[derive(Debug, Default)]
pub struct NodeCount(AtomicU64);

impl NodeCount {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Another value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counts! {
    /// Publications that Redis has taken.
    sent,
    /// Publications that came from Redis, this node's own included, and were delivered.
    received,
    /// Publications that came from Redis more than once.
    duplicates,
    /// Messages from Redis that are no publications.
    malformed,
    /// Publications that were delivered on this node first, as Redis was away.
    delivered_alone,
    /// Publications that were missed and read from the history in Redis.
    recovered,
    /// Publications that were missed and are not in the history any more.
    missed,
    /// Questions to the other nodes.
    questions,
    /// Of them, those that were not answered by all.
    unanswered,
    /// Connections to Redis that were lost.
    connections_lost,
    /// What nodes tell of presence, and Redis has rejected.
    presence_rejected,
    /// Changes of users that Redis did not get.
    user_changes_dropped,
    /// Nodes that are there, this one included.
    nodes,
    /// Channels that are subscribed to in Redis.
    channels,
    /// Bytes of publications that wait until Redis is there again.
    backlog_bytes,
    /// How long a message of the node to itself took last, microseconds.
    round_trip_us,
}

impl NodeCounters {
    /// Whether Redis answers, and publications come back from it.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// States that.
    pub fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
    }

    /// A publication did not reach the other nodes.
    pub fn drop_one(&self, reason: NodeDrop) {
        self.dropped[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// How many did not.
    #[must_use]
    pub fn dropped(&self, reason: NodeDrop) -> u64 {
        self.dropped[reason.index()].load(Ordering::Relaxed)
    }
}

//! The subscribers of a shard that recover.

use super::channels::SubscriptionRef;
use crate::base::ConnectionId;
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;

/// A subscriber that receives entries of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Its session.
    pub id: ConnectionId,
    /// The offset up to which it has received everything.
    pub after: u64,
    pub(super) subscription: SubscriptionRef,
    pub(super) number: NonZeroU32,
}

/// The subscribers that recover, those next in turn first.
#[derive(Debug, Default)]
pub(super) struct Recoveries {
    pub(super) queue: VecDeque<Recovery>,
    /// So many began.
    count: u32,
}

impl Recoveries {
    /// A number that no other recovery in the queue has.
    pub(super) fn next_number(&mut self) -> NonZeroU32 {
        self.count = self.count.wrapping_add(1);
        NonZeroU32::new(self.count).unwrap_or(NonZeroU32::MIN)
    }

    /// How far the recoveries of a session have come, by their numbers. Looks at all of the shard.
    pub(super) fn of(&self, id: ConnectionId) -> HashMap<NonZeroU32, u64> {
        let its = self.queue.iter().filter(|recovery| recovery.id == id);
        its.map(|recovery| (recovery.number, recovery.after))
            .collect()
    }

    pub(super) fn begin(
        &mut self,
        id: ConnectionId,
        subscription: SubscriptionRef,
        number: NonZeroU32,
        after: u64,
    ) {
        self.queue.push_back(Recovery {
            id,
            after,
            subscription,
            number,
        });
    }
}

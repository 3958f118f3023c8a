//! The subscribers of a shard that recover.

use super::channels::SubscriptionRef;
use crate::base::ConnectionId;
use std::collections::VecDeque;
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

    /// How far a recovery has come.
    pub(super) fn after(&self, number: NonZeroU32) -> Option<u64> {
        let found = self.queue.iter().find(|it| it.number == number);
        found.map(|recovery| recovery.after)
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

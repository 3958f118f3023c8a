//! The subscribers of a shard that recover, by their sessions.
//!
//! ```text
//!            ┌─────────────── more is there ──────────────┐
//!   begin ─▶ queued ─▶ its turn ─┬─▶ suspended, until it has read ─▶ queued
//!                                ├─▶ behind, until the shard has read on ─▶ queued
//!                                └─▶ live, or closed
//! ```
//!
//! Sessions take turns, and so do the subscriptions of a session. One that cannot be sent more costs
//! nothing until it can.

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
    /// The offset of the last entry that it was sent; 0 = none yet.
    pub sent: u64,
    /// Whether it begins with the oldest entry that is left when it does: an offline queue keeps the
    /// newest, and what is published before its turn comes may take the place of others.
    pub is_offline_queue: bool,
    pub(super) subscription: SubscriptionRef,
    pub(super) number: NonZeroU32,
}

/// Where a recovery begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecoveryStart {
    /// The offset after which the subscriber receives entries.
    pub(super) after: u64,
    /// Whether its user's offline queue says so, and not a position that its client has shown.
    pub(super) is_offline_queue: bool,
}

/// The subscribers that recover.
#[derive(Debug, Default)]
pub(super) struct Recoveries {
    by_session: HashMap<ConnectionId, SessionRecoveries>,
    /// The sessions that may be sent more, those next in turn first.
    queue: VecDeque<ConnectionId>,
    /// The sessions of which the next subscriber has received what the shard has yet to read.
    behind: Vec<ConnectionId>,
    /// So many began.
    count: u32,
}

/// The subscribers of one session that recover, the next in turn first.
#[derive(Debug, Default)]
struct SessionRecoveries {
    recoveries: VecDeque<Recovery>,
    /// Whether the session is in the queue or behind; if not, it is suspended.
    is_queued: bool,
}

impl Recoveries {
    /// A number that no other recovery has.
    pub(super) fn next_number(&mut self) -> NonZeroU32 {
        self.count = self.count.wrapping_add(1);
        NonZeroU32::new(self.count).unwrap_or(NonZeroU32::MIN)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.by_session.is_empty()
    }

    /// Whether some session is next.
    pub(super) fn has_next(&self) -> bool {
        !self.queue.is_empty()
    }

    /// How far the recoveries of a session have come, by their numbers.
    pub(super) fn of(&self, id: ConnectionId) -> HashMap<NonZeroU32, u64> {
        let its = self.by_session.get(&id).into_iter();
        let its = its.flat_map(|session| &session.recoveries);
        its.map(|recovery| (recovery.number, recovery.after))
            .collect()
    }

    pub(super) fn begin(
        &mut self,
        id: ConnectionId,
        subscription: SubscriptionRef,
        number: NonZeroU32,
        from: RecoveryStart,
    ) {
        self.put_back(Recovery {
            id,
            after: from.after,
            sent: 0,
            is_offline_queue: from.is_offline_queue,
            subscription,
            number,
        });
    }

    /// Takes the next subscriber. It is put back, or its session is released.
    pub(super) fn next(&mut self) -> Option<Recovery> {
        loop {
            let id = self.queue.pop_front();
            if self.queue.is_empty() {
                self.queue.shrink_to(0);
            }
            // A session may have ended in the queue.
            let Some(session) = self.by_session.get_mut(&id?) else {
                continue;
            };
            session.is_queued = false;
            if let Some(recovery) = session.recoveries.pop_front() {
                return Some(recovery);
            }
            self.remove_session(id?);
        }
    }

    /// Puts a subscriber behind the others of its session, and the session in the queue.
    pub(super) fn put_back(&mut self, recovery: Recovery) {
        let session = self.by_session.entry(recovery.id).or_default();
        session.recoveries.push_back(recovery);
        if !std::mem::replace(&mut session.is_queued, true) {
            self.queue.push_back(recovery.id);
        }
    }

    /// The same until the shard has read on.
    pub(super) fn put_behind(&mut self, recovery: Recovery) {
        let session = self.by_session.entry(recovery.id).or_default();
        session.recoveries.push_back(recovery);
        if !std::mem::replace(&mut session.is_queued, true) {
            self.behind.push(recovery.id);
        }
    }

    /// The shard has read on.
    pub(super) fn catch_up(&mut self) {
        self.queue.extend(self.behind.drain(..));
    }

    /// Puts a subscriber back and suspends its session.
    pub(super) fn suspend(&mut self, recovery: Recovery) {
        let session = self.by_session.entry(recovery.id).or_default();
        session.recoveries.push_front(recovery);
    }

    /// The session has no more to do with the recovery that was taken, or is not suspended any more.
    pub(super) fn resume(&mut self, id: ConnectionId) {
        if let Some(session) = self.by_session.get_mut(&id)
            && !session.is_queued
        {
            if session.recoveries.is_empty() {
                self.remove_session(id);
            } else {
                session.is_queued = true;
                self.queue.push_back(id);
            }
        }
    }

    /// A subscriber that recovers receives also what follows an earlier offset.
    pub(super) fn rewind(&mut self, id: ConnectionId, number: NonZeroU32, after: u64) {
        if let Some(session) = self.by_session.get_mut(&id) {
            let mut its = session.recoveries.iter_mut();
            if let Some(recovery) = its.find(|it| it.number == number)
                && after < recovery.after
            {
                recovery.after = after;
                recovery.sent = 0;
            }
        }
    }

    /// A subscription ends.
    pub(super) fn remove(&mut self, id: ConnectionId, number: NonZeroU32) {
        if let Some(session) = self.by_session.get_mut(&id) {
            session.recoveries.retain(|it| it.number != number);
            if session.recoveries.is_empty() && !session.is_queued {
                self.remove_session(id);
            }
        }
    }

    /// A session ends, or has no recoveries any more.
    pub(super) fn remove_session(&mut self, id: ConnectionId) {
        self.by_session.remove(&id);
        if self.by_session.is_empty() {
            self.by_session.shrink_to_fit();
        }
    }
}

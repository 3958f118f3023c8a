//! Sessions that end give back their subscriptions over several turns of the event loop, so that
//! many large ones that vanish together do not stop the shard.
//!
//! ```text
//!   Disconnect ─▶ counts, quotas, `Offline` at once ─┐
//!                                                    ├─▶ queue ─▶ `Left`, subscriptions ─▶ slot free
//!   Close ──────▶ session closing ───────────────────┘           at most LEAVING_WORK_PER_TURN
//! ```
//!
//! Until its last subscription is given back, a session keeps its slot, because subscriber groups
//! name it by that; publications for it are not queued, because its connection is not open.

use super::state::{Broker, Emit};
use crate::base::limits::LEAVING_WORK_PER_TURN;
use crate::base::{ConnectionId, Now};

impl Broker {
    /// Begins to end all subscriptions of a session; the session may have none.
    pub(super) fn begin_leaving(&mut self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) {
        let session = self.sessions.get(id);
        if session.is_some_and(|session| !session.is_leaving) {
            self.stop_offline(id, now);
            self.recoveries.remove_session(id);
        }
        if let Some(session) = self.sessions.get_mut(id)
            && !session.is_leaving
        {
            session.is_leaving = true;
            self.leaving.queue.push_back(id);
        }
        self.leave_some(now, emit);
    }

    /// Continues to end the subscriptions of sessions that have ended, with the work that one turn
    /// of the event loop may do.
    pub fn continue_leaving(&mut self, now: Now, emit: &mut Emit<'_>) {
        self.leaving.work_left = LEAVING_WORK_PER_TURN;
        if self.has_leaving() {
            self.leave_some(now, emit);
        }
    }

    /// Whether `continue_leaving` has something to do.
    #[must_use]
    pub fn has_leaving(&self) -> bool {
        !self.leaving.queue.is_empty()
    }

    /// Whether the slot of session `id` is still in use here.
    #[must_use]
    pub fn has_session(&self, id: ConnectionId) -> bool {
        self.sessions.get(id).is_some()
    }

    /// The next session whose slot is not in use any more.
    pub fn next_left(&mut self) -> Option<ConnectionId> {
        self.leaving.left.pop()
    }

    fn leave_some(&mut self, now: Now, emit: &mut Emit<'_>) {
        while let Some(id) = self.leaving.queue.front().copied() {
            if !self.leave_all(id, now, emit) {
                break;
            }
            self.leaving.queue.pop_front();
            let session = self.sessions.get_mut(id);
            if session.is_some_and(|session| {
                session.is_leaving = false;
                session.is_gone
            }) {
                self.sessions.remove(id);
                self.leaving.gone_count -= 1;
                self.leaving.left.push(id);
            }
        }
        if self.leaving.queue.is_empty() {
            self.leaving.queue.shrink_to(0);
        }
        self.count_tables();
    }

    /// Ends the subscriptions of a session one by one; false when the work of the turn is used up.
    /// The others stay in its list, because ending one subscription may move another, which is
    /// looked up there.
    fn leave_all(&mut self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) -> bool {
        loop {
            let Some(session) = self.sessions.get_mut(id) else {
                return true;
            };
            if self.leaving.work_left == 0 {
                return false;
            }
            if let Some(present) = session.present.pop() {
                self.leaving.work_left -= 1;
                self.disappear(id, present, now, emit);
                continue;
            }
            let Some(subscription) = session.subscriptions.pop() else {
                session.present.take();
                session.subscriptions = Vec::new();
                return true;
            };
            // Server-side subscriptions are at the front.
            if session.subscriptions.len() < usize::from(session.server_side_count) {
                session.server_side_count -= 1;
            } else {
                self.subscription_count -= 1;
                self.subscription_changes += 1;
            }
            let work = self.leave(subscription);
            self.leaving.work_left = self.leaving.work_left.saturating_sub(work);
        }
    }
}

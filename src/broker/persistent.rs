//! Persistent subscriptions: a user who comes back has them restored, when the client asks for it.

use super::command::Subscription;
use super::effect::Effect;
use super::event::{Event, Rejection};
use super::restorations::Restoration;
use super::state::{Broker, Emit};
use crate::base::limits::RESTORED_PER_STEP;
use crate::base::{ConnectionId, Now, UserChange};

impl Broker {
    /// Remembers that the session's user is subscribed to a channel; false when there is no user, or
    /// no room.
    pub(super) fn remember_subscription(&mut self, id: ConnectionId, channel: &str) -> bool {
        let Some(session) = self.sessions.get_mut(id) else {
            return false;
        };
        let Some(user) = session.node_user() else {
            return false;
        };
        let table = &self.process_state.persistent;
        let is_remembered = table.insert(&user, channel, session.holds_user);
        session.holds_user |= is_remembered;
        if is_remembered && let Some(link) = &self.process_state.link {
            let change = UserChange::Remembered {
                channel: channel.into(),
                ttl_ms: table.ttl_ms(),
            };
            link.change_user(user, change);
        }
        is_remembered
    }

    /// The session's user does not want to be subscribed to a channel again.
    pub(super) fn forget_subscription(&self, id: ConnectionId, channel: &str) {
        let table = &self.process_state.persistent;
        if table.is_on()
            && let Some(session) = self.sessions.get(id)
            && let Some(user) = session.node_user()
        {
            table.remove(&user, channel);
            if let Some(link) = &self.process_state.link {
                let channel = channel.into();
                link.change_user(user, UserChange::Forgotten { channel });
            }
        }
    }

    /// The session is not one of its user any more.
    pub(super) fn release_persistent_user(&mut self, id: ConnectionId, now: Now) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if std::mem::take(&mut session.has_restored) {
            self.restorations.queue.retain(|it| it.id != id);
        }
        let was_held = std::mem::take(&mut session.holds_user);
        if was_held && let Some(user) = session.node_user() {
            let table = &self.process_state.persistent;
            table.release(&user, now.monotonic_ms);
            let (channels, expires_ms) = table.export(&user);
            if let Some(link) = &self.process_state.link
                && expires_ms != u64::MAX
                && !channels.is_empty()
            {
                let change = UserChange::Released {
                    channels: channels.iter().map(|it| (&**it).into()).collect(),
                    ttl_ms: table.ttl_ms(),
                };
                link.change_user(user, change);
            }
        }
    }

    /// Begins to subscribe the session to what is remembered of its user.
    pub(super) fn begin_restoring(&mut self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Some(user) = session.node_user() else {
            return self.reject(Rejection::AuthenticationRequired, emit);
        };
        if std::mem::replace(&mut session.has_restored, true) {
            return self.reject(Rejection::AlreadyRestored, emit);
        }
        let table = &self.process_state.persistent;
        let channels = table.restore(&user, session.holds_user, now.monotonic_ms);
        session.holds_user |= !channels.is_empty();
        self.restorations.queue.push_back(Restoration {
            id,
            channels: channels.into(),
            restored: 0,
            rejected: 0,
        });
    }

    /// How many sessions wait for subscriptions to be restored.
    #[must_use]
    pub fn restoration_count(&self) -> usize {
        self.restorations.queue.len()
    }

    /// The next session in turn that waits for them.
    #[must_use]
    pub fn next_restoration(&self) -> Option<ConnectionId> {
        self.restorations.queue.front().map(|next| next.id)
    }

    /// The next session in turn waits until all others have had theirs.
    pub fn defer_restoration(&mut self) {
        let queue = &mut self.restorations.queue;
        if let Some(next) = queue.pop_front() {
            queue.push_back(next);
        }
    }

    /// Restores some subscriptions of the next session in turn, which is then the last one; returns
    /// how many.
    pub fn restore_some(&mut self, now: Now, emit: &mut Emit<'_>) -> usize {
        let Some(mut next) = self.restorations.queue.pop_front() else {
            return 0;
        };
        let session = self.sessions.get(next.id);
        if session.is_none_or(|session| session.closing) {
            return 0;
        }
        for count in 0..RESTORED_PER_STEP {
            let Some(channel) = next.channels.pop_front() else {
                emit(Effect::Reply(Event::Restored {
                    restored: next.restored,
                    rejected: next.rejected,
                }));
                return count;
            };
            let subscription = Subscription {
                is_restored: true,
                ..Subscription::to(&channel)
            };
            let Err(rejection) = self.try_subscribe(next.id, subscription, now, emit) else {
                next.restored += 1;
                continue;
            };
            next.rejected += 1;
            // A session that is full may have room the next time.
            if rejection != Rejection::TooManySubscriptions {
                self.forget_subscription(next.id, &channel);
            }
            if let Some(error) = rejection.error() {
                self.counters.message_errors.of(error).add(1);
            }
            emit(Effect::Reply(Event::NotRestored {
                channel: &channel,
                rejection,
            }));
        }
        self.restorations.queue.push_back(next);
        RESTORED_PER_STEP
    }
}

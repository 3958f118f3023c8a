//! The offline queue: what a user missed while none of the user's sessions was subscribed.

use super::session::Session;
use super::state::Broker;
use crate::base::channel_names::name_for_clients;
use crate::base::offline::{LastSeen, UserKey};
use crate::base::{ChannelTag, ConnectionId, Now};
use crate::config::Action;
use std::cell::LazyCell;

impl Broker {
    /// The key of the session's user, if its dialect has an offline queue.
    fn offline_user(&self, session: &Session) -> Option<UserKey> {
        let policy = &self.policy.dialects[session.dialect.index()];
        let user = session.quota_user().filter(|_| policy.offline_queue)?;
        Some(self.process_state.offline.key(session.dialect, &user))
    }

    /// Counts a subscription of the session to a channel, by its full name; returns the offset after
    /// which it is to receive what its user missed, if there is something like that.
    pub(super) fn resume_offline(&self, id: ConnectionId, name: &str, now: Now) -> Option<u64> {
        let session = self.sessions.get(id)?;
        let user = self.offline_user(session)?;
        self.process_state.history.limits_of(name)?;
        let tag = self.process_state.interests.tag(name);
        let offline = &self.process_state.offline;
        let policy = &self.policy.dialects[session.dialect.index()];
        let after = match offline.subscribe(user, tag, now.monotonic_ms) {
            LastSeen::Now => return None,
            LastSeen::At(offset) => offset,
            LastSeen::Never if policy.replay_on_first_subscribe => 0,
            LastSeen::Never => return None,
        };
        // Who may not read the history may still subscribe.
        let channel = name_for_clients(name);
        self.check_access(id, Action::History, channel).ok()?;
        let history = &self.process_state.history;
        Some(after.max(history.oldest_offset(tag, now.monotonic_ms)))
    }

    /// A session has unsubscribed from a channel by itself.
    pub(super) fn unsubscribe_offline(&self, id: ConnectionId, tag: ChannelTag) {
        let session = self.sessions.get(id);
        if let Some(user) = session.and_then(|session| self.offline_user(session)) {
            self.process_state.offline.unsubscribe(user, tag);
        }
    }

    /// Remembers where the user of a session stopped that is about to lose its subscriptions.
    pub(super) fn remember_offline(&self, id: ConnectionId, now: Now) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let Some(user) = self.offline_user(session) else {
            return;
        };
        let policy = &self.policy.dialects[session.dialect.index()];
        // Once for all its subscriptions, and only if one recovers.
        let recoveries = LazyCell::new(|| self.recoveries.of(id));
        let channels = session.client_side().iter().map(|subscription| {
            let channel = self.channels.at(subscription.channel);
            let recovery = channel.group(subscription.group).key.recovery;
            let after = recovery.and_then(|number| recoveries.get(&number));
            (channel.tag(), after.copied().unwrap_or(self.reached))
        });
        let expires_ms = now.monotonic_ms + policy.offline_queue_ttl.0;
        self.process_state
            .offline
            .disconnect(user, channels, expires_ms);
    }

    /// Of a session that has ended, publications from these offsets on were not sent.
    pub(super) fn amend_offline(&self, id: ConnectionId, unsent: &[(ChannelTag, u64)]) {
        let session = self.sessions.get(id).filter(|_| !unsent.is_empty());
        if let Some(user) = session.and_then(|session| self.offline_user(session)) {
            self.process_state.offline.amend(user, unsent);
        }
    }

    /// The session has another user: its subscriptions are those of this one from now on.
    pub(super) fn change_offline_user(&self, id: ConnectionId, now: Now) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        for subscription in session.client_side() {
            let name = self.channels.name(*subscription);
            self.resume_offline(id, name, now);
        }
    }
}

//! The offline queue: what a user missed while none of the user's sessions was subscribed.

use super::recoveries::RecoveryStart;
use super::session::{Session, Stopped};
use super::state::Broker;
use crate::base::channel_names::name_for_clients;
use crate::base::offline::{LastSeen, UserKey};
use crate::base::{ChannelTag, ConnectionId, Now, Position, UserChange};
use crate::config::Action;
use std::cell::LazyCell;
use std::collections::HashMap;

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
        let last_seen = offline.subscribe(user, tag, now.monotonic_ms);
        if last_seen != LastSeen::Now
            && let (Some(link), Some(user)) = (&self.process_state.link, session.node_user())
        {
            let change = UserChange::Subscribed {
                channel: name.into(),
                offset: self
                    .process_state
                    .history
                    .position_on(tag, self.reached)
                    .offset,
            };
            link.change_user(user, change);
        }
        let after = match last_seen {
            LastSeen::Now | LastSeen::Elsewhere => return None,
            LastSeen::At(offset) => offset,
            LastSeen::Never if policy.replay_on_first_subscribe => 0,
            LastSeen::Never => return None,
        };
        // Who may not read the history may still subscribe.
        let channel = name_for_clients(name);
        self.check_access(id, Action::History, channel).ok()?;
        let history = &self.process_state.history;
        let oldest = history.oldest_offset(tag, now.monotonic_ms);
        if self.process_state.link.is_none() {
            return Some(after.max(oldest));
        }
        // Of a count that has begun anew meanwhile, the user has received nothing.
        let position = Position {
            offset: after,
            ..history.position_on(tag, 0)
        };
        let resumed = history.resume(tag, position, self.unreached, now.monotonic_ms);
        Some(resumed.unwrap_or(oldest))
    }

    /// A session has unsubscribed from a channel by itself.
    pub(super) fn unsubscribe_offline(&self, id: ConnectionId, (tag, name): (ChannelTag, &str)) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let Some(user) = self.offline_user(session) else {
            return;
        };
        let state = &self.process_state;
        state.offline.unsubscribe(user, tag);
        if let (Some(link), Some(node_user)) = (&state.link, session.node_user())
            && state.history.limits_of(name).is_some()
            && !state.offline.is_subscribed(user, tag)
        {
            let channel = name.into();
            link.change_user(node_user, UserChange::Unsubscribed { channel });
        }
    }

    /// Notes where the user of a session stopped that is about to lose its subscriptions, or to have
    /// another user, for `remember_offline`.
    pub(super) fn stop_offline(&mut self, id: ConnectionId, now: Now) {
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
        let channels = channels.collect();
        // The other nodes know channels by their names.
        let link = self.process_state.link.as_ref();
        let shared = link.and_then(|_| session.node_user()).map(|user| {
            let subscriptions = session.client_side().iter();
            let names = subscriptions.map(|it| self.channels.name(*it).into());
            (user, names.collect())
        });
        let stopped = Stopped {
            id,
            user,
            shared,
            ttl_ms: policy.offline_queue_ttl.0,
            channels,
            expires_ms: now.monotonic_ms + policy.offline_queue_ttl.0,
        };
        self.stopped.push(stopped);
    }

    /// A session of which `remember_offline` is to be called.
    #[must_use]
    pub fn next_stopped(&self) -> Option<ConnectionId> {
        self.stopped.first().map(|stopped| stopped.id)
    }

    /// Remembers where the users of a session stopped: of what was queued for it, publications from
    /// these offsets on were not sent. In one access, so that a session of the user on another shard
    /// receives all that is missed, or begins before this one ends. Returns the channels of which the
    /// user will be sent what was not sent.
    pub fn remember_offline(
        &mut self,
        id: ConnectionId,
        unsent: &[(ChannelTag, u64)],
    ) -> Vec<ChannelTag> {
        let mut remembered = Vec::new();
        if self.stopped.is_empty() {
            return remembered;
        }
        let first_unsent: HashMap<_, _> = unsent.iter().copied().collect();
        let of_session = self.stopped.extract_if(.., |stopped| stopped.id == id);
        for stopped in of_session {
            let channels = stopped.channels.into_iter().map(|(tag, offset)| {
                let first = first_unsent.get(&tag);
                let sent = first.map_or(offset, |first| first.saturating_sub(1));
                let through = offset.min(sent);
                // The offsets of this node mean nothing when its channel has gone and come again.
                let history = &self.process_state.history;
                match self.process_state.link {
                    Some(_) => (tag, history.shared_offset(tag, through)),
                    None => (tag, through),
                }
            });
            let channels: Vec<_> = channels.collect();
            let offline = &self.process_state.offline;
            let all = channels.iter().copied();
            offline.disconnect(stopped.user, all, stopped.expires_ms);
            let tags = first_unsent.keys().copied();
            remembered.extend(tags.filter(|tag| offline.is_remembered(stopped.user, *tag)));
            let link = self.process_state.link.as_ref();
            if let (Some(link), Some((user, names))) = (link, stopped.shared) {
                let history = &self.process_state.history;
                let channels = channels.into_iter().zip(names);
                let channels = channels.filter(|(_, name)| history.limits_of(name).is_some());
                let channels = channels.map(|((tag, offset), name)| {
                    (name, offset, !offline.is_subscribed(stopped.user, tag))
                });
                let change = UserChange::Stopped {
                    channels: channels.collect(),
                    ttl_ms: stopped.ttl_ms,
                };
                link.change_user(user, change);
            }
        }
        remembered
    }

    /// The session has another user, to whom its subscriptions belong from now on: they receive what
    /// this one missed, though the session may have been sent some of it before.
    pub(super) fn change_offline_user(&mut self, id: ConnectionId, now: Now) {
        let mut at = 0;
        while let Some(session) = self.sessions.get(id)
            && let Some(subscription) = session.client_side().get(at).copied()
        {
            at += 1;
            let name = self.channels.name(subscription);
            if let Some(after) = self.resume_offline(id, name, now) {
                let from = RecoveryStart {
                    after,
                    is_offline_queue: true,
                };
                self.recover_subscription(id, subscription, from);
            }
        }
    }
}

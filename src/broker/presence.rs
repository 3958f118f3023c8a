//! Who is on which channel and, in dialects that announce it, online; and what is announced of it.

use super::announcements::{Announcement, Announcements};
use super::channels::ChannelIndex;
use super::command::PresenceRequest;
use super::effect::Effect;
use super::event::{Event, Presence, PresenceOn, Rejection};
use super::session::{Present, PresentAs, Session};
use super::state::{Broker, Emit};
use crate::base::channel_names::{dialect_of, online_user, online_users, split_tenant};
use crate::base::limits::{
    PRESENCE_ANNOUNCEMENTS_PER_TURN, PRESENCE_EVENT_USERS_MAX, PRESENCE_REPLY_BYTES_MAX,
    PRESENCE_REPLY_USERS, PRESENCE_REPLY_USERS_MAX,
};
use crate::base::{
    ChannelTag, ConnectionId, Now, PresenceCounts, PresenceMode, PresenceNews, PresencePlace,
};
use crate::config::{Action, Profile};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Broker {
    /// The session has its first subscription to a channel: its user is there. Whether the
    /// subscribers, this session among them, are told at once.
    pub(super) fn appear(
        &mut self,
        id: ConnectionId,
        channel: ChannelIndex,
        now: Now,
        emit: &mut Emit<'_>,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(id) else {
            return false;
        };
        let Some(place) = self.channels.at(channel).presence_place() else {
            return false;
        };
        let presence = &self.process_state.presence;
        let (is_listed, news) = presence.join(place, session.user(), self.shard);
        let present_as = PresentAs::of(is_listed);
        session.present.add(Present {
            channel,
            present_as,
        });
        let is_told = news != PresenceNews::None;
        let due_ms = now.monotonic_ms + presence.interval_ms();
        tell(&mut self.announcements, place, (news, true), due_ms, emit);
        is_told
    }

    /// The session, with the user whom it has, is not on a channel any more; it is not in its list.
    pub(super) fn disappear(
        &mut self,
        id: ConnectionId,
        present: Present,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        let session = self.sessions.get(id);
        let user = session.and_then(Session::user);
        let user = user.filter(|_| present.present_as == PresentAs::Listed);
        let Some(place) = self.channels.at(present.channel).presence_place() else {
            return;
        };
        let presence = &self.process_state.presence;
        let news = presence.leave(place, user, self.shard);
        let due_ms = now.monotonic_ms + presence.interval_ms();
        tell(&mut self.announcements, place, (news, false), due_ms, emit);
    }

    /// The session's user is online in its dialect, if that announces it.
    pub(super) fn go_online(&mut self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if !Profile::of(session.dialect).announces_users || session.online.is_some() {
            return;
        }
        let name = online_users(session.isolated_tenant(), session.dialect);
        let place = self.online_place(&name);
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let presence = &self.process_state.presence;
        let (is_listed, news) = presence.join(place, session.user(), self.shard);
        session.online = Some(PresentAs::of(is_listed));
        let due_ms = now.monotonic_ms + presence.interval_ms();
        tell(&mut self.announcements, place, (news, true), due_ms, emit);
        if let Some(link) = &self.process_state.link {
            // Nobody subscribes to it.
            link.want(place.tag, place.name);
        }
    }

    /// The session, with the user whom it has, is not online any more.
    pub(super) fn go_offline(&mut self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Some(present_as) = session.online.take() else {
            return;
        };
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let name = online_users(session.isolated_tenant(), session.dialect);
        let user = session.user().filter(|_| present_as == PresentAs::Listed);
        let place = self.online_place(&name);
        let presence = &self.process_state.presence;
        let news = presence.leave(place, user, self.shard);
        let due_ms = now.monotonic_ms + presence.interval_ms();
        tell(&mut self.announcements, place, (news, false), due_ms, emit);
    }

    /// Notes that the session's user has one session more, if a webhook is told who is online.
    pub(super) fn note_user(&mut self, id: ConnectionId) {
        let changes = self.process_state.changes.as_ref();
        if let Some(changes) = changes.filter(|changes| changes.has_users())
            && let Some(session) = self.sessions.get_mut(id)
            && !session.is_user_noted
            && let Some(user) = session.user()
        {
            changes.enter(&online_user(session.isolated_tenant(), user));
            session.is_user_noted = true;
        }
    }

    /// The opposite; the session has the same user as then.
    pub(super) fn release_noted_user(&mut self, id: ConnectionId) {
        if let Some(changes) = &self.process_state.changes
            && let Some(session) = self.sessions.get_mut(id)
            && std::mem::take(&mut session.is_user_noted)
            && let Some(user) = session.user()
        {
            changes.leave(&online_user(session.isolated_tenant(), user));
        }
    }

    fn online_place<'a>(&self, name: &'a str) -> PresencePlace<'a> {
        PresencePlace {
            tag: self.process_state.interests.tag(name),
            name,
            has_events: true,
        }
    }

    /// When `announce_presence` has something to do next, monotonic milliseconds.
    #[must_use]
    pub fn next_announcement_ms(&self) -> Option<u64> {
        self.announcements.front().map(|next| next.due_ms)
    }

    /// Announces what other nodes have told of a channel, from now on: nobody else announces its changes.
    pub fn begin_announcing(&mut self, (tag, name): (ChannelTag, Box<str>), now: Now) {
        let due_ms = now.monotonic_ms;
        // In front of those that are due later.
        self.announcements
            .push_front(Announcement { due_ms, tag, name });
    }

    /// Announces what has changed on the channels that are due: the share of one turn. All that was
    /// announced before must be in the ring.
    pub fn announce_presence(&mut self, now: Now, emit: &mut Emit<'_>) {
        for _ in 0..PRESENCE_ANNOUNCEMENTS_PER_TURN {
            let next = self.announcements.front();
            if next.is_none_or(|next| next.due_ms > now.monotonic_ms) {
                break;
            }
            let Some(mut announcement) = self.announcements.pop_front() else {
                break;
            };
            let presence = &self.process_state.presence;
            let place = PresencePlace {
                tag: announcement.tag,
                name: &announcement.name,
                has_events: true,
            };
            let Some(changes) = presence.take_changes(place, self.shard) else {
                continue;
            };
            let first = |users: &BTreeSet<Arc<str>>| -> Vec<_> {
                users
                    .iter()
                    .take(PRESENCE_EVENT_USERS_MAX)
                    .cloned()
                    .collect()
            };
            let (joined, left) = (first(&changes.joined), first(&changes.left));
            announce(
                place.name,
                (&joined, changes.joined.len()),
                (&left, changes.left.len()),
                changes.counts,
                emit,
            );
            announcement.due_ms = now.monotonic_ms + presence.interval_ms();
            self.announcements.push_back(announcement);
        }
        if self.announcements.is_empty() {
            self.announcements.shrink_to(0);
        }
    }

    pub(super) fn get_presence(
        &self,
        id: ConnectionId,
        request: PresenceRequest<'_>,
        emit: &mut Emit<'_>,
    ) {
        if let Err(rejection) = self.check_reading(id, Action::Presence, request.channel) {
            return self.reject(rejection, emit);
        }
        let name = self.full_name(id, request.channel).unwrap_or_default();
        let presence = &self.process_state.presence;
        if presence.mode_of(&name) == PresenceMode::Off {
            return self.reject(Rejection::NoPresence, emit);
        }
        if !request.is_awaited && self.is_awaited(&name, None) {
            return emit(Effect::AwaitPresence(request));
        }
        let tag = self.process_state.interests.tag(&name);
        let limit = request.limit.unwrap_or(PRESENCE_REPLY_USERS);
        let limit = limit.min(PRESENCE_REPLY_USERS_MAX) as usize;
        let page = presence.page(
            (tag, &name),
            request.after,
            (limit, PRESENCE_REPLY_BYTES_MAX),
        );
        emit(Effect::Reply(Event::Present {
            channel: request.channel,
            page: &page,
        }));
    }
}

/// Announces what is new, if that is to be done at once, and notes to look at the channel again.
fn tell(
    announcements: &mut Announcements,
    place: PresencePlace<'_>,
    (news, has_joined): (PresenceNews, bool),
    due_ms: u64,
    emit: &mut Emit<'_>,
) {
    let PresenceNews::Now(user, counts) = news else {
        return;
    };
    let (one, nobody) = ((&[user][..], 1), (&[][..], 0));
    let (joined, left) = match has_joined {
        true => (one, nobody),
        false => (nobody, one),
    };
    announce(place.name, joined, left, counts, emit);
    announcements.push_back(Announcement {
        due_ms,
        tag: place.tag,
        name: place.name.into(),
    });
}

fn announce(
    full_name: &str,
    (joined, joined_count): (&[Arc<str>], usize),
    (left, left_count): (&[Arc<str>], usize),
    counts: PresenceCounts,
    emit: &mut Emit<'_>,
) {
    let (tenant, name) = split_tenant(full_name);
    emit(Effect::Announce(Presence {
        on: dialect_of(name).map_or(PresenceOn::Channel(name), PresenceOn::Dialect),
        tenant,
        joined,
        joined_count,
        left,
        left_count,
        counts,
    }));
}

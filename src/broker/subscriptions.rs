//! Subscribing, unsubscribing and publishing.

use super::command::Publication;
use super::effect::Effect;
use super::event::{Event, Refusal};
use super::session::Membership;
use super::step::{Broker, Emit};
use crate::base::ConnectionId;
use crate::base::limits::{CHANNEL_BYTES_MAX, KIND_BYTES_MAX, SUBSCRIPTIONS_PER_SESSION_MAX};
use crate::config::DialectPolicy;

/// The permission that a token must carry to publish.
const PUBLISH_PERMISSION: &str = "publish";
/// Names that the server itself gives meaning to: one user, one role, one tenant, everyone.
const RESERVED_PREFIXES: [&str; 4] = ["user:", "role:", "permission:", "tenant:"];
const RESERVED_NAME: &str = "all";

impl Broker {
    pub(super) fn subscribe(&mut self, id: ConnectionId, name: &str, emit: &mut Emit<'_>) {
        if let Err(refusal) = check_channel(name) {
            return self.refuse(refusal, emit);
        }
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if session.membership(self.channels.find(name)).is_none() {
            if session.memberships.len() >= SUBSCRIPTIONS_PER_SESSION_MAX {
                return self.refuse(Refusal::TooManySubscriptions, emit);
            }
            let channel = self.channels.open(name);
            let variant = session.variant();
            let position = self.channels.join(channel, variant, id.slot());
            // Most sessions have one; the first growth of a vector would make room for four.
            if session.memberships.is_empty() {
                session.memberships.reserve_exact(1);
            }
            session.memberships.push(Membership { channel, position });
            self.census.subscribe(variant);
            self.subscription_count += 1;
            self.count_tables();
        }
        emit(Effect::Reply(Event::Subscribed { channel: name }));
    }

    pub(super) fn unsubscribe(&mut self, id: ConnectionId, name: &str, emit: &mut Emit<'_>) {
        if let Err(refusal) = check_channel(name) {
            return self.refuse(refusal, emit);
        }
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if let Some(at) = session.membership(self.channels.find(name)) {
            let membership = session.memberships.remove(at);
            let variant = session.variant();
            self.leave(variant, membership);
            self.count_tables();
        }
        emit(Effect::Reply(Event::Unsubscribed { channel: name }));
    }

    /// Ends all subscriptions of a session.
    pub(super) fn leave_all(&mut self, id: ConnectionId) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let variant = session.variant();
        for membership in std::mem::take(&mut session.memberships) {
            self.leave(variant, membership);
        }
        self.count_tables();
    }

    fn leave(&mut self, variant: crate::base::Variant, membership: Membership) {
        let Membership { channel, position } = membership;
        self.census.unsubscribe(variant, 1);
        self.subscription_count -= 1;
        let Some(moved) = self.channels.leave(channel, variant, position) else {
            return;
        };
        let neighbour = self
            .sessions
            .at_slot_mut(moved.slot)
            .expect("an audience holds only slots of sessions");
        let mut memberships = neighbour.memberships.iter_mut();
        let membership = memberships
            .find(|membership| membership.channel == channel)
            .expect("a session in an audience is a member of its channel");
        membership.position = moved.position;
    }

    pub(super) fn publish(
        &mut self,
        id: ConnectionId,
        policy: &DialectPolicy,
        publication: Publication<'_>,
        emit: &mut Emit<'_>,
    ) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let identity = session.identity.as_ref();
        let may = identity.is_some_and(|identity| identity.may(PUBLISH_PERMISSION));
        if !may && !policy.anonymous_publish {
            return self.refuse(Refusal::PermissionDenied, emit);
        }
        if let Err(refusal) = check_channel(publication.channel) {
            return self.refuse(refusal, emit);
        }
        if !is_name(publication.kind, KIND_BYTES_MAX) {
            return self.refuse(Refusal::InvalidField("type"), emit);
        }
        self.counters.publications.add(1);
        emit(Effect::Publish(publication));
        let channel = publication.channel;
        emit(Effect::Reply(Event::Published { channel }));
    }

    fn count_tables(&self) {
        self.counters.channels.set(self.channels.count() as u64);
        self.counters.subscriptions.set(self.subscription_count);
    }
}

fn check_channel(name: &str) -> Result<(), Refusal> {
    if !is_name(name, CHANNEL_BYTES_MAX) {
        return Err(Refusal::InvalidField("channel"));
    }
    let has_prefix = |prefix: &&str| name.starts_with(*prefix);
    if name == RESERVED_NAME || RESERVED_PREFIXES.iter().any(has_prefix) {
        return Err(Refusal::ReservedChannel);
    }
    Ok(())
}

/// Not empty, not too long, and nothing that would break a log line.
fn is_name(name: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&name.len()) && !name.chars().any(char::is_control)
}

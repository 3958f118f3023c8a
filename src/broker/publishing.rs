//! Publishing by clients, retained values, and the targets of broadcasts.

use super::command::{BroadcastTarget, Publication};
use super::effect::Effect;
use super::event::{Event, Rejection};
use super::names::{check_channel, is_name};
use super::state::{Broker, Emit};
use super::subscriptions::are_met;
use crate::base::channel_names::owner;
use crate::base::limits::KIND_BYTES_MAX;
use crate::base::{ConnectionId, Now};
use crate::config::DialectPolicy;

/// The permission that a token must have to publish.
const PUBLISH_PERMISSION: &str = "publish";

impl Broker {
    pub(super) fn publish(
        &mut self,
        id: ConnectionId,
        policy: &DialectPolicy,
        publication: Publication<'_>,
        emit: &mut Emit<'_>,
    ) {
        let identity = self.identity(id);
        let may = identity.is_some_and(|identity| identity.may(PUBLISH_PERMISSION));
        if !may && !policy.anonymous_publish {
            return self.reject(Rejection::PermissionDenied, emit);
        }
        if let Err(rejection) = check_channel(publication.channel) {
            return self.reject(rejection, emit);
        }
        if !is_name(publication.kind, KIND_BYTES_MAX) {
            return self.reject(Rejection::InvalidField("type"), emit);
        }
        if !self.may_publish_on(id, publication.channel) {
            return self.reject(Rejection::PermissionDenied, emit);
        }
        self.issue(publication, emit);
    }

    /// Whether a session that may publish at all may do so on this channel: by the rules that match
    /// it, else unless it belongs to another dialect.
    fn may_publish_on(&self, id: ConnectionId, channel: &str) -> bool {
        let Some(session) = self.sessions.get(id) else {
            return false;
        };
        let rules = &self.policy.publish_rules;
        are_met(rules, session.identity.as_deref(), channel).unwrap_or_else(|| {
            owner(channel).is_none_or(|owner| {
                // Without its dialect, a name with this prefix is one like any other.
                owner == session.dialect || !self.policy.serves(owner)
            })
        })
    }

    /// Publishes with the permission of a role, on a channel that the dialect chooses.
    pub(super) fn publish_with_role(
        &mut self,
        id: ConnectionId,
        role: &str,
        publication: Publication<'_>,
        emit: &mut Emit<'_>,
    ) {
        let identity = self.identity(id);
        if !identity.is_some_and(|identity| identity.has_role(role)) {
            return self.reject(Rejection::PermissionDenied, emit);
        }
        self.issue(publication, emit);
    }

    fn issue(&mut self, publication: Publication<'_>, emit: &mut Emit<'_>) {
        self.counters.publications.add(1);
        emit(Effect::Publish(publication));
        let channel = publication.channel;
        emit(Effect::Reply(Event::Published { channel }));
    }

    pub(super) fn get_retained(
        &mut self,
        id: ConnectionId,
        channel: &str,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        if let Err(rejection) = self.check_access(id, channel) {
            return self.reject(rejection, emit);
        }
        let values = self.process_state.retained.of(channel);
        emit(Effect::Reply(Event::Retained {
            channel,
            values: values.iter().map(|value| &**value).collect(),
            now,
        }));
    }

    /// Whether the session in `slot` matches the target of a publication.
    #[must_use]
    pub fn matches_target(&self, slot: u32, target: BroadcastTarget<'_>) -> bool {
        let Some(session) = self.sessions.at_slot(slot) else {
            return false;
        };
        let identity = session.identity.as_deref();
        match target {
            BroadcastTarget::All => true,
            BroadcastTarget::User(user) => session.user() == Some(user),
            BroadcastTarget::Role(role) => identity.is_some_and(|identity| identity.has_role(role)),
            BroadcastTarget::Permission(permission) => {
                identity.is_some_and(|identity| identity.may(permission))
            }
            BroadcastTarget::Tenant(tenant) => session.tenant() == Some(tenant),
        }
    }
}

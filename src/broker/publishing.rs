//! Publishing by clients, retained values, and the targets of broadcasts.

use super::command::{BroadcastTarget, Command, Publication};
use super::effect::Effect;
use super::event::{Event, Rejection};
use super::names::{check_channel, is_name};
use super::state::{Broker, Emit};
use super::subscriptions::are_met;
use crate::base::channel_names::owner;
use crate::base::limits::KIND_BYTES_MAX;
use crate::base::{ConnectionId, Now};

/// The permission that a token must have to publish.
const PUBLISH_PERMISSION: &str = "publish";

impl Broker {
    /// Whether session `id` may send a command of this kind, whatever its channel: the first check,
    /// which does not look at data.
    ///
    /// # Errors
    /// [`Rejection::AuthenticationRequired`] or [`Rejection::PermissionDenied`].
    pub fn check_permission(
        &self,
        id: ConnectionId,
        command: &Command<'_>,
    ) -> Result<(), Rejection> {
        if command.is_open_to_all() {
            return Ok(());
        }
        let Some(session) = self.sessions.get(id) else {
            return Ok(());
        };
        let policy = &self.policy.dialects[session.dialect.index()];
        let identity = session.identity.as_deref();
        if identity.is_none() && policy.auth_required {
            return Err(Rejection::AuthenticationRequired);
        }
        let is_allowed = match command {
            Command::Publish(_) => identity.map_or(policy.anonymous_publish, |identity| {
                identity.may(PUBLISH_PERMISSION)
            }),
            Command::PublishWithRole { role, .. } => {
                identity.is_some_and(|identity| identity.has_role(role))
            }
            _ => true,
        };
        is_allowed.then_some(()).ok_or(Rejection::PermissionDenied)
    }

    pub(super) fn publish(
        &mut self,
        id: ConnectionId,
        publication: Publication<'_>,
        emit: &mut Emit<'_>,
    ) {
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

    /// Publishes on a channel that the client or its dialect chose.
    pub(super) fn issue(&mut self, publication: Publication<'_>, emit: &mut Emit<'_>) {
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

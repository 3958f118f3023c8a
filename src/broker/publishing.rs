//! Publishing by clients, retained values, and the targets of broadcasts.

use super::access::rule_on_session;
use super::command::{BroadcastTarget, Command, Publication};
use super::effect::Effect;
use super::event::{Event, Rejection};
use super::names::is_name;
use super::state::{Broker, Emit};
use crate::base::limits::KIND_BYTES_MAX;
use crate::base::{ConnectionId, Now};
use crate::config::Action;

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
        let subject = session.subject();
        let action = match command {
            Command::Publish(_) => Action::Publish,
            _ => Action::Subscribe,
        };
        if let Some(ruling) = rule_on_session(&self.policy, session.dialect, subject, action) {
            return ruling.result();
        }
        let identity = subject.identity;
        let may = |role: &str| identity.is_some_and(|identity| identity.has_role(role));
        match command {
            Command::PublishWithRole { role, .. } if !may(role) => Err(Rejection::PermissionDenied),
            _ => Ok(()),
        }
    }

    pub(super) fn publish(
        &mut self,
        id: ConnectionId,
        publication: Publication<'_>,
        emit: &mut Emit<'_>,
    ) {
        if let Err(rejection) = self.check_access(id, Action::Publish, publication.channel) {
            return self.reject(rejection, emit);
        }
        if !is_name(publication.kind, KIND_BYTES_MAX) {
            return self.reject(Rejection::InvalidField("type"), emit);
        }
        self.issue(publication, emit);
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
        if let Err(rejection) = self.check_access(id, Action::History, channel) {
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

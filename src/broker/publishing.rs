//! Publishing by clients, retained values, and the targets of broadcasts.

use super::access::rule_on_session;
use super::channels::ChannelIndex;
use super::command::{BroadcastTarget, Command, HistoryRequest, Publication};
use super::effect::Effect;
use super::event::{Event, Rejection};
use super::names::is_name;
use super::state::{Broker, Emit};
use crate::base::channel_names::{permission_channel, role_channel, tenant_channel, user_channel};
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
        self.issue(id, publication, emit);
    }

    /// Publishes on a channel that the client or its dialect chose.
    pub(super) fn issue(
        &mut self,
        id: ConnectionId,
        publication: Publication<'_>,
        emit: &mut Emit<'_>,
    ) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        self.counters.publications.add(1);
        let scope = session.isolated_tenant().into();
        emit(Effect::Publish(publication.in_scope(scope)));
        let channel = publication.channel;
        emit(Effect::Reply(Event::Published { channel }));
    }

    pub(super) fn get_history(
        &mut self,
        id: ConnectionId,
        request: HistoryRequest<'_>,
        emit: &mut Emit<'_>,
    ) {
        if let Err(rejection) = self.check_reading(id, Action::History, request.channel) {
            return self.reject(rejection, emit);
        }
        let name = self.full_name(id, request.channel).unwrap_or_default();
        match self.process_state.history.limits_of(&name) {
            Some(_) if !request.is_awaited && self.is_awaited(&name, request.after) => {
                emit(Effect::AwaitHistory(request));
            }
            Some(_) => emit(Effect::ReadHistory(request)),
            None => self.reject(Rejection::NoHistory, emit),
        }
    }

    pub(super) fn get_retained(
        &mut self,
        id: ConnectionId,
        (channel, is_awaited): (&str, bool),
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        if let Err(rejection) = self.check_reading(id, Action::History, channel) {
            return self.reject(rejection, emit);
        }
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let name = session.full_name(channel);
        if !is_awaited && self.is_awaited(&name, None) {
            return emit(Effect::AwaitRetained(channel));
        }
        let values = self.process_state.retained.of(&name);
        emit(Effect::Reply(Event::Retained {
            channel,
            values: values.iter().map(|value| &**value).collect(),
            now,
        }));
    }

    /// Calls `visit` with each subscriber of a channel that matches a target: its slot, subscriber
    /// group and position there. The cost is that of the subscribers of the channel or of the
    /// sessions that match, whichever are fewer.
    pub fn visit_target(
        &self,
        channel: ChannelIndex,
        target: BroadcastTarget<'_>,
        mut visit: impl FnMut(u32, u32, usize),
    ) {
        let matching = match target {
            BroadcastTarget::All | BroadcastTarget::Except(_) => {
                let without = target.excluded().map(|id| id.connection);
                let without = without.filter(|id| target.excluded() == Some(self.session_id(*id)));
                let is_excluded =
                    |slot| without.is_some() && self.sessions.id_at_slot(slot) == without;
                let subscribers = self.channels.at(channel).subscribers();
                return subscribers
                    .filter(|(slot, ..)| !is_excluded(*slot))
                    .for_each(|(slot, group, position)| visit(slot, group, position));
            }
            BroadcastTarget::User(user) => user_channel(user),
            BroadcastTarget::Role(role) => role_channel(role),
            BroadcastTarget::Permission(permission) => permission_channel(permission),
            BroadcastTarget::Tenant(tenant) => tenant_channel(tenant),
        };
        // The server subscribes the sessions that match to this one.
        let Some(matching) = self.channels.find(&matching) else {
            return;
        };
        let [subscribers, sessions] = [channel, matching].map(|index| self.channels.at(index));
        if sessions.subscriber_count() < subscribers.subscriber_count() {
            for (slot, ..) in sessions.subscribers() {
                let session = self.sessions.at_slot(slot);
                let all = session.map_or(&[][..], |session| &session.subscriptions);
                for it in all.iter().filter(|it| it.channel == channel) {
                    visit(slot, it.group, it.position as usize);
                }
            }
            return;
        }
        for (slot, group, position) in subscribers.subscribers() {
            let session = self.sessions.at_slot(slot);
            if session.is_some_and(|session| session.subscription(Some(matching)).is_some()) {
                visit(slot, group, position);
            }
        }
    }
}

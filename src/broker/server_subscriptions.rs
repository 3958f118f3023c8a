//! Server-side subscriptions: `all`, and the channels of the session's dialect, user, tenant, roles
//! and permissions.

use super::channels::{NewSubscriber, SubscriptionRef, TenantKey};
use super::state::{Broker, Emit};
use crate::base::channel_names::{
    EVERYONE, dialect_channel, is_reserved, name_for_clients, permission_channel, role_channel,
    tenant_channel, tenant_of, user_channel,
};
use crate::base::counters::SubscriptionReject;
use crate::base::limits::SERVER_SUBSCRIPTIONS_MAX;
use crate::base::{ConnectionId, Now};
use crate::config::Action;

impl Broker {
    /// Replaces the server-side subscriptions of a session with those of its current identity.
    pub(super) fn refresh_server_subscriptions(&mut self, id: ConnectionId) {
        let names = self.server_side_channels(id);
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let variant = session.variant();
        let earlier: Vec<_> = session
            .subscriptions
            .drain(..usize::from(session.server_side_count))
            .collect();
        session.server_side_count = 0;
        for subscription in earlier {
            self.leave(subscription);
        }
        let mut server_subscriptions = Vec::with_capacity(names.len());
        let mut tenant = TenantKey::NONE;
        for name in names {
            // A session receives each publication once: a client-side subscription is enough.
            let known = self.channels.find(&name);
            let session = self.sessions.get(id);
            if session.is_some_and(|session| session.subscription(known).is_some()) {
                continue;
            }
            let channel = self.channels.open(&name, true);
            let is_isolated = session.is_some_and(|session| session.isolated_tenant().is_some());
            let is_shared = is_reserved(&name) && tenant_of(&name).is_none();
            // A token may name a role twice.
            let mut earlier = server_subscriptions.iter();
            if earlier.any(|subscription: &SubscriptionRef| subscription.channel == channel) {
                continue;
            }
            let subscriber = NewSubscriber {
                slot: id.slot(),
                variant,
                subscription_id: None,
                filter: None,
                takes_binary: false,
                tenant: if is_shared { tenant } else { TenantKey::NONE },
                recovery: None,
            };
            // The channel of the tenant is the first one.
            if is_isolated && server_subscriptions.is_empty() {
                tenant = TenantKey::of(channel);
            }
            let subscription = self.channels.join(channel, subscriber);
            server_subscriptions.push(subscription);
        }
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.server_side_count =
            u16::try_from(server_subscriptions.len()).expect("bounded by SERVER_SUBSCRIPTIONS_MAX");
        let is_isolated = session.isolated_tenant().is_some();
        match (session.counted.isolated, is_isolated) {
            (false, true) => self.process_state.add_isolated(session.dialect),
            (true, false) => self.process_state.remove_isolated(session.dialect),
            _ => {}
        }
        session.counted.isolated = is_isolated;
        server_subscriptions.append(&mut session.subscriptions);
        session.subscriptions = server_subscriptions;
        self.count_tables();
    }

    fn server_side_channels(&self, id: ConnectionId) -> Vec<String> {
        let Some(session) = self.sessions.get(id) else {
            return Vec::new();
        };
        let mut names: Vec<_> = session.tenant().map(tenant_channel).into_iter().collect();
        names.extend([EVERYONE.to_owned(), dialect_channel(session.dialect)]);
        let subject = session.subject();
        for rule in self.policy.access_rules.rules() {
            if rule.auto_subscribe == Some(session.dialect)
                && subject.identity.is_some()
                && let Some(name) = rule.channels.name()
                && rule.is_met(subject, name) == Some(true)
            {
                names.push(session.full_name(name).into_owned());
            }
        }
        if let Some(identity) = &session.identity {
            names.push(user_channel(&identity.user));
            names.extend(identity.roles.iter().map(|role| role_channel(role)));
            let permissions = identity.permissions.iter();
            names.extend(permissions.map(|permission| permission_channel(permission)));
        }
        let excess = names.len().saturating_sub(SERVER_SUBSCRIPTIONS_MAX);
        let rejected = &self.counters.server_subscriptions_rejected;
        rejected
            .of(SubscriptionReject::Truncated)
            .add(excess as u64);
        names.truncate(SERVER_SUBSCRIPTIONS_MAX);
        names
    }

    /// Ends all subscriptions of the client: they are in the channels of another tenant.
    pub(super) fn drop_client_side(&mut self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) {
        while let Some(session) = self.sessions.get(id)
            && !session.client_side().is_empty()
        {
            self.leave_at(id, session.subscriptions.len() - 1, now, emit);
        }
    }

    /// Ends the subscriptions that the new identity does not allow, and those that a callback has allowed
    /// to another user.
    pub(super) fn drop_forbidden(
        &mut self,
        id: ConnectionId,
        is_same_user: bool,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        let mut at = 0;
        while let Some(session) = self.sessions.get(id)
            && let Some(subscription) = session.client_side().get(at)
        {
            let channel = name_for_clients(self.channels.name(*subscription)).to_owned();
            let is_undecided = !is_same_user && self.policy.asks_about(&channel);
            if !is_undecided && self.check_access(id, Action::Subscribe, &channel).is_ok() {
                at += 1;
            } else {
                let index = usize::from(session.server_side_count) + at;
                self.leave_at(id, index, now, emit);
            }
        }
    }
}

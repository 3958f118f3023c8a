//! The step: one command in, its effects out. Nothing else changes a session.

use super::admission::Admission;
use super::command::{Command, Subscription, TokenSource};
use super::effect::Effect;
use super::event::{Event, Rejection};
use super::quotas::Owner;
use super::state::{Broker, Emit};
use crate::auth::Identity;
use crate::base::counters::{CloseReason, MessageError};
use crate::base::limits::{AUTH_EXTENSION_MS, RATE_ANSWER_INTERVAL_MS};
use crate::base::now::Moment;
use crate::base::{ConnectionId, Now};
use crate::config::DialectPolicy;

impl Broker {
    /// Carries out one command of session `id`. A command for a session that is being closed, or
    /// that this broker does not have, is ignored.
    pub fn step(&mut self, id: ConnectionId, command: Command<'_>, now: Now, emit: &mut Emit<'_>) {
        if let Command::Connect(connect) = command {
            return self.connect(id, connect, now, emit);
        }
        // The most frequent commands come first and do not read the policy.
        if matches!(command, Command::Message) {
            return self.check_rate_limit(id, now, emit);
        }
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let policy = self.policy.dialects[session.dialect.index()];
        if let Command::Disconnect { unsent } = command {
            return self.disconnect(id, unsent, now, emit);
        }
        if session.closing {
            return;
        }
        if !command.is_internal() {
            session.last_activity_ms = now.monotonic_ms;
            session.pinged = None;
            // The timer for the expiry of a token uses the monotonic clock; the wall clock may have
            // jumped.
            if session.is_expired(&policy, now) {
                return self.check_timers(id, &policy, now, emit);
            }
        }
        if let Err(rejection) = self.check_permission(id, &command) {
            return self.reject(rejection, emit);
        }
        match command {
            Command::Authenticate { token } => {
                self.authenticate(id, &policy, token, TokenSource::Message, now, emit);
            }
            Command::TokenVerified {
                verified,
                source,
                is_awaited,
            } => {
                let verified = (verified.cloned(), is_awaited);
                self.token_verified(id, &policy, verified, source, now, emit);
            }
            Command::Ping => emit(Effect::Reply(Event::Pong { now })),
            Command::Status => self.status(id, now, emit),
            Command::Malformed(rejection) => self.reject(rejection, emit),
            Command::PongDelayed => self.delay_pong(id, now),
            Command::TimerExpired { message_waits } => {
                let session = self.sessions.get(id).filter(|_| message_waits);
                if session.is_some_and(|it| it.may_exceed_auth_timeout(&policy, now)) {
                    // What waits may be its token, sent in time.
                    emit(Effect::SetTimer(now.monotonic_ms + AUTH_EXTENSION_MS));
                } else {
                    self.check_timers(id, &policy, now, emit);
                }
            }
            Command::AnnounceShutdown { grace_ms } => {
                emit(Effect::Reply(Event::ShuttingDown { grace_ms, now }));
            }
            Command::Connect(_)
            | Command::Disconnect { .. }
            | Command::Activity
            | Command::Message => {}
            Command::Identify(identity) => {
                self.identify(id, &policy, identity.clone(), now, emit);
            }
            Command::SubscribeServerSide { channel } => {
                self.subscribe_server_side(id, channel, now, emit);
            }
            Command::UnsubscribeServerSide { channel } => {
                self.unsubscribe_server_side(id, channel, now, emit);
            }
            Command::EndSession { reason } => self.close(id, reason, now, emit),
            Command::Subscribe(subscription) => self.subscribe(id, subscription, now, emit),
            Command::Unsubscribe { channel } => self.unsubscribe(id, channel, now, emit),
            Command::UnsubscribeById { subscription_id } => {
                self.unsubscribe_by_id(id, subscription_id, now, emit)
            }
            Command::SubscribePerUser { prefix } => match self.per_user_channel(id, prefix) {
                Ok(channel) => self.subscribe(id, Subscription::to(&channel), now, emit),
                Err(rejection) => self.reject(rejection, emit),
            },
            Command::UnsubscribePerUser { prefix } => match self.per_user_channel(id, prefix) {
                Ok(channel) => self.unsubscribe(id, &channel, now, emit),
                Err(rejection) => self.reject(rejection, emit),
            },
            Command::Publish(publication) => self.publish(id, publication, emit),
            // Its dialect chose the channel and the type.
            Command::PublishWithRole { publication, .. } => self.issue(id, publication, emit),
            Command::GetHistory(request) => self.get_history(id, request, emit),
            Command::Restore => self.begin_restoring(id, now, emit),
            Command::GetPresence(request) => self.get_presence(id, request, emit),
            Command::GetRetained {
                channel,
                is_awaited,
            } => self.get_retained(id, (channel, is_awaited), now, emit),
        }
    }

    /// Counts a message of session `id` against the rate limits.
    fn check_rate_limit(&mut self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) {
        let Some(session) = self.sessions.get_mut(id).filter(|it| !it.closing) else {
            return;
        };
        let policy = &self.policy.dialects[session.dialect.index()];
        if session.allows_message(policy, now) {
            return;
        }
        session.violations = session.violations.saturating_add(1);
        let is_too_often =
            policy.rate_violations_max > 0 && session.violations > policy.rate_violations_max;
        let answered_ms = session.rate_answered.map(Moment::monotonic_ms);
        let is_answered =
            answered_ms.is_none_or(|at_ms| now.monotonic_ms >= at_ms + RATE_ANSWER_INTERVAL_MS);
        emit(Effect::DropMessage);
        if is_answered {
            session.rate_answered = Some(Moment::of(now));
            self.reject(Rejection::RateLimited, emit);
        } else {
            let errors = &self.counters.message_errors;
            errors.of(MessageError::RateLimited).add(1);
        }
        if is_too_often {
            self.close(id, CloseReason::RateLimited, now, emit);
        }
    }

    /// Sets the identity of the session, without a message to its client.
    fn identify(
        &mut self,
        id: ConnectionId,
        policy: &DialectPolicy,
        identity: Identity,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        let mut silently = |effect: Effect<'_>| match effect {
            Effect::Reply(Event::Authenticated { .. }) => {}
            other => emit(other),
        };
        match self.admit_identity(id, policy, identity, now, &mut silently) {
            Admission::Rejected(reason) => self.close(id, reason, now, emit),
            Admission::Admitted => self.check_timers(id, policy, now, emit),
        }
    }

    fn status(&self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) {
        if let Some(session) = &self.view(id, now) {
            let dialect = session.dialect;
            let sessions = match self.isolated_tenant(id) {
                Some(tenant) => self.quotas.sessions(dialect, Owner::Tenant(tenant)).into(),
                None => self.process_state.sessions_of_no_tenant(dialect),
            };
            emit(Effect::Reply(Event::Status {
                session,
                sessions,
                now,
            }));
        }
    }
}

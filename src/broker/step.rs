//! The step: one command in, its effects out.

use super::admission::Admission;
use super::channels::{Channel, ChannelIndex, Channels};
use super::command::{Command, Subscription};
use super::effect::Effect;
use super::event::{Event, Rejection, SessionId, SessionView};
use super::publishing::RetainedValues;
use super::quotas::Quotas;
use super::session::{Due, Session};
use super::subscriptions::channel_names;
use crate::auth::{Identity, Verifier};
use crate::base::counters::{CloseReason, TokenError};
use crate::base::limits::UNAUTHENTICATED_MESSAGE_BYTES_MAX;
use crate::base::{
    ConnectionId, DialectId, Now, ProcessCounts, ShardCounters, SlotMap, SubscriptionId,
};
use crate::config::{DialectPolicy, Policy, RateLimit, RateScope};
use crate::ws::CloseCode;
use std::cell::Cell;
use std::sync::Arc;

/// The rules and the tables of one shard.
#[derive(Debug)]
pub struct Broker {
    pub(super) shard: u16,
    pub(super) policy: Arc<Policy>,
    pub(super) verifier: Verifier,
    pub(super) process_counts: Arc<ProcessCounts>,
    pub(super) quotas: Arc<Quotas>,
    pub(super) counters: Arc<ShardCounters>,
    pub(super) sessions: SlotMap<Session>,
    pub(super) channels: Channels,
    pub(super) retained: RetainedValues,
    pub(super) subscription_count: u64,
    pub(super) authenticated_count: u64,
    subscription_ids_assigned: Cell<u64>,
}

/// What the brokers of a process have in common, and what is this one's.
#[derive(Debug)]
pub struct BrokerParts {
    /// Which shard of the process this is.
    pub shard: u16,
    /// The rules.
    pub policy: Arc<Policy>,
    /// Checks tokens.
    pub verifier: Verifier,
    /// Counts shared by all shards.
    pub process_counts: Arc<ProcessCounts>,
    /// What users, tenants and addresses use, on all shards.
    pub quotas: Arc<Quotas>,
    /// This shard's counters.
    pub counters: Arc<ShardCounters>,
}

/// Where effects go.
pub(super) type Emit<'e> = dyn FnMut(Effect<'_>) + 'e;

impl Broker {
    /// A broker without sessions.
    #[must_use]
    pub fn new(parts: BrokerParts) -> Self {
        Self {
            shard: parts.shard,
            policy: parts.policy,
            verifier: parts.verifier,
            process_counts: parts.process_counts,
            quotas: parts.quotas,
            counters: parts.counters,
            sessions: SlotMap::default(),
            channels: Channels::default(),
            retained: RetainedValues::default(),
            subscription_count: 0,
            authenticated_count: 0,
            subscription_ids_assigned: Cell::new(0),
        }
    }

    /// The rules in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The channel of that name, if it has subscribers on this shard.
    #[must_use]
    pub fn find_channel(&self, name: &str) -> Option<ChannelIndex> {
        self.channels.find(name)
    }

    /// The channels that sessions of this shard asked for and whose names begin so.
    pub fn channel_names(&self, prefix: &str) -> impl Iterator<Item = &str> {
        self.channels
            .names()
            .filter(move |name| name.starts_with(prefix))
    }

    /// The subscribers of a channel on this shard.
    #[must_use]
    pub fn channel(&self, index: ChannelIndex) -> &Channel {
        self.channels.at(index)
    }

    /// The same, to match filters.
    #[must_use]
    pub fn channel_mut(&mut self, index: ChannelIndex) -> &mut Channel {
        self.channels.at_mut(index)
    }

    /// Whether a session of `dialect` would be within the limits now.
    #[must_use]
    pub fn has_room(&self, dialect: DialectId) -> bool {
        let dialect_max = self.policy.dialects[dialect.index()].sessions_max;
        let total_max = self.policy.sessions_max;
        (dialect_max == 0 || self.process_counts.sessions(dialect) < dialect_max)
            && (total_max == 0 || self.process_counts.sessions_total() < total_max)
    }

    /// Whether the session may do more than show who it is.
    #[must_use]
    pub fn auth_satisfied(&self, id: ConnectionId) -> bool {
        self.sessions.get(id).is_some_and(|session| {
            let policy = &self.policy.dialects[session.dialect.index()];
            session.identity.is_some() || !policy.auth_required
        })
    }

    /// What session `id` may know of itself.
    #[must_use]
    pub fn view(&self, id: ConnectionId, now: Now) -> Option<SessionView<'_>> {
        let session = self.sessions.get(id)?;
        Some(view(self.session_id(id), session, &self.channels, now))
    }

    /// The session's id in the process.
    #[must_use]
    pub fn session_id(&self, connection: ConnectionId) -> SessionId {
        SessionId {
            shard: self.shard,
            connection,
        }
    }

    /// Counts a message of session `id` against its rate limit, before anything is spent on reading
    /// it; false, and the rejection among the effects, when it is one too many.
    pub fn check_rate_limit(&mut self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) -> bool {
        let Some(session) = self.sessions.get_mut(id) else {
            return false;
        };
        let policy = &self.policy.dialects[session.dialect.index()];
        let limit = policy.rate_limit;
        if limit == RateLimit::Off {
            return true;
        }
        let admits = match (policy.rate_scope, session.user()) {
            (RateScope::User, Some(user)) => {
                let quotas = &self.quotas;
                quotas.allows(session.dialect, user, limit, now)
            }
            _ => session.rate.allows(limit, now.monotonic_ms),
        };
        if admits {
            return true;
        }
        session.violations = session.violations.saturating_add(1);
        let is_too_often =
            policy.rate_violations_max > 0 && session.violations > policy.rate_violations_max;
        self.reject(Rejection::RateLimited, emit);
        if is_too_often {
            self.close(id, CloseReason::RateLimited, now, emit);
        }
        false
    }

    /// Messages that session `id` has used of its rate limit now, and how many it allows in its
    /// window or at once (`None` = any number).
    #[must_use]
    pub fn rate_status(&self, id: ConnectionId, now: Now) -> Option<(u32, Option<u32>)> {
        let session = self.sessions.get(id)?;
        let policy = &self.policy.dialects[session.dialect.index()];
        let limit = policy.rate_limit;
        let used = match (policy.rate_scope, session.user()) {
            (RateScope::User, Some(user)) => self.quotas.used(session.dialect, user, limit, now),
            _ => session.rate.used(limit, now.monotonic_ms),
        };
        Some((used, limit.messages_max()))
    }

    /// Longest message that session `id` may send now, bytes: little until we know whom we serve.
    #[must_use]
    pub fn message_bytes_max(&self, id: ConnectionId) -> usize {
        let Some(session) = self.sessions.get(id) else {
            return UNAUTHENTICATED_MESSAGE_BYTES_MAX;
        };
        let policy = &self.policy.dialects[session.dialect.index()];
        if policy.auth_required && session.identity.is_none() {
            let bytes_max = policy.message_bytes_max.as_usize();
            return bytes_max.min(UNAUTHENTICATED_MESSAGE_BYTES_MAX);
        }
        policy.message_bytes_max.as_usize()
    }

    /// Carries out one command of session `id`. A session that is being closed, or that this broker
    /// does not have, is left alone.
    pub fn step(&mut self, id: ConnectionId, command: Command<'_>, now: Now, emit: &mut Emit<'_>) {
        if let Command::Connect(connect) = command {
            return self.connect(id, connect, now, emit);
        }
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let policy = self.policy.dialects[session.dialect.index()];
        if matches!(command, Command::Disconnect) {
            return self.disconnect(id, now, emit);
        }
        if session.closing {
            return;
        }
        if !command.is_internal() {
            session.last_activity_ms = now.monotonic_ms;
            session.pinged_ms = None;
            // The timer for a token's end follows the monotonic clock; the calendar may have jumped.
            if session.is_expired(&policy, now) {
                return self.wake(id, &policy, now, emit);
            }
        }
        let auth_satisfied = session.identity.is_some() || !policy.auth_required;
        match command {
            Command::Authenticate { token } => {
                self.authenticate(id, &policy, token, now, emit);
            }
            Command::Ping => emit(Effect::Reply(Event::Pong { now })),
            Command::Status => self.status(id, now, emit),
            Command::Malformed(rejection) => self.reject(rejection, emit),
            Command::Wake => self.wake(id, &policy, now, emit),
            Command::GoAway { wait_ms } => emit(Effect::Reply(Event::GoingAway { wait_ms, now })),
            Command::Connect(_) | Command::Disconnect | Command::Activity => {}
            _ if !auth_satisfied => self.reject(Rejection::AuthenticationRequired, emit),
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
            Command::Publish(publication) => self.publish(id, &policy, publication, emit),
            Command::PublishWithRole { role, publication } => {
                self.publish_with_role(id, role, publication, emit);
            }
            Command::GetRetained { channel } => self.get_retained(id, channel, now, emit),
        }
    }

    /// Makes the session speak for `identity`, by the word of the program that embeds the server;
    /// its client is told nothing.
    pub fn identify(
        &mut self,
        id: ConnectionId,
        identity: Identity,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        if session.closing {
            return;
        }
        let policy = self.policy.dialects[session.dialect.index()];
        let mut silently = |effect: Effect<'_>| match effect {
            Effect::Reply(Event::Authenticated { .. }) => {}
            other => emit(other),
        };
        match self.admit_identity(id, &policy, identity, now, &mut silently) {
            Admission::Rejected(reason) => self.close(id, reason, now, emit),
            Admission::Admitted => self.wake(id, &policy, now, emit),
        }
    }

    /// Ends a session by the word of the program that embeds the server, or of an operator.
    pub fn end_session(
        &mut self,
        id: ConnectionId,
        reason: CloseReason,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        self.close_once(id, reason, now, emit);
    }

    fn status(&self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) {
        if let Some(session) = &self.view(id, now) {
            let sessions = self.process_counts.sessions(session.dialect);
            emit(Effect::Reply(Event::Status {
                session,
                sessions,
                now,
            }));
        }
    }

    /// Does what is due and asks to be woken for what is next.
    pub(super) fn wake(
        &mut self,
        id: ConnectionId,
        policy: &DialectPolicy,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let mut due = session.due(policy, now);
        if due == Due::Ping {
            session.pinged_ms = Some(now.monotonic_ms);
            emit(Effect::Ping);
            due = session.due(policy, now);
        }
        match due {
            Due::Later(at_ms) => emit(Effect::WakeAt(at_ms)),
            // Only a pong timeout of zero makes a ping due twice.
            Due::PongTimeout | Due::Ping => self.close(id, CloseReason::PongTimeout, now, emit),
            Due::AuthTimeout => self.close(id, CloseReason::AuthTimeout, now, emit),
            Due::TokenExpired => {
                self.counters.token_errors.of(TokenError::Expired).add(1);
                let rejection = Rejection::TokenExpired;
                emit(Effect::Reply(Event::Error { rejection }));
                self.close(id, CloseReason::TokenExpired, now, emit);
            }
        }
    }

    /// Ends a session for a reason of ours; its subscriptions end at once.
    pub(super) fn close(
        &mut self,
        id: ConnectionId,
        reason: CloseReason,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        self.leave_all(id, now, emit);
        if let Some(session) = self.sessions.get_mut(id) {
            session.closing = true;
        }
        let code = match reason {
            CloseReason::Capacity => CloseCode::TRY_AGAIN_LATER,
            CloseReason::Operator => CloseCode::NORMAL,
            _ => CloseCode::POLICY_VIOLATION,
        };
        emit(Effect::Close { code, reason });
    }

    pub(super) fn reject(&self, rejection: Rejection, emit: &mut Emit<'_>) {
        if let Some(error) = rejection.error() {
            self.counters.message_errors.of(error).add(1);
        }
        emit(Effect::Reply(Event::Error { rejection }));
    }

    /// A subscription id that no other subscription of the process has: `sub_`, the shard, a number.
    pub(super) fn assign_subscription_id(&self) -> SubscriptionId {
        let number = self.subscription_ids_assigned.get() + 1;
        self.subscription_ids_assigned.set(number);
        let subscription_id = SubscriptionId::new(&format!("sub_{:04x}{number:012x}", self.shard));
        debug_assert_eq!(
            subscription_id.text().len(),
            crate::base::SUBSCRIPTION_ID_BYTES
        );
        subscription_id
    }
}

pub(super) fn view<'a>(
    id: SessionId,
    session: &'a Session,
    channels: &'a Channels,
    now: Now,
) -> SessionView<'a> {
    SessionView {
        id,
        dialect: session.dialect,
        peer: session.peer,
        connected_unix_ms: session.began.unix_ms,
        uptime_ms: now.monotonic_ms.saturating_sub(session.began.monotonic_ms),
        identity: session.identity.as_deref(),
        tenant: session.tenant(),
        channels: channel_names(session, channels),
    }
}

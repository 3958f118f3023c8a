//! The step: one command in, its effects out.

use super::channels::{Channel, Channels};
use super::command::Command;
use super::effect::Effect;
use super::event::{Event, Refusal, SessionView};
use super::session::{Due, Session};
use crate::auth::Verifier;
use crate::base::counters::{CloseReason, TokenFault};
use crate::base::limits::{AUTH_ATTEMPTS_MAX, UNAUTHENTICATED_MESSAGE_BYTES_MAX};
use crate::base::{Census, ConnectionId, DialectId, Now, ShardCounters, SlotMap};
use crate::config::{DialectPolicy, Policy};
use crate::ws::CloseCode;
use std::net::SocketAddr;
use std::sync::Arc;

/// The rules and the tables of one shard.
#[derive(Debug)]
pub struct Broker {
    policy: Arc<Policy>,
    verifier: Verifier,
    pub(super) census: Arc<Census>,
    pub(super) counters: Arc<ShardCounters>,
    pub(super) sessions: SlotMap<Session>,
    pub(super) channels: Channels,
    pub(super) subscription_count: u64,
}

/// Where effects go.
pub(super) type Emit<'e> = dyn FnMut(Effect<'_>) + 'e;

impl Broker {
    /// A broker without sessions.
    #[must_use]
    pub fn new(
        policy: Arc<Policy>,
        verifier: Verifier,
        census: Arc<Census>,
        counters: Arc<ShardCounters>,
    ) -> Self {
        Self {
            policy,
            verifier,
            census,
            counters,
            sessions: SlotMap::default(),
            channels: Channels::default(),
            subscription_count: 0,
        }
    }

    /// The rules in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The subscribers of a channel on this shard.
    #[must_use]
    pub fn channel(&self, name: &str) -> Option<&Channel> {
        self.channels.find(name).map(|(_, channel)| channel)
    }

    /// Counts a message of session `id` against its rate limit, before anything is spent on reading
    /// it; false, and the refusal among the effects, when it is one too many.
    pub fn admits_message(&mut self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) -> bool {
        let Some(session) = self.sessions.get_mut(id) else {
            return false;
        };
        let limit = self.policy.dialects[session.dialect.index()].rate_limit;
        let admits = session.rate.allows(limit, now.monotonic_ms);
        if !admits {
            self.refuse(Refusal::RateLimited, emit);
        }
        admits
    }

    /// Longest message that session `id` may send now, bytes: little until we know whom we serve.
    #[must_use]
    pub fn message_bytes_max(&self, id: ConnectionId) -> usize {
        let Some(session) = self.sessions.get(id) else {
            return UNAUTHENTICATED_MESSAGE_BYTES_MAX;
        };
        let policy = &self.policy.dialects[session.dialect.index()];
        if policy.auth_required && session.identity.is_none() {
            return policy
                .message_bytes_max
                .min(UNAUTHENTICATED_MESSAGE_BYTES_MAX);
        }
        policy.message_bytes_max
    }

    /// Carries out one command of session `id`. A session that is being closed, or that this broker
    /// does not have, is left alone.
    pub fn step(&mut self, id: ConnectionId, command: Command<'_>, now: Now, emit: &mut Emit<'_>) {
        if let Command::Connect {
            dialect,
            peer,
            token,
        } = command
        {
            return self.connect(id, (dialect, peer), token, now, emit);
        }
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let policy = self.policy.dialects[session.dialect.index()];
        if matches!(command, Command::Disconnect) {
            return self.disconnect(id);
        }
        if session.closing {
            return;
        }
        if !command.is_internal() {
            session.heard_ms = now.monotonic_ms;
            session.pinged_ms = None;
            // The alarm for a token's end follows the monotonic clock; the calendar may have jumped.
            if session.is_expired(now) {
                return self.wake(id, &policy, now, emit);
            }
        }
        let is_authenticated = session.identity.is_some() || !policy.auth_required;
        match command {
            Command::Authenticate { token } => {
                self.authenticate(id, &policy, token, now, emit);
            }
            Command::Subscribe { .. } | Command::Unsubscribe { .. } | Command::Publish(_)
                if !is_authenticated =>
            {
                self.refuse(Refusal::AuthenticationRequired, emit);
            }
            Command::Subscribe { channel } => self.subscribe(id, channel, emit),
            Command::Unsubscribe { channel } => self.unsubscribe(id, channel, emit),
            Command::Publish(publication) => self.publish(id, &policy, publication, emit),
            Command::Ping => emit(Effect::Reply(Event::Pong { now })),
            Command::Status => self.status(id, now, emit),
            Command::Malformed(refusal) => self.refuse(refusal, emit),
            Command::Heard => {}
            Command::Wake => self.wake(id, &policy, now, emit),
            Command::Connect { .. } | Command::Disconnect => {}
        }
    }

    fn connect(
        &mut self,
        id: ConnectionId,
        (dialect, peer): (DialectId, SocketAddr),
        token: Option<&str>,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        let policy = self.policy.dialects[dialect.index()];
        if !self
            .census
            .admit(dialect, policy.sessions_max, self.policy.sessions_max)
        {
            return emit(Effect::Close {
                code: CloseCode::TRY_AGAIN_LATER,
                reason: CloseReason::Capacity,
            });
        }
        let session = Session {
            dialect,
            auth_failures: 0,
            closing: false,
            peer,
            began: now,
            identity: None,
            rate: super::rate::RateState::default(),
            memberships: Vec::new(),
            heard_ms: now.monotonic_ms,
            pinged_ms: None,
        };
        emit(Effect::Reply(Event::Welcome {
            session: &view(&session, &self.channels, now),
            now,
        }));
        let earlier = self.sessions.insert(id, session);
        assert!(
            earlier.is_none(),
            "a slot's session ends before the next begins"
        );
        self.counters.sessions.set(self.sessions.count() as u64);
        self.wake(id, &policy, now, emit);
        // A token in the handshake has no second chance: the client cannot send another that way.
        if let Some(token) = token
            && !self.authenticate(id, &policy, token, now, emit)
        {
            self.close(id, CloseReason::Unauthorized, emit);
        }
    }

    /// Gives the session the identity that `token` proves; false when it proves none.
    fn authenticate(
        &mut self,
        id: ConnectionId,
        policy: &DialectPolicy,
        token: &str,
        now: Now,
        emit: &mut Emit<'_>,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(id) else {
            return false;
        };
        match self.verifier.verify(token, policy.user_claim, now) {
            Ok(identity) => {
                session.identity = Some(Box::new(identity));
                session.auth_failures = 0;
                if let Some(identity) = &session.identity {
                    emit(Effect::Reply(Event::Authenticated { identity }));
                }
                self.wake(id, policy, now, emit);
                true
            }
            Err(fault) => {
                self.counters.token_faults.of(fault).add(1);
                session.auth_failures += 1;
                let is_last = session.auth_failures >= AUTH_ATTEMPTS_MAX;
                let refusal = match fault {
                    TokenFault::Expired => Refusal::TokenExpired,
                    _ => Refusal::InvalidToken,
                };
                emit(Effect::Reply(Event::AuthenticationFailed { refusal }));
                if is_last {
                    self.close(id, CloseReason::Unauthorized, emit);
                }
                false
            }
        }
    }

    fn status(&self, id: ConnectionId, now: Now, emit: &mut Emit<'_>) {
        if let Some(session) = self.sessions.get(id) {
            let session = &view(session, &self.channels, now);
            emit(Effect::Reply(Event::Status { session }));
        }
    }

    /// Does what is due and asks to be woken for what is next.
    fn wake(&mut self, id: ConnectionId, policy: &DialectPolicy, now: Now, emit: &mut Emit<'_>) {
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
            Due::PongTimeout | Due::Ping => self.close(id, CloseReason::PongTimeout, emit),
            Due::AuthTimeout => self.close(id, CloseReason::AuthTimeout, emit),
            Due::TokenExpired => {
                self.counters.token_faults.of(TokenFault::Expired).add(1);
                let refusal = Refusal::TokenExpired;
                emit(Effect::Reply(Event::Error { refusal }));
                self.close(id, CloseReason::TokenExpired, emit);
            }
        }
    }

    /// Ends a session for a reason of ours; its subscriptions end at once.
    fn close(&mut self, id: ConnectionId, reason: CloseReason, emit: &mut Emit<'_>) {
        self.leave_all(id);
        if let Some(session) = self.sessions.get_mut(id) {
            session.closing = true;
        }
        let code = match reason {
            CloseReason::Capacity => CloseCode::TRY_AGAIN_LATER,
            _ => CloseCode::POLICY_VIOLATION,
        };
        emit(Effect::Close { code, reason });
    }

    fn disconnect(&mut self, id: ConnectionId) {
        self.leave_all(id);
        if let Some(session) = self.sessions.remove(id) {
            self.census.leave(session.dialect);
            self.counters.sessions.set(self.sessions.count() as u64);
        }
    }

    pub(super) fn refuse(&self, refusal: Refusal, emit: &mut Emit<'_>) {
        if let Some(fault) = refusal.fault() {
            self.counters.message_faults.of(fault).add(1);
        }
        emit(Effect::Reply(Event::Error { refusal }));
    }
}

fn view<'a>(session: &'a Session, channels: &'a Channels, now: Now) -> SessionView<'a> {
    let memberships = session.memberships.iter();
    SessionView {
        peer: session.peer,
        connected_unix_ms: session.began.unix_ms,
        uptime_ms: now.monotonic_ms.saturating_sub(session.began.monotonic_ms),
        identity: session.identity.as_deref(),
        channels: memberships
            .map(|membership| channels.at(membership.channel).name())
            .collect(),
    }
}

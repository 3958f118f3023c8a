//! Timers, rejections, and sessions that the server closes.

use super::effect::Effect;
use super::event::{Event, Rejection};
use super::session::Due;
use super::state::{Broker, Emit};
use crate::base::counters::{CloseReason, TokenError};
use crate::base::now::Moment;
use crate::base::{ConnectionId, Now};
use crate::config::DialectPolicy;
use crate::ws::CloseCode;

/// The code with which a session is rejected.
pub(super) fn rejection_code(reason: CloseReason) -> CloseCode {
    match reason {
        CloseReason::Capacity
        | CloseReason::AuthThrottled
        | CloseReason::AuthUnanswered
        | CloseReason::RecoveryFailed => CloseCode::TRY_AGAIN_LATER,
        _ => CloseCode::POLICY_VIOLATION,
    }
}

impl Broker {
    /// Does what is due, and sets the next timer.
    pub(super) fn check_timers(
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
            session.pinged = Some(Moment::of(now));
            emit(Effect::Ping);
            due = session.due(policy, now);
        }
        match due {
            Due::Later(at_ms) => emit(Effect::SetTimer(at_ms)),
            // A second ping can be due only with a pong timeout of zero.
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

    /// Begins the time for the pong again, if one is awaited.
    pub(super) fn delay_pong(&mut self, id: ConnectionId, now: Now) {
        let session = self.sessions.get_mut(id);
        if let Some(pinged) = session.and_then(|session| session.pinged.as_mut()) {
            *pinged = Moment::of(now);
        }
    }

    /// Closes a session for a reason of the server; it receives nothing more.
    pub(super) fn close(
        &mut self,
        id: ConnectionId,
        reason: CloseReason,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.closing = true;
        }
        self.begin_leaving(id, now, emit);
        let code = match reason {
            CloseReason::Operator => CloseCode::NORMAL,
            reason => rejection_code(reason),
        };
        emit(Effect::Close { code, reason });
    }

    pub(super) fn reject(&self, rejection: Rejection, emit: &mut Emit<'_>) {
        if let Some(error) = rejection.error() {
            self.counters.message_errors.of(error).add(1);
        }
        emit(Effect::Reply(Event::Error { rejection }));
    }

    /// Closes a session unless it has already been closed, for a more serious reason.
    pub(super) fn close_once(
        &mut self,
        id: ConnectionId,
        reason: CloseReason,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        if self
            .sessions
            .get(id)
            .is_some_and(|session| !session.closing)
        {
            self.close(id, reason, now, emit);
        }
    }
}

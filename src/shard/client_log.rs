//! Log lines about clients, limited per kind, so that an attack does not become an attack on the log.
//!
//! Nothing is formatted for a level that is off, or for a line over the limit. Text of a peer is
//! written as a field, which the log escapes; what JSON leaves as it is, [`visible`] escapes.

use crate::auth::Identity;
use crate::base::counters::{CloseReason, LogEvent, RejectReason, TokenError};
use crate::base::label::Label;
use crate::base::{ConnectionId, DialectId, Now, ShardCounters};
use crate::broker::{Rejection, SessionId, SessionView};
use crate::config::ClientLogPolicy;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use tracing::{Level, debug, enabled, info, warn};

/// Over how long a time the lines of a kind are averaged, seconds: so many may come at once.
const BURST_S: u64 = 10;
/// How often lines that were left out are reported, milliseconds.
const REPORT_INTERVAL_MS: u64 = 1_000;
/// Bytes of what a request is about in a line.
const TARGET_BYTES_MAX: usize = 300;
/// What a line costs in the units of [`Allowance::left`], which are thousandths of one.
const LINE: u64 = 1_000;

/// Writes the lines about the clients of one shard.
#[derive(Debug)]
pub(super) struct ClientLog {
    node: u32,
    shard: u16,
    policy: ClientLogPolicy,
    counters: Arc<ShardCounters>,
    /// By the index of the kind.
    allowances: Vec<Allowance>,
}

/// What may be written of one kind.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    /// Thousandths of lines.
    left: u64,
    refilled_ms: u64,
    /// Lines left out since the last report.
    suppressed: u64,
    reported_ms: u64,
}

/// A new session, before it has an identity.
#[derive(Debug)]
pub(super) struct Connected<'a> {
    pub(super) client: SocketAddr,
    pub(super) dialect: DialectId,
    pub(super) listener: u8,
    pub(super) tenant: Option<&'a str>,
    /// By which other programs know the request.
    pub(super) correlation_id: Option<&'a str>,
}

/// How a session ended.
#[derive(Debug)]
pub(super) struct Closed {
    /// RFC 6455 7.4; 1005 without a code, 1006 without a close frame.
    pub(super) code: u16,
    pub(super) reason: CloseReason,
    /// Messages from the client and to it.
    pub(super) received_count: u32,
    pub(super) sent_count: u32,
    /// Bytes that waited for it.
    pub(super) waiting_bytes: u32,
}

/// What is logged of a request to the HTTP API.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpEvent {
    /// [`LogEvent::HttpRejected`], [`LogEvent::AdminChange`], [`LogEvent::AdminFailure`] or
    /// [`LogEvent::HttpPublished`].
    pub kind: LogEvent,
    /// The method.
    pub method: String,
    /// The path with `{}` in place of what differs; empty for a path that leads nowhere.
    pub route: &'static str,
    /// What it is about, from the path.
    pub target: String,
    /// Whose that is.
    pub tenant: Option<String>,
    /// Of the answer.
    pub status: u16,
    /// Why it was rejected, if that is no text of the caller.
    pub reason: Option<&'static str>,
    /// The name of the key that was shown.
    pub key: Option<String>,
    /// The only tenant for which it counts.
    pub key_tenant: Option<String>,
    /// By which other programs know the request.
    pub correlation_id: String,
}

impl HttpEvent {
    /// Whether such an event is logged at the levels that are on.
    #[must_use]
    pub fn is_logged(kind: LogEvent, status: u16) -> bool {
        match kind {
            LogEvent::AdminChange | LogEvent::AdminFailure => {
                enabled!(target: "fanwire::audit", Level::INFO)
            }
            LogEvent::HttpPublished => enabled!(target: "fanwire::audit", Level::DEBUG),
            _ if is_denied(status) => enabled!(target: "fanwire::rejection", Level::INFO),
            _ => enabled!(target: "fanwire::rejection", Level::DEBUG),
        }
    }
}

/// Whether the caller may not do what it asks for; other rejections are its mistakes.
const fn is_denied(status: u16) -> bool {
    matches!(status, 401 | 403)
}

impl ClientLog {
    pub(super) fn new(
        (node, shard): (u32, u16),
        policy: ClientLogPolicy,
        counters: Arc<ShardCounters>,
        now: Now,
    ) -> Self {
        let full = Allowance {
            left: u64::from(policy.per_second_max) * BURST_S * LINE,
            refilled_ms: now.monotonic_ms,
            suppressed: 0,
            reported_ms: now.monotonic_ms,
        };
        Self {
            node,
            shard,
            policy,
            counters,
            allowances: vec![full; LogEvent::ALL.len()],
        }
    }

    fn id(&self, connection: ConnectionId) -> SessionId {
        SessionId {
            node: self.node,
            shard: self.shard,
            connection,
        }
    }

    /// Whether a line of this kind may be written now.
    fn allows(&mut self, event: LogEvent, now: Now) -> bool {
        let per_second_max = u64::from(self.policy.per_second_max);
        if per_second_max == 0 {
            return true;
        }
        let allowance = &mut self.allowances[event.index()];
        let elapsed_ms = now.monotonic_ms - allowance.refilled_ms;
        // One line per second is one thousandth per millisecond.
        let refilled = allowance.left + elapsed_ms.saturating_mul(per_second_max);
        allowance.left = refilled.min(per_second_max * BURST_S * LINE);
        allowance.refilled_ms = now.monotonic_ms;
        if allowance.left >= LINE {
            allowance.left -= LINE;
            return true;
        }
        if allowance.suppressed == 0 {
            allowance.reported_ms = now.monotonic_ms;
        }
        allowance.suppressed += 1;
        self.counters.log_lines_suppressed.of(event).add(1);
        false
    }

    /// Says how many lines were left out, when that is due.
    pub(super) fn report_suppressed(&mut self, now: Now) {
        for event in LogEvent::ALL {
            let allowance = &mut self.allowances[event.index()];
            let is_due = now.monotonic_ms >= allowance.reported_ms + REPORT_INTERVAL_MS;
            if allowance.suppressed > 0 && is_due {
                let suppressed = std::mem::take(&mut allowance.suppressed);
                warn!(
                    target: "fanwire::log",
                    event = event.name(),
                    suppressed,
                    shard = self.shard,
                    "events of clients were too many to log"
                );
            }
        }
    }

    /// When `report_suppressed` has to be called next, monotonic milliseconds.
    pub(super) fn next_report_ms(&self) -> Option<u64> {
        let allowances = self.allowances.iter();
        let waiting = allowances.filter(|allowance| allowance.suppressed > 0);
        waiting
            .map(|allowance| allowance.reported_ms + REPORT_INTERVAL_MS)
            .min()
    }

    pub(super) fn connected(&mut self, id: ConnectionId, connected: &Connected<'_>, now: Now) {
        let is_on = self.policy.is_on && enabled!(target: "fanwire::session", Level::INFO);
        if is_on && self.allows(LogEvent::Connected, now) {
            info!(
                target: "fanwire::session",
                connection = %self.id(id),
                client = %connected.client,
                dialect = connected.dialect.name(),
                listener = connected.listener,
                tenant = connected.tenant.map(visible).as_deref(),
                correlation_id = connected.correlation_id,
                "connected"
            );
        }
    }

    pub(super) fn authenticated(
        &mut self,
        session: &SessionView<'_>,
        identity: &Identity,
        now: Now,
    ) {
        let is_on = self.policy.is_on && enabled!(target: "fanwire::authentication", Level::INFO);
        if is_on && self.allows(LogEvent::Authenticated, now) {
            info!(
                target: "fanwire::authentication",
                connection = %session.id,
                user = &*visible(&identity.user),
                tenant = session.tenant.map(visible).as_deref(),
                "authenticated"
            );
        }
    }

    pub(super) fn authentication_failed(&mut self, id: ConnectionId, error: TokenError, now: Now) {
        let is_on = self.policy.is_on && enabled!(target: "fanwire::authentication", Level::INFO);
        if is_on && self.allows(LogEvent::AuthenticationFailed, now) {
            info!(
                target: "fanwire::authentication",
                connection = %self.id(id),
                reason = error.name(),
                "authentication failed"
            );
        }
    }

    /// A subscription of a client, or its end.
    pub(super) fn subscription(
        &mut self,
        id: ConnectionId,
        channel: &str,
        is_subscribed: bool,
        now: Now,
    ) {
        let is_on = self.policy.is_on && enabled!(target: "fanwire::subscription", Level::DEBUG);
        if is_on && self.allows(LogEvent::Subscription, now) {
            let message = match is_subscribed {
                true => "subscribed",
                false => "unsubscribed",
            };
            debug!(
                target: "fanwire::subscription",
                connection = %self.id(id),
                channel = &*visible(channel),
                "{message}"
            );
        }
    }

    /// A message that is answered with an error, or dropped.
    pub(super) fn message_rejected(&mut self, id: ConnectionId, rejection: Rejection, now: Now) {
        let Some(error) = rejection.error().filter(|_| self.policy.is_on) else {
            return;
        };
        if rejection == Rejection::RateLimited {
            return self.limit(Some(id), None, error.name(), now);
        }
        let is_on = enabled!(target: "fanwire::rejection", Level::DEBUG);
        if is_on && self.allows(LogEvent::MessageRejected, now) {
            debug!(
                target: "fanwire::rejection",
                connection = %self.id(id),
                reason = error.name(),
                "message rejected"
            );
        }
    }

    /// A connection that does not become a session.
    pub(super) fn connection_rejected(
        &mut self,
        (id, client, correlation_id): (Option<ConnectionId>, Option<SocketAddr>, Option<&str>),
        reason: RejectReason,
        now: Now,
    ) {
        if !self.policy.is_on {
            return;
        }
        if is_limit_of_connections(reason) {
            self.limit(id, client, reason.name(), now);
        }
        // Probes of load balancers open connections and send nothing.
        let is_on = match reason {
            RejectReason::Abandoned => enabled!(target: "fanwire::rejection", Level::DEBUG),
            _ => enabled!(target: "fanwire::rejection", Level::INFO),
        };
        if !is_on || !self.allows(LogEvent::ConnectionRejected, now) {
            return;
        }
        let connection = id.map(|id| tracing::field::display(self.id(id)));
        let client = client.map(tracing::field::display);
        let (reason, message) = (reason.name(), "connection rejected");
        if reason == RejectReason::Abandoned.name() {
            debug!(target: "fanwire::rejection", connection, client, reason, correlation_id, "{message}");
        } else {
            info!(target: "fanwire::rejection", connection, client, reason, correlation_id, "{message}");
        }
    }

    /// A session that has ended; `session` is `None` if it never began.
    pub(super) fn closed(
        &mut self,
        id: ConnectionId,
        closed: &Closed,
        session: impl FnOnce() -> Option<SessionEnd>,
        now: Now,
    ) {
        if !self.policy.is_on {
            return;
        }
        let limit_is_on =
            is_limit_of_sessions(closed.reason) && enabled!(target: "fanwire::limit", Level::WARN);
        let is_on = enabled!(target: "fanwire::session", Level::INFO);
        let limit_is_on = limit_is_on && self.allows(LogEvent::Limit, now);
        let is_on = is_on && self.allows(LogEvent::Closed, now);
        if !is_on && !limit_is_on {
            return;
        }
        let session = session();
        let session = session.as_ref();
        let user = session.and_then(|session| session.user.as_deref().map(visible));
        let tenant = session.and_then(|session| session.tenant.as_deref().map(visible));
        if limit_is_on {
            warn!(
                target: "fanwire::limit",
                connection = %self.id(id),
                user = user.as_deref(),
                tenant = tenant.as_deref(),
                limit = closed.reason.name(),
                waiting_bytes = (closed.reason == CloseReason::SlowConsumer)
                    .then_some(closed.waiting_bytes),
                "limit reached"
            );
        }
        if is_on {
            info!(
                target: "fanwire::session",
                connection = %self.id(id),
                user = user.as_deref(),
                tenant = tenant.as_deref(),
                code = closed.code,
                reason = closed.reason.name(),
                duration_ms = session.map(|session| session.duration_ms),
                messages_received = closed.received_count,
                messages_sent = closed.sent_count,
                "closed"
            );
        }
    }

    /// A request to the HTTP API, of an event that [is logged](HttpEvent::is_logged). Changes are also
    /// where events of clients are not.
    pub(super) fn http(&mut self, client: Option<SocketAddr>, event: &HttpEvent, now: Now) {
        let is_of_client = event.kind == LogEvent::HttpRejected;
        if is_of_client && !self.policy.is_on || !self.allows(event.kind, now) {
            return;
        }
        let client = client.map(tracing::field::display);
        let method = &*visible(&event.method);
        let target = &event.target[..event.target.floor_char_boundary(TARGET_BYTES_MAX)];
        let target = &*visible(target);
        let tenant = event.tenant.as_deref().map(visible);
        let tenant = tenant.as_deref();
        let (key, key_tenant) = (event.key.as_deref(), event.key_tenant.as_deref());
        let HttpEvent {
            route,
            status,
            reason,
            correlation_id,
            ..
        } = event;
        macro_rules! line {
            ($level:ident, $log_target:literal, $message:literal) => {
                $level!(
                    target: $log_target,
                    client, key, key_tenant, method, route, target, tenant, status, reason,
                    correlation_id, $message
                )
            };
        }
        match event.kind {
            LogEvent::AdminChange => line!(info, "fanwire::audit", "changed"),
            LogEvent::AdminFailure => line!(info, "fanwire::audit", "not changed"),
            LogEvent::HttpPublished => line!(debug, "fanwire::audit", "published"),
            _ if is_denied(*status) => line!(info, "fanwire::rejection", "request rejected"),
            _ => line!(debug, "fanwire::rejection", "request rejected"),
        }
    }

    fn limit(
        &mut self,
        id: Option<ConnectionId>,
        client: Option<SocketAddr>,
        limit: &'static str,
        now: Now,
    ) {
        let is_on = enabled!(target: "fanwire::limit", Level::WARN);
        if is_on && self.allows(LogEvent::Limit, now) {
            warn!(
                target: "fanwire::limit",
                connection = id.map(|id| tracing::field::display(self.id(id))),
                client = client.map(tracing::field::display),
                limit,
                "limit reached"
            );
        }
    }
}

/// What is said of a session at its end.
#[derive(Debug)]
pub(super) struct SessionEnd {
    pub(super) user: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) duration_ms: u64,
}

impl SessionEnd {
    pub(super) fn of(session: &SessionView<'_>) -> Self {
        Self {
            user: session.identity.map(|identity| identity.user.to_string()),
            tenant: session.tenant.map(str::to_owned),
            duration_ms: session.uptime_ms,
        }
    }
}

/// Text of a peer without characters that a terminal may take for commands or that hide text. JSON
/// escapes only those below U+0020.
fn visible(text: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| {
        let is_format = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        (c.is_control() && c >= '\u{7f}') || is_format
    };
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hidden(c) {
            // Writing to a string never fails.
            let _ = write!(escaped, "{}", c.escape_unicode());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Whether a connection was rejected because there are too many.
const fn is_limit_of_connections(reason: RejectReason) -> bool {
    matches!(
        reason,
        RejectReason::TableFull
            | RejectReason::Capacity
            | RejectReason::UnauthenticatedMax
            | RejectReason::UnauthenticatedPerIpMax
            | RejectReason::HandshakesPerIpMax
            | RejectReason::HandshakesPerShardMax
    )
}

/// Whether a session was closed because of a limit.
const fn is_limit_of_sessions(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::SlowConsumer
            | CloseReason::Capacity
            | CloseReason::UnauthenticatedMax
            | CloseReason::UnauthenticatedPerIpMax
            | CloseReason::HandshakesPerIpMax
            | CloseReason::HandshakesPerShardMax
            | CloseReason::AuthThrottled
            | CloseReason::Memory
            | CloseReason::Quota
            | CloseReason::RateLimited
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(per_second_max: u32) -> ClientLog {
        let policy = ClientLogPolicy {
            is_on: true,
            per_second_max,
        };
        ClientLog::new((0, 0), policy, Arc::default(), Now::at(5_000, 0))
    }

    #[test]
    fn a_burst_is_allowed_and_then_so_many_lines_per_second() {
        let mut log = log(10);
        let mut allowed = |at_ms, count| {
            let now = Now::at(at_ms, 0);
            (0..count)
                .filter(|_| log.allows(LogEvent::Limit, now))
                .count()
        };
        assert_eq!(allowed(5_000, 1_000), 100);
        assert_eq!(allowed(5_099, 10), 0);
        assert_eq!(allowed(5_100, 10), 1);
        assert_eq!(allowed(6_100, 1_000), 10);
        assert_eq!(allowed(1_000_000, 1_000), 100);
        // Others have their own.
        assert!(log.allows(LogEvent::Closed, Now::at(1_000_000, 0)));
        let suppressed = log.counters.log_lines_suppressed.of(LogEvent::Limit);
        assert_eq!(suppressed.value(), 900 + 10 + 9 + 990 + 900);
    }

    #[test]
    fn what_was_left_out_is_reported_once_a_second() {
        let mut log = log(1);
        assert_eq!(log.next_report_ms(), None);
        for _ in 0..12 {
            log.allows(LogEvent::Limit, Now::at(5_500, 0));
        }
        assert_eq!(log.next_report_ms(), Some(6_500));
        log.report_suppressed(Now::at(6_499, 0));
        assert_eq!(log.next_report_ms(), Some(6_500), "not yet");
        log.report_suppressed(Now::at(6_500, 0));
        assert_eq!(log.next_report_ms(), None);
    }

    #[test]
    fn a_limit_of_zero_is_none() {
        let mut log = log(0);
        assert!((0..10_000).all(|_| log.allows(LogEvent::Limit, Now::at(5_000, 0))));
    }

    #[test]
    fn what_json_does_not_escape_is_made_visible() {
        for (text, expected) in [
            ("ann", "ann"),
            ("Zoë 李", "Zoë 李"),
            ("a\u{9b}31mb", "a\\u{9b}31mb"),
            ("a\u{202e}b\u{7f}", "a\\u{202e}b\\u{7f}"),
            // JSON and text escape these themselves.
            ("a\nb", "a\nb"),
        ] {
            assert_eq!(visible(text), expected);
        }
    }
}

//! What one shard traces: handshakes, authentications, publications and fan-outs.
//!
//! ```text
//!   connection ──▶ authentication
//!        └───────▶ publish ──context in the record──▶ fan-out, one for each shard that delivers it
//! ```
//!
//! A span that is finished goes to a bounded queue; nothing here waits, formats or encodes.

use super::connection::Connection;
use super::connection_table::ConnectionTable;
use crate::base::counters::{RejectReason, TokenError};
use crate::base::label::Label;
use crate::base::limits::{
    TRACE_TEXT_BYTES_MAX, TRACED_CONNECTIONS_MAX, TRACED_FAN_OUTS_MAX, TRACED_PUBLICATIONS_MAX,
};
use crate::base::trace::{OpenSpan, SpanDetails};
use crate::base::{ConnectionId, DialectId, TraceContext, Tracer};
use crate::broker::{Command, Publication};
use crate::http::Head;
use crate::http::rejection;
use std::collections::HashMap;

/// The status of an upgrade (RFC 6455 4.2.2).
const SWITCHING_PROTOCOLS: u16 = 101;

/// What a shard traces. A shard without it traces nothing.
#[derive(Debug)]
pub(super) struct ShardTraces {
    shard: u16,
    tracer: Tracer,
    connections: HashMap<ConnectionId, ConnectionTrace>,
    fan_outs: Vec<FanOut>,
    /// Fan-outs of the records that are just being read, and since when.
    reading: Vec<OpenSpan>,
}

/// A connection that is traced.
#[derive(Debug)]
struct ConnectionTrace {
    /// The span of its handshake, to which the others belong.
    context: TraceContext,
    authentication: Option<(OpenSpan, DialectId)>,
    /// How many of its publications still belong to its trace.
    publications_left: u32,
}

/// A fan-out whose last subscriber has yet to take it.
#[derive(Debug)]
struct FanOut {
    span: OpenSpan,
    id: ConnectionId,
    /// Where in the stream of its connection the fan-out ends: bytes, modulo 2^32.
    end_bytes: u32,
}

impl ShardTraces {
    pub(super) fn new(shard: u16, tracer: Tracer) -> Self {
        Self {
            shard,
            tracer,
            connections: HashMap::new(),
            fan_outs: Vec::new(),
            reading: Vec::new(),
        }
    }

    /// Begins the span of a handshake that began at this time, if it is traced.
    pub(super) fn begin_connection(
        &self,
        head: &Head<'_>,
        accepted_nanos: u64,
    ) -> Option<OpenSpan> {
        if self.connections.len() >= TRACED_CONNECTIONS_MAX {
            return None;
        }
        let tracer = &self.tracer;
        let span = tracer.root(head.trace_parent(), tracer.trusts_all())?;
        Some(span.began_at(accepted_nanos))
    }

    /// Ends the span of a handshake that is rejected.
    pub(super) fn reject_connection(
        &self,
        span: OpenSpan,
        route: String,
        listener: u8,
        reason: RejectReason,
    ) {
        let details = SpanDetails::Connection {
            route,
            dialect: None,
            listener,
            rejection: Some(reason.name()),
            status: rejection::status(reason),
        };
        self.tracer.end(span, details);
    }

    /// Ends the span of a handshake; what the session does next belongs to it.
    pub(super) fn upgrade_connection(
        &mut self,
        id: ConnectionId,
        span: OpenSpan,
        route: String,
        listener: u8,
        dialect: DialectId,
    ) {
        let details = SpanDetails::Connection {
            route,
            dialect: Some(dialect),
            listener,
            rejection: None,
            status: SWITCHING_PROTOCOLS,
        };
        self.tracer.end(span, details);
        let trace = ConnectionTrace {
            context: span.context,
            authentication: None,
            publications_left: TRACED_PUBLICATIONS_MAX,
        };
        self.connections.insert(id, trace);
    }

    /// A command of a session is about to be carried out.
    pub(super) fn begin_step(
        &mut self,
        id: ConnectionId,
        command: &Command<'_>,
        dialect: DialectId,
    ) {
        let has_token = match command {
            Command::Connect(connect) => connect.token.is_some() || connect.authorization.is_some(),
            Command::Authenticate { .. } => true,
            _ => false,
        };
        if has_token && let Some(connection) = self.connections.get_mut(&id) {
            let span = self.tracer.child(connection.context);
            connection.authentication = Some((span, dialect));
        }
    }

    /// The span in which others are asked whose a token is.
    pub(super) fn authentication(&self, id: ConnectionId) -> Option<TraceContext> {
        let (span, _) = self.connections.get(&id)?.authentication?;
        Some(span.context)
    }

    /// An authentication has ended, if one had begun.
    pub(super) fn end_authentication(&mut self, id: ConnectionId, error: Option<TokenError>) {
        let connection = self.connections.get_mut(&id);
        if let Some((span, dialect)) = connection.and_then(|it| it.authentication.take()) {
            let error = error.map(TokenError::name);
            let details = SpanDetails::Authentication { dialect, error };
            self.tracer.end(span, details);
        }
    }

    /// Begins the span of a publication of a session, if it is traced.
    pub(super) fn begin_publication(&mut self, id: ConnectionId) -> Option<OpenSpan> {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.publications_left > 0
        {
            connection.publications_left -= 1;
            return Some(self.tracer.child(connection.context));
        }
        self.tracer.root(None, false)
    }

    pub(super) fn end_publication(&self, span: OpenSpan, publication: &Publication<'_>) {
        self.tracer.end(span, published(publication, None));
    }

    /// The connection is gone.
    pub(super) fn end_connection(&mut self, id: ConnectionId) {
        self.end_authentication(id, Some(TokenError::Unanswered));
        self.connections.remove(&id);
        self.end_fan_outs(id);
    }

    /// A record is read whose publication is traced.
    pub(super) fn note_read(&mut self, publication: TraceContext) {
        if self.reading.len() + self.fan_outs.len() < TRACED_FAN_OUTS_MAX {
            self.reading.push(self.tracer.child(publication));
        } else {
            self.tracer.count_dropped();
        }
    }

    /// What was read is in the send queues; the last of them is that of `last`, if somebody receives it.
    fn queued(&mut self, last: Option<&Connection>) {
        let Some(connection) = last else {
            return self.reading.clear();
        };
        let is_awaited = connection.is_open() && !connection.is_blocked;
        let send_queue = &connection.send_queue;
        let end_bytes = send_queue.sent_bytes().wrapping_add(send_queue.bytes());
        for span in std::mem::take(&mut self.reading) {
            if is_awaited {
                self.fan_outs.push(FanOut {
                    span,
                    id: connection.id,
                    end_bytes,
                });
            } else {
                self.end_fan_out(span, false);
            }
        }
    }

    /// A socket has taken bytes.
    pub(super) fn sent(&mut self, connection: &Connection) {
        let sent_bytes = connection.send_queue.sent_bytes();
        let is_reached = |fan_out: &mut FanOut| {
            let ahead = sent_bytes.wrapping_sub(fan_out.end_bytes).cast_signed();
            fan_out.id == connection.id && ahead >= 0
        };
        if !self.fan_outs.is_empty() {
            let reached: Vec<_> = self.fan_outs.extract_if(.., is_reached).collect();
            for fan_out in reached {
                self.end_fan_out(fan_out.span, true);
            }
        }
    }

    /// A socket takes nothing, or is gone: what waits there says nothing of the server.
    pub(super) fn end_fan_outs(&mut self, id: ConnectionId) {
        let ended = self.fan_outs.extract_if(.., |fan_out| fan_out.id == id);
        for fan_out in ended.collect::<Vec<_>>() {
            self.end_fan_out(fan_out.span, false);
        }
    }

    fn end_fan_out(&self, span: OpenSpan, is_sent: bool) {
        let shard = self.shard;
        self.tracer
            .end(span, SpanDetails::FanOut { shard, is_sent });
    }
}

impl ConnectionTable {
    /// Ends the span of a handshake that is rejected, if there is one.
    pub(super) fn end_rejected(
        &self,
        span: Option<OpenSpan>,
        (route, listener): (String, u8),
        reason: RejectReason,
    ) {
        if let (Some(traces), Some(span)) = (&self.traces, span) {
            traces.reject_connection(span, route, listener, reason);
        }
    }

    pub(super) fn end_authentication(&mut self, id: ConnectionId, error: Option<TokenError>) {
        if let Some(traces) = &mut self.traces {
            traces.end_authentication(id, error);
        }
    }

    pub(super) fn begin_publication(&mut self, id: ConnectionId) -> Option<OpenSpan> {
        self.traces.as_mut()?.begin_publication(id)
    }

    pub(super) fn end_publication(&self, span: Option<OpenSpan>, publication: &Publication<'_>) {
        if let (Some(traces), Some(span)) = (&self.traces, span) {
            traces.end_publication(span, publication);
        }
    }

    /// The records that were just read are in the send queues, the last one in that of this slot.
    pub(super) fn note_fan_out_queued(&mut self, last_slot: Option<u32>) {
        if let Some(traces) = &mut self.traces
            && !traces.reading.is_empty()
        {
            let last = last_slot.and_then(|slot| self.slab.at_slot_mut(slot));
            traces.queued(last.map(|(_, connection)| &*connection));
        }
    }
}

/// The details of the span of a publication.
#[must_use]
pub fn published(publication: &Publication<'_>, error: Option<&'static str>) -> SpanDetails {
    SpanDetails::Publish {
        channel: shortened(publication.channel).into(),
        data_bytes: publication.data.bytes().len(),
        error,
    }
}

/// The beginning of a text of a peer.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(TRACE_TEXT_BYTES_MAX)]
}

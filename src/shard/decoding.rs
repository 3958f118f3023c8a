//! Decodes the bytes of a session into commands for the broker.

use super::Shard;
use super::connection::{CloseRequest, CloseWait, Phase};
use super::connection_table::ConnectionTable;
use super::inflating::Received;
use super::message_types::received_type;
use super::raw::{DeferredMessage, Next, RawMessage, described};
use super::session::Message;
use crate::base::client_counters::ReceivedType;
use crate::base::counters::{CloseReason, ProtocolError};
use crate::base::limits::{
    CONTROL_COST, LARGE_MESSAGE_BYTES, MESSAGE_COST, PINGS_ANSWERED, SCRATCH_BYTES_KEPT,
    WAITING_BYTES_WHEN_SHORT,
};
use crate::base::{ConnectionId, Now};
use crate::broker::{Command, Rejection};
use crate::dialect::{self, Decoded, DecodedBinary, Dialect};
use crate::json::{self, Document, Object};
use crate::ws::{CloseCode, Decoder, Incoming, MessageLimits};

/// Of so many messages of a shard, the time of one is measured: of the first.
const MESSAGES_MEASURED: u64 = 16;

/// Why a share of input ends before the input does.
#[derive(Debug)]
pub(super) enum Stop {
    /// It costs too much at once.
    Cost,
    /// It finishes a large message.
    Large,
    /// It begins with a message that takes more than one turn to inflate.
    Long,
    /// It has begun to inflate that message.
    Inflation,
    /// A question of the session has to be answered first.
    Answer,
    /// This message may publish, and the ring has no room.
    Room(DeferredMessage),
    /// The peer has to read its replies first.
    Peer,
}

/// What may be handled of the input of one connection at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) cost_max: usize,
    /// The longest compressed payload, bytes: it may cost many times what it has.
    pub(super) compressed_bytes_max: usize,
    pub(super) large: LargeMessages,
}

/// What a share does with large messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LargeMessages {
    /// They wait.
    Wait,
    /// One is handled, unless it takes more than one turn to inflate.
    InOneTurn,
    /// One is handled, or inflated further.
    Any,
}

impl Share {
    pub(super) fn has_large(self) -> bool {
        self.large != LargeMessages::Wait
    }
}

/// The pings of a share of input.
#[derive(Debug, Default)]
struct Pings {
    count: usize,
    /// The latest, if it is not answered yet.
    latest: Option<Vec<u8>>,
}

impl Pings {
    fn receive(&mut self, connections: &mut ConnectionTable, id: ConnectionId, payload: &[u8]) {
        self.count += 1;
        if self.count <= PINGS_ANSWERED {
            connections.pong(id, payload);
        } else {
            let latest = self.latest.get_or_insert_default();
            latest.clear();
            latest.extend_from_slice(payload);
        }
    }

    /// Answers the latest, before anything else is handled.
    fn answer_latest(&mut self, connections: &mut ConnectionTable, id: ConnectionId) {
        if let Some(payload) = self.latest.take() {
            connections.pong(id, &payload);
        }
    }
}

impl Shard {
    /// Receives `bytes` from the socket of `id`; they may be overwritten.
    pub fn receive(&mut self, id: ConnectionId, bytes: &mut [u8], now: Now) {
        if self.connections.slab.get(id).is_none() {
            return;
        }
        let counters = &self.connections.counters;
        counters.bytes_received.add(bytes.len() as u64);
        if self.joins_waiting_input(id, bytes) {
            if self.connections.is_open(id) {
                self.step(id, Command::Activity, now);
            }
            return self.reap_ended(now);
        }
        let Some(connection) = self.connections.slab.get_mut(id) else {
            return;
        };
        match connection.phase {
            Phase::Head(_) => self.receive_head(id, bytes, now),
            Phase::Open => self.receive_frames(id, bytes, now),
            Phase::Http(_) => self.connections.receive_http(id, bytes, now),
            Phase::Closing(_) | Phase::Lingering(_) => self.await_close_frame(id, bytes),
            Phase::Closed | Phase::Leaving => {}
        }
        self.reap_ended(now);
    }

    /// Decodes and handles bytes of a session, until they cost its share or something has to come
    /// first. Returns the cost, and why it stopped before the end.
    pub(super) fn decode(
        &mut self,
        id: ConnectionId,
        bytes: &mut [u8],
        consumed: &mut usize,
        share: Share,
        now: Now,
    ) -> (usize, Option<Stop>) {
        let Some(connection) = self.connections.slab.get_mut(id) else {
            return (0, None);
        };
        let mut decoder = std::mem::take(&mut connection.decoder);
        let mut pings = Pings::default();
        let mut cost = 0;
        // What others have compressed is not its cost.
        self.connections.encoder.borrow_mut().take_cost();
        let mut at_once_bytes_max = LARGE_MESSAGE_BYTES;
        let result = loop {
            if !self.connections.is_open(id) {
                // These bytes may already contain the answer to the close frame.
                self.keep_decoder(id, decoder);
                self.await_close_frame(id, &mut bytes[*consumed..]);
                *consumed = bytes.len();
                return (cost, None);
            }
            let finishes_large = at_once_bytes_max == usize::MAX;
            let has_more = *consumed < bytes.len() || decoder.has_put_back();
            if has_more && !finishes_large {
                if self.questions.has(id) {
                    break Ok(Some(Stop::Answer));
                }
                if cost >= share.cost_max {
                    break Ok(Some(Stop::Cost));
                }

                if self
                    .connections
                    .has_unread_replies(id, self.broker.auth_satisfied(id))
                {
                    break Ok(Some(Stop::Peer));
                }
            }
            let limits = MessageLimits {
                at_once_bytes_max,
                ..self.message_limits(id)
            };
            let before = *consumed;
            let step = decoder.step(bytes, consumed, limits);
            cost += *consumed - before;
            match step {
                Ok(Some(Incoming::Postponed(large_bytes))) => {
                    if !share.has_large() {
                        break Ok(Some(Stop::Large));
                    }
                    // It is the one of this share.
                    cost += large_bytes;
                    at_once_bytes_max = usize::MAX;
                }
                Ok(Some(Incoming::Ping(payload))) => {
                    cost += CONTROL_COST;
                    pings.receive(&mut self.connections, id, payload);
                }
                Ok(Some(Incoming::Compressed(opcode, payload))) => {
                    at_once_bytes_max = LARGE_MESSAGE_BYTES;
                    pings.answer_latest(&mut self.connections, id);
                    let message = (opcode, payload);
                    match self.receive_compressed(id, message, share, &mut cost, now) {
                        Ok(Received::Handled(None)) => {}
                        Ok(Received::Handled(stop)) => break Ok(stop),
                        Ok(Received::PutBack(stop)) => {
                            let start = consumed.saturating_sub(payload.len());
                            decoder.put_back(opcode, &bytes[start..*consumed]);
                            break Ok(Some(stop));
                        }
                        Err(error) => break Err(error),
                    }
                }
                Ok(Some(incoming)) => {
                    at_once_bytes_max = LARGE_MESSAGE_BYTES;
                    cost += match incoming {
                        Incoming::Text(_) | Incoming::Binary(_) => MESSAGE_COST,
                        _ => CONTROL_COST,
                    };
                    pings.answer_latest(&mut self.connections, id);
                    if let Some(stop) = self.handle_frame(id, incoming, now) {
                        break Ok(Some(stop));
                    }
                }
                Ok(None) => {
                    if self.connections.is_memory_short
                        && decoder.unfinished_bytes() > WAITING_BYTES_WHEN_SHORT as usize
                    {
                        let code = CloseCode::TRY_AGAIN_LATER;
                        let close = CloseRequest::flushing(code, CloseReason::Memory);
                        self.connections.end(id, close, now);
                        return (cost, None);
                    }
                    break Ok(None);
                }
                Err(error) => break Err(error),
            }
            let mut encoder = self.connections.encoder.borrow_mut();
            cost += encoder.take_cost();
        };
        pings.answer_latest(&mut self.connections, id);
        match result {
            Ok(stop) => {
                self.keep_decoder(id, decoder);
                (cost, stop)
            }
            Err(error) => {
                *consumed = bytes.len();
                self.end_for(id, error, now);
                (cost, None)
            }
        }
    }

    /// Reads input of a connection that is being closed, only for the peer's close frame; input of
    /// a peer that need not send one is ignored.
    fn await_close_frame(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let limits = self.message_limits(id);
        let Some(connection) = self.connections.slab.get_mut(id) else {
            return;
        };
        let (Phase::Closing(close_wait) | Phase::Lingering(close_wait)) = connection.phase else {
            return;
        };
        if close_wait != CloseWait::CloseFrame {
            return;
        }
        let mut consumed = 0;
        loop {
            match connection.decoder.step(bytes, &mut consumed, limits) {
                Ok(Some(Incoming::Close(_))) | Err(_) => return self.connections.peer_closed(id),
                Ok(Some(_)) => {}
                Ok(None) => return,
            }
        }
    }

    pub(super) fn message_limits(&self, id: ConnectionId) -> MessageLimits {
        MessageLimits {
            message_bytes_max: self.broker.message_bytes_max(id),
            at_once_bytes_max: usize::MAX,
            has_compression: self.connections.has_compression(id),
        }
    }

    fn keep_decoder(&mut self, id: ConnectionId, decoder: Decoder) {
        if let Some(connection) = self.connections.slab.get_mut(id) {
            connection.decoder = decoder;
        }
    }

    pub(super) fn handle_frame(
        &mut self,
        id: ConnectionId,
        incoming: Incoming<'_>,
        now: Now,
    ) -> Option<Stop> {
        match incoming {
            Incoming::Text(text) => {
                return self.receive_message(id, RawMessage::Text(text), now);
            }
            Incoming::Binary(bytes) => {
                return self.receive_message(id, RawMessage::Binary(bytes), now);
            }
            // Answered, or inflated, where they are decoded.
            Incoming::Ping(_)
            | Incoming::Pong
            | Incoming::Fragment
            | Incoming::Postponed(_)
            | Incoming::Compressed(..) => {}
            Incoming::Close(close) => self.connections.end(id, CloseRequest::echo(close), now),
        }
        None
    }

    /// Handles a message, and measures how long that takes for some.
    fn receive_message(
        &mut self,
        id: ConnectionId,
        message: RawMessage<'_>,
        now: Now,
    ) -> Option<Stop> {
        let counters = &self.connections.counters;
        let count = counters.messages_received.value();
        let is_measured = count.is_multiple_of(MESSAGES_MEASURED) && self.stopwatch.is_running();
        self.connections.count_received(id);
        if !self.connections.is_open(id) || !self.is_within_rate_limit(id, now) {
            self.count_type(ReceivedType::RateLimited);
            return None;
        }
        let began = is_measured.then(|| self.stopwatch.nanos());
        self.received_type = ReceivedType::Malformed;
        let stop = self.message(id, message, false, now);
        self.count_type(self.received_type);
        if let Some(began) = began {
            let elapsed = self.stopwatch.nanos() - began;
            let times = &self.connections.counters.clients.message_times;
            times.of(self.received_type).record(elapsed);
        }
        stop
    }

    fn count_type(&self, received_type: ReceivedType) {
        let counters = &self.connections.counters.clients;
        counters.received.of(received_type).add(1);
    }

    /// Handles a message that the rate limit allows. One that may publish is not handled while the ring
    /// has no room; it comes here again when there is. `is_seen` says whether the handlers that come
    /// before its dialect have seen it.
    pub(super) fn message(
        &mut self,
        id: ConnectionId,
        message: RawMessage<'_>,
        is_seen: bool,
        now: Now,
    ) -> Option<Stop> {
        if !is_seen && self.has_raw_handler(id, message) {
            if self.writer.is_congested() {
                return Some(Stop::Room(DeferredMessage::new(message, false)));
            }
            if self.call_raw(id, message, now) == Next::Done {
                return None;
            }
            self.received_type = ReceivedType::Malformed;
        }
        match message {
            RawMessage::Text(text) => self.text_message(id, text, is_seen, now),
            RawMessage::Binary(bytes) => self.binary_message(id, bytes, is_seen, now),
        }
    }

    /// Has the dialect decode a binary message, and carries it out.
    fn binary_message(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        is_seen: bool,
        now: Now,
    ) -> Option<Stop> {
        let dialect = dialect::of(self.connections.slab.get(id)?.variant.dialect());
        let command = match dialect.decode_binary(bytes) {
            Ok(DecodedBinary::Command(command)) => command,
            Ok(DecodedBinary::Text(text)) => return self.text_message(id, text, is_seen, now),
            Ok(DecodedBinary::Unsupported) => {
                self.end_for(id, ProtocolError::Binary, now);
                return None;
            }
            Err(rejection) => {
                self.step(id, Command::Malformed(rejection), now);
                return None;
            }
        };
        if self.hooks.has_middleware() && !is_seen {
            let data = described(&command);
            let message = Message {
                kind: "publish",
                data: &data,
            };
            if !self.passes_middleware(id, message, now) {
                self.received_type = ReceivedType::Rejected;
                return None;
            }
        }
        let decoded = Decoded::Command(command);
        self.received_type = received_type(&Ok(decoded));
        if let Err(rejection) = self.broker.check_permission(id, &command) {
            self.step(id, Command::Malformed(rejection), now);
            return None;
        }
        if self.writer.is_congested() && decoded.may_publish() {
            let deferred = DeferredMessage::new(RawMessage::Binary(bytes), true);
            return Some(Stop::Room(deferred));
        }
        self.step(id, command, now);
        None
    }

    /// Has the dialect decode a text, and carries it out.
    fn text_message(
        &mut self,
        id: ConnectionId,
        text: &str,
        is_seen: bool,
        now: Now,
    ) -> Option<Stop> {
        let variant = self.connections.slab.get(id)?.variant;
        let dialect = dialect::of(variant.dialect());
        self.awaits_room = false;
        // Taken out, because the command borrows from it while the shard is in use.
        let mut scratch = std::mem::take(&mut self.scratch);
        let document = Document::new(text);
        let dispatched = match document.object() {
            Ok(object) => self.dispatch(id, dialect, &object, &mut scratch, is_seen, now),
            Err(error) => Err(error.into()),
        };
        if let Err(rejection) = dispatched {
            self.step(id, Command::Malformed(rejection), now);
        }
        // One large message should not increase the memory of the shard permanently.
        if scratch.capacity() <= SCRATCH_BYTES_KEPT {
            self.scratch = scratch;
        }
        let deferred = || DeferredMessage::new(RawMessage::Text(text), true);
        self.awaits_room.then(|| Stop::Room(deferred()))
    }

    /// Decodes a message and carries it out. Whether the session may send such a message comes
    /// first; only then the whole text is checked.
    fn dispatch(
        &mut self,
        id: ConnectionId,
        dialect: &dyn Dialect,
        object: &Object<'_>,
        scratch: &mut String,
        is_seen: bool,
        now: Now,
    ) -> Result<(), Rejection> {
        if self.hooks.has_middleware() && !is_seen {
            // Middleware sees every message, as valid JSON.
            json::check(object.raw())?;
            let kind = object.field("type").and_then(|kind| kind.text());
            let message = Message {
                kind: kind.unwrap_or_default(),
                data: object.raw(),
            };
            if !self.passes_middleware(id, message, now) {
                self.received_type = ReceivedType::Rejected;
                return Ok(());
            }
        }
        let decoded = dialect.decode(object, scratch);
        self.received_type = received_type(&decoded);
        match &decoded {
            Ok(Decoded::Command(command)) => self.broker.check_permission(id, command)?,
            Ok(Decoded::Custom { kind, .. }) => {
                let checked = self.check_handler(id, kind);
                if checked == Err(Rejection::UnknownType) {
                    self.received_type = ReceivedType::Malformed;
                }
                checked?;
            }
            // The text may not be JSON at all, which would be the better answer.
            Err(_) => {}
        }
        json::check(object.raw())?;
        if self.writer.is_congested() && decoded.as_ref().is_ok_and(Decoded::may_publish) {
            self.awaits_room = true;
            return Ok(());
        }
        match decoded? {
            Decoded::Command(command) => self.step(id, command, now),
            Decoded::Custom { kind, data } => {
                self.step(id, Command::Activity, now);
                self.call_handler(id, Message { kind, data }, now);
            }
        }
        Ok(())
    }

    fn end_for(&mut self, id: ConnectionId, error: ProtocolError, now: Now) {
        self.connections.counters.protocol_errors.of(error).add(1);
        self.connections
            .end(id, CloseRequest::protocol_error(error), now);
    }
}

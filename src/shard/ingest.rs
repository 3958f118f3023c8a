//! Decodes the bytes of a session into commands for the broker.

use super::connection::{CloseRequest, CloseWait, Phase};
use super::session::Message;
use super::{ConnectionAction, Shard};
use crate::base::counters::ProtocolError;
use crate::base::limits::JSON_BYTES_KEPT;
use crate::base::{ConnectionId, FrameRun, Now};
use crate::broker::Command;
use crate::dialect::{self, Decoded, Dialect};
use crate::json::Object;
use crate::ws::{Decoder, Incoming, MessageLimits, Opcode, frame};

impl Shard {
    /// Receives `bytes` from the socket of `id`; they may be overwritten.
    pub fn receive(&mut self, id: ConnectionId, bytes: &mut [u8], now: Now) {
        let Some(connection) = self.connections.slab.get_mut(id) else {
            return;
        };
        let counters = &self.connections.counters;
        counters.bytes_received.add(bytes.len() as u64);
        match connection.phase {
            Phase::Head(_) => self.receive_head(id, bytes, now),
            Phase::Open => self.receive_frames(id, bytes, now),
            Phase::Http => {
                let request = ConnectionAction::Http(id, bytes.to_vec());
                self.connections.actions.push(request);
            }
            Phase::Closing(_) | Phase::Lingering(_) => self.await_close_frame(id, bytes),
            Phase::Closed => {}
        }
        self.reap_ended(now);
    }

    pub(super) fn receive_frames(&mut self, id: ConnectionId, bytes: &mut [u8], now: Now) {
        self.step(id, Command::Activity, now);
        let Some(connection) = self.connections.slab.get_mut(id) else {
            return;
        };
        let mut decoder = std::mem::take(&mut connection.decoder);
        let mut consumed = 0;
        while self.connections.is_open(id) {
            let limits = self.message_limits(id);
            match decoder.step(bytes, &mut consumed, limits) {
                Ok(Some(incoming)) => self.handle_frame(id, incoming, now),
                Ok(None) => return self.keep_decoder(id, decoder),
                Err(error) => return self.end_for(id, error, now),
            }
        }
        // The session is being closed, but these bytes may already contain the answer to the close
        // frame.
        self.keep_decoder(id, decoder);
        self.await_close_frame(id, &mut bytes[consumed..]);
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

    fn message_limits(&self, id: ConnectionId) -> MessageLimits {
        MessageLimits {
            message_bytes_max: self.broker.message_bytes_max(id),
        }
    }

    fn keep_decoder(&mut self, id: ConnectionId, decoder: Decoder) {
        if let Some(connection) = self.connections.slab.get_mut(id) {
            connection.decoder = decoder;
        }
    }

    fn handle_frame(&mut self, id: ConnectionId, incoming: Incoming<'_>, now: Now) {
        match incoming {
            Incoming::Text(text) => {
                self.connections.counters.messages_received.add(1);
                self.message(id, text, now);
            }
            Incoming::Binary(_) => {
                self.connections.counters.messages_received.add(1);
                self.end_for(id, ProtocolError::Binary, now);
            }
            Incoming::Ping(payload) => {
                let pong = FrameRun::reply(&frame::control(Opcode::Pong, payload));
                self.connections.send_control(id, pong);
            }
            Incoming::Pong => {}
            Incoming::Close(close) => self.connections.end(id, CloseRequest::echo(close), now),
        }
    }

    fn message(&mut self, id: ConnectionId, text: &str, now: Now) {
        let Some(connection) = self.connections.slab.get(id) else {
            return;
        };
        let dialect = dialect::of(connection.dialect);
        if !self.is_within_rate_limit(id, now) {
            return;
        }
        // Taken out, because the parsed message borrows from it while the shard is in use.
        let mut json = self.json.take().unwrap_or_default();
        let mut scratch = std::mem::take(&mut self.scratch);
        match json.parse(text) {
            Ok(document) => match document.object() {
                Ok(object) => self.dispatch(id, dialect, &object, &mut scratch, now),
                Err(error) => self.step(id, Command::Malformed(error.into()), now),
            },
            Err(error) => self.step(id, Command::Malformed(error.into()), now),
        }
        // One large message should not increase the memory of the shard permanently.
        if text.len() <= JSON_BYTES_KEPT {
            (self.json, self.scratch) = (Some(json), scratch);
        }
    }

    /// Decodes a message and carries it out.
    fn dispatch(
        &mut self,
        id: ConnectionId,
        dialect: &dyn Dialect,
        object: &Object<'_>,
        scratch: &mut String,
        now: Now,
    ) {
        if self.hooks.has_middleware() {
            let kind = object.field("type").and_then(|kind| kind.text());
            let message = Message {
                kind: kind.unwrap_or_default(),
                data: object.raw(),
            };
            if !self.passes_middleware(id, message, now) {
                return;
            }
        }
        match dialect.decode(object, scratch) {
            Ok(Decoded::Custom { kind, data }) => {
                self.step(id, Command::Activity, now);
                self.call_handler(id, Message { kind, data }, now);
            }
            Ok(Decoded::Command(command)) => self.step(id, command, now),
            Err(rejection) => self.step(id, Command::Malformed(rejection), now),
        }
    }

    fn end_for(&mut self, id: ConnectionId, error: ProtocolError, now: Now) {
        self.connections.counters.protocol_errors.of(error).add(1);
        self.connections
            .end(id, CloseRequest::protocol_error(error), now);
    }
}

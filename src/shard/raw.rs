//! Messages before their dialect decodes them, and the handlers of the embedding program for those.

use super::Shard;
use super::connection::CloseRequest;
use super::connection_table::ConnectionTable;
use super::hooks::Outcome;
use super::session::Session;
use crate::base::client_counters::{ReceivedType, SentType};
use crate::base::{ConnectionId, Now};
use crate::broker::Command;
use crate::ws::CloseCode;

/// What becomes of a message after a raw handler: [`Builder::on_text`], [`Builder::on_binary`].
///
/// ```
/// use fanwire::{Next, Server};
///
/// let builder = Server::builder().on_text(|session, text| {
///     if text == "are you there?" {
///         session.send_text("yes");
///         return Ok(Next::Done);
///     }
///     Ok(Next::Dialect)
/// });
/// # drop(builder);
/// ```
///
/// [`Builder::on_text`]: crate::Builder::on_text
/// [`Builder::on_binary`]: crate::Builder::on_binary
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is handled; its dialect does not see it.
    Done,
    /// Its dialect decodes it, as if there was no handler.
    Dialect,
}

/// A message of a client, as it came.
#[derive(Clone, Copy, Debug)]
pub(super) enum RawMessage<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

/// A message that is counted against the rate limit and waits for room in the ring.
#[derive(Debug)]
pub(super) struct DeferredMessage {
    payload: Payload,
    /// Whether the handlers that come before its dialect have seen it.
    pub(super) is_seen: bool,
}

#[derive(Debug)]
enum Payload {
    Text(String),
    Binary(Vec<u8>),
}

impl DeferredMessage {
    pub(super) fn new(message: RawMessage<'_>, is_seen: bool) -> Self {
        let payload = match message {
            RawMessage::Text(text) => Payload::Text(text.to_owned()),
            RawMessage::Binary(bytes) => Payload::Binary(bytes.to_owned()),
        };
        Self { payload, is_seen }
    }

    pub(super) fn message(&self) -> RawMessage<'_> {
        match &self.payload {
            Payload::Text(text) => RawMessage::Text(text),
            Payload::Binary(bytes) => RawMessage::Binary(bytes),
        }
    }

    pub(super) fn len(&self) -> usize {
        match &self.payload {
            Payload::Text(text) => text.len(),
            Payload::Binary(bytes) => bytes.len(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        match &self.payload {
            Payload::Text(text) => text.capacity(),
            Payload::Binary(bytes) => bytes.capacity(),
        }
    }
}

/// A binary message as JSON, for middleware.
pub(super) fn described(command: &Command<'_>) -> String {
    let Command::Publish(publication) = command else {
        return String::new();
    };
    let mut json = String::from("{\"type\":\"publish\",\"data\":{\"channel\":");
    json.push_str(&serde_json::Value::from(publication.channel).to_string());
    json.push_str(",\"encoding\":\"base64\",\"data\":");
    json.push_str(&publication.data.to_json());
    json.push_str("}}");
    json
}

impl Shard {
    /// Whether the embedding program has a handler for such messages, and the session may call it.
    /// One that has yet to authenticate speaks its dialect.
    pub(super) fn has_raw_handler(&self, id: ConnectionId, message: RawMessage<'_>) -> bool {
        self.hooks.handles_raw(message) && self.broker.auth_satisfied(id)
    }

    /// Calls the handler of such messages.
    pub(super) fn call_raw(&mut self, id: ConnectionId, message: RawMessage<'_>, now: Now) -> Next {
        self.received_type = ReceivedType::Custom;
        // The token may have expired.
        self.step(id, Command::Activity, now);
        if !self.connections.is_open(id) {
            return Next::Done;
        }
        let Some(view) = self.broker.view(id, now) else {
            return Next::Done;
        };
        let mut session = Session::new(&view);
        let (outcome, next) = self.hooks.raw(&mut session, message);
        let actions = session.into_actions();
        drop(view);
        self.carry_out_now(id, actions, now);
        let is_done = outcome == Outcome::Done;
        self.tell(id, outcome, now);
        match is_done && self.connections.is_open(id) {
            true => next,
            false => Next::Done,
        }
    }

    /// Sends a finished frame to one session.
    pub fn send_frame(&mut self, id: ConnectionId, frame: &[u8], now: Now) {
        self.connections.send_frame(id, frame, now);
    }
}

impl ConnectionTable {
    /// Sends a finished frame of the embedding program, if the session is not being closed.
    pub(super) fn send_frame(&mut self, id: ConnectionId, frame: &[u8], now: Now) {
        let Some(connection) = self.slab.get(id).filter(|it| it.is_open()) else {
            return;
        };
        let run = self.encoded(connection.variant, frame);
        self.counters.clients.sent.of(SentType::Custom).add(1);
        self.queue(id, run, now);
    }

    /// Closes a session for the embedding program, with its code and its reason.
    pub(super) fn close_with(&mut self, id: ConnectionId, code: CloseCode, reason: &str, now: Now) {
        let close = CloseRequest::by_program(code);
        self.end_with(id, close, || close.frame_with(reason), now);
    }
}

//! What the program that embeds the server wants done: its handlers, called on the session's shard.

use crate::auth::Identity;
use crate::base::DialectId;
use crate::broker::{SessionId, SessionView};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A rejection, with a reason for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied(pub String);

impl Denied {
    /// A rejection for that reason.
    #[must_use]
    pub fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// A message of a client.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its type.
    pub kind: &'a str,
    /// Its data, as JSON. For handlers the field `data` in the dialects that have one, else the whole
    /// message; for middleware always the whole message.
    pub data: &'a str,
}

impl Message<'_> {
    /// The data as a value of the program's own.
    ///
    /// # Errors
    /// What does not fit, as a rejection that may be returned to the client.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Denied> {
        serde_json::from_str(self.data).map_err(|error| Denied(format!("Invalid data: {error}")))
    }
}

/// What a handler wants done to its session.
#[derive(Debug)]
pub(super) enum SessionAction {
    Send(String, String),
    Publish {
        channel: String,
        kind: String,
        data: String,
    },
    Subscribe(String),
    Unsubscribe(String),
    Identify(Identity),
    Close,
}

/// A session, as a handler sees it. What it asks for happens when the handler has returned.
#[derive(Debug)]
pub struct Session<'a> {
    view: &'a SessionView<'a>,
    actions: Vec<SessionAction>,
}

impl<'a> Session<'a> {
    pub(super) fn new(view: &'a SessionView<'a>) -> Self {
        Self {
            view,
            actions: Vec::new(),
        }
    }

    pub(super) fn into_actions(self) -> Vec<SessionAction> {
        self.actions
    }

    /// Its id, unique in the process.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.view.id
    }

    /// The protocol it speaks.
    #[must_use]
    pub fn dialect(&self) -> DialectId {
        self.view.dialect
    }

    /// The far address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.view.peer
    }

    /// Who it speaks for; `None` before authentication.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.view.identity
    }

    /// The user, if it has authenticated.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.view.identity.map(|identity| &*identity.user)
    }

    /// The tenant, by its token or else by its request.
    #[must_use]
    pub fn tenant_id(&self) -> Option<&str> {
        self.view.tenant
    }

    /// Whether it has authenticated.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.view.identity.is_some()
    }

    /// The channels it subscribed to, oldest first.
    #[must_use]
    pub fn channels(&self) -> &[&'a str] {
        &self.view.channels
    }

    /// Sends a message to this session alone.
    ///
    /// # Errors
    /// What of `data` cannot be written as JSON.
    pub fn send(&mut self, kind: &str, data: &impl Serialize) -> Result<(), Denied> {
        let data = to_json(data)?;
        self.actions.push(SessionAction::Send(kind.into(), data));
        Ok(())
    }

    /// Publishes on a channel; it asks for no permission.
    ///
    /// # Errors
    /// What of `data` cannot be written as JSON.
    pub fn publish(
        &mut self,
        channel: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), Denied> {
        self.actions.push(SessionAction::Publish {
            channel: channel.into(),
            kind: kind.into(),
            data: to_json(data)?,
        });
        Ok(())
    }

    /// Makes the session a subscriber, without an answer to its client and without the rules of
    /// access.
    pub fn subscribe(&mut self, channel: &str) {
        self.actions.push(SessionAction::Subscribe(channel.into()));
    }

    /// Ends a subscription, without an answer to its client.
    pub fn unsubscribe(&mut self, channel: &str) {
        self.actions
            .push(SessionAction::Unsubscribe(channel.into()));
    }

    /// Makes the session speak for `identity`, as a token would, without an answer to its client.
    /// `expires_unix_s` ends it; `u64::MAX` never does.
    pub fn identify(&mut self, identity: Identity) {
        self.actions.push(SessionAction::Identify(identity));
    }

    /// Closes the connection after what is queued for it.
    pub fn close(&mut self) {
        self.actions.push(SessionAction::Close);
    }
}

fn to_json(data: &impl Serialize) -> Result<String, Denied> {
    serde_json::to_string(data).map_err(|error| Denied(error.to_string()))
}

type MessageHandler =
    dyn Fn(&mut Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static;
type ConnectHandler = dyn Fn(&mut Session<'_>) -> Result<(), Denied> + Send + Sync + 'static;
type DisconnectHandler = dyn Fn(&Session<'_>) + Send + Sync + 'static;
type Middleware = dyn Fn(&Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static;

/// A handler of messages, and who may call it.
struct Handler {
    call: Box<MessageHandler>,
    before_authentication: bool,
}

/// The handlers of a program. They run on the shard of the session, between two turns of its loop:
/// whatever takes long belongs on another thread.
#[derive(Default)]
pub struct Hooks {
    messages: HashMap<Box<str>, Handler>,
    connects: Vec<Box<ConnectHandler>>,
    disconnects: Vec<Box<DisconnectHandler>>,
    middleware: Vec<Box<Middleware>>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.messages.keys().collect();
        write!(formatter, "Hooks {kinds:?}")
    }
}

/// What became of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Denied(String),
    Panicked,
}

impl Hooks {
    /// Calls `handler` for messages of type `kind` that the dialect does not have. Sessions that
    /// have yet to authenticate are rejected, unless `before_authentication`.
    pub fn on_message(
        &mut self,
        kind: &str,
        before_authentication: bool,
        handler: impl Fn(&mut Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static,
    ) {
        let handler = Handler {
            call: Box::new(handler),
            before_authentication,
        };
        self.messages.insert(kind.into(), handler);
    }

    /// Calls `handler` when a session has begun; its rejection closes the session (1008).
    pub fn on_connect(
        &mut self,
        handler: impl Fn(&mut Session<'_>) -> Result<(), Denied> + Send + Sync + 'static,
    ) {
        self.connects.push(Box::new(handler));
    }

    /// Calls `handler` when a session has ended.
    pub fn on_disconnect(&mut self, handler: impl Fn(&Session<'_>) + Send + Sync + 'static) {
        self.disconnects.push(Box::new(handler));
    }

    /// Shows every message to `middleware` before anything is done about it; its rejection is told to
    /// the client, and the message dropped.
    pub fn middleware(
        &mut self,
        middleware: impl Fn(&Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static,
    ) {
        self.middleware.push(Box::new(middleware));
    }

    /// The types of messages that handlers are for.
    pub fn message_kinds(&self) -> impl Iterator<Item = &str> {
        self.messages.keys().map(|kind| &**kind)
    }

    pub(super) fn has_middleware(&self) -> bool {
        !self.middleware.is_empty()
    }

    pub(super) fn has_connect(&self) -> bool {
        !self.connects.is_empty()
    }

    pub(super) fn has_disconnect(&self) -> bool {
        !self.disconnects.is_empty()
    }

    /// Whether there is a handler for messages of that type; `true` inside if it also serves
    /// sessions that have yet to authenticate.
    pub(super) fn handler(&self, kind: &str) -> Option<bool> {
        let handler = self.messages.get(kind)?;
        Some(handler.before_authentication)
    }

    pub(super) fn message(&self, session: &mut Session<'_>, message: Message<'_>) -> Outcome {
        let Some(handler) = self.messages.get(message.kind) else {
            return Outcome::Done;
        };
        call(|| (handler.call)(session, message))
    }

    pub(super) fn check(&self, session: &Session<'_>, message: Message<'_>) -> Outcome {
        call(|| {
            let mut all = self.middleware.iter();
            all.try_for_each(|middleware| middleware(session, message))
        })
    }

    pub(super) fn connect(&self, session: &mut Session<'_>) -> Outcome {
        call(|| {
            let mut all = self.connects.iter();
            all.try_for_each(|handler| handler(session))
        })
    }

    pub(super) fn disconnect(&self, session: &Session<'_>) -> Outcome {
        call(|| {
            self.disconnects.iter().for_each(|handler| handler(session));
            Ok(())
        })
    }
}

/// A handler that panics must not take the shard, and everyone on it, with it.
fn call(handler: impl FnOnce() -> Result<(), Denied>) -> Outcome {
    match catch_unwind(AssertUnwindSafe(handler)) {
        Ok(Ok(())) => Outcome::Done,
        Ok(Err(Denied(reason))) => Outcome::Denied(reason),
        Err(_) => Outcome::Panicked,
    }
}

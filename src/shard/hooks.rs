//! Handlers of the embedding program, called on the session's shard.

use super::session::{Denied, Message, Session};
use crate::base::catch_panic;
use std::collections::HashMap;
use std::fmt;

type MessageHandler =
    dyn Fn(&mut Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static;
type ConnectHandler = dyn Fn(&mut Session<'_>) -> Result<(), Denied> + Send + Sync + 'static;
type DisconnectHandler = dyn Fn(&Session<'_>) + Send + Sync + 'static;
type Middleware = dyn Fn(&Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static;

/// A handler of messages, and for which sessions it is called.
struct Handler {
    call: Box<MessageHandler>,
    before_authentication: bool,
}

/// The handlers of the embedding program. They run on the shard of the session, inside its event
/// loop: slow work belongs on another thread.
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

/// The outcome of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Denied(String),
    Panicked,
}

impl Hooks {
    /// Calls `handler` for messages of type `kind`, which the dialect does not have. Messages of
    /// sessions that have yet to authenticate are rejected, unless `before_authentication`.
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

    /// Calls `middleware` for every message before it is handled; if it rejects the message, the
    /// client receives an error and the message is dropped.
    pub fn middleware(
        &mut self,
        middleware: impl Fn(&Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static,
    ) {
        self.middleware.push(Box::new(middleware));
    }

    /// The message types that have handlers.
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

    /// The handler for messages of this type, if there is one: `true` if it also serves sessions
    /// that have yet to authenticate.
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

/// Catches panics: a handler that panics must not end the shard and all its sessions.
fn call(handler: impl FnOnce() -> Result<(), Denied>) -> Outcome {
    match catch_panic(handler) {
        Some(Ok(())) => Outcome::Done,
        Some(Err(denied)) => Outcome::Denied(denied.to_string()),
        None => Outcome::Panicked,
    }
}

//! Handlers of the embedding program, called on the session's shard.

use super::async_session::{AsyncSession, OwnedMessage};
use super::questions::{BoxFuture, Question, UnknownToken};
use super::raw::{Next, RawMessage};
use super::session::{Denied, HandlerError, Message, Session};
use crate::auth::Identity;
use crate::base::catch_panic;
use crate::base::counters::TokenError;
use std::collections::HashMap;
use std::fmt;

/// The future of an asynchronous handler.
type Handling = BoxFuture<Result<(), HandlerError>>;
type AsyncMessageHandler = dyn Fn(AsyncSession, OwnedMessage) -> Handling + Send + Sync + 'static;
type AsyncConnectHandler = dyn Fn(AsyncSession) -> Handling + Send + Sync + 'static;
type AsyncSubscribeHandler = dyn Fn(AsyncSession, String) -> Handling + Send + Sync + 'static;
type TokenHandler =
    dyn Fn(UnknownToken) -> BoxFuture<Result<Identity, TokenError>> + Send + Sync + 'static;
type Ask = dyn Fn(Question) + Send + Sync + 'static;
type MessageHandler =
    dyn Fn(&mut Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static;
type TextHandler = dyn Fn(&mut Session<'_>, &str) -> Result<Next, Denied> + Send + Sync + 'static;
type BinaryHandler =
    dyn Fn(&mut Session<'_>, &[u8]) -> Result<Next, Denied> + Send + Sync + 'static;
type ConnectHandler = dyn Fn(&mut Session<'_>) -> Result<(), Denied> + Send + Sync + 'static;
type DisconnectHandler = dyn Fn(&Session<'_>) + Send + Sync + 'static;
type Middleware = dyn Fn(&Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static;

/// A handler of messages, and for which sessions it is called.
struct Handler {
    call: HandlerCall,
    before_authentication: bool,
}

enum HandlerCall {
    OnShard(Box<MessageHandler>),
    Async(Box<AsyncMessageHandler>),
}

/// The handlers of the embedding program. Those that are not asynchronous run on the shard of the
/// session, inside its event loop, and must not block.
#[derive(Default)]
pub struct Hooks {
    messages: HashMap<Box<str>, Handler>,
    text: Option<Box<TextHandler>>,
    binary: Option<Box<BinaryHandler>>,
    connects: Vec<Box<ConnectHandler>>,
    async_connect: Option<Box<AsyncConnectHandler>>,
    connect_callback: Option<Box<AsyncConnectHandler>>,
    async_subscribe: Option<Box<AsyncSubscribeHandler>>,
    tokens: Option<Box<TokenHandler>>,
    ask: Option<Box<Ask>>,
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
    /// It could not find out what to do, or its future was not ready in time.
    Failed,
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
            call: HandlerCall::OnShard(Box::new(handler)),
            before_authentication,
        };
        self.messages.insert(kind.into(), handler);
    }

    /// The same with an asynchronous handler, which runs on the integration thread.
    pub fn on_message_async(
        &mut self,
        kind: &str,
        before_authentication: bool,
        handler: impl Fn(AsyncSession, OwnedMessage) -> Handling + Send + Sync + 'static,
    ) {
        let handler = Handler {
            call: HandlerCall::Async(Box::new(handler)),
            before_authentication,
        };
        self.messages.insert(kind.into(), handler);
    }

    /// Calls `handler` for every text message of sessions that have authenticated, or need not, before
    /// anything else.
    pub fn on_text(
        &mut self,
        handler: impl Fn(&mut Session<'_>, &str) -> Result<Next, Denied> + Send + Sync + 'static,
    ) {
        self.text = Some(Box::new(handler));
    }

    /// The same for every binary message.
    pub fn on_binary(
        &mut self,
        handler: impl Fn(&mut Session<'_>, &[u8]) -> Result<Next, Denied> + Send + Sync + 'static,
    ) {
        self.binary = Some(Box::new(handler));
    }

    /// Calls an asynchronous `handler` when a session has begun, after the others; its rejection
    /// closes the session (1008).
    pub fn on_connect_async(
        &mut self,
        handler: impl Fn(AsyncSession) -> Handling + Send + Sync + 'static,
    ) {
        self.async_connect = Some(Box::new(handler));
    }

    /// Calls `handler` when a session has begun and the one of `on_connect_async`, if there is one, has
    /// not rejected it.
    pub fn set_connect_callback(
        &mut self,
        handler: impl Fn(AsyncSession) -> Handling + Send + Sync + 'static,
    ) {
        self.connect_callback = Some(Box::new(handler));
    }

    /// Has `handler` decide whether a session may subscribe to a channel, given by its name for clients.
    pub fn on_subscribe_async(
        &mut self,
        handler: impl Fn(AsyncSession, String) -> Handling + Send + Sync + 'static,
    ) {
        self.async_subscribe = Some(Box::new(handler));
    }

    /// Has `handler` say whose a token is that nothing else proves.
    pub fn on_unknown_token(
        &mut self,
        handler: impl Fn(UnknownToken) -> BoxFuture<Result<Identity, TokenError>>
        + Send
        + Sync
        + 'static,
    ) {
        self.tokens = Some(Box::new(handler));
    }

    /// Whether somebody says whose unknown tokens are.
    #[must_use]
    pub fn knows_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Whether a handler is asynchronous.
    #[must_use]
    pub fn has_async(&self) -> bool {
        let mut handlers = self.messages.values();
        self.has_connect_async()
            || self.async_subscribe.is_some()
            || handlers.any(|handler| matches!(handler.call, HandlerCall::Async(_)))
    }

    /// Has `ask` take the questions that asynchronous handlers answer.
    pub fn set_ask(&mut self, ask: impl Fn(Question) + Send + Sync + 'static) {
        self.ask = Some(Box::new(ask));
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

    /// Whether messages of this type have a handler.
    #[must_use]
    pub fn handles(&self, kind: &str) -> bool {
        self.messages.contains_key(kind)
    }

    pub(super) fn has_middleware(&self) -> bool {
        !self.middleware.is_empty()
    }

    pub(super) fn ask(&self, question: Question) {
        if let Some(ask) = &self.ask {
            ask(question);
        }
    }

    pub(super) fn authenticate(
        &self,
        token: UnknownToken,
    ) -> Option<BoxFuture<Result<Identity, TokenError>>> {
        let handler = self.tokens.as_ref()?;
        catch_panic(|| handler(token))
    }

    /// The future of the asynchronous handlers for new sessions, if there are any.
    pub(super) fn connect_async(&self, session: &AsyncSession) -> Option<Handling> {
        let call = |handler: &AsyncConnectHandler| {
            catch_panic(|| handler(session.clone())).unwrap_or_else(panicked)
        };
        let handler = self.async_connect.as_deref().map(call);
        let callback = self.connect_callback.as_deref().map(call);
        match (handler, callback) {
            (Some(handler), Some(callback)) => Some(Box::pin(async move {
                handler.await?;
                callback.await
            })),
            (handler, callback) => handler.or(callback),
        }
    }

    /// The future of the handler for subscriptions, if there is one.
    pub(super) fn subscribe_async(
        &self,
        session: AsyncSession,
        channel: String,
    ) -> Option<Handling> {
        let handler = self.async_subscribe.as_ref()?;
        Some(catch_panic(|| handler(session, channel)).unwrap_or_else(panicked))
    }

    /// The future of the handler for messages of this type, if it is asynchronous.
    pub(super) fn message_async(
        &self,
        session: AsyncSession,
        message: Message<'_>,
    ) -> Option<Handling> {
        let handler = self.messages.get(message.kind)?;
        let HandlerCall::Async(handler) = &handler.call else {
            return None;
        };
        let call = || handler(session, OwnedMessage::new(message));
        Some(catch_panic(call).unwrap_or_else(panicked))
    }

    pub(super) fn is_async(&self, kind: &str) -> bool {
        let handler = self.messages.get(kind);
        handler.is_some_and(|handler| matches!(handler.call, HandlerCall::Async(_)))
    }

    pub(super) fn has_connect_async(&self) -> bool {
        self.async_connect.is_some() || self.connect_callback.is_some()
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
        match self.messages.get(message.kind).map(|handler| &handler.call) {
            Some(HandlerCall::OnShard(handler)) => call(|| handler(session, message)),
            Some(HandlerCall::Async(_)) | None => Outcome::Done,
        }
    }

    pub(super) fn handles_raw(&self, message: RawMessage<'_>) -> bool {
        match message {
            RawMessage::Text(_) => self.text.is_some(),
            RawMessage::Binary(_) => self.binary.is_some(),
        }
    }

    /// What the handler of such messages does, and says about its dialect.
    pub(super) fn raw(
        &self,
        session: &mut Session<'_>,
        message: RawMessage<'_>,
    ) -> (Outcome, Next) {
        let mut next = Next::Dialect;
        let outcome = call(|| {
            next = match (message, &self.text, &self.binary) {
                (RawMessage::Text(text), Some(handler), _) => handler(session, text)?,
                (RawMessage::Binary(bytes), _, Some(handler)) => handler(session, bytes)?,
                _ => Next::Dialect,
            };
            Ok(())
        });
        (outcome, next)
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

/// In place of the future of a handler that panicked before it returned one.
fn panicked() -> Handling {
    Box::pin(async { panic!("the handler panicked") })
}

/// Catches panics: a handler that panics must not end the shard and all its sessions.
fn call(handler: impl FnOnce() -> Result<(), Denied>) -> Outcome {
    match catch_panic(handler) {
        Some(Ok(())) => Outcome::Done,
        Some(Err(denied)) => Outcome::Denied(denied.to_string()),
        None => Outcome::Panicked,
    }
}

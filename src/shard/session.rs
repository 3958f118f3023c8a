//! A session and a message as handlers of the embedding program see them.

use crate::auth::Identity;
use crate::base::DialectId;
use crate::broker::{SessionId, SessionView};
use crate::ws::close::is_reason;
use crate::ws::{CloseCode, Opcode, frame};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;

/// The error of a handler, with a reason for the client.
///
/// ```
/// let denied = fanwire::Denied::because("no spam");
/// assert_eq!(denied.to_string(), "no spam");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied(String);

impl Denied {
    /// An error with this reason.
    #[must_use]
    pub fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl std::fmt::Display for Denied {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Denied {}

/// Why an asynchronous handler has not done what it was called for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerError {
    /// It denies it.
    Denied(Denied),
    /// It could not find out.
    Failed,
}

impl From<Denied> for HandlerError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

/// A message of a client.
///
/// ```
/// let builder = fanwire::Server::builder().on_message("add", |session, message| {
///     let numbers: Vec<i64> = message.parse()?;
///     session.send("sum", &numbers.iter().sum::<i64>())
/// });
/// # drop(builder);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Message<'a> {
    /// Its type.
    pub kind: &'a str,
    /// Its data, as JSON. For handlers the field `data` in the dialects that have one, else the
    /// whole message; for middleware always the whole message.
    pub data: &'a str,
}

impl Message<'_> {
    /// The data, deserialized into a type of the program.
    ///
    /// # Errors
    /// When the data does not match the type; the error may be returned to the client.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_message("add", |session, message| {
    /// let numbers: Vec<i64> = message.parse()?;
    /// # session.send("sum", &numbers.iter().sum::<i64>())
    /// # });
    /// # drop(builder);
    /// ```
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Denied> {
        serde_json::from_str(self.data).map_err(|error| Denied(format!("Invalid data: {error}")))
    }
}

/// An action on its session that a handler requests.
#[derive(Debug)]
pub(super) enum SessionAction {
    Send(String, String),
    /// A finished frame.
    SendFrame(Vec<u8>),
    Publish {
        channel: String,
        kind: String,
        data: String,
    },
    Subscribe(String),
    Unsubscribe(String),
    Identify(Identity),
    Close,
    CloseWith(CloseCode, String),
}

/// A session, as a handler sees it. The actions that the handler requests are carried out after it
/// has returned.
///
/// ```
/// let builder = fanwire::Server::builder().on_connect(|session| {
///     println!("{} speaks {} from {}", session.id(), session.dialect().name(), session.peer());
///     session.subscribe("news");
///     session.send("hello", &session.channels().len())?;
///     Ok(())
/// });
/// # drop(builder);
/// ```
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

    /// Its id, unique among all nodes.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// println!("{} has connected", session.id());
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.view.id
    }

    /// Its dialect.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// assert!(!session.dialect().name().is_empty());
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn dialect(&self) -> DialectId {
        self.view.dialect
    }

    /// The address of the client.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// println!("from {}", session.peer().ip());
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.view.peer
    }

    /// Its identity; `None` before authentication.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// let is_admin = session.identity().is_some_and(|identity| identity.has_role("admin"));
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.view.identity
    }

    /// The user; `None` before authentication.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// println!("{}", session.user_id().unwrap_or("anonymous"));
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.view.identity.map(|identity| &*identity.user)
    }

    /// The tenant of its token, else of its request.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// println!("tenant {:?}", session.tenant_id());
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn tenant_id(&self) -> Option<&str> {
        self.view.tenant
    }

    /// Whether it has authenticated.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// if !session.is_authenticated() {
    ///     return Err(fanwire::Denied::because("tokens only"));
    /// }
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.view.identity.is_some()
    }

    /// The channels that the client or the program has subscribed it to, oldest first.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// assert!(session.channels().is_empty());
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    #[must_use]
    pub fn channels(&self) -> &[&'a str] {
        &self.view.channels
    }

    /// Sends a message to this session only.
    ///
    /// # Errors
    /// When `data` cannot be written as JSON.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// session.send("hello", &serde_json::json!({"version": 1}))?;
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    pub fn send(&mut self, kind: &str, data: &impl Serialize) -> Result<(), Denied> {
        let data = to_json(data)?;
        self.actions.push(SessionAction::Send(kind.into(), data));
        Ok(())
    }

    /// Sends a text message to this session only, as it is: for clients that the program understands by
    /// itself, see [`Builder::on_text`](crate::Builder::on_text).
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// session.send_text("hello");
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    pub fn send_text(&mut self, text: &str) {
        self.actions.push(SessionAction::send_text(text));
    }

    /// Sends a binary message to this session only.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// session.send_binary(&[1, 2, 3]);
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    pub fn send_binary(&mut self, bytes: &[u8]) {
        self.actions.push(SessionAction::send_binary(bytes));
    }

    /// Publishes on a channel; no permission is required.
    ///
    /// # Errors
    /// When `data` cannot be written as JSON.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// session.publish("lobby", "joined", &session.id().to_string())?;
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
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

    /// Subscribes the session, without an answer to its client and without the access rules.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// session.subscribe("news");
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    pub fn subscribe(&mut self, channel: &str) {
        self.actions.push(SessionAction::Subscribe(channel.into()));
    }

    /// Ends a subscription, without an answer to its client.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// session.unsubscribe("news");
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    pub fn unsubscribe(&mut self, channel: &str) {
        self.actions
            .push(SessionAction::Unsubscribe(channel.into()));
    }

    /// Sets the identity of the session, as a token would, without an answer to its client.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// session.identify(fanwire::Identity::new("guest"));
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    pub fn identify(&mut self, identity: Identity) {
        self.actions.push(SessionAction::Identify(identity));
    }

    /// Closes the connection (1000) after its queued frames.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// session.close();
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    pub fn close(&mut self) {
        self.actions.push(SessionAction::Close);
    }

    /// Closes the connection after its queued frames, with a code and a reason of the program.
    ///
    /// # Errors
    /// When the code may not be sent, or the reason is longer than 123 bytes. Programs have 3000 to
    /// 4999 (RFC 6455 7.4.2); of the others 1000 to 1003 and 1007 to 1014 may be sent.
    ///
    /// ```
    /// # let builder = fanwire::Server::builder().on_connect(|session| {
    /// session.close_with(4001, "come back tomorrow")?;
    /// # Ok(())
    /// # });
    /// # drop(builder);
    /// ```
    pub fn close_with(&mut self, code: u16, reason: &str) -> Result<(), Denied> {
        self.actions.push(SessionAction::close_with(code, reason)?);
        Ok(())
    }
}

impl SessionAction {
    pub(super) fn send_text(text: &str) -> Self {
        Self::SendFrame(frame::message(Opcode::Text, text.as_bytes()))
    }

    pub(super) fn send_binary(bytes: &[u8]) -> Self {
        Self::SendFrame(frame::message(Opcode::Binary, bytes))
    }

    pub(super) fn close_with(code: u16, reason: &str) -> Result<Self, Denied> {
        let Some(allowed) = CloseCode::of(code) else {
            let allowed = "1000 to 1003, 1007 to 1014 and 3000 to 4999";
            return Err(Denied(format!(
                "close code {code} may not be sent; allowed: {allowed}"
            )));
        };
        if !is_reason(reason) {
            let bytes = reason.len();
            return Err(Denied(format!(
                "close reason of {bytes} bytes; allowed: 123"
            )));
        }
        Ok(Self::CloseWith(allowed, reason.to_owned()))
    }
}

pub(super) fn to_json(data: &impl Serialize) -> Result<String, Denied> {
    serde_json::to_string(data).map_err(|error| Denied(error.to_string()))
}

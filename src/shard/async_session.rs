//! A session and a message as asynchronous handlers of the embedding program see them.

use super::session::{Denied, Message, SessionAction, to_json};
use crate::auth::Identity;
use crate::base::DialectId;
use crate::broker::{SessionId, SessionView};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// A message of a client, for an asynchronous handler.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OwnedMessage {
    /// Its type.
    pub kind: String,
    /// Its data, as JSON: the field `data` in the dialects that have one, else the whole message.
    pub data: String,
}

impl OwnedMessage {
    pub(super) fn new(message: Message<'_>) -> Self {
        Self {
            kind: message.kind.to_owned(),
            data: message.data.to_owned(),
        }
    }

    /// The data, deserialized into a type of the program.
    ///
    /// # Errors
    /// When the data does not match the type; the error may be returned to the client.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Denied> {
        serde_json::from_str(&self.data)
            .map_err(|error| Denied::because(format!("Invalid data: {error}")))
    }
}

/// A session, as an asynchronous handler sees it: as it was when the handler was called. The actions
/// that the handler requests are carried out when its future is ready; later ones are not.
///
/// ```
/// use fanwire::{AsyncSession, OwnedMessage};
///
/// async fn look_up(session: AsyncSession, message: OwnedMessage) -> Result<(), fanwire::Denied> {
///     let id: u64 = message.parse()?;
///     // A database would be asked here.
///     session.send("found", &id)
/// }
/// let builder = fanwire::Server::builder().on_message_async("find", look_up);
/// # drop(builder);
/// ```
#[derive(Clone, Debug)]
pub struct AsyncSession(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: SessionId,
    dialect: DialectId,
    peer: SocketAddr,
    identity: Option<Identity>,
    tenant: Option<Box<str>>,
    channels: Vec<String>,
    actions: Mutex<Vec<SessionAction>>,
}

impl AsyncSession {
    pub(super) fn new(view: &SessionView<'_>) -> Self {
        Self(Arc::new(Inner {
            id: view.id,
            dialect: view.dialect,
            peer: view.peer,
            identity: view.identity.cloned(),
            tenant: view.tenant.map(Into::into),
            channels: view.channels.iter().map(|&name| name.to_owned()).collect(),
            actions: Mutex::default(),
        }))
    }

    pub(super) fn take_actions(&self) -> Vec<SessionAction> {
        std::mem::take(&mut *self.actions())
    }

    fn actions(&self) -> std::sync::MutexGuard<'_, Vec<SessionAction>> {
        self.0
            .actions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Its id, unique among all nodes.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.0.id
    }

    /// Its dialect.
    #[must_use]
    pub fn dialect(&self) -> DialectId {
        self.0.dialect
    }

    /// The address of the client.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// Its identity; `None` before authentication.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.0.identity.as_ref()
    }

    /// The user; `None` before authentication.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.identity().map(|identity| &*identity.user)
    }

    /// Its tenant.
    #[must_use]
    pub fn tenant_id(&self) -> Option<&str> {
        self.0.tenant.as_deref()
    }

    /// The channels that the client or the program has subscribed it to, oldest first.
    #[must_use]
    pub fn channels(&self) -> &[String] {
        &self.0.channels
    }

    /// Sends a message to this session only.
    ///
    /// # Errors
    /// When `data` cannot be written as JSON.
    pub fn send(&self, kind: &str, data: &impl Serialize) -> Result<(), Denied> {
        let data = to_json(data)?;
        self.actions().push(SessionAction::Send(kind.into(), data));
        Ok(())
    }

    /// Sends a text message to this session only, as it is.
    pub fn send_text(&self, text: &str) {
        self.actions().push(SessionAction::send_text(text));
    }

    /// Sends a binary message to this session only.
    pub fn send_binary(&self, bytes: &[u8]) {
        self.actions().push(SessionAction::send_binary(bytes));
    }

    /// Publishes on a channel; no permission is required.
    ///
    /// # Errors
    /// When `data` cannot be written as JSON.
    pub fn publish(&self, channel: &str, kind: &str, data: &impl Serialize) -> Result<(), Denied> {
        let data = to_json(data)?;
        self.actions().push(SessionAction::Publish {
            channel: channel.into(),
            kind: kind.into(),
            data,
        });
        Ok(())
    }

    /// Subscribes the session, without an answer to its client and without the access rules.
    pub fn subscribe(&self, channel: &str) {
        self.actions()
            .push(SessionAction::Subscribe(channel.into()));
    }

    /// Ends a subscription, without an answer to its client.
    pub fn unsubscribe(&self, channel: &str) {
        self.actions()
            .push(SessionAction::Unsubscribe(channel.into()));
    }

    /// Sets the identity of the session, as a token would, without an answer to its client.
    pub fn identify(&self, identity: Identity) {
        self.actions().push(SessionAction::Identify(identity));
    }

    /// Closes the connection (1000) after its queued frames.
    pub fn close(&self) {
        self.actions().push(SessionAction::Close);
    }

    /// Closes the connection after its queued frames, with a code and a reason of the program.
    ///
    /// # Errors
    /// As [`Session::close_with`](super::session::Session::close_with).
    pub fn close_with(&self, code: u16, reason: &str) -> Result<(), Denied> {
        let close = SessionAction::close_with(code, reason)?;
        self.actions().push(close);
        Ok(())
    }
}

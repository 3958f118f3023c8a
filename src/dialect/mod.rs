//! The protocols of clients: text to commands, events and publications to text.
//!
//! A dialect is one folder. It knows the broker's words and its own, no other dialect, no table and
//! no socket. [`of`] finds a dialect by its id.

pub mod analytics;
pub(crate) mod assist;
#[cfg(test)]
mod fixtures;
mod gateway;
pub mod monitoring;
pub mod notifications;
mod templates;

use crate::base::DialectId;
use crate::broker::{Command, Event, Presence, Publication, Rejection};
use crate::config::AccessRule;
use crate::json::{JsonReader, Object};

/// What the server adds to a publication when it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicationMeta {
    /// When, milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// A number that no other publication of the process has.
    pub id: u64,
}

/// Where subscribers' subscription ids go in a message: so many bytes behind its start begin [`SUBSCRIPTION_ID_BYTES`] bytes
/// that are each subscriber's own.
///
/// [`SUBSCRIPTION_ID_BYTES`]: crate::base::SUBSCRIPTION_ID_BYTES
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placeholder(pub usize);

/// A message of a client, decoded.
#[derive(Clone, Copy, Debug)]
pub enum Decoded<'a> {
    /// A message of the dialect.
    Command(Command<'a>),
    /// A message of a type that the dialect does not have, for handlers of the embedding program.
    Custom {
        /// The type.
        kind: &'a str,
        /// The message's data, as JSON.
        data: &'a str,
    },
}

/// One protocol.
pub trait Dialect: Sync {
    /// Reads a message; `scratch` holds what the command borrows and the message does not contain.
    ///
    /// # Errors
    /// Why the message means nothing in this dialect.
    fn decode<'a>(
        &self,
        message: &Object<'a>,
        scratch: &'a mut String,
    ) -> Result<Decoded<'a>, Rejection>;

    /// Appends the message that tells `event`; appends nothing if this dialect does not tell it.
    fn event(&self, event: &Event<'_>, output: &mut Vec<u8>);

    /// Appends the message that carries `publication`; returns where its subscribers' subscription ids go, if
    /// they have any.
    fn publication(
        &self,
        publication: &Publication<'_>,
        meta: PublicationMeta,
        output: &mut Vec<u8>,
    ) -> Option<Placeholder>;

    /// The publication that tells others about a user; `scratch` holds its text. `None` if this
    /// dialect tells nobody.
    fn presence<'a>(
        &self,
        _presence: &Presence<'a>,
        _scratch: &'a mut String,
    ) -> Option<Publication<'a>> {
        None
    }

    /// The rules of its channels.
    fn access_rules(&self) -> Vec<AccessRule> {
        Vec::new()
    }
}

/// The rules of the channels of all dialects.
#[must_use]
pub fn access_rules() -> Vec<AccessRule> {
    let dialects = DialectId::ALL.into_iter().map(of);
    dialects.flat_map(Dialect::access_rules).collect()
}

/// Whether messages of that type belong to the dialect itself.
#[must_use]
pub fn is_own_type(dialect: DialectId, kind: &str) -> bool {
    let message = serde_json::json!({ "type": kind }).to_string();
    let (mut reader, mut scratch) = (JsonReader::default(), String::new());
    let Ok(document) = reader.parse(&message) else {
        return false;
    };
    let Ok(object) = document.object() else {
        return false;
    };
    // A message of its own may lack fields here; one of no type is of no dialect.
    !matches!(
        of(dialect).decode(&object, &mut scratch),
        Ok(Decoded::Custom { .. }) | Err(Rejection::UnknownType)
    )
}

/// The dialect with that id.
#[must_use]
pub fn of(id: DialectId) -> &'static dyn Dialect {
    match id {
        DialectId::Gateway => &gateway::Gateway,
        DialectId::Monitoring => &monitoring::Monitoring,
        DialectId::Analytics => &analytics::Analytics,
        DialectId::Assist => &assist::Assist,
        DialectId::Notifications => &notifications::Notifications,
    }
}

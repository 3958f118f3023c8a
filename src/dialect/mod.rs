//! The client protocols: decode text to commands, encode events and publications as text.
//!
//! A dialect is one folder. It depends on the broker's types, not on other dialects, tables or
//! sockets. [`of`] finds a dialect by its id.

pub mod analytics;
pub(crate) mod assist;
#[cfg(test)]
mod fixtures;
mod gateway;
pub mod monitoring;
pub mod notifications;
mod presence_event;
mod templates;

use crate::base::channel_names::{name_for_clients, owner};
use crate::base::{DialectId, POSITION_BYTES, Position, PresenceRule, Variant};
use crate::broker::{Command, Event, Presence, PresenceOn, Publication, Rejection, Retain};
use crate::config::AccessRule;
use crate::json::{Document, Object};

/// What the server adds to a publication when it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicationMeta {
    /// When it was accepted, milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// A number that no other publication of the process has.
    pub id: u64,
    /// Whether its channel has a history, so that the publication has a position in it.
    pub has_position: bool,
    /// Whether the message has the position of the publication before, [`PREVIOUS_BYTES`] behind its own.
    pub has_previous: bool,
    /// Its position among the publications of all nodes, if they have a history in common.
    pub shared: Option<Position>,
    /// Whether it is for the history only: those who are subscribed have received it before.
    pub is_quiet: bool,
}

impl PublicationMeta {
    /// Of a publication that is accepted now, on a channel without a history.
    #[must_use]
    pub const fn new(unix_ms: u64, id: u64) -> Self {
        Self {
            unix_ms,
            id,
            has_position: false,
            has_previous: false,
            shared: None,
            is_quiet: false,
        }
    }

    /// The same for the message of a variant.
    #[must_use]
    pub fn of(self, variant: Variant) -> Self {
        Self {
            has_previous: self.has_position && variant.has_previous(),
            ..self
        }
    }
}

/// From the start of a publication's position to that of the position before it, bytes; between them
/// is [`PREVIOUS_FIELD`].
pub const PREVIOUS_BYTES: usize = POSITION_BYTES + PREVIOUS_FIELD.len();
/// The same in binary messages, where nothing is between them.
pub const PREVIOUS_BYTES_BINARY: usize = POSITION_BYTES;
/// What is between the two positions in a message that has both.
pub const PREVIOUS_FIELD: &str = r#"","previous":""#;

/// The offsets, from the start of a message, of what is filled in later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placeholders {
    /// Where each subscriber's subscription id replaces [`SUBSCRIPTION_ID_BYTES`] bytes.
    ///
    /// [`SUBSCRIPTION_ID_BYTES`]: crate::base::SUBSCRIPTION_ID_BYTES
    pub subscription_id: Option<usize>,
    /// Where the publication's position in the history replaces [`POSITION_BYTES`] bytes.
    ///
    /// [`POSITION_BYTES`]: crate::base::POSITION_BYTES
    pub position: Option<usize>,
}

impl Placeholders {
    /// Their offsets with so many bytes ahead.
    #[must_use]
    pub fn behind(self, bytes: usize) -> Self {
        Self {
            subscription_id: self.subscription_id.map(|at| at + bytes),
            position: self.position.map(|at| at + bytes),
        }
    }
}

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

impl Decoded<'_> {
    /// Whether handling it may write a publication to the ring.
    #[must_use]
    pub fn may_publish(&self) -> bool {
        let Self::Command(command) = self else {
            return true;
        };
        matches!(
            command,
            Command::Publish(_) | Command::PublishWithRole { .. }
        )
    }
}

/// A binary message of a client, decoded.
#[derive(Clone, Copy, Debug)]
pub enum DecodedBinary<'a> {
    /// The dialect has no binary messages.
    Unsupported,
    /// A message as it would be in a text frame.
    Text(&'a str),
    /// A message of the dialect.
    Command(Command<'a>),
}

/// The text of a message that came in a binary frame.
///
/// # Errors
/// When it is not UTF-8, and so not JSON.
pub(crate) fn text_of(message: &[u8]) -> Result<DecodedBinary<'_>, Rejection> {
    let text = simdutf8::basic::from_utf8(message);
    text.map(DecodedBinary::Text)
        .map_err(|_| Rejection::InvalidJson)
}

/// One protocol.
pub trait Dialect: Sync {
    /// Decodes a message; `scratch` holds what the command borrows and the message does not
    /// contain.
    ///
    /// # Errors
    /// Why the message is invalid in this dialect.
    fn decode<'a>(
        &self,
        message: &Object<'a>,
        scratch: &'a mut String,
    ) -> Result<Decoded<'a>, Rejection>;

    /// Decodes a binary message.
    ///
    /// # Errors
    /// Why the message is invalid in this dialect.
    fn decode_binary<'a>(&self, _message: &'a [u8]) -> Result<DecodedBinary<'a>, Rejection> {
        Ok(DecodedBinary::Unsupported)
    }

    /// Whether `publication` has a form for binary publications. It is asked for no others then.
    fn has_binary_publications(&self) -> bool {
        false
    }

    /// Appends the message for `event`; appends nothing if this dialect has no message for it.
    fn event(&self, event: &Event<'_>, output: &mut Vec<u8>);

    /// Appends the message for `publication`; returns its placeholders.
    fn publication(
        &self,
        publication: &Publication<'_>,
        meta: PublicationMeta,
        output: &mut Vec<u8>,
    ) -> Placeholders;

    /// Publishes that users came or went.
    fn presence(&self, presence: &Presence<'_>, publish: &mut dyn FnMut(Publication<'_>)) {
        presence_event::publish(presence, publish);
    }

    /// What a publication on a channel of this dialect does to the retained values of the channel;
    /// `key` holds the text of the key.
    fn retain<'a>(&self, _publication: &Publication<'_>, _key: &'a mut String) -> Retain<'a> {
        Retain::None
    }

    /// Whether publications on a channel of this dialect may change its retained values.
    fn retains(&self, _channel: &str) -> bool {
        false
    }

    /// The rules for who may subscribe to its channels.
    fn access_rules(&self) -> Vec<AccessRule> {
        Vec::new()
    }

    /// Its channels of which it is never kept who is there.
    fn without_presence(&self) -> Vec<PresenceRule> {
        Vec::new()
    }
}

/// The publication with what the dialect of its channel retains of it; `key` holds the text of the
/// key.
#[must_use]
pub fn retaining<'a>(publication: &Publication<'a>, key: &'a mut String) -> Publication<'a> {
    let retain = match owner(publication.channel) {
        Some(dialect) if publication.retain == Retain::None => of(dialect).retain(publication, key),
        _ => publication.retain,
    };
    Publication {
        retain,
        ..*publication
    }
}

/// Whether publications on a channel, by its full name, may change its retained values.
#[must_use]
pub fn retains(full_name: &str) -> bool {
    let channel = name_for_clients(full_name);
    owner(channel).is_some_and(|dialect| of(dialect).retains(channel))
}

/// The channels of all dialects of which it is never kept who is there.
#[must_use]
pub fn without_presence() -> Vec<PresenceRule> {
    let dialects = DialectId::ALL.into_iter().map(of);
    dialects.flat_map(Dialect::without_presence).collect()
}

/// The dialect in whose form it is announced who comes and goes.
#[must_use]
pub fn announcing(on: PresenceOn<'_>) -> &'static dyn Dialect {
    of(match on {
        PresenceOn::Channel(name) => owner(name).unwrap_or(DialectId::Gateway),
        PresenceOn::Dialect(dialect) => dialect,
    })
}

/// The access rules of the channels of all dialects.
#[must_use]
pub fn access_rules() -> Vec<AccessRule> {
    let dialects = DialectId::ALL.into_iter().map(of);
    dialects.flat_map(Dialect::access_rules).collect()
}

/// Whether the dialect itself has messages of this type.
#[must_use]
pub fn is_own_type(dialect: DialectId, kind: &str) -> bool {
    let message = serde_json::json!({ "type": kind }).to_string();
    let (document, mut scratch) = (Document::new(&message), String::new());
    let Ok(object) = document.object() else {
        return false;
    };
    // The probe has only a type, so decoding a message of the dialect may fail with another error.
    !matches!(
        of(dialect).decode(&object, &mut scratch),
        Ok(Decoded::Custom { .. }) | Err(Rejection::UnknownType)
    )
}

/// The dialect with this id.
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

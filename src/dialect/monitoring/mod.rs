//! The monitoring dialect: upper-case types, flat fields, one channel `prop:{id}` per property.
//!
//! Client: `AUTHENTICATE{token}`, `SUBSCRIBE{property_id}`, `UNSUBSCRIBE{property_id}`,
//! `GET_STATUS`, `PING`, and beyond the legacy server `PUBLISH{property_id,message}`. Server:
//! `WELCOME`, `AUTHENTICATED`, `SUBSCRIBED`, `UNSUBSCRIBED`, `STATUS`, `PONG`, `PUBLISHED`,
//! `ERROR{message}`, and publications unchanged.

mod decode;
mod encode;

use super::{Decoded, DecodedBinary, Dialect, Placeholders, PublicationMeta, text_of};
use crate::base::channel_names::PROPERTY;
use crate::broker::{Event, Publication, Rejection, SessionView};
use crate::json::Object;

/// The type of an update that has none.
const DEFAULT_KIND: &str = "UPDATE";

/// The channel of a property.
#[must_use]
pub fn property_channel(property_id: &str) -> String {
    format!("{PROPERTY}{property_id}")
}

/// The property of a channel.
#[must_use]
pub fn property_of(channel: &str) -> Option<&str> {
    channel.strip_prefix(PROPERTY)
}

/// The type of an update to the subscribers of a property.
#[must_use]
pub fn update_kind(message: &serde_json::Value) -> &str {
    let kind = message.get("type").and_then(serde_json::Value::as_str);
    kind.unwrap_or(DEFAULT_KIND)
}

/// The connection id that clients of this dialect see: `ip:port:unix_ts`.
#[must_use]
pub fn connection_id(session: &SessionView<'_>) -> String {
    let (ip, port) = (session.peer.ip(), session.peer.port());
    let unix_ms = session.connected_unix_ms;
    let (seconds, millis) = (unix_ms / 1_000, unix_ms % 1_000);
    format!("{ip}:{port}:{seconds}.{millis:03}")
}

/// The dialect of the clients of the property monitoring server.
pub(super) struct Monitoring;

impl Dialect for Monitoring {
    fn decode<'a>(
        &self,
        message: &Object<'a>,
        scratch: &'a mut String,
    ) -> Result<Decoded<'a>, Rejection> {
        decode::decode(message, scratch)
    }

    // The legacy server gave whatever came to its JSON parser.
    fn decode_binary<'a>(&self, message: &'a [u8]) -> Result<DecodedBinary<'a>, Rejection> {
        text_of(message)
    }

    fn event(&self, event: &Event<'_>, output: &mut Vec<u8>) {
        encode::event(event, output);
    }

    fn publication(
        &self,
        publication: &Publication<'_>,
        _stamp: PublicationMeta,
        output: &mut Vec<u8>,
    ) -> Placeholders {
        encode::publication(publication, output);
        Placeholders::default()
    }
}

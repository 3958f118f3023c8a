//! The monitoring dialect: upper-case types, flat fields, one channel `prop:{id}` per property.
//!
//! Client: `AUTHENTICATE{token}`, `SUBSCRIBE{property_id}`, `UNSUBSCRIBE{property_id}`, `GET_STATUS`,
//! `PING`, and beyond the document `PUBLISH{property_id,message}`. Server: `WELCOME`,
//! `AUTHENTICATED`, `SUBSCRIBED`, `UNSUBSCRIBED`, `STATUS`, `PONG`, `PUBLISHED`, `ERROR{message}`,
//! and publications as their publisher wrote them.

mod decode;
mod encode;

use super::{Dialect, Placeholder, PublicationMeta};
use crate::broker::{Command, Event, Publication, Rejection};
use crate::json::Object;

/// Channels of properties in the namespace of all dialects.
const CHANNEL_PREFIX: &str = "prop:";

/// The dialect of the property monitoring server's clients.
pub(super) struct Monitoring;

impl Dialect for Monitoring {
    fn decode<'a>(
        &self,
        message: &Object<'a>,
        scratch: &'a mut String,
    ) -> Result<Command<'a>, Rejection> {
        decode::decode(message, scratch)
    }

    fn event(&self, event: &Event<'_>, output: &mut Vec<u8>) {
        encode::event(event, output);
    }

    fn publication(
        &self,
        publication: &Publication<'_>,
        _stamp: PublicationMeta,
        output: &mut Vec<u8>,
    ) -> Option<Placeholder> {
        encode::publication(publication, output);
        None
    }
}

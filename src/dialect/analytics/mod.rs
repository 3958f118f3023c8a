//! The analytics dialect: six streams `stream:{type}`, filters, and subscriptions with ids.
//!
//! Client: `auth{token}`, `subscribe{type,filters,subscription_id?}`,
//! `unsubscribe{subscription_id}`, `ping`. Server: `auth_success{client_id}`, `auth_failed{error}`,
//! `subscribed`, `unsubscribed`, `data` with the subscription's id, `pong`, `error{error}`.

mod decode;
mod encode;
mod stream;

pub use stream::Stream;

use super::{Decoded, DecodedBinary, Dialect, Placeholders, PublicationMeta, text_of};
use crate::broker::{Event, Publication, Rejection};
use crate::json::Object;

/// The dialect of the clients of the streaming analytics server.
pub(super) struct Analytics;

impl Dialect for Analytics {
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
        meta: PublicationMeta,
        output: &mut Vec<u8>,
    ) -> Placeholders {
        encode::publication(publication, meta, output)
    }
}

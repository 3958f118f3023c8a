//! The gateway dialect: every message is `{"type":T,"data":D}`; publications also have a channel.
//!
//! Client: `auth{token}`, `subscribe{channel}`, `unsubscribe{channel}`,
//! `publish{channel,type,data}`, `ping`, `status`. Server: `auth_success{user_id}`,
//! `auth_failed{error}`, `subscribed{channel}`, `unsubscribed{channel}`, `pong`, `status{…}`,
//! `error{error}`, and `{"type","channel","data"}`. Binary messages are frames of their own.

mod binary;
mod decode;
mod encode;

use super::{Decoded, DecodedBinary, Dialect, Placeholders, PublicationMeta};
use crate::broker::{Data, Event, Publication, Rejection};
use crate::json::Object;

/// The dialect of the clients of the multi-tenant gateway.
pub(super) struct Gateway;

impl Dialect for Gateway {
    fn decode<'a>(
        &self,
        message: &Object<'a>,
        _scratch: &'a mut String,
    ) -> Result<Decoded<'a>, Rejection> {
        decode::decode(message)
    }

    fn decode_binary<'a>(&self, message: &'a [u8]) -> Result<DecodedBinary<'a>, Rejection> {
        binary::decode(message)
    }

    fn has_binary_publications(&self) -> bool {
        true
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
        match publication.data {
            Data::Json(data) => encode::publication(publication, data, meta, output),
            Data::Binary(bytes) => binary::publication(publication.channel, bytes, meta, output),
        }
    }
}

//! The notifications dialect: every session receives every notification.
//!
//! Client: `ping`, `status_request`. Server: `pong`, `status_response{data}`, notifications
//! `{type,message,data,timestamp,id}`, `shutdown`, `error{message}`.

mod decode;
mod encode;

use super::{Decoded, Dialect, Placeholders, PublicationMeta};
use crate::broker::{Event, Publication, Rejection};
use crate::json::Object;

/// The type of a notification that has none.
pub const DEFAULT_KIND: &str = "notification";

/// The data of a notification; `data` is JSON.
#[must_use]
pub fn notification(message: &str, data: Option<&str>) -> String {
    let message = serde_json::Value::from(message);
    let data = data.unwrap_or("null");
    format!("{{\"message\":{message},\"data\":{data}}}")
}

/// The dialect of the clients of the notification server.
pub(super) struct Notifications;

impl Dialect for Notifications {
    fn decode<'a>(
        &self,
        message: &Object<'a>,
        _scratch: &'a mut String,
    ) -> Result<Decoded<'a>, Rejection> {
        decode::decode(message)
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
        encode::publication(publication, meta, output);
        Placeholders::default()
    }
}

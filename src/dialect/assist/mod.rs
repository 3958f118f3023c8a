//! The assist dialect: rooms `room:{name}`, some of them reserved, and messages with flat fields.
//!
//! Client: `auth{token}`, `ping`, `join_room{room}`, `leave_room{room}`,
//! `subscribe_system_metrics`, `subscribe_job_updates`, `subscribe_document_updates` and the
//! opposite of each, `get_active_jobs`, `broadcast_admin{message,severity?,details?}`. Server:
//! `connection`, `room_event`, `system_metrics`, `job_updates`, `document_processing_start`,
//! `document_processing_complete`, `system_alert`, `user_activity`, `pong`, `error{message}`, and
//! what is published in a room.

mod decode;
mod encode;
pub(crate) mod notices;
mod presence;
pub(crate) mod rooms;

use super::{Decoded, Dialect, Placeholders, PublicationMeta};
use crate::base::PresenceRule;
use crate::broker::{Event, Presence, Publication, Rejection, Retain};
use crate::config::AccessRule;
use crate::json::Object;

/// The dialect of the clients of the assistant server.
pub(super) struct Assist;

impl Dialect for Assist {
    fn decode<'a>(
        &self,
        message: &Object<'a>,
        scratch: &'a mut String,
    ) -> Result<Decoded<'a>, Rejection> {
        decode::decode(message, scratch)
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
        if let Some(data) = publication.data.json() {
            encode::publication(publication.kind, data, meta.unix_ms, output);
        }
        Placeholders::default()
    }

    fn presence(&self, presence: &Presence<'_>, publish: &mut dyn FnMut(Publication<'_>)) {
        presence::publish(presence, publish);
    }

    fn retain<'a>(&self, publication: &Publication<'_>, key: &'a mut String) -> Retain<'a> {
        let is_job = self.retains(publication.channel);
        match publication.data.json() {
            Some(data) if is_job && publication.kind == notices::JOB_UPDATES => {
                notices::retain_job(data, key)
            }
            _ => Retain::None,
        }
    }

    fn retains(&self, channel: &str) -> bool {
        channel == rooms::BACKGROUND_JOBS
    }

    fn access_rules(&self) -> Vec<AccessRule> {
        rooms::access_rules()
    }

    fn without_presence(&self) -> Vec<PresenceRule> {
        rooms::without_presence()
    }
}

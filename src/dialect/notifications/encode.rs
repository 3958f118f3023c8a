//! Messages to notification clients.

use crate::base::Now;
use crate::broker::{Event, Publication, SessionView};
use crate::dialect::PublicationMeta;
use crate::dialect::templates::{flat, start};
use crate::json::{Document, write_iso_time, write_seconds, write_text};

/// `{"type":T,"message":M,"data":D,"timestamp":T,"id":ID}`
///
/// `POST /notify` publishes objects with a message and possibly data; other publications are only
/// data.
pub(super) fn publication(
    publication: &Publication<'_>,
    meta: PublicationMeta,
    output: &mut Vec<u8>,
) {
    let Some(json) = publication.data.json() else {
        return;
    };
    let document = Document::new(json);
    let fields = document
        .object()
        .map(|data| data.fields(["message", "data"]));
    let [text, data] = fields.unwrap_or_default();
    let (text, data) = match text.and_then(|text| text.text()) {
        Some(text) => (text, data.map_or("null", |data| data.raw())),
        None => ("", json),
    };
    notification_start(publication.kind, text, data, output);
    output.extend_from_slice(b",\"timestamp\":");
    write_iso_time(output, meta.unix_ms);
    output.extend_from_slice(format!(",\"id\":\"{:016x}\"}}", meta.id).as_bytes());
}

/// `{"type":T,"message":M,"data":D`
fn notification_start(kind: &str, text: &str, data: &str, output: &mut Vec<u8>) {
    start(output, kind);
    output.extend_from_slice(b",\"message\":");
    write_text(output, text);
    output.extend_from_slice(b",\"data\":");
    output.extend_from_slice(data.as_bytes());
}

pub(super) fn event(event: &Event<'_>, output: &mut Vec<u8>) {
    match event {
        Event::Pong { now } => {
            output.extend_from_slice(b"{\"type\":\"pong\"");
            end(*now, output);
        }
        Event::Status {
            session,
            sessions,
            now,
        } => status(session, *sessions, *now, output),
        Event::Message { kind, data, now } => {
            notification_start(kind, "", data, output);
            end(*now, output);
        }
        Event::ShuttingDown { grace_ms, now } => {
            let seconds = grace_ms.div_ceil(1_000);
            let data = format!("{{\"timeout_seconds\":{seconds}}}");
            notification_start("shutdown", "The server is shutting down", &data, output);
            end(*now, output);
        }
        Event::AuthenticationFailed { rejection } | Event::Error { rejection } => {
            flat(output, "error", "message", &rejection.text());
        }
        Event::Denied { reason } => flat(output, "error", "message", reason),
        // Every session receives all notifications, so there is no subscription to acknowledge.
        Event::Welcome { .. }
        | Event::Authenticated { .. }
        | Event::Subscribed(_)
        | Event::Unsubscribed(_)
        | Event::Published { .. }
        | Event::Retained { .. }
        | Event::History { .. }
        | Event::Present { .. }
        | Event::Restored { .. }
        | Event::NotRestored { .. } => {}
    }
}

fn end(now: Now, output: &mut Vec<u8>) {
    output.extend_from_slice(b",\"timestamp\":");
    write_iso_time(output, now.unix_ms);
    output.push(b'}');
}

fn status(session: &SessionView<'_>, sessions: u64, now: Now, output: &mut Vec<u8>) {
    output.extend_from_slice(b"{\"type\":\"status_response\",\"data\":{\"status\":\"running\",");
    output.extend_from_slice(b"\"active_connections\":");
    output.extend_from_slice(sessions.to_string().as_bytes());
    // The monotonic clock starts with the server.
    output.extend_from_slice(b",\"uptime_seconds\":");
    write_seconds(output, now.monotonic_ms);
    output.extend_from_slice(b",\"client_id\":");
    write_text(output, &session.id.to_string());
    output.extend_from_slice(b",\"connected_at\":");
    write_iso_time(output, session.connected_unix_ms);
    output.extend_from_slice(b",\"connected_seconds\":");
    write_seconds(output, session.uptime_ms);
    output.push(b'}');
    end(now, output);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::fixtures::{self, encoded};

    fn check_publication(data: &str, expected: &str) {
        let meta = PublicationMeta::new(1_704_067_200_000, 10);
        let mut output = Vec::new();
        publication(&Publication::new("all", "alert", data), meta, &mut output);
        let end = r#","timestamp":"2024-01-01T00:00:00.000Z","id":"000000000000000a"}"#;
        assert_eq!(
            String::from_utf8(output).unwrap(),
            format!("{expected}{end}")
        );
    }

    #[test]
    fn a_notification_has_a_message_and_data() {
        check_publication(
            r#"{"message":"Hello, \"all\"!","data":{"priority": "high"}}"#,
            r#"{"type":"alert","message":"Hello, \"all\"!","data":{"priority": "high"}"#,
        );
        check_publication(
            r#"{"message":"m"}"#,
            r#"{"type":"alert","message":"m","data":null"#,
        );
        check_publication(
            r#"{"a":1}"#,
            r#"{"type":"alert","message":"","data":{"a":1}"#,
        );
        check_publication("[1]", r#"{"type":"alert","message":"","data":[1]"#);
    }

    fn check(event: &Event<'_>, expected: &str) {
        assert_eq!(encoded(&super::super::Notifications, event), expected);
    }

    #[test]
    fn each_event_has_its_message() {
        let now = fixtures::NOW;
        check(
            &Event::Pong { now },
            r#"{"type":"pong","timestamp":"2024-01-01T00:00:00.000Z"}"#,
        );
        check(
            &Event::ShuttingDown {
                grace_ms: 1_800_000,
                now,
            },
            concat!(
                r#"{"type":"shutdown","message":"The server is shutting down","#,
                r#""data":{"timeout_seconds":1800},"timestamp":"2024-01-01T00:00:00.000Z"}"#
            ),
        );
        check(
            &Event::Status {
                session: &fixtures::session(),
                sessions: 2,
                now,
            },
            concat!(
                r#"{"type":"status_response","data":{"status":"running","active_connections":2,"#,
                r#""uptime_seconds":120.500,"client_id":"0001000003000002","#,
                r#""connected_at":"2009-02-13T23:31:30.123Z","connected_seconds":120.500},"#,
                r#""timestamp":"2024-01-01T00:00:00.000Z"}"#
            ),
        );
    }
}

//! Messages to assist clients.

use super::notices;
use crate::base::channel_names::ROOM;
use crate::broker::{Event, Rejection, SessionView};
use crate::dialect::templates::{OwnType, flat, start, start_with_data};
use crate::json::{write_iso_time, write_text};

/// A message that has its own `type` passes unchanged. The server's notices have their fields
/// beside `type`; other data stands in `data`.
pub(super) fn publication(kind: &str, data: &str, unix_ms: u64, output: &mut Vec<u8>) {
    let own_type = OwnType::of(data);
    if own_type == OwnType::Message {
        return output.extend_from_slice(data.as_bytes());
    }
    let fields = data
        .strip_prefix('{')
        .and_then(|data| data.strip_suffix('}'));
    let is_flat = own_type == OwnType::Missing && notices::FLAT.contains(&kind);
    match fields.filter(|fields| is_flat && !fields.trim().is_empty()) {
        Some(fields) => {
            start(output, kind);
            output.push(b',');
            output.extend_from_slice(fields.as_bytes());
        }
        None => start_with_data(output, kind, data),
    }
    end(unix_ms, output);
}

fn end(unix_ms: u64, output: &mut Vec<u8>) {
    output.extend_from_slice(b",\"timestamp\":");
    write_iso_time(output, unix_ms);
    output.push(b'}');
}

fn joined(channel: &str, user: Option<&str>) -> String {
    notices::room_event("join", room(channel), user)
}

fn left(channel: &str, user: Option<&str>) -> String {
    notices::room_event("leave", room(channel), user)
}

pub(super) fn room(channel: &str) -> &str {
    channel.strip_prefix(ROOM).unwrap_or(channel)
}

pub(super) fn event(event: &Event<'_>, output: &mut Vec<u8>) {
    match event {
        // A session that has yet to authenticate receives this message after its authentication.
        Event::Welcome {
            auth_pending: true, ..
        } => {}
        Event::Welcome { session, now, .. } | Event::Authenticated { session, now, .. } => {
            connection(session, now.unix_ms, output);
        }
        // A client that joins a room receives the room event of all instead, where they are told
        // at once; other answers go to the client alone.
        Event::History { .. }
        | Event::Present { .. }
        | Event::Restored { .. }
        | Event::NotRestored { .. } => {}
        Event::Subscribed(view) if view.is_announced => {}
        Event::Subscribed(view) => {
            let data = joined(view.channel, view.user);
            publication(notices::ROOM_EVENT, &data, view.now.unix_ms, output);
        }
        Event::Unsubscribed(view) => {
            let data = left(view.channel, view.user);
            publication(notices::ROOM_EVENT, &data, view.now.unix_ms, output);
        }
        Event::Retained { values, now, .. } => jobs(values, now.unix_ms, output),
        Event::Pong { .. } => output.extend_from_slice(b"{\"type\":\"pong\"}"),
        Event::Message { kind, data, now } => publication(kind, data, now.unix_ms, output),
        Event::AuthenticationFailed { rejection } | Event::Error { rejection } => {
            flat(output, "error", "message", &text(*rejection));
        }
        Event::Denied { reason } => flat(output, "error", "message", reason),
        Event::Published { .. } | Event::Status { .. } | Event::ShuttingDown { .. } => {}
    }
}

fn text(rejection: Rejection) -> String {
    match rejection {
        Rejection::InvalidField("channel") => Rejection::InvalidField("room").text(),
        Rejection::ReservedChannel => "Room is reserved".into(),
        other => other.text(),
    }
}

fn connection(session: &SessionView<'_>, unix_ms: u64, output: &mut Vec<u8>) {
    output
        .extend_from_slice(b"{\"type\":\"connection\",\"status\":\"connected\",\"connection_id\":");
    write_text(output, &session.id.to_string());
    output.extend_from_slice(b",\"user_id\":");
    match session.identity {
        Some(identity) => write_text(output, &identity.user),
        None => output.extend_from_slice(b"null"),
    }
    end(unix_ms, output);
}

fn jobs(values: &[&str], unix_ms: u64, output: &mut Vec<u8>) {
    output.extend_from_slice(b"{\"type\":\"job_updates\",\"data\":{\"jobs\":[");
    output.extend_from_slice(values.join(",").as_bytes());
    output.extend_from_slice(b"],\"snapshot\":true}");
    end(unix_ms, output);
}

#[cfg(test)]
mod tests {
    use super::super::rooms;
    use super::*;
    use crate::broker::SubscriptionView;
    use crate::dialect::fixtures::{self, encoded};

    fn check(event: &Event<'_>, expected: &str) {
        assert_eq!(encoded(&super::super::Assist, event), expected);
    }

    #[test]
    fn each_event_has_its_message() {
        let (identity, now) = (&fixtures::identity("ann"), fixtures::NOW);
        let session = &SessionView {
            identity: Some(identity),
            ..fixtures::session()
        };
        check(
            &Event::Authenticated {
                session,
                identity,
                now,
            },
            concat!(
                r#"{"type":"connection","status":"connected","connection_id":"0001000003000002","#,
                r#""user_id":"ann","timestamp":"2024-01-01T00:00:00.000Z"}"#
            ),
        );
        check(
            &Event::Subscribed(fixtures::subscription("room:background_jobs")),
            concat!(
                r#"{"type":"room_event","event":"join","room":"background_jobs","user_id":"ann","#,
                r#""timestamp":"2024-01-01T00:00:00.000Z"}"#
            ),
        );
        check(
            &Event::Subscribed(SubscriptionView {
                is_announced: true,
                ..fixtures::subscription("room:chat")
            }),
            "",
        );
        check(
            &Event::Retained {
                channel: rooms::BACKGROUND_JOBS,
                values: vec![r#"{"job_id":"a"}"#, r#"{"job_id":"b"}"#],
                now,
            },
            concat!(
                r#"{"type":"job_updates","data":{"jobs":[{"job_id":"a"},{"job_id":"b"}],"#,
                r#""snapshot":true},"timestamp":"2024-01-01T00:00:00.000Z"}"#
            ),
        );
        let rejection = Rejection::InvalidField("channel");
        check(
            &Event::Error { rejection },
            r#"{"type":"error","message":"Invalid room"}"#,
        );
        check(&Event::Pong { now }, r#"{"type":"pong"}"#);
    }

    fn check_publication(data: &str, expected: &str) {
        let mut output = Vec::new();
        publication("m", data, 1_704_067_200_000, &mut output);
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }

    #[test]
    fn messages_pass_unchanged_and_other_data_is_wrapped() {
        let whole = r#"{"type":"custom_event","data":{"message":"Hello room!"}}"#;
        check_publication(whole, whole);
        check_publication(
            r#"{"cpu":1}"#,
            r#"{"type":"m","data":{"cpu":1},"timestamp":"2024-01-01T00:00:00.000Z"}"#,
        );
        let mut output = Vec::new();
        publication(
            notices::SYSTEM_ALERT,
            r#"{"type":7}"#,
            1_704_067_200_000,
            &mut output,
        );
        assert_eq!(
            String::from_utf8(output).unwrap(),
            r#"{"type":"system_alert","data":{"type":7},"timestamp":"2024-01-01T00:00:00.000Z"}"#
        );
    }
}

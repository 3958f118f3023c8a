//! Messages to monitoring clients.

use super::{connection_id, property_of};
use crate::broker::{Event, Publication, Rejection, SessionView};
use crate::dialect::templates::{OwnType, flat, start, start_with_data};
use crate::json::{write_seconds, write_text};

/// A message that has its own `type` passes unchanged. An object without one gets it in front of its
/// fields; other data stands in `data`.
pub(super) fn publication(publication: &Publication<'_>, output: &mut Vec<u8>) {
    if let Some(data) = publication.data.json() {
        typed(publication.kind, data, output);
    }
}

fn typed(kind: &str, data: &str, output: &mut Vec<u8>) {
    let own_type = OwnType::of(data);
    if own_type == OwnType::Message {
        return output.extend_from_slice(data.as_bytes());
    }
    let fields = data.strip_prefix('{').map(str::trim_start);
    match fields.filter(|_| own_type == OwnType::Missing) {
        Some("}") => {
            start(output, kind);
            output.push(b'}');
        }
        Some(fields) => {
            start(output, kind);
            output.push(b',');
            output.extend_from_slice(fields.as_bytes());
        }
        None => {
            start_with_data(output, kind, data);
            output.push(b'}');
        }
    }
}

pub(super) fn event(event: &Event<'_>, output: &mut Vec<u8>) {
    match event {
        Event::Welcome { session, now, .. } => {
            output.extend_from_slice(b"{\"type\":\"WELCOME\",\"connection_id\":");
            write_text(output, &connection_id(session));
            output.extend_from_slice(b",\"server_time\":");
            write_seconds(output, now.unix_ms);
            output.push(b'}');
        }
        Event::Authenticated { identity, .. } => {
            flat(output, "AUTHENTICATED", "user_id", &identity.user);
        }
        Event::AuthenticationFailed { rejection } | Event::Error { rejection } => {
            flat(output, "ERROR", "message", &text(*rejection));
        }
        Event::Subscribed(view) => property(output, "SUBSCRIBED", view.channel),
        Event::Unsubscribed(view) => property(output, "UNSUBSCRIBED", view.channel),
        Event::Published { channel } => property(output, "PUBLISHED", channel),
        Event::Pong { .. } => output.extend_from_slice(b"{\"type\":\"PONG\"}"),
        Event::Status { session, .. } => status(session, output),
        Event::Message { kind, data, .. } => typed(kind, data, output),
        Event::Denied { reason } => flat(output, "ERROR", "message", reason),
        Event::Retained { .. }
        | Event::History { .. }
        | Event::Present { .. }
        | Event::Restored { .. }
        | Event::NotRestored { .. }
        | Event::ShuttingDown { .. } => {}
    }
}

fn text(rejection: Rejection) -> String {
    match rejection {
        Rejection::InvalidField("channel") => Rejection::InvalidField("property_id").text(),
        other => other.text(),
    }
}

fn property(output: &mut Vec<u8>, kind: &str, channel: &str) {
    let property = property_of(channel).unwrap_or(channel);
    flat(output, kind, "property_id", property);
}

fn status(session: &SessionView<'_>, output: &mut Vec<u8>) {
    output.extend_from_slice(b"{\"type\":\"STATUS\",\"connection_id\":");
    write_text(output, &connection_id(session));
    output.extend_from_slice(b",\"authenticated\":");
    let authenticated: &[u8] = if session.identity.is_some() {
        b"true"
    } else {
        b"false"
    };
    output.extend_from_slice(authenticated);
    output.extend_from_slice(b",\"subscriptions\":[");
    for (index, channel) in session.channels.iter().enumerate() {
        if index > 0 {
            output.push(b',');
        }
        write_text(output, property_of(channel).unwrap_or(channel));
    }
    output.extend_from_slice(b"],\"connected_at\":");
    write_seconds(output, session.connected_unix_ms);
    output.extend_from_slice(b",\"uptime\":");
    write_seconds(output, session.uptime_ms);
    output.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Now;
    use crate::dialect::fixtures;

    fn check_publication(data: &str, expected: &str) {
        let mut output = Vec::new();
        let (channel, kind) = ("prop:1", "M");
        publication(&Publication::new(channel, kind, data), &mut output);
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }

    #[test]
    fn typed_messages_pass_unchanged_and_others_get_a_type() {
        let typed = r#"{"count": 5.0, "type":"VIOLATION_UPDATE"}"#;
        check_publication(typed, typed);
        check_publication(r#"{"n":1}"#, r#"{"type":"M","n":1}"#);
        check_publication("{ }", r#"{"type":"M"}"#);
        check_publication(r#"{"a":"type"}"#, r#"{"type":"M","a":"type"}"#);
        check_publication(r#"{"type":7}"#, r#"{"type":"M","data":{"type":7}}"#);
        check_publication("[1]", r#"{"type":"M","data":[1]}"#);
    }

    fn check(event: &Event<'_>, expected: &str) {
        let mut output = Vec::new();
        super::event(event, &mut output);
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }

    #[test]
    fn each_event_has_its_message() {
        let session = &SessionView {
            channels: vec!["prop:1012650001"],
            ..fixtures::session()
        };
        let now = Now::at(0, 1_234_567_890_123);
        check(
            &Event::Welcome {
                session,
                auth_pending: true,
                now,
            },
            concat!(
                r#"{"type":"WELCOME","connection_id":"127.0.0.1:12345:1234567890.123","#,
                r#""server_time":1234567890.123}"#
            ),
        );
        check(
            &Event::Status {
                session,
                sessions: 1,
                now,
            },
            concat!(
                r#"{"type":"STATUS","connection_id":"127.0.0.1:12345:1234567890.123","#,
                r#""authenticated":false,"subscriptions":["1012650001"],"#,
                r#""connected_at":1234567890.123,"uptime":120.500}"#
            ),
        );
        let rejection = Rejection::RateLimited;
        check(
            &Event::Error { rejection },
            r#"{"type":"ERROR","message":"Rate limit exceeded"}"#,
        );
        check(
            &Event::Subscribed(fixtures::subscription("prop:7")),
            r#"{"type":"SUBSCRIBED","property_id":"7"}"#,
        );
    }
}

//! Messages to gateway clients.

use crate::base::{POSITION_BYTES, Position, PresencePage};
use crate::broker::{Event, HistoryMessage, Publication, SessionView, SubscriptionView};
use crate::dialect::templates::{nested, start, start_with_data};
use crate::dialect::{PREVIOUS_FIELD, Placeholders, PublicationMeta};
use crate::json::{write_iso_time, write_seconds, write_text};

pub(super) fn publication(
    publication: &Publication<'_>,
    data: &str,
    meta: PublicationMeta,
    output: &mut Vec<u8>,
) -> Placeholders {
    let base = output.len();
    start(output, publication.kind);
    output.extend_from_slice(b",\"channel\":");
    write_text(output, publication.channel);
    let mut placeholders = Placeholders::default();
    if meta.has_position {
        output.extend_from_slice(b",\"position\":\"");
        placeholders.position = Some(output.len() - base);
        output.extend_from_slice(&[b' '; POSITION_BYTES]);
        if meta.has_previous {
            output.extend_from_slice(PREVIOUS_FIELD.as_bytes());
            output.extend_from_slice(&[b' '; POSITION_BYTES]);
        }
        output.push(b'"');
    }
    output.extend_from_slice(b",\"data\":");
    output.extend_from_slice(data.as_bytes());
    output.push(b'}');
    placeholders
}

pub(super) fn event(event: &Event<'_>, output: &mut Vec<u8>) {
    match event {
        // Gateway clients expect to send the first message, and no answer to a publication.
        Event::Welcome { .. }
        | Event::Published { .. }
        | Event::Retained { .. }
        | Event::ShuttingDown { .. } => {}
        Event::Authenticated { identity, .. } => {
            nested(output, "auth_success", "user_id", &identity.user);
        }
        Event::AuthenticationFailed { rejection } => {
            nested(output, "auth_failed", "error", &rejection.text());
        }
        Event::Subscribed(view) => subscribed(view, output),
        Event::History {
            channel,
            messages,
            position,
            is_complete,
        } => history(channel, messages, *position, *is_complete, output),
        Event::Present { channel, page } => present(channel, page, output),
        Event::Restored { restored, rejected } => {
            let counts = format!("{{\"restored\":{restored},\"rejected\":{rejected}}}");
            start_with_data(output, "restored", &counts);
            output.push(b'}');
        }
        Event::NotRestored { channel, rejection } => {
            start(output, "error");
            output.extend_from_slice(b",\"data\":{\"error\":");
            write_text(output, &rejection.text());
            output.extend_from_slice(b",\"channel\":");
            write_text(output, channel);
            output.extend_from_slice(b"}}");
        }
        Event::Unsubscribed(view) => nested(output, "unsubscribed", "channel", view.channel),
        Event::Pong { .. } => output.extend_from_slice(b"{\"type\":\"pong\"}"),
        Event::Status { session, .. } => status(session, output),
        Event::Message { kind, data, .. } => {
            start_with_data(output, kind, data);
            output.push(b'}');
        }
        Event::Denied { reason } => nested(output, "error", "error", reason),
        Event::Error { rejection } => nested(output, "error", "error", &rejection.text()),
    }
}

/// `{"type":"subscribed","data":{"channel":C,"position":P,"recovered":B,"binary":B,"persistent":B,
/// "restored":true}}`; all but the channel only where there is something to say.
fn subscribed(view: &SubscriptionView<'_>, output: &mut Vec<u8>) {
    output.extend_from_slice(b"{\"type\":\"subscribed\",\"data\":{\"channel\":");
    write_text(output, view.channel);
    if let Some(position) = view.position {
        write_position(output, position);
    }
    if let Some(is_recovered) = view.is_recovered {
        write_flag(output, "recovered", is_recovered);
    }
    if view.has_previous {
        write_flag(output, "previous", true);
    }
    if let Some(takes_binary) = view.takes_binary {
        write_flag(output, "binary", takes_binary);
    }
    if let Some(is_persistent) = view.is_persistent {
        write_flag(output, "persistent", is_persistent);
    }
    if view.is_restored {
        write_flag(output, "restored", true);
    }
    output.extend_from_slice(b"}}");
}

/// `{"type":"history","data":{"channel":C,"messages":[{"type":K,"timestamp":T,"position":P,"data":D},
/// …],"position":P,"complete":B}}`; binary publications have `"encoding":"base64"` before their data.
fn history(
    channel: &str,
    messages: &[HistoryMessage<'_>],
    position: Position,
    is_complete: bool,
    output: &mut Vec<u8>,
) {
    output.extend_from_slice(b"{\"type\":\"history\",\"data\":{\"channel\":");
    write_text(output, channel);
    output.extend_from_slice(b",\"messages\":[");
    for (index, message) in messages.iter().enumerate() {
        if index > 0 {
            output.push(b',');
        }
        start(output, message.kind);
        output.extend_from_slice(b",\"timestamp\":");
        write_iso_time(output, message.unix_ms);
        write_position(output, message.position);
        if message.data.is_binary() {
            output.extend_from_slice(b",\"encoding\":\"base64\"");
        }
        output.extend_from_slice(b",\"data\":");
        output.extend_from_slice(message.data.to_json().as_bytes());
        output.push(b'}');
    }
    output.push(b']');
    write_position(output, position);
    write_flag(output, "complete", is_complete);
    output.extend_from_slice(b"}}");
}

/// `{"type":"presence","data":{"channel":C,"members":[{"user_id":U,"sessions":N},…],"users":N,
/// "sessions":N,"complete":B}}`
fn present(channel: &str, page: &PresencePage, output: &mut Vec<u8>) {
    output.extend_from_slice(b"{\"type\":\"presence\",\"data\":{\"channel\":");
    write_text(output, channel);
    output.extend_from_slice(b",\"members\":[");
    for (index, (user, sessions)) in page.members.iter().enumerate() {
        if index > 0 {
            output.push(b',');
        }
        output.extend_from_slice(b"{\"user_id\":");
        write_text(output, user);
        output.extend_from_slice(format!(",\"sessions\":{sessions}}}").as_bytes());
    }
    let counts = page.counts;
    let counts = format!(
        "],\"users\":{},\"sessions\":{}",
        counts.users, counts.sessions
    );
    output.extend_from_slice(counts.as_bytes());
    write_flag(output, "complete", page.is_complete);
    output.extend_from_slice(b"}}");
}

fn write_position(output: &mut Vec<u8>, position: Position) {
    output.extend_from_slice(b",\"position\":\"");
    output.extend_from_slice(&position.text());
    output.push(b'"');
}

fn write_flag(output: &mut Vec<u8>, name: &str, is_set: bool) {
    output.extend_from_slice(format!(",\"{name}\":{is_set}").as_bytes());
}

fn status(session: &SessionView<'_>, output: &mut Vec<u8>) {
    let identity = session.identity;
    output.extend_from_slice(b"{\"type\":\"status\",\"data\":{\"authenticated\":");
    let authenticated: &[u8] = if identity.is_some() {
        b"true"
    } else {
        b"false"
    };
    output.extend_from_slice(authenticated);
    output.extend_from_slice(b",\"user_id\":");
    write_optional(output, identity.map(|identity| &*identity.user));
    output.extend_from_slice(b",\"tenant_id\":");
    write_optional(output, session.tenant);
    output.extend_from_slice(b",\"channels\":[");
    for (index, channel) in session.channels.iter().enumerate() {
        if index > 0 {
            output.push(b',');
        }
        write_text(output, channel);
    }
    output.extend_from_slice(b"],\"connected_at\":");
    write_seconds(output, session.connected_unix_ms);
    output.extend_from_slice(b",\"uptime\":");
    write_seconds(output, session.uptime_ms);
    output.extend_from_slice(b"}}");
}

fn write_optional(output: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => write_text(output, text),
        None => output.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Rejection;
    use crate::dialect::fixtures;

    fn check(event: &Event<'_>, expected: &str) {
        let mut output = Vec::new();
        super::event(event, &mut output);
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }

    #[test]
    fn a_publication_carries_type_channel_and_data() {
        let check = |has_position, has_previous, expected: &str, expected_placeholder| {
            let mut output = Vec::new();
            let data = r#"{"a": 1.0}"#;
            let (channel, kind) = ("a\"b", "m");
            let meta = PublicationMeta {
                has_position,
                has_previous,
                ..PublicationMeta::new(0, 1)
            };
            let publication = Publication::new(channel, kind, data);
            let placeholders = super::publication(&publication, data, meta, &mut output);
            assert_eq!(String::from_utf8(output).unwrap(), expected);
            assert_eq!(placeholders.position, expected_placeholder);
        };
        let plain = r#"{"type":"m","channel":"a\"b","data":{"a": 1.0}}"#;
        check(false, false, plain, None);
        let space = " ".repeat(POSITION_BYTES);
        let with_position =
            format!(r#"{{"type":"m","channel":"a\"b","position":"{space}","data":{{"a": 1.0}}}}"#);
        check(true, false, &with_position, with_position.find(&space));
        let with_both = with_position.replace(
            &format!(r#""{space}""#),
            &format!(r#""{space}","previous":"{space}""#),
        );
        check(true, true, &with_both, with_both.find(&space));
    }

    #[test]
    fn each_event_has_its_message() {
        check(
            &Event::Subscribed(fixtures::subscription("c")),
            r#"{"type":"subscribed","data":{"channel":"c"}}"#,
        );
        let rejection = Rejection::MissingField("channel");
        check(
            &Event::Error { rejection },
            r#"{"type":"error","data":{"error":"Missing channel"}}"#,
        );
        let session = &SessionView {
            channels: vec!["c", "d"],
            connected_unix_ms: 1_500,
            uptime_ms: 20,
            ..fixtures::session()
        };
        let (identity, now) = (&fixtures::identity("ann"), fixtures::NOW);
        check(
            &Event::Authenticated {
                session,
                identity,
                now,
            },
            r#"{"type":"auth_success","data":{"user_id":"ann"}}"#,
        );
        check(
            &Event::Status {
                session,
                sessions: 1,
                now,
            },
            concat!(
                r#"{"type":"status","data":{"authenticated":false,"user_id":null,"tenant_id":null,"#,
                r#""channels":["c","d"],"connected_at":1.500,"uptime":0.020}}"#
            ),
        );
        let (kind, data) = ("echo_response", "[1]");
        check(
            &Event::Message { kind, data, now },
            r#"{"type":"echo_response","data":[1]}"#,
        );
    }
}

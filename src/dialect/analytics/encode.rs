//! Messages to analytics clients.

use super::stream::Stream;
use crate::base::SUBSCRIPTION_ID_BYTES;
use crate::base::label::Label;
use crate::broker::{Event, Publication, Rejection, SubscriptionView};
use crate::dialect::templates::{nested, start, start_with_data};
use crate::dialect::{Placeholders, PublicationMeta};
use crate::json::{write_iso_time, write_text};

/// `{"type":"data","data":{ITEM:DATA,"subscription_type":S},"subscription_id":ID,"timestamp":T}`
pub(super) fn publication(
    publication: &Publication<'_>,
    meta: PublicationMeta,
    output: &mut Vec<u8>,
) -> Placeholders {
    let base = output.len();
    let Some(data) = publication.data.json() else {
        return Placeholders::default();
    };
    let Some(stream) = Stream::of_channel(publication.channel) else {
        typed(publication.kind, data, meta.unix_ms, output);
        return Placeholders::default();
    };
    output.extend_from_slice(b"{\"type\":\"data\",\"data\":{\"");
    output.extend_from_slice(stream.item_field().as_bytes());
    output.extend_from_slice(b"\":");
    output.extend_from_slice(data.as_bytes());
    output.extend_from_slice(b",\"subscription_type\":\"");
    output.extend_from_slice(stream.name().as_bytes());
    output.extend_from_slice(b"\"},\"subscription_id\":\"");
    let placeholder = output.len() - base;
    output.extend_from_slice(&[b' '; SUBSCRIPTION_ID_BYTES]);
    output.push(b'"');
    end(meta.unix_ms, output);
    Placeholders {
        subscription_id: Some(placeholder),
        position: None,
    }
}

/// `{"type":T,"data":D,"timestamp":T}`
fn typed(kind: &str, data: &str, unix_ms: u64, output: &mut Vec<u8>) {
    start_with_data(output, kind, data);
    end(unix_ms, output);
}

fn end(unix_ms: u64, output: &mut Vec<u8>) {
    output.extend_from_slice(b",\"timestamp\":");
    write_iso_time(output, unix_ms);
    output.push(b'}');
}

pub(super) fn event(event: &Event<'_>, output: &mut Vec<u8>) {
    match event {
        Event::Authenticated { session, .. } => {
            nested(output, "auth_success", "client_id", &session.id.to_string());
        }
        // The analytics server has one text for all errors of a token.
        Event::AuthenticationFailed { .. } => {
            nested(output, "auth_failed", "error", "Invalid credentials");
        }
        Event::Subscribed(view) => subscribed(view, output),
        Event::Unsubscribed(view) => {
            begin_acknowledgement("unsubscribed", view, output);
            output.push(b'}');
            end(view.now.unix_ms, output);
        }
        Event::Pong { .. } => output.extend_from_slice(b"{\"type\":\"pong\"}"),
        Event::Message { kind, data, now } => typed(kind, data, now.unix_ms, output),
        Event::Error { rejection } => nested(output, "error", "error", &text(*rejection)),
        Event::Denied { reason } => nested(output, "error", "error", reason),
        // Analytics clients send the first message, do not publish and do not request a status.
        Event::Welcome { .. }
        | Event::Published { .. }
        | Event::Retained { .. }
        | Event::History { .. }
        | Event::Present { .. }
        | Event::Restored { .. }
        | Event::NotRestored { .. }
        | Event::Status { .. }
        | Event::ShuttingDown { .. } => {}
    }
}

fn text(rejection: Rejection) -> String {
    match rejection {
        // The broker's field names, as the dialect names them.
        Rejection::InvalidField("filter") => text(Rejection::InvalidField("filters")),
        Rejection::InvalidJson
        | Rejection::TooDeep
        | Rejection::MissingField(_)
        | Rejection::InvalidField(_) => format!("Invalid message format: {}", rejection.text()),
        Rejection::DuplicateSubscriptionId => "Duplicate subscription_id".into(),
        Rejection::UnknownSubscriptionId => "Unknown subscription_id".into(),
        other => other.text(),
    }
}

fn subscribed(view: &SubscriptionView<'_>, output: &mut Vec<u8>) {
    begin_acknowledgement("subscribed", view, output);
    output.extend_from_slice(b",\"type\":");
    let stream = Stream::of_channel(view.channel);
    write_text(output, stream.map_or(view.channel, |stream| stream.name()));
    output.extend_from_slice(b",\"filters\":");
    output.extend_from_slice(view.filter.unwrap_or("{}").as_bytes());
    output.push(b'}');
    end(view.now.unix_ms, output);
}

/// `{"type":T,"subscription_id":ID,"data":{"subscription_id":ID`
fn begin_acknowledgement(kind: &str, view: &SubscriptionView<'_>, output: &mut Vec<u8>) {
    let id = view.subscription_id.unwrap_or_default();
    start(output, kind);
    output.extend_from_slice(b",\"subscription_id\":");
    write_text(output, id);
    output.extend_from_slice(b",\"data\":{\"subscription_id\":");
    write_text(output, id);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::fixtures::{self, encoded};

    const STAMP: PublicationMeta = PublicationMeta::new(1_704_067_200_000, 1);

    fn check_publication(channel: &str, expected: &str, expected_hole: Option<usize>) {
        let mut output = Vec::new();
        let publication = Publication::new(channel, "m", r#"{"a":1}"#);
        let placeholders = super::publication(&publication, STAMP, &mut output);
        assert_eq!(String::from_utf8(output).unwrap(), expected);
        assert_eq!(placeholders.subscription_id, expected_hole);
    }

    #[test]
    fn an_item_stands_in_the_field_of_its_stream_before_a_hole() {
        let data = |item: &str, stream: &str| {
            format!(
                "{{\"type\":\"data\",\"data\":{{\"{item}\":{{\"a\":1}},\"subscription_type\":\"{stream}\"}},\
                 \"subscription_id\":\"{}\",\"timestamp\":\"2024-01-01T00:00:00.000Z\"}}",
                " ".repeat(SUBSCRIPTION_ID_BYTES)
            )
        };
        for (stream, item) in [
            ("events", "event"),
            ("metrics", "metrics"),
            ("alerts", "alert"),
            ("predictions", "prediction"),
            ("aggregations", "aggregation"),
            ("system_status", "system_status"),
        ] {
            let expected = data(item, stream);
            let placeholder = expected.find("       ");
            check_publication(&format!("stream:{stream}"), &expected, placeholder);
        }
        check_publication(
            "all",
            r#"{"type":"m","data":{"a":1},"timestamp":"2024-01-01T00:00:00.000Z"}"#,
            None,
        );
    }

    fn check(event: &Event<'_>, expected: &str) {
        assert_eq!(encoded(&super::super::Analytics, event), expected);
    }

    #[test]
    fn each_event_has_its_message() {
        let view = SubscriptionView {
            subscription_id: Some("s1"),
            filter: Some(r#"{"a": 1}"#),
            ..fixtures::subscription("stream:events")
        };
        check(
            &Event::Subscribed(view),
            concat!(
                r#"{"type":"subscribed","subscription_id":"s1","data":{"subscription_id":"s1","#,
                r#""type":"events","filters":{"a": 1}},"timestamp":"2024-01-01T00:00:00.000Z"}"#
            ),
        );
        check(
            &Event::Unsubscribed(view),
            concat!(
                r#"{"type":"unsubscribed","subscription_id":"s1","data":{"subscription_id":"s1"},"#,
                r#""timestamp":"2024-01-01T00:00:00.000Z"}"#
            ),
        );
        let error = |rejection| Event::Error { rejection };
        check(
            &error(Rejection::RateLimited),
            r#"{"type":"error","data":{"error":"Rate limit exceeded"}}"#,
        );
        check(
            &error(Rejection::MissingField("data")),
            r#"{"type":"error","data":{"error":"Invalid message format: Missing data"}}"#,
        );
        check(
            &error(Rejection::UnknownType),
            r#"{"type":"error","data":{"error":"Unknown message type"}}"#,
        );
        let rejection = Rejection::TokenExpired;
        check(
            &Event::AuthenticationFailed { rejection },
            r#"{"type":"auth_failed","data":{"error":"Invalid credentials"}}"#,
        );
        let session = &fixtures::session();
        let (identity, now) = (&fixtures::identity("ann"), fixtures::NOW);
        check(
            &Event::Authenticated {
                session,
                identity,
                now,
            },
            r#"{"type":"auth_success","data":{"client_id":"0001000003000002"}}"#,
        );
    }
}

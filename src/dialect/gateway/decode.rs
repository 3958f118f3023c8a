//! Messages of gateway clients.

use crate::broker::{Command, Publication, Refusal};
use crate::json::Object;

/// The type of a publication that names none.
const DEFAULT_KIND: &str = "message";

pub(super) fn decode<'a>(message: &Object<'a>) -> Result<Command<'a>, Refusal> {
    let kind = message.field("type").and_then(|value| value.text());
    Ok(match kind.ok_or(Refusal::UnknownType)? {
        "auth" => Command::Authenticate {
            token: message.object("data")?.text("token")?,
        },
        "subscribe" => Command::Subscribe {
            channel: message.object("data")?.text("channel")?,
        },
        "unsubscribe" => Command::Unsubscribe {
            channel: message.object("data")?.text("channel")?,
        },
        "publish" => publish(&message.object("data")?)?,
        "ping" => Command::Ping,
        "status" => Command::Status,
        _ => return Err(Refusal::UnknownType),
    })
}

fn publish<'a>(body: &Object<'a>) -> Result<Command<'a>, Refusal> {
    let kind = match body.field("type") {
        Some(kind) => kind.text().ok_or(Refusal::InvalidField("type"))?,
        None => DEFAULT_KIND,
    };
    Ok(Command::Publish(Publication {
        channel: body.text("channel")?,
        kind,
        data: body.field("data").map_or("null", |data| data.raw()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::JsonReader;

    fn check(text: &str, expected: &str) {
        let mut reader = JsonReader::default();
        let document = reader.parse(text).unwrap();
        let decoded = decode(&document.object().unwrap());
        assert_eq!(format!("{decoded:?}"), expected, "{text}");
    }

    #[test]
    fn each_message_becomes_its_command() {
        check(
            r#"{"type":"auth","data":{"token":"t"}}"#,
            r#"Ok(Authenticate { token: "t" })"#,
        );
        check(
            r#"{"data":{"channel":"news"},"type":"subscribe"}"#,
            r#"Ok(Subscribe { channel: "news" })"#,
        );
        check(
            r#"{"type":"unsubscribe","data":{"channel":"n\u00e9"}}"#,
            r#"Ok(Unsubscribe { channel: "né" })"#,
        );
        check(
            r#"{"type":"publish","data":{"channel":"c","type":"m","data":{"a": 1.0}}}"#,
            r#"Ok(Publish(Publication { channel: "c", kind: "m", data: "{\"a\": 1.0}" }))"#,
        );
        check(
            r#"{"type":"publish","data":{"channel":"c"}}"#,
            r#"Ok(Publish(Publication { channel: "c", kind: "message", data: "null" }))"#,
        );
        check(r#"{"type":"ping"}"#, "Ok(Ping)");
        check(r#"{"type":"status"}"#, "Ok(Status)");
    }

    #[test]
    fn what_is_missing_is_named() {
        check("{}", "Err(UnknownType)");
        check(r#"{"type":7}"#, "Err(UnknownType)");
        check(r#"{"type":"dance"}"#, "Err(UnknownType)");
        check(r#"{"type":"subscribe"}"#, r#"Err(MissingField("data"))"#);
        check(
            r#"{"type":"auth","data":[]}"#,
            r#"Err(InvalidField("data"))"#,
        );
        check(
            r#"{"type":"subscribe","data":{}}"#,
            r#"Err(MissingField("channel"))"#,
        );
        check(
            r#"{"type":"publish","data":{"channel":"c","type":1}}"#,
            r#"Err(InvalidField("type"))"#,
        );
    }
}

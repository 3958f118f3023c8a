//! Messages of gateway clients.

use crate::broker::{Command, Publication, Rejection, Subscription};
use crate::dialect::Decoded;
use crate::json::{Object, required_object, required_text};

/// The type of a publication that has none.
const DEFAULT_KIND: &str = "message";

pub(super) fn decode<'a>(message: &Object<'a>) -> Result<Decoded<'a>, Rejection> {
    let [kind, data] = message.fields(["type", "data"]);
    let kind = kind.and_then(|value| value.text());
    let body = || required_object(data, "data");
    let command = match kind.ok_or(Rejection::UnknownType)? {
        "auth" => Command::Authenticate {
            token: body()?.text("token")?,
        },
        "subscribe" => {
            let channel = body()?.text("channel")?;
            Command::Subscribe(Subscription::to(channel))
        }
        "unsubscribe" => Command::Unsubscribe {
            channel: body()?.text("channel")?,
        },
        "publish" => publish(&body()?)?,
        "ping" => Command::Ping,
        "status" => Command::Status,
        kind => {
            return Ok(Decoded::Custom {
                kind,
                data: data.map_or("null", |data| data.raw()),
            });
        }
    };
    Ok(Decoded::Command(command))
}

fn publish<'a>(body: &Object<'a>) -> Result<Command<'a>, Rejection> {
    let [kind, data, channel] = body.fields(["type", "data", "channel"]);
    let kind = match kind {
        Some(kind) => kind.text().ok_or(Rejection::InvalidField("type"))?,
        None => DEFAULT_KIND,
    };
    let data = data.map_or("null", |data| data.raw());
    let publication = Publication::new(required_text(channel, "channel")?, kind, data);
    Ok(Command::Publish(publication))
}

#[cfg(test)]
mod tests {
    use crate::dialect::fixtures::decoded;

    fn check(text: &str, expected: &str) {
        assert_eq!(decoded(&super::super::Gateway, text), expected, "{text}");
    }

    #[test]
    fn each_message_becomes_its_command() {
        check(
            r#"{"type":"auth","data":{"token":"t"}}"#,
            r#"Ok(Authenticate { token: "t" })"#,
        );
        check(
            r#"{"data":{"channel":"news"},"type":"subscribe"}"#,
            r#"Ok(Subscribe(Subscription { channel: "news", subscription_id: None, filter: None, is_announced: false }))"#,
        );
        check(
            r#"{"type":"unsubscribe","data":{"channel":"n\u00e9"}}"#,
            r#"Ok(Unsubscribe { channel: "né" })"#,
        );
        check(
            r#"{"type":"publish","data":{"channel":"c","type":"m","data":{"a": 1.0}}}"#,
            r#"Ok(Publish(Publication { channel: "c", kind: "m", data: "{\"a\": 1.0}", retain: None, target: All, scope: Without }))"#,
        );
        check(
            r#"{"type":"publish","data":{"channel":"c"}}"#,
            r#"Ok(Publish(Publication { channel: "c", kind: "message", data: "null", retain: None, target: All, scope: Without }))"#,
        );
        check(r#"{"type":"ping"}"#, "Ok(Ping)");
        check(r#"{"type":"status"}"#, "Ok(Status)");
        check(
            r#"{"type":"dance","data":[1]}"#,
            r#"Ok(Custom { kind: "dance", data: "[1]" })"#,
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        check("{}", "Err(UnknownType)");
        check(r#"{"type":7}"#, "Err(UnknownType)");
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

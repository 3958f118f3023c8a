//! Messages of monitoring clients.

use crate::base::channel_names::PROPERTY;
use crate::broker::{Command, Publication, Rejection, Subscription};
use crate::dialect::Decoded;
use crate::json::{Object, Value, required_text};

pub(super) fn decode<'a>(
    message: &Object<'a>,
    scratch: &'a mut String,
) -> Result<Decoded<'a>, Rejection> {
    let [kind, property, body] = message.fields(["type", "property_id", "message"]);
    let kind = kind.and_then(|value| value.text());
    let command = match kind.ok_or(Rejection::UnknownType)? {
        "AUTHENTICATE" => Command::Authenticate {
            token: message.text("token")?,
        },
        "SUBSCRIBE" => {
            let channel = property_channel(property, scratch)?;
            Command::Subscribe(Subscription::to(channel))
        }
        "UNSUBSCRIBE" => Command::Unsubscribe {
            channel: property_channel(property, scratch)?,
        },
        "PUBLISH" => {
            let body = body.ok_or(Rejection::MissingField("message"))?;
            let object = body.object().ok_or(Rejection::InvalidField("message"))?;
            let kind = object.field("type").and_then(|value| value.text());
            Command::Publish(Publication::new(
                property_channel(property, scratch)?,
                kind.ok_or(Rejection::InvalidField("message"))?,
                body.raw(),
            ))
        }
        "GET_STATUS" => Command::Status,
        "PING" => Command::Ping,
        kind => {
            return Ok(Decoded::Custom {
                kind,
                data: message.raw(),
            });
        }
    };
    Ok(Decoded::Command(command))
}

fn property_channel<'a>(
    property: Option<Value<'_>>,
    scratch: &'a mut String,
) -> Result<&'a str, Rejection> {
    // Clients of the monitoring server may send a number, which stands for its text.
    let is_number = |json: &str| json.bytes().all(|byte| byte.is_ascii_digit());
    let property = match property.map(|value| value.raw()) {
        Some(number) if is_number(number) => number,
        _ => required_text(property, "property_id")?,
    };
    if property.is_empty() {
        return Err(Rejection::MissingField("property_id"));
    }
    scratch.clear();
    scratch.push_str(PROPERTY);
    scratch.push_str(property);
    Ok(scratch)
}

#[cfg(test)]
mod tests {
    use crate::dialect::fixtures::decoded;

    fn check(text: &str, expected: &str) {
        assert_eq!(decoded(&super::super::Monitoring, text), expected, "{text}");
    }

    #[test]
    fn each_message_becomes_its_command() {
        check(
            r#"{"type":"AUTHENTICATE","token":"t"}"#,
            r#"Ok(Authenticate { token: "t" })"#,
        );
        check(
            r#"{"type":"SUBSCRIBE","property_id":1012650001}"#,
            concat!(
                r#"Ok(Subscribe(Subscription { channel: "prop:1012650001", subscription_id: None, "#,
                "filter: None, recover: None, is_persistent: false, is_restored: false, is_decided: false, is_awaited: false, has_previous: false, takes_binary: false }))"
            ),
        );
        check(
            r#"{"type":"SUBSCRIBE","property_id":"1012650001"}"#,
            concat!(
                r#"Ok(Subscribe(Subscription { channel: "prop:1012650001", subscription_id: None, "#,
                "filter: None, recover: None, is_persistent: false, is_restored: false, is_decided: false, is_awaited: false, has_previous: false, takes_binary: false }))"
            ),
        );
        check(
            r#"{"type":"UNSUBSCRIBE","property_id":"1"}"#,
            r#"Ok(Unsubscribe { channel: "prop:1" })"#,
        );
        check(
            r#"{"type":"PUBLISH","property_id":"1","message":{"type":"X","n":1}}"#,
            concat!(
                r#"Ok(Publish(Publication { channel: "prop:1", kind: "X", "#,
                r#"data: Json("{\"type\":\"X\",\"n\":1}"), retain: None, target: All, scope: Without, trace: None }))"#
            ),
        );
        check(r#"{"type":"GET_STATUS"}"#, "Ok(Status)");
        check(r#"{"type":"PING"}"#, "Ok(Ping)");
        check(
            r#"{"type":"ping"}"#,
            r#"Ok(Custom { kind: "ping", data: "{\"type\":\"ping\"}" })"#,
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        check(r#"{"n":1}"#, "Err(UnknownType)");
        let missing = r#"Err(MissingField("property_id"))"#;
        check(r#"{"type":"SUBSCRIBE"}"#, missing);
        check(r#"{"type":"SUBSCRIBE","property_id":""}"#, missing);
        let invalid = r#"Err(InvalidField("property_id"))"#;
        for value in ["5.0", "-5", "5e1", "null", "true", "[5]"] {
            let text = format!(r#"{{"type":"SUBSCRIBE","property_id":{value}}}"#);
            check(&text, invalid);
        }
        let untyped = r#"{"type":"PUBLISH","property_id":"1","message":{"n":1}}"#;
        check(untyped, r#"Err(InvalidField("message"))"#);
    }
}

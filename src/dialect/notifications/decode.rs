//! Messages of notification clients.

use crate::broker::{Command, Rejection};
use crate::dialect::Decoded;
use crate::json::Object;

pub(super) fn decode<'a>(message: &Object<'a>) -> Result<Decoded<'a>, Rejection> {
    let kind = message.field("type").and_then(|value| value.text());
    let command = match kind.ok_or(Rejection::UnknownType)? {
        "ping" => Command::Ping,
        "status_request" => Command::Status,
        kind => {
            return Ok(Decoded::Custom {
                kind,
                data: message.raw(),
            });
        }
    };
    Ok(Decoded::Command(command))
}

#[cfg(test)]
mod tests {
    use crate::dialect::fixtures::decoded;

    fn check(text: &str, expected: &str) {
        let decoded = decoded(&super::super::Notifications, text);
        assert_eq!(decoded, expected, "{text}");
    }

    #[test]
    fn each_message_becomes_its_command() {
        check(r#"{"type":"ping"}"#, "Ok(Ping)");
        check(r#"{"type":"status_request"}"#, "Ok(Status)");
        check(r#"{"type":1}"#, "Err(UnknownType)");
        check(
            r#"{"type":"x"}"#,
            r#"Ok(Custom { kind: "x", data: "{\"type\":\"x\"}" })"#,
        );
    }
}

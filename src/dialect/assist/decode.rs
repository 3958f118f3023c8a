//! Messages of assist clients.

use super::{notices, rooms};
use crate::base::channel_names::ROOM;
use crate::broker::{Command, Publication, Rejection, Subscription};
use crate::dialect::Decoded;
use crate::json::{Object, required_text};

pub(super) fn decode<'a>(
    message: &Object<'a>,
    scratch: &'a mut String,
) -> Result<Decoded<'a>, Rejection> {
    let kind = message.field("type").and_then(|value| value.text());
    let command = match kind.ok_or(Rejection::UnknownType)? {
        "auth" => Command::Authenticate {
            token: message.text("token")?,
        },
        "ping" => Command::Ping,
        "join_room" => subscribe(room_channel(message, scratch)?),
        "leave_room" => Command::Unsubscribe {
            channel: room_channel(message, scratch)?,
        },
        "subscribe_system_metrics" => subscribe(rooms::SYSTEM_MONITORING),
        "unsubscribe_system_metrics" => unsubscribe(rooms::SYSTEM_MONITORING),
        "subscribe_job_updates" => subscribe(rooms::BACKGROUND_JOBS),
        "unsubscribe_job_updates" => unsubscribe(rooms::BACKGROUND_JOBS),
        "subscribe_document_updates" => Command::SubscribePerUser {
            prefix: rooms::DOCUMENT_UPDATES_PREFIX,
        },
        "unsubscribe_document_updates" => Command::UnsubscribePerUser {
            prefix: rooms::DOCUMENT_UPDATES_PREFIX,
        },
        "get_active_jobs" => Command::GetRetained {
            is_awaited: false,
            channel: rooms::BACKGROUND_JOBS,
        },
        "broadcast_admin" => broadcast_admin(message, scratch)?,
        kind => {
            return Ok(Decoded::Custom {
                kind,
                data: message.raw(),
            });
        }
    };
    Ok(Decoded::Command(command))
}

fn subscribe(channel: &str) -> Command<'_> {
    Command::Subscribe(Subscription::to(channel))
}

fn unsubscribe(channel: &str) -> Command<'_> {
    Command::Unsubscribe { channel }
}

fn room_channel<'a>(message: &Object<'_>, scratch: &'a mut String) -> Result<&'a str, Rejection> {
    let room = message.text("room")?;
    if room.is_empty() {
        return Err(Rejection::MissingField("room"));
    }
    scratch.clear();
    scratch.push_str(ROOM);
    scratch.push_str(room);
    Ok(scratch)
}

/// An alert to all admins, as the integration functions of the assistant server send it.
fn broadcast_admin<'a>(
    message: &Object<'a>,
    scratch: &'a mut String,
) -> Result<Command<'a>, Rejection> {
    let [severity, text, details] = message.fields(["severity", "message", "details"]);
    let severity = match severity {
        Some(severity) => severity.text().ok_or(Rejection::InvalidField("severity"))?,
        None => "info",
    };
    let details = details.map_or("null", |details| details.raw());
    *scratch = notices::alert_json(
        "admin_broadcast",
        severity,
        required_text(text, "message")?,
        details,
    );
    Ok(Command::PublishWithRole {
        role: rooms::ADMIN_ROLE,
        publication: Publication::new(rooms::ADMIN, notices::SYSTEM_ALERT, scratch),
    })
}

#[cfg(test)]
mod tests {
    use crate::dialect::fixtures::decoded;

    fn check(text: &str, expected: &str) {
        let decoded = decoded(&super::super::Assist, text);
        assert!(decoded.contains(expected), "{text}: {decoded}");
    }

    #[test]
    fn each_message_becomes_its_command() {
        check(
            r#"{"type":"auth","token":"t"}"#,
            r#"Authenticate { token: "t" }"#,
        );
        check(r#"{"type":"ping"}"#, "Ping");
        check(
            r#"{"type":"join_room","room":"chat"}"#,
            r#"channel: "room:chat", subscription_id: None, filter: None"#,
        );
        check(
            r#"{"type":"leave_room","room":"chat"}"#,
            r#"Unsubscribe { channel: "room:chat" }"#,
        );
        check(
            r#"{"type":"subscribe_system_metrics"}"#,
            r#"channel: "room:system_monitoring""#,
        );
        check(
            r#"{"type":"unsubscribe_job_updates"}"#,
            r#"Unsubscribe { channel: "room:background_jobs" }"#,
        );
        check(
            r#"{"type":"subscribe_document_updates"}"#,
            r#"SubscribePerUser { prefix: "room:document_updates_" }"#,
        );
        check(
            r#"{"type":"get_active_jobs"}"#,
            r#"GetRetained { is_awaited: false, channel: "room:background_jobs" }"#,
        );
        check(
            r#"{"type":"broadcast_admin","message":"down \"at\" 5","details":{"a":1}}"#,
            r#"role: "admin", publication: Publication { channel: "room:admin", kind: "system_alert""#,
        );
        check(
            r#"{"type":"mine","x":1}"#,
            r#"Custom { kind: "mine", data: "{\"type\":\"mine\",\"x\":1}" }"#,
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        check(r#"{"type":"join_room"}"#, r#"MissingField("room")"#);
        check(
            r#"{"type":"join_room","room":""}"#,
            r#"MissingField("room")"#,
        );
        check(
            r#"{"type":"join_room","room":3}"#,
            r#"InvalidField("room")"#,
        );
        check(r#"{"type":"auth"}"#, r#"MissingField("token")"#);
        check(
            r#"{"type":"broadcast_admin"}"#,
            r#"MissingField("message")"#,
        );
        check(r#"{"room":"x"}"#, "UnknownType");
    }
}

//! Messages of gateway clients.

use crate::base::Position;
use crate::broker::{
    Command, HistoryRequest, PresenceRequest, Publication, Rejection, Subscription,
};
use crate::dialect::Decoded;
use crate::json::{Object, Value, required_object, required_text};

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
            let [channel, recover, persistent, previous, binary] =
                body()?.fields(["channel", "recover", "persistent", "previous", "binary"]);
            Command::Subscribe(Subscription {
                recover: position(recover, "recover")?,
                is_persistent: flag(persistent, "persistent")?,
                has_previous: flag(previous, "previous")?,
                takes_binary: flag(binary, "binary")?,
                ..Subscription::to(required_text(channel, "channel")?)
            })
        }
        "unsubscribe" => Command::Unsubscribe {
            channel: body()?.text("channel")?,
        },
        "publish" => publish(&body()?)?,
        "history" => history(&body()?)?,
        "presence" => presence(&body()?)?,
        "restore" => Command::Restore,
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

/// A position, if there is one.
fn position(value: Option<Value<'_>>, field: &'static str) -> Result<Option<Position>, Rejection> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let position = value.text().and_then(Position::parse);
    position.map(Some).ok_or(Rejection::InvalidField(field))
}

/// Whether a switch is on; it is off if it is missing.
fn flag(value: Option<Value<'_>>, field: &'static str) -> Result<bool, Rejection> {
    match value
        .filter(|value| !value.is_null())
        .map(|value| value.raw())
    {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Rejection::InvalidField(field)),
    }
}

/// A limit, if there is one.
fn limit(value: Option<Value<'_>>) -> Result<Option<u32>, Rejection> {
    let value = value.filter(|limit| !limit.is_null());
    let limit = value.map(|limit| limit.raw().parse());
    let limit = limit.transpose();
    limit.map_err(|_| Rejection::InvalidField("limit"))
}

fn history<'a>(body: &Object<'a>) -> Result<Command<'a>, Rejection> {
    let [channel, after, count] = body.fields(["channel", "after", "limit"]);
    Ok(Command::GetHistory(HistoryRequest {
        channel: required_text(channel, "channel")?,
        after: position(after, "after")?,
        limit: limit(count)?,
        is_awaited: false,
    }))
}

fn presence<'a>(body: &Object<'a>) -> Result<Command<'a>, Rejection> {
    let [channel, after, count] = body.fields(["channel", "after", "limit"]);
    let after = after.filter(|after| !after.is_null());
    let after = after.map(|after| after.text().ok_or(Rejection::InvalidField("after")));
    Ok(Command::GetPresence(PresenceRequest {
        channel: required_text(channel, "channel")?,
        after: after.transpose()?,
        limit: limit(count)?,
        is_awaited: false,
    }))
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
            r#"Ok(Subscribe(Subscription { channel: "news", subscription_id: None, filter: None, recover: None, is_persistent: false, is_restored: false, is_decided: false, is_awaited: false, has_previous: false, takes_binary: false }))"#,
        );
        check(
            r#"{"type":"unsubscribe","data":{"channel":"n\u00e9"}}"#,
            r#"Ok(Unsubscribe { channel: "né" })"#,
        );
        check(
            r#"{"type":"publish","data":{"channel":"c","type":"m","data":{"a": 1.0}}}"#,
            r#"Ok(Publish(Publication { channel: "c", kind: "m", data: Json("{\"a\": 1.0}"), retain: None, target: All, scope: Without, trace: None }))"#,
        );
        check(
            r#"{"type":"publish","data":{"channel":"c"}}"#,
            r#"Ok(Publish(Publication { channel: "c", kind: "message", data: Json("null"), retain: None, target: All, scope: Without, trace: None }))"#,
        );
        check(
            r#"{"type":"subscribe","data":{"channel":"c","recover":"0000000a-000000000000b"}}"#,
            concat!(
                r#"Ok(Subscribe(Subscription { channel: "c", subscription_id: None, filter: None, "#,
                "recover: Some(Position { epoch: 10, offset: 11 }), is_persistent: false, is_restored: false, is_decided: false, is_awaited: false, has_previous: false, takes_binary: false }))"
            ),
        );
        check(
            r#"{"type":"history","data":{"channel":"c","limit":7}}"#,
            r#"Ok(GetHistory(HistoryRequest { channel: "c", after: None, limit: Some(7), is_awaited: false }))"#,
        );
        check(
            r#"{"type":"presence","data":{"channel":"c","after":"ann"}}"#,
            r#"Ok(GetPresence(PresenceRequest { channel: "c", after: Some("ann"), limit: None, is_awaited: false }))"#,
        );
        check(
            r#"{"type":"subscribe","data":{"channel":"c","persistent":true}}"#,
            r#"Ok(Subscribe(Subscription { channel: "c", subscription_id: None, filter: None, recover: None, is_persistent: true, is_restored: false, is_decided: false, is_awaited: false, has_previous: false, takes_binary: false }))"#,
        );
        check(r#"{"type":"restore"}"#, "Ok(Restore)");
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
        for recover in ["7", r#""7""#, "[]"] {
            let text =
                format!(r#"{{"type":"subscribe","data":{{"channel":"c","recover":{recover}}}}}"#);
            check(&text, r#"Err(InvalidField("recover"))"#);
        }
        for limit in ["-1", "1.5", r#""1""#, "99999999999"] {
            let text = format!(r#"{{"type":"history","data":{{"channel":"c","limit":{limit}}}}}"#);
            check(&text, r#"Err(InvalidField("limit"))"#);
        }
        for persistent in ["1", r#""true""#, "{}"] {
            let text = format!(
                r#"{{"type":"subscribe","data":{{"channel":"c","persistent":{persistent}}}}}"#
            );
            check(&text, r#"Err(InvalidField("persistent"))"#);
        }
        check(
            r#"{"type":"presence","data":{"channel":"c","after":1}}"#,
            r#"Err(InvalidField("after"))"#,
        );
        check(
            r#"{"type":"publish","data":{"channel":"c","type":1}}"#,
            r#"Err(InvalidField("type"))"#,
        );
    }
}

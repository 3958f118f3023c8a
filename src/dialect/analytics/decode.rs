//! Messages of analytics clients.

use super::stream::Stream;
use crate::broker::{Command, Rejection, Subscription, SubscriptionIdRequest};
use crate::dialect::Decoded;
use crate::json::{Object, Value, required_object, required_text};

/// The field of a subscription id.
const ID: &str = "subscription_id";

pub(super) fn decode<'a>(
    message: &Object<'a>,
    scratch: &'a mut String,
) -> Result<Decoded<'a>, Rejection> {
    let [kind, data, id] = message.fields(["type", "data", ID]);
    let kind = kind.and_then(|value| value.text());
    let command = match kind.ok_or(Rejection::UnknownType)? {
        "auth" => Command::Authenticate {
            token: required_object(data, "data")?.text("token")?,
        },
        "subscribe" => subscribe(data, id, scratch)?,
        "unsubscribe" => {
            let data = data.and_then(|data| data.object());
            let inside = data.and_then(|data| data.field(ID));
            Command::UnsubscribeById {
                subscription_id: subscription_id(id, inside)?.ok_or(Rejection::MissingField(ID))?,
            }
        }
        "ping" => Command::Ping,
        kind => {
            return Ok(Decoded::Custom {
                kind,
                data: data.map_or("null", |data| data.raw()),
            });
        }
    };
    Ok(Decoded::Command(command))
}

fn subscribe<'a>(
    data: Option<Value<'a>>,
    id: Option<Value<'a>>,
    scratch: &'a mut String,
) -> Result<Command<'a>, Rejection> {
    let body = required_object(data, "data")?;
    let [stream, filters, inside] = body.fields(["type", "filters", ID]);
    let stream = Stream::named(required_text(stream, "type")?);
    let stream = stream.ok_or(Rejection::InvalidField("type"))?;
    *scratch = stream.channel();
    let filter = match filters.filter(|filters| !filters.is_null()) {
        Some(filters) => Some(filters.object().ok_or(Rejection::InvalidField("filters"))?),
        None => None,
    };
    Ok(Command::Subscribe(Subscription {
        subscription_id: subscription_id(id, inside)?.map_or(
            SubscriptionIdRequest::ServerAssigned,
            SubscriptionIdRequest::ClientChosen,
        ),
        filter,
        ..Subscription::to(scratch)
    }))
}

/// The subscription id of a message, which stands beside its data or in it.
fn subscription_id<'a>(
    beside: Option<Value<'a>>,
    inside: Option<Value<'a>>,
) -> Result<Option<&'a str>, Rejection> {
    let beside = beside.filter(|value| !value.is_null());
    let inside = inside.filter(|value| !value.is_null());
    match beside.or(inside) {
        Some(value) => value.text().map(Some).ok_or(Rejection::InvalidField(ID)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use crate::dialect::fixtures::decoded;

    fn check(text: &str, expected: &str) {
        let decoded = decoded(&super::super::Analytics, text);
        assert!(decoded.contains(expected), "{text}: {decoded}");
    }

    #[test]
    fn each_message_becomes_its_command() {
        check(
            r#"{"type":"auth","data":{"token":"t"}}"#,
            r#"Authenticate { token: "t" }"#,
        );
        let plain = r#"{"type":"subscribe","data":{"type":"metrics"}}"#;
        check(
            plain,
            r#"channel: "stream:metrics", subscription_id: ServerAssigned, filter: None"#,
        );
        let null = r#"{"type":"subscribe","data":{"type":"events","filters":null},"subscription_id":null}"#;
        check(
            null,
            r#"channel: "stream:events", subscription_id: ServerAssigned, filter: None"#,
        );
        let filtered = r#"{"type":"subscribe","data":{"type":"events","filters":{"a":1}}}"#;
        check(filtered, "filter: Some(");
        let beside = r#"{"type":"subscribe","data":{"type":"alerts"},"subscription_id":"mine"}"#;
        check(beside, r#"subscription_id: ClientChosen("mine")"#);
        let inside = r#"{"type":"subscribe","data":{"type":"alerts","subscription_id":"mine"}}"#;
        check(inside, r#"subscription_id: ClientChosen("mine")"#);
        check(
            r#"{"type":"unsubscribe","data":{"subscription_id":"s"}}"#,
            r#"UnsubscribeById { subscription_id: "s" }"#,
        );
        check(r#"{"type":"ping"}"#, "Ping");
        check(
            r#"{"type":"x","data":[1]}"#,
            r#"Custom { kind: "x", data: "[1]" }"#,
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        check("{}", "UnknownType");
        check(r#"{"type":"auth"}"#, r#"MissingField("data")"#);
        check(
            r#"{"type":"subscribe","data":{}}"#,
            r#"MissingField("type")"#,
        );
        check(
            r#"{"type":"subscribe","data":{"type":"news"}}"#,
            r#"InvalidField("type")"#,
        );
        check(
            r#"{"type":"subscribe","data":{"type":"events","filters":[]}}"#,
            r#"InvalidField("filters")"#,
        );
        check(
            r#"{"type":"unsubscribe","data":{}}"#,
            r#"MissingField("subscription_id")"#,
        );
        check(
            r#"{"type":"unsubscribe","data":{"subscription_id":7}}"#,
            r#"InvalidField("subscription_id")"#,
        );
    }
}

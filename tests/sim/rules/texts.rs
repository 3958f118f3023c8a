//! What clients of the two dialects send and receive.

use fanwire::base::{DialectId, Now};
use serde_json::{Value, json};

/// What a client asks for.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Ping,
    /// A type that no dialect has.
    Unknown,
    Authenticate(Proof),
    Subscribe(String),
    Unsubscribe(String),
    /// The channel of its user's documents (assist).
    OwnDocuments {
        subscribe: bool,
    },
    /// A number to a channel (gateway).
    Publish(String, u64),
    /// A number to all admins (assist).
    AlertAdmins(u64),
}

/// What a client shows to say who it is.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    /// A token with a signature by somebody else.
    Forged,
    /// Text that is no token.
    Garbage,
    /// A token of ours; its time may be over.
    Token(Token),
}

/// What a token says.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) user: &'static str,
    pub(super) tenant: Option<&'static str>,
    pub(super) roles: Vec<&'static str>,
    pub(super) permissions: Vec<&'static str>,
    pub(super) expires_s: u64,
}

/// Whom a publication is for, where tenants are isolated.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope {
    /// The sessions of this tenant, or those without one.
    Of(Option<&'static str>),
    All,
}

/// A message to all who have a channel.
#[derive(Clone, Debug)]
pub(super) struct Publication {
    pub(super) scope: Scope,
    pub(super) channel: String,
    pub(super) kind: &'static str,
    pub(super) data: Value,
}

/// What stands before a room's name in its channel.
pub(super) const ROOM: &str = "room:";

/// The kinds whose fields the assist dialect writes beside the type.
const FLAT_KINDS: [&str; 3] = ["room_event", "user_activity", "system_alert"];

/// The message with which a client of `dialect` asks; `token` is the text of what it shows.
pub(super) fn request(dialect: DialectId, ask: &Ask, token: &str) -> Value {
    let is_gateway = dialect == DialectId::Gateway;
    match ask {
        Ask::Ping => json!({"type": "ping"}),
        Ask::Unknown => json!({"type": "dance"}),
        Ask::Authenticate(_) if is_gateway => json!({"type": "auth", "data": {"token": token}}),
        Ask::Authenticate(_) => json!({"type": "auth", "token": token}),
        Ask::Subscribe(channel) if is_gateway => {
            json!({"type": "subscribe", "data": {"channel": channel}})
        }
        Ask::Subscribe(channel) => json!({"type": "join_room", "room": room(channel)}),
        Ask::Unsubscribe(channel) if is_gateway => {
            json!({"type": "unsubscribe", "data": {"channel": channel}})
        }
        Ask::Unsubscribe(channel) => json!({"type": "leave_room", "room": room(channel)}),
        Ask::OwnDocuments { subscribe: true } => json!({"type": "subscribe_document_updates"}),
        Ask::OwnDocuments { subscribe: false } => json!({"type": "unsubscribe_document_updates"}),
        Ask::Publish(channel, number) => {
            let data = json!({"channel": channel, "type": "m", "data": {"number": number}});
            json!({"type": "publish", "data": data})
        }
        Ask::AlertAdmins(number) => {
            json!({"type": "broadcast_admin", "message": number.to_string()})
        }
    }
}

/// The name of the room whose channel this is.
pub(super) fn room(channel: &str) -> &str {
    channel.strip_prefix(ROOM).unwrap_or(channel)
}

/// The publication of an alert to all admins.
pub(super) fn alert(number: u64) -> Publication {
    Publication {
        scope: Scope::Of(None),
        channel: "room:admin".into(),
        kind: "system_alert",
        data: json!({
            "alert_type": "admin_broadcast",
            "severity": "info",
            "message": number.to_string(),
            "details": null,
        }),
    }
}

/// The publication that tells a room who joined or left.
pub(super) fn room_event(event: &str, channel: &str, user: Option<&str>) -> Publication {
    Publication {
        scope: Scope::Of(None),
        channel: channel.to_owned(),
        kind: "room_event",
        data: json!({"event": event, "room": room(channel), "user_id": user}),
    }
}

/// The publication that tells admins who came or went.
pub(super) fn user_activity(event: &str, user: &str) -> Publication {
    Publication {
        scope: Scope::Of(None),
        channel: "room:admin".into(),
        kind: "user_activity",
        data: json!({"event": event, "user_id": user}),
    }
}

impl Publication {
    /// The same, for the sessions of a tenant.
    pub(super) fn of(self, tenant: Option<&'static str>) -> Self {
        let scope = Scope::Of(tenant);
        Self { scope, ..self }
    }

    /// The message in which a client of `dialect` receives it.
    pub(super) fn text(&self, dialect: DialectId, now: Now) -> Value {
        let Self {
            channel,
            kind,
            data,
            ..
        } = self;
        if dialect == DialectId::Gateway {
            return json!({"type": kind, "channel": channel, "data": data});
        }
        let mut text = json!({"type": kind, "timestamp": timestamp(now)});
        match data.as_object() {
            Some(fields) if FLAT_KINDS.contains(kind) => {
                let text = text.as_object_mut().unwrap();
                text.extend(fields.clone());
            }
            _ => text["data"] = data.clone(),
        }
        text
    }
}

/// The answer to a request that is rejected.
pub(super) fn error(dialect: DialectId, reason: &str) -> Value {
    match dialect {
        DialectId::Gateway => json!({"type": "error", "data": {"error": reason}}),
        _ => json!({"type": "error", "message": reason}),
    }
}

/// The answer to a token that proves nothing.
pub(super) fn auth_failed(dialect: DialectId, reason: &str) -> Value {
    match dialect {
        DialectId::Gateway => json!({"type": "auth_failed", "data": {"error": reason}}),
        _ => error(dialect, reason),
    }
}

/// The answer to who may speak now; [`CONNECTION_ID`] stands for the session's id.
pub(super) fn admitted(dialect: DialectId, user: Option<&str>, now: Now) -> Value {
    match dialect {
        DialectId::Gateway => json!({"type": "auth_success", "data": {"user_id": user}}),
        _ => json!({
            "type": "connection",
            "status": "connected",
            "connection_id": CONNECTION_ID,
            "user_id": user,
            "timestamp": timestamp(now),
        }),
    }
}

/// Stands for the id of a session, which only the server knows.
pub(super) const CONNECTION_ID: &str = "an id";

/// A time as the assist dialect writes it.
fn timestamp(now: Now) -> String {
    let mut text = Vec::new();
    fanwire::json::write_iso_time(&mut text, now.unix_ms);
    String::from_utf8(text)
        .unwrap()
        .trim_matches('"')
        .to_owned()
}

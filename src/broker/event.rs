//! Events that the broker sends to a client; each dialect encodes them in its own way.

use super::data::Data;
use crate::auth::Identity;
use crate::base::counters::MessageError;
use crate::base::{ConnectionId, DialectId, Now, Position, PresenceCounts, PresencePage};
use crate::json::JsonError;
use std::net::SocketAddr;
use std::sync::Arc;

/// What is known about a session.
#[derive(Debug)]
pub struct SessionView<'a> {
    /// Its id, unique among all nodes.
    pub id: SessionId,
    /// Its dialect.
    pub dialect: DialectId,
    /// The address of the client.
    pub peer: SocketAddr,
    /// When the session began, milliseconds since 1970-01-01 UTC.
    pub connected_unix_ms: u64,
    /// How long it has lasted, milliseconds.
    pub uptime_ms: u64,
    /// The identity, if it has one.
    pub identity: Option<&'a Identity>,
    /// The tenant of its token, else of its request.
    pub tenant: Option<&'a str>,
    /// The channels it subscribed to, oldest first.
    pub channels: Vec<&'a str>,
}

/// Id of a session: its node, where there are several, its shard and its connection there.
///
/// ```
/// for text in ["0001000002000003", "89abcdef0001000002000003"] {
///     let id: fanwire::SessionId = text.parse().unwrap();
///     assert_eq!(id.to_string(), text);
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    /// The number of the node; 0 = there is only one.
    pub node: u32,
    /// The shard's index.
    pub shard: u16,
    /// The connection.
    pub connection: ConnectionId,
}

impl std::fmt::Display for SessionId {
    /// Hexadecimal digits: node (8), if there are several, shard (4), generation (6), slot (6).
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (generation, slot) = (self.connection.generation(), self.connection.slot());
        if self.node != 0 {
            write!(formatter, "{:08x}", self.node)?;
        }
        write!(formatter, "{:04x}{generation:06x}{slot:06x}", self.shard)
    }
}

impl std::str::FromStr for SessionId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(());
        }
        let (node, text) = match text.len() {
            16 => (0, text),
            24 => (
                u32::from_str_radix(&text[..8], 16).map_err(drop)?,
                &text[8..],
            ),
            _ => return Err(()),
        };
        let part = |range| u32::from_str_radix(&text[range], 16).map_err(drop);
        Ok(Self {
            node,
            shard: u16::from_str_radix(&text[..4], 16).map_err(drop)?,
            connection: ConnectionId::new(part(10..16)?, part(4..10)?),
        })
    }
}

/// Users who came or went since the last announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence<'a> {
    /// Where they came and went.
    pub on: PresenceOn<'a>,
    /// The tenant whose sessions are told; `None` = those without one.
    pub tenant: Option<&'a str>,
    /// Users who came and were not there before, the first ones.
    pub joined: &'a [Arc<str>],
    /// How many came.
    pub joined_count: usize,
    /// Users whose last session went, the first ones.
    pub left: &'a [Arc<str>],
    /// How many went.
    pub left_count: usize,
    /// How many are there now.
    pub counts: PresenceCounts,
}

/// Where users come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceOn<'a> {
    /// On a channel, by its name for clients.
    Channel(&'a str),
    /// In a dialect: they have sessions or not.
    Dialect(DialectId),
}

/// A subscription as the acknowledgement shows it.
#[derive(Clone, Copy, Debug)]
pub struct SubscriptionView<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// Its subscription id, if it has one.
    pub subscription_id: Option<&'a str>,
    /// Its filter, as the client wrote it.
    pub filter: Option<&'a str>,
    /// Whether a publication tells the subscribers of the channel, including this session, at once
    /// that the user has joined.
    pub is_announced: bool,
    /// The user, if the session has one.
    pub user: Option<&'a str>,
    /// Up to where the client has received everything, if the channel has a history.
    pub position: Option<Position>,
    /// Whether what it missed follows, if it asked for that.
    pub is_recovered: Option<bool>,
    /// Whether it is remembered for the user, if the client asked for that.
    pub is_persistent: Option<bool>,
    /// Whether it was remembered, and is restored.
    pub is_restored: bool,
    /// Whether each publication has the position of the one before.
    pub has_previous: bool,
    /// Whether it receives binary publications too, if the client asked for that.
    pub takes_binary: Option<bool>,
    /// The time.
    pub now: Now,
}

/// A publication of the history, as a client receives it.
#[derive(Clone, Copy, Debug)]
pub struct HistoryMessage<'a> {
    /// Where it is in the history.
    pub position: Position,
    /// The type of the message.
    pub kind: &'a str,
    /// Its data.
    pub data: Data<'a>,
    /// When it was published, milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
}

/// An event for one session.
#[derive(Debug)]
pub enum Event<'a> {
    /// The session has begun.
    Welcome {
        /// The session.
        session: &'a SessionView<'a>,
        /// Whether it has not authenticated yet; the answer to a token of the handshake may follow.
        auth_pending: bool,
        /// The time.
        now: Now,
    },
    /// The token was accepted.
    Authenticated {
        /// The session.
        session: &'a SessionView<'a>,
        /// The identity of the session.
        identity: &'a Identity,
        /// The time.
        now: Now,
    },
    /// The token was rejected.
    AuthenticationFailed {
        /// `InvalidToken` or `TokenExpired`.
        rejection: Rejection,
    },
    /// The session receives publications of the channel from now on.
    Subscribed(SubscriptionView<'a>),
    /// The session receives no more publications of the channel.
    Unsubscribed(SubscriptionView<'a>),
    /// The publication was accepted.
    Published {
        /// The channel's name.
        channel: &'a str,
    },
    /// The retained values of a channel, as JSON, in the order of their keys.
    Retained {
        /// The channel's name.
        channel: &'a str,
        /// The values.
        values: Vec<&'a str>,
        /// The time.
        now: Now,
    },
    /// Answer to a ping message.
    Pong {
        /// The time.
        now: Now,
    },
    /// Answer to a status request.
    Status {
        /// The session.
        session: &'a SessionView<'a>,
        /// Sessions of the same dialect in the process, and of the same tenant where tenants are
        /// isolated.
        sessions: u64,
        /// The time.
        now: Now,
    },
    /// A message for this session alone.
    Message {
        /// What it is.
        kind: &'a str,
        /// Valid JSON.
        data: &'a str,
        /// The time.
        now: Now,
    },
    /// What was published on a channel.
    History {
        /// The channel's name.
        channel: &'a str,
        /// The publications, oldest first.
        messages: &'a [HistoryMessage<'a>],
        /// Up to where they reach.
        position: Position,
        /// Whether none is missing: neither before them, where the client named a position, nor
        /// after.
        is_complete: bool,
    },
    /// The persistent subscriptions of the user are restored.
    Restored {
        /// So many are.
        restored: usize,
        /// So many were rejected.
        rejected: usize,
    },
    /// A persistent subscription is not restored.
    NotRestored {
        /// The channel's name.
        channel: &'a str,
        /// Why.
        rejection: Rejection,
    },
    /// Who is on a channel.
    Present {
        /// The channel's name.
        channel: &'a str,
        /// The users.
        page: &'a PresencePage,
    },
    /// The server is about to shut down.
    ShuttingDown {
        /// Grace period in which sessions may end by themselves, milliseconds.
        grace_ms: u64,
        /// The time.
        now: Now,
    },
    /// The request was rejected.
    Error {
        /// Why.
        rejection: Rejection,
    },
    /// The embedding program rejected the request.
    Denied {
        /// The reason that it gives.
        reason: &'a str,
    },
}

/// Why a request was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Not JSON, or not an object.
    InvalidJson,
    /// JSON nested too deep.
    TooDeep,
    /// No `type`, or one that the dialect does not have.
    UnknownType,
    /// A required field is missing; its name in the dialect.
    MissingField(&'static str),
    /// A field has the wrong type or length; its name.
    InvalidField(&'static str),
    /// More messages than allowed.
    RateLimited,
    /// The session must authenticate first.
    AuthenticationRequired,
    /// The token is not valid.
    InvalidToken,
    /// The token has expired.
    TokenExpired,
    /// The permission for this is missing.
    PermissionDenied,
    /// Clients may not use this channel.
    ReservedChannel,
    /// The session has reached its limit of subscriptions.
    TooManySubscriptions,
    /// The filters of the session have reached their limit of bytes.
    TooManyFilters,
    /// The session already uses this subscription id.
    DuplicateSubscriptionId,
    /// The session has no subscription with this subscription id.
    UnknownSubscriptionId,
    /// The channel has no history.
    NoHistory,
    /// The publication was delivered, but the durable store does not have it.
    NotStored,
    /// It is not kept who is on the channel.
    NoPresence,
    /// The persistent subscriptions of the user were restored before.
    AlreadyRestored,
    /// A handler of the embedding program failed.
    HandlerFailed,
}

impl From<JsonError> for Rejection {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Invalid => Self::InvalidJson,
            JsonError::TooDeep => Self::TooDeep,
            JsonError::MissingField(name) => Self::MissingField(name),
            JsonError::InvalidField(name) => Self::InvalidField(name),
        }
    }
}

impl Rejection {
    /// The text for clients.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::MissingField(field) => format!("Missing {field}"),
            Self::InvalidField(field) => format!("Invalid {field}"),
            other => other.fixed_text().to_owned(),
        }
    }

    const fn fixed_text(self) -> &'static str {
        match self {
            Self::InvalidJson => "Invalid JSON",
            Self::TooDeep => "JSON nested too deep",
            Self::UnknownType => "Unknown message type",
            Self::MissingField(_) => "Missing field",
            Self::InvalidField(_) => "Invalid field",
            Self::RateLimited => "Rate limit exceeded",
            Self::AuthenticationRequired => "Authentication required",
            Self::InvalidToken => "Invalid token",
            Self::TokenExpired => "Token expired",
            Self::PermissionDenied => "Permission denied",
            Self::ReservedChannel => "Channel is reserved",
            Self::TooManySubscriptions => "Too many subscriptions",
            Self::TooManyFilters => "Too many filters",
            Self::DuplicateSubscriptionId => "Duplicate subscription",
            Self::UnknownSubscriptionId => "Unknown subscription",
            Self::NoHistory => "Channel has no history",
            Self::NotStored => "Published, but not stored",
            Self::NoPresence => "Channel has no presence",
            Self::AlreadyRestored => "Already restored",
            Self::HandlerFailed => "Internal error",
        }
    }

    /// The counter of this rejection.
    #[must_use]
    pub const fn error(self) -> Option<MessageError> {
        Some(match self {
            Self::InvalidJson => MessageError::Json,
            Self::TooDeep => MessageError::Depth,
            Self::UnknownType => MessageError::UnknownType,
            Self::MissingField(_)
            | Self::InvalidField(_)
            | Self::UnknownSubscriptionId
            | Self::NoHistory
            | Self::NoPresence => MessageError::Field,
            Self::DuplicateSubscriptionId | Self::AlreadyRestored => MessageError::Duplicate,
            Self::HandlerFailed => MessageError::Handler,
            Self::NotStored => MessageError::NotStored,
            Self::RateLimited => MessageError::RateLimited,
            Self::AuthenticationRequired => MessageError::Unauthenticated,
            Self::PermissionDenied | Self::ReservedChannel => MessageError::Forbidden,
            Self::TooManySubscriptions | Self::TooManyFilters => MessageError::Subscriptions,
            // Counted in `token_errors`, by kind.
            Self::InvalidToken | Self::TokenExpired => return None,
        })
    }
}

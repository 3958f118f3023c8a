//! What the broker tells a session; each dialect has its own words for it.

use crate::auth::Identity;
use crate::base::Now;
use crate::base::counters::MessageFault;
use crate::json::JsonFault;
use std::net::SocketAddr;

/// What a session may know of itself.
#[derive(Debug)]
pub struct SessionView<'a> {
    /// The far address.
    pub peer: SocketAddr,
    /// When the session began, milliseconds since 1970-01-01 UTC.
    pub connected_unix_ms: u64,
    /// How long it has lasted, milliseconds.
    pub uptime_ms: u64,
    /// Who it speaks for.
    pub identity: Option<&'a Identity>,
    /// The channels it subscribed to, oldest first.
    pub channels: Vec<&'a str>,
}

/// Something to tell a session.
#[derive(Debug)]
pub enum Event<'a> {
    /// The session has begun.
    Welcome {
        /// The session.
        session: &'a SessionView<'a>,
        /// The time.
        now: Now,
    },
    /// The token was accepted.
    Authenticated {
        /// Whom the session speaks for now.
        identity: &'a Identity,
    },
    /// The token was refused.
    AuthenticationFailed {
        /// `InvalidToken` or `TokenExpired`.
        refusal: Refusal,
    },
    /// Publications of the channel come from now on.
    Subscribed {
        /// The channel's name.
        channel: &'a str,
    },
    /// No more publications of the channel come.
    Unsubscribed {
        /// The channel's name.
        channel: &'a str,
    },
    /// The publication was accepted.
    Published {
        /// The channel's name.
        channel: &'a str,
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
    },
    /// The request was refused.
    Error {
        /// Why.
        refusal: Refusal,
    },
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not JSON, or not an object.
    InvalidJson,
    /// JSON nested too deep.
    TooDeep,
    /// No `type`, or one that the dialect does not have.
    UnknownType,
    /// A field that must be there, by the name that the dialect gives it.
    MissingField(&'static str),
    /// A field of the wrong kind or length, by its name.
    InvalidField(&'static str),
    /// More messages than allowed.
    RateLimited,
    /// Authenticate first.
    AuthenticationRequired,
    /// The token proves nothing.
    InvalidToken,
    /// The token's time is over.
    TokenExpired,
    /// The permission for this is missing.
    PermissionDenied,
    /// Clients may not use this channel.
    ReservedChannel,
    /// The session has as many subscriptions as it may.
    TooManySubscriptions,
}

impl From<JsonFault> for Refusal {
    fn from(fault: JsonFault) -> Self {
        match fault {
            JsonFault::Invalid => Self::InvalidJson,
            JsonFault::TooDeep => Self::TooDeep,
            JsonFault::MissingField(name) => Self::MissingField(name),
            JsonFault::InvalidField(name) => Self::InvalidField(name),
        }
    }
}

impl Refusal {
    /// The sentence for clients, without the names of fields.
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
        }
    }

    /// The counter of this refusal.
    #[must_use]
    pub const fn fault(self) -> Option<MessageFault> {
        Some(match self {
            Self::InvalidJson => MessageFault::Json,
            Self::TooDeep => MessageFault::Depth,
            Self::UnknownType => MessageFault::UnknownType,
            Self::MissingField(_) | Self::InvalidField(_) => MessageFault::Field,
            Self::RateLimited => MessageFault::RateLimited,
            Self::AuthenticationRequired => MessageFault::Unauthenticated,
            Self::PermissionDenied | Self::ReservedChannel => MessageFault::Forbidden,
            Self::TooManySubscriptions => MessageFault::Subscriptions,
            // Counted by the kind of token fault.
            Self::InvalidToken | Self::TokenExpired => return None,
        })
    }
}

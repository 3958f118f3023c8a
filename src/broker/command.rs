//! What happens to a session and what its client asks for, in the broker's words.

use super::event::Rejection;
use super::names::is_name;
use crate::auth::Identity;
use crate::base::DialectId;
use crate::base::counters::CloseReason;
use crate::base::limits::{CHANNEL_BYTES_MAX, KIND_BYTES_MAX};
use crate::json::Object;
use std::net::SocketAddr;

/// A message to all subscribers of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication<'a> {
    /// The channel's name, in the one namespace of all dialects.
    pub channel: &'a str,
    /// What the message is, for clients to tell apart.
    pub kind: &'a str,
    /// Valid JSON, as the publisher wrote it.
    pub data: &'a str,
    /// Whether the data is retained for clients that ask later.
    pub retain: Retain<'a>,
    /// Which of the subscribers receive it.
    pub target: BroadcastTarget<'a>,
}

/// What a publication does to the retained values of its channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retain<'a> {
    /// Nothing.
    #[default]
    None,
    /// Its data is the value of this key from now on.
    Value(&'a str),
    /// This key has no value from now on.
    Clear(&'a str),
}

/// Which subscribers of the channel a publication is for.
///
/// ```no_run
/// use fanwire::BroadcastTarget;
/// # let server = fanwire::Server::builder().dev().start()?;
/// server.broadcast_to("news", BroadcastTarget::Role("editor"), "draft", &"new draft")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BroadcastTarget<'a> {
    /// All of them.
    #[default]
    All,
    /// Those of one user.
    User(&'a str),
    /// Those with a role.
    Role(&'a str),
    /// Those with a permission.
    Permission(&'a str),
    /// Those of a tenant.
    Tenant(&'a str),
}

impl<'a> Publication<'a> {
    /// A message to all subscribers of `channel`, of which nothing is kept.
    #[must_use]
    pub const fn new(channel: &'a str, kind: &'a str, data: &'a str) -> Self {
        Self {
            channel,
            kind,
            data,
            retain: Retain::None,
            target: BroadcastTarget::All,
        }
    }

    /// Whether the names are ones that a record can carry.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let key = match self.retain {
            Retain::None => "",
            Retain::Value(key) | Retain::Clear(key) => key,
        };
        let whom = match self.target {
            BroadcastTarget::All => "",
            BroadcastTarget::User(name)
            | BroadcastTarget::Role(name)
            | BroadcastTarget::Permission(name)
            | BroadcastTarget::Tenant(name) => name,
        };
        is_name(self.channel, CHANNEL_BYTES_MAX)
            && is_name(self.kind, KIND_BYTES_MAX)
            && key.len() <= CHANNEL_BYTES_MAX
            && whom.len() <= CHANNEL_BYTES_MAX
    }
}

/// How a session tells one subscription from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionIdRequest<'a> {
    /// By the channel: one subscription for each.
    None,
    /// By a subscription id that the server gives.
    ServerAssigned,
    /// By a subscription id of the client's own.
    ClientChosen(&'a str),
}

/// What a client subscribes to.
#[derive(Clone, Copy, Debug)]
pub struct Subscription<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// What stands in each frame to tell it from those of other subscriptions.
    pub subscription_id: SubscriptionIdRequest<'a>,
    /// Only publications whose data matches.
    pub filter: Option<Object<'a>>,
    /// Whether the other subscribers are told.
    pub is_announced: bool,
}

impl<'a> Subscription<'a> {
    /// All publications of a channel.
    #[must_use]
    pub const fn to(channel: &'a str) -> Self {
        Self {
            channel,
            subscription_id: SubscriptionIdRequest::None,
            filter: None,
            is_announced: false,
        }
    }
}

/// Something that happened to a session, or that its client asks for.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// The connection was upgraded.
    Connect(Connect<'a>),
    /// The client authenticates.
    Authenticate {
        /// A JSON Web Token.
        token: &'a str,
    },
    /// The client subscribes to a channel.
    Subscribe(Subscription<'a>),
    /// The client unsubscribes.
    Unsubscribe {
        /// The channel's name.
        channel: &'a str,
    },
    /// The client ends the subscription with this subscription id.
    UnsubscribeById {
        /// The subscription id.
        subscription_id: &'a str,
    },
    /// The client subscribes to the channel of its user: the prefix, and the user's id.
    SubscribePerUser {
        /// What stands before the user's id.
        prefix: &'static str,
    },
    /// The client unsubscribes.
    UnsubscribePerUser {
        /// What stands before the user's id.
        prefix: &'static str,
    },
    /// The client publishes.
    Publish(Publication<'a>),
    /// The client publishes with the permission of a role.
    PublishWithRole {
        /// The role that it must have.
        role: &'static str,
        /// What it publishes.
        publication: Publication<'a>,
    },
    /// The client asks for the retained values of a channel.
    GetRetained {
        /// The channel's name.
        channel: &'a str,
    },
    /// The client sends a ping message.
    Ping,
    /// The client asks for its session's status.
    Status,
    /// The client sent a message that its dialect cannot decode.
    Malformed(Rejection),
    /// Bytes came from the client.
    Activity,
    /// A message came from the client; `Effect::DropMessage` when it is over the rate limit. It is
    /// counted before anything is spent on reading it.
    Message,
    /// The embedding program has found out whom the session speaks for.
    Identify(&'a Identity),
    /// The embedding program subscribes the session.
    SubscribeServerSide {
        /// The channel's name.
        channel: &'a str,
    },
    /// The embedding program ends a subscription of the session.
    UnsubscribeServerSide {
        /// The channel's name.
        channel: &'a str,
    },
    /// The embedding program, or an operator, ends the session.
    EndSession {
        /// Why, for the counters.
        reason: CloseReason,
    },
    /// The timer that an earlier `Effect::SetTimer` set has expired.
    TimerExpired,
    /// The server is about to shut down.
    AnnounceShutdown {
        /// Time for sessions to end by themselves, milliseconds.
        grace_ms: u64,
    },
    /// The connection is gone.
    Disconnect,
}

/// What is known of a connection when it was upgraded.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    /// Its dialect.
    pub dialect: DialectId,
    /// The address of the client.
    pub peer: SocketAddr,
    /// The token that came with the handshake.
    pub token: Option<&'a str>,
    /// The tenant that the request names.
    pub tenant: Option<&'a str>,
}

impl Command<'_> {
    /// Whether the command comes from the server itself and is no sign of life.
    #[must_use]
    pub const fn is_internal(&self) -> bool {
        matches!(
            self,
            Self::Connect(_)
                | Self::Identify(_)
                | Self::SubscribeServerSide { .. }
                | Self::UnsubscribeServerSide { .. }
                | Self::EndSession { .. }
                | Self::TimerExpired
                | Self::AnnounceShutdown { .. }
                | Self::Disconnect
        )
    }
}

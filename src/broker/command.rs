//! Commands: what happens to a session and what its client requests, independent of the dialect.

use super::data::Data;
use super::event::{Rejection, SessionId};
use super::names::is_name;
use crate::auth::Identity;
use crate::base::channel_names::{channel_of_tenant, is_reserved, is_tenant_id, tenant_of};
use crate::base::counters::{CloseReason, TokenError};
use crate::base::limits::{CHANNEL_BYTES_MAX, KIND_BYTES_MAX};
use crate::base::{ChannelTag, DialectId, FrameEncoding, Position, ProcessState, TraceContext};
use crate::json::Object;
use std::borrow::Cow;
use std::net::SocketAddr;

/// The type of binary publications, which have none of their own.
pub const BINARY_KIND: &str = "binary";

/// A message to all subscribers of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication<'a> {
    /// The channel's name; all dialects share one namespace.
    pub channel: &'a str,
    /// The type of the message, for clients.
    pub kind: &'a str,
    /// What it says.
    pub data: Data<'a>,
    /// Whether the data is retained for clients that request it later.
    pub retain: Retain<'a>,
    /// Which of the subscribers receive it.
    pub target: BroadcastTarget<'a>,
    /// Whose channel it is, where tenants are isolated.
    pub scope: TenantScope<'a>,
    /// The span in which it is published, if that is traced.
    pub trace: Option<TraceContext>,
}

/// Which tenant a publication is for, where tenants are isolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TenantScope<'a> {
    /// The sessions without a tenant, and those of dialects that do not isolate tenants.
    #[default]
    Without,
    /// One tenant.
    Of(&'a str),
    /// All sessions, of whatever tenant; only for the channels of server-side subscriptions.
    All,
}

impl<'a> From<Option<&'a str>> for TenantScope<'a> {
    fn from(tenant: Option<&'a str>) -> Self {
        tenant.map_or(Self::Without, Self::Of)
    }
}

/// What a publication does to the retained values of its channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retain<'a> {
    /// Nothing.
    #[default]
    None,
    /// The data becomes the value of this key.
    Value(&'a str),
    /// The value of this key is removed.
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
    /// All but one session, by its id: the one on whose behalf it is published.
    Except(&'a str),
}

impl BroadcastTarget<'_> {
    /// The session that does not receive it.
    pub(super) fn excluded(&self) -> Option<SessionId> {
        match self {
            Self::Except(id) => id.parse().ok(),
            _ => None,
        }
    }
}

impl<'a> Publication<'a> {
    /// A message to all subscribers of `channel`, without a retained value.
    #[must_use]
    pub const fn new(channel: &'a str, kind: &'a str, data: &'a str) -> Self {
        Self {
            channel,
            kind,
            data: Data::Json(data),
            retain: Retain::None,
            target: BroadcastTarget::All,
            scope: TenantScope::Without,
            trace: None,
        }
    }

    /// A binary message to all subscribers of `channel` that take such messages.
    #[must_use]
    pub const fn binary(channel: &'a str, bytes: &'a [u8]) -> Self {
        Self {
            data: Data::Binary(bytes),
            ..Self::new(channel, BINARY_KIND, "")
        }
    }

    /// The same publication, in the channel of that name of the tenant.
    #[must_use]
    pub const fn in_scope(self, scope: TenantScope<'a>) -> Self {
        Self { scope, ..self }
    }

    /// The channel's name in the tables and in the ring.
    #[must_use]
    pub fn full_name(&self) -> Cow<'a, str> {
        match self.scope {
            TenantScope::Of(tenant) => full_name(Some(tenant), self.channel),
            TenantScope::Without | TenantScope::All => self.channel.into(),
        }
    }

    /// Of which tenants the subscribers of `full_name` receive it.
    #[must_use]
    pub fn reach(&self) -> TenantScope<'a> {
        let is_of_tenant = || !is_reserved(self.channel) || tenant_of(self.channel).is_some();
        match self.scope {
            // The name says it.
            TenantScope::Of(_) | TenantScope::All if is_of_tenant() => TenantScope::Without,
            scope => scope,
        }
    }

    /// Whether the scope has such a channel: the channel of all sessions of a tenant is this tenant's
    /// only, and only channels of server-side subscriptions reach all tenants.
    #[must_use]
    pub fn is_scope_valid(&self) -> bool {
        let tenant = tenant_of(self.channel);
        tenant.is_none_or(is_tenant_id)
            && match self.scope {
                TenantScope::Without => true,
                TenantScope::Of(own) => is_tenant_id(own) && tenant.is_none_or(|it| it == own),
                TenantScope::All => is_reserved(self.channel),
            }
    }

    /// Changes the retained values of its channel; false when there is no room for its value,
    /// in its channel or in the memory for what waits.
    #[must_use]
    pub fn retain_in(&self, process_state: &ProcessState) -> bool {
        let values = &process_state.retained;
        match self.retain {
            Retain::None => {}
            Retain::Value(_) if process_state.memory.is_over() => return false,
            Retain::Value(key) => {
                let json = self.data.json();
                return json.is_some_and(|json| values.put(&self.full_name(), key, json));
            }
            Retain::Clear(key) => values.remove(&self.full_name(), key),
        }
        true
    }

    /// Whether a record can carry the names.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let key = match self.retain {
            Retain::None => "",
            Retain::Value(key) | Retain::Clear(key) => key,
        };
        let name = match self.target {
            BroadcastTarget::All => "",
            BroadcastTarget::User(name)
            | BroadcastTarget::Role(name)
            | BroadcastTarget::Permission(name)
            | BroadcastTarget::Tenant(name)
            | BroadcastTarget::Except(name) => name,
        };
        is_name(self.channel, CHANNEL_BYTES_MAX)
            && is_name(self.kind, KIND_BYTES_MAX)
            && key.len() <= CHANNEL_BYTES_MAX
            && name.len() <= CHANNEL_BYTES_MAX
            && self.is_scope_valid()
    }
}

/// The name of a channel in the tables and in the ring, for the sessions of `tenant`.
pub(super) fn full_name<'a>(tenant: Option<&str>, channel: &'a str) -> Cow<'a, str> {
    match tenant {
        Some(tenant) if !is_reserved(channel) => channel_of_tenant(tenant, channel).into(),
        _ => channel.into(),
    }
}

/// How the subscriptions of a session are identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionIdRequest<'a> {
    /// By the channel: at most one subscription per channel.
    None,
    /// By a subscription id that the server assigns.
    ServerAssigned,
    /// By a subscription id that the client chooses.
    ClientChosen(&'a str),
}

/// What a client subscribes to.
#[derive(Clone, Copy, Debug)]
pub struct Subscription<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// The subscription id that each frame contains.
    pub subscription_id: SubscriptionIdRequest<'a>,
    /// The filter that the data of a publication must match.
    pub filter: Option<Object<'a>>,
    /// Up to where the client has received everything, if it asks for what it missed.
    pub recover: Option<Position>,
    /// Whether it is to be remembered for the user.
    pub is_persistent: bool,
    /// Whether it was remembered, and is restored.
    pub is_restored: bool,
    /// Whether the callback about subscriptions allows it, if there is one.
    pub is_decided: bool,
    /// Whether it was waited for the publications of other nodes on the channel.
    pub is_awaited: bool,
    /// Whether each publication is to have the position of the one before on the channel.
    pub has_previous: bool,
    /// Whether it is to receive binary publications too.
    pub takes_binary: bool,
}

impl<'a> Subscription<'a> {
    /// All publications of a channel.
    #[must_use]
    pub const fn to(channel: &'a str) -> Self {
        Self {
            channel,
            subscription_id: SubscriptionIdRequest::None,
            filter: None,
            recover: None,
            is_persistent: false,
            is_restored: false,
            is_decided: false,
            is_awaited: false,
            has_previous: false,
            takes_binary: false,
        }
    }
}

/// What of the history of a channel a client requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRequest<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// What follows this position; `None` = the newest.
    pub after: Option<Position>,
    /// At most so many publications.
    pub limit: Option<u32>,
    /// Whether it was waited for the publications of other nodes on the channel.
    pub is_awaited: bool,
}

/// Who is on a channel, as a client requests it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceRequest<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// The users after this one, in the order of their ids; `None` = the first ones.
    pub after: Option<&'a str>,
    /// At most so many users.
    pub limit: Option<u32>,
    /// Whether it was waited for what other nodes tell of the channel.
    pub is_awaited: bool,
}

/// Something that happened to a session, or that its client requests.
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
    /// The client unsubscribes by subscription id.
    UnsubscribeById {
        /// The subscription id.
        subscription_id: &'a str,
    },
    /// The client subscribes to the channel of its user: the prefix, then the user's id.
    SubscribePerUser {
        /// The prefix before the user's id.
        prefix: &'static str,
    },
    /// The client unsubscribes.
    UnsubscribePerUser {
        /// The prefix before the user's id.
        prefix: &'static str,
    },
    /// The client publishes.
    Publish(Publication<'a>),
    /// The client publishes with the permission of a role.
    PublishWithRole {
        /// The role that the session must have.
        role: &'static str,
        /// What it publishes.
        publication: Publication<'a>,
    },
    /// The client requests the retained values of a channel.
    GetRetained {
        /// Whether it was waited for those of other nodes.
        is_awaited: bool,
        /// The channel's name.
        channel: &'a str,
    },
    /// The client requests what was published on a channel.
    GetHistory(HistoryRequest<'a>),
    /// The client asks for the persistent subscriptions of its user.
    Restore,
    /// The client requests who is on a channel.
    GetPresence(PresenceRequest<'a>),
    /// The client sends a ping message.
    Ping,
    /// The client requests the status of its session.
    Status,
    /// The client sent a message that its dialect cannot decode.
    Malformed(Rejection),
    /// Bytes arrived from the client.
    Activity,
    /// The client has acknowledged bytes that were ahead of the ping: the time for the pong begins
    /// again.
    PongDelayed,
    /// A message arrived from the client; the effect is `DropMessage` if it exceeds the rate limit.
    /// A message is counted before it is parsed.
    Message,
    /// The answer of others about a token of the session.
    TokenVerified {
        /// Whose it is, or why it is rejected.
        verified: Result<&'a Identity, TokenError>,
        /// How the client has shown it.
        source: TokenSource,
        /// Whether what other nodes know of the user is here.
        is_awaited: bool,
    },
    /// The embedding program has identified the session.
    Identify(&'a Identity),
    /// The embedding program subscribes the session.
    SubscribeServerSide {
        /// The channel's name.
        channel: &'a str,
    },
    /// The embedding program unsubscribes the session.
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
    TimerExpired {
        /// Whether a complete message of the session waits for this server, or for the answer to a question.
        message_waits: bool,
    },
    /// The server is about to shut down.
    AnnounceShutdown {
        /// Grace period in which sessions may end by themselves, milliseconds.
        grace_ms: u64,
    },
    /// The connection is gone.
    Disconnect {
        /// For channels with a history, the offset of the first publication that was not sent.
        unsent: &'a [(ChannelTag, u64)],
    },
}

/// What is known about a connection at its upgrade.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    /// Its dialect.
    pub dialect: DialectId,
    /// How frames for it are encoded.
    pub encoding: FrameEncoding,
    /// The address of the client.
    pub peer: SocketAddr,
    /// The token of `Authorization`, which may be a proxy's and not the client's.
    pub authorization: Option<&'a str>,
    /// The token that came with the handshake elsewhere, which is the client's.
    pub token: Option<&'a str>,
    /// The tenant that the request names.
    pub tenant: Option<&'a str>,
    /// Whether a trusted proxy has named it.
    pub is_tenant_vouched: bool,
}

/// How a client has shown a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// In its request.
    Handshake,
    /// In a message.
    Message,
}

impl Command<'_> {
    /// Whether every session may send the command, even one that has not authenticated.
    #[must_use]
    pub const fn is_open_to_all(&self) -> bool {
        self.is_internal()
            || matches!(
                self,
                Self::Authenticate { .. }
                    | Self::Ping
                    | Self::Status
                    | Self::Malformed(_)
                    | Self::Activity
                    | Self::Message
            )
    }

    /// Whether the command comes from the server and so does not count as activity of the client.
    #[must_use]
    pub const fn is_internal(&self) -> bool {
        matches!(
            self,
            Self::Connect(_)
                | Self::Identify(_)
                | Self::TokenVerified { .. }
                | Self::SubscribeServerSide { .. }
                | Self::UnsubscribeServerSide { .. }
                | Self::EndSession { .. }
                | Self::PongDelayed
                | Self::TimerExpired { .. }
                | Self::AnnounceShutdown { .. }
                | Self::Disconnect { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::memory::Waiting;

    #[test]
    fn no_value_is_retained_while_memory_is_short() {
        let process_state = ProcessState::new(1, 1 << 20);
        let retaining = Publication {
            retain: Retain::Value("1"),
            ..Publication::new("jobs", "job", "{}")
        };
        let waiting = Waiting::of(2 << 20);
        process_state.memory.update();
        assert!(!retaining.retain_in(&process_state));
        drop(waiting);
        process_state.memory.update();
        assert!(retaining.retain_in(&process_state));
        assert_eq!(
            process_state.retained.of("jobs"),
            ["{}"].map(Box::<str>::from)
        );
    }
}

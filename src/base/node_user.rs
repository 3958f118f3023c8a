//! What nodes share of a user: where the user stopped, persistent subscriptions, and the count of sessions.

use super::id::DialectId;
use super::persistent::PersistentUser;
use tokio::sync::oneshot;

/// A user of a dialect, in a tenant if those are isolated.
pub type NodeUser = PersistentUser;

/// Whose sessions are counted over all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CountedOwner {
    /// A user.
    User(NodeUser),
    /// A tenant, in a dialect.
    Tenant(DialectId, Box<str>),
}

/// A session is about to have a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserArrival {
    /// The user.
    pub user: NodeUser,
    /// Sessions that the user may have; `None` = they are not counted.
    pub sessions_max: Option<u32>,
    /// The tenant and the sessions that it may have, if they are counted.
    pub tenant: Option<(Box<str>, u32)>,
    /// How long it is remembered where the user stops, if it is, milliseconds.
    pub offline_ttl_ms: Option<u64>,
    /// How long the user's persistent subscriptions are remembered, if there may be some, milliseconds.
    pub persistent_ttl_ms: Option<u64>,
}

/// Such a session, and who is told whether it may.
#[derive(Debug)]
pub struct WaitingUser {
    /// Who it is.
    pub arrival: UserArrival,
    /// Whether the session counts in Redis already: it is asked once more what is known of the user.
    pub is_counted: bool,
    /// How often it was asked.
    pub looks: u32,
    /// Told when all that other nodes know of the user is here; false = the user or the tenant has too many
    /// sessions.
    pub admit: oneshot::Sender<bool>,
}

/// What has changed of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserChange {
    /// A first session here is subscribed to a channel with a history, from an offset on.
    Subscribed {
        /// The channel's full name.
        channel: Box<str>,
        /// The newest offset then.
        offset: u64,
    },
    /// A session has ended.
    Stopped {
        /// Its channels, up to where each was sent, and whether no other session here is subscribed.
        channels: Vec<(Box<str>, u64, bool)>,
        /// How long it is remembered, milliseconds.
        ttl_ms: u64,
    },
    /// No session here is subscribed to a channel any more, as the user wants.
    Unsubscribed {
        /// The channel's full name.
        channel: Box<str>,
    },
    /// It is to be forgotten where the user stopped.
    OfflineRemoved,
    /// The user wants to be subscribed to a channel again.
    Remembered {
        /// The channel, as the user's tenant calls it.
        channel: Box<str>,
        /// How long it is remembered, milliseconds.
        ttl_ms: u64,
    },
    /// The last session here has ended of a user with persistent subscriptions: these, as its tenant calls the
    /// channels.
    Released {
        /// The channels, oldest first.
        channels: Vec<Box<str>>,
        /// How long they are remembered, milliseconds.
        ttl_ms: u64,
    },
    /// Fields in Redis that say nothing any more.
    Outdated {
        /// Their names.
        fields: Vec<String>,
    },
    /// And does not any more.
    Forgotten {
        /// The channel, as the user's tenant calls it.
        channel: Box<str>,
    },
}

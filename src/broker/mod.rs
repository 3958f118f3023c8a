//! The rules: who may do what, who receives what. No bytes, no sockets, no clock.
//!
//! [`Broker::step`] takes a command and the time and returns its effects as values; the shard
//! carries them out. Each shard has a broker of its own, which has only the sessions of that shard.

mod access;
mod admission;
mod announcements;
mod attempts;
mod channels;
mod command;
mod data;
mod effect;
mod event;
pub mod filters;
mod healing;
mod known_tokens;
mod leaving;
mod lifecycle;
mod names;
mod offline;
mod persistent;
mod presence;
mod publishing;
mod quotas;
mod rate;
mod recoveries;
mod recovery;
mod restorations;
mod search;
mod server_subscriptions;
mod session;
mod state;
mod step;
mod subscriptions;

pub use access::{Grounds, Ruling, rule_on_channel, rule_on_session};
pub use attempts::HandshakeExcess;
pub use channels::{Channel, ChannelIndex, Reach, SubscriberGroup, SubscriberGroupKey, TenantKey};
pub use command::{
    BINARY_KIND, BroadcastTarget, Command, Connect, HistoryRequest, PresenceRequest, Publication,
    Retain, Subscription, SubscriptionIdRequest, TenantScope, TokenSource,
};
pub use data::Data;
pub use effect::Effect;
pub use event::{
    Event, HistoryMessage, Presence, PresenceOn, Rejection, SessionId, SessionView,
    SubscriptionView,
};
pub use known_tokens::Attempt;
pub use quotas::{Quotas, quota_user};
pub use rate::{RateLimitStatus, RateUse};
pub use recoveries::Recovery;
pub use search::{Found, SessionSearch};
pub use state::{Broker, BrokerParts};

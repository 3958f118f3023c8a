//! What is counted about clients under the names that the documents of the legacy servers have.

use super::label::label;
use super::metric::{CounterSet, Histogram, HistogramSet, Lifetime, ShortTime};
use super::top_channels::TopChannels;

label! {
    /// What became of a connection.
    ConnectionStatus {
        /// A session.
        Accepted = "accepted",
        /// None.
        Rejected = "rejected",
    }
}

label! {
    /// The type of a message of a client.
    ReceivedType {
        /// A token.
        Authenticate = "authenticate",
        /// A ping message.
        Ping = "ping",
        /// A question about the session.
        Status = "status",
        /// A subscription.
        Subscribe = "subscribe",
        /// The end of one.
        Unsubscribe = "unsubscribe",
        /// A publication.
        Publish = "publish",
        /// A request for publications of the history.
        History = "history",
        /// A question who is on a channel.
        Presence = "presence",
        /// A request for retained values.
        Retained = "retained",
        /// A request for persistent subscriptions.
        Restore = "restore",
        /// A type of the embedding program.
        Custom = "custom",
        /// A message that could not be read, or of no known type.
        Malformed = "malformed",
        /// A message that the middleware of the embedding program rejected.
        Rejected = "rejected",
        /// A message over the rate limit, which was not read.
        RateLimited = "rate_limited",
    }
}

label! {
    /// The type of a message to a client.
    SentType {
        /// What was published on a channel.
        Publication = "publication",
        /// The greeting.
        Welcome = "welcome",
        /// A token was accepted.
        Authenticated = "authenticated",
        /// A token was rejected.
        AuthenticationFailed = "authentication_failed",
        /// The answer to a subscription.
        Subscribed = "subscribed",
        /// The answer to the end of one.
        Unsubscribed = "unsubscribed",
        /// The answer to a publication.
        Published = "published",
        /// Retained values.
        Retained = "retained",
        /// The answer to a ping message.
        Pong = "pong",
        /// The answer to a question about the session.
        Status = "status",
        /// A message of the embedding program.
        Custom = "custom",
        /// Publications of the history.
        History = "history",
        /// What became of persistent subscriptions.
        Restored = "restored",
        /// Who is on a channel.
        Presence = "presence",
        /// The server shuts down.
        Shutdown = "shutdown",
        /// A request was rejected.
        Error = "error",
    }
}

/// What is counted about clients on one shard; `observe` exports the sums over all shards under the
/// names that the documents of the legacy servers have.
#[derive(Debug, Default)]
pub struct ClientCounters {
    /// Connections by what became of them.
    pub connections: CounterSet<ConnectionStatus>,
    /// Messages of clients.
    pub received: CounterSet<ReceivedType>,
    /// Messages to clients, without publications.
    pub sent: CounterSet<SentType>,
    /// How long messages took, of one in sixteen.
    pub message_times: HistogramSet<ReceivedType, ShortTime>,
    /// How long sessions lasted.
    pub lifetimes: Histogram<Lifetime>,
    /// The properties of monitoring with the most subscriptions.
    pub properties: TopChannels,
}

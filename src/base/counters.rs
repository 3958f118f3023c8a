//! Counters of one shard. Every rejection, drop and cut adds to one of them.
//!
//! Each counter has a single writer, its shard, and any number of readers, so adding is a plain load
//! and store without a locked instruction.

use super::id::Variant;
use super::label::{Label, label};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one shard writes and anyone reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Only the owning shard calls this.
    pub fn add(&self, amount: u64) {
        // Relaxed, and not read-modify-write: one writer, and readers want only the value itself.
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(amount);
        self.0.store(sum, Ordering::Relaxed);
    }

    /// Sets the value of a gauge. Only the owning shard calls this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter per value of a label.
#[derive(Debug)]
pub struct CounterSet<L>(Box<[Counter]>, PhantomData<L>);

impl<L: Label> Default for CounterSet<L> {
    fn default() -> Self {
        let counters = L::ALL.iter().map(|_| Counter::default());
        Self(counters.collect(), PhantomData)
    }
}

impl<L: Label> CounterSet<L> {
    /// The counter of one label value.
    #[must_use]
    pub fn of(&self, label: L) -> &Counter {
        &self.0[label.index()]
    }

    /// All label values with their counts.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
        L::ALL
            .iter()
            .map(|label| (label.name(), self.of(*label).value()))
    }
}

label! {
    /// Why frames that were queued for a connection never left.
    DropReason {
        /// The send queue was full: the peer reads slower than it is sent to.
        SlowConsumer = "slow_consumer",
        /// The connection was closed, by either side, with frames waiting.
        Closed = "closed",
    }
}

label! {
    /// Why a connection did not become a session.
    RejectReason {
        /// The shard's table of sockets is full; the socket is closed at once.
        TableFull = "table_full",
        /// The request head was malformed, answered with 400.
        BadRequest = "bad_request",
        /// The request head was longer than the limit, answered with 431.
        HeadTooLarge = "head_too_large",
        /// The request head did not arrive in time, answered with 408.
        HeadTimeout = "head_timeout",
        /// An upgrade to a path that speaks no dialect, answered with 404.
        UnknownPath = "unknown_path",
        /// A page of another origin, answered with 403.
        Origin = "origin",
        /// A session too many, answered with 503.
        Capacity = "capacity",
        /// An upgrade while the server goes away, answered with 503.
        Draining = "draining",
        /// An upgrade with an unsupported version, answered with 426.
        Version = "version",
        /// The kernel could not accept: out of descriptors or memory.
        Accept = "accept",
        /// The peer left before its request head was complete.
        Abandoned = "abandoned",
    }
}

label! {
    /// What a WebSocket peer did against RFC 6455.
    ProtocolError {
        /// A reserved bit was set without an extension that defines it.
        ReservedBits = "reserved_bits",
        /// An opcode without a meaning.
        Opcode = "opcode",
        /// A client frame without a mask.
        Unmasked = "unmasked",
        /// A length not in its shortest form or with the top bit set.
        Length = "length",
        /// A control frame that is fragmented or over 125 bytes.
        Control = "control",
        /// A continuation without a start, or a start inside a message.
        Fragmentation = "fragmentation",
        /// Text that is not UTF-8.
        Utf8 = "utf8",
        /// A message over the size limit.
        TooLarge = "too_large",
        /// A close frame with one byte, an invalid code or an invalid reason.
        ClosePayload = "close_payload",
        /// A binary message where the dialect speaks text.
        Binary = "binary",
        /// The socket ended without a close handshake.
        AbruptEnd = "abrupt_end",
    }
}

label! {
    /// Why a message was answered with an error.
    MessageError {
        /// Not JSON, or not an object.
        Json = "json",
        /// JSON nested deeper than the limit.
        Depth = "depth",
        /// `type` is missing or not a known one.
        UnknownType = "unknown_type",
        /// A field is missing or of the wrong kind.
        Field = "field",
        /// More messages than the rate limit allows.
        RateLimited = "rate_limited",
        /// The session has to authenticate first.
        Unauthenticated = "unauthenticated",
        /// The session lacks a permission, or the name is reserved.
        Forbidden = "forbidden",
        /// Too many subscriptions.
        Subscriptions = "subscriptions",
        /// A subscription's id that the session uses already.
        Duplicate = "duplicate",
        /// A handler of the program that embeds the server rejected, or panicked.
        Handler = "handler",
    }
}

label! {
    /// Why a token was rejected.
    TokenError {
        /// Not three base64url parts of JSON, or claims of the wrong kind.
        Malformed = "malformed",
        /// Signed with another algorithm than configured, `none` included.
        Algorithm = "algorithm",
        /// The signature does not match.
        Signature = "signature",
        /// `exp` has passed.
        Expired = "expired",
        /// `nbf` has not come yet.
        NotYetValid = "not_yet_valid",
        /// Neither in the list nor known to the program's own check.
        Unknown = "unknown",
        /// No user claim.
        NoUser = "no_user",
        /// The server has no secret, so no token can be checked.
        Unconfigured = "unconfigured",
    }
}

label! {
    /// Who or what ended a connection that was upgraded.
    CloseReason {
        /// The peer closed first.
        Peer = "peer",
        /// The server is shutting down (1001).
        Shutdown = "shutdown",
        /// The peer broke the protocol (1002, 1003, 1007, 1009).
        Protocol = "protocol",
        /// No valid token, or too many bad ones (1008).
        Unauthorized = "unauthorized",
        /// No authentication in time (1008).
        AuthTimeout = "auth_timeout",
        /// The token expired while connected (1008).
        TokenExpired = "token_expired",
        /// No answer to a ping in time.
        PongTimeout = "pong_timeout",
        /// The send queue was full (1008).
        SlowConsumer = "slow_consumer",
        /// The connection limit (1013).
        Capacity = "capacity",
        /// The origin is not allowed (1008).
        Origin = "origin",
        /// Too many sessions of the address, the user or the tenant (1008).
        Quota = "quota",
        /// The tenant of the request is not the token's (1008).
        Tenant = "tenant",
        /// Too many messages over the rate limit (1008).
        RateLimited = "rate_limited",
        /// The program that embeds the server, or an operator, ended it.
        Operator = "operator",
    }
}

/// All counters of one shard.
#[derive(Debug, Default)]
pub struct ShardCounters {
    /// Sockets accepted.
    pub connections_accepted: Counter,
    /// Sockets open now (gauge).
    pub connections: Counter,
    /// WebSocket sessions open now (gauge).
    pub sessions: Counter,
    /// Sessions that have shown who they are (gauge).
    pub authenticated: Counter,
    /// Channels that exist now (gauge).
    pub channels: Counter,
    /// Subscriptions that exist now (gauge).
    pub subscriptions: Counter,
    /// Connections that did not become sessions.
    pub connections_rejected: CounterSet<RejectReason>,
    /// Complete messages received.
    pub messages_received: Counter,
    /// Bytes received from sockets.
    pub bytes_received: Counter,
    /// Bytes written to sockets.
    pub bytes_sent: Counter,
    /// Publications accepted from clients of this shard.
    pub publications: Counter,
    /// Frames encoded, per variant.
    pub encodes: CounterSet<Variant>,
    /// Publications written whole to a subscriber's socket.
    pub deliveries: Counter,
    /// Frames that never left.
    pub dropped: CounterSet<DropReason>,
    /// Protocol errors of peers.
    pub protocol_errors: CounterSet<ProtocolError>,
    /// Messages answered with an error.
    pub message_errors: CounterSet<MessageError>,
    /// Tokens rejected.
    pub token_errors: CounterSet<TokenError>,
    /// Connections closed.
    pub closes: CounterSet<CloseReason>,
    /// Filters evaluated: candidates that the index named.
    pub filter_evaluations: Counter,
    /// Values to keep that found their channel's table full.
    pub retained_rejected: Counter,
    /// Records read from the ring.
    pub ring_records: Counter,
    /// Writes that found the ring full and waited: back-pressure.
    pub ring_full: Counter,
    /// Bytes of the ring that this shard has not read yet (gauge).
    pub ring_lag_bytes: Counter,
    /// Sends that the socket did not take whole.
    pub short_sends: Counter,
    /// Receives that found no buffer and were armed again.
    pub buffers_exhausted: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_label_value_has_its_own_counter() {
        let set = CounterSet::<DropReason>::default();
        set.of(DropReason::Closed).add(2);
        set.of(DropReason::SlowConsumer).add(1);
        set.of(DropReason::Closed).add(1);
        let values: Vec<_> = set.values().collect();
        assert_eq!(values, [("slow_consumer", 1), ("closed", 3)]);
    }
}

//! The metrics of a shard. Every rejection, drop and close adds to one of these metrics.

use super::client_counters::ClientCounters;
use super::id::Variant;
use super::label::label;
use super::metric::{
    BatchSize, Counter, CounterSet, Gauge, Histogram, MillisCounter, ShortTime, metrics,
};

label! {
    /// Why frames that were queued for a connection were never sent.
    DropReason {
        /// The send queue was full: the peer reads more slowly than the server sends.
        SlowConsumer = "slow_consumer",
        /// The connection was closed, by either side, with frames waiting.
        Closed = "closed",
    }
}

label! {
    /// The class of the status of an answer over HTTP.
    HttpStatus {
        /// Done.
        Success = "2xx",
        /// Rejected, by the caller's fault.
        Rejected = "4xx",
        /// Failed, by the server's fault or its state.
        Failed = "5xx",
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
        /// An upgrade to a path without a dialect, answered with 404.
        UnknownPath = "unknown_path",
        /// A page of an origin that is not allowed, answered with 403.
        Origin = "origin",
        /// A limit of sessions was reached, answered with 503.
        Capacity = "capacity",
        /// An upgrade while the server is shutting down, answered with 503.
        Draining = "draining",
        /// An upgrade with an unsupported version, answered with 426.
        Version = "version",
        /// The kernel could not accept a connection: out of descriptors or memory.
        Accept = "accept",
        /// The peer disconnected before its request head was complete.
        Abandoned = "abandoned",
        /// The oldest of too many connections before authentication, while its request was read or
        /// answered; the socket is closed at once.
        UnauthenticatedMax = "unauthenticated_max",
        /// The same, the oldest of its address.
        UnauthenticatedPerIpMax = "unauthenticated_per_ip_max",
        /// An upgrade over the handshakes per second of its address, answered with 429.
        HandshakesPerIpMax = "handshakes_per_ip_max",
        /// An upgrade over the handshakes per second of its shard, answered with 503.
        HandshakesPerShardMax = "handshakes_per_shard_max",
        /// A malformed header of the PROXY protocol, of a trusted proxy, answered with 400.
        ProxyHeader = "proxy_header",
        /// No header of the PROXY protocol of a trusted proxy where one is required, answered with
        /// 400.
        ProxyHeaderMissing = "proxy_header_missing",
        /// A header of the PROXY protocol where none counts: of another peer than a trusted proxy, or
        /// while `proxy_protocol` is off; answered with 400.
        ProxyHeaderUntrusted = "proxy_header_untrusted",
        /// A trusted proxy named its client by something that is no address, answered with 400.
        ForwardedHeader = "forwarded_header",
        /// The TLS handshake failed, or what came was no TLS.
        Tls = "tls",
    }
}

label! {
    /// How a TLS handshake ended.
    TlsHandshake {
        /// The connection is encrypted.
        Done = "done",
        /// The client and the server found no agreement, or what came was no TLS.
        Failed = "failed",
    }
}

label! {
    /// Who encrypts what is sent to a connection.
    TlsSender {
        /// The kernel.
        Kernel = "kernel",
        /// The server itself.
        Process = "process",
    }
}

label! {
    /// Why a connection for which the kernel encrypts was closed.
    KernelTlsError {
        /// The kernel did not take the keys.
        SendKeys = "send_keys",
        /// The client wanted other keys, and the kernel cannot change them.
        KeyUpdate = "key_update",
        /// So much was encrypted with a key that another is needed, and the kernel or the version of TLS
        /// cannot change it.
        KeyLimit = "key_limit",
    }
}

label! {
    /// How a WebSocket peer violated RFC 6455.
    ProtocolError {
        /// A reserved bit was set without an extension that defines it.
        ReservedBits = "reserved_bits",
        /// A reserved opcode.
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
        /// A compressed message that is not deflate data, or is cut short.
        Deflate = "deflate",
        /// A compressed message that becomes too many times as long.
        DeflateRatio = "deflate_ratio",
        /// A close frame with one byte, an invalid code or an invalid reason.
        ClosePayload = "close_payload",
        /// A binary message, while the dialect is text only.
        Binary = "binary",
        /// The connection ended without a close handshake.
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
        /// `type` is missing or unknown.
        UnknownType = "unknown_type",
        /// A field is missing or has the wrong type.
        Field = "field",
        /// More messages than the rate limit allows.
        RateLimited = "rate_limited",
        /// The session must authenticate first.
        Unauthenticated = "unauthenticated",
        /// The session lacks a permission, or the name is reserved.
        Forbidden = "forbidden",
        /// Too many subscriptions, or filters of too many bytes.
        Subscriptions = "subscriptions",
        /// The session already uses the subscription id.
        Duplicate = "duplicate",
        /// A handler of the embedding program rejected the message, or panicked.
        Handler = "handler",
        /// What was published was delivered, but could not be stored (`store_sync = "always"`).
        NotStored = "not_stored",
    }
}

label! {
    /// Why a server-side subscription was not made.
    SubscriptionReject {
        /// More channels follow from the token's roles and permissions than a session may have.
        Truncated = "truncated",
        /// The program named a channel that is reserved or no valid name.
        Name = "name",
        /// The session has as many subscriptions as it may have.
        Full = "full",
    }
}

label! {
    /// Why a token was rejected.
    TokenError {
        /// Not three base64url parts of JSON, or claims of the wrong type.
        Malformed = "malformed",
        /// Signed with an algorithm that no key is for, including `none`.
        Algorithm = "algorithm",
        /// Signed with a key that the server does not have (`kid`).
        Key = "key",
        /// With extensions that must be understood (`crit`).
        Critical = "critical",
        /// The signature does not match.
        Signature = "signature",
        /// `exp` has passed.
        Expired = "expired",
        /// `nbf` has not been reached yet.
        NotYetValid = "not_yet_valid",
        /// Of an issuer that is not in `jwt_issuers`.
        Issuer = "issuer",
        /// For other audiences than `jwt_audiences`.
        Audience = "audience",
        /// A user, tenant, role, permission or token id that is too long or has control characters.
        Name = "name",
        /// Revoked.
        Revoked = "revoked",
        /// Rejected by the authentication callback or by the program.
        Callback = "callback",
        /// The authentication callback or the program failed, or did not answer in time.
        Unanswered = "unanswered",
        /// Neither a static token nor accepted by the program's own check.
        Unknown = "unknown",
        /// Not verified: too many tokens from the address proved nothing.
        Throttled = "throttled",
        /// No user claim.
        NoUser = "no_user",
        /// The server has no secret and so cannot verify tokens.
        Unconfigured = "unconfigured",
    }
}

label! {
    /// Why a connection that was upgraded was closed.
    CloseReason {
        /// The peer closed first.
        Peer = "peer",
        /// The server is shutting down (1001).
        Shutdown = "shutdown",
        /// The peer violated the protocol (1002, 1003, 1007, 1009).
        Protocol = "protocol",
        /// No valid token, or too many failed authentication attempts (1008).
        Unauthorized = "unauthorized",
        /// The token or the user was revoked (1008).
        Revoked = "revoked",
        /// No authentication in time (1008).
        AuthTimeout = "auth_timeout",
        /// The token expired while connected (1008).
        TokenExpired = "token_expired",
        /// No answer to a ping in time (1008).
        PongTimeout = "pong_timeout",
        /// The send queue was full (1008).
        SlowConsumer = "slow_consumer",
        /// A limit of sessions was reached (1013).
        Capacity = "capacity",
        /// It was the oldest of too many connections that had yet to authenticate (1013).
        UnauthenticatedMax = "unauthenticated_max",
        /// The same, the oldest of its address (1013).
        UnauthenticatedPerIpMax = "unauthenticated_per_ip_max",
        /// Over the handshakes per second of its address (1013).
        HandshakesPerIpMax = "handshakes_per_ip_max",
        /// Over the handshakes per second of its shard (1013).
        HandshakesPerShardMax = "handshakes_per_shard_max",
        /// Its token was not verified, because too many from its address proved nothing (1013).
        AuthThrottled = "auth_throttled",
        /// The authentication callback or the program could not say whose the token is (1013).
        AuthUnanswered = "auth_unanswered",
        /// The shard was stalled for so long that publications for it are lost (1013).
        Stalled = "stalled",
        /// What it missed was not kept until it had received it (1013).
        RecoveryFailed = "recovery_failed",
        /// The session sent a large message while more waited in the process than `waiting_bytes_max`
        /// (1013).
        Memory = "memory",
        /// The origin is not allowed (1008).
        Origin = "origin",
        /// Too many sessions of the address, the user or the tenant (1008).
        Quota = "quota",
        /// The tenant of the request is not the tenant of the token (1008).
        Tenant = "tenant",
        /// Too many messages over the rate limit (1008).
        RateLimited = "rate_limited",
        /// The embedding program, or an operator, closed it (1000, or the code of the program).
        Operator = "operator",
    }
}

label! {
    /// A kind of events of clients that are logged.
    LogEvent {
        /// A connection was upgraded.
        Connected = "connected",
        /// A session has another identity.
        Authenticated = "authenticated",
        /// A token was rejected.
        AuthenticationFailed = "authentication_failed",
        /// A client subscribed or unsubscribed.
        Subscription = "subscription",
        /// A message was rejected.
        MessageRejected = "message_rejected",
        /// A connection did not become a session.
        ConnectionRejected = "connection_rejected",
        /// A limit was reached.
        Limit = "limit",
        /// An upgraded connection was closed.
        Closed = "closed",
        /// A request to the HTTP API was rejected.
        HttpRejected = "http_rejected",
        /// A caller of the HTTP API with the right key changed something that is not a publication, or
        /// tried to.
        AdminChange = "admin_change",
        /// The same, that changed nothing.
        AdminFailure = "admin_failure",
        /// A caller of the HTTP API published.
        HttpPublished = "http_published",
    }
}

metrics! {
    /// All metrics of one shard. A metric is one entry here: `observe::metrics` exports it under
    /// the name `fanwire_NAME`, counters with `_total`, and `docs/METRICS.md` lists it.
    pub struct ShardCounters {
        /// Sockets accepted.
        connections_accepted: Counter;
        /// Connections that did not become sessions.
        connections_rejected: CounterSet<RejectReason>, label = "reason";
        /// TLS handshakes, by how they ended.
        tls_handshakes: CounterSet<TlsHandshake>, label = "result";
        /// Connections with TLS, by who encrypts what is sent to them; not those that end before that is settled.
        tls_connections: CounterSet<TlsSender>, label = "sender";
        /// Connections closed because the kernel could not go on encrypting, by the cause.
        kernel_tls_errors: CounterSet<KernelTlsError>, label = "error";
        /// Requests answered over HTTP, but for those that are rejected before their head is whole.
        http_requests: CounterSet<HttpStatus>, label = "status";
        /// Sockets open.
        connections: Gauge;
        /// Connections that have yet to authenticate: those whose request is read or answered, and
        /// sessions that must authenticate.
        unauthenticated_connections: Gauge;
        /// WebSocket sessions of the shard.
        shard_sessions: Gauge;
        /// Sessions that have authenticated.
        authenticated_sessions: Gauge;
        /// Channels that clients have subscribed to.
        channels: Gauge;
        /// Subscriptions of clients.
        subscriptions: Gauge;
        /// Upgraded connections closed, by who or what closed them.
        closes: CounterSet<CloseReason>, label = "reason";
        /// Complete messages received.
        messages_received: Counter;
        /// Bytes received from sockets.
        bytes_received: Counter;
        /// Bytes written to sockets.
        bytes_sent: Counter;
        /// Publications accepted.
        publications: Counter;
        /// Frames encoded: one per publication and variant in use.
        encodes: CounterSet<Variant>, label = "variant";
        /// Texts compressed: one per publication, dialect and size of the window in use, and one per
        /// reply.
        compressions: Counter;
        /// Bytes of these texts.
        compression_input_bytes: Counter;
        /// Bytes that are sent of them, compressed or, where that is not smaller, as they are.
        compression_output_bytes: Counter;
        /// Compressed messages of clients that were inflated.
        inflations: Counter;
        /// Bytes of their payloads.
        inflation_input_bytes: Counter;
        /// Bytes of their texts.
        inflation_output_bytes: Counter;
        /// Filters evaluated: the candidates that the index named.
        filter_evaluations: Counter;
        /// Retained values rejected because their channel's table was full or their key
        /// is too long.
        retained_rejected: Counter;
        /// Publications written completely to a subscriber's socket.
        deliveries: Counter;
        /// Publications of the history that were sent to subscribers which had missed them.
        recovered: Counter;
        /// Turns of subscribers that recover: each sends some publications, or finds that the subscriber
        /// cannot receive more yet.
        recovery_turns: Counter;
        /// Binary publications that a subscriber did not receive, because it takes text only.
        binary_skipped: Counter;
        /// Publications queued for a subscriber and never sent.
        dropped: CounterSet<DropReason>, label = "reason";
        /// Sends that a socket did not accept completely.
        short_sends: Counter;
        /// Receives that found no buffer and were started again.
        buffers_exhausted: Counter;
        /// Violations of RFC 6455 and RFC 7692 by clients.
        protocol_errors: CounterSet<ProtocolError>, label = "error";
        /// Server-side subscriptions that were not made.
        server_subscriptions_rejected: CounterSet<SubscriptionReject>, label = "reason";
        /// Messages answered with an error.
        message_errors: CounterSet<MessageError>, label = "error";
        /// Tokens rejected.
        token_errors: CounterSet<TokenError>, label = "error";
        /// Events of clients that were not logged, because there were more of their kind than
        /// log_client_events_per_second.
        log_lines_suppressed: CounterSet<LogEvent>, label = "event";
        /// Records read from the ring.
        ring_records: Counter;
        /// Records of the ring that could not be read.
        ring_malformed: Counter;
        /// Writes that found the ring full and waited.
        ring_full: Counter;
        /// Bytes of the ring that the shard has not read.
        ring_lag_bytes: Gauge;
        /// Bytes that wait in memory: in send queues, input, unfinished messages, HTTP requests, before the
        /// ring, as retained values and as filters.
        waiting_bytes: Gauge;
        /// Turns of the event loop that took more than 250 ms.
        stalls: Counter;
        /// Time of those turns.
        stalled_seconds: MillisCounter;
        /// Times that the shard was stalled for so long that records were lost for it.
        ring_lapped: Counter;
        /// Bytes of those records.
        ring_lapped_bytes: Counter;
        /// Subscriptions of a shard that was stalled for too long which recover from the history.
        lapped_recovered: Counter;
        /// Subscriptions that recover a publication in several records, because their shard did not
        /// read its beginning.
        fragments_recovered: Counter;
        /// Time from a publication until the socket of the last subscriber on the shard has taken it, of
        /// one publication in 64.
        publish_latency_seconds: Histogram<ShortTime>;
        /// Time of a turn of the event loop.
        turn_duration_seconds: Histogram<ShortTime>;
        /// Sends that one submission to the kernel has, of those that have any.
        sends_per_submission: Histogram<BatchSize>;
        /// Time that an accepted socket waits until the shard takes it.
        accept_delay_seconds: Histogram<ShortTime>;
        /// Time from then until its upgrade is answered.
        handshake_duration_seconds: Histogram<ShortTime>;
        group
        /// What is counted about clients, which is exported for all shards together.
        clients: ClientCounters;
    }
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

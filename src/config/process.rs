//! The settings of the process, and those that only one dialect has.

use super::access::{AccessRule, DefaultAccess};
use super::compression::CompressionPolicy;
use super::declaration::settings;
use super::history::HistorySetting;
use super::origin::OriginPattern;
use super::presence::PresenceSetting;
use super::proxies::{AddressRange, ForwardedHeader, ProxyProtocol};
use super::secret::Secret;
use super::store::StoreSync;
use super::value::{ByteSize, Millis, ShardCount};
use crate::base::channel_names::{PROPERTY, ROOM};
use crate::base::label::label;
use std::path::PathBuf;
use std::time::Duration;

const HOUR: Duration = Duration::from_hours(1);

label! {
    /// How an upgrade is rejected.
    RejectionMode {
        /// The upgrade is accepted and the session closed with a code, which scripts in browsers
        /// see.
        Close = "close",
        /// The upgrade is answered with an HTTP status.
        Http = "http",
    }
}

settings! {
    /// The settings of the process.
    pub struct ProcessSettings {
        /// Insecure development mode: listens on loopback, generates a JWT secret for this run,
        /// lets anonymous clients subscribe and publish, opens the channels of each dialect to
        /// publications of the others, and has no rate limits and no limits of sessions, of connections
        /// before authentication or of failed authentication. Settings that are set explicitly keep their values.
        dev: bool = false, flag = Some("");
        /// Production mode: one shard per core, logs in JSON.
        prod: bool = false, flag = Some("");
        /// Shards, each a thread on its own core: a number, or `auto` for one per allowed core within
        /// the CPU quota of the cgroup.
        shards: ShardCount = ShardCount::Auto, flag = Some("N|auto"), aliases = &["workers"];
        /// Rules for who may subscribe to which channels.
        access_rules: Vec<AccessRule> = Vec::new();
        /// Rules for who may publish on which channels, among those who may publish at all. Without
        /// a rule, the channels of a dialect in use are closed to the clients of the others.
        publish_rules: Vec<AccessRule> = Vec::new();
        /// Rules for who may see who is on which channels, among those who may subscribe to them.
        presence_rules: Vec<AccessRule> = Vec::new();
        /// Rules for who may request what was published on which channels, among those who may
        /// subscribe to them.
        history_rules: Vec<AccessRule> = Vec::new();
        /// Whether channels that no rule matches are open to sessions that may subscribe or publish
        /// at all.
        default_access: DefaultAccess = DefaultAccess::Allow;
        /// Sessions in the process, without those that have yet to authenticate; one more is closed
        /// with 1013. 0 = as many as the socket tables hold.
        connections_max: u64 = 0, flag = Some("N");
        /// Connections before authentication in the process, divided among the shards: those whose
        /// request is read or answered, and sessions that have yet to authenticate. Over it, the
        /// oldest of the shard is closed. 0 = no limit.
        unauthenticated_max: u64 = 4_096;
        /// The same from one IPv4 address, or from one IPv6 network of 64 bits. Over it, the oldest
        /// of the address is closed. 0 = no limit.
        unauthenticated_per_ip_max: u32 = 256;
        /// WebSocket handshakes per second from one IPv4 address, or from one IPv6 network of 64 bits,
        /// in the process, and as many at once. 0 = no limit.
        handshakes_per_ip_max: u32 = 0;
        /// WebSocket handshakes per second of one shard, and as many at once. 0 = no limit.
        handshakes_per_shard_max: u32 = 0;
        /// Tokens per minute from one IPv4 address, or from one IPv6 network of 64 bits, that may
        /// prove nothing, and as many at once. Over it, tokens from there are rejected without
        /// verifying them, except those that were valid before and one each time that the limit
        /// gains an attempt. 0 = no limit.
        auth_failures_per_ip_max: u32 = 60;
        /// Addresses and networks of proxies whose word about their clients counts, such as `10.0.0.7`
        /// or `10.0.0.0/24`. Each must overwrite or extend what its clients say about themselves.
        trusted_proxies: Vec<AddressRange> = Vec::new();
        /// Whether trusted proxies name their clients by the PROXY protocol (version 1 or 2) at the
        /// beginning of a connection: `off`, `optional` or `required`. With `required`, only trusted
        /// proxies can connect.
        proxy_protocol: ProxyProtocol = ProxyProtocol::Off;
        /// The header in which trusted proxies name their clients: `none`, `x-forwarded-for` or
        /// `forwarded`. The others are ignored.
        forwarded_header: ForwardedHeader = ForwardedHeader::None;
        /// Bytes that may wait to be sent to one connection, and one largest message beside them. A
        /// client for which more waits is closed as a slow consumer if it takes nothing for
        /// `slow_consumer_timeout`.
        send_queue_bytes_max: ByteSize = ByteSize(1 << 20), flag = Some("SIZE"),
            rule = Some((|size| (4_096..=1 << 30).contains(&size.0), "4 KiB to 1 GiB"));
        /// How long a client may neither take nor acknowledge bytes while more than `send_queue_bytes_max` waits for it.
        slow_consumer_timeout: Millis = Millis(5_000);
        /// Bytes that may wait in memory for all connections together. With more, connections for
        /// which much waits are closed, and large messages rejected. 0 = half of the memory of the
        /// host or the cgroup.
        waiting_bytes_max: ByteSize = ByteSize(0);
        /// The channels of which a history is kept, and how much of each: for clients that come back
        /// and ask for what they missed, and for those that request it.
        history: Vec<HistorySetting> = vec![HistorySetting::of_prefix(PROPERTY, 100, HOUR)];
        /// Memory for the history of all channels together. With more, whole channels are removed from
        /// it. 0 = an eighth of the memory of the host or the cgroup.
        history_bytes_max: ByteSize = ByteSize(0);
        /// Users without a session of whom it is remembered where they stopped (`offline_queue`). With
        /// more, those who went first are forgotten.
        offline_users_max: u64 = 100_000;
        /// Directory of the durable store, in which the history and where users stopped survive a restart.
        /// It is created if its parent exists. Without it, nothing is stored.
        store: Option<PathBuf> = None, flag = Some("DIR");
        /// When what is stored must be on the disk: `always` (before it is acknowledged), a time such as `1s`
        /// (so often), or `never` (when the operating system writes it).
        store_sync: StoreSync = StoreSync::Every(Duration::from_secs(1)), flag = Some("POLICY");
        /// Size of the files of the store together, 8 MiB or more. The history gets a quarter of it at most.
        /// 0 = four times `history_bytes_max`, and 256 MiB.
        store_bytes_max: ByteSize = ByteSize(0),
            rule = Some((|size| size.0 == 0 || size.0 >= 8 << 20, "0, or 8 MiB or more"));
        /// The channels of which it is kept who is there, and whether the subscribers are told who comes
        /// and goes.
        presence: Vec<PresenceSetting> = vec![PresenceSetting::events_of_prefix(ROOM)];
        /// Time between two announcements of who came and went on a channel; the first change of a
        /// channel that was quiet for so long is announced at once.
        presence_interval: Millis = Millis(1_000),
            rule = Some((|time| (100..=60_000).contains(&time.0), "100ms to 1m"));
        /// Users on channels with `presence`, each counted once for every channel. With more, further
        /// ones are counted as sessions only.
        presence_members_max: u64 = 1_000_000;
        /// Time for an asynchronous handler of the embedding program; later it counts as failed.
        handler_timeout: Millis = Millis(10_000),
            rule = Some((|time| time.0 > 0, "a time longer than 0s"));
        /// Size of the ring between the shards.
        ring_bytes: ByteSize = ByteSize(8 << 20),
            rule = Some((
                |size| size.0.is_power_of_two() && (1 << 16..=1 << 30).contains(&size.0),
                "a power of two from 64 KiB to 1 GiB",
            ));
        /// How much time compression takes, where a listener has it: from 1, the fastest, to 9, the
        /// smallest output.
        compression_level: u32 = CompressionPolicy::LEVEL,
            rule = Some((|level| (1..=9).contains(level), "1 to 9"));
        /// Length from which messages are compressed. Shorter ones would gain little.
        compression_bytes_min: ByteSize = ByteSize(CompressionPolicy::BYTES_MIN as u64);
        /// Origins whose pages may connect, such as `https://example.org` or `https://*.example.org`; `*`
        /// allows all.
        allowed_origins: Vec<OriginPattern> = vec![OriginPattern::any()];
        /// How an upgrade from another origin is rejected: closed with 1008, or answered with 403.
        origin_rejection: RejectionMode = RejectionMode::Close;
        /// How an upgrade over a limit of sessions or handshakes is rejected: closed with 1013, or
        /// answered with 503 or 429.
        capacity_rejection: RejectionMode = RejectionMode::Close;
        /// Time for sessions to end by themselves after SIGTERM or SIGINT; meanwhile the server
        /// closes them evenly.
        drain_grace_period: Duration = Duration::ZERO, flag = Some("TIME");
        /// Time for clients to answer the close frame after that; a second signal ends it at once.
        drain_close_timeout: Duration = Duration::from_secs(10), flag = Some("TIME");
        /// API key that callers of `POST /notify` must send.
        notify_api_key: Option<Secret> = None, is_secret = true,
            rule = Some((
                |key| key.as_ref().is_none_or(|key| !key.0.is_empty()),
                "a string that is not empty",
            ));
        /// Whether `GET /metrics/prometheus` answers; if not, it returns 404.
        metrics_enabled: bool = true;
        /// Whether `GET /health` answers; if not, it returns 404.
        health_enabled: bool = true;
    }
}

impl ProcessSettings {
    /// How messages are compressed, where that is agreed on.
    #[must_use]
    pub fn compression(&self) -> CompressionPolicy {
        CompressionPolicy {
            level: self.compression_level,
            bytes_min: usize::try_from(self.compression_bytes_min.0).unwrap_or(usize::MAX),
        }
    }
}

settings! {
    /// Settings of the gateway dialect only.
    pub struct GatewaySettings {
        /// Domain whose subdomains name tenants.
        tenant_domain: Option<String> = None;
        /// Persistent subscriptions of one user; one more is not remembered. 0 = none are.
        persistent_subscriptions_max: u32 = 0;
        /// How long the persistent subscriptions of a user without a session are remembered.
        persistent_subscriptions_ttl: Millis = Millis(604_800_000);
        /// Users of whom persistent subscriptions are remembered. With more, those whose time ends
        /// first are forgotten.
        persistent_users_max: u64 = 100_000;
    }
}

settings! {
    /// Settings of the assist dialect only.
    pub struct AssistSettings {
        /// Time between two samples of the host's load; 0s = none.
        metrics_interval: Millis = Millis(5_000);
        /// Time between two sweeps of the rate limit state of users without sessions.
        quota_sweep_interval: Millis = Millis(300_000),
            rule = Some((|time| time.0 > 0, "a time longer than 0s"));
    }
}

settings! {
    /// Settings of the notifications dialect only.
    pub struct NotificationsSettings {
        /// Time between two periodic test notifications; 0s = none.
        test_message_interval: Millis = Millis(10_000);
    }
}

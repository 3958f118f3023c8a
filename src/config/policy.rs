//! The rules for sessions of a whole process, as the broker and the shard read them.

use super::access::DefaultAccess;
use super::compression::{Compression, CompressionPolicy};
use super::dialect_policy::DialectPolicy;
use super::listener::Routes;
use super::log::{ClientLogPolicy, LogSettings};
use super::origin::OriginPattern;
use super::process::RejectionMode;
use super::proxies::{AddressRange, ForwardedHeader, PeerRole, ProxyProtocol};
use super::rule_table::RuleTable;
use crate::base::{ChannelSet, DialectId};
use std::net::IpAddr;

/// The rules of a whole process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Per dialect, in the order of their indices.
    pub dialects: [DialectPolicy; DialectId::COUNT],
    /// Sessions of all dialects in the process; 0 = as many as the socket tables hold.
    pub sessions_max: u64,
    /// Connections before authentication in the process, divided among the shards; 0 = no limit.
    pub unauthenticated_max: u64,
    /// The same from one IPv4 address, or from one IPv6 network of 64 bits; 0 = no limit.
    pub unauthenticated_per_ip_max: u32,
    /// Handshakes per second from one address or network; 0 = no limit.
    pub handshakes_per_ip_max: u32,
    /// Handshakes per second of a shard; 0 = no limit.
    pub handshakes_per_shard_max: u32,
    /// Tokens per minute from one address or network that may prove nothing; 0 = no limit.
    pub auth_failures_per_ip_max: u32,
    /// Proxies whose word about their clients counts.
    pub trusted_proxies: Vec<AddressRange>,
    /// Whether they give it by the PROXY protocol.
    pub proxy_protocol: ProxyProtocol,
    /// The header in which they give it.
    pub forwarded_header: ForwardedHeader,
    /// Bytes that may wait for one connection, and one largest message beside them.
    pub send_queue_bytes_max: u32,
    /// How long a peer may take nothing while more waits for it, milliseconds.
    pub slow_consumer_timeout_ms: u64,
    /// Origins that may connect.
    pub allowed_origins: Vec<OriginPattern>,
    /// The access rules: who may subscribe to which channels.
    pub access_rules: RuleTable,
    /// The publish rules: who may publish on which channels, among those who may publish at all.
    pub publish_rules: RuleTable,
    /// The rules for who may see who is on which channels, among those who may subscribe there.
    pub presence_rules: RuleTable,
    /// The rules for who may request what was published on which channels, among the same.
    pub history_rules: RuleTable,
    /// What holds for a channel that no access rule, or no publish rule, matches.
    pub default_access: DefaultAccess,
    /// The channels about which a callback is asked whether a client may subscribe, after the rules.
    pub subscribe_callback: Option<ChannelSet>,
    /// The domain whose subdomains name tenants; `None` = none does.
    pub tenant_domain: Option<String>,
    /// How a page of another origin is rejected.
    pub origin_rejection: RejectionMode,
    /// How a session over the limit is rejected.
    pub capacity_rejection: RejectionMode,
    /// The routes of each listener, by its index.
    pub routes: Vec<Routes>,
    /// Whether each of them offers compression.
    pub compressions: Vec<Compression>,
    /// How messages are compressed.
    pub compression: CompressionPolicy,
    /// Which lines about clients are logged.
    pub client_log: ClientLogPolicy,
}

impl Policy {
    /// The rules of `dialect`.
    #[must_use]
    pub const fn dialect(&self, dialect: DialectId) -> &DialectPolicy {
        &self.dialects[dialect.index()]
    }

    /// Whether a callback is asked about subscriptions to a channel, by its name for clients.
    #[must_use]
    pub fn asks_about(&self, channel: &str) -> bool {
        let channels = self.subscribe_callback.as_ref();
        channels.is_some_and(|channels| channels.contains(channel))
    }

    /// Bytes that may wait for a connection beyond `send_queue_bytes_max` while its peer gets on with
    /// reading: two of the largest messages that any dialect takes.
    #[must_use]
    pub fn send_queue_slack_bytes(&self) -> u32 {
        let sizes = self.dialects.iter();
        let largest = sizes
            .map(|dialect| dialect.message_bytes_max.as_u32())
            .max();
        largest.unwrap_or_default().saturating_mul(2)
    }

    /// How messages are compressed for clients of a listener that offer it.
    #[must_use]
    pub fn compression_of(&self, listener: u8) -> Compression {
        let compression = self.compressions.get(usize::from(listener));
        compression.copied().unwrap_or(Compression::Off)
    }

    /// Whether a listener serves `dialect`.
    #[must_use]
    pub fn serves(&self, dialect: DialectId) -> bool {
        self.routes.iter().any(|routes| routes.serve(dialect))
    }

    /// Whether an address is that of a proxy whose word about its clients counts.
    #[must_use]
    pub fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        let mut trusted = self.trusted_proxies.iter();
        trusted.any(|range| range.contains(address))
    }

    /// What a new connection from this address is.
    #[must_use]
    pub fn role_of(&self, peer: IpAddr) -> PeerRole {
        if self.trusted_proxies.is_empty() {
            return PeerRole::Client;
        }
        match (self.is_trusted_proxy(peer), self.proxy_protocol) {
            (true, ProxyProtocol::Off) => PeerRole::Proxy,
            (true, ProxyProtocol::Optional | ProxyProtocol::Required) => PeerRole::Relay,
            (false, ProxyProtocol::Required) => PeerRole::Stranger,
            (false, ProxyProtocol::Off | ProxyProtocol::Optional) => PeerRole::Client,
        }
    }

    /// Whether the address of a client is known when its connection, of this role, is accepted: it is
    /// the peer's.
    #[must_use]
    pub const fn knows_client(&self, role: PeerRole) -> bool {
        match role {
            PeerRole::Client | PeerRole::Stranger => true,
            PeerRole::Proxy => matches!(self.forwarded_header, ForwardedHeader::None),
            PeerRole::Relay => false,
        }
    }

    /// Whether a page of `origin` may connect. Clients without an origin are not browsers and may
    /// connect.
    #[must_use]
    pub fn allows_origin(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let mut allowed = self.allowed_origins.iter();
        allowed.any(|allowed| allowed.allows(origin))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            dialects: DialectId::ALL.map(DialectPolicy::of),
            sessions_max: 0,
            unauthenticated_max: 0,
            unauthenticated_per_ip_max: 0,
            handshakes_per_ip_max: 0,
            handshakes_per_shard_max: 0,
            auth_failures_per_ip_max: 0,
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::Off,
            forwarded_header: ForwardedHeader::None,
            send_queue_bytes_max: 1024 * 1024,
            slow_consumer_timeout_ms: 5_000,
            allowed_origins: vec![OriginPattern::any()],
            access_rules: RuleTable::default(),
            publish_rules: RuleTable::default(),
            presence_rules: RuleTable::default(),
            history_rules: RuleTable::default(),
            default_access: DefaultAccess::Allow,
            subscribe_callback: None,
            tenant_domain: None,
            origin_rejection: RejectionMode::Close,
            capacity_rejection: RejectionMode::Close,
            routes: vec![Routes::ByPath],
            compressions: Vec::new(),
            compression: CompressionPolicy::default(),
            client_log: LogSettings::default().client_log(),
        }
    }
}

//! The rules for sessions of one dialect.

use super::declaration::{Rule, settings};
use super::rate_limit::RateLimit;
use super::value::{ByteSize, Millis};
use crate::auth::UserClaim;
use crate::base::label::label;

label! {
    /// What a rate limit counts.
    RateScope {
        /// The messages of one connection.
        Connection = "connection",
        /// The messages of all connections of one user in the process; until the user is known,
        /// those of one connection.
        User = "user",
    }
}

label! {
    /// Where the tenant of a session comes from.
    TenantSource {
        /// Its token only.
        Token = "token",
        /// Its token; if that names none, the request.
        Request = "request",
        /// Its token; if that names none, the header that a trusted proxy has set.
        Proxy = "proxy",
    }
}

label! {
    /// What happens when a token expires during its session.
    TokenExpiryAction {
        /// The client receives an error, and the session is closed with 1008.
        Close = "close",
        /// Nothing happens.
        Ignore = "ignore",
    }
}

settings! {
    /// The rules for sessions of one dialect. The defaults apply to a dialect whose profile has no
    /// others.
    #[derive(Copy)]
    pub struct DialectPolicy {
        /// Whether a session must authenticate before it subscribes or publishes.
        auth_required: bool = true;
        /// Whether sessions without an identity may publish.
        anonymous_publish: bool = false;
        /// Failed authentication attempts after which a session is closed.
        auth_attempts_max: u32 = 3,
            rule = Some((|count| (1..=255).contains(count), "1 to 255"));
        /// Time to authenticate; 0s = unlimited.
        auth_timeout: Millis = Millis(30_000);
        /// Time without any bytes from the client after which the server pings; 0s = never.
        ping_interval: Millis = Millis(30_000);
        /// Time to answer a ping.
        pong_timeout: Millis = Millis(10_000), rule = ABOVE_ZERO;
        /// Time to answer a close frame.
        close_timeout: Millis = Millis(5_000), rule = ABOVE_ZERO;
        /// Messages that a session may send.
        rate_limit: RateLimit = RateLimit::Off;
        /// Whether the rate limit counts the messages of one connection or of all connections of a
        /// user.
        rate_scope: RateScope = RateScope::Connection;
        /// Messages that all sessions of a user may send together, beside the limit of each connection.
        user_rate_limit: RateLimit = RateLimit::Off;
        /// Messages that all sessions of a tenant may send together.
        tenant_rate_limit: RateLimit = RateLimit::Off;
        /// Messages that all sessions from one IPv4 address, or one IPv6 network of 64 bits, may send
        /// together.
        ip_rate_limit: RateLimit = RateLimit::Off;
        /// Messages over the rate limit after which a session is closed; 0 = never.
        rate_violations_max: u32 = 0;
        /// Longest message.
        message_bytes_max: ByteSize = ByteSize(1 << 20),
            rule = Some((|size| (1 << 10..=1 << 30).contains(&size.0), "1 KiB to 1 GiB"));
        /// Sessions of this dialect in the process; 0 = no limit of its own.
        sessions_max: u64 = 0;
        /// Sessions of this dialect from one IPv4 address, or from one IPv6 network of 64 bits; 0 = no
        /// limit.
        sessions_per_ip_max: u32 = 0;
        /// Sessions of this dialect of one user; 0 = no limit.
        sessions_per_user_max: u32 = 0;
        /// Sessions of this dialect of one tenant; 0 = no limit.
        sessions_per_tenant_max: u32 = 0;
        /// Whether the sessions of a tenant have channels, users and counts of their own.
        tenant_isolation: bool = false;
        /// Whether a request may name the tenant of a session whose token names none: `token` = no,
        /// `request` = yes, `proxy` = by the header X-Tenant-ID of a trusted proxy.
        tenant_source: TenantSource = TenantSource::Token;
        /// Subscriptions of one session, without server-side ones.
        subscriptions_per_session_max: u32 = 1_024,
            rule = Some((|count| (1..=65_536).contains(count), "1 to 65536"));
        /// What happens when a token expires during its session.
        token_expiry_action: TokenExpiryAction = TokenExpiryAction::Close;
        /// Whether a user who comes back and subscribes to a channel again receives what was published
        /// there while none of the user's sessions was subscribed, as far as the channel's history
        /// reaches.
        offline_queue: bool = false;
        /// How long it is remembered where a user stopped.
        offline_queue_ttl: Millis = Millis(3_600_000), rule = ABOVE_ZERO;
        /// Whether a user who was never subscribed to a channel, or too long ago, receives its whole
        /// history; only with `offline_queue`.
        replay_on_first_subscribe: bool = false;
        /// The claim with the user's id; the other one is the fallback.
        user_claim: UserClaim = UserClaim::Sub;
    }
}

const ABOVE_ZERO: Option<Rule<Millis>> = Some((|time| time.0 > 0, "a time longer than 0s"));

impl DialectPolicy {
    /// Whether the rate limit counts the messages of a user instead of those of a connection.
    #[must_use]
    pub fn counts_user_instead(&self) -> bool {
        self.rate_scope == RateScope::User
    }

    /// Messages that all sessions of a user may send together, by either setting.
    #[must_use]
    pub const fn rate_limit_of_user(&self) -> RateLimit {
        match self.rate_scope {
            RateScope::User => self.rate_limit,
            RateScope::Connection => self.user_rate_limit,
        }
    }

    /// The same in insecure development mode: no authentication, no rate limit, no session
    /// limit, tenants as requests name them.
    #[must_use]
    pub fn permissive(self) -> Self {
        Self {
            auth_required: false,
            anonymous_publish: true,
            auth_timeout: Millis(0),
            rate_limit: RateLimit::Off,
            user_rate_limit: RateLimit::Off,
            tenant_rate_limit: RateLimit::Off,
            ip_rate_limit: RateLimit::Off,
            sessions_max: 0,
            sessions_per_ip_max: 0,
            sessions_per_user_max: 0,
            sessions_per_tenant_max: 0,
            tenant_source: TenantSource::Request,
            ..self
        }
    }
}

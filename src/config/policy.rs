//! What an operator decides about sessions, as the broker and the shard read it.

use super::access::AccessRule;
use super::declaration::{Rule, settings};
use super::listener::Routes;
use super::profiles::Profile;
use super::rate_limit::RateLimit;
use super::value::{ByteSize, Millis};
use crate::auth::UserClaim;
use crate::base::DialectId;
use crate::base::label::label;

label! {
    /// What a rate limit counts.
    RateScope {
        /// The messages of one connection.
        Connection = "connection",
        /// The messages of all connections of one user in the process; until the user is known, those
        /// of one connection.
        User = "user",
    }
}

label! {
    /// What happens when a token expires during its session.
    TokenExpiryAction {
        /// The client receives an error, and the session is closed with 1008.
        Close = "close",
        /// Nothing.
        Ignore = "ignore",
    }
}

label! {
    /// How an upgrade is rejected.
    RejectionMode {
        /// The upgrade is accepted and the session closed with a code, which scripts in browsers see.
        Close = "close",
        /// The upgrade is answered with an HTTP status.
        Http = "http",
    }
}

settings! {
    /// The rules for sessions of one dialect. The defaults are those of a dialect whose profile says
    /// nothing else.
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
        /// Whether the rate limit counts the messages of one connection or of all connections of a user.
        rate_scope: RateScope = RateScope::Connection;
        /// Messages over the rate limit after which a session is closed; 0 = never.
        rate_violations_max: u32 = 0;
        /// Longest message.
        message_bytes_max: ByteSize = ByteSize(1 << 20),
            rule = Some((|size| (1 << 10..=1 << 30).contains(&size.0), "1 KiB to 1 GiB"));
        /// Sessions of this dialect in the process; 0 = no limit of its own.
        sessions_max: u64 = 0;
        /// Sessions of this dialect from one address; 0 = no limit.
        sessions_per_ip_max: u32 = 0;
        /// Sessions of this dialect of one user; 0 = no limit.
        sessions_per_user_max: u32 = 0;
        /// Sessions of this dialect of one tenant; 0 = no limit.
        sessions_per_tenant_max: u32 = 0;
        /// What happens when a token expires during its session.
        token_expiry_action: TokenExpiryAction = TokenExpiryAction::Close;
        /// The claim that names the user; the other one is tried second.
        user_claim: UserClaim = UserClaim::Sub;
    }
}

const ABOVE_ZERO: Option<Rule<Millis>> = Some((|time| time.0 > 0, "a time longer than 0s"));

impl DialectPolicy {
    /// The rules of the dialect's profile.
    #[must_use]
    pub fn of(dialect: DialectId) -> Self {
        (Profile::of(dialect).policy)()
    }

    /// The same in insecure development mode: no authentication, no rate limit, no session limit.
    #[must_use]
    pub fn permissive(self) -> Self {
        Self {
            auth_required: false,
            anonymous_publish: true,
            auth_timeout: Millis(0),
            rate_limit: RateLimit::Off,
            sessions_max: 0,
            sessions_per_ip_max: 0,
            sessions_per_user_max: 0,
            sessions_per_tenant_max: 0,
            ..self
        }
    }
}

/// The rules of a whole process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Per dialect, in the order of their indices.
    pub dialects: [DialectPolicy; DialectId::COUNT],
    /// Sessions of all dialects in the process; 0 = as many as the socket tables hold.
    pub sessions_max: u64,
    /// Bytes that may wait for one connection.
    pub send_queue_bytes_max: u32,
    /// Origins that may connect; a single `*` allows all.
    pub allowed_origins: Vec<String>,
    /// Who may hear which channels.
    pub access_rules: Vec<AccessRule>,
    /// The domain whose subdomains name tenants; `None` = none does.
    pub tenant_domain: Option<String>,
    /// How a page of another origin is rejected.
    pub origin_rejection: RejectionMode,
    /// How a session too many is rejected.
    pub capacity_rejection: RejectionMode,
    /// What each listener speaks, by its index.
    pub routes: Vec<Routes>,
}

impl Policy {
    /// The rules of `dialect`.
    #[must_use]
    pub const fn dialect(&self, dialect: DialectId) -> &DialectPolicy {
        &self.dialects[dialect.index()]
    }

    /// Whether a page of `origin` may connect. Clients that send no origin are not browsers.
    #[must_use]
    pub fn allows_origin(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let mut allowed = self.allowed_origins.iter();
        allowed.any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            dialects: DialectId::ALL.map(DialectPolicy::of),
            sessions_max: 0,
            send_queue_bytes_max: 1024 * 1024,
            allowed_origins: vec!["*".into()],
            access_rules: Vec::new(),
            tenant_domain: None,
            origin_rejection: RejectionMode::Close,
            capacity_rejection: RejectionMode::Close,
            routes: vec![Routes::ByPath],
        }
    }
}

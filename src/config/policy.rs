//! What an operator decides about sessions, as the broker and the shard read it.

use super::access::AccessRule;
use super::listener::Routes;
use crate::auth::UserClaim;
use crate::base::DialectId;

/// How many messages a session may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimit {
    /// Any number.
    Off,
    /// About `messages` in any `window_ms`, exactly so many in the first.
    Window {
        /// Messages per window.
        messages: u32,
        /// Length of the window, milliseconds.
        window_ms: u32,
    },
    /// A token bucket: `burst` at once, refilled at `per_minute`.
    Bucket {
        /// Messages per minute in the long run.
        per_minute: u32,
        /// Messages at once after a pause.
        burst: u32,
    },
}

impl RateLimit {
    /// Messages in a window, or at once; `None` = any number.
    #[must_use]
    pub const fn messages_max(self) -> Option<u32> {
        match self {
            Self::Off => None,
            Self::Window { messages, .. } => Some(messages),
            Self::Bucket { burst, .. } => Some(burst),
        }
    }
}

/// What a rate limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateScope {
    /// The messages of one connection.
    Connection,
    /// The messages of all connections of one user in the process; until it is known, of one
    /// connection.
    User,
}

/// What happens when a token's time is over while its session lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenExpiryAction {
    /// The client is told, and the session closed with 1008.
    Close,
    /// Nothing.
    Ignore,
}

/// How a connection that may not become a session is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionMode {
    /// The upgrade is accepted and the session closed with a code, which scripts of browsers see.
    Close,
    /// The upgrade is answered with a status of HTTP.
    Http,
}

/// The rules for sessions of one dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialectPolicy {
    /// Whether a session must authenticate before it subscribes or publishes.
    pub auth_required: bool,
    /// Whether sessions without an identity may publish (`--dev`).
    pub anonymous_publish: bool,
    /// Tokens that prove nothing before a session is closed.
    pub auth_attempts_max: u32,
    /// Time to authenticate, milliseconds; 0 = any.
    pub auth_timeout_ms: u64,
    /// Silence after which the server pings, milliseconds; 0 = never.
    pub ping_interval_ms: u64,
    /// Silence after a ping that ends the session, milliseconds.
    pub pong_timeout_ms: u64,
    /// Messages a session may send.
    pub rate_limit: RateLimit,
    /// What the limit counts.
    pub rate_scope: RateScope,
    /// Messages over the limit after which a session is closed; 0 = never.
    pub rate_violations_max: u32,
    /// Longest message, bytes.
    pub message_bytes_max: usize,
    /// Sessions of this dialect in the process; 0 = no limit of its own.
    pub sessions_max: u64,
    /// Sessions of this dialect from one address; 0 = no limit.
    pub sessions_per_ip_max: u32,
    /// Sessions of this dialect of one user; 0 = no limit.
    pub sessions_per_user_max: u32,
    /// Sessions of this dialect of one tenant; 0 = no limit.
    pub sessions_per_tenant_max: u32,
    /// Time a client has to answer our close frame, milliseconds.
    pub close_timeout_ms: u64,
    /// What the end of a token means for its session.
    pub token_expiry_action: TokenExpiryAction,
    /// Whether others are told when a user's first session begins and the last one ends.
    pub announces_users: bool,
    /// Which claim names the user.
    pub user_claim: UserClaim,
}

impl DialectPolicy {
    /// The defaults of the dialect's own document.
    #[must_use]
    pub const fn of(dialect: DialectId) -> Self {
        let common = Self::COMMON;
        match dialect {
            DialectId::Gateway => Self {
                rate_limit: RateLimit::Bucket {
                    per_minute: 120,
                    burst: 20,
                },
                rate_scope: RateScope::User,
                sessions_per_ip_max: 50,
                sessions_per_user_max: 10,
                sessions_per_tenant_max: 500,
                ..common
            },
            DialectId::Monitoring => Self {
                rate_limit: RateLimit::Window {
                    messages: 100,
                    window_ms: 60_000,
                },
                message_bytes_max: 10 * 1024 * 1024,
                sessions_max: 10_000,
                user_claim: UserClaim::UserId,
                ..common
            },
            DialectId::Analytics => Self {
                rate_limit: RateLimit::Window {
                    messages: 60,
                    window_ms: 60_000,
                },
                ping_interval_ms: 20_000,
                sessions_max: 1_000,
                close_timeout_ms: 10_000,
                ..common
            },
            DialectId::Assist => Self {
                rate_limit: RateLimit::Window {
                    messages: 100,
                    window_ms: 60_000,
                },
                rate_scope: RateScope::User,
                announces_users: true,
                auth_attempts_max: 1,
                ..common
            },
            DialectId::Notifications => Self {
                auth_required: false,
                sessions_max: 1_000,
                ..common
            },
        }
    }

    /// What the documents leave open.
    const COMMON: Self = Self {
        auth_required: true,
        anonymous_publish: false,
        auth_attempts_max: 3,
        auth_timeout_ms: 30_000,
        ping_interval_ms: 30_000,
        pong_timeout_ms: 10_000,
        rate_limit: RateLimit::Off,
        rate_scope: RateScope::Connection,
        rate_violations_max: 0,
        message_bytes_max: 1024 * 1024,
        sessions_max: 0,
        sessions_per_ip_max: 0,
        sessions_per_user_max: 0,
        sessions_per_tenant_max: 0,
        close_timeout_ms: 5_000,
        token_expiry_action: TokenExpiryAction::Close,
        announces_users: false,
        user_claim: UserClaim::Sub,
    };

    /// The same with the doors open, for `--dev`: no authentication, no limit of messages
    /// or sessions.
    #[must_use]
    pub const fn permissive(self) -> Self {
        Self {
            auth_required: false,
            anonymous_publish: true,
            auth_timeout_ms: 0,
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
    pub access: Vec<AccessRule>,
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
            access: Vec::new(),
            tenant_domain: None,
            origin_rejection: RejectionMode::Close,
            capacity_rejection: RejectionMode::Close,
            routes: vec![Routes::ByPath],
        }
    }
}

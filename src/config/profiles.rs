//! The profiles: one row per dialect with everything that its legacy server fixed.

use super::compat_env::{CompatForm as Form, CompatVariable, variable};
use super::log::{LogFormat, LogLevel};
use super::policy::{DialectPolicy, RateScope};
use super::rate_limit::RateLimit;
use super::settings::Settings;
use super::value::{ByteSize, Millis, ShardCount};
use crate::auth::UserClaim;
use crate::base::DialectId;
use std::time::Duration;

/// What makes the server a stand-in for one legacy server: its port, its path, its defaults and its
/// variables.
pub struct Profile {
    /// The only dialect that the profile's listener speaks.
    pub dialect: DialectId,
    /// The port.
    pub port: u16,
    /// The path on the profile's listener, besides `/` and `/ws`.
    pub path: &'static str,
    /// The path on a listener without a profile.
    pub shared_path: &'static str,
    /// Whether `{path}/tenant/{tenant}` names a tenant.
    pub has_tenant_paths: bool,
    /// Whether others are told when a user's first session begins and the last one ends.
    pub announces_users: bool,
    /// The rules for sessions.
    pub policy: fn() -> DialectPolicy,
    /// Changes the defaults of the process, while the profile is in use.
    pub(super) defaults: fn(&mut Settings),
    /// The same in development mode.
    pub(super) dev_defaults: fn(&mut Settings),
    /// The variables of the legacy server, read while the profile is in use.
    pub(super) variables: &'static [CompatVariable],
}

impl Profile {
    /// The profile of a dialect.
    #[must_use]
    pub fn of(dialect: DialectId) -> &'static Self {
        &PROFILES[dialect.index()]
    }
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Profile({})", self.dialect.name())
    }
}

/// One row per dialect, in the order of their indices.
pub static PROFILES: [Profile; DialectId::COUNT] = [
    Profile {
        dialect: DialectId::Gateway,
        port: 8765,
        path: "/ws",
        shared_path: "/ws",
        has_tenant_paths: true,
        policy: || DialectPolicy {
            rate_limit: RateLimit::Bucket {
                per_minute: 120,
                burst: 20,
            },
            rate_scope: RateScope::User,
            sessions_per_ip_max: 50,
            sessions_per_user_max: 10,
            sessions_per_tenant_max: 500,
            ..DialectPolicy::default()
        },
        variables: &[
            variable("WS_HOST", "host", Form::Listener),
            variable("WS_PORT", "port", Form::Listener),
            variable("WS_PATH", "path", Form::Listener),
            variable("REDIS_URL", "redis_url", Form::Text),
            variable("JWT_SECRET_KEY", "jwt_secret", Form::Text),
            variable("JWT_ALGORITHM", "jwt_algorithm", Form::Text),
            variable(
                "MAX_CONNECTIONS_PER_IP",
                "gateway.sessions_per_ip_max",
                Form::Text,
            ),
            variable(
                "MESSAGES_PER_MINUTE",
                "gateway.rate_limit.per_minute",
                Form::Text,
            ),
            variable(
                "RATE_LIMIT_ENABLED",
                "gateway.rate_limit",
                Form::RateLimitSwitch,
            ),
        ],
        ..NEUTRAL
    },
    Profile {
        dialect: DialectId::Monitoring,
        port: 8765,
        path: "/",
        shared_path: "/monitoring",
        policy: || DialectPolicy {
            rate_limit: per_window(100),
            message_bytes_max: ByteSize(10 << 20),
            sessions_max: 10_000,
            user_claim: UserClaim::UserId,
            ..DialectPolicy::default()
        },
        variables: &[
            variable("JWT_SECRET", "jwt_secret", Form::Text),
            variable("WEBSOCKET_HOST", "host", Form::Listener),
            variable("WEBSOCKET_PORT", "port", Form::Listener),
            variable("MAX_CONNECTIONS", "monitoring.sessions_max", Form::Text),
        ],
        ..NEUTRAL
    },
    Profile {
        dialect: DialectId::Analytics,
        port: 8765,
        path: "/",
        shared_path: "/analytics",
        policy: || DialectPolicy {
            rate_limit: per_window(60),
            ping_interval: Millis(20_000),
            sessions_max: 1_000,
            close_timeout: Millis(10_000),
            ..DialectPolicy::default()
        },
        variables: &[
            variable("STREAMING_WEBSOCKET__HOST", "host", Form::Listener),
            variable("STREAMING_WEBSOCKET__PORT", "port", Form::Listener),
            variable(
                "STREAMING_WEBSOCKET__MAX_CONNECTIONS",
                "analytics.sessions_max",
                Form::Text,
            ),
            variable(
                "STREAMING_WEBSOCKET__PING_INTERVAL",
                "analytics.ping_interval",
                Form::Seconds,
            ),
            variable(
                "STREAMING_WEBSOCKET__PING_TIMEOUT",
                "analytics.pong_timeout",
                Form::Seconds,
            ),
            variable(
                "STREAMING_WEBSOCKET__CLOSE_TIMEOUT",
                "analytics.close_timeout",
                Form::Seconds,
            ),
            variable(
                "STREAMING_WEBSOCKET__MAX_MESSAGE_SIZE",
                "analytics.message_bytes_max",
                Form::Text,
            ),
            variable(
                "STREAMING_WEBSOCKET__COMPRESSION",
                "",
                Form::Ignored {
                    notice: "this version negotiates no compression",
                    unless: &["", "none", "null"],
                },
            ),
            variable(
                "STREAMING_WEBSOCKET__REQUIRE_AUTH",
                "analytics.auth_required",
                Form::Text,
            ),
            variable(
                "STREAMING_WEBSOCKET__AUTH_TIMEOUT_SECONDS",
                "analytics.auth_timeout",
                Form::Seconds,
            ),
            variable(
                "STREAMING_WEBSOCKET__ALLOWED_ORIGINS",
                "allowed_origins",
                Form::Text,
            ),
            variable(
                "STREAMING_WEBSOCKET__RATE_LIMIT_PER_MINUTE",
                "analytics.rate_limit.messages",
                Form::PerMinute,
            ),
            variable(
                "STREAMING_WEBSOCKET__ENABLE_RATE_LIMITING",
                "analytics.rate_limit",
                Form::RateLimitSwitch,
            ),
        ],
        ..NEUTRAL
    },
    Profile {
        dialect: DialectId::Assist,
        port: 8000,
        path: "/ws/connect",
        shared_path: "/ws/connect",
        announces_users: true,
        policy: || DialectPolicy {
            rate_limit: per_window(100),
            rate_scope: RateScope::User,
            auth_attempts_max: 1,
            ..DialectPolicy::default()
        },
        variables: &[
            variable("WS_MAX_MESSAGES", "assist.rate_limit.messages", Form::Text),
            variable("WS_RATE_WINDOW", "assist.rate_limit.window", Form::Seconds),
            variable(
                "WS_CLEANUP_INTERVAL",
                "assist.quota_sweep_interval",
                Form::Seconds,
            ),
        ],
        ..NEUTRAL
    },
    Profile {
        dialect: DialectId::Notifications,
        port: 8000,
        path: "/ws",
        shared_path: "/notifications",
        policy: || DialectPolicy {
            auth_required: false,
            sessions_max: 1_000,
            ..DialectPolicy::default()
        },
        defaults: |settings| {
            settings.process.drain_grace_period = Duration::from_secs(1_800);
            settings.log.log_format = LogFormat::Json;
        },
        dev_defaults: |settings| {
            settings.process.shards = ShardCount::Fixed(1);
            settings.log.log_level = LogLevel::Debug;
        },
        variables: &[
            variable("HOST", "host", Form::Listener),
            variable("PORT", "port", Form::Listener),
            variable("WORKERS", "shards", Form::Text),
            variable(
                "PING_INTERVAL",
                "notifications.ping_interval",
                Form::Seconds,
            ),
            variable("PING_TIMEOUT", "notifications.pong_timeout", Form::Seconds),
            variable("MAX_CONNECTIONS", "notifications.sessions_max", Form::Text),
            variable(
                "NOTIFICATION_INTERVAL",
                "notifications.test_message_interval",
                Form::Seconds,
            ),
            variable("SHUTDOWN_TIMEOUT", "drain_grace_period", Form::Seconds),
            variable("LOG_LEVEL", "log_level", Form::Text),
            variable("LOG_FORMAT", "log_format", Form::Text),
            variable("LOG_ROTATION", "log_rotation", Form::Text),
            variable("LOG_RETENTION", "log_retention", Form::Text),
            variable("DEBUG", "log_level", Form::DebugSwitch),
            variable(
                "RELOAD",
                "",
                Form::Ignored {
                    notice: "changed settings are read at the next start",
                    unless: &["", "false", "no", "off", "0"],
                },
            ),
            variable("METRICS_ENABLED", "metrics_enabled", Form::Text),
            variable("HEALTH_CHECK_ENABLED", "health_enabled", Form::Text),
        ],
        ..NEUTRAL
    },
];

/// What most profiles do not change.
const NEUTRAL: Profile = Profile {
    dialect: DialectId::Gateway,
    port: 8765,
    path: "/",
    shared_path: "/",
    has_tenant_paths: false,
    announces_users: false,
    policy: DialectPolicy::default,
    defaults: |_| {},
    dev_defaults: |_| {},
    variables: &[],
};

const fn per_window(messages: u32) -> RateLimit {
    RateLimit::Window {
        messages,
        window_ms: 60_000,
    }
}

const _: () = {
    let mut index = 0;
    while index < PROFILES.len() {
        assert!(
            PROFILES[index].dialect.index() == index,
            "rows stand in the order of the dialects"
        );
        index += 1;
    }
};

//! The profiles: one row per dialect, with everything that its legacy server determines.

use super::compression::Compression;
use super::dialect_policy::{DialectPolicy, RateScope};
use super::log::{LogFormat, LogLevel, LogSettings};
use super::process::ProcessSettings;
use super::rate_limit::RateLimit;
use super::value::{ByteSize, Millis, ShardCount};
use crate::auth::UserClaim;
use crate::base::DialectId;
use std::time::Duration;

/// What the server needs to replace one legacy server: its port, path, defaults and variables.
pub struct Profile {
    /// The only dialect of the profile's listener.
    pub dialect: DialectId,
    /// The port.
    pub port: u16,
    /// The path on the profile's listener, besides `/` and `/ws`.
    pub path: &'static str,
    /// The path on a listener without a profile.
    pub shared_path: &'static str,
    /// Whether `{path}/tenant/{tenant}` names a tenant.
    pub has_tenant_paths: bool,
    /// Whether the beginning of a user's first session and the end of the last one are announced.
    pub announces_users: bool,
    /// How messages are compressed on a listener with the profile, unless that is set.
    pub compression: Compression,
    /// The rules for sessions.
    pub policy: fn() -> DialectPolicy,
    /// Changes the defaults of the process, if the profile is in use.
    pub(super) defaults: fn(&mut ProcessSettings, &mut LogSettings),
    /// The same in development mode.
    pub(super) dev_defaults: fn(&mut ProcessSettings, &mut LogSettings),
    /// The variables of the legacy server, which are read if the profile is in use.
    pub(super) variables: &'static [CompatVariable],
}

/// A variable of a legacy server.
pub(super) struct CompatVariable {
    pub(super) name: &'static str,
    /// The setting that it sets.
    pub(super) key: &'static str,
    pub(super) form: CompatForm,
}

/// How the text of a variable becomes a value.
pub(super) enum CompatForm {
    /// The text, unchanged.
    Text,
    /// A number of seconds.
    Seconds,
    /// A number of messages in one minute.
    PerMinute,
    /// A switch; false turns the rate limit off.
    RateLimitSwitch,
    /// A switch; true lowers the log level, unless `LOG_LEVEL` is set.
    DebugSwitch,
    /// A setting of the profile's listener.
    Listener,
    /// The variable has no effect; a notice reports it for all values but those of `unless`.
    Ignored {
        notice: &'static str,
        unless: &'static [&'static str],
    },
}

/// A variable in a row.
pub(super) const fn variable(
    name: &'static str,
    key: &'static str,
    form: CompatForm,
) -> CompatVariable {
    CompatVariable { name, key, form }
}

impl DialectPolicy {
    /// The rules of the dialect's profile.
    #[must_use]
    pub fn of(dialect: DialectId) -> Self {
        (Profile::of(dialect).policy)()
    }
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
            tenant_isolation: true,
            ..DialectPolicy::default()
        },
        variables: &[
            variable("WS_HOST", "host", CompatForm::Listener),
            variable("WS_PORT", "port", CompatForm::Listener),
            variable("WS_PATH", "path", CompatForm::Listener),
            variable("REDIS_URL", "redis_url", CompatForm::Text),
            variable("JWT_SECRET_KEY", "jwt_secret", CompatForm::Text),
            variable("JWT_ALGORITHM", "jwt_algorithms", CompatForm::Text),
            variable(
                "MAX_CONNECTIONS_PER_IP",
                "gateway.sessions_per_ip_max",
                CompatForm::Text,
            ),
            variable(
                "MESSAGES_PER_MINUTE",
                "gateway.rate_limit.per_minute",
                CompatForm::Text,
            ),
            variable(
                "RATE_LIMIT_ENABLED",
                "gateway.rate_limit",
                CompatForm::RateLimitSwitch,
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
            offline_queue: true,
            ..DialectPolicy::default()
        },
        variables: &[
            variable("JWT_SECRET", "jwt_secret", CompatForm::Text),
            variable("WEBSOCKET_HOST", "host", CompatForm::Listener),
            variable("WEBSOCKET_PORT", "port", CompatForm::Listener),
            variable(
                "MAX_CONNECTIONS",
                "monitoring.sessions_max",
                CompatForm::Text,
            ),
        ],
        ..NEUTRAL
    },
    Profile {
        dialect: DialectId::Analytics,
        port: 8765,
        path: "/",
        shared_path: "/analytics",
        compression: Compression::Deflate,
        policy: || DialectPolicy {
            rate_limit: per_window(60),
            ping_interval: Millis(20_000),
            sessions_max: 1_000,
            close_timeout: Millis(10_000),
            ..DialectPolicy::default()
        },
        variables: &[
            variable("STREAMING_WEBSOCKET__HOST", "host", CompatForm::Listener),
            variable("STREAMING_WEBSOCKET__PORT", "port", CompatForm::Listener),
            variable(
                "STREAMING_WEBSOCKET__MAX_CONNECTIONS",
                "analytics.sessions_max",
                CompatForm::Text,
            ),
            variable(
                "STREAMING_WEBSOCKET__PING_INTERVAL",
                "analytics.ping_interval",
                CompatForm::Seconds,
            ),
            variable(
                "STREAMING_WEBSOCKET__PING_TIMEOUT",
                "analytics.pong_timeout",
                CompatForm::Seconds,
            ),
            variable(
                "STREAMING_WEBSOCKET__CLOSE_TIMEOUT",
                "analytics.close_timeout",
                CompatForm::Seconds,
            ),
            variable(
                "STREAMING_WEBSOCKET__MAX_MESSAGE_SIZE",
                "analytics.message_bytes_max",
                CompatForm::Text,
            ),
            variable(
                "STREAMING_WEBSOCKET__COMPRESSION",
                "compression",
                CompatForm::Listener,
            ),
            variable(
                "STREAMING_WEBSOCKET__REQUIRE_AUTH",
                "analytics.auth_required",
                CompatForm::Text,
            ),
            variable(
                "STREAMING_WEBSOCKET__AUTH_TIMEOUT_SECONDS",
                "analytics.auth_timeout",
                CompatForm::Seconds,
            ),
            variable(
                "STREAMING_WEBSOCKET__ALLOWED_ORIGINS",
                "allowed_origins",
                CompatForm::Text,
            ),
            variable(
                "STREAMING_WEBSOCKET__RATE_LIMIT_PER_MINUTE",
                "analytics.rate_limit.messages",
                CompatForm::PerMinute,
            ),
            variable(
                "STREAMING_WEBSOCKET__ENABLE_RATE_LIMITING",
                "analytics.rate_limit",
                CompatForm::RateLimitSwitch,
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
            variable(
                "WS_MAX_MESSAGES",
                "assist.rate_limit.messages",
                CompatForm::Text,
            ),
            variable(
                "WS_RATE_WINDOW",
                "assist.rate_limit.window",
                CompatForm::Seconds,
            ),
            variable(
                "WS_CLEANUP_INTERVAL",
                "assist.quota_sweep_interval",
                CompatForm::Seconds,
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
        defaults: |process, log| {
            process.drain_grace_period = Duration::from_secs(1_800);
            log.log_format = LogFormat::Json;
            log.log_file = Some("logs/websocket_server.log".into());
            log.log_error_file = Some("logs/errors.log".into());
        },
        dev_defaults: |process, log| {
            // Where whoever develops looks.
            log.log_file = None;
            log.log_error_file = None;
            process.shards = ShardCount::Fixed(1);
            log.log_level = LogLevel::Debug;
        },
        variables: &[
            variable("HOST", "host", CompatForm::Listener),
            variable("PORT", "port", CompatForm::Listener),
            variable("WORKERS", "shards", CompatForm::Text),
            variable(
                "PING_INTERVAL",
                "notifications.ping_interval",
                CompatForm::Seconds,
            ),
            variable(
                "PING_TIMEOUT",
                "notifications.pong_timeout",
                CompatForm::Seconds,
            ),
            variable(
                "MAX_CONNECTIONS",
                "notifications.sessions_max",
                CompatForm::Text,
            ),
            variable(
                "NOTIFICATION_INTERVAL",
                "notifications.test_message_interval",
                CompatForm::Seconds,
            ),
            variable(
                "SHUTDOWN_TIMEOUT",
                "drain_grace_period",
                CompatForm::Seconds,
            ),
            variable("LOG_LEVEL", "log_level", CompatForm::Text),
            variable("LOG_FORMAT", "log_format", CompatForm::Text),
            variable("LOG_ROTATION", "log_rotation", CompatForm::Text),
            variable("LOG_RETENTION", "log_retention", CompatForm::Text),
            variable("DEBUG", "log_level", CompatForm::DebugSwitch),
            variable(
                "RELOAD",
                "",
                CompatForm::Ignored {
                    notice: "changed settings are read at the next start",
                    unless: &["", "false", "no", "off", "0"],
                },
            ),
            variable("METRICS_ENABLED", "metrics_enabled", CompatForm::Text),
            variable("HEALTH_CHECK_ENABLED", "health_enabled", CompatForm::Text),
        ],
        ..NEUTRAL
    },
];

/// The defaults of a row.
const NEUTRAL: Profile = Profile {
    dialect: DialectId::Gateway,
    port: 8765,
    path: "/",
    shared_path: "/",
    has_tenant_paths: false,
    announces_users: false,
    compression: Compression::Off,
    policy: DialectPolicy::default,
    defaults: |_, _| {},
    dev_defaults: |_, _| {},
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
            "rows are in the order of the dialects"
        );
        index += 1;
    }
};

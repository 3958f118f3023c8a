//! The variables of the dialects' own documents, read for profiles in use.

use super::error::SettingsError;
use super::layer::Entry;
use super::setting::Setting;
use crate::base::DialectId;
use figment::value::Value;
use std::collections::BTreeMap;

/// Variables and their values.
pub(super) type Environment = BTreeMap<String, String>;

/// How the text of a variable becomes a value.
#[derive(Clone, Copy)]
enum Form {
    /// As it is.
    Plain,
    /// A number is one of seconds.
    Seconds,
    /// A number of messages in one minute.
    PerMinute,
    /// False switches the rate limit off.
    IsLimited,
    /// True logs more, unless a level is said as well.
    IsDebug,
    /// Where the profile's listener is.
    Place,
    /// Nothing follows but this remark, when the text is none of those.
    Notice(&'static str, &'static [&'static str]),
}

type Variable = (&'static str, &'static str, Form);

const GATEWAY: &[Variable] = &[
    ("WS_HOST", "host", Form::Place),
    ("WS_PORT", "port", Form::Place),
    ("WS_PATH", "path", Form::Place),
    ("REDIS_URL", "redis_url", Form::Plain),
    ("JWT_SECRET_KEY", "jwt_secret", Form::Plain),
    ("JWT_ALGORITHM", "jwt_algorithm", Form::Plain),
    (
        "MAX_CONNECTIONS_PER_IP",
        "gateway.sessions_per_ip_max",
        Form::Plain,
    ),
    (
        "MESSAGES_PER_MINUTE",
        "gateway.rate_limit.per_minute",
        Form::Plain,
    ),
    ("RATE_LIMIT_ENABLED", "gateway.rate_limit", Form::IsLimited),
];
const MONITORING: &[Variable] = &[
    ("JWT_SECRET", "jwt_secret", Form::Plain),
    ("WEBSOCKET_HOST", "host", Form::Place),
    ("WEBSOCKET_PORT", "port", Form::Place),
    ("MAX_CONNECTIONS", "monitoring.sessions_max", Form::Plain),
];
const ANALYTICS: &[Variable] = &[
    ("STREAMING_WEBSOCKET__HOST", "host", Form::Place),
    ("STREAMING_WEBSOCKET__PORT", "port", Form::Place),
    (
        "STREAMING_WEBSOCKET__MAX_CONNECTIONS",
        "analytics.sessions_max",
        Form::Plain,
    ),
    (
        "STREAMING_WEBSOCKET__PING_INTERVAL",
        "analytics.ping_interval",
        Form::Seconds,
    ),
    (
        "STREAMING_WEBSOCKET__PING_TIMEOUT",
        "analytics.pong_timeout",
        Form::Seconds,
    ),
    (
        "STREAMING_WEBSOCKET__CLOSE_TIMEOUT",
        "analytics.close_timeout",
        Form::Seconds,
    ),
    (
        "STREAMING_WEBSOCKET__MAX_MESSAGE_SIZE",
        "analytics.message_bytes_max",
        Form::Plain,
    ),
    (
        "STREAMING_WEBSOCKET__COMPRESSION",
        "",
        Form::Notice(
            "this version negotiates no compression",
            &["", "none", "null"],
        ),
    ),
    (
        "STREAMING_WEBSOCKET__REQUIRE_AUTH",
        "analytics.auth_required",
        Form::Plain,
    ),
    (
        "STREAMING_WEBSOCKET__AUTH_TIMEOUT_SECONDS",
        "analytics.auth_timeout",
        Form::Seconds,
    ),
    (
        "STREAMING_WEBSOCKET__ALLOWED_ORIGINS",
        "allowed_origins",
        Form::Plain,
    ),
    (
        "STREAMING_WEBSOCKET__RATE_LIMIT_PER_MINUTE",
        "analytics.rate_limit.messages",
        Form::PerMinute,
    ),
    (
        "STREAMING_WEBSOCKET__ENABLE_RATE_LIMITING",
        "analytics.rate_limit",
        Form::IsLimited,
    ),
];
const ASSIST: &[Variable] = &[
    ("WS_MAX_MESSAGES", "assist.rate_limit.messages", Form::Plain),
    ("WS_RATE_WINDOW", "assist.rate_limit.window", Form::Seconds),
    (
        "WS_CLEANUP_INTERVAL",
        "assist.quota_sweep_interval",
        Form::Seconds,
    ),
];
const NOTIFICATIONS: &[Variable] = &[
    ("HOST", "host", Form::Place),
    ("PORT", "port", Form::Place),
    ("WORKERS", "shards", Form::Plain),
    (
        "PING_INTERVAL",
        "notifications.ping_interval",
        Form::Seconds,
    ),
    ("PING_TIMEOUT", "notifications.pong_timeout", Form::Seconds),
    ("MAX_CONNECTIONS", "notifications.sessions_max", Form::Plain),
    (
        "NOTIFICATION_INTERVAL",
        "notifications.test_message_interval",
        Form::Seconds,
    ),
    ("SHUTDOWN_TIMEOUT", "drain_grace_period", Form::Seconds),
    ("LOG_LEVEL", "log_level", Form::Plain),
    ("LOG_FORMAT", "log_format", Form::Plain),
    ("LOG_ROTATION", "log_rotation", Form::Plain),
    ("LOG_RETENTION", "log_retention", Form::Plain),
    ("DEBUG", "log_level", Form::IsDebug),
    (
        "RELOAD",
        "",
        Form::Notice(
            "changed settings are read at the next start",
            &["", "false", "no", "off", "0"],
        ),
    ),
    ("METRICS_ENABLED", "metrics_enabled", Form::Plain),
    ("HEALTH_CHECK_ENABLED", "health_enabled", Form::Plain),
];

/// Where the listener of a profile is said to be, when listeners are tables of their own.
pub(super) fn listener_key(dialect: DialectId, key: &str) -> String {
    format!("place.{}.{key}", dialect.name())
}

/// The entries of the variables of `profiles`, in the words of our own settings. `origin` goes
/// before the names in sources; `has_listeners` when each profile's place is its own.
///
/// # Errors
/// When a switch is neither on nor off.
pub(super) fn entries(
    profiles: &[DialectId],
    has_listeners: bool,
    environment: &Environment,
    origin: &str,
    notices: &mut Vec<String>,
) -> Result<Vec<Entry>, SettingsError> {
    let mut entries: Vec<Entry> = Vec::new();
    for dialect in profiles {
        for (name, key, form) in variables(*dialect) {
            let Some(text) = environment.get(*name) else {
                continue;
            };
            let source = format!("{origin} {name}");
            let is_on = || {
                let said = Entry::new(name, text.as_str(), &*source);
                bool::parse(&said.value).ok_or_else(|| said.expected(bool::RULE))
            };
            let mut say = |key: &str, value: Value| entries.push(Entry::new(key, value, &*source));
            match form {
                Form::Plain => say(key, text.as_str().into()),
                Form::Seconds => say(key, seconds(text)),
                Form::PerMinute => {
                    say(key, text.as_str().into());
                    say(&key.replace("messages", "window"), "60s".into());
                }
                Form::IsLimited => say(key, if is_on()? { "on" } else { "off" }.into()),
                Form::IsDebug => {
                    if is_on()? && !environment.contains_key("LOG_LEVEL") {
                        say(key, "debug".into());
                    }
                }
                Form::Place if has_listeners => {
                    say(&listener_key(*dialect, key), text.as_str().into());
                }
                Form::Place => say(key, text.as_str().into()),
                Form::Notice(notice, silent) => {
                    if !silent.contains(&&*text.trim().to_ascii_lowercase()) {
                        notices.push(format!("{source} is accepted, but {notice}"));
                    }
                }
            }
        }
    }
    Ok(entries)
}

fn variables(dialect: DialectId) -> &'static [Variable] {
    match dialect {
        DialectId::Gateway => GATEWAY,
        DialectId::Monitoring => MONITORING,
        DialectId::Analytics => ANALYTICS,
        DialectId::Assist => ASSIST,
        DialectId::Notifications => NOTIFICATIONS,
    }
}

/// The names of all variables.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let variables = DialectId::ALL.into_iter().flat_map(variables);
    variables.map(|(name, ..)| *name)
}

fn seconds(text: &str) -> Value {
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(seconds) if seconds >= 0.0 && seconds.is_finite() => {
            // humantime knows no fractions.
            match text.split_once('.') {
                None => format!("{text}s").into(),
                Some(_) => format!("{:.0}ms", seconds * 1_000.0).into(),
            }
        }
        _ => text.into(),
    }
}

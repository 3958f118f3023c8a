//! The names of all settings, and of their `FANWIRE_` variables.

use crate::base::DialectId;

/// Before the name of every variable of ours.
pub(super) const PREFIX: &str = "FANWIRE_";

/// Settings of the process.
const GLOBAL: [&str; 31] = [
    "dev",
    "prod",
    "profile",
    "listen",
    "host",
    "port",
    "path",
    "shards",
    "workers",
    "jwt_secret",
    "jwt_algorithm",
    "static_tokens",
    "access_rules",
    "connections_max",
    "send_queue_bytes_max",
    "ring_bytes",
    "allowed_origins",
    "origin_rejection",
    "capacity_rejection",
    "drain_grace_period",
    "drain_close_timeout",
    "log_level",
    "log_format",
    "log_file",
    "log_error_file",
    "log_rotation",
    "log_retention",
    "notify_api_key",
    "metrics_enabled",
    "health_enabled",
    "redis_url",
];
/// Settings of each dialect. A part of the rate limit stands before the whole: "off" then wins over
/// what it switches off.
const DIALECT: [&str; 21] = [
    "auth_required",
    "anonymous_publish",
    "auth_attempts_max",
    "auth_timeout",
    "ping_interval",
    "pong_timeout",
    "close_timeout",
    "rate_limit.messages",
    "rate_limit.window",
    "rate_limit.per_minute",
    "rate_limit.burst",
    "rate_limit",
    "rate_scope",
    "rate_violations_max",
    "message_bytes_max",
    "sessions_max",
    "sessions_per_ip_max",
    "sessions_per_user_max",
    "sessions_per_tenant_max",
    "token_expiry_action",
    "user_claim",
];
/// Settings of one dialect alone.
const EXTRA: [&str; 4] = [
    "gateway.tenant_domain",
    "assist.metrics_interval",
    "assist.quota_sweep_interval",
    "notifications.test_message_interval",
];
/// Settings without a variable: Kubernetes sets `FANWIRE_PORT` beside a Service named fanwire, and a
/// host without a port is seldom said alone.
const WITHOUT_VARIABLE: [&str; 2] = ["host", "port"];
/// Values of these are never shown.
const SECRET: [&str; 4] = ["jwt_secret", "static_tokens", "notify_api_key", "redis_url"];

/// Every setting, a dialect's with the name of its table before it.
pub(super) fn all() -> impl Iterator<Item = String> {
    let of_dialects = DialectId::ALL.into_iter().flat_map(|dialect| {
        let keys = DIALECT.iter();
        keys.map(move |key| format!("{}.{key}", dialect.name()))
    });
    let global = GLOBAL.into_iter().chain(EXTRA).map(str::to_owned);
    global.chain(of_dialects)
}

/// Whether there is such a setting.
pub(super) fn is_known(key: &str) -> bool {
    all().any(|known| known == key)
}

/// Whether values of `key` are to be masked.
pub(super) fn is_secret(key: &str) -> bool {
    SECRET.contains(&key)
}

/// The variable of a setting.
pub(super) fn variable(key: &str) -> Option<String> {
    let has_one = !WITHOUT_VARIABLE.contains(&key);
    has_one.then(|| format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase()))
}

/// The setting with the name most like `key`.
pub(super) fn suggestion(key: &str) -> Option<String> {
    nearest(key, all())
}

/// What to say of a variable that is no setting; nothing if it is none of ours.
pub(super) fn unknown_variable(name: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX)?;
    // Kubernetes, for Services named fanwire or fanwire-something: FANWIRE_SERVICE_HOST,
    // FANWIRE_PORT_8765_TCP_ADDR, FANWIRE_REDIS_SERVICE_PORT.
    let words: Vec<_> = rest.split('_').collect();
    let is_of_a_service = words.contains(&"SERVICE") || words.contains(&"PORT");
    let is_known = all()
        .filter_map(|key| variable(&key))
        .any(|known| known == name);
    if is_of_a_service || is_known {
        return None;
    }
    let suggestion = nearest(name, all().filter_map(|key| variable(&key)));
    let hint = suggestion.map_or_else(String::new, |suggestion| {
        format!("; did you mean {suggestion}?")
    });
    Some(format!(
        "the variable {name} is no setting and is ignored{hint}"
    ))
}

fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    // Two slips of the hand; more is another word.
    const DISTANCE_MAX: usize = 2;
    let measured = candidates.map(|known| (strsim::damerau_levenshtein(name, &known), known));
    let suggestion = measured.filter(|(distance, _)| *distance <= DISTANCE_MAX);
    suggestion.min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_are_doubted_and_services_of_kubernetes_are_not() {
        let check = |name: &str, expected: Option<&str>| {
            let unknown_variable = unknown_variable(name);
            let hint = unknown_variable.as_deref().map(|unknown_variable| {
                let hint = unknown_variable.split_once("did you mean ");
                hint.map_or("", |(_, hint)| hint.trim_end_matches('?'))
            });
            assert_eq!(hint, expected, "{name}");
        };
        check("FANWIRE_LISTEN", None);
        check("FANWIRE_LISTNE", Some("FANWIRE_LISTEN"));
        check(
            "FANWIRE_ANALYTICS__PING_INTERVALL",
            Some("FANWIRE_ANALYTICS__PING_INTERVAL"),
        );
        check("FANWIRE_SOMETHING", Some(""));
        check("FANWIRE_HOST", Some(""));
        for name in [
            "FANWIRE_PORT",
            "FANWIRE_PORT_8765_TCP_ADDR",
            "FANWIRE_SERVICE_HOST",
            "FANWIRE_SERVICE_PORT_WS",
            "FANWIRE_REDIS_SERVICE_HOST",
            "PATH",
        ] {
            check(name, None);
        }
    }
}

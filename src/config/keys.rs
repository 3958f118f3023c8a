//! All settings by their names.

use super::declaration::{Declaration, PREFIX, SettingInfo, variable};
use super::dialect_policy::DialectPolicy;
use super::http::HttpSettings;
use super::ingest::{INGEST_TABLE, IngestSettings};
use super::listener_loader::ListenerSettings;
use super::log::LogSettings;
use super::process::{AssistSettings, GatewaySettings, NotificationsSettings, ProcessSettings};
use super::rate_limit::PARTS;
use super::redis::RedisSettings;
use super::tls::TlsSettings;
use super::tokens::TokenSettings;
use super::traces::TraceSettings;
use super::webhooks::WebhookSettings;
use crate::base::DialectId;
use std::sync::LazyLock;

/// Variables of commands, which are no settings.
const OF_COMMANDS: [&str; 5] = [
    "FANWIRE_ADMIN_URL",
    "FANWIRE_API_KEY",
    "FANWIRE_EXPLAIN_TOKEN",
    "FANWIRE_TOKEN",
    "FANWIRE_URL",
];

static ALL: LazyLock<Vec<SettingInfo>> = LazyLock::new(|| {
    let mut all = Vec::new();
    group(
        ProcessSettings::DECLARATIONS,
        "",
        &ProcessSettings::default(),
        &mut all,
    );
    group(
        TokenSettings::DECLARATIONS,
        "",
        &TokenSettings::default(),
        &mut all,
    );
    group(
        WebhookSettings::DECLARATIONS,
        "",
        &WebhookSettings::default(),
        &mut all,
    );
    group(
        RedisSettings::DECLARATIONS,
        "",
        &RedisSettings::default(),
        &mut all,
    );
    group(
        ListenerSettings::DECLARATIONS,
        "",
        &ListenerSettings::default(),
        &mut all,
    );
    group(
        HttpSettings::DECLARATIONS,
        "",
        &HttpSettings::default(),
        &mut all,
    );
    group(
        TlsSettings::DECLARATIONS,
        "",
        &TlsSettings::default(),
        &mut all,
    );
    group(
        LogSettings::DECLARATIONS,
        "",
        &LogSettings::default(),
        &mut all,
    );
    group(
        TraceSettings::DECLARATIONS,
        "",
        &TraceSettings::default(),
        &mut all,
    );
    for dialect in DialectId::ALL {
        let policy = DialectPolicy::of(dialect);
        let mut settings = Vec::new();
        group(
            DialectPolicy::DECLARATIONS,
            dialect.name(),
            &policy,
            &mut settings,
        );
        for info in settings {
            if info.key.ends_with("rate_limit") {
                // The parts come before the whole, so that "off" overrides them.
                all.extend(PARTS.iter().map(|part| part_of(&info, part)));
            }
            all.push(info);
        }
    }
    group(
        IngestSettings::DECLARATIONS,
        INGEST_TABLE,
        &IngestSettings::default(),
        &mut all,
    );
    group(
        GatewaySettings::DECLARATIONS,
        "gateway",
        &GatewaySettings::default(),
        &mut all,
    );
    group(
        AssistSettings::DECLARATIONS,
        "assist",
        &AssistSettings::default(),
        &mut all,
    );
    let notifications = NotificationsSettings::default();
    group(
        NotificationsSettings::DECLARATIONS,
        "notifications",
        &notifications,
        &mut all,
    );
    all
});

/// Adds the settings of a group.
fn group<G>(
    declarations: &'static [Declaration<G>],
    table: &str,
    defaults: &G,
    all: &mut Vec<SettingInfo>,
) {
    let infos = declarations.iter().flat_map(|it| it.infos(table, defaults));
    all.extend(infos);
}

fn part_of(info: &SettingInfo, part: &str) -> SettingInfo {
    let key = format!("{}.{part}", info.key);
    SettingInfo {
        help: format!("Part of {}", info.key),
        variable: variable(&key),
        key,
        default: None,
        ..info.clone()
    }
}

/// Every setting: those of the process, then those of each dialect.
pub(super) fn all() -> &'static [SettingInfo] {
    &ALL
}

/// The setting with this key.
pub(super) fn find(key: &str) -> Option<&'static SettingInfo> {
    all().iter().find(|info| info.key == key)
}

/// The setting with the name most similar to `key`.
pub(super) fn suggestion(key: &str) -> Option<String> {
    most_similar(key, all().iter().map(|info| info.key.clone()))
}

/// A warning about a variable with the prefix `FANWIRE_` that is not a setting; `None` if the
/// variable is known or not meant for fanwire.
pub(super) fn unknown_variable(name: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX)?;
    // Kubernetes sets variables for Services named fanwire or fanwire-something:
    // FANWIRE_SERVICE_HOST, FANWIRE_PORT_8765_TCP_ADDR, FANWIRE_REDIS_SERVICE_PORT.
    let words: Vec<_> = rest.split('_').collect();
    let is_of_a_service = words.contains(&"SERVICE") || words.contains(&"PORT");
    let known = || all().iter().map(|info| info.variable.clone());
    if is_of_a_service || OF_COMMANDS.contains(&name) || known().any(|known| known == name) {
        return None;
    }
    let suggestion = most_similar(name, known());
    let hint = suggestion.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"));
    Some(format!("unknown variable `{name}` is ignored{hint}"))
}

fn most_similar(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    // Two typing errors; a name with more differences is another word.
    const DISTANCE_MAX: usize = 2;
    let measured = candidates.map(|known| (strsim::damerau_levenshtein(name, &known), known));
    let similar = measured.filter(|(distance, _)| *distance <= DISTANCE_MAX);
    similar.min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_warned_about_and_services_of_kubernetes_are_not() {
        let check = |name: &str, expected: Option<&str>| {
            let warning = unknown_variable(name);
            let hint = warning.as_deref().map(|warning| {
                let hint = warning.split_once("did you mean `");
                hint.map_or("", |(_, hint)| hint.trim_end_matches("`?)"))
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
        check("FANWIRE_HOST", None);
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

    #[test]
    fn no_two_settings_share_a_key() {
        let keys = all().iter().map(|info| &info.key);
        let mut keys: Vec<_> = keys.collect();
        keys.sort();
        let count = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}

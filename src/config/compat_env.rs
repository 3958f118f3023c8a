//! Translates the variables of the legacy servers to settings.

use super::dotenv::Environment;
use super::error::SettingsError;
use super::layer::Entry;
use super::profiles::{CompatForm, CompatVariable, Profile};
use super::value::{SettingType, SettingValue};
use crate::base::DialectId;

/// The key of a setting of a profile's listener, for files with a table per listener.
pub(super) fn listener_key(dialect: DialectId, key: &str) -> String {
    format!("listener.{}.{key}", dialect.name())
}

/// The entries of the variables of `profiles`. `origin` is the prefix of the names in sources;
/// `has_tables` is set for files with a table per listener.
///
/// # Errors
/// When the value of a switch is neither true nor false.
pub(super) fn entries(
    profiles: &[DialectId],
    has_tables: bool,
    environment: &Environment,
    origin: &str,
    notices: &mut Vec<String>,
) -> Result<Vec<Entry>, SettingsError> {
    let mut entries: Vec<Entry> = Vec::new();
    for dialect in profiles {
        for CompatVariable { name, key, form } in Profile::of(*dialect).variables {
            let Some(text) = environment.get(*name) else {
                continue;
            };
            let source = format!("{origin} {name}");
            let is_on = || {
                let entry = Entry::new(name, text.as_str(), &*source);
                bool::parse(&entry.value).ok_or_else(|| entry.expected(&bool::rule()))
            };
            let mut set = |key: &str, value: SettingValue| {
                entries.push(Entry::new(key, value, &*source));
            };
            match form {
                CompatForm::Text => set(key, text.as_str().into()),
                CompatForm::Seconds => set(key, seconds(text)),
                CompatForm::PerMinute => {
                    set(key, text.as_str().into());
                    set(&key.replace("messages", "window"), "60s".into());
                }
                CompatForm::RateLimitSwitch => {
                    set(key, if is_on()? { "on" } else { "off" }.into());
                }
                CompatForm::DebugSwitch => {
                    if is_on()? && !environment.contains_key("LOG_LEVEL") {
                        set(key, "debug".into());
                    }
                }
                CompatForm::Listener if has_tables => {
                    set(&listener_key(*dialect, key), text.as_str().into());
                }
                CompatForm::Listener => set(key, text.as_str().into()),
                CompatForm::Ignored { notice, unless } => {
                    if !unless.contains(&&*text.trim().to_ascii_lowercase()) {
                        notices.push(format!("{source} has no effect: {notice}"));
                    }
                }
            }
        }
    }
    Ok(entries)
}

fn seconds(text: &str) -> SettingValue {
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(seconds) if seconds >= 0.0 && seconds.is_finite() => match text.split_once('.') {
            None => format!("{text}s").into(),
            // humantime has no fractions.
            Some(_) => format!("{:.0}ms", seconds * 1_000.0).into(),
        },
        _ => text.into(),
    }
}

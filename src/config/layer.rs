//! Layers of what was said, one over the other; each value remembers where it was said.

use super::error::SettingsError;
use super::keys;
use super::setting::Setting;
use crate::base::DialectId;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, util};
use std::net::IpAddr;
use std::path::Path;

/// One value of one setting.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The setting, a dialect's with its table before it.
    pub(super) key: String,
    pub(super) value: Value,
    /// The flag, variable, file or profile, for people.
    pub(super) source: String,
}

impl Entry {
    pub(super) fn new(key: &str, value: impl Into<Value>, source: impl Into<String>) -> Self {
        Self {
            key: key.to_owned(),
            value: value.into(),
            source: source.into(),
        }
    }

    /// The error that says what would be right.
    pub(super) fn expected(&self, rule: &str) -> SettingsError {
        SettingsError::Value {
            key: self.key.clone(),
            value: shown(&self.key, &self.value),
            source: self.source.clone(),
            rule: rule.to_owned(),
        }
    }

    /// Key and source, for errors about two entries.
    pub(super) fn place(&self) -> String {
        format!("{} ({})", self.key, self.source)
    }
}

impl Provider for Entry {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let nested = util::nest(&self.key, self.value.clone());
        let dict = nested.into_dict().expect("a key is not empty");
        Ok(Profile::Default.collect(dict))
    }
}

/// A value as it was said, or its mask.
pub(super) fn shown(key: &str, value: &Value) -> String {
    if keys::is_secret(key) {
        return "(secret)".into();
    }
    serde_json::to_string(value).unwrap_or_else(|_| "?".into())
}

/// All layers so far.
#[derive(Debug, Default)]
pub(super) struct Layers {
    figment: Figment,
}

impl Layers {
    /// Lays `layer` over the others.
    ///
    /// # Errors
    /// When two of its entries say different things of one setting.
    pub(super) fn merge(&mut self, layer: &[Entry]) -> Result<(), SettingsError> {
        let layer = resolve_aliases(layer)?;
        for (index, two) in layer.iter().enumerate() {
            let mut earlier = layer[..index].iter();
            if let Some(one) = earlier.find(|one| one.key == two.key && one.value != two.value) {
                return Err(SettingsError::Contradiction {
                    one: one.place(),
                    two: two.place(),
                    rule: "say one of them".into(),
                });
            }
        }
        for dialect in DialectId::ALL {
            self.lay_rate_limit(dialect, &layer)?;
        }
        for entry in layer {
            if !self.is_limited_already(&entry) {
                self.merge_entry(entry);
            }
        }
        Ok(())
    }

    /// "on" leaves the numbers of a limit as they are.
    fn is_limited_already(&self, entry: &Entry) -> bool {
        let says_on = entry.key.ends_with(".rate_limit") && entry.value.as_str() == Some("on");
        let lies_below = || self.figment.find_value(&entry.key).ok();
        says_on && lies_below().is_some_and(|value| value.as_dict().is_some())
    }

    /// A limit of one form replaces one of the other; they do not mix.
    fn lay_rate_limit(&mut self, dialect: DialectId, layer: &[Entry]) -> Result<(), SettingsError> {
        const FORMS: [[&str; 2]; 2] = [["messages", "window"], ["per_minute", "burst"]];
        let table = format!("{}.rate_limit", dialect.name());
        let said = FORMS.map(|form| {
            let keys = form.map(|part| format!("{table}.{part}"));
            layer.iter().find(|entry| keys.contains(&entry.key))
        });
        match said {
            [Some(one), Some(two)] => Err(SettingsError::Contradiction {
                one: one.place(),
                two: two.place(),
                rule: "a rate limit has either messages and window, or per_minute and burst".into(),
            }),
            [None, None] => Ok(()),
            [window, _] => {
                let other = FORMS[usize::from(window.is_some())];
                let lies_below = other
                    .iter()
                    .any(|part| self.figment.contains(&format!("{table}.{part}")));
                if lies_below {
                    self.merge_entry(Entry::new(&table, "off", "replaced"));
                }
                Ok(())
            }
        }
    }

    fn merge_entry(&mut self, entry: Entry) {
        self.figment = std::mem::take(&mut self.figment).merge(entry);
    }

    /// What was said last of a setting. Parts of a table may have different sources.
    pub(super) fn find(&self, key: &str) -> Option<Entry> {
        let value = self.figment.find_value(key).ok()?;
        let mut sources = Vec::new();
        let tags = match &value {
            Value::Dict(_, parts) => parts.values().map(Value::tag).collect(),
            value => vec![value.tag()],
        };
        for tag in tags {
            let metadata = self.figment.get_metadata(tag);
            let source = metadata.map_or_else(String::new, |metadata| metadata.name.to_string());
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        Some(Entry {
            key: key.to_owned(),
            value,
            source: sources.join(" and "),
        })
    }

    /// What was said last of a setting, if anything.
    ///
    /// # Errors
    /// When that is no value of this form.
    pub(super) fn get<T: Setting>(&self, key: &str) -> Result<Option<(T, Entry)>, SettingsError> {
        let Some(entry) = self.find(key) else {
            return Ok(None);
        };
        let value = T::parse(&entry.value).ok_or_else(|| entry.expected(T::RULE))?;
        Ok(Some((value, entry)))
    }
}

/// Takes `listen` apart into host and port, and writes `shards` for `workers`.
fn resolve_aliases(layer: &[Entry]) -> Result<Vec<Entry>, SettingsError> {
    let mut resolved = Vec::new();
    for entry in layer {
        let excluded: &[&str] = match &*entry.key {
            "listen" => &["host", "port"],
            "workers" => &["shards"],
            _ => &[],
        };
        if let Some(other) = layer.iter().find(|other| excluded.contains(&&*other.key)) {
            return Err(SettingsError::Contradiction {
                one: entry.place(),
                two: other.place(),
                rule: "say one of them".into(),
            });
        }
        match &*entry.key {
            "listen" => {
                let (host, port) =
                    parse_address(&entry.value).ok_or_else(|| entry.expected(ADDRESS_RULE))?;
                resolved.push(Entry::new("host", host.to_string(), &*entry.source));
                resolved.push(Entry::new("port", port, &*entry.source));
            }
            "workers" => resolved.push(Entry {
                key: "shards".into(),
                ..entry.clone()
            }),
            _ => resolved.push(entry.clone()),
        }
    }
    Ok(resolved)
}

/// What an address is.
pub(super) const ADDRESS_RULE: &str = "an address and a port, such as 0.0.0.0:8765 or [::1]:8765";

/// Host and port of an address.
pub(super) fn parse_address(value: &Value) -> Option<(IpAddr, u16)> {
    let (host, port) = value.as_str()?.trim().rsplit_once(':')?;
    // An IPv6 address without brackets would lose its last group to the port.
    let is_unclear = host.contains(':') && !host.starts_with('[');
    let host = IpAddr::parse(&Value::from(host)).filter(|_| !is_unclear)?;
    Some((host, port.parse().ok()?))
}

/// A configuration file: its settings, and its listeners, which are no settings but tables of some.
pub(super) struct File {
    pub(super) entries: Vec<Entry>,
    pub(super) listeners: Option<Value>,
    pub(super) name: String,
}

impl File {
    /// Reads a file of TOML.
    ///
    /// # Errors
    /// When it cannot be read, is no TOML, or has settings that do not exist.
    pub(super) fn read(path: &Path) -> Result<Self, SettingsError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let text = format!("cannot read the configuration file {name}: {error}");
            SettingsError::File(text)
        })?;
        Self::parse(name, &text)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// When it is no TOML, or has settings that do not exist.
    pub(super) fn parse(name: String, text: &str) -> Result<Self, SettingsError> {
        let data = Toml::string(text).data();
        let mut data = data.map_err(|error| {
            let reason = without_excerpt(&error.to_string());
            SettingsError::File(format!("{name}: {reason}"))
        })?;
        let mut dict = data.remove(&Profile::Default).unwrap_or_default();
        let listeners = dict.remove("listeners");
        let source = format!("file {name}");
        let mut entries = Vec::new();
        flatten("", dict, &source, &mut entries)?;
        Ok(Self {
            entries,
            listeners,
            name,
        })
    }
}

/// The error of the TOML reader without the line that it shows, which may hold a secret whose quotes
/// were forgotten.
fn without_excerpt(error: &str) -> String {
    let is_excerpt = |line: &&str| {
        let line = line
            .trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit());
        line.trim_start().starts_with('|')
    };
    let lines: Vec<_> = error.lines().filter(|line| !is_excerpt(line)).collect();
    lines.join("; ")
}

fn flatten(
    prefix: &str,
    dict: Dict,
    source: &str,
    entries: &mut Vec<Entry>,
) -> Result<(), SettingsError> {
    for (name, value) in dict {
        let key = format!("{prefix}{name}");
        match value {
            Value::Dict(_, dict) if is_table(&key) => {
                flatten(&format!("{key}."), dict, source, entries)?;
            }
            value if keys::is_known(&key) => entries.push(Entry::new(&key, value, source)),
            _ => {
                return Err(SettingsError::UnknownKey {
                    suggestion: keys::suggestion(&key),
                    key,
                    source: source.to_owned(),
                });
            }
        }
    }
    Ok(())
}

/// Whether `key` holds further settings.
fn is_table(key: &str) -> bool {
    let name = key.strip_suffix(".rate_limit").unwrap_or(key);
    DialectId::named(name).is_some()
}

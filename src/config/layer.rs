//! Layers of settings, merged in order; each value keeps its source.

use super::error::SettingsError;
use super::rate_limit::{KINDS, PARTS};
use super::secret::MASK;
use super::value::{SettingType, SettingValue};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// One value of one setting.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The setting; for a dialect with its table as prefix.
    pub(super) key: String,
    pub(super) value: SettingValue,
    /// The flag, variable, or line of a file, for people.
    pub(super) source: String,
}

/// Without the value, which may be a secret.
impl std::fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut entry = formatter.debug_struct("Entry");
        entry.field("key", &self.key).field("source", &self.source);
        entry.finish_non_exhaustive()
    }
}

impl Entry {
    pub(super) fn new(
        key: &str,
        value: impl Into<SettingValue>,
        source: impl Into<String>,
    ) -> Self {
        Self {
            key: key.to_owned(),
            value: value.into(),
            source: source.into(),
        }
    }

    /// The error that names the value, its source and what is allowed.
    pub(super) fn expected(&self, rule: &str) -> SettingsError {
        SettingsError::Value {
            key: self.key.clone(),
            value: self.value.to_string(),
            source: self.source.clone(),
            rule: rule.to_owned(),
        }
    }

    /// The same with a mask in place of its value, for errors about secrets.
    pub(super) fn masked(&self) -> Self {
        Self {
            value: SettingValue::Unsupported(MASK.to_owned()),
            ..self.clone()
        }
    }

    /// Key and source, for errors about two entries.
    pub(super) fn origin(&self) -> String {
        format!("`{}` ({})", self.key, self.source)
    }
}

/// The settings of all layers so far, each with the value of the last layer that sets it.
#[derive(Debug, Default)]
pub(super) struct Layers {
    entries: BTreeMap<String, Entry>,
}

impl Layers {
    /// Merges `layer` over the others.
    ///
    /// # Errors
    /// When two of its entries exclude each other.
    pub(super) fn merge(&mut self, layer: &[Entry]) -> Result<(), SettingsError> {
        let layer = resolve_aliases(layer)?;
        for (index, two) in layer.iter().enumerate() {
            let mut earlier = layer[..index].iter();
            if let Some(one) = earlier.find(|one| one.key == two.key && one.value != two.value) {
                return Err(conflict(one, two, "set one of them"));
            }
        }
        check_rate_limits(&layer)?;
        // The parts of a rate limit come before the whole, so that "off" overrides them.
        let (whole, others): (Vec<_>, Vec<_>) = layer
            .into_iter()
            .partition(|entry| entry.key.ends_with("rate_limit"));
        for entry in others.into_iter().chain(whole) {
            self.insert(entry);
        }
        Ok(())
    }

    /// A rate limit of one kind replaces one of the other kind; "on" keeps the parts as they are.
    fn insert(&mut self, entry: Entry) {
        if let Some((table, part)) = split_part(&entry.key) {
            self.entries.remove(table);
            for other in KINDS.iter().filter(|kind| !kind.contains(&part)).flatten() {
                self.entries.remove(&format!("{table}.{other}"));
            }
        } else if entry.key.ends_with("rate_limit") {
            let parts = PARTS.map(|part| format!("{}.{part}", entry.key));
            let is_on = entry.value.as_str().is_some_and(is_on);
            if is_on && parts.iter().any(|part| self.entries.contains_key(part)) {
                return;
            }
            for part in parts {
                self.entries.remove(&part);
            }
        }
        self.entries.insert(entry.key.clone(), entry);
    }

    /// The value of a setting, if a layer sets it; the parts of a rate limit form one table.
    pub(super) fn find(&self, key: &str) -> Option<Entry> {
        if let Some(entry) = self.entries.get(key) {
            return Some(entry.clone());
        }
        let parts = PARTS.iter().filter(|_| key.ends_with("rate_limit"));
        let parts = parts.filter_map(|part| {
            let entry = self.entries.get(&format!("{key}.{part}"))?;
            Some(((*part).to_owned(), entry))
        });
        let parts: Vec<_> = parts.collect();
        let mut sources: Vec<&str> = Vec::new();
        for (_, part) in &parts {
            if !sources.contains(&&*part.source) {
                sources.push(&part.source);
            }
        }
        let source = sources.join(" and ");
        let table = parts
            .iter()
            .map(|(name, part)| (name.clone(), part.value.clone()));
        let table: BTreeMap<_, _> = table.collect();
        (!table.is_empty()).then(|| Entry {
            key: key.to_owned(),
            value: SettingValue::Table(table),
            source,
        })
    }

    /// The value of a setting and its source, if a layer sets it.
    ///
    /// # Errors
    /// When the value is not of this type.
    pub(super) fn get<T: SettingType>(
        &self,
        key: &str,
    ) -> Result<Option<(T, Entry)>, SettingsError> {
        let Some(entry) = self.find(key) else {
            return Ok(None);
        };
        let value = T::parse(&entry.value).ok_or_else(|| entry.expected(&T::rule()))?;
        Ok(Some((value, entry)))
    }
}

fn is_on(word: &str) -> bool {
    word.trim().eq_ignore_ascii_case("on")
}

/// `gateway.rate_limit.burst` is `gateway.rate_limit` and `burst`.
fn split_part(key: &str) -> Option<(&str, &str)> {
    let (table, part) = key.rsplit_once('.')?;
    table.ends_with("rate_limit").then_some((table, part))
}

pub(super) fn conflict(one: &Entry, two: &Entry, rule: &str) -> SettingsError {
    SettingsError::Conflict {
        one: one.origin(),
        two: two.origin(),
        rule: rule.to_owned(),
    }
}

fn check_rate_limits(layer: &[Entry]) -> Result<(), SettingsError> {
    for one in layer {
        let Some((table, part)) = split_part(&one.key) else {
            continue;
        };
        let is_other_kind = |two: &&Entry| {
            split_part(&two.key).is_some_and(|(other_table, other)| {
                let mut kinds = KINDS.iter();
                table == other_table
                    && !kinds.any(|kind| kind.contains(&part) && kind.contains(&other))
            })
        };
        if let Some(two) = layer.iter().find(is_other_kind) {
            let rule = "a rate limit has either messages and window, or per_minute and burst";
            return Err(conflict(one, two, rule));
        }
    }
    Ok(())
}

/// Splits `listen` into host and port, and replaces other names of settings.
fn resolve_aliases(layer: &[Entry]) -> Result<Vec<Entry>, SettingsError> {
    let mut resolved = Vec::new();
    for entry in layer {
        let excluded: &[&str] = match &*entry.key {
            "listen" => &["host", "port"],
            "workers" => &["shards"],
            "jwt_algorithm" => &["jwt_algorithms"],
            _ => &[],
        };
        if let Some(other) = layer.iter().find(|other| excluded.contains(&&*other.key)) {
            return Err(conflict(entry, other, "set one of them"));
        }
        match &*entry.key {
            "listen" => {
                let (host, port) =
                    parse_address(&entry.value).ok_or_else(|| entry.expected(ADDRESS_RULE))?;
                if let Some(host) = host {
                    resolved.push(Entry::new("host", host.to_string(), &*entry.source));
                }
                resolved.push(Entry::new("port", u64::from(port), &*entry.source));
            }
            "workers" | "jwt_algorithm" => resolved.push(Entry {
                key: if entry.key == "workers" {
                    "shards".into()
                } else {
                    "jwt_algorithms".into()
                },
                ..entry.clone()
            }),
            _ => resolved.push(entry.clone()),
        }
    }
    Ok(resolved)
}

/// The form of an address.
pub(super) const ADDRESS_RULE: &str =
    "an address and a port, such as 0.0.0.0:8765, [::1]:8765 or :8765";

/// Host, if there is one, and port of an address.
pub(super) fn parse_address(value: &SettingValue) -> Option<(Option<IpAddr>, u16)> {
    let (host, port) = value.as_str()?.trim().rsplit_once(':')?;
    // The last group of an IPv6 address without brackets would be taken for the port.
    let is_ambiguous = host.contains(':') && !host.starts_with('[');
    let host = match host {
        "" => None,
        host => Some(IpAddr::parse(&host.into()).filter(|_| !is_ambiguous)?),
    };
    Some((host, port.parse().ok()?))
}

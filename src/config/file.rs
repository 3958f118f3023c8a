//! Configuration files (TOML).

use super::error::SettingsError;
use super::ingest::INGEST_TABLE;
use super::keys;
use super::layer::Entry;
use super::value::SettingValue;
use crate::base::DialectId;
use crate::base::limits::LISTENERS_MAX;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A configuration file: its settings, and its listeners, each a table of settings of its own.
pub(super) struct File {
    pub(super) entries: Vec<Entry>,
    pub(super) listeners: Option<Vec<Vec<Entry>>>,
    pub(super) name: String,
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is not TOML, or has unknown settings.
    pub(super) fn read(path: &Path) -> Result<Self, SettingsError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            SettingsError::File(format!("cannot read configuration file {name}: {error}"))
        })?;
        Self::parse(name, &text)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// When it is not TOML, or has unknown settings.
    pub(super) fn parse(name: String, text: &str) -> Result<Self, SettingsError> {
        let lines = Lines { name: &name, text };
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            // Without an excerpt of the line, which may contain a secret whose quotes are missing.
            SettingsError::File(format!("{}: {}", lines.source(at), error.message()))
        })?;
        let mut file = Self {
            entries: Vec::new(),
            listeners: None,
            name: name.clone(),
        };
        for (key, value) in table.into_inner() {
            if key.as_ref() == "listeners" {
                file.listeners = Some(lines.listeners(&key, value)?);
            } else {
                lines.flatten("", &key, value, &mut file.entries)?;
            }
        }
        Ok(file)
    }
}

/// The lines of a file, for sources.
struct Lines<'a> {
    name: &'a str,
    text: &'a str,
}

impl Lines<'_> {
    /// `file:line` of a byte.
    fn source(&self, at: usize) -> String {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        format!("{}:{line}", self.name)
    }

    /// Adds the settings of a value, which may be a table.
    fn flatten(
        &self,
        prefix: &str,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: Spanned<DeValue<'_>>,
        entries: &mut Vec<Entry>,
    ) -> Result<(), SettingsError> {
        let key = format!("{prefix}{}", name.as_ref());
        let source = self.source(name.span().start);
        match value.into_inner() {
            DeValue::Table(table) if is_table(&key) => {
                for (name, value) in table {
                    self.flatten(&format!("{key}."), &name, value, entries)?;
                }
                Ok(())
            }
            value if keys::find(&key).is_some() => {
                entries.push(Entry::new(&key, convert(value), source));
                Ok(())
            }
            _ => Err(SettingsError::UnknownKey {
                suggestion: keys::suggestion(&key),
                key,
                source,
            }),
        }
    }

    /// The tables of listeners.
    fn listeners(
        &self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: Spanned<DeValue<'_>>,
    ) -> Result<Vec<Vec<Entry>>, SettingsError> {
        let source = self.source(key.span().start);
        let wrong = |value: SettingValue| {
            let rule = format!(
                "1 to {LISTENERS_MAX} tables: [[listeners]] with listen, profile, path and compression"
            );
            Entry::new("listeners", value, &*source).expected(&rule)
        };
        let DeValue::Array(tables) = value.into_inner() else {
            return Err(wrong(SettingValue::Unsupported("no list".into())));
        };
        if !(1..=LISTENERS_MAX).contains(&tables.len()) {
            return Err(wrong(SettingValue::Unsupported(format!(
                "of {} tables",
                tables.len()
            ))));
        }
        let mut listeners = Vec::new();
        for (index, table) in tables.into_iter().enumerate() {
            let table = match table.into_inner() {
                DeValue::Table(table) => table,
                other => return Err(wrong(convert(other))),
            };
            let entries = table.into_iter().map(|(name, value)| {
                let key = format!("listeners[{index}].{}", name.as_ref());
                let source = self.source(name.span().start);
                if !["listen", "profile", "path", "compression"].contains(&&**name.as_ref()) {
                    return Err(SettingsError::UnknownKey {
                        key,
                        source,
                        suggestion: None,
                    });
                }
                Ok(Entry::new(&key, convert(value.into_inner()), source))
            });
            listeners.push(entries.collect::<Result<_, _>>()?);
        }
        Ok(listeners)
    }
}

fn convert(value: DeValue<'_>) -> SettingValue {
    match value {
        DeValue::String(text) => SettingValue::Text(text.into_owned()),
        DeValue::Integer(number) => {
            match i128::from_str_radix(&number.as_str().replace('_', ""), number.radix()) {
                Ok(number) => SettingValue::Integer(number),
                Err(_) => SettingValue::Unsupported(number.to_string()),
            }
        }
        DeValue::Boolean(value) => SettingValue::Bool(value),
        DeValue::Float(number) => SettingValue::Unsupported(number.to_string()),
        DeValue::Datetime(time) => SettingValue::Unsupported(time.to_string()),
        DeValue::Array(values) => {
            let values = values.into_iter().map(|value| convert(value.into_inner()));
            SettingValue::List(values.collect())
        }
        DeValue::Table(parts) => {
            let parts = parts
                .into_iter()
                .map(|(name, part)| (name.into_inner().into_owned(), convert(part.into_inner())));
            SettingValue::Table(parts.collect())
        }
    }
}

/// Whether `key` is a table of further settings.
fn is_table(key: &str) -> bool {
    let name = match key.rsplit_once('.') {
        Some((table, name)) if name.ends_with("rate_limit") => table,
        _ => key,
    };
    name == INGEST_TABLE || DialectId::named(name).is_some()
}

//! Where to listen: one address said by single settings, or tables of them in the file.

use super::compat_env::listener_key;
use super::error::SettingsError;
use super::layer::{ADDRESS_RULE, Entry, parse_address};
use super::listener::{Listener, Routes, default_path, default_port, first_overlap};
use super::reader::{DefaultValue, Reader};
use super::setting::{Setting, quoted};
use crate::base::DialectId;
use crate::base::limits::LISTENERS_MAX;
use figment::value::{Dict, Value};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What a path is.
const PATH_RULE: &str = "a path that begins with /, without ?, # or spaces";
/// Settings of one listener, which tables of listeners say each for themselves.
const SINGLE: [&str; 4] = ["profile", "host", "port", "path"];

/// The tables of listeners in a file.
#[derive(Clone)]
pub(super) struct Tables {
    pub(super) tables: Vec<Dict>,
    pub(super) source: String,
}

impl Tables {
    /// # Errors
    /// When `listeners` is no array of one to sixteen tables.
    pub(super) fn of(value: Value, file: &str) -> Result<Self, SettingsError> {
        let source = format!("file {file}");
        let entry = Entry::new("listeners", value, &*source);
        let tables = entry.value.as_array().and_then(|values| {
            let tables = values.iter().map(|value| value.as_dict().cloned());
            tables.collect::<Option<Vec<_>>>()
        });
        match tables {
            Some(tables) if (1..=LISTENERS_MAX).contains(&tables.len()) => {
                Ok(Self { tables, source })
            }
            _ => Err(entry.expected("1 to 16 tables: [[listeners]] with listen, profile, path")),
        }
    }

    /// The profiles of all tables.
    ///
    /// # Errors
    /// When there is no such profile.
    pub(super) fn profiles(&self) -> Result<Vec<DialectId>, SettingsError> {
        let profiles = (0..self.tables.len()).map(|index| self.part(index, "profile"));
        let profiles: Vec<Option<DialectId>> = profiles.collect::<Result<_, _>>()?;
        let mut profiles: Vec<_> = profiles.into_iter().flatten().collect();
        profiles.sort_by_key(|dialect| dialect.index());
        profiles.dedup();
        Ok(profiles)
    }

    fn entry(&self, index: usize, name: &str) -> Option<Entry> {
        let value = self.tables[index].get(name)?.clone();
        let key = format!("listeners[{index}].{name}");
        Some(Entry::new(&key, value, &*self.source))
    }

    fn part<T: Setting>(&self, index: usize, name: &str) -> Result<Option<T>, SettingsError> {
        let Some(entry) = self.entry(index, name) else {
            return Ok(None);
        };
        let value = T::parse(&entry.value).ok_or_else(|| entry.expected(T::RULE))?;
        Ok(Some(value))
    }
}

/// Reads where to listen.
pub(super) struct ListenerLoader<'a> {
    pub(super) reader: &'a mut Reader,
    pub(super) is_dev: bool,
}

impl ListenerLoader<'_> {
    /// The listener that single settings say.
    ///
    /// # Errors
    /// When a value is none, or a path has no profile.
    pub(super) fn single(
        &mut self,
        profile: Option<DialectId>,
    ) -> Result<Vec<Listener>, SettingsError> {
        let origin = profile.map_or_else(
            || "default".to_owned(),
            |profile| format!("{} profile", profile.name()),
        );
        let profile_source = self.reader.layers.find("profile").map(|entry| entry.source);
        let shown = profile.map(|profile| quoted(profile.name()));
        let profile_source = profile_source.as_deref().unwrap_or("default");
        self.reader.note("profile", shown, profile_source);
        let host = self.reader.read("host", self.any_host())?;
        let port = profile.map_or(8_765, default_port);
        let port = self
            .reader
            .read("port", DefaultValue(port, origin.clone()))?;
        let routes = match profile {
            None => {
                if let Some(path) = self.reader.layers.find("path") {
                    return Err(path.expected(
                        "a profile beside it: without one each dialect has a path of its own",
                    ));
                }
                Routes::ByPath
            }
            Some(dialect) => {
                let path = DefaultValue(default_path(dialect).to_owned(), origin);
                let path: String = self.reader.read("path", path)?;
                self.reader.ensure("path", is_path(&path), PATH_RULE)?;
                Routes::Profile { dialect, path }
            }
        };
        let address = SocketAddr::new(host, port);
        Ok(vec![Listener { address, routes }])
    }

    /// The listeners that tables say.
    ///
    /// # Errors
    /// When a value is none, a single setting is said too, or two listeners want one address.
    pub(super) fn tables(&mut self, tables: &Tables) -> Result<Vec<Listener>, SettingsError> {
        let single = SINGLE.iter().find_map(|key| self.reader.layers.find(key));
        if let Some(single) = single {
            return Err(SettingsError::Contradiction {
                one: single.place(),
                two: format!("listeners ({})", tables.source),
                rule: "each listener says its own listen, profile and path".into(),
            });
        }
        let indices = 0..tables.tables.len();
        let listeners: Vec<_> = indices
            .map(|index| self.table(tables, index))
            .collect::<Result<_, _>>()?;
        if let Some((one, two)) = first_overlap(&listeners) {
            return Err(SettingsError::Contradiction {
                one: one.to_string(),
                two: two.to_string(),
                rule: "two listeners cannot share an address".into(),
            });
        }
        Ok(listeners)
    }

    fn table(&mut self, tables: &Tables, index: usize) -> Result<Listener, SettingsError> {
        for name in tables.tables[index].keys() {
            if !["listen", "profile", "path"].contains(&&**name) {
                return Err(SettingsError::UnknownKey {
                    key: format!("listeners[{index}].{name}"),
                    source: tables.source.clone(),
                    suggestion: None,
                });
            }
        }
        let profile: Option<DialectId> = tables.part(index, "profile")?;
        let mut sources = vec![tables.source.clone()];
        let (mut host, mut port) = match tables.entry(index, "listen") {
            Some(entry) => {
                parse_address(&entry.value).ok_or_else(|| entry.expected(ADDRESS_RULE))?
            }
            None => (self.any_host().0, profile.map_or(8_765, default_port)),
        };
        let mut path: Option<String> = tables.part(index, "path")?;
        if let Some(dialect) = profile {
            host = self
                .placed(dialect, "host", tables, &mut sources)?
                .unwrap_or(host);
            port = self
                .placed(dialect, "port", tables, &mut sources)?
                .unwrap_or(port);
            path = self.placed(dialect, "path", tables, &mut sources)?.or(path);
        }
        let address = SocketAddr::new(host, port);
        let is_right = path
            .as_deref()
            .is_none_or(|path| is_path(path) && profile.is_some());
        if !is_right {
            let value = path.unwrap_or_default();
            let entry = Entry::new(
                &format!("listeners[{index}].path"),
                value,
                sources.join(" and "),
            );
            return Err(entry.expected(&format!("{PATH_RULE}, beside a profile")));
        }
        let routes = profile.map_or(Routes::ByPath, |dialect| Routes::Profile {
            dialect,
            path: path.unwrap_or_else(|| default_path(dialect).into()),
        });
        let listener = Listener { address, routes };
        self.note(index, &listener, &sources.join(" and "));
        Ok(listener)
    }

    /// What a variable of the profile's document says of its listener.
    fn placed<T: Setting>(
        &self,
        dialect: DialectId,
        key: &str,
        tables: &Tables,
        sources: &mut Vec<String>,
    ) -> Result<Option<T>, SettingsError> {
        let Some((value, entry)) = self.reader.layers.get(&listener_key(dialect, key))? else {
            return Ok(None);
        };
        let indices = 0..tables.tables.len();
        let profiles = indices.map(|index| tables.part::<DialectId>(index, "profile"));
        if profiles
            .filter(|profile| *profile == Ok(Some(dialect)))
            .count()
            > 1
        {
            return Err(SettingsError::Contradiction {
                one: format!("{key} ({})", entry.source),
                two: format!("listeners ({})", tables.source),
                rule: format!("several listeners have the profile {}", dialect.name()),
            });
        }
        sources.push(entry.source);
        Ok(Some(value))
    }

    fn note(&mut self, index: usize, listener: &Listener, source: &str) {
        // The number keeps tables apart that begin with the same line.
        let table = format!("[[listeners]]#{index}");
        let report = &mut self.reader.report;
        let address = quoted(&listener.address.to_string());
        report.add(&table, "listen", Some(address), source);
        if let Routes::Profile { dialect, path } = &listener.routes {
            report.add(&table, "profile", Some(quoted(dialect.name())), source);
            report.add(&table, "path", Some(quoted(path)), source);
        }
    }

    /// Every address of the host; for development only those that nobody else reaches.
    fn any_host(&self) -> DefaultValue<IpAddr> {
        if self.is_dev {
            DefaultValue(Ipv4Addr::LOCALHOST.into(), "--dev".into())
        } else {
            DefaultValue::common(Ipv4Addr::UNSPECIFIED.into())
        }
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && !path.contains(|c: char| matches!(c, '?' | '#') || c.is_whitespace())
}

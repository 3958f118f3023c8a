//! Loads the listeners: a single one from settings, several from tables in the file, or those that
//! the program sets.

use super::compat_env::listener_key;
use super::compression::Compression;
use super::declaration::settings;
use super::error::SettingsError;
use super::layer::{ADDRESS_RULE, Entry, Layers, conflict, parse_address};
use super::listener::{Listener, Routes, first_overlap};
use super::profiles::Profile;
use super::report::Report;
use super::value::{SettingType, quoted};
use crate::base::DialectId;
use crate::base::limits::LISTENERS_MAX;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The port of a listener without a profile.
const DEFAULT_PORT: u16 = 8765;

/// A path, such as `/ws`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UrlPath(String);

impl SettingType for UrlPath {
    fn rule() -> Cow<'static, str> {
        "a path that begins with /, without ?, # or spaces".into()
    }

    fn parse(value: &super::value::SettingValue) -> Option<Self> {
        let path = value.as_str()?;
        let is_path = path.starts_with('/')
            && !path.contains(|c: char| matches!(c, '?' | '#') || c.is_whitespace());
        is_path.then(|| UrlPath(path.to_owned()))
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.0))
    }
}

/// Implements the type of an optional setting, which is not set by default.
macro_rules! optional {
    ($($Type:ty),+) => {
        $(impl SettingType for Option<$Type> {
            fn rule() -> Cow<'static, str> {
                <$Type>::rule()
            }

            fn parse(value: &super::value::SettingValue) -> Option<Self> {
                <$Type>::parse(value).map(Some)
            }

            fn show(&self) -> Option<String> {
                self.as_ref()?.show()
            }
        })+
    };
}
optional!(IpAddr, u16, DialectId, UrlPath, Compression);

settings! {
    /// The settings of a single listener.
    pub(super) struct ListenerSettings {
        /// Profile of the legacy server to replace, with its port, path, variables and defaults.
        /// Without a profile all dialects are served, each at a path of its own.
        profile: Option<DialectId> = None, flag = Some("NAME");
        /// Address and port to listen on.
        listen: Option<IpAddr> = None, flag = Some("ADDR:PORT");
        /// Address to listen on, without the port.
        host: Option<IpAddr> = None, flag = Some("ADDR");
        /// Port to listen on; 0 lets the kernel choose.
        port: Option<u16> = None, flag = Some("PORT");
        /// Path of the profile's dialect, besides / and /ws.
        path: Option<UrlPath> = None, flag = Some("PATH");
        /// How messages are compressed for clients that offer it: `off` or `deflate`
        /// (permessage-deflate).
        compression: Option<Compression> = None, flag = Some("off|deflate");
    }
}

/// Settings of a single listener, after `listen` is split into host and port.
const SINGLE: [&str; 5] = ["profile", "host", "port", "path", "compression"];

/// Loads the listeners.
pub(super) struct ListenerLoader<'a> {
    pub(super) layers: &'a Layers,
    pub(super) report: &'a mut Report,
    pub(super) is_dev: bool,
}

/// The profiles in the tables of listeners.
///
/// # Errors
/// When a profile does not exist.
pub(super) fn profiles_of(tables: &[Vec<Entry>]) -> Result<Vec<DialectId>, SettingsError> {
    let profiles = tables.iter().map(|table| part(table, "profile"));
    let profiles: Vec<Option<DialectId>> = profiles.collect::<Result<_, _>>()?;
    let mut profiles: Vec<_> = profiles.into_iter().flatten().collect();
    profiles.sort_by_key(|dialect| dialect.index());
    profiles.dedup();
    Ok(profiles)
}

fn find<'a>(table: &'a [Entry], name: &str) -> Option<&'a Entry> {
    let is_it = |entry: &&Entry| entry.key.rsplit('.').next() == Some(name);
    table.iter().find(is_it)
}

fn part<T>(table: &[Entry], name: &str) -> Result<Option<T>, SettingsError>
where
    Option<T>: SettingType,
{
    match find(table, name) {
        Some(entry) => {
            let value = Option::<T>::parse(&entry.value);
            value.ok_or_else(|| entry.expected(&Option::<T>::rule()))
        }
        None => Ok(None),
    }
}

impl ListenerLoader<'_> {
    /// The value of a setting of the single listener, or its default.
    fn single<T: SettingType>(
        &mut self,
        key: &str,
        default: T,
        default_source: &str,
    ) -> Result<T, SettingsError> {
        let (value, source) = match self.layers.get::<T>(key)? {
            Some((value, entry)) => (value, entry.source),
            None => (default, default_source.to_owned()),
        };
        self.report.add("", key, value.show(), &source);
        Ok(value)
    }

    /// The listener of single settings.
    ///
    /// # Errors
    /// When a value is invalid, or a path is set without a profile.
    pub(super) fn single_listener(
        &mut self,
        profile: Option<DialectId>,
    ) -> Result<Vec<Listener>, SettingsError> {
        let origin = profile.map_or_else(
            || "default".to_owned(),
            |profile| format!("{} profile", profile.name()),
        );
        let profile_source = self.layers.find("profile").map(|entry| entry.source);
        let shown = profile.map(|profile| quoted(profile.name()));
        let profile_source = profile_source.as_deref().unwrap_or("default");
        self.report.add("", "profile", shown, profile_source);
        let (host, host_source) = self.default_host();
        let host = self.single("host", host, host_source)?;
        let port = profile.map_or(DEFAULT_PORT, |profile| Profile::of(profile).port);
        let port = self.single("port", port, &origin)?;
        let routes = match profile {
            None => {
                if let Some(path) = self.layers.find("path") {
                    return Err(path.expected(
                        "a profile to be set too: without one each dialect has its own path",
                    ));
                }
                Routes::ByPath
            }
            Some(dialect) => {
                let default = UrlPath(Profile::of(dialect).path.to_owned());
                let UrlPath(path) = self.single("path", default, &origin)?;
                Routes::Profile { dialect, path }
            }
        };
        let compression = default_compression(profile);
        let compression = self.single("compression", compression, &origin)?;
        Ok(vec![Listener {
            address: SocketAddr::new(host, port),
            routes,
            compression,
        }])
    }

    /// The listeners that the program has set.
    ///
    /// # Errors
    /// When there are none or too many, a setting of a single listener is set too, or two listeners
    /// have the same address.
    pub(super) fn set_by_program(
        &mut self,
        listeners: Vec<Listener>,
    ) -> Result<Vec<Listener>, SettingsError> {
        let source = "the program";
        if !(1..=LISTENERS_MAX).contains(&listeners.len()) {
            let count = Entry::new(
                "listeners",
                format!("{} listeners", listeners.len()),
                source,
            );
            return Err(count.expected(&format!("1 to {LISTENERS_MAX} listeners")));
        }
        self.no_single_settings(source)?;
        for (index, listener) in listeners.iter().enumerate() {
            self.note(index, listener, source);
        }
        no_overlap(listeners)
    }

    /// The listeners of tables in the file.
    ///
    /// # Errors
    /// When a value is invalid, a setting of a single listener is set too, or two listeners have
    /// the same address.
    pub(super) fn tables(
        &mut self,
        tables: &[Vec<Entry>],
        file: &str,
    ) -> Result<Vec<Listener>, SettingsError> {
        self.no_single_settings(file)?;
        let indices = 0..tables.len();
        let listeners = indices.map(|index| self.table(tables, index, file));
        no_overlap(listeners.collect::<Result<_, _>>()?)
    }

    fn no_single_settings(&self, source: &str) -> Result<(), SettingsError> {
        match SINGLE.iter().find_map(|key| self.layers.find(key)) {
            Some(single) => Err(SettingsError::Conflict {
                one: single.origin(),
                two: format!("`listeners` ({source})"),
                rule: "each listener has its own listen, profile, path and compression".into(),
            }),
            None => Ok(()),
        }
    }

    fn table(
        &mut self,
        tables: &[Vec<Entry>],
        index: usize,
        file: &str,
    ) -> Result<Listener, SettingsError> {
        let table = &tables[index];
        let profile: Option<DialectId> = part(table, "profile")?;
        let mut sources = match table.first() {
            Some(entry) => vec![entry.source.clone()],
            None => vec![file.to_owned()],
        };
        let default_host = self.default_host().0;
        let default_port = profile.map_or(DEFAULT_PORT, |profile| Profile::of(profile).port);
        let (mut host, mut port) = match find(table, "listen") {
            Some(entry) => {
                let address = parse_address(&entry.value);
                let (host, port) = address.ok_or_else(|| entry.expected(ADDRESS_RULE))?;
                (host.unwrap_or(default_host), port)
            }
            None => (default_host, default_port),
        };
        let mut path: Option<UrlPath> = part(table, "path")?;
        let mut compression: Option<Compression> = part(table, "compression")?;
        if let (Some(entry), None) = (find(table, "path"), profile) {
            return Err(entry.expected("a profile in the same table"));
        }
        if let Some(dialect) = profile {
            let legacy = |key: &str| self.legacy_variable(dialect, key, tables, file);
            let variables = ["host", "port", "path", "compression"].map(legacy);
            let [host_entry, port_entry, path_entry, compression_entry] = variables;
            let (host_entry, port_entry) = (host_entry?, port_entry?);
            let (path_entry, compression_entry) = (path_entry?, compression_entry?);
            if let Some(entry) = &host_entry {
                host = parse::<Option<IpAddr>>(entry)?.unwrap_or(host);
            }
            if let Some(entry) = &port_entry {
                port = parse::<Option<u16>>(entry)?.unwrap_or(port);
            }
            if let Some(entry) = &path_entry {
                path = parse(entry)?;
            }
            if let Some(entry) = &compression_entry {
                compression = parse(entry)?;
            }
            let entries = [host_entry, port_entry, path_entry, compression_entry];
            let entries = entries.into_iter().flatten();
            sources.extend(entries.map(|entry| entry.source));
        }
        let address = SocketAddr::new(host, port);
        let routes = profile.map_or(Routes::ByPath, |dialect| Routes::Profile {
            dialect,
            path: path.map_or_else(|| Profile::of(dialect).path.to_owned(), |path| path.0),
        });
        let listener = Listener {
            address,
            routes,
            compression: compression.unwrap_or_else(|| default_compression(profile)),
        };
        self.note(index, &listener, &sources.join(" and "));
        Ok(listener)
    }

    /// The value that a variable of the profile's legacy server sets for its listener.
    fn legacy_variable(
        &self,
        dialect: DialectId,
        key: &str,
        tables: &[Vec<Entry>],
        file: &str,
    ) -> Result<Option<Entry>, SettingsError> {
        let Some(mut entry) = self.layers.find(&listener_key(dialect, key)) else {
            return Ok(None);
        };
        entry.key = key.to_owned();
        let profiles = tables
            .iter()
            .map(|table| part::<DialectId>(table, "profile"));
        let same = profiles.filter(|profile| *profile == Ok(Some(dialect)));
        if same.count() > 1 {
            let listeners = Entry::new("listeners", "", file);
            let rule = format!("several listeners have the profile {}", dialect.name());
            return Err(conflict(&entry, &listeners, &rule));
        }
        Ok(Some(entry))
    }

    fn note(&mut self, index: usize, listener: &Listener, source: &str) {
        // The number distinguishes tables that begin with the same line.
        let table = format!("[[listeners]]#{index}");
        let address = quoted(&listener.address.to_string());
        self.report.add(&table, "listen", Some(address), source);
        if let Routes::Profile { dialect, path } = &listener.routes {
            let name = Some(quoted(dialect.name()));
            self.report.add(&table, "profile", name, source);
            self.report.add(&table, "path", Some(quoted(path)), source);
        }
        let compression = listener.compression.show();
        self.report.add(&table, "compression", compression, source);
    }

    /// All addresses of the host; in development mode only loopback.
    fn default_host(&self) -> (IpAddr, &'static str) {
        if self.is_dev {
            (Ipv4Addr::LOCALHOST.into(), "--dev")
        } else {
            (Ipv4Addr::UNSPECIFIED.into(), "default")
        }
    }
}

/// That of the legacy server.
fn default_compression(profile: Option<DialectId>) -> Compression {
    profile.map_or(Compression::Off, |dialect| Profile::of(dialect).compression)
}

fn parse<T: SettingType>(entry: &Entry) -> Result<T, SettingsError> {
    T::parse(&entry.value).ok_or_else(|| entry.expected(&T::rule()))
}

fn no_overlap(listeners: Vec<Listener>) -> Result<Vec<Listener>, SettingsError> {
    match first_overlap(&listeners) {
        Some((one, two)) => Err(SettingsError::Conflict {
            one: format!("listener {one}"),
            two: format!("listener {two}"),
            rule: "two listeners cannot share an address".into(),
        }),
        None => Ok(listeners),
    }
}

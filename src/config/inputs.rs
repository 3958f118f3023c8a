//! The sources of settings: the program, its flags, the environment and files.

use super::dotenv::{self, Environment};
use super::error::SettingsError;
use super::file::File;
use super::keys;
use super::layer::Entry;
use super::listener::Listener;
use super::loader::Loader;
use super::settings::Settings;
use super::sources::Sources;
use super::value::SettingValue;
use std::path::{Path, PathBuf};

/// The sources that a program has chosen for its settings. By default neither the environment nor
/// files are read.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    entries: Vec<Entry>,
    listeners: Option<Vec<Listener>>,
    file: Option<PathBuf>,
    reads_environment: bool,
    has_token_check: bool,
    is_command_line: bool,
}

impl Inputs {
    /// Sets a setting. A later value replaces an earlier one; `load` reports invalid values.
    pub fn set(&mut self, key: &str, value: SettingValue, source: String) {
        self.entries.retain(|entry| entry.key != key);
        self.entries.push(Entry {
            key: key.to_owned(),
            value,
            source,
        });
    }

    /// Sets the listeners, in place of `listen`, `profile` and the tables of a file.
    pub fn set_listeners(&mut self, listeners: Vec<Listener>) {
        self.listeners = Some(listeners);
    }

    /// Also reads this configuration file.
    pub fn read_file(&mut self, path: PathBuf) {
        self.file = Some(path);
    }

    /// Also reads the environment variables and the `.env` file of the working directory.
    pub fn read_environment(&mut self) {
        self.reads_environment = true;
    }

    /// Whether environment variables are read.
    #[must_use]
    pub fn reads_environment(&self) -> bool {
        self.reads_environment
    }

    /// Declares that the embedding program checks tokens itself, so that no secret is required.
    pub fn set_token_check(&mut self) {
        self.has_token_check = true;
    }

    /// Declares that the program is `fanwire` itself.
    pub fn set_command_line(&mut self) {
        self.is_command_line = true;
    }

    /// Reads all sources and checks the settings.
    ///
    /// # Errors
    /// [`SettingsError`] names what is wrong, the value, its source and what is allowed.
    pub fn load(&self) -> Result<Settings, SettingsError> {
        let unknown = self
            .entries
            .iter()
            .find(|entry| keys::find(&entry.key).is_none());
        if let Some(entry) = unknown {
            return Err(SettingsError::UnknownKey {
                suggestion: keys::suggestion(&entry.key),
                key: entry.key.clone(),
                source: entry.source.clone(),
            });
        }
        let mut environment = Environment::new();
        let mut dotenv = Environment::new();
        if self.reads_environment {
            for (name, value) in std::env::vars_os() {
                let Ok(name) = name.into_string() else {
                    continue;
                };
                match value.into_string() {
                    Ok(value) => {
                        environment.insert(name, value);
                    }
                    // Variables of other programs may contain any bytes.
                    Err(_) if name.starts_with("FANWIRE_") => {
                        let text = format!("the value of the variable {name} is not UTF-8");
                        return Err(SettingsError::File(text));
                    }
                    Err(_) => {}
                }
            }
            dotenv = read_dotenv(Path::new(".env"))?;
            dotenv.retain(|name, _| !environment.contains_key(name));
        }
        let sources = Sources {
            entries: self.entries.clone(),
            listeners: self.listeners.clone(),
            environment,
            dotenv,
            file: self.file.as_deref().map(File::read).transpose()?,
            has_token_check: self.has_token_check,
            is_command_line: self.is_command_line,
        };
        Loader::new(sources)?.load()
    }
}

fn read_dotenv(path: &Path) -> Result<Environment, SettingsError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Environment::new()),
        Err(error) => {
            let text = format!("cannot read {}: {error}", path.display());
            return Err(SettingsError::File(text));
        }
    };
    let pairs = dotenv::parse(&text).map_err(|line| {
        let text = format!("{}:{line}: expected NAME=VALUE", path.display());
        SettingsError::File(text)
    })?;
    Ok(pairs.into_iter().collect())
}

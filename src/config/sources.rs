//! Where settings are said: flags, variables, the `.env` file and the configuration file.

use super::compat_env::Environment;
use super::dotenv;
use super::error::SettingsError;
use super::flags::Flags;
use super::keys;
use super::layer::{Entry, File};
use std::path::Path;

/// Everything that was said, not yet understood.
pub(super) struct Sources {
    pub(super) flags: Vec<Entry>,
    pub(super) environment: Environment,
    /// Lines of the `.env` file whose names are no variables of the environment.
    pub(super) dotenv: Environment,
    pub(super) file: Option<File>,
    /// Whether tokens are checked by the embedding program.
    pub(super) has_token_check: bool,
}

impl Sources {
    /// Reads the environment and the files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn read(flags: &Flags, file: Option<&Path>) -> Result<Self, SettingsError> {
        // What is not UTF-8 is none of ours.
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            Some((name, value.into_string().ok()?))
        });
        let environment: Environment = variables.collect();
        let mut dotenv = read_dotenv(Path::new(".env"))?;
        dotenv.retain(|name, _| !environment.contains_key(name));
        Ok(Self {
            has_token_check: flags.has_token_check,
            flags: flags.entries(),
            environment,
            dotenv,
            file: file.map(File::read).transpose()?,
        })
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
        let text = format!("{}: line {line} is not NAME=VALUE", path.display());
        SettingsError::File(text)
    })?;
    Ok(pairs.into_iter().collect())
}

/// The entries of `FANWIRE_` variables.
pub(super) fn ours(environment: &Environment, origin: &str) -> Vec<Entry> {
    keys::all()
        .filter_map(|key| {
            let name = keys::variable(&key)?;
            let text = environment.get(&name)?;
            Some(Entry::new(&key, text.as_str(), format!("{origin} {name}")))
        })
        .collect()
}

//! The content of all sources of settings.

use super::dotenv::Environment;
use super::file::File;
use super::keys;
use super::layer::Entry;
use super::listener::Listener;

/// The content of all sources, not yet checked.
pub(super) struct Sources {
    /// Set by the program or by flags; above all others.
    pub(super) entries: Vec<Entry>,
    pub(super) listeners: Option<Vec<Listener>>,
    pub(super) environment: Environment,
    /// Lines of the `.env` file whose names are not in the environment.
    pub(super) dotenv: Environment,
    pub(super) file: Option<File>,
    /// Whether the embedding program checks tokens itself.
    pub(super) has_token_check: bool,
    /// Whether the program is `fanwire` itself.
    pub(super) is_command_line: bool,
}

/// The variable that Kubernetes sets to `tcp://ADDRESS:PORT` for a Service named fanwire.
const SERVICE_VARIABLE: &str = "FANWIRE_PORT";

/// The entries of `FANWIRE_` variables.
pub(super) fn own_variables(environment: &Environment, origin: &str) -> Vec<Entry> {
    let entries = keys::all().iter().filter_map(|info| {
        let name = &info.variable;
        let text = environment.get(name)?;
        if name == SERVICE_VARIABLE && text.contains("://") {
            return None;
        }
        Some(Entry::new(
            &info.key,
            text.as_str(),
            format!("{origin} {name}"),
        ))
    });
    entries.collect()
}

//! Reads settings out of the layers, and keeps what is in force and where it was said for `fanwire
//! config`.

use super::error::SettingsError;
use super::layer::{Entry, Layers};
use super::setting::Setting;
use crate::base::DialectId;

/// What is in force, as a file of TOML with the sources in comments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    /// Empty for settings of the process.
    table: String,
    text: String,
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The process first: in TOML whatever follows a table's name belongs to the table.
        let (process, tables): (Vec<_>, Vec<_>) =
            self.lines.iter().partition(|line| line.table.is_empty());
        for line in process {
            writeln!(formatter, "{}", line.text)?;
        }
        let mut names: Vec<&str> = Vec::new();
        for line in &tables {
            if !names.contains(&&*line.table) {
                names.push(&line.table);
            }
        }
        for name in names {
            writeln!(formatter, "\n{}", name.split('#').next().unwrap_or(name))?;
            for line in tables.iter().filter(|line| line.table == name) {
                writeln!(formatter, "{}", line.text)?;
            }
        }
        Ok(())
    }
}

impl Report {
    /// Adds a setting; `table` is the whole line that opens its table.
    pub(super) fn add(&mut self, table: &str, name: &str, value: Option<String>, source: &str) {
        // A source is a name of a file or variable, and could hold anything.
        let source = source.replace(char::is_control, " ");
        let text = match value {
            Some(value) => format!("{name} = {value}  # {source}"),
            None => format!("# {name} is not set  # {source}"),
        };
        self.lines.push(Line {
            table: table.to_owned(),
            text,
        });
    }

    /// Drops the tables of dialects that nobody speaks here.
    pub(super) fn keep_dialects(&mut self, dialects: &[DialectId]) {
        let table = |dialect: &DialectId| format!("[{}]", dialect.name());
        self.lines.retain(|line| {
            let mut others = DialectId::ALL.iter().filter(|it| !dialects.contains(it));
            !others.any(|other| line.table == table(other))
        });
    }
}

/// The layers, read once.
pub(super) struct Reader {
    pub(super) layers: Layers,
    pub(super) report: Report,
}

/// A value for what nobody said, and why it is this one.
pub(super) struct DefaultValue<T>(pub(super) T, pub(super) String);

impl<T> DefaultValue<T> {
    /// The value of every profile.
    pub(super) fn common(value: T) -> Self {
        Self(value, "default".into())
    }
}

impl Reader {
    /// The value of a setting, which may be one of a dialect's table.
    ///
    /// # Errors
    /// When what was said is no value of this form.
    pub(super) fn read<T: Setting>(
        &mut self,
        key: &str,
        default: DefaultValue<T>,
    ) -> Result<T, SettingsError> {
        let (value, source) = match self.layers.get(key)? {
            Some((value, entry)) => (value, entry.source),
            None => (default.0, default.1),
        };
        self.note(key, value.show(), &source);
        Ok(value)
    }

    pub(super) fn note(&mut self, key: &str, value: Option<String>, source: &str) {
        match key.split_once('.') {
            Some((table, name)) => {
                self.report.add(&format!("[{table}]"), name, value, source);
            }
            None => self.report.add("", key, value, source),
        }
    }

    /// # Errors
    /// Unless `holds`: the rule that the value of `key` breaks.
    pub(super) fn ensure(&self, key: &str, holds: bool, rule: &str) -> Result<(), SettingsError> {
        if holds {
            return Ok(());
        }
        let entry = self.layers.find(key);
        let entry = entry.unwrap_or_else(|| Entry::new(key, "", "default"));
        Err(entry.expected(rule))
    }
}

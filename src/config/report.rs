//! All settings in force and their sources, for `fanwire config`.

use crate::base::DialectId;

/// All settings in force: a configuration file with the sources in comments.
///
/// ```
/// let configured = fanwire::Server::builder().dev().configure()?;
/// println!("{}", configured.report());
/// # Ok::<(), fanwire::StartError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    /// The line that opens the table; empty for settings of the process.
    table: String,
    name: String,
    /// As TOML; `None` = it is not set.
    value: Option<String>,
    source: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name,
            value,
            source,
            ..
        } = self;
        match value {
            Some(value) => write!(formatter, "{name} = {value}  # {source}"),
            None => write!(formatter, "# {name} is not set  # {source}"),
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The settings of the process come first: in TOML everything after the name of a table
        // belongs to the table.
        let (process, tables): (Vec<_>, Vec<_>) =
            self.lines.iter().partition(|line| line.table.is_empty());
        for line in process {
            writeln!(formatter, "{}", line)?;
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
                writeln!(formatter, "{}", line)?;
            }
        }
        Ok(())
    }
}

impl Report {
    /// All settings as a JSON array of objects `{"table", "name", "value", "source"}`; the value of a
    /// setting that is not set is null.
    ///
    /// ```
    /// let configured = fanwire::Server::builder().dev().configure()?;
    /// let settings: serde_json::Value = serde_json::from_str(&configured.report().to_json()).unwrap();
    /// assert_eq!(settings[0]["name"], "profile");
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn to_json(&self) -> String {
        let lines = self.lines.iter().map(|line| {
            let value = line.value.as_ref().and_then(|value| {
                let table: toml::Table = toml::from_str(&format!("v = {value}")).ok()?;
                serde_json::to_value(&table["v"]).ok()
            });
            let table = line.table.split('#').next().unwrap_or_default();
            serde_json::json!({
                "table": table.trim_matches(['[', ']']),
                "name": line.name,
                "value": value,
                "source": line.source,
            })
        });
        serde_json::Value::Array(lines.collect()).to_string()
    }

    /// Adds a setting of the table that the line `table` opens.
    pub(super) fn add(&mut self, table: &str, name: &str, value: Option<String>, source: &str) {
        // A source contains the name of a file or variable, which may have control characters.
        let source = source.replace(char::is_control, " ");
        self.lines.push(Line {
            table: table.to_owned(),
            name: name.to_owned(),
            value,
            source,
        });
    }

    /// Keeps only the tables of dialects that a listener serves.
    pub(super) fn retain_dialects(&mut self, dialects: &[DialectId]) {
        let table = |dialect: &DialectId| format!("[{}]", dialect.name());
        self.lines.retain(|line| {
            let mut others = DialectId::ALL.iter().filter(|it| !dialects.contains(it));
            !others.any(|other| line.table == table(other))
        });
    }
}

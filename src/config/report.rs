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
    text: String,
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The settings of the process come first: in TOML everything after the name of a table
        // belongs to the table.
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
    /// Adds a setting of the table that the line `table` opens.
    pub(super) fn add(&mut self, table: &str, name: &str, value: Option<String>, source: &str) {
        // A source contains the name of a file or variable, which may have control characters.
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

    /// Keeps only the tables of dialects that a listener serves.
    pub(super) fn retain_dialects(&mut self, dialects: &[DialectId]) {
        let table = |dialect: &DialectId| format!("[{}]", dialect.name());
        self.lines.retain(|line| {
            let mut others = DialectId::ALL.iter().filter(|it| !dialects.contains(it));
            !others.any(|other| line.table == table(other))
        });
    }
}

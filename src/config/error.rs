//! Why there are no settings.

/// What is wrong with what was said, and where it was said.
#[derive(Debug, PartialEq, Eq)]
pub enum SettingsError {
    /// A value is none, or breaks a rule.
    Value {
        /// The setting.
        key: String,
        /// The value as it was said; secrets are masked.
        value: String,
        /// The flag, variable or file.
        source: String,
        /// What would be right.
        rule: String,
    },
    /// There is no such setting.
    UnknownKey {
        /// The name.
        key: String,
        /// The file.
        source: String,
        /// A setting with a name like it.
        suggestion: Option<String>,
    },
    /// Two things were said that exclude each other.
    Contradiction {
        /// The first and where it was said.
        one: String,
        /// The second and where it was said.
        two: String,
        /// Why not both.
        rule: String,
    },
    /// The file cannot be read.
    File(String),
    /// Something has to be said and was not.
    Missing(String),
}

impl std::fmt::Display for SettingsError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value {
                key,
                value,
                source,
                rule,
            } => write!(formatter, "{key} = {value} ({source}): expected {rule}"),
            Self::UnknownKey {
                key,
                source,
                suggestion,
            } => {
                write!(formatter, "{key} ({source}): there is no such setting")?;
                match suggestion {
                    Some(suggestion) => write!(formatter, "; did you mean {suggestion}?"),
                    None => Ok(()),
                }
            }
            Self::Contradiction { one, two, rule } => {
                write!(formatter, "{one} contradicts {two}: {rule}")
            }
            Self::File(text) | Self::Missing(text) => formatter.write_str(text),
        }
    }
}

impl std::error::Error for SettingsError {}

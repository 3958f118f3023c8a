//! Errors of settings.

/// What is wrong, the value, its source, and what is allowed.
///
/// ```
/// let error = fanwire::Server::builder().set("shardz", 2).configure().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "unknown setting `shardz` in the program (did you mean `shards`?)"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingsError {
    /// A value is not of its setting's type, or violates its rule.
    #[non_exhaustive]
    Value {
        /// The setting.
        key: String,
        /// The value as it was written; secrets are masked.
        value: String,
        /// The flag, variable, or line of a file.
        source: String,
        /// What is allowed.
        rule: String,
    },
    /// There is no such setting.
    #[non_exhaustive]
    UnknownKey {
        /// The name.
        key: String,
        /// The line of a file.
        source: String,
        /// A setting of a similar name.
        suggestion: Option<String>,
    },
    /// Two settings exclude each other.
    #[non_exhaustive]
    Conflict {
        /// The first and its source.
        one: String,
        /// The second and its source.
        two: String,
        /// Why they exclude each other.
        rule: String,
    },
    /// A file cannot be read.
    File(String),
    /// A setting is required and missing.
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
            } => write!(
                formatter,
                "invalid value {value} for `{key}` ({source}): expected {rule}"
            ),
            Self::UnknownKey {
                key,
                source,
                suggestion,
            } => {
                write!(formatter, "unknown setting `{key}` in {source}")?;
                match suggestion {
                    Some(suggestion) => write!(formatter, " (did you mean `{suggestion}`?)"),
                    None => Ok(()),
                }
            }
            Self::Conflict { one, two, rule } => {
                write!(formatter, "{one} and {two} are mutually exclusive: {rule}")
            }
            Self::File(text) | Self::Missing(text) => formatter.write_str(text),
        }
    }
}

impl std::error::Error for SettingsError {}

//! What an operator says about logs.

use std::path::PathBuf;
use std::time::Duration;

/// What is logged, how and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// From which level on.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
    /// The file; `None` = standard error.
    pub file: Option<PathBuf>,
    /// A further file that gets errors alone.
    pub error_file: Option<PathBuf>,
    /// Size at which a file is put aside and a new one begun, bytes.
    pub rotation_bytes: u64,
    /// How long files that were put aside are kept.
    pub retention: Duration,
}

/// How important a line is. `CRITICAL` of the documents is `Error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What helps to find a error.
    Debug,
    /// What an operator wants to know.
    Info,
    /// What an operator should look at.
    Warn,
    /// What has failed.
    Error,
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object of JSON.
    Json,
}

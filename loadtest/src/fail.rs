//! Why a command ended without a result.

use crate::connect::ConnectError;
use std::{fmt, io};

/// Whose fault it was: the caller's (exit code 2) or the run's (exit code 1).
#[derive(Debug)]
pub(crate) enum RunError {
    /// The options make no sense together.
    Usage(String),
    /// The run could not be done.
    Failed(String),
}

impl fmt::Display for RunError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(words) | Self::Failed(words) => out.write_str(words),
        }
    }
}

impl From<ConnectError> for RunError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Url(_) | ConnectError::Tls => Self::Usage(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

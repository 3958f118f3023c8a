//! Why a server did not start.

use super::kernel_probe::KernelError;
use crate::base::DialectId;
use crate::config::SettingsError;
use crate::net::BindError;
use crate::net::tls::TlsFileError;

/// Why a server did not start. Nothing listens then.
///
/// ```
/// use fanwire::{Server, StartError};
///
/// let error = Server::builder().configure().unwrap_err();
/// assert!(matches!(error, StartError::Settings(_)), "no secret");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is invalid, unknown or missing.
    Settings(SettingsError),
    /// A handler is registered for a message type of a dialect in use.
    ReservedType {
        /// The message type.
        kind: String,
        /// The dialect.
        dialect: DialectId,
    },
    /// A handler is registered for a message type that a callback of the settings answers.
    HandledType {
        /// The message type.
        kind: String,
    },
    /// The kernel rejects an operation that the server needs.
    Kernel(KernelError),
    /// An address cannot be listened on.
    Bind(BindError),
    /// A certificate or a key cannot be used.
    Tls(TlsFileError),
    /// Something else failed; the text describes it.
    Other(String),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Settings(error) => write!(formatter, "{error}"),
            Self::ReservedType { kind, dialect } => write!(
                formatter,
                "message type `{kind}` belongs to dialect {}: its handler would never be called",
                dialect.name()
            ),
            Self::HandledType { kind } => write!(
                formatter,
                "message type `{kind}` has a handler of the program: no callback of \
                 `message_callbacks` can answer it"
            ),
            Self::Kernel(error) => write!(formatter, "{error}"),
            Self::Bind(error) => write!(formatter, "{error}"),
            Self::Tls(error) => write!(formatter, "{error}"),
            Self::Other(text) => formatter.write_str(text),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Settings(error) => Some(error),
            Self::Kernel(error) => Some(error),
            Self::Bind(error) => Some(error),
            Self::Tls(error) => Some(error),
            Self::ReservedType { .. } | Self::HandledType { .. } | Self::Other(_) => None,
        }
    }
}

impl From<SettingsError> for StartError {
    fn from(error: SettingsError) -> Self {
        Self::Settings(error)
    }
}

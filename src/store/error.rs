//! Why a store cannot be opened.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a store cannot be opened or read.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The configuration contradicts itself or exceeds a limit.
    Config(String),
    /// The operating system rejected an operation on a file or directory.
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Its answer.
        error: io::Error,
    },
    /// The directory has a file that belongs to no store.
    ForeignFile(PathBuf),
    /// Another process uses the directory.
    Locked {
        /// The directory.
        directory: PathBuf,
        /// The id of that process, if it could be read.
        process: Option<u32>,
    },
    /// A segment of a later version of fanwire.
    Version {
        /// The segment.
        path: PathBuf,
        /// Its version of the format.
        version: u32,
    },
    /// The thread of the store did not start.
    Thread(String),
}

impl StoreError {
    /// Adds what was attempted to an error of the operating system.
    pub(super) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |error| Self::Io {
            action,
            path: path.to_owned(),
            error,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(reason) => write!(formatter, "invalid store settings: {reason}"),
            Self::Io {
                action,
                path,
                error,
            } => write!(formatter, "cannot {action} {}: {error}", path.display()),
            Self::ForeignFile(path) => write!(
                formatter,
                "{} is no file of a store; expected an empty directory or one of a store",
                path.display()
            ),
            Self::Locked { directory, process } => {
                write!(formatter, "the store {} is in use", directory.display())?;
                match process {
                    Some(process) => write!(formatter, " by process {process}"),
                    None => formatter.write_str(" by another process"),
                }
            }
            Self::Version { path, version } => write!(
                formatter,
                "{} has version {version} of the format, expected 1; a later fanwire wrote it",
                path.display()
            ),
            Self::Thread(reason) => write!(formatter, "cannot start the store's thread: {reason}"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

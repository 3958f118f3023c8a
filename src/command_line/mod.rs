//! The commands that ask a running server.

mod admin;
mod subscribe;
mod table;
mod tap;

pub(crate) use admin::{Connections, Disconnect, Publish, Stats, Top};
pub(crate) use subscribe::Subscribe;
pub(crate) use tap::Tap;

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Why a command has failed, for people.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// Nobody answers, or not as a server of this kind.
    Server(String),
    /// Standard output is closed.
    Output(io::Error),
}

impl fmt::Display for CommandError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(text) => formatter.write_str(text),
            Self::Output(error) => write!(formatter, "cannot write to standard output: {error}"),
        }
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Runs a command, and prints why it fails.
pub(crate) fn run(command: impl Future<Output = Result<(), CommandError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(CommandError::Server(error.to_string())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // A reader such as `head` that has enough is no failure.
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "fanwire: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints at once.
fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

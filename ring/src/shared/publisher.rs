//! Publishing into a running server from another process.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::prelude::v1::*;
use std::thread;
use std::time::{Duration, Instant};

use super::SharedError;
use super::file::SharedRing;
use super::listener::{connect, is_connected};
use crate::error::WriteError;
use crate::publication::{Publication, PublicationError};
use crate::writer::Writer;

/// The slot of the reader that is the server, in a ring that it gives to a publisher.
pub const SOURCE_READER_INDEX: u32 = 0;
/// How often a full ring, or one that is to be read, is looked at: at first, and at last.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(1)];

/// Publishes through a ring that a server gives to this process alone (its setting
/// `ingest.shared_memory`), without a system call unless the server sleeps. May be used by several threads at
/// a time.
///
/// A publication is handed over when it is written, and not yet checked: what the server finds wrong with it
/// is in the server's metrics and log. When the server ends, what it has not read is lost;
/// [`Publisher::flush`] tells.
#[derive(Debug)]
pub struct Publisher {
    writer: Writer,
    ring: SharedRing,
    /// Last, so that the server sees the end of it when all else is given back.
    stream: UnixStream,
}

/// Why a publication was not written, or it is unknown whether all was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The server is behind: try again later.
    Full,
    /// The publication is larger than an eighth of the ring. It will never fit.
    TooLarge,
    /// It cannot be written as a record.
    Invalid(PublicationError),
    /// The server is gone. Connect again.
    Disconnected,
    /// The memory of the ring is damaged. Connect again.
    Damaged,
}

impl fmt::Display for PublishError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => formatter.write_str("the ring is full: the server is behind"),
            Self::TooLarge => formatter.write_str("the publication is larger than the ring takes"),
            Self::Invalid(error) => error.fmt(formatter),
            Self::Disconnected => formatter.write_str("the server is gone"),
            Self::Damaged => formatter.write_str("the memory of the ring is damaged"),
        }
    }
}

impl std::error::Error for PublishError {}

impl Publisher {
    /// Connects to the server whose socket is at `path`.
    ///
    /// # Errors
    ///
    /// If nobody listens there, or the server has no room for another source.
    pub fn connect(path: &Path) -> Result<Self, SharedError> {
        let (ring, stream) = connect(path)?;
        Ok(Self {
            writer: ring.ring().writer(),
            ring,
            stream,
        })
    }

    /// Publishes, without waiting.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; nothing is published then.
    pub fn try_publish(&self, publication: &Publication<'_>) -> Result<(), PublishError> {
        let head = publication.head().map_err(PublishError::Invalid)?;
        // A ring without its reader would take everything, for nobody.
        let is_read = self.ring.ring().position_of(SOURCE_READER_INDEX).is_some();
        if !is_read && !self.is_connected() {
            return Err(PublishError::Disconnected);
        }
        let written = self.writer.try_write(0, &publication.parts(&head));
        let error = match written {
            Ok(_) => {
                self.writer.wake_sleepers();
                return Ok(());
            }
            Err(WriteError::TooLarge) => PublishError::TooLarge,
            Err(WriteError::Damaged) => PublishError::Damaged,
            Err(_) => PublishError::Full,
        };
        Err(match self.is_connected() {
            true => error,
            false => PublishError::Disconnected,
        })
    }

    /// Publishes, and waits while the server is behind, but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Publisher::try_publish`].
    pub fn publish(
        &self,
        publication: &Publication<'_>,
        timeout: Duration,
    ) -> Result<(), PublishError> {
        wait(timeout, || match self.try_publish(publication) {
            Err(PublishError::Full) => None,
            outcome => Some(outcome),
        })
    }

    /// Waits until the server has read all that was published by calls that have returned, but not longer
    /// than `timeout`. What it has read, it has handed to its shards, or rejected.
    ///
    /// # Errors
    ///
    /// [`PublishError::Full`] if the server has not read all in time, and
    /// [`PublishError::Disconnected`] if it never will.
    pub fn flush(&self, timeout: Duration) -> Result<(), PublishError> {
        let ring = self.ring.ring();
        let until = ring.tail_position();
        wait(timeout, || {
            // First, so that nothing is read between the two looks by a server that then leaves.
            let is_connected = self.is_connected();
            match ring.position_of(SOURCE_READER_INDEX) {
                Some(position) if position >= until => Some(Ok(())),
                _ if !is_connected => Some(Err(PublishError::Disconnected)),
                _ => None,
            }
        })
    }

    /// Whether the server is there.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        is_connected(&self.stream)
    }

    /// The ring that the server has given, of which this server reads every record.
    #[must_use]
    pub fn ring(&self) -> &SharedRing {
        &self.ring
    }

    /// The longest record that fits, bytes: the texts and the data of a publication, and 16.
    #[must_use]
    pub fn record_bytes_max(&self) -> u32 {
        self.ring.ring().record_bytes_max()
    }
}

/// Looks until there is an outcome, or the time is over.
#[expect(
    clippy::disallowed_methods,
    reason = "waits for another process, in the caller's thread"
)]
fn wait(
    timeout: Duration,
    mut look: impl FnMut() -> Option<Result<(), PublishError>>,
) -> Result<(), PublishError> {
    let began = Instant::now();
    let [mut pause, longest] = LOOK_AGAIN;
    loop {
        if let Some(outcome) = look() {
            return outcome;
        }
        if began.elapsed() >= timeout {
            return Err(PublishError::Full);
        }
        thread::sleep(pause);
        pause = longest.min(pause * 2);
    }
}

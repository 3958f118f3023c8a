//! Rings between processes, in files of the memory file system.
//!
//! Two ways to meet. A *memfd* has no name: whoever made it hands it to others, over a Unix socket
//! ([`RingListener`]) or by inheritance. Its size is sealed, so no peer can make another one touch
//! memory behind its end. A *named* ring in `/dev/shm` can be opened by everybody who may open the
//! file. It cannot be sealed, so each peer that may write it can shrink it, which kills (SIGBUS) all
//! that touch it: give a name to rings of peers that trust each other, and use a memfd otherwise.
//!
//! Either way a peer that may write the ring can spoil its content for all, but nothing else: see
//! [`Damaged`](crate::Damaged).
//!
//! *Who is alive.* Each attachment has a number and holds a lock on the byte of that number in the file
//! (`F_OFD_SETLK`). Such a lock belongs to the *open file description*, so the kernel drops it when the
//! process and all that inherited the description are gone, however they went, and whatever process
//! ids look like in its container. A child that is forked and does not call exec has the description,
//! too, and keeps its parent alive for the ring.

mod credentials;
mod file;
mod futex;
mod listener;
mod lock;
mod publisher;

pub use file::SharedRing;
pub use futex::{WAIT_ANY_MAX, wait_any};
pub use listener::{Access, RingListener, RingPeer};
pub use publisher::{PublishError, Publisher, SOURCE_READER_INDEX};

use std::fmt;
use std::io;
use std::prelude::v1::*;

use crate::error::{AttachError, RingError};

/// Why a shared ring could not be made or found.
#[derive(Debug)]
#[non_exhaustive]
pub enum SharedError {
    /// What was found is no ring, or numbers are out of range.
    Attach(AttachError),
    /// The caller's: a name has 1 to 200 letters, digits, `.`, `_` and `-`, and does not begin with a
    /// dot.
    NameInvalid,
    /// The system's.
    System {
        /// What was tried.
        step: &'static str,
        /// The system's answer.
        error: io::Error,
    },
}

impl SharedError {
    fn system(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |error| Self::System {
            step,
            error: error.into(),
        }
    }

    fn io(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { step, error }
    }
}

impl From<AttachError> for SharedError {
    fn from(error: AttachError) -> Self {
        Self::Attach(error)
    }
}

impl From<RingError> for SharedError {
    fn from(error: RingError) -> Self {
        Self::Attach(AttachError::Geometry(error))
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attach(error) => error.fmt(formatter),
            Self::NameInvalid => formatter.write_str("the name of the ring is invalid"),
            Self::System { step, error } => write!(formatter, "{step}: {error}"),
        }
    }
}

impl std::error::Error for SharedError {}

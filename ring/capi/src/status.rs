//! What every call answers, and why.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use core_ring::shared::SharedError;
use core_ring::{AttachError, Damaged, ObserveError, ReadError, Retired, RingError, WriteError};

/// What a call answers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FanwireRingStatus {
    /// It succeeded.
    Success = 0,
    /// There is no record (yet).
    Empty = 1,
    /// The ring is full: a reader, or an open grant, holds its bytes. Try again later.
    Full = 2,
    /// The payload is larger than the ring takes. It will never fit.
    TooLarge = 3,
    /// The grant was open for too long, and no reader sees its record. Write it again.
    Retired = 4,
    /// Writers have overtaken the reader or observer. It has gone on where it can.
    Missed = 5,
    /// Nothing came in time.
    Timeout = 6,
    /// An argument is not allowed: a null pointer, a number out of range, a name that is none.
    InvalidArgument = 7,
    /// All slots (of readers, writers, peers, or the only retirer's) are taken.
    NoSlot = 8,
    /// What was found is no ring of this version, or can change its size.
    Incompatible = 9,
    /// A peer has damaged the memory of the ring. Detach.
    Damaged = 10,
    /// The ring is attached for observers only.
    ReadOnly = 11,
    /// The system does not want to; `fanwire_ring_last_error` says why.
    System = 12,
    /// A fault of this library, which it has survived. Free the handle.
    Panic = 13,
    /// The server is gone. Connect again.
    Disconnected = 14,
}

/// Why a call fails.
pub(crate) struct Failure {
    status: FanwireRingStatus,
    detail: Option<String>,
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

impl Failure {
    /// One that is usual, of which there is nothing more to say.
    pub(crate) fn plain(status: FanwireRingStatus) -> Self {
        Self {
            status,
            detail: None,
        }
    }

    pub(crate) fn new(status: FanwireRingStatus, detail: impl Display) -> Self {
        Self {
            status,
            detail: Some(detail.to_string()),
        }
    }

    pub(crate) fn argument(detail: &str) -> Self {
        Self::new(FanwireRingStatus::InvalidArgument, detail)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Full => Self::plain(FanwireRingStatus::Full),
            WriteError::TooLarge => Self::plain(FanwireRingStatus::TooLarge),
            WriteError::TooManyGrants => Self::new(FanwireRingStatus::NoSlot, error),
            WriteError::ReadOnly => Self::plain(FanwireRingStatus::ReadOnly),
            _ => Self::plain(FanwireRingStatus::Damaged),
        }
    }
}

impl From<Retired> for Failure {
    fn from(_: Retired) -> Self {
        Self::plain(FanwireRingStatus::Retired)
    }
}

impl From<Damaged> for Failure {
    fn from(_: Damaged) -> Self {
        Self::plain(FanwireRingStatus::Damaged)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Lapped(lapped) => Self::new(FanwireRingStatus::Missed, lapped),
            _ => Self::plain(FanwireRingStatus::Damaged),
        }
    }
}

impl From<ObserveError> for Failure {
    fn from(error: ObserveError) -> Self {
        match error {
            ObserveError::Missed { .. } => Self::new(FanwireRingStatus::Missed, error),
            _ => Self::plain(FanwireRingStatus::Damaged),
        }
    }
}

impl From<RingError> for Failure {
    fn from(error: RingError) -> Self {
        let status = match error {
            RingError::RetirerTaken | RingError::ReadersFull { .. } => FanwireRingStatus::NoSlot,
            RingError::OutOfMemory { .. } | RingError::NoRandomness => FanwireRingStatus::System,
            RingError::ReadOnly => FanwireRingStatus::ReadOnly,
            RingError::Damaged => FanwireRingStatus::Damaged,
            _ => FanwireRingStatus::InvalidArgument,
        };
        Self::new(status, error)
    }
}

impl From<SharedError> for Failure {
    fn from(error: SharedError) -> Self {
        let status = match &error {
            SharedError::Attach(AttachError::Geometry(_)) | SharedError::NameInvalid => {
                FanwireRingStatus::InvalidArgument
            }
            SharedError::Attach(AttachError::PeersFull { .. }) => FanwireRingStatus::NoSlot,
            SharedError::Attach(_) => FanwireRingStatus::Incompatible,
            _ => FanwireRingStatus::System,
        };
        Self::new(status, error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::WouldBlock => Self::plain(FanwireRingStatus::Timeout),
            _ => Self::new(FanwireRingStatus::System, error),
        }
    }
}

/// The words for a status that nobody has described further.
fn describe(status: FanwireRingStatus) -> &'static str {
    match status {
        FanwireRingStatus::Success => "success",
        FanwireRingStatus::Empty => "there is no record yet",
        FanwireRingStatus::Full => "the ring is full",
        FanwireRingStatus::TooLarge => "the payload is larger than the ring takes",
        FanwireRingStatus::Retired => "the grant was retired before its commit",
        FanwireRingStatus::Missed => "records were missed",
        FanwireRingStatus::Timeout => "nothing came in time",
        FanwireRingStatus::InvalidArgument => "an argument is not allowed",
        FanwireRingStatus::NoSlot => "all slots are taken",
        FanwireRingStatus::Incompatible => "this is no ring of this version",
        FanwireRingStatus::Damaged => "a peer has damaged the ring",
        FanwireRingStatus::ReadOnly => "the ring is attached for observers only",
        FanwireRingStatus::System => "the system does not want to",
        FanwireRingStatus::Panic => "a fault of this library",
        FanwireRingStatus::Disconnected => "the server is gone",
    }
}

/// Runs a call: its failure becomes a status, and so does a panic.
#[inline]
pub(crate) fn call(run: impl FnOnce() -> Result<(), Failure>) -> FanwireRingStatus {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => FanwireRingStatus::Success,
        Ok(Err(failure)) => fail(failure),
        Err(_) => fail(Failure::plain(FanwireRingStatus::Panic)),
    }
}

/// Remembers what failed.
#[cold]
fn fail(failure: Failure) -> FanwireRingStatus {
    // What is usual must cost nothing: no allocation.
    let usual = [
        FanwireRingStatus::Empty,
        FanwireRingStatus::Full,
        FanwireRingStatus::Timeout,
    ];
    if !usual.contains(&failure.status) {
        let detail = failure.detail.as_deref();
        let text = detail
            .unwrap_or_else(|| describe(failure.status))
            .replace('\0', "");
        // A destructor of the thread may be the caller.
        let _ = LAST.try_with(|last| {
            *last.borrow_mut() = CString::new(text).unwrap_or_default();
        });
    }
    failure.status
}

/// What went wrong in this thread last, in English; never null. Valid until the next call of this thread
/// that fails. Not changed by `FANWIRE_RING_STATUS_EMPTY`, `FANWIRE_RING_STATUS_FULL` and `FANWIRE_RING_STATUS_TIMEOUT`, which are
/// no faults.
#[unsafe(no_mangle)]
pub extern "C" fn fanwire_ring_last_error() -> *const c_char {
    let last = LAST.try_with(|last| last.borrow().as_ptr());
    last.unwrap_or(c"".as_ptr())
}

/// The version of this interface. A program that was compiled with `FANWIRE_RING_ABI_VERSION` must find the
/// same here: all functions that make or attach a ring take it as `abi_version` and answer
/// `FANWIRE_RING_STATUS_INCOMPATIBLE` otherwise.
#[unsafe(no_mangle)]
pub extern "C" fn fanwire_ring_abi_version() -> u32 {
    FANWIRE_RING_ABI_VERSION
}

/// What the header says.
pub const FANWIRE_RING_ABI_VERSION: u32 = 1;

/// Whether the caller was compiled for this library.
pub(crate) fn check_abi(version: u32) -> Result<(), Failure> {
    if version == FANWIRE_RING_ABI_VERSION {
        return Ok(());
    }
    let detail = format!("the program is for ABI version {version}, the library has 1");
    Err(Failure::new(FanwireRingStatus::Incompatible, detail))
}

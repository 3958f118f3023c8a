//! The directory of a store: its lock, and the names of its segments.

use super::error::StoreError;
use super::marker::MARKER_FILE;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Has the id of the process that has locked the directory.
const LOCK_FILE: &str = "lock";
const EXTENSION: &str = ".seg";
/// Digits of a sequence number in a name: as many as the largest one has, so that names sort.
const DIGITS: usize = 20;
/// Attempts to lock the directory, and the time between them: an inspection locks it for a moment.
const LOCK_ATTEMPTS: usize = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The directory while this process is the only one that writes there.
#[derive(Debug)]
pub(super) struct LockedDirectory {
    path: PathBuf,
    /// The directory itself, locked until it is closed: any file in it may be removed.
    _lock: File,
}

impl LockedDirectory {
    /// Creates the directory if it is missing, checks its content, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            created => created.map_err(StoreError::io("create", path))?,
        }
        // Before the lock file is made: a directory with foreign files remains as it is.
        list_segments(path)?;
        let owner_path = path.join(LOCK_FILE);
        let owner = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&owner_path)
            .map_err(StoreError::io("write", &owner_path))?;
        let lock = File::open(path).map_err(StoreError::io("lock", path))?;
        for attempt in 1.. {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS => {
                    thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::Locked {
                        directory: path.to_owned(),
                        process: process_of(&owner),
                    });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(StoreError::io("lock", path)(error));
                }
            }
        }
        // The id is for the message of others only: a full disk must not prevent the start.
        let _ = owner.set_len(0);
        let _ = writeln!(&owner, "{}", std::process::id());
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn segment_path(&self, first_sequence: u64) -> PathBuf {
        segment_path(&self.path, first_sequence)
    }

    /// Makes new and deleted names durable.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

fn process_of(mut owner: &File) -> Option<u32> {
    let mut text = String::new();
    owner.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether a process writes in this directory now.
pub(super) fn is_locked(directory: &Path) -> bool {
    let Ok(lock) = File::open(directory) else {
        return false;
    };
    matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
}

pub(super) fn segment_path(directory: &Path, first_sequence: u64) -> PathBuf {
    directory.join(format!("{first_sequence:0DIGITS$}{EXTENSION}"))
}

/// The segments by the sequence numbers of their names, the oldest first.
pub(super) fn list_segments(directory: &Path) -> Result<Vec<u64>, StoreError> {
    let failed = |error| StoreError::io("read", directory)(error);
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        // The last is what a file system has at its root.
        if name == LOCK_FILE || name == MARKER_FILE || name == "lost+found" {
            continue;
        }
        let number = name.to_str().and_then(|it| it.strip_suffix(EXTENSION));
        let number = number
            .filter(|it| it.len() == DIGITS && it.bytes().all(|digit| digit.is_ascii_digit()));
        // A number near the largest one would leave none for what is written next, and reading a pipe
        // would never end.
        match number.and_then(|it| it.parse().ok()) {
            Some(number)
                if number < u64::MAX / 2 && entry.file_type().map_err(failed)?.is_file() =>
            {
                segments.push(number);
            }
            _ => return Err(StoreError::ForeignFile(directory.join(name))),
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

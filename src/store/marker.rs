//! A file that is there as long as nothing that belongs in the store is missing in it.
//!
//! It is removed when something is lost or rejected. That works on a full disk, where nothing can be
//! written.

use super::error::StoreError;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The name of the file.
pub(super) const MARKER_FILE: &str = "intact";

/// The file of one store.
#[derive(Clone, Debug)]
pub struct IntactMarker(PathBuf);

impl IntactMarker {
    pub(super) fn of(directory: &Path) -> Self {
        Self(directory.join(MARKER_FILE))
    }

    /// Whether nothing was said to be missing.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Says that nothing is missing that belongs in the store from now on.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn create(&self) -> Result<(), StoreError> {
        let created = File::create(&self.0).and_then(|file| file.sync_all());
        created.map_err(StoreError::io("create", &self.0))?;
        self.sync().map_err(StoreError::io("sync", &self.0))
    }

    /// Says that something is missing.
    ///
    /// # Errors
    /// The error of the operating system; none if it was said already.
    pub fn remove(&self) -> std::io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.sync()),
        }
    }

    fn sync(&self) -> std::io::Result<()> {
        match self.0.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

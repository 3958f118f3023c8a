//! One file that is written at multiples of a block, past the page cache where that is possible.

use super::buffer::BlockBuffer;
use super::format::BLOCK_BYTES;
use rustix::fs::{OFlags, statfs};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// A segment that is open for writing.
#[derive(Debug)]
pub(super) struct SegmentFile {
    file: File,
    is_direct: bool,
}

impl SegmentFile {
    /// Creates the file, or empties what an earlier attempt has left, and writes its first block.
    pub(super) fn create(path: &Path, first_block: &[u8; BLOCK_BYTES]) -> io::Result<Self> {
        let mut block = BlockBuffer::new(BLOCK_BYTES);
        block.bytes_mut().copy_from_slice(first_block);
        let create = |is_direct| {
            let file = Self::open(path, is_direct)?;
            let written = file.write(block.bytes(), 0);
            written.map(|()| file).inspect_err(|_| {
                // What cannot be removed is an empty segment when the store is read.
                let _ = fs::remove_file(path);
            })
        };
        if may_be_direct(path) {
            match create(true) {
                // The file system does not know O_DIRECT (open(2)), or the blocks of the disk are
                // larger (write(2)).
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                created => return created,
            }
        }
        create(false)
    }

    fn open(path: &Path, is_direct: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o640);
        if is_direct {
            options.custom_flags(OFlags::DIRECT.bits().cast_signed());
        }
        let file = options.open(path)?;
        Ok(Self { file, is_direct })
    }

    /// Whether the page cache is bypassed.
    pub(super) const fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// Writes whole blocks that begin at a block, in memory and in the file.
    pub(super) fn write(&self, blocks: &[u8], offset: u64) -> io::Result<()> {
        let written = loop {
            match self.file.write_at(blocks, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => break written?,
            }
        };
        if written == blocks.len() {
            return Ok(());
        }
        let message = format!("{written} of {} bytes were written", blocks.len());
        Err(io::Error::new(io::ErrorKind::StorageFull, message))
    }

    /// Makes durable what was written.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Cuts the file off.
    pub(super) fn cut(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }
}

/// Whether to try O_DIRECT: tmpfs accepts it since Linux 6.6, and writes to the page cache all the
/// same.
fn may_be_direct(path: &Path) -> bool {
    /// `TMPFS_MAGIC` of statfs(2).
    const TMPFS: u64 = 0x0102_1994;
    let file_system = path.parent().and_then(|directory| statfs(directory).ok());
    file_system.is_none_or(|it| u64::try_from(it.f_type) != Ok(TMPFS))
}

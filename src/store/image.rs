//! Reads whole files past the page cache, where that is possible: a store is read once, at the start, and was
//! written past it.

use super::buffer::BlockBuffer;
use super::format::BLOCK_BYTES;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Read at once, bytes.
const PIECE_BYTES: usize = 4 * 1024 * 1024;
const _: () = assert!(PIECE_BYTES.is_multiple_of(BLOCK_BYTES));

/// Memory for one file after the other.
#[derive(Debug)]
pub(super) struct Image {
    buffer: BlockBuffer,
}

impl Image {
    pub(super) fn new() -> Self {
        Self {
            buffer: BlockBuffer::new(0),
        }
    }

    /// What can be read of the first `length` bytes of a file, and the error that nothing more was
    /// read for.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn read(
        &mut self,
        path: &Path,
        file: &File,
        length: u64,
    ) -> io::Result<(&[u8], io::Result<()>)> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        if self.buffer.capacity() < length {
            let blocks = length.checked_next_multiple_of(BLOCK_BYTES);
            let blocks = blocks.ok_or(io::ErrorKind::OutOfMemory)?;
            self.buffer = BlockBuffer::try_new(blocks)?;
        }
        let mut options = OpenOptions::new();
        options.read(true);
        let direct = options.custom_flags(OFlags::DIRECT.bits().cast_signed());
        let read = match direct.open(path) {
            Ok(direct) => self.read_from(&direct, length),
            Err(error) => (0, Err(error)),
        };
        // The file system does not know O_DIRECT (open(2)), the blocks of the disk are larger
        // (read(2)), or the file was deleted in between.
        let (bytes, result) = match read {
            (0, Err(_)) => self.read_from(file, length),
            read => read,
        };
        Ok((&self.buffer.bytes()[..bytes], result))
    }

    /// How many bytes could be read.
    fn read_from(&mut self, file: &File, length: usize) -> (usize, io::Result<()>) {
        let blocks = length.next_multiple_of(BLOCK_BYTES);
        let mut end = 0;
        // Behind a part of a block there is nothing more.
        while end < length && end.is_multiple_of(BLOCK_BYTES) {
            let piece = end..blocks.min(end + PIECE_BYTES);
            match file.read_at(&mut self.buffer.bytes_mut()[piece], end as u64) {
                Ok(0) => break,
                Ok(bytes) => end += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (end, Err(error)),
            }
        }
        (end.min(length), Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_of_any_length_are_read_as_they_are() {
        let path = std::env::temp_dir().join(format!("fanwire-image-{}", std::process::id()));
        let mut image = Image::new();
        for length in [
            PIECE_BYTES + BLOCK_BYTES + 1,
            0,
            1,
            BLOCK_BYTES,
            PIECE_BYTES,
            9_999,
        ] {
            let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
            fs::write(&path, &bytes).unwrap();
            let file = File::open(&path).unwrap();
            // It may have grown, and be shorter than it was.
            for (asked, expected) in [
                (length, &bytes[..]),
                (length / 2, &bytes[..length / 2]),
                (length + 9_000, &bytes[..]),
            ] {
                let (read, result) = image.read(&path, &file, asked as u64).unwrap();
                assert!(read == expected, "{length} {asked}: {}", read.len());
                result.unwrap();
            }
            // Through the page cache when the name is gone.
            fs::remove_file(&path).unwrap();
            let (read, result) = image.read(&path, &file, length as u64).unwrap();
            assert!(read == bytes, "{length}");
            result.unwrap();
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let path = std::env::temp_dir();
        let directory = File::open(&path).unwrap();
        let mut image = Image::new();
        let (bytes, result) = image.read(&path, &directory, 100).unwrap();
        assert!(bytes.is_empty());
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert!(image.read(&path, &directory, u64::MAX).is_err());
    }
}

//! Compresses messages for permessage-deflate (RFC 7692 7.2.1), each without reference to others.
//!
//! ```text
//!   text ─▶ compressed, full flush   hole ─▶ stored block   text ─▶ compressed, full flush
//!           … 00 00 ff ff                    00 LEN NLEN bytes      … (00 00 ff ff is cut off)
//! ```
//!
//! What differs from receiver to receiver is a *hole*: its bytes are in a stored block (RFC 1951
//! 3.2.4), so that others of the same length can be written over them, and nothing behind refers to
//! anything ahead of the last flush.

use crate::base::FrameEncoding;
use flate2::{Compress, Compression, FlushCompress};
use std::ops::Range;

/// What every flush ends with, the second half of an empty stored block (RFC 7692 7.2.1).
pub(super) const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// Bytes right in front of those of a stored block: their number, and its complement.
pub const STORED_LENGTH_BYTES: usize = 4;
/// A text this short beside a hole is stored: a flush would cost more than compression gains.
const STORED_BYTES_MAX: usize = 48;

/// The compressors of one thread, made when they are first needed: 370 KiB and 250 KiB.
#[derive(Debug)]
pub struct Deflater {
    level: Compression,
    /// For windows of 32 KiB, and of 512 bytes.
    compressors: [Option<Compress>; 2],
}

impl Deflater {
    /// Compressors of a level from 1, the fastest, to 9, the smallest output.
    #[must_use]
    pub fn new(level: u32) -> Self {
        Self {
            level: Compression::new(level),
            compressors: [None, None],
        }
    }

    /// Appends the compressed payload of a message. The holes, in their order, are ranges of `text`,
    /// each at most 65,535 bytes; they become ranges of what is appended.
    ///
    /// Returns false if it cannot, which only an error of the library can cause; then some bytes may
    /// have been appended.
    #[must_use]
    pub fn deflate(
        &mut self,
        encoding: FrameEncoding,
        text: &[u8],
        holes: &mut [Range<usize>],
        output: &mut Vec<u8>,
    ) -> bool {
        let index = usize::from(encoding == FrameEncoding::DeflateSmallWindow);
        let level = self.level;
        let slot = &mut self.compressors[index];
        let compressor = slot.get_or_insert_with(|| {
            let window_bits = if index == 0 { 15 } else { 9 };
            Compress::new_with_window_bits(level, false, window_bits)
        });
        let is_whole = holes.is_empty();
        let base = output.len();
        let mut at = 0;
        let mut ends_stored = true;
        let ranges = holes.iter_mut().map(Some).chain([None]);
        for hole in ranges {
            let end = hole.as_ref().map_or(text.len(), |hole| hole.start);
            let part = &text[at..end];
            if part.is_empty() || (!is_whole && part.len() <= STORED_BYTES_MAX) {
                if !part.is_empty() {
                    append_stored(part, output);
                    ends_stored = true;
                }
            } else {
                if !append_compressed(compressor, part, output) {
                    *slot = None;
                    return false;
                }
                ends_stored = false;
            }
            if let Some(hole) = hole {
                at = hole.end;
                append_stored(&text[hole.clone()], output);
                *hole = output.len() - hole.len() - base..output.len() - base;
                ends_stored = true;
            }
        }
        match ends_stored {
            // The first byte of an empty stored block, whose second half is not sent.
            true => output.push(0),
            false => output.truncate(output.len() - TAIL.len()),
        }
        true
    }
}

/// Appends a stored block, which begins and ends at the border of a byte.
fn append_stored(bytes: &[u8], output: &mut Vec<u8>) {
    output.push(0);
    output.extend_from_slice(&stored_length(bytes.len()));
    output.extend_from_slice(bytes);
}

/// The number of bytes in the header of a stored block, and its complement.
///
/// # Panics
/// With more than 65,535 bytes.
#[must_use]
pub fn stored_length(bytes: usize) -> [u8; STORED_LENGTH_BYTES] {
    let length = u16::try_from(bytes).expect("a stored block has at most 65,535 bytes");
    let [low, high] = length.to_le_bytes();
    [low, high, !low, !high]
}

/// Appends `part`, so that nothing behind it refers to it.
fn append_compressed(compressor: &mut Compress, part: &[u8], output: &mut Vec<u8>) -> bool {
    let begin = compressor.total_in();
    loop {
        let done = usize::try_from(compressor.total_in() - begin).unwrap_or(part.len());
        let rest = &part[done..];
        // More than anything compresses to, so that the loop nearly always runs once.
        output.reserve(rest.len() + rest.len() / 8 + 64);
        let flushed = compressor.compress_vec(rest, output, FlushCompress::Full);
        if flushed.is_err() {
            return false;
        }
        // zlib.h: the flush is complete when there is room left.
        if output.len() < output.capacity() {
            return output.ends_with(&TAIL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Decompress, FlushDecompress, Status};
    use std::slice::from_ref;

    const ENCODINGS: [(FrameEncoding, u8); 2] = [
        (FrameEncoding::Deflate, 15),
        (FrameEncoding::DeflateSmallWindow, 9),
    ];

    /// What a receiver with a window of so many bits reads, with little room for each step: what it
    /// reads farther back is in its window, or nowhere.
    fn inflate(payload: &[u8], window_bits: u8) -> Vec<u8> {
        let mut stream = Decompress::new_with_window_bits(false, window_bits);
        let (mut text, mut room) = (Vec::new(), [0; 60]);
        let whole = [payload, &TAIL].concat();
        loop {
            let (before, read) = (stream.total_out(), stream.total_in());
            let rest = &whole[usize::try_from(read).unwrap()..];
            let status = stream.decompress(rest, &mut room, FlushDecompress::Sync);
            assert_ne!(status.unwrap(), Status::StreamEnd);
            let written = usize::try_from(stream.total_out() - before).unwrap();
            text.extend_from_slice(&room[..written]);
            if written == 0 && read == stream.total_in() {
                assert_eq!(read, whole.len() as u64);
                return text;
            }
        }
    }

    fn json(bytes: usize) -> String {
        let items = (0..).map(|n: u64| format!("{{\"id\":{},\"user\":\"user {}\"}}", n * n, n % 7));
        let mut text = String::from("[");
        for item in items {
            if text.len() + item.len() > bytes {
                break;
            }
            text.push_str(&item);
        }
        text
    }

    fn check(text: &str, holes: &[Range<usize>]) {
        for level in 1..=9 {
            let mut deflater = Deflater::new(level);
            for (encoding, window_bits) in ENCODINGS {
                let mut output = b"ahead".to_vec();
                // Twice, because nothing of the first message may matter for the second.
                for _ in 0..2 {
                    output.truncate(5);
                    let mut moved = holes.to_vec();
                    let text = text.as_bytes();
                    assert!(deflater.deflate(encoding, text, &mut moved, &mut output));
                    let payload = &mut output[5..];
                    assert_eq!(inflate(payload, window_bits), text);
                    let mut expected = text.to_vec();
                    for (hole, moved) in holes.iter().zip(moved) {
                        assert_eq!(payload[moved.clone()], text[hole.clone()]);
                        let length = stored_length(hole.len());
                        assert_eq!(payload[moved.start - 4..moved.start], length);
                        expected[hole.clone()].fill(b'#');
                        payload[moved].fill(b'#');
                    }
                    assert_eq!(inflate(payload, window_bits), expected, "level {level}");
                }
            }
        }
    }

    #[test]
    fn messages_of_any_length_are_read_by_receivers_with_the_agreed_window() {
        for bytes in [0, 1, 40, 300, 1_000, 40_000, 100_000] {
            check(&json(bytes), &[]);
        }
    }

    #[test]
    fn holes_can_be_written_over_wherever_they_are() {
        let text = json(1_000);
        let end = text.len();
        for at in [0, 1, 30, 48, 49, 500, end - 70, end - 21, end - 20] {
            check(&text, from_ref(&(at..at + 20)));
            check(&text[..at + 20], from_ref(&(at..at + 20)));
        }
        check(&text, &[10..30, 30..50, 60..70, 600..600, 700..900]);
        // The same bytes ahead of the hole, in it and behind it: nothing refers across.
        let same = "0123456789".repeat(40);
        check(&same, from_ref(&(200..220)));
        check(&same, &[100..120, 300..320]);
    }

    #[test]
    fn bytes_that_cannot_be_compressed_grow_by_little() {
        let mut state = 1_u64;
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            u8::try_from(state >> 56).unwrap()
        };
        let bytes: Vec<u8> = (0..200_000).map(|_| noise()).collect();
        let mut output = Vec::new();
        let mut deflater = Deflater::new(6);
        assert!(deflater.deflate(FrameEncoding::Deflate, &bytes, &mut [], &mut output));
        assert!(output.len() < bytes.len() + bytes.len() / 100);
        assert_eq!(inflate(&output, 15), bytes);
    }
}

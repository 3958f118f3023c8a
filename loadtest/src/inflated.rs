//! What is in compressed messages.
//!
//! A server that compresses once sends the same bytes to all. So each payload is inflated when it is
//! seen first, and the others are compared with it byte for byte, which is as strict and costs little.

use crate::frames::{COMPRESSED_TEXT, Fault};
use flate2::{Decompress, FlushDecompress};
use std::collections::VecDeque;

/// Payloads that are remembered, the newest.
const REMEMBERED: usize = 256;
/// Longest message that is taken from a server, bytes.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// The newest payloads and their messages.
#[derive(Debug, Default)]
pub(crate) struct Inflated {
    recent: VecDeque<Known>,
}

#[derive(Debug)]
struct Known {
    payload: Vec<u8>,
    message: Vec<u8>,
    is_text: bool,
}

impl Inflated {
    /// The message of a payload of permessage-deflate without context takeover.
    ///
    /// # Errors
    /// [`Fault::Deflate`], and [`Fault::Utf8`] when it is not what its opcode says.
    pub(crate) fn message(&mut self, opcode: u8, payload: &[u8]) -> Result<&[u8], Fault> {
        let known = self
            .recent
            .iter()
            .position(|known| known.payload == payload);
        if known.is_none() {
            let message = inflate(payload).ok_or(Fault::Deflate)?;
            self.recent.truncate(REMEMBERED - 1);
            self.recent.push_front(Known {
                payload: payload.to_vec(),
                is_text: std::str::from_utf8(&message).is_ok(),
                message,
            });
        }
        let known = &self.recent[known.unwrap_or_default()];
        match opcode {
            COMPRESSED_TEXT if !known.is_text => Err(Fault::Utf8),
            _ => Ok(&known.message),
        }
    }
}

fn inflate(payload: &[u8]) -> Option<Vec<u8>> {
    // RFC 7692 7.2.2.
    let whole = [payload, &[0x00, 0x00, 0xff, 0xff]].concat();
    let mut stream = Decompress::new(false);
    let mut text = Vec::new();
    loop {
        text.reserve(4 * payload.len() + 64);
        let read = usize::try_from(stream.total_in()).ok()?;
        let status = stream.decompress_vec(&whole[read..], &mut text, FlushDecompress::Sync);
        status.ok()?;
        if text.len() < text.capacity() {
            let is_whole = stream.total_in() == whole.len() as u64;
            return is_whole.then_some(text);
        }
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::COMPRESSED_BINARY;

    #[test]
    fn payloads_are_inflated_and_remembered() {
        // RFC 7692 7.2.3.1.
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        // One byte in a block without compression (RFC 1951 3.2.4).
        let no_text = [0x00, 0x01, 0x00, 0xfe, 0xff, 0xff, 0x00];
        let mut inflated = Inflated::default();
        for _ in 0..2 {
            for opcode in [COMPRESSED_TEXT, COMPRESSED_BINARY] {
                assert_eq!(inflated.message(opcode, &hello), Ok(&b"Hello"[..]));
                assert_eq!(inflated.message(opcode, &[0x00]), Ok(&b""[..]));
                assert_eq!(inflated.message(opcode, &[0xff; 10]), Err(Fault::Deflate));
            }
            assert_eq!(
                inflated.message(COMPRESSED_TEXT, &no_text),
                Err(Fault::Utf8)
            );
            assert_eq!(
                inflated.message(COMPRESSED_BINARY, &no_text),
                Ok(&b"\xff"[..])
            );
        }
        assert_eq!(inflated.recent.len(), 3);
    }
}

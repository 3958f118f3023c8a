//! The texts of compressed messages.
//!
//! A server that compresses once sends the same bytes to all. So each payload is inflated when it is
//! seen first, and the others are compared with it byte for byte, which is as strict and costs little.

use flate2::{Decompress, FlushDecompress};
use std::collections::VecDeque;

/// Payloads that are remembered, the newest.
const REMEMBERED: usize = 256;
/// Longest text that is taken from a server, bytes.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// The newest payloads and their texts.
#[derive(Debug, Default)]
pub(crate) struct Inflated {
    recent: VecDeque<(Vec<u8>, Vec<u8>)>,
}

impl Inflated {
    /// The text of a payload of permessage-deflate without context takeover; `None` if it is not
    /// valid.
    pub(crate) fn text(&mut self, payload: &[u8]) -> Option<&[u8]> {
        let known = self.recent.iter().position(|(known, _)| known == payload);
        if known.is_none() {
            let text = inflate(payload)?;
            self.recent.truncate(REMEMBERED - 1);
            self.recent.push_front((payload.to_vec(), text));
        }
        let (_, text) = self.recent.get(known.unwrap_or_default())?;
        Some(text)
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

    #[test]
    fn payloads_are_inflated_and_remembered() {
        // RFC 7692 7.2.3.1.
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let mut inflated = Inflated::default();
        for _ in 0..2 {
            assert_eq!(inflated.text(&hello), Some(&b"Hello"[..]));
            assert_eq!(inflated.text(&[0x00]), Some(&b""[..]));
        }
        assert_eq!(inflated.recent.len(), 2);
        assert_eq!(inflated.text(&[0xff; 10]), None);
    }
}

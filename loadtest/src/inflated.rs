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
            let message = inflate(&mut Decompress::new(false), payload).ok_or(Fault::Deflate)?;
            self.recent.truncate(REMEMBERED - 1);
            self.recent.push_front(Known::new(payload, message));
        }
        self.recent[known.unwrap_or_default()].message_as(opcode)
    }
}

/// The messages of a server that keeps its context from message to message (RFC 7692 7.1.1): one stream for
/// all subscribers. They receive the same messages from the first one on, so their payloads are the same.
#[derive(Debug)]
pub(crate) struct InflatedInOrder {
    stream: Decompress,
    /// The newest payloads and their messages, oldest first.
    recent: VecDeque<Known>,
    /// The number of the next new payload, from 0.
    next: u64,
    /// How many payloads each connection has received.
    received: Vec<u64>,
}

/// Payloads that are remembered for subscribers that are behind.
const REMEMBERED_IN_ORDER: usize = 4096;

impl InflatedInOrder {
    pub(crate) fn new() -> Self {
        Self {
            stream: Decompress::new(false),
            recent: VecDeque::new(),
            next: 0,
            received: Vec::new(),
        }
    }

    /// The message of the next payload of a connection, by its index.
    ///
    /// # Errors
    /// [`Fault::Deflate`], also when another connection received another payload in its place or the payload
    /// is forgotten; [`Fault::Utf8`] when it is not what its opcode says.
    pub(crate) fn message(
        &mut self,
        connection: usize,
        opcode: u8,
        payload: &[u8],
    ) -> Result<&[u8], Fault> {
        if self.received.len() <= connection {
            self.received.resize(connection + 1, 0);
        }
        let number = self.received[connection];
        self.received[connection] += 1;
        if number == self.next {
            let message = inflate(&mut self.stream, payload).ok_or(Fault::Deflate)?;
            if self.recent.len() == REMEMBERED_IN_ORDER {
                self.recent.pop_front();
            }
            self.recent.push_back(Known::new(payload, message));
            self.next += 1;
        }
        let behind = usize::try_from(self.next.saturating_sub(number)).unwrap_or(usize::MAX);
        let at = self.recent.len().checked_sub(behind);
        let known = at.and_then(|at| self.recent.get(at));
        let known = known.filter(|known| known.payload == payload);
        known.ok_or(Fault::Deflate)?.message_as(opcode)
    }
}

impl Known {
    fn new(payload: &[u8], message: Vec<u8>) -> Self {
        Self {
            payload: payload.to_vec(),
            is_text: std::str::from_utf8(&message).is_ok(),
            message,
        }
    }

    fn message_as(&self, opcode: u8) -> Result<&[u8], Fault> {
        match opcode {
            COMPRESSED_TEXT if !self.is_text => Err(Fault::Utf8),
            _ => Ok(&self.message),
        }
    }
}

fn inflate(stream: &mut Decompress, payload: &[u8]) -> Option<Vec<u8>> {
    // RFC 7692 7.2.2.
    let whole = [payload, &[0x00, 0x00, 0xff, 0xff]].concat();
    let before = stream.total_in();
    let mut text = Vec::new();
    loop {
        text.reserve(4 * payload.len() + 64);
        let read = usize::try_from(stream.total_in() - before).ok()?;
        let status = stream.decompress_vec(&whole[read..], &mut text, FlushDecompress::Sync);
        status.ok()?;
        if text.len() < text.capacity() {
            let is_whole = stream.total_in() - before == whole.len() as u64;
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
    #[test]
    fn a_context_is_kept_from_message_to_message() {
        let mut deflate = flate2::Compress::new(flate2::Compression::default(), false);
        let mut payloads = Vec::new();
        for text in ["one and the same", "one and the same again"] {
            let mut payload = Vec::with_capacity(128);
            let flush = flate2::FlushCompress::Sync;
            deflate
                .compress_vec(text.as_bytes(), &mut payload, flush)
                .unwrap();
            assert!(payload.ends_with(&[0x00, 0x00, 0xff, 0xff]));
            payload.truncate(payload.len() - 4);
            payloads.push((text, payload));
        }
        let mut inflated = InflatedInOrder::new();
        // The first subscriber is ahead of the second one.
        for connection in [0, 1] {
            for (text, payload) in &payloads {
                let message = inflated.message(connection, COMPRESSED_TEXT, payload);
                assert_eq!(message, Ok(text.as_bytes()));
            }
        }
        // In the place of another one, and without the context.
        let second = &payloads[1].1;
        let message = inflated.message(2, COMPRESSED_TEXT, second);
        assert_eq!(message, Err(Fault::Deflate));
        assert_eq!(
            InflatedInOrder::new().message(0, COMPRESSED_TEXT, second),
            Err(Fault::Deflate)
        );
    }
}

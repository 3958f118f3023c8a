//! Decompresses messages of permessage-deflate (RFC 7692 7.2.2), each without reference to others.

use super::deflater::TAIL;
use crate::base::limits::{INFLATE_FREE_BYTES, INFLATE_RATIO_MAX, INFLATION_COST};
use flate2::{Decompress, FlushDecompress, Status};

/// Final blocks after which a message may go on (RFC 7692 7.2.3.4): each costs a new beginning.
const FINAL_BLOCKS_MAX: usize = 16;
/// An empty final block. Whoever reads it right after [`TAIL`] was between two blocks.
const END: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];
/// Room for the output of one step, bytes.
const STEP_BYTES: usize = 16 * 1024;
/// Input of one step, bytes: blocks that yield nothing take a tenth of a millisecond.
const STEP_INPUT_BYTES: usize = 1_024;

/// Why a message is not decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateError {
    /// It has more bytes than allowed.
    TooLarge,
    /// It is not deflate data (RFC 1951), or cut short.
    Invalid,
}

/// How far a message is decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is whole.
    Done,
    /// It has cost what it may at once.
    Paused,
}

/// A decompressor and its buffer, made when they are first needed.
#[derive(Debug, Default)]
pub struct Inflater {
    stream: Option<Decompress>,
    output: Vec<u8>,
    /// Which part of the input is next: the payload, [`TAIL`], [`END`]; and how much of it is consumed.
    part: usize,
    consumed: usize,
    final_blocks: usize,
    cost: usize,
}

/// The longest text that a message of so many compressed bytes may have: more cannot be what an honest
/// client sends.
#[must_use]
pub const fn inflated_bytes_max(compressed_bytes: usize) -> usize {
    let by_ratio = compressed_bytes.saturating_mul(INFLATE_RATIO_MAX);
    if by_ratio > INFLATE_FREE_BYTES {
        by_ratio
    } else {
        INFLATE_FREE_BYTES
    }
}

impl Inflater {
    /// Forgets the last message: the next one begins.
    pub fn begin(&mut self) {
        self.output.clear();
        (self.part, self.consumed, self.final_blocks, self.cost) = (0, 0, 0, 0);
        if let Some(stream) = &mut self.stream {
            stream.reset(false);
        }
    }

    /// Decompresses the payload of a message from where it stands, until it is whole, has more than `bytes_max` bytes, or
    /// has cost `cost_max` in the unit of the budgets for input. To go on, call it with the same payload.
    ///
    /// # Errors
    /// [`InflateError`]; how much time it takes until then is limited in the same way.
    pub fn advance(
        &mut self,
        payload: &[u8],
        bytes_max: usize,
        cost_max: usize,
    ) -> Result<Progress, InflateError> {
        if payload.is_empty() {
            // Less than the rule asks for, but some send an empty message so.
            return Ok(Progress::Done);
        }
        // RFC 7692 7.2.2: four octets are appended.
        let parts: [&[u8]; 3] = [payload, &TAIL, &END];
        let cost_end = self.cost.saturating_add(cost_max);
        while let Some(part) = parts.get(self.part) {
            if self.cost >= cost_end {
                return Ok(Progress::Paused);
            }
            let rest = &part[self.consumed..];
            let step = &rest[..rest.len().min(STEP_INPUT_BYTES)];
            let start = self.output.len();
            let room = bytes_max
                .saturating_sub(start)
                .saturating_add(1)
                .min(STEP_BYTES);
            self.output.resize(start + room, 0);
            let stream = self.stream.get_or_insert_with(|| Decompress::new(false));
            let (input_before, output_before) = (stream.total_in(), stream.total_out());
            let status = stream.decompress(step, &mut self.output[start..], FlushDecompress::Sync);
            let yielded = usize::try_from(stream.total_out() - output_before).unwrap_or(room);
            self.output.truncate(start + yielded);
            if self.output.len() > bytes_max {
                return Err(InflateError::TooLarge);
            }
            let consumed = usize::try_from(stream.total_in() - input_before);
            let consumed = consumed.unwrap_or(step.len());
            self.consumed += consumed;
            self.cost += consumed * INFLATION_COST + yielded;
            let is_consumed = self.consumed == part.len();
            match status {
                // A message that is a final block, and nothing more, is whole, too.
                Ok(Status::StreamEnd) if is_consumed && self.part != 1 => {
                    return Ok(Progress::Done);
                }
                Ok(Status::StreamEnd) => {
                    self.final_blocks += 1;
                    if self.final_blocks > FINAL_BLOCKS_MAX {
                        return Err(InflateError::Invalid);
                    }
                    stream.reset(false);
                }
                Ok(_) if is_consumed && yielded < room => {
                    (self.part, self.consumed) = (self.part + 1, 0);
                }
                Ok(_) => {}
                Err(_) => return Err(InflateError::Invalid),
            }
        }
        Err(InflateError::Invalid)
    }

    /// What the message has cost so far, in the unit of the budgets for input.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// The bytes of the message so far.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The memory of these bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.output.capacity()
    }

    /// Decompresses a message in one piece.
    ///
    /// # Errors
    /// As [`Inflater::advance`].
    pub fn inflate(&mut self, payload: &[u8], bytes_max: usize) -> Result<&[u8], InflateError> {
        self.begin();
        self.advance(payload, bytes_max, usize::MAX)?;
        Ok(&self.output)
    }

    /// Keeps no more memory than `bytes` for the next message.
    pub fn shrink(&mut self, bytes: usize) {
        self.output.clear();
        self.output.shrink_to(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::deflater::Deflater;
    use super::*;
    use crate::base::FrameEncoding;

    const BYTES_MAX: usize = 100_000;

    fn check(payload: &[u8], expected: Result<&[u8], InflateError>) {
        let mut inflater = Inflater::default();
        // Again, because nothing of a message may matter for the next one, valid or not.
        for _ in 0..2 {
            let inflated = inflater.inflate(payload, BYTES_MAX);
            assert_eq!(inflated, expected, "{payload:02x?}");
        }
    }

    fn deflated(text: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        let mut deflater = Deflater::new(6);
        assert!(deflater.deflate(FrameEncoding::Deflate, text, &mut [], &mut payload));
        payload
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // RFC 7692 7.2.3.1, 7.2.3.3 to 7.2.3.6.
        check(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], Ok(b"Hello"));
        check(
            &[
                0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
            ],
            Ok(b"Hello"),
        );
        check(
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            Ok(b"Hello"),
        );
        check(
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
            Ok(b"Hello"),
        );
        check(&[0x00], Ok(b""));
        check(&[], Ok(b""));
        // A final block without another one behind it.
        check(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], Ok(b"Hello"));
    }

    #[test]
    fn data_that_is_cut_short_or_is_not_deflate_is_invalid() {
        let text = "{\"id\":1,\"user\":\"user 1\"}".repeat(20);
        let payload = deflated(text.as_bytes());
        check(&payload, Ok(text.as_bytes()));
        for end in 1..payload.len() - 1 {
            check(&payload[..end], Err(InflateError::Invalid));
        }
        let stored = [&[0x00, 0x05, 0x00, 0xfa, 0xff][..], b"Hello", &[0x00]].concat();
        for end in (2..stored.len()).filter(|end| *end != 6) {
            check(&stored[..end], Err(InflateError::Invalid));
        }
        // Just what the receiver appends is missing. It is not UTF-8, so no text can end so.
        check(&stored[..6], Ok(b"H\x00\x00\xff\xff"));
        // A block of the reserved type; a reference to what is not there; lengths that differ.
        check(&[0x07], Err(InflateError::Invalid));
        check(&[0x02, 0x03, 0x00], Err(InflateError::Invalid));
        check(
            &[0x00, 0x01, 0x00, 0x00, 0x00, 0x41],
            Err(InflateError::Invalid),
        );
        // Any number of final blocks.
        check(&[0x03, 0x00].repeat(1_000), Err(InflateError::Invalid));
        check(&[&[0x03, 0x00].repeat(8)[..], &[0x00]].concat(), Ok(b""));
    }

    #[test]
    fn a_bomb_is_left_as_soon_as_it_is_too_large() {
        let zeros = vec![b'0'; 100 << 20];
        let payload = deflated(&zeros);
        assert!(payload.len() < 110_000);
        let mut inflater = Inflater::default();
        assert_eq!(
            inflater.inflate(&payload, BYTES_MAX),
            Err(InflateError::TooLarge)
        );
        assert!(inflater.output.capacity() <= 4 * BYTES_MAX);
        check(&deflated(&zeros[..BYTES_MAX]), Ok(&zeros[..BYTES_MAX]));
        let larger = deflated(&zeros[..=BYTES_MAX]);
        check(&larger, Err(InflateError::TooLarge));
    }

    #[test]
    fn a_text_that_fills_the_room_of_a_step_is_whole() {
        for bytes in (STEP_BYTES - 8..STEP_BYTES + 8).chain(2 * STEP_BYTES - 4..2 * STEP_BYTES + 4)
        {
            for text in [vec![b'x'; bytes], (0..=250).cycle().take(bytes).collect()] {
                check(&deflated(&text), Ok(&text));
            }
        }
    }

    #[test]
    fn the_ratio_counts_only_for_long_texts() {
        assert_eq!(inflated_bytes_max(10), INFLATE_FREE_BYTES);
        assert_eq!(inflated_bytes_max(1 << 20), INFLATE_RATIO_MAX << 20);
        assert_eq!(inflated_bytes_max(usize::MAX), usize::MAX);
    }
}

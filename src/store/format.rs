//! The bytes of a segment: its header, and the frames that hold records.
//!
//! ```text
//!  0       512     1024                4096                                       multiple of 4096
//!  ├ header ┼ copy ─┼ zeros ────────────┼ frame ┼ frame ┼ frame ┼ zeros ┼ frame ┼ zeros ┤
//!                                       └── a batch, written at once ───┘
//!
//!  frame:  0            4          8          16               20           22     23   24
//!          ├ header CRC ┼ body CRC ┼ sequence ┼ payload length ┼ key length ┼ kind ┼ 0 ─┼ key ┼ payload ┼ zeros ┤
//! ```
//!
//! Numbers are little-endian. Frames begin at multiples of 8. A batch begins at a block and is
//! padded to a block with zeros, so that no block with acknowledged records is ever written again.
//! Both checksums are CRC-32C, begun with the *salt* of the process that wrote the segment: a
//! payload that looks like frames is none, and neither is what an older file left on the disk.

use std::ops::Range;

/// The unit in which segments are written, bytes: a multiple of the logical block of any disk.
pub(super) const BLOCK_BYTES: usize = 4_096;
/// The part of a frame in front of its key, bytes.
pub(super) const FRAME_HEADER_BYTES: usize = 24;
/// Frames begin at multiples of this, bytes.
pub(super) const FRAME_ALIGNMENT: usize = 8;
/// The kind of the frame that says that the store was closed in order. It belongs to the store.
pub(super) const KIND_CLOSED: u8 = 0;

const MAGIC: [u8; 8] = *b"FANWIRE\n";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 48;
/// The header is in two sectors of the first block, so that no single bit costs a segment.
const HEADER_COPIES: [usize; 2] = [0, 512];

const _: () = assert!(BLOCK_BYTES.is_multiple_of(FRAME_ALIGNMENT));
const _: () = assert!(HEADER_COPIES[1] + HEADER_BYTES <= BLOCK_BYTES);

/// One record of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredRecord<'a> {
    /// Its number, given by the store: 1 for the first record, and one more for each further one.
    pub sequence: u64,
    /// What the caller uses it for; never 0.
    pub kind: u8,
    /// Up to 65,535 bytes.
    pub key: &'a [u8],
    /// Up to [`STORE_PAYLOAD_BYTES_MAX`](crate::base::limits::STORE_PAYLOAD_BYTES_MAX) bytes.
    pub payload: &'a [u8],
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The random number of the store, drawn when its directory was empty.
    pub(super) epoch: u64,
    /// The random number of the process that wrote the segment.
    pub(super) salt: u64,
    /// The sequence number of its first record.
    pub(super) first_sequence: u64,
}

/// Why the first block of a file is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// The file ends before its header does, or has only zeros there: it was never written.
    Unwritten,
    /// Neither copy is valid.
    Damaged,
    /// A later version of the format.
    Version(u32),
}

impl SegmentHeader {
    /// The first block of a segment.
    pub(super) fn encode(self) -> [u8; BLOCK_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        header[24..32].copy_from_slice(&self.salt.to_le_bytes());
        header[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        let checksum = crc32c::crc32c(&header[..HEADER_BYTES - 4]);
        header[HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        let mut block = [0; BLOCK_BYTES];
        for offset in HEADER_COPIES {
            block[offset..offset + HEADER_BYTES].copy_from_slice(&header);
        }
        block
    }

    /// Reads the header from the bytes of a segment, and whether the whole block is as it was
    /// written.
    pub(super) fn decode(segment: &[u8]) -> Result<(Self, bool), HeaderError> {
        let Some(block) = segment.get(..BLOCK_BYTES) else {
            return Err(HeaderError::Unwritten);
        };
        if is_zero(block) {
            return Err(HeaderError::Unwritten);
        }
        let mut error = HeaderError::Damaged;
        for offset in HEADER_COPIES {
            match Self::decode_copy(&block[offset..offset + HEADER_BYTES]) {
                Ok(header) => return Ok((header, block == header.encode())),
                Err(HeaderError::Version(version)) => error = HeaderError::Version(version),
                Err(_) => {}
            }
        }
        Err(error)
    }

    fn decode_copy(header: &[u8]) -> Result<Self, HeaderError> {
        let (content, checksum) = header.split_at(HEADER_BYTES - 4);
        if content[..8] != MAGIC || u32_at(checksum, 0) != crc32c::crc32c(content) {
            return Err(HeaderError::Damaged);
        }
        match u32_at(content, 8) {
            VERSION => Ok(Self {
                epoch: u64_at(content, 16),
                salt: u64_at(content, 24),
                first_sequence: u64_at(content, 32),
            }),
            version => Err(HeaderError::Version(version)),
        }
    }
}

/// Begins the checksums of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checksum(u32);

impl Checksum {
    pub(super) fn salted(salt: u64) -> Self {
        Self(crc32c::crc32c(&salt.to_le_bytes()))
    }

    fn of(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// The bytes of a frame with a key and a payload of these lengths.
pub(super) const fn frame_bytes(key: usize, payload: usize) -> usize {
    (FRAME_HEADER_BYTES + key + payload).next_multiple_of(FRAME_ALIGNMENT)
}

/// Appends a frame that has neither a sequence number nor checksums yet.
///
/// # Panics
/// If the key or the payload is longer than its length can say; the appender rejects them before.
pub(super) fn push_frame(frames: &mut Vec<u8>, kind: u8, key: &[u8], payload: &[u8]) {
    let key_length = u16::try_from(key.len()).expect("the appender bounds keys");
    let payload_length = u32::try_from(payload.len()).expect("the appender bounds payloads");
    let mut header = [0; FRAME_HEADER_BYTES];
    header[16..20].copy_from_slice(&payload_length.to_le_bytes());
    header[20..22].copy_from_slice(&key_length.to_le_bytes());
    header[22] = kind;
    let bytes = frame_bytes(key.len(), payload.len());
    let padding = bytes - FRAME_HEADER_BYTES - key.len() - payload.len();
    frames.reserve(bytes);
    frames.extend_from_slice(&header);
    frames.extend_from_slice(key);
    frames.extend_from_slice(payload);
    frames.extend_from_slice(&[0; FRAME_ALIGNMENT][..padding]);
}

/// Gives frames that [`push_frame`] has written one after the other their sequence numbers and
/// checksums; the sequence number behind the last one.
pub(super) fn seal_frames(frames: &mut [u8], first_sequence: u64, checksum: Checksum) -> u64 {
    let mut sequence = first_sequence;
    let mut rest = frames;
    while !rest.is_empty() {
        let header = FrameHeader::of(rest);
        let (frame, behind) = rest.split_at_mut(header.bytes());
        frame[8..16].copy_from_slice(&sequence.to_le_bytes());
        let body_checksum = checksum.of(&frame[header.body()]);
        frame[4..8].copy_from_slice(&body_checksum.to_le_bytes());
        let header_checksum = checksum.of(&frame[4..FRAME_HEADER_BYTES]);
        frame[..4].copy_from_slice(&header_checksum.to_le_bytes());
        sequence += 1;
        rest = behind;
    }
    sequence
}

/// What is at a place where a frame may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// A whole frame of so many bytes.
    Frame(StoredRecord<'a>, usize),
    /// A frame of so many bytes whose body is damaged. Nothing inside it is a frame.
    DamagedBody(usize),
    /// No frame.
    None,
}

/// Reads the frame at the start of `bytes`.
pub(super) fn parse_frame(bytes: &[u8], checksum: Checksum) -> Parsed<'_> {
    let Some(head) = bytes.get(..FRAME_HEADER_BYTES) else {
        return Parsed::None;
    };
    if u32_at(head, 0) != checksum.of(&head[4..]) {
        return Parsed::None;
    }
    let header = FrameHeader::of(head);
    let Some(frame) = bytes.get(..header.bytes()) else {
        return Parsed::None;
    };
    let body = &frame[header.body()];
    let padding = &frame[header.body().end..];
    if u32_at(head, 4) != checksum.of(body) || !is_zero(padding) {
        return Parsed::DamagedBody(frame.len());
    }
    let (key, payload) = body.split_at(header.key);
    let record = StoredRecord {
        sequence: u64_at(head, 8),
        kind: head[22],
        key,
        payload,
    };
    Parsed::Frame(record, frame.len())
}

/// The lengths in the header of a frame.
struct FrameHeader {
    key: usize,
    payload: usize,
}

impl FrameHeader {
    fn of(frame: &[u8]) -> Self {
        Self {
            payload: u32_at(frame, 16) as usize,
            key: usize::from(u16::from_le_bytes([frame[20], frame[21]])),
        }
    }

    fn bytes(&self) -> usize {
        frame_bytes(self.key, self.payload)
    }

    fn body(&self) -> Range<usize> {
        FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + self.key + self.payload
    }
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written_and_no_changed_bit_passes() {
        let checksum = Checksum::salted(7);
        for (key, payload) in [(&b""[..], &b""[..]), (b"k", b"payload"), (b"12345678", b"")] {
            let mut frame = Vec::new();
            push_frame(&mut frame, 3, key, payload);
            assert_eq!(seal_frames(&mut frame, 99, checksum), 100);
            let record = StoredRecord {
                sequence: 99,
                kind: 3,
                key,
                payload,
            };
            let whole = Parsed::Frame(record, frame.len());
            assert_eq!(parse_frame(&frame, checksum), whole);
            assert_eq!(parse_frame(&frame, Checksum::salted(8)), Parsed::None);
            for bit in 0..frame.len() * 8 {
                frame[bit / 8] ^= 1 << (bit % 8);
                let changed = parse_frame(&frame, checksum);
                assert!(!matches!(changed, Parsed::Frame(..)), "bit {bit}");
                frame[bit / 8] ^= 1 << (bit % 8);
            }
            for end in 0..frame.len() {
                assert_eq!(parse_frame(&frame[..end], checksum), Parsed::None);
            }
        }
    }

    #[test]
    fn frames_behind_each_other_are_numbered_in_their_order() {
        let checksum = Checksum::salted(7);
        let mut frames = Vec::new();
        for length in 0..20 {
            push_frame(&mut frames, 1, &[b'k'; 3], &vec![length; length.into()]);
        }
        assert_eq!(seal_frames(&mut frames, 5, checksum), 25);
        let mut rest = &frames[..];
        for length in 0..20 {
            let Parsed::Frame(record, bytes) = parse_frame(rest, checksum) else {
                panic!("no frame with a payload of {length}");
            };
            assert_eq!(record.sequence, 5 + u64::from(length));
            assert_eq!(record.payload, vec![length; length.into()]);
            rest = &rest[bytes..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_header_survives_any_one_bit_and_the_change_is_seen() {
        let header = SegmentHeader {
            epoch: 1,
            salt: 2,
            first_sequence: 3,
        };
        let mut block = header.encode();
        assert_eq!(SegmentHeader::decode(&block), Ok((header, true)));
        for bit in 0..BLOCK_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&block), Ok((header, false)));
            block[bit / 8] ^= 1 << (bit % 8);
        }
        let unwritten = Err(HeaderError::Unwritten);
        assert_eq!(SegmentHeader::decode(&block[1..]), unwritten);
        assert_eq!(SegmentHeader::decode(&[0; BLOCK_BYTES]), unwritten);
        assert_eq!(
            SegmentHeader::decode(&[1; BLOCK_BYTES]),
            Err(HeaderError::Damaged)
        );
    }
}

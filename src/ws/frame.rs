//! The frame header (RFC 6455 5.2) and the mask.

use crate::base::counters::ProtocolError;

/// Longest header that a server sends: two bytes and a 64-bit length, never a mask.
pub const SERVER_HEADER_BYTES_MAX: usize = 10;
/// Longest header that a client sends.
pub const CLIENT_HEADER_BYTES_MAX: usize = 14;
/// Longest payload of a control frame (RFC 6455 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// The bits of the first byte of a frame that are its opcode.
const OPCODE_BITS: u8 = 0x0f;

/// The opcode of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0,
    /// A text message (UTF-8), or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// A close frame; the sender sends no more data.
    Close = 8,
    /// A ping, which requests a pong.
    Ping = 9,
    /// A pong.
    Pong = 10,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Whether this is a control frame.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// The bit of the first byte that marks a compressed message (RFC 7692 6).
pub const COMPRESSED_BIT: u8 = 0x40;

/// The header of a frame from a client.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-------+-+-------------+-------------------------------+
/// |F|R|R|R| opcode|M| length (7)  | length (16 or 64 bits)        |
/// |I|S|S|S|  (4)  |A|             | if the short one is 126 or 127|
/// |N|V|V|V|       |S|             |                               |
/// +-+-+-+-+-------+-+-------------+-------------------------------+
/// | mask (4 bytes)                | payload ...                   |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether this is the last frame of its message.
    pub fin: bool,
    /// Whether this is the first frame of a compressed message.
    pub is_compressed: bool,
    /// The opcode.
    pub opcode: Opcode,
    /// The key with which the payload is masked.
    pub mask: [u8; 4],
    /// Bytes of the header itself.
    pub header_bytes: usize,
    /// Bytes of the payload.
    pub payload_bytes: u64,
}

impl Header {
    /// Parses the header at the start of `input`; `None` when more bytes are needed. Messages may be
    /// compressed if that `has_compression`.
    ///
    /// # Errors
    /// The protocol error, as soon as the available bytes show it.
    pub fn parse(input: &[u8], has_compression: bool) -> Result<Option<Self>, ProtocolError> {
        let Some(&first) = input.first() else {
            return Ok(None);
        };
        // RFC 6455 5.2: reserved bits are zero unless an extension was negotiated. RFC 7692 6.1: that
        // of permessage-deflate is set on the first frame of a message only.
        let may_be_compressed = has_compression && matches!(first & 0x0f, 1 | 2);
        let is_compressed = may_be_compressed && first & COMPRESSED_BIT != 0;
        let reserved = if is_compressed { 0x30 } else { 0x70 };
        if first & reserved != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        let fin = first & 0x80 != 0;
        let opcode = Opcode::from_bits(first & OPCODE_BITS).ok_or(ProtocolError::Opcode)?;
        let Some(&second) = input.get(1) else {
            return Ok(None);
        };
        // RFC 6455 5.1: a server closes the connection upon receiving an unmasked frame.
        if second & 0x80 == 0 {
            return Err(ProtocolError::Unmasked);
        }
        let short_length = second & 0x7f;
        // RFC 6455 5.5: control frames are not fragmented and have at most 125 bytes.
        if opcode.is_control() && (!fin || usize::from(short_length) > CONTROL_PAYLOAD_BYTES_MAX) {
            return Err(ProtocolError::Control);
        }
        let (payload_bytes, length_bytes) = match short_length {
            126 => {
                let Some(bytes) = input.get(2..4).and_then(|bytes| bytes.try_into().ok()) else {
                    return Ok(None);
                };
                (u64::from(u16::from_be_bytes(bytes)), 2)
            }
            127 => {
                let Some(bytes) = input.get(2..10).and_then(|bytes| bytes.try_into().ok()) else {
                    return Ok(None);
                };
                (u64::from_be_bytes(bytes), 8)
            }
            length => (u64::from(length), 0),
        };
        // RFC 6455 5.2: the minimal number of bytes encodes the length; the top bit is zero.
        let is_minimal = match length_bytes {
            2 => payload_bytes > 125,
            8 => payload_bytes > 0xffff && payload_bytes >> 63 == 0,
            _ => true,
        };
        if !is_minimal {
            return Err(ProtocolError::Length);
        }
        let mask_at = 2 + length_bytes;
        let Some(mask) = input.get(mask_at..mask_at + 4) else {
            return Ok(None);
        };
        Ok(Some(Self {
            fin,
            is_compressed,
            opcode,
            mask: [mask[0], mask[1], mask[2], mask[3]],
            header_bytes: mask_at + 4,
            payload_bytes,
        }))
    }
}

/// Removes (or applies) the mask in place; `phase` is the offset of the first byte in the whole
/// payload.
pub fn unmask(payload: &mut [u8], mask: [u8; 4], phase: usize) {
    let mut turned = mask;
    turned.rotate_left(phase % 4);
    let word = u64::from_ne_bytes([
        turned[0], turned[1], turned[2], turned[3], turned[0], turned[1], turned[2], turned[3],
    ]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(turned.iter().cycle()) {
        *byte ^= key;
    }
}

/// The header of an unfragmented server frame, and how many of the bytes it has.
#[must_use]
pub fn server_header(
    opcode: Opcode,
    payload_bytes: usize,
) -> ([u8; SERVER_HEADER_BYTES_MAX], usize) {
    let mut header = [0; SERVER_HEADER_BYTES_MAX];
    header[0] = 0x80 | opcode as u8;
    if let Ok(length) = u8::try_from(payload_bytes)
        && length < 126
    {
        header[1] = length;
        (header, 2)
    } else if let Ok(length) = u16::try_from(payload_bytes) {
        header[1] = 126;
        header[2..4].copy_from_slice(&length.to_be_bytes());
        (header, 4)
    } else {
        header[1] = 127;
        header[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
        (header, SERVER_HEADER_BYTES_MAX)
    }
}

/// Builds a text frame in `output` from the payload that `render` appends, and returns where the
/// frame starts.
///
/// The payload's length is known only after the payload has been written. So space for the longest
/// header is left before the payload, and the header is written directly in front of it: the frame
/// is `output[start..]`.
pub fn build_text(output: &mut Vec<u8>, render: impl FnOnce(&mut Vec<u8>)) -> usize {
    let base = output.len();
    output.resize(base + SERVER_HEADER_BYTES_MAX, 0);
    render(output);
    let payload_bytes = output.len() - base - SERVER_HEADER_BYTES_MAX;
    let (header, header_bytes) = server_header(Opcode::Text, payload_bytes);
    let start = base + SERVER_HEADER_BYTES_MAX - header_bytes;
    output[start..start + header_bytes].copy_from_slice(&header[..header_bytes]);
    start
}

/// Appends a text frame with a compressed payload.
pub fn append_compressed_text(output: &mut Vec<u8>, payload: &[u8]) {
    let start = output.len();
    let (header, header_bytes) = server_header(Opcode::Text, payload.len());
    output.extend_from_slice(&header[..header_bytes]);
    output.extend_from_slice(payload);
    mark_compressed(&mut output[start..]);
}

/// Marks a frame as the first of a compressed message.
pub fn mark_compressed(frame: &mut [u8]) {
    if let Some(first) = frame.first_mut() {
        *first |= COMPRESSED_BIT;
    }
}

/// Whether a frame that this server has made is compressed.
#[must_use]
pub fn is_compressed(frame: &[u8]) -> bool {
    frame
        .first()
        .is_some_and(|first| first & COMPRESSED_BIT != 0)
}

/// Makes a data frame of this server that of a binary message.
pub fn mark_binary(frame: &mut [u8]) {
    if let Some(first) = frame.first_mut() {
        *first = *first & !OPCODE_BITS | Opcode::Binary as u8;
    }
}

/// Whether a frame that this server has made is that of a binary message.
#[must_use]
pub fn is_binary(frame: &[u8]) -> bool {
    let first = frame.first();
    first.is_some_and(|first| first & OPCODE_BITS == Opcode::Binary as u8)
}

/// Length of the header of a frame that this server has made, bytes.
#[must_use]
pub fn header_bytes(frame: &[u8]) -> usize {
    match frame.get(1) {
        Some(126) => 4,
        Some(127) => SERVER_HEADER_BYTES_MAX,
        _ => 2,
    }
}

/// A complete message in one frame.
#[must_use]
pub fn message(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let (header, header_bytes) = server_header(opcode, payload.len());
    [&header[..header_bytes], payload].concat()
}

/// A complete control frame; the payload is truncated to the limit of 125 bytes.
#[must_use]
pub fn control(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(CONTROL_PAYLOAD_BYTES_MAX)];
    message(opcode, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &[u8], expected: Result<Option<(u64, usize)>, ProtocolError>) {
        let parsed = Header::parse(input, false)
            .map(|header| header.map(|header| (header.payload_bytes, header.header_bytes)));
        assert_eq!(parsed, expected, "input {input:02x?}");
    }

    #[test]
    fn lengths_have_three_forms_and_only_the_shortest_is_allowed() {
        check(&[0x81, 0x80, 1, 2, 3, 4], Ok(Some((0, 6))));
        check(&[0x81, 0xfd, 1, 2, 3, 4], Ok(Some((125, 6))));
        check(&[0x81, 0xfe, 0, 126, 1, 2, 3, 4], Ok(Some((126, 8))));
        check(
            &[0x81, 0xfe, 0, 125, 1, 2, 3, 4],
            Err(ProtocolError::Length),
        );
        check(
            &[0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4],
            Ok(Some((65_536, 14))),
        );
        check(
            &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4],
            Err(ProtocolError::Length),
        );
        check(
            &[0x81, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4],
            Err(ProtocolError::Length),
        );
    }

    #[test]
    fn faults_show_as_early_as_the_bytes_allow() {
        check(&[0xc1], Err(ProtocolError::ReservedBits));
        check(&[0x83], Err(ProtocolError::Opcode));
        check(&[0x8b], Err(ProtocolError::Opcode));
        check(&[0x81, 0x05], Err(ProtocolError::Unmasked));
        check(&[0x09, 0x80], Err(ProtocolError::Control));
        check(&[0x89, 0xfe], Err(ProtocolError::Control));
    }

    #[test]
    fn the_first_frame_of_a_message_may_be_compressed_if_that_was_negotiated() {
        for first in [0xc1, 0xc2, 0x41, 0x42] {
            let input = [first, 0x80, 1, 2, 3, 4];
            let header = Header::parse(&input, true);
            assert!(header.is_ok_and(|header| header.is_some_and(|header| header.is_compressed)));
            check(&input, Err(ProtocolError::ReservedBits));
        }
        // Continuations, control frames, and the other reserved bits.
        for first in [0xc0, 0x40, 0xc8, 0xc9, 0xca, 0xa1, 0x91, 0xe1, 0xd1, 0xf1] {
            let parsed = Header::parse(&[first], true);
            assert_eq!(parsed, Err(ProtocolError::ReservedBits), "{first:02x}");
        }
        let plain = Header::parse(&[0x81, 0x80, 1, 2, 3, 4], true);
        assert!(plain.is_ok_and(|header| header.is_some_and(|header| !header.is_compressed)));
    }

    #[test]
    fn every_shorter_prefix_of_a_header_asks_for_more() {
        let long = [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 9, 8, 7, 6];
        for end in 0..long.len() {
            check(&long[..end], Ok(None));
        }
    }

    #[test]
    fn unmasking_in_pieces_equals_unmasking_at_once() {
        let plain: Vec<u8> = (0..100).collect();
        let mask = [0x11, 0x82, 0x33, 0xf4];
        let mut whole = plain.clone();
        unmask(&mut whole, mask, 0);
        for cut in 0..plain.len() {
            let mut pieces = whole.clone();
            let (left, right) = pieces.split_at_mut(cut);
            unmask(left, mask, 0);
            unmask(right, mask, cut);
            assert_eq!(pieces, plain, "cut at {cut}");
        }
    }

    #[test]
    fn built_frames_carry_the_right_header_for_each_length() {
        for length in [0_usize, 1, 125, 126, 65_535, 65_536] {
            let mut output = vec![7; 3];
            let start = build_text(&mut output, |output| {
                output.resize(output.len() + length, b'x')
            });
            let (header, header_bytes) = server_header(Opcode::Text, length);
            let mut expected = header[..header_bytes].to_vec();
            expected.resize(header_bytes + length, b'x');
            assert_eq!(&output[start..], expected, "length {length}");
        }
    }
}

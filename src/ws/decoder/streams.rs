//! Random streams of frames of clients: mostly valid, sometimes with one violation.
//!
//! The caller chooses: `choose(end)` returns a number below `end`. The tests choose by a seed, the
//! fuzz target `decoder` by its input.

/// Something that chooses a number below its argument, which is never zero.
pub(crate) type Choose<'a> = dyn FnMut(usize) -> usize + 'a;

/// Longest message that the receiver accepts, bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1_000;

/// What a receiver must decode from a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// A close frame, with or without a code.
    Close(Option<u16>),
}

/// A sequence of frames.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// The bytes on the wire.
    pub(crate) bytes: Vec<u8>,
    /// The content of the frames, and the offset at which each message is complete.
    pub(crate) sent: Vec<(usize, Sent)>,
    /// The offset of the first invalid frame; `None` if all are valid.
    pub(crate) wrong_from: Option<usize>,
}

/// A stream of some messages.
pub(crate) fn stream(choose: &mut Choose<'_>) -> Stream {
    let mut stream = Stream::default();
    for _ in 0..=choose(8) {
        message(&mut stream, choose);
    }
    match choose(6) {
        0 => {
            let at = choose(stream.bytes.len());
            stream.bytes[at] ^= 1 << choose(8);
            stream.is_wrong_from(at);
        }
        1 => {
            // Truncated: the last frame is never complete.
            let at = choose(stream.bytes.len());
            stream.bytes.truncate(at);
            stream.is_wrong_from(at);
        }
        _ => {}
    }
    stream
}

impl Stream {
    fn is_wrong_from(&mut self, at: usize) {
        let earlier = self.wrong_from.unwrap_or(at);
        self.wrong_from = Some(earlier.min(at));
    }

    fn has_sent(&mut self, sent: Sent) {
        self.sent.push((self.bytes.len(), sent));
    }
}

fn message(stream: &mut Stream, choose: &mut Choose<'_>) {
    match choose(10) {
        0 => control(stream, choose),
        1 => wrong_frame(stream, choose),
        2 | 3 => {
            let payload = payload_bytes(choose);
            let payload: Vec<_> = (0..payload).map(|_| byte(choose)).collect();
            fragments(stream, 2, &payload, choose);
            stream.has_sent(Sent::Binary(payload));
        }
        _ => {
            let text = text(payload_bytes(choose), choose);
            fragments(stream, 1, text.as_bytes(), choose);
            stream.has_sent(Sent::Text(text));
        }
    }
}

/// A length, often close to a limit of the header's forms or of messages.
fn payload_bytes(choose: &mut Choose<'_>) -> usize {
    match choose(12) {
        0 => 0,
        1 => 124 + choose(4),
        2 => MESSAGE_BYTES_MAX - choose(3),
        _ => 1 + choose(40),
    }
}

fn byte(choose: &mut Choose<'_>) -> u8 {
    u8::try_from(choose(256)).unwrap_or(u8::MAX)
}

/// Characters of one to four bytes, at most `bytes_max` bytes in total.
fn text(bytes_max: usize, choose: &mut Choose<'_>) -> String {
    let mut text = String::new();
    while text.len() < bytes_max {
        let left = bytes_max - text.len();
        let character = ['a', '\u{e9}', '\u{20ac}', '\u{1f600}'][choose(left.min(4))];
        text.push(character);
    }
    text
}

/// A message in one frame or several, cut anywhere, with control frames between.
fn fragments(stream: &mut Stream, opcode: u8, payload: &[u8], choose: &mut Choose<'_>) {
    let mut left = payload;
    let mut first = opcode;
    while choose(3) == 0 {
        let (now, later) = left.split_at(choose(left.len() + 1));
        frame(stream, first, now, choose);
        (first, left) = (0, later);
        if choose(3) == 0 {
            control(stream, choose);
        }
    }
    frame(stream, 0x80 | first, left, choose);
}

fn control(stream: &mut Stream, choose: &mut Choose<'_>) {
    let payload_bytes = [0, 4, 125][choose(3)];
    let payload: Vec<_> = (0..payload_bytes).map(|_| byte(choose)).collect();
    match choose(5) {
        0 | 1 => {
            frame(stream, 0x89, &payload, choose);
            stream.has_sent(Sent::Ping(payload));
        }
        2 | 3 => {
            frame(stream, 0x8a, &payload, choose);
            stream.has_sent(Sent::Pong);
        }
        _ => {
            let code = [None, Some(1000), Some(4_999)][choose(3)];
            let mut payload = code.map_or_else(Vec::new, |code: u16| code.to_be_bytes().to_vec());
            if code.is_some() {
                payload.extend_from_slice("r\u{e9}ason".as_bytes());
            }
            frame(stream, 0x88, &payload, choose);
            stream.has_sent(Sent::Close(code));
        }
    }
}

/// A frame that violates one of the rules of RFC 6455 5.
fn wrong_frame(stream: &mut Stream, choose: &mut Choose<'_>) {
    let start = stream.bytes.len();
    stream.is_wrong_from(start);
    let rest = 2 + choose(10);
    match choose(12) {
        // Reserved bits and opcodes.
        0 => frame(stream, 0x81 | 0x10 << choose(3), b"rsv", choose),
        1 => frame(stream, [0x83, 0x87, 0x8b, 0x8f][choose(4)], b"op", choose),
        // A control frame that is fragmented or too long.
        2 => frame(stream, [0x08, 0x09, 0x0a][choose(3)], b"fin", choose),
        3 => frame(stream, 0x89, &[b'x'; 126], choose),
        // A continuation without a start; a start inside a message.
        4 => frame(stream, [0x80, 0x00][choose(2)], b"continued", choose),
        5 => {
            frame(stream, 0x01, b"begun", choose);
            frame(stream, 0x81, b"another", choose);
        }
        // Text that is not UTF-8, and invalid close frames.
        6 => frame(stream, 0x81, b"\xf0\x9f\x98 \xff", choose),
        7 => frame(
            stream,
            0x88,
            [&b"x"[..], &[3, 237], &[3, 232, 0xff]][choose(3)],
            choose,
        ),
        // Too long, in one frame or in several.
        8 | 9 => {
            let payload = vec![b'l'; MESSAGE_BYTES_MAX + 1 + choose(500)];
            fragments(stream, 1 + byte(choose) % 2, &payload, choose);
        }
        // No mask; a length that is not minimal, is missing, or is far over the limit.
        10 => {
            frame(stream, 0x81, b"unmasked", choose);
            stream.bytes[start + 1] &= 0x7f;
        }
        _ => {
            let lengths: [&[u8]; 4] = [
                &[0xfe, 0, 125],
                &[0xff, 0, 0, 0, 0, 0, 0, 1, 0],
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                &[0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            ];
            stream.bytes.push(0x82);
            stream.bytes.extend_from_slice(lengths[choose(4)]);
            stream.bytes.resize(stream.bytes.len() + rest, 0x5a);
        }
    }
}

/// A masked frame.
fn frame(stream: &mut Stream, first: u8, payload: &[u8], choose: &mut Choose<'_>) {
    let bytes = &mut stream.bytes;
    bytes.push(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..126), _) => bytes.push(0x80 | length),
        (_, Ok(length)) => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
        _ => unreachable!("payloads are limited to {MESSAGE_BYTES_MAX} bytes"),
    }
    let mask: [u8; 4] = std::array::from_fn(|_| byte(choose));
    bytes.extend_from_slice(&mask);
    let masked = payload.iter().zip(mask.iter().cycle());
    bytes.extend(masked.map(|(byte, key)| byte ^ key));
}

/// The lengths of pieces with this total number of bytes.
pub(crate) fn pieces(bytes: usize, choose: &mut Choose<'_>) -> Vec<usize> {
    let longest = [1, 7, 100, bytes.max(1)][choose(4)];
    let (mut pieces, mut left) = (Vec::new(), bytes);
    while left > 0 {
        let piece = 1 + choose(longest.min(left));
        pieces.push(piece);
        left -= piece;
    }
    pieces
}

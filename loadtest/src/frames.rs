//! WebSocket frames as a client sees them: masked ones out, plain ones in, over reads that cut them
//! anywhere.

use std::fmt;

/// Text frame.
pub(crate) const TEXT: u8 = 1;
/// Binary frame.
pub(crate) const BINARY: u8 = 2;
/// Text message whose payload is compressed (RFC 7692 6): with the first reserved bit.
pub(crate) const COMPRESSED_TEXT: u8 = COMPRESSED | TEXT;
/// Binary message whose payload is compressed.
pub(crate) const COMPRESSED_BINARY: u8 = COMPRESSED | BINARY;
/// Close frame.
pub(crate) const CLOSE: u8 = 8;
/// Ping frame.
pub(crate) const PING: u8 = 9;
/// Pong frame.
pub(crate) const PONG: u8 = 10;

const CONTINUATION: u8 = 0;
/// The first reserved bit, beside the opcode in the first byte of a frame.
const COMPRESSED: u8 = 0x40;
/// The bit of control frames in an opcode.
const CONTROL: u8 = 8;
/// RFC 6455 5.5.
const CONTROL_BYTES_MAX: u8 = 125;

/// Longest payload of a message taken from a server, in bytes: a broken length must not make us hoard memory.
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// A fixed mask: RFC 6455 wants an unpredictable one against confused proxies, of which there are
/// none here.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x96, 0x3c];

/// One whole message of the server, or a control frame.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// Kind of frame, one of the constants of this module; of a message in fragments, that of the first.
    pub(crate) opcode: u8,
    /// What it carries. Of text, UTF-8, unless it is compressed.
    pub(crate) payload: &'a [u8],
}

/// What a server did wrong on the wire.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Fault {
    /// RFC 6455 5.1: a server must not mask.
    Masked,
    /// RFC 6455 5.2: reserved bits without a negotiated extension, or where that has none.
    Reserved,
    /// An opcode that does not exist.
    Opcode(u8),
    /// RFC 6455 5.2: a length in more bytes than it needs.
    Length(u64),
    /// RFC 6455 5.5: a control frame in fragments.
    ControlFragment,
    /// RFC 6455 5.5: a control frame of more than 125 bytes.
    ControlTooLong,
    /// RFC 6455 5.4: a continuation of no message.
    Continuation,
    /// RFC 6455 5.4: a message between the fragments of another.
    Interleaved,
    /// RFC 6455 8.1: text that is not UTF-8.
    Utf8,
    /// RFC 7692 7.2.2: a compressed message that is no deflate data, or inflates to more than this program
    /// takes.
    Deflate,
    /// RFC 6455 5.5.1: a close frame of one byte.
    CloseLength,
    /// RFC 6455 7.4: a close code that does not exist, or is not sent.
    CloseCode(u16),
    /// A message above the limit of this program.
    TooLong(u64),
}

impl Fault {
    /// The close code (RFC 6455 7.4.1) that a client answers with.
    pub(crate) fn close_code(self) -> u16 {
        match self {
            Self::Utf8 | Self::Deflate => 1007,
            Self::TooLong(_) => 1009,
            _ => 1002,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Masked => write!(out, "the server masked a frame"),
            Self::Reserved => write!(out, "the server set a reserved bit without an extension"),
            Self::Opcode(opcode) => write!(out, "the server sent a frame with opcode {opcode}"),
            Self::Length(bytes) => write!(
                out,
                "the server wrote a length of {bytes} in too many bytes"
            ),
            Self::ControlFragment => write!(out, "the server split a control frame"),
            Self::ControlTooLong => write!(out, "the server sent a control frame above 125 bytes"),
            Self::Continuation => write!(out, "the server continued a message that had not begun"),
            Self::Interleaved => write!(out, "the server began a message inside of another one"),
            Self::Utf8 => write!(out, "the server sent text that is not UTF-8"),
            Self::Deflate => write!(out, "the server sent a payload that is no deflate data"),
            Self::CloseLength => write!(out, "the server sent a close frame of one byte"),
            Self::CloseCode(code) => write!(out, "the server sent the close code {code}"),
            Self::TooLong(bytes) => write!(out, "the server announced a message of {bytes} bytes"),
        }
    }
}

/// Where a whole frame has what.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Layout {
    opcode: u8,
    is_final: bool,
    /// 2, 4 or 10.
    header_bytes: usize,
    /// With the payload.
    total_bytes: usize,
}

impl Layout {
    /// Whether the frame is all of what it belongs to.
    fn is_alone(self) -> bool {
        self.is_final && self.opcode != CONTINUATION
    }
}

/// What the front of some bytes is.
#[derive(Debug, PartialEq, Eq)]
enum Front {
    /// A whole frame.
    Whole(Layout),
    /// A part of a frame; at least this many bytes are missing (1 or more).
    Missing(usize),
}

fn front(bytes: &[u8], has_deflate: bool) -> Result<Front, Fault> {
    let &[first, second, ..] = bytes else {
        return Ok(Front::Missing(2 - bytes.len()));
    };
    let (opcode, is_final) = (first & 0x4f, first & 0x80 != 0);
    if first & 0x30 != 0 {
        return Err(Fault::Reserved);
    }
    match opcode {
        TEXT | BINARY | CONTINUATION => {}
        CLOSE | PING | PONG if !is_final => return Err(Fault::ControlFragment),
        CLOSE | PING | PONG if second & 0x7f > CONTROL_BYTES_MAX => {
            return Err(Fault::ControlTooLong);
        }
        CLOSE | PING | PONG => {}
        // RFC 7692 6.1: on the first fragment of a message only.
        COMPRESSED_TEXT | COMPRESSED_BINARY if has_deflate => {}
        _ if opcode & COMPRESSED != 0 => return Err(Fault::Reserved),
        _ => return Err(Fault::Opcode(opcode)),
    }
    if second & 0x80 != 0 {
        return Err(Fault::Masked);
    }
    // RFC 6455 5.2: 126 and 127 announce a length of 2 and of 8 bytes, high byte first.
    let (header_bytes, shortest) = match second {
        126 => (4, 126),
        127 => (10, 1 << 16),
        _ => (2, 0),
    };
    let Some(field) = bytes.get(2..header_bytes) else {
        return Ok(Front::Missing(header_bytes - bytes.len()));
    };
    let length = match header_bytes {
        2 => u64::from(second),
        _ => field
            .iter()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
    };
    if length < shortest {
        return Err(Fault::Length(length));
    }
    if length > PAYLOAD_BYTES_MAX {
        return Err(Fault::TooLong(length));
    }
    let total_bytes = header_bytes + usize::try_from(length).map_err(|_| Fault::TooLong(length))?;
    Ok(match total_bytes.checked_sub(bytes.len()) {
        Some(missing @ 1..) => Front::Missing(missing),
        _ => Front::Whole(Layout {
            opcode,
            is_final,
            header_bytes,
            total_bytes,
        }),
    })
}

/// What a payload must be, by its opcode.
fn check(opcode: u8, payload: &[u8]) -> Result<(), Fault> {
    match opcode {
        TEXT => check_text(payload, true).map(|_| ()),
        CLOSE => check_close(payload),
        _ => Ok(()),
    }
}

/// How many bytes of a text are whole characters: all, if it is the end of a message.
fn check_text(text: &[u8], is_final: bool) -> Result<usize, Fault> {
    match std::str::from_utf8(text) {
        Ok(_) => Ok(text.len()),
        Err(error) if error.error_len().is_none() && !is_final => Ok(error.valid_up_to()),
        Err(_) => Err(Fault::Utf8),
    }
}

/// RFC 6455 5.5.1: nothing, or a code in two bytes and a reason.
fn check_close(payload: &[u8]) -> Result<(), Fault> {
    match payload {
        [] => Ok(()),
        [_] => Err(Fault::CloseLength),
        [high, low, reason @ ..] => match u16::from_be_bytes([*high, *low]) {
            // RFC 6455 7.4.1 and 7.4.2, with what IANA has registered since.
            1000..=1003 | 1007..=1014 | 3000..=4999 => check_text(reason, true).map(|_| ()),
            code => Err(Fault::CloseCode(code)),
        },
    }
}

/// Cuts a connection's bytes into messages and control frames. Costs no memory while reads end where frames
/// end and messages are one frame each.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    cut: Option<Box<Cut>>,
    /// Whether `cut` holds anything.
    is_cut: bool,
    has_deflate: bool,
}

/// What has come of a message in several fragments, or of a frame in several reads.
///
/// ```text
///   bytes:   payloads of earlier fragments │ a frame, whole or not
///            0                             frame_at
/// ```
#[derive(Debug, Default)]
struct Cut {
    bytes: Vec<u8>,
    /// 0 <= frame_at <= bytes.len().
    frame_at: usize,
    /// Of the first fragment; `None` when there is none.
    opcode: Option<u8>,
    /// So many bytes of the fragments are known to be whole characters. 0 <= checked <= frame_at.
    checked: usize,
    /// What the last call handed out, so that the next one removes it.
    handed_out: HandedOut,
}

#[derive(Debug, Default, Clone, Copy)]
enum HandedOut {
    #[default]
    Nothing,
    Frame(Layout),
    Message,
}

impl Reader {
    /// A reader of a connection on which permessage-deflate was negotiated, or was not.
    pub(crate) fn new(has_deflate: bool) -> Self {
        Self {
            has_deflate,
            ..Self::default()
        }
    }

    /// Whether the next byte begins a message, or a control frame between messages.
    #[inline]
    pub(crate) fn between_frames(&self) -> bool {
        !self.is_cut
    }

    /// Takes one message or control frame off the front of `bytes`; `None` when they are used up.
    ///
    /// # Errors
    /// A [`Fault`] of the server; the connection is of no use afterwards.
    pub(crate) fn next<'a, 'b: 'a>(
        &'a mut self,
        bytes: &mut &'b [u8],
    ) -> Result<Option<Frame<'a>>, Fault> {
        if self.is_cut
            && let Some(cut) = &mut self.cut
        {
            self.is_cut = cut.remove_handed_out();
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        if !self.is_cut
            && let Front::Whole(layout) = front(bytes, self.has_deflate)?
            && layout.is_alone()
        {
            let (whole, rest) = bytes.split_at(layout.total_bytes);
            *bytes = rest;
            let (opcode, payload) = (layout.opcode, &whole[layout.header_bytes..]);
            check(opcode, payload)?;
            return Ok(Some(Frame { opcode, payload }));
        }
        self.is_cut = true;
        let cut = self.cut.get_or_insert_default();
        loop {
            // Only what the cut frame lacks is copied; what follows it is parsed where it lies.
            match front(&cut.bytes[cut.frame_at..], self.has_deflate)? {
                Front::Missing(_) if bytes.is_empty() => return Ok(None),
                Front::Missing(missing) => {
                    let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
                    cut.bytes.extend_from_slice(taken);
                    *bytes = rest;
                }
                Front::Whole(layout) => {
                    if cut.take(layout)? {
                        return Ok(Some(cut.frame()));
                    }
                }
            }
        }
    }
}

impl Cut {
    /// Removes what was handed out; false if nothing is left.
    fn remove_handed_out(&mut self) -> bool {
        match std::mem::take(&mut self.handed_out) {
            HandedOut::Nothing => {}
            HandedOut::Frame(_) => self.bytes.truncate(self.frame_at),
            HandedOut::Message => {
                self.bytes.clear();
                (self.frame_at, self.opcode, self.checked) = (0, None, 0);
            }
        }
        self.opcode.is_some() || !self.bytes.is_empty()
    }

    /// The frame at the end is whole; whether there is something to hand out.
    fn take(&mut self, layout: Layout) -> Result<bool, Fault> {
        let payload_at = self.frame_at + layout.header_bytes;
        // Control frames may come between fragments (RFC 6455 5.4).
        let is_control = layout.opcode & CONTROL != 0;
        let is_continuation = layout.opcode == CONTINUATION;
        match self.opcode {
            None if is_continuation => return Err(Fault::Continuation),
            Some(_) if !is_continuation && !is_control => return Err(Fault::Interleaved),
            _ if layout.is_alone() => {
                check(layout.opcode, &self.bytes[payload_at..])?;
                self.handed_out = HandedOut::Frame(layout);
                return Ok(true);
            }
            _ => {}
        }
        self.bytes.drain(self.frame_at..payload_at);
        self.frame_at = self.bytes.len();
        if self.bytes.len() as u64 > PAYLOAD_BYTES_MAX {
            return Err(Fault::TooLong(self.bytes.len() as u64));
        }
        let opcode = *self.opcode.get_or_insert(layout.opcode);
        if opcode == TEXT {
            self.checked += check_text(&self.bytes[self.checked..], layout.is_final)?;
        }
        if layout.is_final {
            self.handed_out = HandedOut::Message;
        }
        Ok(layout.is_final)
    }

    /// What is handed out.
    fn frame(&self) -> Frame<'_> {
        match self.handed_out {
            HandedOut::Frame(layout) => Frame {
                opcode: layout.opcode,
                payload: &self.bytes[self.frame_at + layout.header_bytes..],
            },
            _ => Frame {
                opcode: self.opcode.unwrap_or_default(),
                payload: &self.bytes,
            },
        }
    }
}

/// Appends a client's frame (masked) to `out`.
pub(crate) fn encode_client(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    encode_header(opcode, payload.len(), 0x80, out);
    out.extend_from_slice(&MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
}

/// Appends a server's frame (not masked) to `out`: what a delivery looks like on the wire.
pub(crate) fn encode_server(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    encode_header(opcode, payload.len(), 0, out);
    out.extend_from_slice(payload);
}

fn encode_header(opcode: u8, length: usize, mask_bit: u8, out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => out.push(mask_bit | short),
        (_, Ok(medium)) => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `stream` in the given pieces and collects what comes out.
    fn read_all(stream: &[u8], piece_lengths: &[usize]) -> Result<Vec<(u8, Vec<u8>)>, Fault> {
        let (mut reader, mut rest, mut frames) = (Reader::default(), stream, Vec::new());
        let mut lengths = piece_lengths.iter().copied().cycle();
        while !rest.is_empty() {
            let (mut piece, later) =
                rest.split_at(lengths.next().unwrap_or(1).clamp(1, rest.len()));
            rest = later;
            while let Some(frame) = reader.next(&mut piece)? {
                frames.push((frame.opcode, frame.payload.to_vec()));
            }
        }
        Ok(frames)
    }

    fn stream_of(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut stream = Vec::new();
        for (opcode, payload) in frames {
            encode_server(*opcode, payload, &mut stream);
        }
        stream
    }

    #[test]
    fn frames_of_every_length_class_survive_every_split() {
        let frames: Vec<_> = [0, 1, 125, 126, 127, 300, 65_535, 65_536, 0, 2]
            .into_iter()
            .map(|length| (TEXT, vec![b'x'; length]))
            .collect();
        let stream = stream_of(&frames);
        for piece in [1, 2, 3, 7, 128, 130, 4096, stream.len()] {
            assert_eq!(
                read_all(&stream, &[piece]).unwrap(),
                frames,
                "pieces of {piece} bytes"
            );
        }
    }

    #[test]
    fn a_frame_cut_at_each_byte_comes_out_once() {
        let frames = vec![
            (TEXT, vec![b'a'; 200]),
            (PING, b"hi".to_vec()),
            (TEXT, vec![b'b'; 3]),
        ];
        let stream = stream_of(&frames);
        for cut in 1..stream.len() {
            assert_eq!(
                read_all(&stream, &[cut, stream.len()]).unwrap(),
                frames,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn what_a_server_must_not_send_is_named() {
        for (bytes, fault) in [
            (&[0x81, 0x80][..], Fault::Masked),
            (&[0xc9, 0x00], Fault::Reserved),
            (&[0xa1, 0x00], Fault::Reserved),
            // RFC 6455 5.4.
            (&[0x80, 0x00], Fault::Continuation),
            (&[0x00, 0x00], Fault::Continuation),
            (&[0x01, 0x00, 0x81, 0x00], Fault::Interleaved),
            (
                &[0x01, 0x01, b'a', 0x89, 0x00, 0x02, 0x00],
                Fault::Interleaved,
            ),
            // RFC 6455 5.5.
            (&[0x09, 0x00], Fault::ControlFragment),
            (&[0x89, 126, 0, 126], Fault::ControlTooLong),
            // RFC 6455 5.2.
            (&[0x81, 126, 0, 125], Fault::Length(125)),
            (
                &[0x81, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
                Fault::Length(0xffff),
            ),
            (
                &[0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0],
                Fault::TooLong(1 << 63),
            ),
            // RFC 6455 8.1; the second one is wrong before its message ends.
            (&[0x81, 0x02, 0xc3, 0x28], Fault::Utf8),
            (&[0x01, 0x02, 0xc3, 0x28], Fault::Utf8),
            (&[0x01, 0x01, 0xc3, 0x80, 0x00], Fault::Utf8),
            // RFC 6455 5.5.1 and 7.4.
            (&[0x88, 0x01, 0x03], Fault::CloseLength),
            (&[0x88, 0x02, 0x03, 0xed], Fault::CloseCode(1005)),
            (&[0x88, 0x03, 0x03, 0xe8, 0xff], Fault::Utf8),
            // RFC 7692 6: not negotiated.
            (&[0xc1, 0x00], Fault::Reserved),
            (&[0x83, 0x00], Fault::Opcode(3)),
            (
                &[0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0],
                Fault::TooLong(1 << 40),
            ),
        ] {
            for piece in [1, bytes.len()] {
                assert_eq!(
                    read_all(bytes, &[piece]),
                    Err(fault),
                    "{bytes:x?} in pieces of {piece}"
                );
            }
        }
        let front = |bytes: &[u8]| front(bytes, true);
        assert!(matches!(front(&[0xc2, 0x00]), Ok(Front::Whole(_))));
        assert_eq!(
            front(&[0xc9, 0x00]),
            Err(Fault::Reserved),
            "a control frame"
        );
        assert_eq!(front(&[0xc0, 0x00]), Err(Fault::Reserved), "a continuation");
    }

    #[test]
    fn fragments_are_one_message_and_control_frames_come_between_them() {
        let mut stream = vec![
            0x01, 0x02, b'a', 0xc3, 0x89, 0x01, b'p', 0x00, 0x00, 0x00, 0x01, 0xa9,
        ];
        stream.extend([
            0x8a, 0x00, 0x80, 0x01, b'b', 0x82, 0x01, b'c', 0x02, 0x00, 0x80, 0x00, 0x81, 0x00,
        ]);
        let expected = [
            (PING, b"p".to_vec()),
            (PONG, Vec::new()),
            (TEXT, "a\u{e9}b".into()),
            (BINARY, b"c".to_vec()),
            (BINARY, Vec::new()),
            (TEXT, Vec::new()),
        ];
        for piece in 1..=stream.len() {
            assert_eq!(
                read_all(&stream, &[piece]).unwrap(),
                expected,
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn a_reader_is_between_frames_when_nothing_is_cut() {
        for (bytes, is_between) in [
            (&[0x81, 0x01, b'a'][..], true),
            (&[0x81, 0x02, b'a'], false),
            (&[0x01, 0x00], false),
            (&[0x01, 0x00, 0x80, 0x00], true),
            (&[0x01, 0x00, 0x89, 0x00], false),
        ] {
            for cut in 0..bytes.len() {
                let mut reader = Reader::default();
                for mut piece in [&bytes[..cut], &bytes[cut..]] {
                    while reader.next(&mut piece).unwrap().is_some() {}
                }
                assert_eq!(
                    reader.between_frames(),
                    is_between,
                    "{bytes:x?} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn a_client_frame_is_the_server_frame_with_mask() {
        for length in [0, 5, 125, 126, 70_000] {
            let payload: Vec<u8> = (0..length)
                .map(|index| u8::try_from(index % 251).unwrap())
                .collect();
            let (mut masked, mut plain) = (Vec::new(), Vec::new());
            encode_client(TEXT, &payload, &mut masked);
            encode_server(TEXT, &payload, &mut plain);
            let header = plain.len() - payload.len();
            assert_eq!(masked.len(), plain.len() + 4);
            assert_eq!(masked[1], plain[1] | 0x80);
            assert_eq!(masked[2..header], plain[2..header]);
            let key = &masked[header..header + 4];
            let unmasked: Vec<u8> = masked[header + 4..]
                .iter()
                .enumerate()
                .map(|(at, byte)| byte ^ key[at % 4])
                .collect();
            assert_eq!(unmasked, payload);
        }
    }

    fn any_opcode() -> impl Strategy<Value = u8> {
        prop::sample::select(vec![TEXT, BINARY, PING, PONG])
    }

    proptest! {
        #[test]
        fn any_stream_in_any_pieces_is_read_back(
            sent in prop::collection::vec((any_opcode(), 0usize..400, 1usize..5), 1..12),
            pieces in prop::collection::vec(1usize..500, 1..8),
        ) {
            let (mut stream, mut expected) = (Vec::new(), Vec::new());
            for (opcode, length, fragments) in sent {
                if opcode & CONTROL != 0 {
                    let payload = vec![b'c'; length % 126];
                    encode_server(opcode, &payload, &mut stream);
                    expected.push((opcode, payload));
                    continue;
                }
                // Of characters that are two bytes each, which fragments may cut.
                let payload = "\u{e9}".repeat(length).into_bytes();
                let fragment_bytes = payload.len() / fragments + 1;
                let mut left = payload.as_slice();
                for index in 1..=fragments {
                    let (now, later) = left.split_at(left.len().min(fragment_bytes));
                    left = later;
                    let (is_first, is_last) = (index == 1, index == fragments);
                    let first_at = stream.len();
                    encode_server(if is_first { opcode } else { CONTINUATION }, now, &mut stream);
                    if !is_last {
                        stream[first_at] &= 0x7f;
                        encode_server(PING, b"between", &mut stream);
                        expected.push((PING, b"between".to_vec()));
                    }
                }
                expected.push((opcode, payload));
            }
            prop_assert_eq!(read_all(&stream, &pieces).unwrap(), expected);
        }
    }
}

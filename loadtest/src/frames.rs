//! WebSocket frames as a client sees them: masked ones out, plain ones in, over reads that cut them
//! anywhere.

use std::fmt;

/// Text frame.
pub(crate) const TEXT: u8 = 1;
/// Binary frame.
pub(crate) const BINARY: u8 = 2;
/// Text frame whose payload is compressed (RFC 7692): with the first reserved bit.
pub(crate) const COMPRESSED_TEXT: u8 = 0x41;
/// Close frame.
pub(crate) const CLOSE: u8 = 8;
/// Ping frame.
pub(crate) const PING: u8 = 9;
/// Pong frame.
pub(crate) const PONG: u8 = 10;

/// Longest payload taken from a server, in bytes: a broken length must not make us hoard memory.
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// A fixed mask: RFC 6455 wants an unpredictable one against confused proxies, of which there are
/// none here.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x96, 0x3c];

/// One whole frame of the server.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// Kind of frame, one of the constants of this module.
    pub(crate) opcode: u8,
    /// What it carries.
    pub(crate) payload: &'a [u8],
}

/// What a server did wrong on the wire.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Fault {
    /// RFC 6455 5.1: a server must not mask.
    Masked,
    /// RFC 6455 5.2: reserved bits without a negotiated extension.
    Reserved,
    /// An opcode that does not exist.
    Opcode(u8),
    /// A fragment: legal, but none of the measured servers splits a message, so none is put
    /// together here.
    Fragment,
    /// A payload above the limit of this program.
    TooLong(u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Masked => write!(out, "the server masked a frame"),
            Self::Reserved => write!(out, "the server set a reserved bit without an extension"),
            Self::Opcode(opcode) => write!(out, "the server sent a frame with opcode {opcode}"),
            Self::Fragment => write!(
                out,
                "the server split a message into fragments, which is not measured here"
            ),
            Self::TooLong(bytes) => write!(out, "the server announced a frame of {bytes} bytes"),
        }
    }
}

/// What the front of some bytes is.
#[derive(Debug, PartialEq, Eq)]
enum Front<'a> {
    /// A whole frame and how many bytes it takes.
    Whole(Frame<'a>, usize),
    /// A part of a frame; at least this many bytes are missing (1 or more).
    Missing(usize),
}

fn front(bytes: &[u8]) -> Result<Front<'_>, Fault> {
    let &[first, second, ..] = bytes else {
        return Ok(Front::Missing(2 - bytes.len()));
    };
    let opcode = first & 0x4f;
    if first & 0x30 != 0 {
        return Err(Fault::Reserved);
    }
    if first & 0x80 == 0 || opcode == 0 {
        return Err(Fault::Fragment);
    }
    match opcode {
        TEXT | BINARY | CLOSE | PING | PONG | COMPRESSED_TEXT => {}
        _ if opcode & 0x40 != 0 => return Err(Fault::Reserved),
        _ => return Err(Fault::Opcode(opcode)),
    }
    if second & 0x80 != 0 {
        return Err(Fault::Masked);
    }
    // RFC 6455 5.2: 126 and 127 announce a length of 2 and of 8 bytes, high byte first.
    let (header, length) = match second {
        126 => match bytes.get(2..4) {
            Some(field) => (
                4,
                field
                    .iter()
                    .fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
            ),
            None => return Ok(Front::Missing(4 - bytes.len())),
        },
        127 => match bytes.get(2..10) {
            Some(field) => (
                10,
                field
                    .iter()
                    .fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
            ),
            None => return Ok(Front::Missing(10 - bytes.len())),
        },
        short => (2, u64::from(short)),
    };
    if length > PAYLOAD_BYTES_MAX {
        return Err(Fault::TooLong(length));
    }
    let total = header + usize::try_from(length).map_err(|_| Fault::TooLong(length))?;
    Ok(match bytes.get(header..total) {
        Some(payload) => Front::Whole(Frame { opcode, payload }, total),
        None => Front::Missing(total - bytes.len()),
    })
}

/// Cuts a connection's bytes into frames. Costs no memory while reads end where frames end.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Empty, or the front part of a frame, or the frame that the last call handed out from here.
    partial: Vec<u8>,
}

impl Reader {
    /// Whether the next byte begins a frame.
    #[inline]
    pub(crate) fn between_frames(&self) -> bool {
        self.partial.is_empty()
    }

    /// Takes one frame off the front of `bytes`; `None` when they are used up.
    ///
    /// # Errors
    /// A [`Fault`] of the server; the connection is of no use afterwards.
    pub(crate) fn next<'a, 'b: 'a>(
        &'a mut self,
        bytes: &mut &'b [u8],
    ) -> Result<Option<Frame<'a>>, Fault> {
        if self.partial.is_empty() {
            return self.next_in_place(bytes);
        }
        // A partial that is whole was handed out by the previous call.
        if let Front::Whole(..) = front(&self.partial)? {
            self.partial.clear();
            return self.next_in_place(bytes);
        }
        // Only what the cut frame lacks is copied; the rest of the read is parsed where it lies.
        while let Front::Missing(missing) = front(&self.partial)? {
            if bytes.is_empty() {
                return Ok(None);
            }
            let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
            self.partial.extend_from_slice(taken);
            *bytes = rest;
        }
        match front(&self.partial)? {
            Front::Whole(frame, _) => Ok(Some(frame)),
            Front::Missing(_) => Ok(None),
        }
    }

    fn next_in_place<'b>(&mut self, bytes: &mut &'b [u8]) -> Result<Option<Frame<'b>>, Fault> {
        if bytes.is_empty() {
            return Ok(None);
        }
        match front(bytes)? {
            Front::Whole(frame, length) => {
                *bytes = &bytes[length..];
                Ok(Some(frame))
            }
            Front::Missing(_) => {
                self.partial.extend_from_slice(bytes);
                *bytes = &[];
                Ok(None)
            }
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
            (&[0x01, 0x00], Fault::Fragment),
            (&[0x80, 0x00], Fault::Fragment),
            (&[0x83, 0x00], Fault::Opcode(3)),
            (
                &[0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0],
                Fault::TooLong(1 << 40),
            ),
        ] {
            assert_eq!(read_all(bytes, &[bytes.len()]), Err(fault));
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
            lengths in prop::collection::vec((any_opcode(), 0usize..400), 1..12),
            pieces in prop::collection::vec(1usize..500, 1..8),
        ) {
            let frames: Vec<_> = lengths
                .into_iter()
                .map(|(opcode, length)| (opcode, vec![u8::try_from(length % 256).unwrap(); length]))
                .collect();
            prop_assert_eq!(read_all(&stream_of(&frames), &pieces).unwrap(), frames);
        }
    }
}

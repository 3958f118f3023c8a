//! Decodes the bytes of a socket into messages, in place if the input contains a whole message.

use super::close::{self, PeerClose};
use super::frame::{CLIENT_HEADER_BYTES_MAX, Header, Opcode, unmask};
use super::utf8::Utf8Check;
use crate::base::counters::ProtocolError;
use crate::base::memory::Waiting;

/// Limits of a message.
#[derive(Clone, Copy, Debug)]
pub struct MessageLimits {
    /// Longest message, all fragments together, bytes.
    pub message_bytes_max: usize,
    /// A message of more bytes that arrived in several pieces is postponed: [`Incoming::Postponed`].
    pub at_once_bytes_max: usize,
    /// Whether messages may be compressed (RFC 7692).
    pub has_compression: bool,
}

/// A complete message, control frame or fragment of a peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A message whose payload is compressed; [`message`] makes one of the above of the inflated
    /// payload.
    Compressed(Opcode, &'a [u8]),
    /// A ping to be answered with the same payload.
    Ping(&'a [u8]),
    /// An answer to a ping, or an unsolicited pong.
    Pong,
    /// A fragment of a message, not the last: it may be empty, and still takes its time.
    Fragment,
    /// The next bytes finish a message of this many bytes, more than may be handled at once. They
    /// are not consumed; a step with a higher limit goes on.
    Postponed(usize),
    /// A close frame.
    Close(PeerClose),
}

/// The decoder of one connection. Between messages it holds only a null pointer.
///
/// ```text
///              whole frame at hand                    message handed out
///   idle ──────────────────────────▶ message in place ──────────────────▶ idle
///     │ frame incomplete, or not the last of its message                    ▲
///     ▼                                                                     │
///   pending: header bytes ─▶ payload bytes ─▶ (next frame …) ─▶ message ────┘
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Option<Box<Pending>>,
}

#[derive(Debug, Default)]
struct Pending {
    head: [u8; CLIENT_HEADER_BYTES_MAX],
    head_bytes: usize,
    frame: Option<Header>,
    received_bytes: usize,
    control: Vec<u8>,
    message: Option<Opcode>,
    /// Whether the payload of the message is compressed.
    is_compressed: bool,
    /// A complete compressed message that was put back.
    put_back: Option<Opcode>,
    payload: Vec<u8>,
    utf8: Utf8Check,
    waiting: Waiting,
}

/// Where the result of a step is stored; references to it are created after the state is updated.
enum Outcome {
    More,
    InPlace(Header),
    Control(Opcode),
    Message(Opcode),
    Compressed(Opcode),
    Fragment,
    Postponed(usize),
}

impl Decoder {
    /// Bytes of a message that is not complete.
    #[must_use]
    pub fn unfinished_bytes(&self) -> usize {
        let pending = self.pending.as_ref();
        pending.map_or(0, |pending| pending.payload.len())
    }

    /// Takes back the compressed message that the last step has returned: the next step returns it again.
    /// `in_place` is its payload, where it was a single frame of the input.
    pub fn put_back(&mut self, opcode: Opcode, in_place: &[u8]) {
        if let Some(pending) = &mut self.pending {
            pending.put_back = Some(opcode);
            pending.waiting.set(pending.payload.capacity());
            return;
        }
        let payload = in_place.to_vec();
        let waiting = Waiting::of(payload.capacity());
        self.pending = Some(Box::new(Pending {
            put_back: Some(opcode),
            payload,
            waiting,
            ..Pending::default()
        }));
    }

    /// Whether the next step returns a message even without input.
    #[must_use]
    pub fn has_put_back(&self) -> bool {
        let pending = self.pending.as_ref();
        pending.is_some_and(|pending| pending.put_back.is_some())
    }

    /// Decodes `input[*consumed..]` and returns the next message, control frame or fragment, or `None` when
    /// all bytes are consumed. The next call invalidates the result.
    ///
    /// # Errors
    /// The protocol error of the peer; the connection must then be closed, and no more bytes may be
    /// passed.
    pub fn step<'a>(
        &'a mut self,
        input: &'a mut [u8],
        consumed: &mut usize,
        limits: MessageLimits,
    ) -> Result<Option<Incoming<'a>>, ProtocolError> {
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.is_idle())
        {
            self.pending = None;
        }
        let outcome = if let Some(pending) = &mut self.pending {
            match pending.put_back.take() {
                Some(opcode) => Outcome::Compressed(opcode),
                None => pending.advance(input, consumed, limits)?,
            }
        } else if let Some(header) = whole_frame(&input[*consumed..], limits)? {
            let start = *consumed + header.header_bytes;
            *consumed = start + frame_payload_bytes(&header);
            unmask(&mut input[start..*consumed], header.mask, 0);
            Outcome::InPlace(header)
        } else if *consumed < input.len() {
            let pending = self.pending.insert(Box::default());
            pending.advance(input, consumed, limits)?
        } else {
            Outcome::More
        };
        match (outcome, &self.pending) {
            (Outcome::InPlace(header), _) => {
                let payload = &input[*consumed - frame_payload_bytes(&header)..*consumed];
                match header.is_compressed {
                    true => Ok(Some(Incoming::Compressed(header.opcode, payload))),
                    false => message(header.opcode, payload).map(Some),
                }
            }
            (Outcome::Control(opcode), Some(pending)) => {
                message(opcode, &pending.control).map(Some)
            }
            (Outcome::Message(opcode), Some(pending)) => {
                message(opcode, &pending.payload).map(Some)
            }
            (Outcome::Compressed(opcode), Some(pending)) => {
                Ok(Some(Incoming::Compressed(opcode, &pending.payload)))
            }
            (Outcome::Fragment, _) => Ok(Some(Incoming::Fragment)),
            (Outcome::Postponed(bytes), _) => Ok(Some(Incoming::Postponed(bytes))),
            _ => Ok(None),
        }
    }
}

/// The header of the frame at the start of `input`, if the frame is complete, and is an
/// unfragmented message or a control frame.
fn whole_frame(input: &[u8], limits: MessageLimits) -> Result<Option<Header>, ProtocolError> {
    let Some(header) = Header::parse(input, limits.has_compression)? else {
        return Ok(None);
    };
    if header.opcode == Opcode::Continuation {
        return Err(ProtocolError::Fragmentation);
    }
    if header.payload_bytes > limits.message_bytes_max as u64 && !header.opcode.is_control() {
        return Err(ProtocolError::TooLarge);
    }
    let is_here = (input.len() - header.header_bytes) as u64 >= header.payload_bytes;
    Ok((header.fin && is_here).then_some(header))
}

/// The payload's length as an index; callers have compared it with a limit or with the input.
fn frame_payload_bytes(header: &Header) -> usize {
    usize::try_from(header.payload_bytes).expect("bounded by the message limit, a usize")
}

/// The message, or control frame, with this payload.
///
/// # Errors
/// When a text is not UTF-8, or the payload of a close frame is not valid.
pub fn message(opcode: Opcode, payload: &[u8]) -> Result<Incoming<'_>, ProtocolError> {
    Ok(match opcode {
        Opcode::Text => {
            let text = simdutf8::basic::from_utf8(payload);
            Incoming::Text(text.map_err(|_| ProtocolError::Utf8)?)
        }
        Opcode::Binary | Opcode::Continuation => Incoming::Binary(payload),
        Opcode::Ping => Incoming::Ping(payload),
        Opcode::Pong => Incoming::Pong,
        Opcode::Close => Incoming::Close(close::parse(payload)?),
    })
}

impl Pending {
    /// Whether no frame or message has begun; the last result may then be dropped.
    fn is_idle(&self) -> bool {
        self.frame.is_none()
            && self.head_bytes == 0
            && self.message.is_none()
            && self.put_back.is_none()
    }

    /// Consumes input until a frame is complete, or nothing is left.
    fn advance(
        &mut self,
        input: &mut [u8],
        consumed: &mut usize,
        limits: MessageLimits,
    ) -> Result<Outcome, ProtocolError> {
        loop {
            let rest = &mut input[*consumed..];
            let header = match self.frame {
                Some(header) => header,
                None if rest.is_empty() => return Ok(Outcome::More),
                None => {
                    let (header, bytes) = self.read_head(rest, limits.has_compression)?;
                    *consumed += bytes;
                    let Some(header) = header else {
                        return Ok(Outcome::More);
                    };
                    self.begin_frame(header, limits)?;
                    continue;
                }
            };
            let missing = frame_payload_bytes(&header) - self.received_bytes;
            let taken = missing.min(rest.len());
            let message_bytes = self.payload.len() + taken;
            if taken == missing
                && header.fin
                && !header.opcode.is_control()
                && message_bytes > limits.at_once_bytes_max
            {
                self.waiting.set(self.payload.capacity());
                return Ok(Outcome::Postponed(message_bytes));
            }
            let bytes = &mut rest[..taken];
            unmask(bytes, header.mask, self.received_bytes);
            self.received_bytes += taken;
            *consumed += taken;
            if header.opcode.is_control() {
                self.control.extend_from_slice(bytes);
            } else {
                self.payload.extend_from_slice(bytes);
                if self.message == Some(Opcode::Text) && !self.is_compressed {
                    self.utf8.extend(&self.payload)?;
                }
            }
            if taken < missing {
                self.waiting.set(self.payload.capacity());
                return Ok(Outcome::More);
            }
            self.frame = None;
            self.head_bytes = 0;
            if header.opcode.is_control() {
                return Ok(Outcome::Control(header.opcode));
            }
            return Ok(match self.message {
                Some(opcode) if header.fin => {
                    self.message = None;
                    match self.is_compressed {
                        true => Outcome::Compressed(opcode),
                        false => Outcome::Message(opcode),
                    }
                }
                _ => {
                    self.waiting.set(self.payload.capacity());
                    Outcome::Fragment
                }
            });
        }
    }

    /// Adds bytes of `rest` to the header; returns the header when it is complete, and the number
    /// of bytes used.
    fn read_head(
        &mut self,
        rest: &[u8],
        has_compression: bool,
    ) -> Result<(Option<Header>, usize), ProtocolError> {
        let room = &mut self.head[self.head_bytes..];
        let taken = room.len().min(rest.len());
        room[..taken].copy_from_slice(&rest[..taken]);
        match Header::parse(&self.head[..self.head_bytes + taken], has_compression)? {
            Some(header) => {
                let used = header.header_bytes - self.head_bytes;
                self.head_bytes = header.header_bytes;
                Ok((Some(header), used))
            }
            None => {
                self.head_bytes += taken;
                Ok((None, taken))
            }
        }
    }

    fn begin_frame(&mut self, header: Header, limits: MessageLimits) -> Result<(), ProtocolError> {
        // RFC 6455 5.4: control frames may come between fragments, another message may not.
        match (header.opcode, self.message) {
            (Opcode::Text | Opcode::Binary, None) => {
                self.message = Some(header.opcode);
                self.is_compressed = header.is_compressed;
            }
            (Opcode::Text | Opcode::Binary, Some(_)) | (Opcode::Continuation, None) => {
                return Err(ProtocolError::Fragmentation);
            }
            (Opcode::Continuation, Some(_)) => {}
            (Opcode::Ping | Opcode::Pong | Opcode::Close, _) => self.control.clear(),
        }
        let message_bytes = (self.payload.len() as u64).saturating_add(header.payload_bytes);
        if !header.opcode.is_control() && message_bytes > limits.message_bytes_max as u64 {
            return Err(ProtocolError::TooLarge);
        }
        self.frame = Some(header);
        self.received_bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod pieces;
#[cfg(test)]
mod streams;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::CloseCode;

    const LIMITS: MessageLimits = MessageLimits {
        message_bytes_max: 1_000,
        at_once_bytes_max: usize::MAX,
        has_compression: false,
    };

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0xa1, 0x02, 0x73, 0x5c];
        let mut bytes = vec![first];
        if payload.len() < 126 {
            bytes.push(0x80 | u8::try_from(payload.len()).unwrap());
        } else {
            bytes.push(0xfe);
            bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
        bytes.extend(mask);
        let start = bytes.len();
        bytes.extend(payload);
        unmask(&mut bytes[start..], mask, 0);
        bytes
    }

    /// The results of the decoder for `stream`, passed in pieces of `piece_bytes`.
    fn decode(stream: &[u8], piece_bytes: usize) -> Vec<String> {
        let mut decoder = Decoder::default();
        let mut said = Vec::new();
        for piece in stream.to_vec().chunks_mut(piece_bytes) {
            let mut consumed = 0;
            loop {
                match decoder.step(piece, &mut consumed, LIMITS) {
                    Ok(Some(Incoming::Fragment)) => {}
                    Ok(Some(incoming)) => said.push(format!("{incoming:?}")),
                    Ok(None) => break,
                    Err(error) => {
                        said.push(format!("{error:?}"));
                        return said;
                    }
                }
            }
            assert_eq!(consumed, piece.len(), "all bytes are consumed");
        }
        assert!(decoder.pending.is_none_or(|pending| pending.is_idle()));
        said
    }

    #[test]
    fn a_compressed_message_is_handed_out_as_it_is_if_that_was_negotiated() {
        let limits = MessageLimits {
            has_compression: true,
            ..LIMITS
        };
        let whole = frame(0xc1, b"\xff\x00");
        let ping = frame(0x89, b"p");
        let fragments = [frame(0x42, b"\xff"), ping, frame(0x80, b"\x00")].concat();
        for (stream, opcode) in [(whole, Opcode::Text), (fragments, Opcode::Binary)] {
            for piece_bytes in 1..=stream.len() {
                let mut decoder = Decoder::default();
                let mut found = Vec::new();
                for piece in stream.clone().chunks_mut(piece_bytes) {
                    let mut consumed = 0;
                    while let Some(incoming) = decoder.step(piece, &mut consumed, limits).unwrap() {
                        if let Incoming::Compressed(opcode, payload) = incoming {
                            found.push((opcode, payload.to_vec()));
                        }
                    }
                }
                assert_eq!(found, [(opcode, b"\xff\x00".to_vec())]);
            }
            let (mut decoder, mut refused) = (Decoder::default(), stream.clone());
            let step = decoder.step(&mut refused, &mut 0, LIMITS);
            assert_eq!(step, Err(ProtocolError::ReservedBits));
        }
        // Nothing but the first frame has the bit.
        for rest in [frame(0xc0, b"b"), frame(0xc9, b"p")] {
            let mut stream = [frame(0x41, b"a"), rest].concat();
            let (mut decoder, mut consumed) = (Decoder::default(), 0);
            let step = decoder.step(&mut stream, &mut consumed, limits);
            assert_eq!(step, Ok(Some(Incoming::Fragment)));
            let step = decoder.step(&mut stream, &mut consumed, limits);
            assert_eq!(step, Err(ProtocolError::ReservedBits));
        }
    }

    #[test]
    fn a_compressed_message_that_is_put_back_is_handed_out_again_and_then_the_next() {
        let limits = MessageLimits {
            has_compression: true,
            ..LIMITS
        };
        let mut decoder = Decoder::default();
        decoder.put_back(Opcode::Text, b"abc");
        assert_eq!(decoder.unfinished_bytes(), 3);
        assert!(decoder.has_put_back());
        let (mut next, mut consumed) = (frame(0x81, b"next"), 0);
        let step = decoder.step(&mut next, &mut consumed, limits);
        assert_eq!(step, Ok(Some(Incoming::Compressed(Opcode::Text, b"abc"))));
        assert!(!decoder.has_put_back());
        let step = decoder.step(&mut next, &mut consumed, limits);
        assert_eq!(step, Ok(Some(Incoming::Text("next"))));
        assert_eq!(decoder.step(&mut [], &mut 0, limits), Ok(None));
        assert!(decoder.pending.is_none());
    }

    #[test]
    fn the_end_of_a_large_message_is_postponed_until_it_may_be_handled() {
        let limits = MessageLimits {
            at_once_bytes_max: 10,
            ..LIMITS
        };
        let whole = frame(0x81, b"0123456789ab");
        let fragments = [frame(0x01, b"0123456789"), frame(0x80, b"ab")].concat();
        let empty_end = [frame(0x01, b"0123456789ab"), frame(0x80, b"")].concat();
        for (stream, first) in [(whole, 15), (fragments, 17), (empty_end, 18)] {
            let mut decoder = Decoder::default();
            for piece in [0..first, first..stream.len()] {
                let mut bytes = stream[piece.clone()].to_vec();
                let mut consumed = 0;
                let mut step = decoder.step(&mut bytes, &mut consumed, limits).unwrap();
                if piece.start == 0 {
                    if step == Some(Incoming::Fragment) {
                        step = decoder.step(&mut bytes, &mut consumed, limits).unwrap();
                    }
                    assert_eq!((step, consumed), (None, first));
                    continue;
                }
                assert_eq!(step, Some(Incoming::Postponed(12)));
                let mut rest = bytes[consumed..].to_vec();
                let again = decoder.step(&mut rest, &mut 0, limits).unwrap();
                assert_eq!(again, Some(Incoming::Postponed(12)));
                let step = decoder.step(&mut rest, &mut 0, LIMITS).unwrap();
                assert_eq!(step, Some(Incoming::Text("0123456789ab")));
            }
        }
        // Small ones are not, nor are control frames between the pieces.
        let mut stream = [frame(0x01, b"01234"), frame(0x89, b"0123456789ab")].concat();
        let mut end = frame(0x80, b"56789");
        let mut decoder = Decoder::default();
        let mut consumed = 0;
        let fragment = decoder.step(&mut stream, &mut consumed, limits).unwrap();
        assert_eq!(fragment, Some(Incoming::Fragment));
        let ping = decoder.step(&mut stream, &mut consumed, limits).unwrap();
        assert_eq!(ping, Some(Incoming::Ping(b"0123456789ab")));
        let step = decoder.step(&mut end, &mut 0, limits).unwrap();
        assert_eq!(step, Some(Incoming::Text("0123456789")));
    }

    fn check(stream: &[Vec<u8>], expected: &[Incoming<'_>], error: Option<ProtocolError>) {
        let expected: Vec<_> = expected
            .iter()
            .map(|incoming| format!("{incoming:?}"))
            .chain(error.map(|error| format!("{error:?}")))
            .collect();
        let stream = stream.concat();
        for piece_bytes in 1..=stream.len() {
            assert_eq!(
                decode(&stream, piece_bytes),
                expected,
                "pieces of {piece_bytes}"
            );
        }
    }

    #[test]
    fn messages_are_the_same_however_the_bytes_are_cut() {
        check(
            &[
                frame(0x81, b"hello"),
                frame(0x82, &[0xff; 200]),
                frame(0x89, b"p"),
                frame(0x81, b""),
                frame(0x8a, b""),
                frame(0x88, &[3, 232]),
            ],
            &[
                Incoming::Text("hello"),
                Incoming::Binary(&[0xff; 200]),
                Incoming::Ping(b"p"),
                Incoming::Text(""),
                Incoming::Pong,
                Incoming::Close(PeerClose {
                    code: Some(CloseCode::NORMAL),
                }),
            ],
            None,
        );
    }

    #[test]
    fn control_frames_come_between_fragments() {
        check(
            &[
                frame(0x01, "h\u{e9}".as_bytes()),
                frame(0x89, b"1"),
                frame(0x00, b""),
                frame(0x89, b"22"),
                frame(0x80, b"llo"),
                frame(0x81, b"next"),
            ],
            &[
                Incoming::Ping(b"1"),
                Incoming::Ping(b"22"),
                Incoming::Text("h\u{e9}llo"),
                Incoming::Text("next"),
            ],
            None,
        );
    }

    #[test]
    fn a_character_may_span_fragments_but_not_the_end() {
        let euro = "\u{20ac}".as_bytes();
        check(
            &[frame(0x01, &euro[..1]), frame(0x80, &euro[1..])],
            &[Incoming::Text("\u{20ac}")],
            None,
        );
        check(
            &[frame(0x01, b"a"), frame(0x80, &euro[..2])],
            &[],
            Some(ProtocolError::Utf8),
        );
        check(&[frame(0x81, b"\xff")], &[], Some(ProtocolError::Utf8));
    }

    #[test]
    fn sequences_that_the_rfc_forbids_are_faults() {
        let error = Some(ProtocolError::Fragmentation);
        check(&[frame(0x80, b"x")], &[], error);
        check(&[frame(0x00, b"x")], &[], error);
        check(&[frame(0x01, b"x"), frame(0x81, b"y")], &[], error);
        check(&[frame(0x09, b"x")], &[], Some(ProtocolError::Control));
        check(&[frame(0xc1, b"x")], &[], Some(ProtocolError::ReservedBits));
        check(&[frame(0x85, b"x")], &[], Some(ProtocolError::Opcode));
        check(&[frame(0x88, b"x")], &[], Some(ProtocolError::ClosePayload));
        check(
            &[vec![0x81, 0x01, b'x']],
            &[],
            Some(ProtocolError::Unmasked),
        );
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_headers() {
        let too_large = Some(ProtocolError::TooLarge);
        check(&[frame(0x81, &[b'a'; 1_001])[..8].to_vec()], &[], too_large);
        check(
            &[
                frame(0x01, &[b'a'; 600]),
                frame(0x80, &[b'b'; 600])[..8].to_vec(),
            ],
            &[],
            too_large,
        );
    }
}

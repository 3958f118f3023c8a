//! Frames, right and wrong, in one piece and in many.
//!
//! An input whose first byte is even chooses a stream of mostly right frames; the bytes of any other
//! are a stream as they are. Both are cut as the input chooses. The decoder must find the same in all
//! pieces, up to the first error and with the same error, and what was right before the first wrong
//! byte must be found.

#[path = "../../src/ws/decoder/streams.rs"]
mod streams;

use super::input::chooser;
use fanwire::base::counters::ProtocolError;
use fanwire::ws::{CloseCode, Decoder, Incoming, MessageLimits};
use streams::{MESSAGE_BYTES_MAX, Sent, Stream};

const LIMITS: MessageLimits = MessageLimits {
    message_bytes_max: MESSAGE_BYTES_MAX,
    at_once_bytes_max: usize::MAX,
    has_compression: false,
};
/// Bytes of a raw input that choose how it is cut.
const CUT_BYTES: usize = 16;

/// Decodes what the input says, whole and in pieces.
pub fn decode(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let (cuts, raw) = rest.split_at(rest.len().min(CUT_BYTES));
    let mut choose = chooser(if first % 2 == 0 { rest } else { cuts });
    let stream = if first % 2 == 0 {
        streams::stream(&mut choose)
    } else {
        Stream {
            bytes: raw.to_vec(),
            wrong_from: Some(0),
            ..Stream::default()
        }
    };
    let length = stream.bytes.len();
    let whole = find(&stream.bytes, &[length]);
    for pieces in [vec![1; length], streams::pieces(length, &mut choose)] {
        let found = find(&stream.bytes, &pieces);
        assert_eq!(found, whole, "in pieces of {pieces:?}");
    }
    let end = stream.wrong_from.unwrap_or(usize::MAX);
    let right = stream.sent.iter().filter(|(complete, _)| *complete <= end);
    let right: Vec<_> = right.map(|(_, sent)| sent.clone()).collect();
    assert!(
        whole.0.starts_with(&right),
        "{whole:?} lacks some of {right:?}"
    );
    if stream.wrong_from.is_none() {
        assert_eq!(whole, (right, None));
    }
}

/// What the decoder finds in the pieces, up to the first error.
fn find(bytes: &[u8], pieces: &[usize]) -> (Vec<Sent>, Option<ProtocolError>) {
    let mut decoder = Decoder::default();
    let mut found = Vec::new();
    let mut left = bytes.to_vec();
    for length in pieces {
        let mut piece: Vec<_> = left.drain(..*length).collect();
        let mut consumed = 0;
        loop {
            match decoder.step(&mut piece, &mut consumed, LIMITS) {
                Ok(Some(Incoming::Fragment)) => {}
                Ok(Some(incoming)) => found.push(sent(&incoming)),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
        assert_eq!(consumed, piece.len(), "all bytes are consumed");
    }
    (found, None)
}

fn sent(incoming: &Incoming<'_>) -> Sent {
    let check = |bytes: usize| assert!(bytes <= MESSAGE_BYTES_MAX, "{bytes} are over the limit");
    match incoming {
        Incoming::Text(text) => {
            check(text.len());
            Sent::Text((*text).to_owned())
        }
        Incoming::Binary(bytes) => {
            check(bytes.len());
            Sent::Binary(bytes.to_vec())
        }
        Incoming::Ping(payload) => Sent::Ping(payload.to_vec()),
        Incoming::Pong => Sent::Pong,
        Incoming::Fragment => unreachable!("left out"),
        Incoming::Postponed(_) => unreachable!("there is no limit"),
        Incoming::Compressed(..) => unreachable!("it was not negotiated"),
        Incoming::Close(close) => Sent::Close(close.code.map(CloseCode::value)),
    }
}

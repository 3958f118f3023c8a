//! Checks that the decoder returns the same messages for every way to cut the bytes.

use super::streams::{Choose, MESSAGE_BYTES_MAX, Sent, pieces, stream};
use super::{Decoder, Incoming, MessageLimits};
use crate::base::counters::ProtocolError;

const LIMITS: MessageLimits = MessageLimits {
    message_bytes_max: MESSAGE_BYTES_MAX,
    at_once_bytes_max: usize::MAX,
    has_compression: false,
};
const SEEDS: std::ops::Range<u64> = 0..3_000;

/// The messages that the decoder returns, up to the first error.
type Found = (Vec<Sent>, Option<ProtocolError>);

fn decode(bytes: &[u8], pieces: &[usize]) -> Found {
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
        let pending = decoder.pending.as_ref();
        let pending_bytes =
            pending.map_or(0, |pending| pending.payload.len() + pending.control.len());
        assert!(
            pending_bytes <= MESSAGE_BYTES_MAX + 125,
            "{pending_bytes} bytes are pending"
        );
    }
    assert!(left.is_empty());
    (found, None)
}

fn sent(incoming: &Incoming<'_>) -> Sent {
    match incoming {
        Incoming::Text(text) => Sent::Text((*text).to_owned()),
        Incoming::Binary(bytes) => Sent::Binary(bytes.to_vec()),
        Incoming::Ping(payload) => Sent::Ping(payload.to_vec()),
        Incoming::Pong => Sent::Pong,
        Incoming::Fragment => unreachable!("left out"),
        Incoming::Postponed(_) => unreachable!("there is no limit"),
        Incoming::Compressed(..) => unreachable!("it was not negotiated"),
        Incoming::Close(close) => Sent::Close(close.code.map(crate::ws::CloseCode::value)),
    }
}

/// Random numbers from one seed; the generator is Marsaglia's xorshift64 (2003).
fn chooser(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    move |end| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from((state >> 11) % end as u64).unwrap()
    }
}

/// Decodes the stream of a seed whole and in pieces; returns its error.
fn check(seed: u64) -> Option<ProtocolError> {
    let mut chooser = chooser(seed);
    let choose: &mut Choose<'_> = &mut chooser;
    let stream = stream(choose);
    let length = stream.bytes.len();
    let whole = decode(&stream.bytes, &[length]);
    let bytewise = decode(&stream.bytes, &vec![1; length]);
    assert_eq!(whole, bytewise, "seed {seed}: whole and byte by byte");
    for _ in 0..4 {
        let pieces = pieces(length, choose);
        let found = decode(&stream.bytes, &pieces);
        assert_eq!(found, whole, "seed {seed}: in pieces of {pieces:?}");
    }
    // The decoder returns everything that is complete before the first invalid byte.
    let end = stream.wrong_from.unwrap_or(usize::MAX);
    let right = stream.sent.iter().filter(|(complete, _)| *complete <= end);
    let right: Vec<_> = right.map(|(_, sent)| sent.clone()).collect();
    assert!(whole.0.starts_with(&right), "seed {seed}: {right:?}");
    if stream.wrong_from.is_none() {
        assert_eq!(whole, (right, None), "seed {seed}");
    }
    whole.1
}

#[test]
fn any_stream_is_decoded_the_same_in_any_pieces() {
    let mut errors = std::collections::HashSet::new();
    let mut right = 0;
    for seed in SEEDS {
        match check(seed) {
            Some(error) => drop(errors.insert(error)),
            None => right += 1,
        }
    }
    assert!(right > SEEDS.end / 5, "only {right} streams are right");
    for error in [
        ProtocolError::ReservedBits,
        ProtocolError::Opcode,
        ProtocolError::Unmasked,
        ProtocolError::Length,
        ProtocolError::Control,
        ProtocolError::Fragmentation,
        ProtocolError::Utf8,
        ProtocolError::TooLarge,
        ProtocolError::ClosePayload,
    ] {
        assert!(errors.contains(&error), "no stream has the error {error:?}");
    }
}

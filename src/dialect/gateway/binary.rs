//! Binary messages of gateway clients, and those to them.
//!
//! ```text
//!   0         1      2               4
//!   ├ version ┼ kind ┼ channel bytes ┼ channel ┼ position   ┼ previous   ┼ payload ┤
//!   │ (u8, 1) │ (u8) │ (u16, big     │ (UTF-8) │ (22 bytes) │ (22 bytes) │         │
//!   │         │      │ endian)       │         │ kinds 3, 4 │ kind 4     │         │
//! ```
//!
//! A binary message that begins with a byte of JSON text is that: the legacy server took it.

use crate::base::POSITION_BYTES;
use crate::broker::{Command, Publication, Rejection};
use crate::dialect::{DecodedBinary, Placeholders, PublicationMeta, text_of};

/// The version of the layout.
const VERSION: u8 = 1;
/// A client publishes.
const PUBLISH: u8 = 1;
/// A publication on a channel without a history.
const MESSAGE: u8 = 2;
/// One with its position in the history.
const MESSAGE_WITH_POSITION: u8 = 3;
/// One with its position, and that of the publication before.
const MESSAGE_WITH_PREVIOUS: u8 = 4;

pub(super) fn decode(message: &[u8]) -> Result<DecodedBinary<'_>, Rejection> {
    // RFC 8259 2: what JSON can begin with is white space or printable; no version will be.
    if let Some(b'\t' | b'\n' | b'\r' | b' '..) = message.first() {
        return text_of(message);
    }
    let Some((header, rest)) = message.split_first_chunk() else {
        return Err(Rejection::InvalidField("header"));
    };
    let [version, kind, high, low] = *header;
    if version != VERSION {
        return Err(Rejection::InvalidField("version"));
    }
    if kind != PUBLISH {
        return Err(Rejection::InvalidField("kind"));
    }
    let channel_bytes = usize::from(u16::from_be_bytes([high, low]));
    let split = rest.split_at_checked(channel_bytes);
    let named = split.and_then(|(channel, payload)| {
        let channel = simdutf8::basic::from_utf8(channel).ok()?;
        Some((channel, payload))
    });
    let (channel, payload) = named.ok_or(Rejection::InvalidField("channel"))?;
    let publication = Publication::binary(channel, payload);
    Ok(DecodedBinary::Command(Command::Publish(publication)))
}

pub(super) fn publication(
    channel: &str,
    payload: &[u8],
    meta: PublicationMeta,
    output: &mut Vec<u8>,
) -> Placeholders {
    let base = output.len();
    let (kind, positions) = match (meta.has_position, meta.has_previous) {
        (false, _) => (MESSAGE, 0),
        (true, false) => (MESSAGE_WITH_POSITION, 1),
        (true, true) => (MESSAGE_WITH_PREVIOUS, 2),
    };
    let channel_bytes = u16::try_from(channel.len()).expect("names are limited to 256 bytes");
    output.extend_from_slice(&[VERSION, kind]);
    output.extend_from_slice(&channel_bytes.to_be_bytes());
    output.extend_from_slice(channel.as_bytes());
    let position = (positions > 0).then_some(output.len() - base);
    output.resize(output.len() + positions * POSITION_BYTES, b' ');
    output.extend_from_slice(payload);
    Placeholders {
        subscription_id: None,
        position,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Data;

    #[test]
    fn a_frame_is_a_publication() {
        let decoded = decode(b"\x01\x01\0\x04newsany\0\xff");
        let Ok(DecodedBinary::Command(Command::Publish(publication))) = decoded else {
            panic!("{decoded:?}");
        };
        assert_eq!(publication, Publication::binary("news", b"any\0\xff"));
        assert_eq!(publication.data, Data::Binary(b"any\0\xff"));
        let empty = decode(b"\x01\x01\0\x01c");
        assert!(matches!(empty, Ok(DecodedBinary::Command(_))), "{empty:?}");
    }

    #[test]
    fn what_is_none_is_rejected_by_its_field() {
        let header = Rejection::InvalidField("header");
        let channel = Rejection::InvalidField("channel");
        for (message, expected) in [
            (&b""[..], header),
            (b"\x01", header),
            (b"\x01\x01\0", header),
            (b"\0\x01\0\x01c", Rejection::InvalidField("version")),
            (b"\x02\x01\0\x01c", Rejection::InvalidField("version")),
            (b"\x01\0\0\x01c", Rejection::InvalidField("kind")),
            (b"\x01\x02\0\x01c", Rejection::InvalidField("kind")),
            (b"\x01\x01\0\x01", channel),
            (b"\x01\x01\xff\xffc", channel),
            (b"\x01\x01\0\x02\xc3", channel),
            (b"\x01\x01\0\x01\xff", channel),
            (b"{\xff}", Rejection::InvalidJson),
        ] {
            match decode(message) {
                Err(rejection) => assert_eq!(rejection, expected, "{message:x?}"),
                decoded => panic!("{message:x?}: {decoded:?}"),
            }
        }
    }

    #[test]
    fn json_is_recognized_by_its_first_byte() {
        for text in ["{}", " {}", "\t[]", "\r\n1", "\"a\"", "null"] {
            match decode(text.as_bytes()) {
                Ok(DecodedBinary::Text(found)) => assert_eq!(found, text),
                decoded => panic!("{text}: {decoded:?}"),
            }
        }
    }

    #[test]
    fn a_publication_has_as_many_positions_as_its_kind_says() {
        let check = |has_position, has_previous, kind, positions: usize| {
            let meta = PublicationMeta {
                has_position,
                has_previous,
                ..PublicationMeta::new(0, 1)
            };
            let mut output = vec![7; 3];
            let placeholders = publication("n\u{e9}", b"\0\xff", meta, &mut output);
            let expected = [
                &[7, 7, 7, 1, kind, 0, 3][..],
                "n\u{e9}".as_bytes(),
                &[b' '; POSITION_BYTES].repeat(positions),
                &[0, 0xff],
            ];
            assert_eq!(output, expected.concat());
            let position = (positions > 0).then_some(7);
            assert_eq!(placeholders.position, position);
        };
        check(false, false, 2, 0);
        check(false, true, 2, 0);
        check(true, false, 3, 1);
        check(true, true, 4, 2);
    }
}

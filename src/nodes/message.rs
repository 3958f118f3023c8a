//! A message in Redis: where a publication comes from and where it is on its channel, and the publication.
//!
//! ```text
//!   fw1 105 3735928559 0123456789abcdef 17 1700000000000 j 6:update …
//!       ├ offset        ├ node           ├ number among those of the node
//!           ├ epoch                         ├ envelope
//! ```
//!
//! Offset and epoch are 0 on channels without a history; else the script in Redis puts them in front of the
//! rest.

use crate::base::Position;

/// How messages of this version begin.
pub(super) const VERSION: &str = "fw1";

/// How messages begin that say that the history of their channel is deleted: offset and epoch follow.
pub(super) const DELETED: &str = "fw1d";

/// Offsets are less than this: more are no text of a position.
pub(super) const OFFSETS_MAX: u64 = 1 << 52;

/// A message that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) position: Option<Position>,
    /// The node that has accepted it, and its number among those of that node.
    pub(super) origin: (u64, u64),
    pub(super) envelope: &'a [u8],
}

/// What a node sends of its publication: what follows the epoch.
pub(super) fn tail((node, number): (u64, u64), envelope: &[u8]) -> Vec<u8> {
    let mut tail = format!("{node:016x} {number} ").into_bytes();
    tail.extend_from_slice(envelope);
    tail
}

/// The message of a publication on a channel without a history.
pub(super) fn without_position(origin: (u64, u64), envelope: &[u8]) -> Vec<u8> {
    let mut message = format!("{VERSION} 0 0 ").into_bytes();
    message.extend_from_slice(&tail(origin, envelope));
    message
}

/// Reads a message; `None` if it is none.
pub(super) fn read(bytes: &[u8]) -> Option<Message<'_>> {
    let mut rest = bytes;
    let mut next = || {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        let field = std::str::from_utf8(&rest[..end]).ok()?;
        rest = &rest[end + 1..];
        Some(field)
    };
    if next()? != VERSION {
        return None;
    }
    let offset: u64 = next()?.parse().ok()?;
    if offset >= OFFSETS_MAX {
        return None;
    }
    let epoch: u32 = next()?.parse().ok()?;
    let node = u64::from_str_radix(next()?, 16).ok()?;
    let number = next()?.parse().ok()?;
    Some(Message {
        position: (offset > 0).then_some(Position { epoch, offset }),
        origin: (node, number),
        envelope: rest,
    })
}

/// Reads where a history goes on that is deleted; `None` if the message is another one.
pub(super) fn read_deletion(bytes: &[u8]) -> Option<Position> {
    let rest = bytes.strip_prefix(DELETED.as_bytes())?;
    let rest = std::str::from_utf8(rest).ok()?.strip_prefix(' ')?;
    let (offset, epoch) = rest.split_once(' ')?;
    let offset = offset.parse().ok()?;
    (offset < OFFSETS_MAX).then_some(Position {
        epoch: epoch.parse().ok()?,
        offset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_says_where_its_channel_goes_on() {
        let position = Position {
            epoch: 7,
            offset: 105,
        };
        assert_eq!(read_deletion(b"fw1d 105 7"), Some(position));
        for bytes in [
            &b"fw1d"[..],
            b"fw1d ",
            b"fw1d 105",
            b"fw1d 105 -7",
            b"fw1d 4503599627370496 7",
            b"fw1d 105 7 ",
            b"fw1d105 7",
            b"fw1 105 7 1 1 x",
        ] {
            assert_eq!(read_deletion(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_message_reads_as_it_was_written() {
        let message = without_position((0xabc, 17), b"7 j rest");
        let read_back = read(&message).unwrap();
        assert_eq!(read_back.position, None);
        assert_eq!(
            (read_back.origin, read_back.envelope),
            ((0xabc, 17), &b"7 j rest"[..])
        );
        let with = [b"fw1 105 7 ", &tail((1, 2), b"x")[..]].concat();
        let position = Position {
            epoch: 7,
            offset: 105,
        };
        assert_eq!(read(&with).unwrap().position, Some(position));
        for bytes in [
            &b""[..],
            b"fw1",
            b"fw2 1 1 1 1 x",
            b"fw1 -1 1 1 1 x",
            b"fw1 4503599627370496 1 1 1 x",
            b"fw1 18446744073709551615 1 1 1 x",
            b"fw1 1 4294967296 1 1 x",
            b"fw1 1 1 g 1 x",
            b"fw1 1 1 1 1",
        ] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }
}

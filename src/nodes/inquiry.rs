//! What nodes say to each other on the channel that all are subscribed to.
//!
//! ```text
//!   0123456789abcdef 17                          the canary of a node, and its number
//!   q 0123456789abcdef 5 3 {"channels":…         a question: node, its number, count of deletions, text
//!   a fedcba9876543210 0123456789abcdef 5 {"…    an answer: who answers, who has asked what, text
//! ```
//!
//! The count of deletions in all histories is 0 if the question is about none. The text of an answer is empty
//! if the node has nothing to say.

/// A message of a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice<'a> {
    Canary,
    Question {
        node: u64,
        number: u64,
        deletions: u64,
        text: &'a [u8],
    },
    Answer {
        node: u64,
        /// Who has asked, and the number of the question.
        to: (u64, u64),
        text: &'a [u8],
    },
}

pub(super) fn question((node, number): (u64, u64), deletions: u64, text: &[u8]) -> Vec<u8> {
    let mut message = format!("q {node:016x} {number} {deletions} ").into_bytes();
    message.extend_from_slice(text);
    message
}

pub(super) fn answer(node: u64, (asker, number): (u64, u64), text: &[u8]) -> Vec<u8> {
    let mut message = format!("a {node:016x} {asker:016x} {number} ").into_bytes();
    message.extend_from_slice(text);
    message
}

/// Reads a message; `None` if it is none.
pub(super) fn read(bytes: &[u8]) -> Option<Notice<'_>> {
    let (first, rest) = next(bytes)?;
    match first {
        "q" => {
            let (node, rest) = next(rest)?;
            let (number, rest) = next(rest)?;
            let (deletions, text) = next(rest)?;
            Some(Notice::Question {
                node: node_number(node)?,
                number: number.parse().ok()?,
                deletions: deletions.parse().ok()?,
                text,
            })
        }
        "a" => {
            let (node, rest) = next(rest)?;
            let (asker, rest) = next(rest)?;
            let (number, text) = next(rest)?;
            Some(Notice::Answer {
                node: node_number(node)?,
                to: (node_number(asker)?, number.parse().ok()?),
                text,
            })
        }
        node => {
            let number: Option<u64> = std::str::from_utf8(rest).ok()?.parse().ok();
            node_number(node).and(number).map(|_| Notice::Canary)
        }
    }
}

/// A word, and what follows the space behind it.
fn next(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b' ')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

fn node_number(text: &str) -> Option<u64> {
    let number = u64::from_str_radix(text, 16).ok()?;
    (text.len() == 16).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_they_were_written() {
        for text in [&b""[..], b"{\"a b\": 1}", b"\xff  "] {
            let expected = Notice::Question {
                node: 0xabc,
                number: 17,
                deletions: 3,
                text,
            };
            assert_eq!(read(&question((0xabc, 17), 3, text)), Some(expected));
            let expected = Notice::Answer {
                node: u64::MAX,
                to: (0xabc, 17),
                text,
            };
            assert_eq!(read(&answer(u64::MAX, (0xabc, 17), text)), Some(expected));
        }
        assert_eq!(read(b"0000000000000abc 17"), Some(Notice::Canary));
    }

    #[test]
    fn other_texts_are_no_messages() {
        for bytes in [
            &b""[..],
            b" ",
            b"q",
            b"q ",
            b"q 0000000000000abc",
            b"q 0000000000000abc 1 {}",
            b"q 0000000000000abc -1 0 {}",
            b"q 0000000000000abc 1 x {}",
            b"q abc 1 0 {}",
            b"q 000000000000000g 1 0 {}",
            b"q 0000000000000abc 18446744073709551616 0 {}",
            b"a 0000000000000abc 1 {}",
            b"a 0000000000000abc 0000000000000abc x {}",
            b"z 0000000000000abc 1 0 {}",
            b"0000000000000abc x",
            b"hello there",
            b"\xff\xfe 1",
            b"q \xff 1 0 {}",
        ] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }
}

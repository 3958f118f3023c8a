//! RFC 6455, section by section: frames of a client, and what an echo answers.
//!
//! The Autobahn test suite says more (`tests/conformance`); this table needs nothing that is installed,
//! and has what that one does not try.

use crate::harness::{Frame, Raw, frame_bytes};
use crate::raw::echo;

/// A frame by its first byte and its payload.
fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame_bytes(first, payload.as_ref())
}

fn text(text: &str) -> Frame {
    Frame::Text(text.into())
}

fn binary(bytes: impl Into<Vec<u8>>) -> Frame {
    Frame::Binary(bytes.into())
}

fn pong(payload: &[u8]) -> Frame {
    Frame::Pong(payload.into())
}

/// The server closes for a violation.
fn violation(code: u16) -> Vec<Frame> {
    vec![Frame::Close(code, "protocol".into())]
}

/// The client's close frame is answered.
fn closed(code: u16) -> Vec<Frame> {
    vec![Frame::Close(code, String::new())]
}

/// A section, what is tried, the bytes of the client, and all frames that answer them.
type Row = (&'static str, &'static str, Vec<u8>, Vec<Frame>);

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    let close = |code: u16| frame(0x88, code.to_be_bytes());
    let close_because = |reason: &[u8]| frame(0x88, [&[3, 232], reason].concat());
    let mut rows = vec![
        // 5.1: a client masks each frame.
        ("5.1", "no mask", b"\x81\x02hi".to_vec(), violation(1002)),
        ("5.1", "a ping without a mask", b"\x89\x00".to_vec(), violation(1002)),
        // 5.2: reserved bits and opcodes; lengths in their shortest form.
        ("5.2", "reserved bit 1", frame(0xc1, "a"), violation(1002)),
        ("5.2", "reserved bit 2", frame(0xa1, "a"), violation(1002)),
        ("5.2", "reserved bit 3", frame(0x91, "a"), violation(1002)),
        ("5.2", "reserved bit of a ping", frame(0xc9, "a"), violation(1002)),
        ("5.2", "reserved bit of a continuation", [frame(0x01, "a"), frame(0xc0, "b")].concat(), violation(1002)),
        ("5.2", "126 bytes for 5", b"\x81\xfe\0\x05\0\0\0\0hello".to_vec(), violation(1002)),
        ("5.2", "127 for 126", [&b"\x82\xff\0\0\0\0\0\0\0\x7e\0\0\0\0"[..], &[0; 126]].concat(), violation(1002)),
        ("5.2", "the top bit of a length", b"\x82\xff\x80\0\0\0\0\0\0\x05\0\0\0\0hello".to_vec(), violation(1002)),
        ("5.2", "every bit of a length", b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0".to_vec(), violation(1002)),
        ("5.2", "the largest length", b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0".to_vec(), violation(1009)),
        ("5.2", "one byte more than is allowed", b"\x82\xff\0\0\0\0\x01\0\0\x01\0\0\0\0".to_vec(), violation(1009)),
        // 5.4: fragments.
        ("5.4", "a continuation of nothing", frame(0x80, "a"), violation(1002)),
        ("5.4", "a first fragment of nothing", frame(0x00, "a"), violation(1002)),
        ("5.4", "text inside a text", [frame(0x01, "a"), frame(0x81, "b")].concat(), violation(1002)),
        ("5.4", "binary inside a text", [frame(0x01, "a"), frame(0x82, "b")].concat(), violation(1002)),
        ("5.4", "a continuation after the last", [frame(0x01, "a"), frame(0x80, "b"), frame(0x80, "c")].concat(),
            [vec![text("ab")], violation(1002)].concat()),
        ("5.4", "fragments of binary", [frame(0x02, "a"), frame(0x00, ""), frame(0x80, "b")].concat(), vec![binary("ab")]),
        ("5.4", "empty fragments", [frame(0x01, ""), frame(0x00, ""), frame(0x80, "")].concat(), vec![text("")]),
        ("5.4", "100,000 empty fragments", [frame(0x01, ""), frame(0x00, "").repeat(100_000), frame(0x80, "end")].concat(),
            vec![text("end")]),
        ("5.4", "pings between fragments", [frame(0x01, "a"), frame(0x89, "1"), frame(0x00, "b"), frame(0x89, "2"), frame(0x80, "c")].concat(),
            vec![pong(b"1"), pong(b"2"), text("abc")]),
        ("5.4", "a close frame between fragments", [frame(0x01, "a"), close(1000)].concat(), closed(1000)),
        // 5.5: control frames.
        ("5.5", "a ping of 126 bytes", frame(0x89, [b'x'; 126]), violation(1002)),
        ("5.5", "a ping in fragments", frame(0x09, "a"), violation(1002)),
        ("5.5", "a close frame in fragments", frame(0x08, [3, 232]), violation(1002)),
        ("5.5.1", "no code", frame(0x88, ""), closed(1005)),
        ("5.5.1", "one byte", frame(0x88, [3]), violation(1002)),
        ("5.5.1", "a reason", close_because("caf\u{e9}".as_bytes()), closed(1000)),
        ("5.5.1", "a reason of 123 bytes", close_because(&[b'x'; 123]), closed(1000)),
        ("5.5.1", "a reason that is not UTF-8", close_because(b"\xff"), violation(1007)),
        ("5.5.1", "a reason that ends in a character", close_because(b"\xe2\x82"), violation(1007)),
        ("5.5.1", "a message after the close frame", [close(1000), frame(0x81, "a")].concat(), closed(1000)),
        ("5.5.1", "two close frames", [close(1000), close(1001)].concat(), closed(1000)),
        ("5.5.2", "an empty ping", frame(0x89, ""), vec![pong(b"")]),
        ("5.5.2", "a ping of 125 bytes", frame(0x89, [0xff; 125]), vec![pong(&[0xff; 125])]),
        ("5.5.3", "a pong that nobody asked for", [frame(0x8a, "a"), frame(0x81, "b")].concat(), vec![text("b")]),
        // 5.6, 8.1: text is UTF-8; a binary message is whatever it is.
        ("5.6", "an empty text", frame(0x81, ""), vec![text("")]),
        ("5.6", "an empty binary message", frame(0x82, ""), vec![binary("")]),
        ("5.6", "binary that is not UTF-8", frame(0x82, b"\xff\xfe\0"), vec![binary(&b"\xff\xfe\0"[..])]),
        ("8.1", "text with NUL", frame(0x81, "a\0b"), vec![text("a\0b")]),
        ("8.1", "a character in two fragments", [frame(0x01, b"\xe2\x82"), frame(0x80, b"\xac")].concat(), vec![text("\u{20ac}")]),
        ("8.1", "an overlong form", frame(0x81, b"\xc0\xaf"), violation(1007)),
        ("8.1", "a surrogate", frame(0x81, b"\xed\xa0\x80"), violation(1007)),
        ("8.1", "beyond U+10FFFF", frame(0x81, b"\xf4\x90\x80\x80"), violation(1007)),
        ("8.1", "half a character at the end", frame(0x81, b"ok\xe2\x82"), violation(1007)),
        // It is rejected before the message, or even the frame, is complete.
        ("8.1", "invalid in the first fragment", frame(0x01, b"\xff"), violation(1007)),
        ("8.1", "invalid in the first bytes of a frame", frame(0x81, b"\xff0123456789")[..9].to_vec(), violation(1007)),
    ];
    for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        rows.push(("5.2", "reserved opcode", frame(0x80 | opcode, "a"), violation(1002)));
    }
    for payload_bytes in [125, 126, 127, 65_535, 65_536, 1 << 20] {
        let payload = vec![b'x'; payload_bytes];
        rows.push(("5.2", "a length at a border", frame(0x82, &payload), vec![binary(payload)]));
    }
    // 7.4: codes that may be sent, and those that may not.
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        rows.push(("7.4", "a code that may be sent", close(code), closed(code)));
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        rows.push(("7.4", "a code that may not", close(code), violation(1002)));
    }
    rows
}

/// Says `bytes` in reads of at most `cut` bytes, and compares all that comes back.
fn check(address: std::net::SocketAddr, row: &Row, cut: usize) {
    let (section, name, bytes, expected) = row;
    let place = format!(
        "RFC 6455 {section}: {name}, {} bytes, {cut} at a time",
        bytes.len()
    );
    let mut raw = Raw::open(address, "/ws", "");
    let is_closed = matches!(expected.last(), Some(Frame::Close(..)));
    // Who has broken a rule is not read to the end.
    bytes.chunks(cut).all(|piece| raw.try_write(piece));
    if !is_closed {
        // Nothing else comes before this.
        raw.write(&frame(0x82, "behind"));
    }
    for expected in expected {
        assert_eq!(raw.read_silently(), *expected, "{place}");
    }
    let last = match is_closed {
        true => Frame::End,
        false => binary("behind"),
    };
    assert_eq!(raw.read_silently(), last, "{place}");
}

#[test]
fn each_section_is_kept_in_one_read_and_in_many() {
    for shards in [1, 2] {
        let server = echo(shards);
        for row in rows() {
            check(server.address, &row, usize::MAX);
            if row.2.len() <= 200 {
                check(server.address, &row, 1);
                check(server.address, &row, 3);
            }
        }
    }
}

#[test]
fn a_flood_of_pings_is_answered_in_part_and_disturbs_nobody() {
    for shards in [1, 2] {
        let server = echo(shards);
        let mut other = Raw::open(server.address, "/ws", "");
        let mut raw = Raw::open(server.address, "/ws", "");
        let flood = frame(0x89, [b'p'; 125]).repeat(20_000);
        raw.write(&flood);
        other.write(&frame(0x81, "hello"));
        assert_eq!(other.read(), text("hello"));
        raw.write(&frame(0x81, "behind"));
        // RFC 6455 5.5.3: an endpoint may answer only the latest of several pings.
        let mut pongs = 0;
        loop {
            match raw.read() {
                Frame::Pong(payload) => {
                    assert_eq!(payload, [b'p'; 125]);
                    pongs += 1;
                }
                frame => break assert_eq!(frame, text("behind")),
            }
        }
        assert!((1..=20_000).contains(&pongs), "{pongs} pongs");
    }
}

//! Do the handlers of raw messages see what clients send, and can they answer without a dialect?

use crate::harness::{Frame, Raw, Server, frame_bytes, token};
use crate::limits::per_hour;
use fanwire::{Builder, Denied, Next, ShardCount, block_on};
use std::time::Duration;

const PING: &str = r#"{"type":"ping"}"#;
const PONG: &str = r#"{"type":"pong"}"#;

/// An echo on so many shards.
pub(crate) fn echo(shards: u16) -> Server {
    Server::with(|builder| echoing(builder.shards(ShardCount::Fixed(shards))))
}

fn echoing(builder: Builder) -> Builder {
    builder
        .dev()
        .set("gateway.ping_interval", "0s")
        .set("gateway.message_bytes_max", "16 MiB")
        .on_text(|session, text| {
            session.send_text(text);
            Ok(Next::Done)
        })
        .on_binary(|session, bytes| {
            session.send_binary(bytes);
            Ok(Next::Done)
        })
}

/// A program with a small language of its own beside the dialect.
fn program(builder: Builder) -> Builder {
    builder
        .on_text(|session, text| {
            match text {
                "close" => session.close_with(4_001, "as you wish")?,
                "close 1005" => session.close_with(1_005, "")?,
                "close long" => session.close_with(4_000, &"x".repeat(124))?,
                "close, then more" => {
                    session.close();
                    session.send_text("more");
                    session.send("more", &1)?;
                }
                "deny" => return Err(Denied::because("not today")),
                "panic" => panic!("of a raw handler"),
                "publish" => session.publish("news", "m", &1)?,
                _ => return Ok(Next::Dialect),
            }
            Ok(Next::Done)
        })
        .on_binary(|session, bytes| {
            session.send_binary(&bytes.iter().rev().copied().collect::<Vec<_>>());
            Ok(Next::Done)
        })
}

fn text(text: &str) -> Frame {
    Frame::Text(text.into())
}

fn error(reason: &str) -> Frame {
    text(&format!(
        r#"{{"type":"error","data":{{"error":"{reason}"}}}}"#
    ))
}

#[test]
fn a_raw_handler_answers_or_leaves_the_message_to_the_dialect() {
    let server = Server::with(|builder| program(builder.dev()));
    let mut raw = Raw::open(server.address, "/ws", "");
    for (sent, expected) in [
        (PING, text(PONG)),
        (
            r#"{"type":"subscribe","data":{"channel":"news"}}"#,
            text(r#"{"type":"subscribed","data":{"channel":"news"}}"#),
        ),
        ("publish", text(r#"{"type":"m","channel":"news","data":1}"#)),
        ("something", error("Invalid JSON")),
        ("deny", error("not today")),
        ("panic", error("Internal error")),
        (
            "close 1005",
            error(
                "close code 1005 may not be sent; allowed: 1000 to 1003, 1007 to 1014 and 3000 to 4999",
            ),
        ),
        (
            "close long",
            error("close reason of 124 bytes; allowed: 123"),
        ),
    ] {
        raw.send(sent);
        assert_eq!(raw.read(), expected, "{sent}");
    }
    raw.write(&frame_bytes(0x82, b"\x01\x02\xff"));
    assert_eq!(raw.read(), Frame::Binary(b"\xff\x02\x01".to_vec()));
    // Of a dialect that has no binary messages, too.
    let mut assist = Raw::open(server.address, "/ws/connect", "");
    assist.write(&frame_bytes(0x82, b"\x01\x02"));
    let answer = loop {
        match assist.read() {
            Frame::Text(_) => {}
            frame => break frame,
        }
    };
    assert_eq!(answer, Frame::Binary(b"\x02\x01".to_vec()));
    raw.send("close");
    assert_eq!(raw.read(), Frame::Close(4_001, "as you wish".into()));
    assert_eq!(raw.read(), Frame::End);
    server.await_metric("fanwire_closes_total{reason=\"operator\"", 1);
}

#[test]
fn nothing_follows_the_close_frame_of_a_handler() {
    let server = Server::with(|builder| program(builder.dev()));
    let mut raw = Raw::open(server.address, "/ws", "");
    raw.send("close, then more");
    assert_eq!(raw.read(), Frame::Close(1_000, "operator".into()));
    assert_eq!(raw.read(), Frame::End);
}

#[test]
fn who_has_yet_to_authenticate_speaks_the_dialect() {
    let server = Server::with(|builder| echoing(builder).set("dev", false));
    let mut raw = Raw::open(server.address, "/ws", "");
    raw.send("hello");
    assert_eq!(raw.read(), error("Invalid JSON"));
    let auth = token("ann", &[]);
    raw.send(&format!(r#"{{"type":"auth","data":{{"token":"{auth}"}}}}"#));
    let success = r#"{"type":"auth_success","data":{"user_id":"ann"}}"#;
    assert_eq!(raw.read(), text(success));
    raw.send("hello");
    assert_eq!(raw.read(), text("hello"));
}

#[test]
fn raw_messages_count_against_the_rate_limit() {
    let server = Server::with(|builder| echoing(builder).set("gateway.rate_limit", per_hour(3)));
    let mut raw = Raw::open(server.address, "/ws", "");
    for _ in 0..4 {
        raw.send("hello");
    }
    for _ in 0..3 {
        assert_eq!(raw.read(), text("hello"));
    }
    assert_eq!(raw.read(), error("Rate limit exceeded"));
}

#[test]
fn a_program_sends_raw_messages_at_any_time() {
    let (sender, ids) = std::sync::mpsc::channel();
    let server = Server::with(|builder| {
        let builder = builder.dev().on_connect_async(|session| async move {
            session.send_text("who are you?");
            session.send_binary(&[1]);
            Ok(())
        });
        builder.on_text(move |session, _| {
            // Fails when the test is over.
            let _ = sender.send(session.id());
            Ok(Next::Done)
        })
    });
    let mut raw = Raw::open(server.address, "/ws", "");
    assert_eq!(raw.read(), text("who are you?"));
    assert_eq!(raw.read(), Frame::Binary(vec![1]));
    raw.send("ann");
    let id = ids.recv().unwrap();
    assert!(block_on(server.program().send_text(id, "hello, ann")));
    assert!(block_on(server.program().send_binary(id, &[0, 0xff])));
    assert_eq!(raw.read(), text("hello, ann"));
    assert_eq!(raw.read(), Frame::Binary(vec![0, 0xff]));
    drop(raw);
    server.await_metric("fanwire_connections{", 0);
    assert!(!block_on(server.program().send_text(id, "are you there?")));
}

/// Bytes that wait in the server, of whatever kind.
fn waiting(server: &Server) -> u64 {
    server.metric("fanwire_waiting_bytes{")
}

#[test]
fn who_does_not_read_what_is_echoed_is_not_read_either() {
    for shards in [1, 2] {
        for payload_bytes in [100, 4_000, 1 << 20] {
            let server = echo(shards);
            let mut raw = Raw::open(server.address, "/ws", "");
            let mut other = Raw::open(server.address, "/ws", "");
            let message = frame_bytes(0x82, &vec![7; payload_bytes]);
            let count = (64 << 20) / message.len();
            let all = message.repeat(count);
            // The sockets of both sides take some megabytes.
            let is_held_up = raw.write_for(&all, Duration::from_millis(1_500));
            assert!(is_held_up, "{payload_bytes}: all was taken");
            let waiting = waiting(&server);
            // What is echoed, what came before receiving was paused, a message that is not complete.
            assert!(
                waiting < (4 << 20) + 6 * payload_bytes as u64,
                "{payload_bytes}: {waiting} bytes wait in the server"
            );
            other.send("hello");
            assert_eq!(other.read(), text("hello"));
        }
    }
}

#[test]
fn all_is_echoed_in_order_to_who_reads_late() {
    let server = echo(2);
    let mut raw = Raw::open(server.address, "/ws", "");
    let mut bytes = Vec::new();
    let number = |number: u32| number.to_be_bytes().repeat(64);
    for index in 0..4_000 {
        bytes.extend(frame_bytes(0x82, &number(index)));
    }
    raw.write(&bytes);
    for index in 0..4_000 {
        assert_eq!(raw.read(), Frame::Binary(number(index)), "{index}");
    }
}

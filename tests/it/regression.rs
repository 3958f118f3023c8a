//! Faults that were found once, one test each.

use crate::harness::{Client, Frame, Raw, Server, frame_bytes, token, upgrade_request};

#[test]
fn frames_in_the_same_packet_as_the_request_are_read() {
    let server = Server::dev();
    let mut raw = Raw::connect(server.address);
    let mut bytes = upgrade_request("/ws", "").into_bytes();
    bytes.extend(frame_bytes(0x81, br#"{"type":"ping"}"#));
    bytes.extend(frame_bytes(0x88, &[3, 232]));
    raw.write(&bytes);
    raw.read_head();
    assert_eq!(raw.read_text(), r#"{"type":"pong"}"#);
    assert_eq!(raw.read(), Frame::Close(1000, String::new()));
    assert_eq!(raw.read(), Frame::End);
}

#[test]
fn many_pings_in_one_packet_do_not_end_a_session() {
    let server = Server::dev();
    let mut raw = Raw::open(server.address, "/ws", "");
    raw.write(&frame_bytes(0x89, &[b'p'; 125]).repeat(60));
    raw.write(&frame_bytes(0x89, b"last"));
    let mut pongs = 0;
    while raw.read() != Frame::Pong(b"last".to_vec()) {
        pongs += 1;
    }
    assert!(pongs < 60, "only the latest need an answer");
    raw.send(r#"{"type":"ping"}"#);
    assert_eq!(raw.read_text(), r#"{"type":"pong"}"#);
}

#[test]
fn the_answer_to_the_upgrade_comes_before_a_pong() {
    let server = Server::dev();
    let mut raw = Raw::connect(server.address);
    let mut bytes = upgrade_request("/ws", "").into_bytes();
    bytes.extend(frame_bytes(0x89, b"hi"));
    raw.write(&bytes);
    assert!(raw.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!(raw.read(), Frame::Pong(b"hi".to_vec()));
}

#[test]
fn a_large_message_before_authentication_is_refused_by_its_header() {
    let server = Server::secured();
    let mut raw = Raw::open(server.address, "/monitoring", "");
    raw.read_text();
    raw.write(&frame_bytes(0x81, &[b'x'; 20_000])[..12]);
    assert_eq!(raw.read(), Frame::Close(1009, "protocol".into()));
    let mut raw = Raw::open(server.address, "/monitoring", "");
    raw.read_text();
    let token = token("ann", &[]);
    raw.send(&format!(r#"{{"type":"AUTHENTICATE","token":"{token}"}}"#));
    raw.read_text();
    raw.send(&format!(r#"{{"type":"{}"}}"#, "x".repeat(2_000_000)));
    assert!(raw.read_text().contains("Unknown message type"));
}

#[test]
fn a_draining_server_refuses_new_connections() {
    let server = Server::dev();
    let mut session = Raw::open(server.address, "/ws", "");
    server.drain();
    // The close frame is unanswered, so the shard of this session is still there.
    assert_eq!(
        session.read_silently(),
        Frame::Close(1001, "shutdown".into())
    );
    // Each shard stops listening for itself.
    let mut attempts = (0..10_000).map(|_| std::net::TcpStream::connect(server.address));
    assert!(attempts.any(|attempt| attempt.is_err()));
    assert!(std::net::TcpStream::connect(server.address).is_err());
}

#[test]
fn permission_and_type_come_before_the_text_as_a_whole() {
    let server = Server::secured();
    let mut raw = Raw::open(server.address, "/ws", "");
    let token = token("ann", &[]);
    raw.send(&format!(
        r#"{{"type":"auth","data":{{"token":"{token}"}}}}"#
    ));
    while !raw.read_text().contains("auth_success") {}
    let error = |text: &str| format!(r#"{{"type":"error","data":{{"error":"{text}"}}}}"#);
    raw.send(r#"{"type":"publish","data":{"channel":"c","data":[1,}}"#);
    assert_eq!(raw.read_text(), error("Permission denied"));
    raw.send(r#"{"type":"explode","data":[1,}"#);
    assert_eq!(raw.read_text(), error("Unknown message type"));
    raw.send(r#"{"type":"subscribe","data":{"channel":"c","x":[1,}}"#);
    assert_eq!(raw.read_text(), error("Invalid JSON"));
}

#[test]
fn numbers_beyond_a_double_pass_unchanged() {
    let server = Server::dev();
    let mut subscriber = Client::subscribed(server.address, "c");
    let number = format!("[1e400,{}]", "1".repeat(400_000));
    Client::open(server.address, "/ws").publish("c", &number);
    let expected = format!(r#"{{"type":"m","channel":"c","data":{number}}}"#);
    assert_eq!(subscriber.receive(), expected);
}

#[test]
fn filters_of_a_session_have_a_bound_together() {
    let server = Server::dev();
    let mut raw = Raw::open(server.address, "/analytics", "");
    let subscribe = |number: usize| {
        let text = "x".repeat(16_000);
        format!(
            r#"{{"type":"subscribe","data":{{"type":"events","subscription_id":"s{number}","filters":{{"a":"{text}{number}"}}}}}}"#
        )
    };
    for number in 0..16 {
        raw.send(&subscribe(number));
        assert!(raw.read_text().starts_with(r#"{"type":"subscribed""#));
    }
    raw.send(&subscribe(16));
    let error = r#"{"type":"error","data":{"error":"Too many filters"}}"#;
    assert_eq!(raw.read_text(), error);
    let counted = "fanwire_message_errors_total{error=\"subscriptions\"";
    assert_eq!(server.metric(counted), 1);
    raw.send(r#"{"type":"unsubscribe","data":{"subscription_id":"s3"}}"#);
    assert!(raw.read_text().starts_with(r#"{"type":"unsubscribed""#));
    raw.send(&subscribe(16));
    assert!(raw.read_text().starts_with(r#"{"type":"subscribed""#));
}

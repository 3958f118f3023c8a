//! The dialects, word for word.

use crate::harness::{Client, Frame, Raw, Server, frame_bytes, token};

/// Sends each line that begins with `>` and expects each that begins with `<`.
fn check(client: &mut Client, transcript: &str) {
    for line in transcript
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        match line.split_at(2) {
            ("> ", text) => client.send(text),
            ("< ", text) => assert_eq!(client.receive(), text),
            _ => panic!("neither sent nor expected: {line}"),
        }
    }
}

#[test]
fn the_gateway_speaks_its_dialect() {
    let server = Server::secured();
    let mut client = Client::open(server.address, "/ws");
    let token = token("ann", &["publish"]);
    check(
        &mut client,
        &format!(
            r#"
            > {{"type":"ping"}}
            < {{"type":"pong"}}
            > {{"type":"subscribe","data":{{"channel":"news"}}}}
            < {{"type":"error","data":{{"error":"Authentication required"}}}}
            > {{"type":"auth","data":{{"token":"{token}"}}}}
            < {{"type":"auth_success","data":{{"user_id":"ann"}}}}
            > {{"type":"subscribe","data":{{"channel":"news"}}}}
            < {{"type":"subscribed","data":{{"channel":"news"}}}}
            > {{"type":"subscribe","data":{{"channel":"news"}}}}
            < {{"type":"subscribed","data":{{"channel":"news"}}}}
            > {{"type":"publish","data":{{"channel":"news","type":"m","data":[1, 2.0]}}}}
            < {{"type":"m","channel":"news","data":[1, 2.0]}}
            > {{"type":"unsubscribe","data":{{"channel":"news"}}}}
            < {{"type":"unsubscribed","data":{{"channel":"news"}}}}
            > {{"type":"publish","data":{{"channel":"news"}}}}
            > {{"type":"subscribe","data":{{}}}}
            < {{"type":"error","data":{{"error":"Missing channel"}}}}
            > {{"type":"subscribe","data":{{"channel":"user:bob"}}}}
            < {{"type":"error","data":{{"error":"Channel is reserved"}}}}
            > {{"type":"dance"}}
            < {{"type":"error","data":{{"error":"Unknown message type"}}}}
            "#
        ),
    );
    client.send(r#"{"type":"status"}"#);
    let status = client.receive();
    let expected = r#"{"type":"status","data":{"authenticated":true,"user_id":"ann","tenant_id":null,"channels":[],"#;
    assert!(status.starts_with(expected), "{status}");
}

#[test]
fn monitoring_speaks_its_dialect() {
    let server = Server::secured();
    let mut client = Client::open(server.address, "/monitoring");
    let welcome = client.receive();
    assert!(
        welcome.starts_with(r#"{"type":"WELCOME","connection_id":"127.0.0.1:"#),
        "{welcome}"
    );
    let token = token("user123", &["publish"]);
    check(
        &mut client,
        &format!(
            r#"
            > {{"type":"PING"}}
            < {{"type":"PONG"}}
            > {{"type":"SUBSCRIBE","property_id":"1012650001"}}
            < {{"type":"ERROR","message":"Authentication required"}}
            > {{"type":"AUTHENTICATE","token":"nonsense"}}
            < {{"type":"ERROR","message":"Invalid token"}}
            > {{"type":"AUTHENTICATE","token":"{token}"}}
            < {{"type":"AUTHENTICATED","user_id":"user123"}}
            > {{"type":"SUBSCRIBE"}}
            < {{"type":"ERROR","message":"Missing property_id"}}
            > {{"type":"SUBSCRIBE","property_id":"1012650001"}}
            < {{"type":"SUBSCRIBED","property_id":"1012650001"}}
            > {{"type":"PUBLISH","property_id":"1012650001","message":{{"type":"VIOLATION_UPDATE","count":5}}}}
            < {{"type":"PUBLISHED","property_id":"1012650001"}}
            < {{"type":"VIOLATION_UPDATE","count":5}}
            > {{"type":"UNSUBSCRIBE","property_id":"1012650001"}}
            < {{"type":"UNSUBSCRIBED","property_id":"1012650001"}}
            > {{"type":"subscribe"}}
            < {{"type":"ERROR","message":"Unknown message type"}}
            "#
        ),
    );
    client.send(r#"{"type":"GET_STATUS"}"#);
    let status = client.receive();
    assert!(
        status.contains(r#""authenticated":true,"subscriptions":[],"connected_at":"#),
        "{status}"
    );
}

#[test]
fn publishing_needs_its_permission() {
    let server = Server::secured();
    let mut client = Client::open(
        server.address,
        &format!("/ws?token={}", token("bob", &["read"])),
    );
    check(
        &mut client,
        r#"
        < {"type":"auth_success","data":{"user_id":"bob"}}
        > {"type":"publish","data":{"channel":"news","type":"m","data":1}}
        < {"type":"error","data":{"error":"Permission denied"}}
        "#,
    );
    server.await_metric("fanwire_message_errors_total{error=\"forbidden\"", 1);
}

#[test]
fn a_token_may_come_by_each_of_four_ways() {
    let server = Server::secured();
    let token = token("ann", &[]);
    let expected = r#"{"type":"auth_success","data":{"user_id":"ann"}}"#;
    for (target, header) in [
        (format!("/ws?token={token}"), String::new()),
        ("/ws".into(), format!("Authorization: Bearer {token}\r\n")),
        (
            "/ws".into(),
            format!("Sec-WebSocket-Protocol: bearer, {token}\r\n"),
        ),
    ] {
        let mut raw = Raw::open(server.address, &target, &header);
        assert_eq!(raw.read_text(), expected, "{target} {header}");
    }
    let mut raw = Raw::open(server.address, "/ws", "");
    raw.send(&format!(
        r#"{{"type":"auth","data":{{"token":"{token}"}}}}"#
    ));
    assert_eq!(raw.read_text(), expected);
}

#[test]
fn a_subprotocol_chooses_the_dialect_and_is_confirmed() {
    let server = Server::dev();
    let mut raw = Raw::connect(server.address);
    let header = "Sec-WebSocket-Protocol: other, fanwire.monitoring.v1\r\n";
    raw.write(crate::harness::upgrade_request("/ws", header).as_bytes());
    let head = raw.read_head();
    assert!(
        head.contains("Sec-WebSocket-Protocol: fanwire.monitoring.v1\r\n"),
        "{head}"
    );
    assert!(raw.read_text().contains("WELCOME"));
}

#[test]
fn one_message_too_many_is_refused_and_the_session_lives_on() {
    let server = Server::secured();
    let mut client = Client::open(server.address, "/monitoring");
    client.receive();
    for _ in 0..100 {
        client.send(r#"{"type":"PING"}"#);
        assert_eq!(client.receive(), r#"{"type":"PONG"}"#);
    }
    client.send(r#"{"type":"PING"}"#);
    let rejection = r#"{"type":"ERROR","message":"Rate limit exceeded"}"#;
    assert_eq!(client.receive(), rejection);
    server.await_metric("fanwire_message_errors_total{error=\"rate_limited\"", 1);
}

#[test]
fn pings_are_answered_and_closes_echoed() {
    let server = Server::dev();
    let mut raw = Raw::open(server.address, "/ws", "");
    raw.write(&frame_bytes(0x89, b"are you there"));
    assert_eq!(raw.read(), Frame::Pong(b"are you there".to_vec()));
    raw.write(&frame_bytes(0x88, &[0x0f, 0xa0, b'x']));
    assert_eq!(raw.read(), Frame::Close(4000, String::new()));
    assert_eq!(raw.read(), Frame::End);
    server.await_metric("fanwire_closes_total{reason=\"peer\"", 1);
}

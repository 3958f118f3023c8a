//! Does `POST /notify` tell everyone, and whom does it reject?

use crate::harness::{Client, configured, http, http_get};
use fanwire::DialectId;
use fanwire::{Builder, block_on};
use std::net::SocketAddr;

fn notify(address: SocketAddr, headers: &str, body: &str) -> (u16, String) {
    let length = body.len();
    http(
        address,
        &format!(
            "POST /notify HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ),
    )
}

#[test]
fn everyone_hears_in_the_words_of_their_dialect() {
    let server = configured("notify_all", "", Builder::dev);
    let address = server.addresses()[0];
    let mut notified = Client::open(address, "/notifications");
    let mut gateway = Client::open(address, "/ws");
    // Both have arrived when they were answered.
    notified.send(r#"{"type":"ping"}"#);
    gateway.send(r#"{"type":"ping"}"#);
    assert!(notified.receive().contains("pong") && gateway.receive().contains("pong"));
    let body = r#"{"message":"Hello","type":"alert","data":{"priority":"high"}}"#;
    let (status, answer) = notify(address, "", body);
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains(r#""clients":2"#), "{answer}");
    let heard = notified.receive();
    let start = r#"{"type":"alert","message":"Hello","data":{"priority":"high"},"timestamp":""#;
    assert!(heard.starts_with(start), "{heard}");
    let expected = concat!(
        r#"{"type":"alert","channel":"all","data":{"message":"Hello","#,
        r#""data":{"priority":"high"}}}"#
    );
    assert_eq!(gateway.receive(), expected);
    drop((notified, gateway));
    block_on(server.stop());
}

#[test]
fn what_is_no_notification_is_refused_with_a_reason() {
    let server = configured("notify_refused", "", |builder| {
        builder.profile(DialectId::Notifications)
    });
    let address = server.addresses()[0];
    let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(1_500_000));
    for (body, status) in [
        (r#"{"message":"m"}"#, 200),
        (r#"{"message":"m","more":1}"#, 200),
        ("", 400),
        ("{", 400),
        (r#"{"type":"x"}"#, 422),
        (r#"{"message":5}"#, 422),
        (r#"{"message":"m","type":""}"#, 422),
        (&long, 413),
    ] {
        let answer = notify(address, "", body);
        let shown = &body[..body.len().min(40)];
        assert_eq!(answer.0, status, "{shown}: {}", answer.1);
        let names = if status == 200 { "sent" } else { "error" };
        assert!(answer.1.contains(names), "{shown}: {}", answer.1);
    }
    assert_eq!(http_get(address, "/notify").0, 405);
    block_on(server.stop());
}

#[test]
fn a_key_shuts_everyone_else_out() {
    let settings = "notify_api_key = \"a key of this test\"";
    let server = configured("notify_api_key", settings, |builder| {
        builder.profile(DialectId::Notifications)
    });
    let address = server.addresses()[0];
    let body = r#"{"message":"m"}"#;
    for (headers, status) in [
        ("", 401),
        ("X-API-Key: a key of this tesT\r\n", 401),
        ("X-API-Key: a key of this test\r\n", 200),
        ("Authorization: Bearer a key of this test\r\n", 200),
    ] {
        assert_eq!(notify(address, headers, body).0, status, "{headers}");
    }
    block_on(server.stop());
}

#[test]
fn a_server_of_another_profile_has_no_open_door() {
    let settings = "jwt_secret = \"a secret of this test, thirty-two bytes\"";
    let server = configured("notify_absent", settings, |builder| {
        builder.profile(DialectId::Gateway)
    });
    let answer = notify(server.addresses()[0], "", r#"{"message":"m"}"#);
    assert_eq!(answer.0, 404);
    block_on(server.stop());
}

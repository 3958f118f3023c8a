//! Several listeners in one process: what is spoken where.

use crate::harness::{Client, Raw, Server, http_get, upgrade_request};
use fanwire::DialectId;

#[test]
fn listeners_with_different_profiles_share_one_process() {
    let profiles = [DialectId::Monitoring, DialectId::Gateway];
    let server = Server::listening(profiles.map(Some));
    let [first, second] = [0, 1].map(|listener| server.address_of(listener));
    let mut monitoring = Client::open(first, "/");
    assert!(monitoring.receive().contains("WELCOME"));
    monitoring.send(r#"{"type":"SUBSCRIBE","property_id":"7"}"#);
    assert!(monitoring.receive().contains("SUBSCRIBED"));
    let mut gateway = Client::open(second, "/");
    gateway.publish("prop:7", "1");
    assert!(monitoring.receive().contains('m'));
    for address in [first, second] {
        assert_eq!(http_get(address, "/health").0, 200);
    }
}

#[test]
fn a_profile_listener_answers_404_to_other_dialects() {
    let server = Server::listening([Some(DialectId::Monitoring), None]);
    let check = |listener: usize, path: &str, headers: &str, expected: &str| {
        let mut raw = Raw::connect(server.address_of(listener));
        raw.write(upgrade_request(path, headers).as_bytes());
        let head = raw.read_head();
        let status = head.get(9..12).unwrap_or_default();
        assert_eq!(status, expected, "{listener} {path} {headers}");
    };
    let gateway = "Sec-WebSocket-Protocol: fanwire.gateway.v1\r\n";
    let monitoring = "Sec-WebSocket-Protocol: fanwire.monitoring.v1\r\n";
    check(0, "/", "", "101");
    check(0, "/ws", "", "101");
    check(0, "/", monitoring, "101");
    check(0, "/", gateway, "404");
    check(0, "/monitoring", "", "404");
    check(1, "/", "", "404");
    check(1, "/", gateway, "101");
    check(1, "/monitoring", "", "101");
    check(1, "/ws/tenant/t1", "", "101");
}

#[test]
fn a_drain_ends_every_listener() {
    let server = Server::listening([None, None]);
    let mut sessions = [0, 1].map(|listener| Raw::open(server.address_of(listener), "/ws", ""));
    server.drain();
    for session in &mut sessions {
        let goodbye = crate::harness::Frame::Close(1001, "shutdown".into());
        assert_eq!(session.read_silently(), goodbye);
    }
    for listener in [0, 1] {
        // Each shard has a socket of its own there, and closes it in its own time.
        let address = server.address_of(listener);
        let ends = (0..10_000).any(|_| std::net::TcpStream::connect(address).is_err());
        assert!(ends, "listener {listener} still accepts");
    }
}

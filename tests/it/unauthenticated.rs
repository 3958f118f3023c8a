//! Do clients that do not authenticate keep others out?

use crate::harness::{Frame, Raw, Server, token};
use std::net::SocketAddr;

/// Opens a session with a token in its request, and one that authenticates by a message.
fn authenticate_both_ways(address: SocketAddr) -> [Raw; 2] {
    let token = token("ann", &[]);
    let mut at_once = Raw::open(address, &format!("/analytics?token={token}"), "");
    assert!(at_once.read_text().contains("auth_success"));
    let mut later = Raw::open(address, "/analytics", "");
    let auth = format!(r#"{{"type":"auth","data":{{"token":"{token}"}}}}"#);
    later.send(&auth);
    assert!(later.read_text().contains("auth_success"));
    [at_once, later]
}

#[test]
fn sessions_without_a_token_take_no_places_of_those_with_one() {
    // As many as may be there; the dialect has a thousand places.
    let server = Server::with(|builder| {
        let builder = builder.set("unauthenticated_max", 0);
        builder.set("unauthenticated_per_ip_max", 0)
    });
    let silent: Vec<_> = (0..1_100)
        .map(|_| Raw::open(server.address, "/analytics", ""))
        .collect();
    assert!(server.metric("fanwire_unauthenticated_connections") >= 1_100);
    let members = authenticate_both_ways(server.address);
    assert_eq!(server.metric("fanwire_authenticated_sessions"), 2);
    drop((silent, members));
}

#[test]
fn of_many_sessions_without_a_token_the_newest_stay() {
    let server = Server::secured();
    let mut silent: Vec<_> = (0..1_100)
        .map(|_| Raw::open(server.address, "/analytics", ""))
        .collect();
    // All have the address that the next client has, too.
    let members = authenticate_both_ways(server.address);
    let closed = r#"fanwire_closes_total{reason="unauthenticated_per_ip_max""#;
    server.await_metric_in(closed, 1_100 - 256..=1_100);
    assert!(server.metric("fanwire_unauthenticated_connections") <= 256);
    let reason = "unauthenticated_per_ip_max".to_owned();
    assert_eq!(silent[0].read(), Frame::Close(1013, reason));
    assert_eq!(silent[0].read(), Frame::End);
    // The newest has been left alone.
    let newest = silent.last_mut().unwrap();
    newest.send(r#"{"type":"ping"}"#);
    assert!(newest.read_text().contains("pong"));
    drop(members);
}

#[test]
fn half_open_requests_keep_no_client_out() {
    let server = Server::with(|builder| {
        let builder = builder.set("unauthenticated_max", 128);
        builder.set("unauthenticated_per_ip_max", 0)
    });
    let mut heads = Vec::new();
    let mut members = Vec::new();
    for _ in 0..10 {
        for _ in 0..100 {
            let mut head = Raw::connect(server.address);
            head.write(b"GET /analytics HTTP/1.1\r\nHost: t\r\n");
            heads.push(head);
        }
        members.extend(authenticate_both_ways(server.address));
    }
    let rejected = r#"fanwire_connections_rejected_total{reason="unauthenticated_max""#;
    server.await_metric_in(rejected, 1_000 - 128..=1_000);
    assert!(server.metric("fanwire_unauthenticated_connections") <= 128);
    assert_eq!(server.metric("fanwire_authenticated_sessions"), 20);
    assert_eq!(heads[0].read(), Frame::End);
    for mut member in members {
        member.send(r#"{"type":"ping"}"#);
        assert!(member.read_text().contains("pong"));
    }
}

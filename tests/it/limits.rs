//! Do the limits of messages hold for all sessions that share them, and for nobody else?

use crate::harness::{Raw, SECRET, Server};
use fanwire::auth::{Grant, issue};
use fanwire::base::now::Clock;
use fanwire::{DialectId, SettingValue};
use std::collections::BTreeMap;
use std::sync::mpsc;

/// `messages` per hour: none comes back during a test.
fn per_hour(messages: u64) -> SettingValue {
    SettingValue::Table(BTreeMap::from([
        ("messages".to_owned(), messages.into()),
        ("window".to_owned(), "1h".into()),
    ]))
}

fn token_of(user: &str, tenant: &str) -> String {
    let grant = Grant::new(user).with_tenant(tenant);
    issue(&grant, SECRET.as_bytes(), 3_600, Clock::start().now()).unwrap()
}

fn session_of(server: &Server, user: &str, tenant: &str) -> Raw {
    let path = format!("/ws?token={}", token_of(user, tenant));
    let mut session = Raw::open(server.address, &path, "");
    assert!(session.read_text().contains("auth_success"));
    session
}

/// Sends `count` pings and returns how many are answered with a pong, not with an error.
fn pings_answered(session: &mut Raw, count: usize) -> usize {
    let is_answered = |session: &mut Raw| {
        session.send(r#"{"type":"ping"}"#);
        let answer = session.read_text();
        assert!(
            answer.contains("pong") || answer.contains("Rate limit exceeded"),
            "{answer}"
        );
        answer.contains("pong")
    };
    (0..count).take_while(|_| is_answered(session)).count()
}

#[test]
fn a_tenant_shares_its_messages_over_users_and_shards_and_others_have_their_own() {
    let server = Server::with(|builder| {
        let builder = builder.set("gateway.rate_limit", "off");
        builder.set("gateway.tenant_rate_limit", per_hour(30))
    });
    // Eight sessions are on both shards.
    let users = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut sessions = users.map(|user| session_of(&server, user, "acme"));
    let mut answered = 0;
    for session in &mut sessions {
        answered += pings_answered(session, 5);
    }
    assert_eq!(answered, 30);
    let mut other = session_of(&server, "a", "other");
    assert_eq!(pings_answered(&mut other, 10), 10);
    let errors = r#"fanwire_message_errors_total{error="rate_limited""#;
    assert!(server.metric(errors) >= 2);
}

#[test]
fn an_address_shares_its_messages_and_a_session_over_its_own_limit_uses_none_of_them() {
    let server = Server::with(|builder| {
        let builder = builder.set("gateway.rate_limit", per_hour(10));
        builder.set("gateway.ip_rate_limit", per_hour(15))
    });
    let mut ann = session_of(&server, "ann", "acme");
    assert_eq!(pings_answered(&mut ann, 50), 10);
    for _ in 0..20 {
        ann.send(r#"{"type":"ping"}"#);
    }
    let mut bob = session_of(&server, "bob", "acme");
    assert_eq!(pings_answered(&mut bob, 50), 5);
}

#[test]
fn a_program_sees_what_a_session_and_a_user_have_used() {
    let (sender, ids) = mpsc::channel();
    let server = Server::with(|builder| {
        let builder = builder.set("gateway.rate_limit", per_hour(10));
        let builder = builder.set("gateway.tenant_rate_limit", per_hour(100));
        builder.on_connect(move |session| {
            sender.send(session.id().to_string()).unwrap();
            Ok(())
        })
    });
    let mut sessions = [
        session_of(&server, "ann", "t"),
        session_of(&server, "ann", "t"),
    ];
    for session in &mut sessions {
        assert_eq!(pings_answered(session, 2), 2);
    }
    let used = server
        .program()
        .user_rate_limit_status(DialectId::Gateway, Some("t"), "ann");
    assert_eq!(used.map(|rate| (rate.used, rate.max)), Some((4, 10)));
    let unknown = server
        .program()
        .user_rate_limit_status(DialectId::Gateway, Some("t"), "bob");
    assert_eq!(unknown.map(|rate| rate.used), Some(0));
    let no_limit = DialectId::Notifications;
    assert_eq!(
        server
            .program()
            .user_rate_limit_status(no_limit, None, "ann"),
        None
    );
    let id = ids.recv().unwrap();
    let status = server.program().rate_limit_status(&id).unwrap();
    assert_eq!(status.user.map(|rate| rate.used), Some(4));
    assert_eq!(
        status.tenant.map(|rate| (rate.used, rate.max)),
        Some((4, 100))
    );
    assert_eq!((status.session, status.address), (None, None));
}

//! Do the limits of messages hold for all sessions that share them, and for nobody else?

use crate::harness::{Frame, Raw, SECRET, Server, upgrade_request};
use fanwire::base::now::Clock;
use fanwire::{DialectId, SettingValue};
use fanwire::{
    auth::{Grant, issue},
    block_on,
};
use std::collections::BTreeMap;
use std::sync::mpsc;

/// `messages` per hour: none comes back during a test.
pub(crate) fn per_hour(messages: u64) -> SettingValue {
    SettingValue::Table(BTreeMap::from([
        ("messages".to_owned(), messages.into()),
        ("window".to_owned(), "1h".into()),
    ]))
}

pub(crate) fn token_of(user: &str, tenant: &str) -> String {
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
fn a_session_and_its_user_have_limits_at_once() {
    let server = Server::with(|builder| {
        let builder = builder.set("gateway.rate_scope", "connection");
        let builder = builder.set("gateway.rate_limit", per_hour(10));
        builder.set("gateway.user_rate_limit", per_hour(25))
    });
    let mut answered = Vec::new();
    let mut sessions = ["acme"; 4].map(|tenant| session_of(&server, "ann", tenant));
    for session in &mut sessions {
        answered.push(pings_answered(session, 50));
    }
    assert_eq!(answered, [10, 10, 5, 0]);
    let mut bob = session_of(&server, "bob", "acme");
    assert_eq!(pings_answered(&mut bob, 50), 10);
    let error = fanwire::Server::builder()
        .set("jwt_secret", SECRET)
        .set("gateway.user_rate_limit", per_hour(25))
        .start();
    let error = error.unwrap_err().to_string();
    assert!(error.contains("rate_scope"), "{error}");
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
    let status = block_on(server.program().rate_limit_status(&id)).unwrap();
    assert_eq!(status.user.map(|rate| rate.used), Some(4));
    assert_eq!(
        status.tenant.map(|rate| (rate.used, rate.max)),
        Some((4, 100))
    );
    assert_eq!((status.session, status.address), (None, None));
}

/// Tries a token in the request; the answer.
fn attempt(server: &Server, token: &str) -> Frame {
    let mut session = Raw::open(server.address, &format!("/monitoring?token={token}"), "");
    loop {
        match session.read() {
            Frame::Text(text) if text.contains("WELCOME") || text.contains("Invalid") => {}
            answer => return answer,
        }
    }
}

#[test]
fn guesses_of_tokens_are_bounded_and_users_behind_the_same_address_get_in() {
    let server = Server::with(|builder| builder.set("auth_failures_per_ip_max", 10));
    let ann = token_of("ann", "t");
    assert!(matches!(attempt(&server, &ann), Frame::Text(text) if text.contains("AUTHENTICATED")));
    let mut live = Raw::open(server.address, "/ws", "");
    live.send(&format!(r#"{{"type":"auth","data":{{"token":"{ann}"}}}}"#));
    assert!(live.read_text().contains("auth_success"));
    let unauthorized = Frame::Close(1008, "unauthorized".to_owned());
    let throttled = Frame::Close(1013, "auth_throttled".to_owned());
    let answers: Vec<_> = (0..300)
        .map(|number| attempt(&server, &format!("guess{number}")))
        .collect();
    assert!(answers[..10].iter().all(|answer| *answer == unauthorized));
    let verified = answers
        .iter()
        .filter(|answer| **answer == unauthorized)
        .count();
    // One more every six seconds.
    assert!((10..=14).contains(&verified), "{verified}");
    assert_eq!(answers.last(), Some(&throttled));
    let counted = r#"fanwire_token_errors_total{error="throttled""#;
    assert_eq!(server.metric(counted), 300 - verified as u64);
    // A session that has an identity stays, though its next token is not verified.
    let mut session = live;
    session.send(&format!(
        r#"{{"type":"auth","data":{{"token":"{}"}}}}"#,
        token_of("ann", "u")
    ));
    let answer = session.read_text();
    assert!(answer.contains("Rate limit exceeded"), "{answer}");
    session.send(r#"{"type":"ping"}"#);
    assert!(session.read_text().contains("pong"));
    // One whose token was valid before reconnects.
    assert!(matches!(attempt(&server, &ann), Frame::Text(text) if text.contains("AUTHENTICATED")));
}

#[test]
fn guesses_where_tokens_are_optional_are_bounded_though_others_would_be_asked_elsewhere() {
    let server = Server::with(|builder| {
        let builder = builder.set("auth_failures_per_ip_max", 10);
        builder.set("auth_callback_url", "http://127.0.0.1:1/")
    });
    for number in 0..100 {
        let authorization = format!("Authorization: Bearer guess{number}\r\n");
        drop(Raw::open(server.address, "/notifications", &authorization));
    }
    let throttled = server.metric(r#"fanwire_token_errors_total{error="throttled""#);
    assert!(throttled >= 85, "{throttled}");
}

#[test]
fn handshakes_of_an_address_over_its_rate_are_rejected_before_their_token() {
    let server = Server::with(|builder| builder.set("handshakes_per_ip_max", 5));
    let excess = Frame::Close(1013, "handshakes_per_ip_max".to_owned());
    let answers: Vec<_> = (0..30).map(|_| attempt(&server, "wrong")).collect();
    let rejected = answers.iter().filter(|answer| **answer == excess).count();
    assert!((1..=25).contains(&rejected), "{answers:?}");
    let errors = server.metric("fanwire_token_errors_total");
    assert_eq!(errors, 30 - rejected as u64);
    let server = Server::with(|builder| {
        let builder = builder.set("handshakes_per_shard_max", 1);
        builder.set("capacity_rejection", "http")
    });
    let heads: Vec<_> = (0..20)
        .map(|_| {
            let mut raw = Raw::connect(server.address);
            raw.write(upgrade_request("/ws", "").as_bytes());
            raw.read_head()
        })
        .collect();
    let is_rejected = |head: &&String| {
        head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: 1\r\n")
    };
    assert!(heads.iter().filter(is_rejected).count() >= 10, "{heads:?}");
}

#[test]
fn ten_thousand_connections_from_one_address_keep_to_its_limit() {
    let server = Server::with(|builder| builder.set("gateway.sessions_per_user_max", 0));
    let mut places = Vec::new();
    let quota = Frame::Close(1008, "quota".to_owned());
    let path = format!("/ws?token={}", token_of("ann", "t"));
    for number in 0..10_000 {
        let mut session = Raw::open(server.address, &path, "");
        match session.read() {
            Frame::Text(text) if text.contains("auth_success") => places.push(session),
            answer => assert_eq!(answer, quota, "{number}"),
        }
    }
    assert_eq!(places.len(), 50);
    assert_eq!(
        server.metric(r#"fanwire_closes_total{reason="quota""#),
        10_000 - 50
    );
    // Another dialect of the address is not affected.
    let mut other = Raw::open(server.address, "/monitoring", "");
    assert!(other.read_text().contains("WELCOME"));
}

#[test]
fn a_session_has_as_many_subscriptions_as_its_dialect_allows() {
    let server = Server::with(|builder| builder.set("gateway.subscriptions_per_session_max", 2));
    let mut ann = session_of(&server, "ann", "t");
    let answers = ["a", "b", "c"].map(|channel| {
        ann.send(&format!(
            r#"{{"type":"subscribe","data":{{"channel":"{channel}"}}}}"#
        ));
        ann.read_text()
    });
    let subscribed = answers
        .iter()
        .filter(|answer| answer.contains("subscribed"));
    assert_eq!(subscribed.count(), 2, "{answers:?}");
    assert!(answers[2].contains("error"), "{answers:?}");
}

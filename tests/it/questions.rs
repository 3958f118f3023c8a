//! Questions about tokens and asynchronous handlers of sessions that leave, that are rejected, and of
//! clients who ask too much.

use crate::backend::{Answer, Backend};
use crate::harness::{Client, Frame, Raw, Server, upgrade_request};
use crate::limits::token_of;
use fanwire::{Denied, block_on};
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

#[test]
fn a_handler_publishes_in_the_tenant_of_its_session_also_when_that_has_left() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let server = Server::with(|builder| {
        let builder = builder.set("gateway.tenant_isolation", true);
        builder.on_message_async("order", move |session, _| {
            let gate = Arc::clone(&gate);
            async move {
                let wait = move || gate.lock().unwrap().recv();
                wait().map_err(|_| Denied::because("the test has ended"))?;
                session.publish("orders", "order", &"of acme")
            }
        })
    });
    let subscribed = |token: &str| {
        let mut client = Client::open(server.address, &format!("/ws?token={token}"));
        assert!(client.receive().contains("auth_success"));
        client.send(r#"{"type":"subscribe","data":{"channel":"orders"}}"#);
        assert!(client.receive().contains("subscribed"));
        client
    };
    let mut of_acme = subscribed(&token_of("ann", "acme"));
    let mut of_none = subscribed(&crate::harness::token("ann", &["publish"]));
    let path = format!("/ws?token={}", token_of("bob", "acme"));
    let mut leaver = Client::open(server.address, &path);
    assert!(leaver.receive().contains("auth_success"));
    leaver.send(r#"{"type":"order"}"#);
    drop(leaver);
    server.await_metric("fanwire_sessions{dialect=\"gateway\"", 2);
    release.send(()).unwrap();
    assert!(of_acme.receive().contains("of acme"));
    of_none.publish("orders", r#""own""#);
    let first = of_none.receive();
    assert!(first.contains(r#""own""#), "{first}");
}

#[test]
fn clients_who_ask_and_leave_are_bounded_by_their_address_and_harm_nobody() {
    let backend = Backend::new(|body| {
        let question: Value = serde_json::from_str(body).unwrap();
        match question["token"].as_str().unwrap() {
            "of-ann" => Answer::Http(
                200,
                r#"{"user":7,"roles":null,"attributes":{"a":true,"b":[]}}"#.into(),
            ),
            "failing" => Answer::Http(500, String::new()),
            _ => Answer::Hang,
        }
    });
    let server = Server::with(|builder| {
        let builder = builder
            .set("auth_callback_url", backend.url())
            .set("auth_callback_cache", "0s")
            .set("auth_failures_per_ip_max", 20);
        builder.on_message_async("ask", |session, _| async move { session.send("told", &1) })
    });
    let is_ann = || {
        let mut client = Client::open(server.address, "/ws?token=of-ann");
        client.receive().contains(r#""user_id":"7""#)
    };
    assert!(is_ann());
    // What nobody can answer is no guess.
    for _ in 0..30 {
        let mut raw = Raw::open(server.address, "/ws?token=failing", "");
        assert_eq!(raw.read(), Frame::Close(1013, "auth_unanswered".to_owned()));
    }
    let before = backend.count();
    for number in 0..200 {
        let mut raw = Raw::connect(server.address);
        raw.write(upgrade_request(&format!("/ws?token=guess{number}"), "").as_bytes());
        if number % 2 == 0 {
            raw.read_head();
        }
    }
    server.await_metric("fanwire_sessions{dialect=\"gateway\"", 0);
    assert!(
        backend.count() - before <= 21,
        "{} questions",
        backend.count() - before
    );
    // Who was valid before gets in, and handlers do not wait for the questions about tokens.
    for _ in 0..5 {
        assert!(is_ann());
    }
    let mut client = Client::open(server.address, "/ws?token=of-ann");
    assert!(client.receive().contains("auth_success"));
    client.send(r#"{"type":"ask"}"#);
    assert_eq!(client.receive(), r#"{"type":"told","data":1}"#);
}

#[test]
fn handlers_of_new_sessions_are_called_when_it_is_known_whose_the_token_is() {
    let backend = Backend::new(|body| {
        let question: Value = serde_json::from_str(body).unwrap();
        match question["token"].as_str().unwrap() {
            "of-ann" => Answer::Http(200, r#"{"user":"ann","tenant":"acme"}"#.into()),
            _ => Answer::Http(401, String::new()),
        }
    });
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let server = Server::with(|builder| {
        builder
            .set("auth_callback_url", backend.url())
            .on_connect(move |session| {
                counted.fetch_add(1, Ordering::Relaxed);
                if session.identity().is_none() {
                    return Err(Denied::because("who are you?"));
                }
                session.subscribe("hello");
                session.publish("hello", "m", &1)
            })
            .on_connect_async(|session| async move {
                let tenant = session.tenant_id().map(str::to_owned);
                session.send("tenant", &tenant)
            })
    });
    let mut client = Client::open(server.address, "/ws?token=of-ann");
    assert!(client.receive().contains("auth_success"));
    let mut got = [client.receive(), client.receive()];
    got.sort();
    assert!(got[0].contains(r#""channel":"hello","data":1"#), "{got:?}");
    assert_eq!(got[1], r#"{"type":"tenant","data":"acme"}"#);
    let mut rejected = Raw::open(server.address, "/ws?token=other", "");
    assert!(rejected.read_text().contains("Invalid token"));
    assert_eq!(
        rejected.read(),
        Frame::Close(1008, "unauthorized".to_owned())
    );
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn a_revocation_outlives_what_was_known_before() {
    let backend = Backend::new(|_| Answer::Http(200, r#"{"user":"ann"}"#.into()));
    let server = Server::with(|builder| {
        builder
            .set("auth_callback_url", backend.url())
            .set("auth_callback_cache", "1h")
            .set("static_tokens", vec!["eve=a-static-token"])
            .set("gateway.tenant_source", "request")
    });
    let is_in = |path: &str| match Raw::open(server.address, path, "").read() {
        Frame::Text(text) => text.contains("auth_success"),
        frame => {
            assert_eq!(frame, Frame::Close(1008, "revoked".to_owned()));
            false
        }
    };
    let program = server.program();
    assert!(is_in("/ws?token=x") && is_in("/ws?token=x"));
    assert_eq!(backend.count(), 1);
    block_on(program.revoke_user("ann"));
    // The callback is asked again; once it has answered later than the revocation, she is in.
    while !is_in("/ws?token=x") {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(backend.count() > 1);
    assert!(is_in("/ws?token=a-static-token"));
    block_on(program.revoke_user("eve"));
    assert!(!is_in("/ws?token=a-static-token"));
    // The tenant of bob's session is that of his request.
    let bob = crate::harness::token("bob", &[]);
    let path = format!("/ws?token={bob}&tenant=acme");
    assert!(is_in(&path));
    block_on(program.in_tenant("acme").revoke_user("bob"));
    assert!(!is_in(&path));
    assert!(is_in(&format!("/ws?token={bob}")), "elsewhere he may");
}

//! Tokens that others prove: keys of files and of a JWK set, the authentication callback, futures of
//! the embedding program; and tokens that are revoked.

use crate::backend::{Answer, Backend};
use crate::harness::{Client, Frame, Raw, Server};
use fanwire::{Denied, DialectId, Identity, block_on};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

const EC_PRIVATE: &str = include_str!("../keys/ec_p256_private.pem");
const RSA_PRIVATE: &str = include_str!("../keys/rsa_private.pem");

fn now() -> u64 {
    fanwire::base::now::Clock::start().now().unix_s()
}

fn key(private: &str) -> EncodingKey {
    let pem = private.as_bytes();
    EncodingKey::from_rsa_pem(pem)
        .or_else(|_| EncodingKey::from_ec_pem(pem))
        .unwrap()
}

fn sign(algorithm: Algorithm, id: &str, private: &str, user: &str) -> String {
    let header = Header {
        kid: Some(id.into()),
        ..Header::new(algorithm)
    };
    let claims =
        json!({"sub": user, "exp": now() + 600, "iat": now() - 1, "jti": format!("of-{user}")});
    jsonwebtoken::encode(&header, &claims, &key(private)).unwrap()
}

fn jwk(private: &str, algorithm: Algorithm, id: &str) -> Value {
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key(private), algorithm).unwrap();
    let mut jwk = serde_json::to_value(&jwk).unwrap();
    jwk["kid"] = json!(id);
    jwk
}

/// The answer to a token in a message.
fn authenticate(client: &mut Client, token: &str) -> String {
    client.send(&json!({"type": "auth", "data": {"token": token}}).to_string());
    client.receive()
}

fn is_accepted(server: &Server, token: &str) -> bool {
    let mut client = Client::open(server.address, "/ws");
    authenticate(&mut client, token).contains("auth_success")
}

#[test]
fn a_public_key_of_a_file_verifies_and_a_broken_file_is_an_error_at_the_start() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/ec_p256_public.pem");
    let server =
        Server::with(|builder| builder.set("jwt_public_keys", vec![format!("new={path}")]));
    assert!(is_accepted(
        &server,
        &sign(Algorithm::ES256, "new", EC_PRIVATE, "ann")
    ));
    assert!(!is_accepted(
        &server,
        &sign(Algorithm::ES256, "old", EC_PRIVATE, "ann")
    ));
    assert_eq!(server.metric("fanwire_token_errors_total{error=\"key\""), 1);
    for path in [
        "/nowhere/key.pem",
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    ] {
        let builder = fanwire::Server::builder().listen(([127, 0, 0, 1], 0).into());
        let error = builder
            .set("jwt_public_keys", vec![path])
            .start()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(path) && error.contains("jwt_public_keys"),
            "{error}"
        );
    }
}

#[test]
fn keys_of_a_jwk_set_are_rotated_while_the_server_runs_and_stay_when_a_fetch_fails() {
    let set = |keys: &[Value]| {
        let body = json!({"keys": keys}).to_string();
        move |_: &str| Answer::Http(200, body.clone())
    };
    let first = jwk(EC_PRIVATE, Algorithm::ES256, "first");
    let second = jwk(RSA_PRIVATE, Algorithm::RS256, "second");
    let backend = Backend::new(set(&[first]));
    let server = Server::with(|builder| {
        let builder = builder.set("jwks_url", backend.url());
        builder.set("jwks_refresh_interval", "1s")
    });
    let old = sign(Algorithm::ES256, "first", EC_PRIVATE, "ann");
    let new = sign(Algorithm::RS256, "second", RSA_PRIVATE, "bob");
    assert!(
        is_accepted(&server, &old),
        "it is fetched before anybody connects"
    );
    assert!(!is_accepted(&server, &new));
    for answer in [500, 404, 302] {
        let fetches = backend.count();
        backend.replies(move |_| Answer::Http(answer, "{}".into()));
        while backend.count() < fetches + 1 {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(is_accepted(&server, &old), "after {answer}");
    }
    backend.replies(set(&[second]));
    while !is_accepted(&server, &new) {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!is_accepted(&server, &old), "it is not in the set any more");
}

#[test]
fn while_the_first_keys_are_fetched_nobody_is_accepted_who_would_wait() {
    let set = json!({"keys": [jwk(EC_PRIVATE, Algorithm::ES256, "new")]}).to_string();
    let backend = Backend::new(move |_| {
        std::thread::sleep(Duration::from_secs(1));
        Answer::Http(200, set.clone())
    });
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let url = backend.url();
    let started = std::thread::spawn(move || {
        let builder = fanwire::Server::builder().listen(address).set("shards", 1);
        builder.set("jwks_url", url).start().unwrap()
    });
    let mut socket = loop {
        match std::net::TcpStream::connect(address) {
            Ok(socket) => break socket,
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    assert_eq!(backend.count(), 1, "the set is fetched already");
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    socket
        .write_all(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n")
        .unwrap();
    let mut answer = [0; 15];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    block_on(started.join().unwrap().stop());
}

#[test]
fn the_authentication_callback_says_whose_a_token_is_and_is_asked_once() {
    let backend = Backend::new(|body| {
        let question: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&question["dialect"], &question["address"]),
            (&json!("gateway"), &json!("127.0.0.1"))
        );
        match question["token"].as_str().unwrap() {
            "session-of-ann" => {
                let attributes = r#""attributes":{"region":"north"}"#;
                let identity =
                    format!(r#"{{"user":"ann","permissions":["publish"],{attributes}}}"#);
                Answer::Http(200, identity)
            }
            "expired" => Answer::Http(200, r#"{"user":"ann","expires_at":1}"#.into()),
            _ => Answer::Http(401, String::new()),
        }
    });
    let server = Server::with(|builder| {
        builder
            .set("auth_callback_url", backend.url())
            .set("access_rules", "news-{attribute.region}")
            .on_message("region", |session, _| {
                let identity = session.identity().expect("it is authenticated");
                let region = identity.attribute("region").map(str::to_owned);
                session.send("region", &region)
            })
    });
    for _ in 0..3 {
        let mut client = Client::open(server.address, "/ws");
        let answer = authenticate(&mut client, "session-of-ann");
        assert!(answer.contains(r#""user_id":"ann""#), "{answer}");
        client.publish("open", "1");
        client.send(r#"{"type":"ping"}"#);
        assert_eq!(client.receive(), r#"{"type":"pong"}"#);
        client.send(r#"{"type":"region"}"#);
        assert_eq!(client.receive(), r#"{"type":"region","data":"north"}"#);
        client.send(r#"{"type":"subscribe","data":{"channel":"news-north"}}"#);
        assert!(client.receive().contains("subscribed"));
        client.send(r#"{"type":"subscribe","data":{"channel":"news-south"}}"#);
        assert!(client.receive().contains("Permission denied"));
    }
    assert_eq!(backend.count(), 1, "the answer is used again");
    // In the request, too, where a rejection closes the session.
    let mut client = Client::open(server.address, "/ws?token=session-of-ann");
    assert!(client.receive().contains("auth_success"));
    let mut raw = Raw::open(server.address, "/ws?token=unknown", "");
    assert!(raw.read_text().contains("Invalid token"));
    assert_eq!(raw.read(), Frame::Close(1008, "unauthorized".to_owned()));
    assert!(!is_accepted(&server, "expired"));
    // Tokens of our own are not passed on.
    let count = backend.count();
    assert!(is_accepted(&server, &crate::harness::token("bob", &[])));
    assert_eq!(backend.count(), count);
}

#[test]
fn a_callback_that_hangs_lies_or_fails_rejects_its_token_only() {
    let backend = Backend::new(|body| {
        let question: Value = serde_json::from_str(body).unwrap();
        match question["token"].as_str().unwrap() {
            "hang" => Answer::Hang,
            "500" => Answer::Http(500, r#"{"user":"ann"}"#.into()),
            "redirect" => Answer::Raw(
                b"HTTP/1.1 302 x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            ),
            "garbage" => Answer::Raw(b"\x00\x01\x02 not http\r\n\r\n"),
            "nobody" => Answer::Http(200, r#"{"roles":["admin"]}"#.into()),
            "html" => Answer::Http(200, "<html>".into()),
            "control" => Answer::Http(200, r#"{"user":"ann\nadmin"}"#.into()),
            "empty" => Answer::Http(200, r#"{"user":""}"#.into()),
            "long" => Answer::Http(200, format!(r#"{{"user":"{}"}}"#, "x".repeat(1 << 20))),
            "cut" => {
                Answer::Raw(b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\n{\"user\":\"ann\"}")
            }
            _ => Answer::Http(200, r#"{"user":"ann"}"#.into()),
        }
    });
    let server = Server::with(|builder| {
        let builder = builder.set("auth_callback_url", backend.url());
        builder.set("auth_callback_timeout", "300ms")
    });
    let mut bystander = Client::open(server.address, "/ws");
    assert!(authenticate(&mut bystander, "fine").contains("auth_success"));
    for token in [
        "hang", "500", "redirect", "garbage", "nobody", "html", "control", "empty", "long", "cut",
    ] {
        let mut client = Client::open(server.address, "/ws");
        client.send(&json!({"type": "auth", "data": {"token": token}}).to_string());
        // Its further messages wait, and are not those of a session with an identity.
        client.send(r#"{"type":"subscribe","data":{"channel":"news"}}"#);
        bystander.send(r#"{"type":"ping"}"#);
        assert_eq!(bystander.receive(), r#"{"type":"pong"}"#);
        let expected = if token == "redirect" {
            "Invalid token"
        } else {
            "Internal error"
        };
        assert!(client.receive().contains(expected), "{token}");
        assert!(
            client.receive().contains("Authentication required"),
            "{token}"
        );
    }
    for (error, count) in [("callback", 1), ("unanswered", 9)] {
        let series = format!("fanwire_token_errors_total{{error=\"{error}\"");
        assert_eq!(server.metric(&series), count, "{error}");
    }
    // A failure is not remembered, a hanging one blocks nobody, and the server ends in time.
    assert!(is_accepted(&server, "fine"));
}

#[test]
fn an_asynchronous_handler_keeps_the_order_of_its_session_and_holds_nobody_else() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = std::sync::Arc::new(std::sync::Mutex::new(gate));
    let server = Server::with(|builder| {
        let builder =
            builder
                .dev()
                .set("shards", 1)
                .on_message_async("slow", move |session, message| {
                    let gate = std::sync::Arc::clone(&gate);
                    async move {
                        let number: u32 = message.parse()?;
                        // Polls, as the runtime has one thread.
                        while gate.lock().unwrap().try_recv().is_err() {
                            tokio_sleep().await;
                        }
                        session.subscribe("news");
                        session.send("done", &number)
                    }
                });
        let builder = builder.on_message_async("fail", |_, _| async { Err(Denied::because("no")) });
        builder.on_message_async("panic", |_, message| async move {
            let text: String = message.parse()?;
            panic!("{text}");
        })
    });
    let mut slow = Client::open(server.address, "/ws");
    let mut other = Client::open(server.address, "/ws");
    slow.send(r#"{"type":"slow","data":1}"#);
    slow.send(r#"{"type":"ping"}"#);
    slow.send(r#"{"type":"slow","data":2}"#);
    slow.send(r#"{"type":"unsubscribe","data":{"channel":"news"}}"#);
    other.send(r#"{"type":"ping"}"#);
    assert_eq!(
        other.receive(),
        r#"{"type":"pong"}"#,
        "the shard serves others"
    );
    for _ in 0..2 {
        release.send(()).unwrap();
    }
    for expected in [
        r#"{"type":"done","data":1}"#,
        r#"{"type":"pong"}"#,
        r#"{"type":"done","data":2}"#,
        r#"{"type":"unsubscribed","data":{"channel":"news"}}"#,
    ] {
        assert_eq!(slow.receive(), expected);
    }
    slow.send(r#"{"type":"fail"}"#);
    assert!(slow.receive().contains("no"));
    slow.send(r#"{"type":"panic","data":"oops"}"#);
    assert!(slow.receive().contains("Internal error"));
    slow.send(r#"{"type":"ping"}"#);
    assert_eq!(slow.receive(), r#"{"type":"pong"}"#);
    // A client that leaves before its answer is there harms nobody.
    slow.send(r#"{"type":"slow","data":3}"#);
    drop(slow);
    server.await_metric("fanwire_sessions", 1);
    release.send(()).unwrap();
    other.send(r#"{"type":"ping"}"#);
    assert_eq!(other.receive(), r#"{"type":"pong"}"#);
}

/// A pause on the integration thread's own runtime, without its crate.
async fn tokio_sleep() {
    let mut is_first = true;
    std::future::poll_fn(move |context| {
        if std::mem::take(&mut is_first) {
            let waker = context.waker().clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(5));
                waker.wake();
            });
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(())
    })
    .await;
}

#[test]
fn an_asynchronous_handler_that_is_never_ready_fails_in_time() {
    let server = Server::with(|builder| {
        let builder = builder.dev().set("handler_timeout", "200ms");
        let builder = builder.on_message_async("never", |_, _| std::future::pending());
        builder.on_connect_async(|session| async move {
            if session.peer().ip().is_loopback() && session.dialect() == DialectId::Assist {
                return Err(Denied::because("not here"));
            }
            session.send("hello", &session.dialect().name())
        })
    });
    let mut client = Client::open(server.address, "/ws");
    client.send(r#"{"type":"never"}"#);
    client.send(r#"{"type":"ping"}"#);
    assert_eq!(client.receive(), r#"{"type":"hello","data":"gateway"}"#);
    assert!(client.receive().contains("Internal error"));
    assert_eq!(client.receive(), r#"{"type":"pong"}"#);
    let mut rejected = Raw::open(server.address, "/ws/connect", "");
    loop {
        match rejected.read() {
            Frame::Text(_) => {}
            frame => {
                assert_eq!(frame, Frame::Close(1008, "unauthorized".to_owned()));
                break;
            }
        }
    }
}

#[test]
fn a_future_of_the_program_says_whose_a_token_is() {
    let server = Server::with(|builder| {
        let builder = builder.set("revoked_users", vec!["mallory"]);
        builder.authenticate_async(|token| async move {
            assert_ne!(token, "user-panic");
            let user = token.strip_prefix("user-")?;
            (!user.is_empty()).then(|| Identity::new(user).with_role("reader"))
        })
    });
    assert!(is_accepted(&server, "user-ann"));
    // One that panics rejects its token, and the session goes on.
    let mut client = Client::open(server.address, "/ws");
    assert!(authenticate(&mut client, "user-panic").contains("Internal error"));
    assert!(authenticate(&mut client, "user-ann").contains("auth_success"));
    assert!(
        !is_accepted(&server, "user-mallory"),
        "it is revoked in the settings"
    );
    assert!(!is_accepted(&server, "other"));
    assert!(
        is_accepted(&server, &crate::harness::token("bob", &[])),
        "and the secret still counts"
    );
}

#[test]
fn revoked_tokens_and_users_are_closed_and_stay_out() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/ec_p256_public.pem");
    let server = Server::with(|builder| {
        let builder = builder.set("jwt_public_keys", vec![path]);
        builder.set("revoked_users", vec!["mallory"])
    });
    let token = |user: &str| sign(Algorithm::ES256, "k", EC_PRIVATE, user);
    assert!(!is_accepted(&server, &token("mallory")));
    let open = |user: &str| {
        let mut raw = Raw::open(server.address, &format!("/ws?token={}", token(user)), "");
        assert!(raw.read_text().contains("auth_success"));
        raw
    };
    let mut sessions = ["ann", "bob", "cleo"].map(open);
    assert_eq!(block_on(server.program().revoke_token("of-ann")), 1);
    assert_eq!(block_on(server.program().revoke_user("bob")), 1);
    for session in &mut sessions[..2] {
        assert_eq!(session.read(), Frame::Close(1008, "revoked".to_owned()));
    }
    sessions[2].send(r#"{"type":"ping"}"#);
    assert_eq!(sessions[2].read_text(), r#"{"type":"pong"}"#);
    assert!(!is_accepted(&server, &token("ann")));
    assert!(!is_accepted(&server, &token("bob")));
    assert_eq!(
        server.metric("fanwire_token_errors_total{error=\"revoked\""),
        3
    );
    // On its connection, a client may authenticate again with a newer token.
    let claims = json!({"sub": "bob", "exp": now() + 600, "iat": now() + 5});
    let newer = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key(EC_PRIVATE));
    assert!(is_accepted(&server, &newer.unwrap()));
}

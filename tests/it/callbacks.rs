//! Callbacks: an HTTP backend decides who may come in and subscribe, and answers messages; or it
//! hangs, refuses and lies.

use crate::backend::{Answer, Backend, Received};
use crate::harness::{Client, Frame, Raw, Server, token};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use fanwire::{Builder, StartError};
use serde_json::{Value, json};

pub(crate) const SECRETS: [&str; 2] = [
    "whsec_c2VjcmV0LW9mLTMyLWJ5dGVzLXRoYXQtaXMtbmV3LTA=",
    "whsec_c2VjcmV0LW9mLTMyLWJ5dGVzLXRoYXQtaXMtb2xkLTE=",
];

/// Whether each of the secrets has signed a request.
pub(crate) fn check_signature(request: &Received) {
    let (id, at) = (
        request.header("webhook-id"),
        request.header("webhook-timestamp"),
    );
    let now = fanwire::base::now::Clock::start().now().unix_s();
    assert!(now - at.parse::<u64>().unwrap() < 60, "{at}");
    let signatures: Vec<_> = request.header("webhook-signature").split(' ').collect();
    assert_eq!(signatures.len(), SECRETS.len());
    for (secret, signature) in SECRETS.iter().zip(signatures) {
        let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap());
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key.unwrap());
        let signed = format!("{id}.{at}.{}", request.body);
        let signature = BASE64.decode(signature.strip_prefix("v1,").unwrap());
        hmac::verify(&key, signed.as_bytes(), &signature.unwrap()).unwrap();
    }
}

fn signed(builder: Builder) -> Builder {
    builder.set("webhook_secrets", SECRETS.to_vec())
}

fn user_of(body: &str) -> (Value, String) {
    let question: Value = serde_json::from_str(body).unwrap();
    let user = question["session"]["user"].as_str().unwrap_or("nobody");
    let user = user.to_owned();
    (question, user)
}

/// A client whose token of the request was accepted.
fn user(server: &Server, name: &str) -> Client {
    let mut client = Client::open(server.address, &format!("/ws?token={}", token(name, &[])));
    assert!(client.receive().contains("auth_success"));
    client
}

/// Sends a message, and expects an answer that contains a text.
fn ask(client: &mut Client, message: &Value, expected: &str) {
    client.send(&message.to_string());
    let answer = client.receive();
    assert!(answer.contains(expected), "{message}: {answer}");
}

fn ping(client: &mut Client) {
    ask(client, &json!({"type": "ping"}), "pong");
}

fn subscribe(channel: &str) -> Value {
    json!({"type": "subscribe", "data": {"channel": channel}})
}

/// How often a callback was asked with this outcome.
fn outcomes(server: &Server, callback: &str, outcome: &str) -> u64 {
    let labels = format!("callback=\"{callback}\",outcome=\"{outcome}\"");
    server.metric(&format!("fanwire_callbacks_total{{{labels}"))
}

/// The answer of a backend that cannot be relied on, by its name.
fn bad_answer(name: &str) -> Answer {
    match name {
        "hang" => Answer::Hang,
        "refuse" => Answer::Raw(b""),
        "500" => Answer::Http(500, r#"{"messages":[]}"#.into()),
        "404" => Answer::Http(404, r#"{"reason":"gone"}"#.into()),
        "redirect" => Answer::Raw(
            b"HTTP/1.1 302 x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        ),
        "garbage" => Answer::Raw(b"\x00\x01\x02 not http\r\n\r\n"),
        "html" => Answer::Http(200, "<html>".into()),
        "other" => Answer::Http(200, r#"{"allow":false}"#.into()),
        "inside" => Answer::Http(200, r#"{"messages":[{"type":"a","x":1}]}"#.into()),
        "long" => Answer::Http(200, format!(r#"{{"messages":[]}}{}"#, " ".repeat(1 << 20))),
        "cut" => Answer::Raw(b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\n{}"),
        name => panic!("no answer {name}"),
    }
}

const BAD_ANSWERS: [&str; 11] = [
    "hang", "refuse", "500", "404", "redirect", "garbage", "html", "other", "inside", "long", "cut",
];

#[test]
fn the_connect_callback_decides_who_may_come_in_and_what_they_receive() {
    let backend = Backend::new(|body| match &*user_of(body).1 {
        "ann" => Answer::Http(
            200,
            r#"{"subscribe":["news"],"messages":[{"type":"hello","data":{"n":1}}]}"#.into(),
        ),
        "bob" => Answer::Http(204, String::new()),
        "eve" => Answer::Http(403, r#"{"reason":"not you"}"#.into()),
        "mallory" => Answer::Http(401, String::new()),
        _ => Answer::Http(503, String::new()),
    });
    let server = Server::with(|builder| {
        signed(builder)
            .set("connect_callback_url", backend.url())
            .set("callback_timeout", "5s")
    });
    let mut ann = user(&server, "ann");
    assert_eq!(ann.receive(), r#"{"type":"hello","data":{"n":1}}"#);
    let mut bob = user(&server, "bob");
    ping(&mut bob);
    server.program().broadcast("news", "m", &json!(7)).unwrap();
    assert!(ann.receive().contains(r#""channel":"news","data":7"#));
    ping(&mut bob);
    for (name, text, code, reason) in [
        ("eve", "not you", 1008, "unauthorized"),
        ("mallory", "Permission denied", 1008, "unauthorized"),
        ("zoe", "Internal error", 1013, "auth_unanswered"),
    ] {
        let path = format!("/ws?token={}", token(name, &[]));
        let mut raw = Raw::open(server.address, &path, "");
        assert!(raw.read_text().contains("auth_success"));
        let error = format!(r#"{{"type":"error","data":{{"error":"{text}"}}}}"#);
        assert_eq!(raw.read_text(), error);
        assert_eq!(raw.read(), Frame::Close(code, reason.to_owned()));
    }
    for (outcome, count) in [("allowed", 2), ("denied", 2), ("failed", 1)] {
        assert_eq!(outcomes(&server, "connect", outcome), count, "{outcome}");
    }
    let received = backend.received();
    received.iter().for_each(check_signature);
    let question: Value = serde_json::from_str(&received[0].body).unwrap();
    let session = &question["session"];
    assert_eq!(
        [&session["user"], &session["dialect"], &session["address"]],
        ["ann", "gateway", "127.0.0.1"]
    );
    assert_eq!(received[0].header("content-type"), "application/json");
}

#[test]
fn the_subscribe_callback_decides_what_the_rules_allow_and_nobody_else_waits() {
    let backend = Backend::new(|body| {
        let (question, user) = user_of(body);
        match (&*user, question["channel"].as_str().unwrap()) {
            (_, "orders:hang") => Answer::Hang,
            ("ann", "orders:1") => Answer::Http(200, "{}".into()),
            (_, "orders:1") => Answer::Http(403, r#"{"reason":"not yours"}"#.into()),
            _ => Answer::Http(204, String::new()),
        }
    });
    let server = Server::with(|builder| {
        signed(builder)
            .set("subscribe_callback_url", backend.url())
            .set("subscribe_callback_channels", vec!["orders:*", "stream:*"])
            .set("callback_timeout", "1s")
            .set("access_rules", vec!["orders:secret role=chief"])
            .set("history", vec!["orders:* messages=9"])
            .set("presence", vec!["orders:* members"])
            .set("gateway.persistent_subscriptions_max", 5)
    });
    let mut ann = user(&server, "ann");
    let mut bob = user(&server, "bob");
    ask(&mut ann, &subscribe("news"), "subscribed");
    ask(&mut ann, &subscribe("orders:secret"), "Permission denied");
    assert_eq!(backend.count(), 0, "others are not asked about");
    let channel = json!({"channel": "orders:1"});
    let reads = ["history", "presence"].map(|kind| json!({"type": kind, "data": channel}));
    for read in &reads {
        ask(&mut ann, read, "Permission denied");
        ask(&mut bob, read, "Permission denied");
    }
    ask(
        &mut ann,
        &subscribe("orders:1"),
        r#"{"type":"subscribed","data":{"channel":"orders:1""#,
    );
    ask(&mut ann, &reads[0], r#""messages":[]"#);
    ask(&mut ann, &reads[1], r#""user_id":"ann""#);
    ask(&mut ann, &subscribe("orders:1"), "subscribed");
    assert_eq!(backend.count(), 1, "it is subscribed already");
    let denied = r#"{"type":"error","data":{"error":"not yours"}}"#;
    ask(&mut bob, &subscribe("orders:1"), denied);
    // While one hangs, what its session sends waits in order, and others do not.
    bob.send(&subscribe("orders:hang").to_string());
    bob.send(&subscribe("orders:2").to_string());
    ask(&mut ann, &subscribe("orders:3"), "orders:3");
    server
        .program()
        .broadcast("orders:1", "m", &json!(1))
        .unwrap();
    assert!(ann.receive().contains("orders:1"));
    assert!(bob.receive().contains("Internal error"));
    assert!(
        bob.receive().contains("orders:2"),
        "and he is not on orders:1"
    );
    // Another user of the same session has it decided again.
    let other = json!({"type": "auth", "data": {"token": token("bob", &[])}});
    ask(&mut ann, &other, "auth_success");
    server
        .program()
        .broadcast("orders:1", "m", &json!(2))
        .unwrap();
    ping(&mut ann);
    let persistent =
        json!({"type": "subscribe", "data": {"channel": "orders:5", "persistent": true}});
    ask(&mut ann, &persistent, r#""persistent":false"#);
    // The form and the options of another dialect stay.
    let path = format!("/analytics?token={}", token("cleo", &[]));
    let mut cleo = Raw::open(server.address, &path, "");
    assert!(cleo.read_text().contains("auth_success"));
    let subscription = json!({"type": "events", "filters": {"a": 1}, "subscription_id": "mine"});
    cleo.send(&json!({"type": "subscribe", "data": subscription}).to_string());
    let answer = cleo.read_text();
    assert!(answer.contains(r#""subscription_id":"mine""#), "{answer}");
    for item in [json!({"a": 2}), json!({"a": 1})] {
        server.program().broadcast_event(&item).unwrap();
    }
    let text = cleo.read_text();
    assert!(text.contains("mine") && text.contains(r#""a":1"#), "{text}");
    backend.received().iter().for_each(check_signature);
    assert_eq!(outcomes(&server, "subscribe", "denied"), 1);
    assert_eq!(outcomes(&server, "subscribe", "failed"), 1);
}

#[test]
fn a_message_callback_answers_the_client_that_asks_and_no_other() {
    let backend = Backend::new(|body| {
        let (question, user) = user_of(body);
        assert_eq!(question["type"], "price");
        let answer = json!({"type": "price", "data": {"of": question["data"]["of"], "for": user}});
        match question["data"]["of"].as_str().unwrap() {
            "nothing" => Answer::Http(204, String::new()),
            "twice" => Answer::Http(200, json!({"messages": [answer, answer]}).to_string()),
            "closed" => Answer::Http(403, r#"{"reason":"the market is closed"}"#.into()),
            _ => Answer::Http(200, json!({"messages": [answer]}).to_string()),
        }
    });
    let server = Server::with(|builder| {
        signed(builder).set("gateway.rate_limit", "off").set(
            "message_callbacks",
            vec![format!("price {}", backend.url())],
        )
    });
    let price = |of: &str| json!({"type": "price", "data": {"of": of}});
    let mut stranger = Client::open(server.address, "/ws");
    ask(&mut stranger, &price("tea"), "Authentication required");
    let (mut ann, mut bob) = (user(&server, "ann"), user(&server, "bob"));
    let mut of_assist = Raw::open(
        server.address,
        &format!("/ws/connect?token={}", token("cleo", &[])),
        "",
    );
    assert!(of_assist.read_text().contains("cleo"));
    ask(
        &mut ann,
        &price("tea"),
        r#"{"type":"price","data":{"for":"ann","of":"tea"}}"#,
    );
    ask(&mut bob, &price("tea"), r#"{"for":"bob","of":"tea"}"#);
    ann.send(&price("nothing").to_string());
    ping(&mut ann);
    ask(&mut ann, &price("twice"), "twice");
    assert!(ann.receive().contains("twice"));
    ask(
        &mut ann,
        &price("closed"),
        r#"{"error":"the market is closed"}"#,
    );
    ping(&mut bob);
    // In a dialect whose messages have no field for data, they are data themselves.
    of_assist.send(r#"{"type":"price","of":"tea"}"#);
    let answer = of_assist.read_text();
    assert!(answer.contains(r#""for":"cleo""#), "{answer}");
    // Many at once are answered one after the other.
    for number in 0..200 {
        bob.send(&price(&number.to_string()).to_string());
    }
    for number in 0..200 {
        let expected = format!(r#""of":"{number}""#);
        assert!(bob.receive().contains(&expected), "{number}");
    }
    backend.received().iter().for_each(check_signature);
}

#[test]
fn a_backend_that_hangs_refuses_or_lies_denies_with_a_clear_error_and_holds_nobody() {
    let backend = Backend::new(|body| {
        let (question, _) = user_of(body);
        match (&question["data"], &question["channel"]) {
            (Value::Null, Value::String(channel)) => bad_answer(channel),
            (data, _) => bad_answer(data.as_str().unwrap()),
        }
    });
    let server = Server::with(|builder| {
        let builder = builder.set("gateway.rate_limit", "off");
        let builder = builder.set("callback_timeout", "300ms");
        builder
            .set("subscribe_callback_url", backend.url())
            .set("message_callbacks", vec![format!("find {}", backend.url())])
    });
    let mut bystander = user(&server, "bob");
    let internal = r#"{"type":"error","data":{"error":"Internal error"}}"#;
    for name in BAD_ANSWERS {
        let mut ann = user(&server, "ann");
        ann.send(&json!({"type": "find", "data": name}).to_string());
        ann.send(&subscribe(name).to_string());
        ping(&mut bystander);
        assert_eq!(ann.receive(), internal, "find {name}");
        assert_eq!(ann.receive(), internal, "subscribe {name}");
        server.program().broadcast(name, "m", &json!(1)).unwrap();
        ping(&mut ann);
    }
    for callback in ["subscribe", "message"] {
        assert_eq!(
            outcomes(&server, callback, "failed"),
            BAD_ANSWERS.len() as u64,
            "{callback}"
        );
        assert_eq!(outcomes(&server, callback, "allowed"), 0, "{callback}");
    }
    // Nobody listens at all.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", free.local_addr().unwrap());
    drop(free);
    let server = Server::with(|builder| builder.set("connect_callback_url", url));
    let mut raw = Raw::open(
        server.address,
        &format!("/ws?token={}", token("ann", &[])),
        "",
    );
    assert!(raw.read_text().contains("auth_success"));
    assert_eq!(raw.read_text(), internal);
    assert_eq!(raw.read(), Frame::Close(1013, "auth_unanswered".to_owned()));
}

#[test]
fn a_handler_of_the_program_comes_before_the_connect_callback() {
    let backend = Backend::new(|_| Answer::Http(403, r#"{"reason":"by the callback"}"#.into()));
    let server = Server::with(|builder| {
        let builder = builder.set("connect_callback_url", backend.url());
        builder.on_connect_async(|session| async move {
            match session.user_id() {
                Some("ann") => session.send("seen", &1),
                _ => Err(fanwire::Denied::because("by the program")),
            }
        })
    });
    for (name, expected, count) in [("bob", "by the program", 0), ("ann", "by the callback", 1)] {
        let mut client = user(&server, name);
        let mut answer = client.receive();
        if name == "ann" {
            assert_eq!(answer, r#"{"type":"seen","data":1}"#);
            answer = client.receive();
        }
        assert!(answer.contains(expected), "{name}: {answer}");
        assert_eq!(backend.count(), count, "{name}");
    }
}

#[test]
fn a_type_that_something_else_answers_is_an_error_at_the_start() {
    let builder = || {
        let callbacks = vec!["find http://127.0.0.1:1/", "subscribe http://127.0.0.1:1/"];
        fanwire::Server::builder()
            .dev()
            .set("message_callbacks", callbacks)
    };
    let error = builder().configure().unwrap_err();
    assert!(
        matches!(&error, StartError::ReservedType { kind, .. } if kind == "subscribe"),
        "{error}"
    );
    let handled = builder().on_message("find", |_, _| Ok(())).configure();
    let error = handled.unwrap_err();
    assert!(
        matches!(&error, StartError::HandledType { kind } if kind == "find"),
        "{error}"
    );
}

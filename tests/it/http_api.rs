//! The HTTP API: publishing, what it shows, changes to sessions, keys.

use crate::harness::{Client, Raw, configured, http};
use async_tungstenite::tungstenite::Message;
use fanwire::{Builder, DialectId, Server, block_on};
use serde_json::{Value, json};
use std::net::SocketAddr;

const KEYS: &str = r#"
    admin_listen = "127.0.0.1:0"
    history = ["news messages=10"]
    presence = ["news members"]
    api_keys = [
        "backend=0123456789abcdef-b publish",
        "viewer=0123456789abcdef-v read",
        "operator=0123456789abcdef-o publish read admin",
        "acme=0123456789abcdef-a publish read admin tenant=acme",
    ]
"#;
const OPERATOR: &str = "X-API-Key: 0123456789abcdef-o";

fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &str,
    body: &Value,
) -> (u16, Value) {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let length = body.len();
    let headers = match headers {
        "" => String::new(),
        headers => format!("{headers}\r\n"),
    };
    let (status, text) = http(
        address,
        &format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ),
    );
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, value)
}

/// A server with keys, and the addresses of its listener for clients and of the admin listener.
fn with_keys(name: &str) -> (Server, SocketAddr, SocketAddr) {
    let server = configured(name, KEYS, Builder::dev);
    let (clients, admin) = addresses(&server);
    (server, clients, admin)
}

fn addresses(server: &Server) -> (SocketAddr, SocketAddr) {
    (server.addresses()[0], server.admin_address().unwrap())
}

fn get(admin: SocketAddr, target: &str) -> Value {
    let (status, value) = request(admin, "GET", target, OPERATOR, &Value::Null);
    assert_eq!(status, 200, "{target}: {value}");
    value
}

fn post(admin: SocketAddr, target: &str, body: &Value) -> Value {
    let (status, value) = request(admin, "POST", target, OPERATOR, body);
    assert_eq!(status, 200, "{target}: {value}");
    value
}

#[test]
fn publications_reach_subscribers_each_in_its_way() {
    let (server, clients, admin) = with_keys("api_publish");
    let mut one = Client::subscribed(clients, "news");
    let mut two = Client::subscribed(clients, "news");
    let publication = json!({"channel": "news", "type": "headline", "data": {"n": 1}});
    assert_eq!(
        post(admin, "/api/publish", &publication)["status"],
        "published"
    );
    for client in [&mut one, &mut two] {
        let text = client.receive();
        assert!(
            text.contains(r#""data":{"n":1}"#) && text.contains("headline"),
            "{text}"
        );
    }
    // All but one.
    let connections = get(admin, "/api/connections?channel=news");
    let first = connections["connections"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let excluding = json!({"channel": "news", "data": 2, "exclude_session": first});
    post(admin, "/api/publish", &excluding);
    let last = json!({"channels": ["news", "other"], "data": 3});
    assert_eq!(post(admin, "/api/broadcast", &last)["published"], 2);
    let received = [one.receive(), two.receive()];
    let seconds = received.iter().filter(|text| text.contains(r#""data":2"#));
    assert_eq!(seconds.count(), 1, "{received:?}");
    let third = received
        .iter()
        .position(|text| text.contains(r#""data":3"#));
    let other = [&mut two, &mut one][third.unwrap()].receive();
    assert!(other.contains(r#""data":3"#), "{other}");
    // A batch in its order; not at all, if something in it is wrong.
    let batch = |second: Value| {
        json!({"publications": [
            {"channel": "news", "data": "a"}, second, {"channel": "news", "data": "c"},
        ]})
    };
    for wrong in [
        json!({"channel": ""}),
        json!({"channel": "news", "user": "x", "role": "y"}),
        json!({"channel": "news", "all_tenants": true}),
    ] {
        let (status, answer) = request(admin, "POST", "/api/batch", OPERATOR, &batch(wrong));
        assert_eq!(status, 422, "{answer}");
        assert!(
            answer["error"]
                .as_str()
                .unwrap()
                .starts_with("publication 1: "),
            "{answer}"
        );
    }
    let right = batch(json!({"channel": "news", "data": "b"}));
    assert_eq!(post(admin, "/api/batch", &right)["published"], 3);
    for data in ["a", "b", "c"] {
        let text = one.receive();
        assert!(text.contains(&format!(r#""data":"{data}""#)), "{text}");
    }
    drop((one, two));
    block_on(server.stop());
}

#[test]
fn users_roles_tenants_rooms_and_sessions_are_reached() {
    let settings = format!("{KEYS}\njwt_secret = \"{}\"", crate::harness::SECRET);
    let server = configured("api_targets", &settings, |builder| {
        builder.dev().set("gateway.auth_required", true)
    });
    let (clients, admin) = addresses(&server);
    let grant = fanwire::TokenGrant::new("ann")
        .with_role("editor")
        .with_permission("billing");
    let token = fanwire::issue_token(
        &grant,
        crate::harness::SECRET,
        std::time::Duration::from_secs(60),
    );
    let mut ann = Client::open(clients, &format!("/ws?token={}", token.unwrap()));
    ann.send(r#"{"type":"ping"}"#);
    while !ann.receive().contains("pong") {}
    for target in ["users/ann", "roles/editor", "permissions/billing"] {
        post(
            admin,
            &format!("/api/{target}/messages"),
            &json!({"type": "note", "data": target}),
        );
        let text = ann.receive();
        assert!(text.contains(target), "{text}");
    }
    let found = get(admin, "/api/connections?user=ann&dialect=gateway");
    let session = &found["connections"][0];
    let id = session["id"].as_str().unwrap();
    assert_eq!(
        (
            &session["user_id"],
            found["connections"].as_array().unwrap().len()
        ),
        (&json!("ann"), 1)
    );
    assert_eq!(
        get(admin, &format!("/admin/connections/{id}"))["roles"],
        json!(["editor"])
    );
    post(
        admin,
        &format!("/api/connections/{id}/messages"),
        &json!({"type": "mail", "data": [1]}),
    );
    assert!(ann.receive().contains("mail"));
    // Subscribed by the operator, unsubscribed, and closed.
    post(
        admin,
        &format!("/admin/connections/{id}/subscriptions"),
        &json!({"channel": "a/b"}),
    );
    post(
        admin,
        "/api/publish",
        &json!({"channel": "a/b", "data": "in"}),
    );
    assert!(ann.receive().contains(r#""in""#));
    let unsubscribe = format!("/admin/connections/{id}/subscriptions/a%2Fb");
    assert_eq!(
        request(admin, "DELETE", &unsubscribe, OPERATOR, &Value::Null).0,
        200
    );
    post(
        admin,
        "/api/publish",
        &json!({"channel": "a/b", "data": "out"}),
    );
    let close = request(
        admin,
        "DELETE",
        "/admin/users/ann/connections",
        OPERATOR,
        &Value::Null,
    );
    assert_eq!(close.1["disconnected"], 1);
    let closed = ann.next();
    let code = |message: Option<Message>| match message {
        Some(Message::Close(Some(frame))) => u16::from(frame.code),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(closed), 1000);
    let gone = format!("/admin/connections/{id}");
    assert_eq!(request(admin, "GET", &gone, OPERATOR, &Value::Null).0, 404);
    assert_eq!(
        request(admin, "DELETE", &gone, OPERATOR, &Value::Null).0,
        404
    );
    block_on(server.stop());
}

#[test]
fn channels_are_listed_page_by_page_with_history_and_presence() {
    let (server, clients, admin) = with_keys("api_channels");
    let sessions: Vec<_> = (0..5)
        .map(|n| Client::subscribed(clients, &format!("c{n}")))
        .collect();
    let news = Client::subscribed(clients, "news");
    let mut names = Vec::new();
    let mut target = "/api/channels?limit=2".to_owned();
    loop {
        let page = get(admin, &target);
        let channels = page["channels"].as_array().unwrap();
        assert!(channels.len() <= 2 && page["is_complete"] == true);
        names.extend(
            channels
                .iter()
                .map(|it| it["name"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => target = format!("/api/channels?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["c0", "c1", "c2", "c3", "c4", "news"]);
    let of_prefix = get(admin, "/api/channels?prefix=c");
    assert_eq!(of_prefix["channels"].as_array().unwrap().len(), 5);
    // The same for sessions.
    let mut count = 0;
    let mut target = "/api/connections?limit=4".to_owned();
    loop {
        let page = get(admin, &target);
        count += page["connections"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => target = format!("/api/connections?limit=4&after={next}"),
            None => break,
        }
    }
    assert_eq!(count, 6);
    let positions = [0, 1, 2].map(|n| {
        let publication = json!({"channel": "news", "type": "t", "data": n});
        post(admin, "/api/publish", &publication)["position"].take()
    });
    let shown = get(admin, "/api/channels/news");
    assert_eq!(
        (&shown["subscribers"], &shown["presence"]["sessions"]),
        (&json!(1), &json!(1))
    );
    let first = get(admin, "/api/channels/news/history?limit=1");
    assert_eq!(first["publications"][0]["data"], 2);
    let all = get(admin, "/api/channels/news/history");
    let data: Vec<_> = all["publications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["data"])
        .collect();
    assert_eq!(data, [0, 1, 2]);
    assert_eq!(all["publications"][2]["position"], positions[2]);
    let after = all["publications"][0]["position"].as_str().unwrap();
    let rest = get(admin, &format!("/api/channels/news/history?after={after}"));
    assert_eq!(rest["publications"].as_array().unwrap().len(), 2);
    assert_eq!(
        request(
            admin,
            "DELETE",
            "/api/channels/news/history",
            OPERATOR,
            &Value::Null
        )
        .0,
        200
    );
    assert_eq!(
        get(admin, "/api/channels/news/history")["publications"],
        json!([])
    );
    assert_eq!(get(admin, "/api/channels/news/presence")["sessions"], 1);
    assert_eq!(
        request(
            admin,
            "GET",
            "/api/channels/c1/history",
            OPERATOR,
            &Value::Null
        )
        .0,
        404
    );
    assert_eq!(
        request(
            admin,
            "GET",
            "/api/channels/c1/presence",
            OPERATOR,
            &Value::Null
        )
        .0,
        404
    );
    drop((sessions, news));
    block_on(server.stop());
}

#[test]
fn a_key_opens_what_its_scopes_say_and_a_key_of_a_tenant_its_tenant() {
    let (server, _, admin) = with_keys("api_keys");
    let publish = ("POST", "/api/publish", json!({"channel": "news"}));
    let read = ("GET", "/api/channels", Value::Null);
    let disconnect = ("DELETE", "/admin/users/x/connections", Value::Null);
    for (key, expected) in [
        ("0123456789abcdef-b", [200, 403, 403]),
        ("0123456789abcdef-v", [403, 200, 403]),
        ("0123456789abcdef-o", [200, 200, 200]),
        ("0123456789abcdef-a", [200, 200, 200]),
        ("0123456789abcdef-x", [401, 401, 401]),
        ("0123456789abcdef-", [401, 401, 401]),
        ("-", [401, 401, 401]),
    ] {
        for (form, header) in [
            "X-API-Key:",
            "Authorization: Bearer",
            "Authorization: bearer",
        ]
        .iter()
        .enumerate()
        {
            let statuses = [&publish, &read, &disconnect].map(|(method, target, body)| {
                request(admin, method, target, &format!("{header} {key}"), body).0
            });
            assert_eq!(statuses, expected, "{key} {form}");
        }
    }
    let acme = "X-API-Key: 0123456789abcdef-a";
    for (body, status) in [
        (json!({"channel": "news", "tenant": "acme"}), 200),
        (json!({"channel": "news", "tenant": "other"}), 403),
        (json!({"channel": "all", "all_tenants": true}), 403),
        (json!({"channel": "tenant:other"}), 422),
        (json!({"channel": "tenant:other:news"}), 422),
    ] {
        let answer = request(admin, "POST", "/api/publish", acme, &body);
        assert_eq!(answer.0, status, "{body}: {}", answer.1);
    }
    for target in [
        "/api/channels/tenant:other:news",
        "/api/channels/tenant%3Aother%3Anews/history",
        "/api/channels/user:bob/history",
        "/api/channels/all/presence",
        "/api/channels/all",
    ] {
        assert_eq!(
            request(admin, "GET", target, acme, &Value::Null).0,
            403,
            "{target}"
        );
    }
    let delete = "/api/channels/tenant:other:news/history";
    assert_eq!(request(admin, "DELETE", delete, acme, &Value::Null).0, 403);
    let alert = json!({"alert_type": "a", "severity": "s", "message": "m"});
    assert_eq!(request(admin, "POST", "/api/alerts", acme, &alert).0, 403);
    let job = json!({"status": "running"});
    assert_eq!(request(admin, "POST", "/api/jobs/j", acme, &job).0, 403);
    assert_eq!(
        request(
            admin,
            "GET",
            "/api/channels?tenant=other",
            acme,
            &Value::Null
        )
        .0,
        403
    );
    block_on(server.stop());
}

#[test]
fn without_keys_only_callers_on_the_host_of_a_development_server_are_let_in() {
    let server = configured("api_dev", "admin_listen = \"127.0.0.1:0\"", Builder::dev);
    let (clients, admin) = addresses(&server);
    for address in [clients, admin] {
        assert_eq!(
            request(address, "GET", "/api/channels", "", &Value::Null).0,
            200
        );
    }
    // A page of another site, by its own name or by one that leads here.
    let head = |host: &str, origin: &str| {
        let text = format!(
            "POST /api/publish HTTP/1.1\r\nHost: {host}\r\n{origin}Content-Length: 18\r\n\r\n{{\"channel\":\"news\"}}"
        );
        http(admin, &text).0
    };
    assert_eq!(head("localhost:8764", ""), 200);
    assert_eq!(head("127.0.0.1", "Origin: http://127.0.0.1\r\n"), 200);
    assert_eq!(head("[::1]:8764", ""), 200);
    assert_eq!(
        head("localhost:8764", "Origin: https://evil.example\r\n"),
        403
    );
    assert_eq!(head("localhost:8764", "Origin: null\r\n"), 403);
    assert_eq!(head("evil.example", ""), 401);
    block_on(server.stop());
    let settings = format!(
        "admin_listen = \"127.0.0.1:0\"\njwt_secret = \"{}\"",
        crate::harness::SECRET
    );
    let server = configured("api_closed", &settings, |builder| builder);
    let (clients, admin) = addresses(&server);
    assert_eq!(
        request(admin, "GET", "/api/channels", "", &Value::Null).0,
        401
    );
    assert_eq!(
        request(admin, "POST", "/notify", "", &json!({"message": "m"})).0,
        401
    );
    assert_eq!(
        request(admin, "GET", "/metrics/prometheus", "", &Value::Null).0,
        200
    );
    // The port of clients answers health only.
    for (target, status) in [
        ("/health", 200),
        ("/health/live", 200),
        ("/metrics", 404),
        ("/api/channels", 404),
        ("/docs", 404),
    ] {
        assert_eq!(
            request(clients, "GET", target, "", &Value::Null).0,
            status,
            "{target}"
        );
    }
    assert_eq!(
        request(clients, "POST", "/notify", "", &json!({"message": "m"})).0,
        404
    );
    block_on(server.stop());
}

#[test]
fn a_repeated_request_is_carried_out_once() {
    let (server, clients, admin) = with_keys("api_idempotency");
    let mut session = Client::subscribed(clients, "news");
    let repeat = format!("{OPERATOR}\r\nIdempotency-Key: 7f3a");
    let bearer = repeat.replace("X-API-Key: ", "Authorization: Bearer ");
    assert_ne!(bearer, repeat);
    let path = "/api/publish";
    for (headers, path) in [
        (&repeat, path),
        (&repeat, path),
        (&bearer, path),
        (&repeat, "/%61pi/publish"),
    ] {
        let answer = request(
            admin,
            "POST",
            path,
            headers,
            &json!({"channel": "news", "data": "once"}),
        );
        assert_eq!((answer.0, &answer.1["status"]), (200, &json!("published")));
    }
    let other = json!({"channel": "news", "data": "another"});
    assert_eq!(
        request(admin, "POST", "/api/publish", &repeat, &other).0,
        422
    );
    // Another caller's key is another key.
    let backend = "X-API-Key: 0123456789abcdef-b\r\nIdempotency-Key: 7f3a";
    assert_eq!(
        request(admin, "POST", "/api/publish", backend, &other).0,
        200
    );
    assert!(session.receive().contains("once"));
    assert!(session.receive().contains("another"));
    drop(session);
    block_on(server.stop());
}

#[test]
fn what_is_wrong_gets_an_error_and_disturbs_nobody() {
    let (server, clients, admin) = with_keys("api_wrong");
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let deep: Value = serde_json::from_str(&format!("\"{deep}\"")).unwrap();
    for (method, target, body, status) in [
        ("POST", "/api/publish", json!({}), 422),
        ("POST", "/api/publish", json!([]), 422),
        ("POST", "/api/publish", json!({"channel": 5}), 422),
        (
            "POST",
            "/api/publish",
            json!({"channel": "news", "chanel": 5}),
            422,
        ),
        (
            "POST",
            "/api/publish",
            json!({"channel": "x".repeat(300)}),
            422,
        ),
        ("POST", "/api/publish", json!({"channel": "a\u{0}b"}), 422),
        (
            "POST",
            "/api/publish",
            json!({"channel": "news", "exclude_session": "x"}),
            422,
        ),
        (
            "POST",
            "/api/batch",
            json!({"publications": vec![json!({"channel": "a"}); 1_001]}),
            422,
        ),
        (
            "POST",
            "/api/batch",
            json!({"publications": [["news", "message", 1]]}),
            422,
        ),
        (
            "POST",
            "/api/publish",
            json!({"channel": "news", "data": "x".repeat(1 << 20)}),
            413,
        ),
        ("POST", "/api/alerts", json!({"alert_type": "a"}), 422),
        ("GET", "/api/channels?limit=0", Value::Null, 422),
        ("GET", "/api/channels?limit=x", Value::Null, 422),
        ("GET", "/api/channels?lim=1", Value::Null, 422),
        ("GET", "/api/channels/%ff", Value::Null, 404),
        ("GET", "/api/connections?after=x", Value::Null, 422),
        ("GET", "/api/connections?address=x", Value::Null, 422),
        (
            "GET",
            "/admin/connections/ffffffffffffffff",
            Value::Null,
            404,
        ),
        ("GET", "/admin/connections/x", Value::Null, 404),
        ("PUT", "/api/publish", json!({}), 405),
        ("GET", "/api/publish", Value::Null, 405),
        ("GET", "/api", Value::Null, 404),
        ("GET", "//api/channels", Value::Null, 404),
    ] {
        let (got, value) = request(admin, method, target, OPERATOR, &body);
        assert_eq!(got, status, "{method} {target}: {value}");
        assert!(value["error"].is_string(), "{method} {target}: {value}");
    }
    let text = format!(r#"{{"channel":"news","data":{}}}"#, deep.as_str().unwrap());
    let length = text.len();
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: t\r\n{OPERATOR}\r\nContent-Length: {length}\r\n\r\n{text}"
    );
    assert_eq!(http(admin, &head).0, 400);
    let mut session = Client::subscribed(clients, "news");
    post(
        admin,
        "/api/publish",
        &json!({"channel": "news", "data": "still here"}),
    );
    assert!(session.receive().contains("still here"));
    drop(session);
    block_on(server.stop());
}

#[test]
fn a_page_of_an_allowed_origin_may_call_and_every_answer_is_guarded() {
    let settings = format!("cors_origins = [\"https://app.example\"]\n{KEYS}");
    let server = configured("api_cors", &settings, Builder::dev);
    let (_, admin) = addresses(&server);
    let answer = |text: &str| {
        let mut raw = Raw::connect(admin);
        raw.write(text.as_bytes());
        raw.read_http()
    };
    let preflight = answer(
        "OPTIONS /api/publish HTTP/1.1\r\nHost: t\r\nOrigin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n\r\n",
    );
    assert!(preflight.starts_with("HTTP/1.1 204"), "{preflight}");
    for line in [
        "access-control-allow-origin: https://app.example",
        "access-control-allow-methods: POST",
        "vary: Origin",
    ] {
        assert!(preflight.contains(line), "{preflight}");
    }
    let foreign = answer("GET /health HTTP/1.1\r\nHost: t\r\nOrigin: https://evil.example\r\n\r\n");
    assert!(
        foreign.starts_with("HTTP/1.1 403") && !foreign.contains("allow-origin"),
        "{foreign}"
    );
    for target in [
        "/health",
        "/nothing",
        "/docs",
        "/openapi.json",
        "/docs/page.js",
    ] {
        let answer = answer(&format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n"));
        for line in [
            "x-content-type-options: nosniff",
            "x-frame-options: DENY",
            "content-security-policy: default-src 'none'",
        ] {
            assert!(answer.contains(line), "{answer}");
        }
    }
    block_on(server.stop());
}

#[test]
fn jobs_documents_and_alerts_reach_clients_of_assist() {
    let (server, clients, admin) = with_keys("api_assist");
    let mut assist = Client::open(clients, "/ws/connect");
    while !assist.receive().contains("connected") {}
    post(
        admin,
        "/api/alerts",
        &json!({"alert_type": "disk", "severity": "high", "message": "full"}),
    );
    let mut text = assist.receive();
    while !text.contains("system_alert") {
        text = assist.receive();
    }
    assert!(text.contains(r#""severity":"high""#), "{text}");
    assert_eq!(
        post(
            admin,
            "/api/jobs/j1",
            &json!({"status": "running", "progress": 40})
        )["status"],
        "published"
    );
    let document = json!({"user_id": "ann", "filename": "a.pdf", "success": true});
    assert_eq!(
        post(admin, "/api/documents/d1", &document)["status"],
        "published"
    );
    drop(assist);
    block_on(server.stop());
}

#[test]
fn a_notification_reaches_the_dialect_of_its_listener_unless_it_names_another() {
    let address = ([127, 0, 0, 1], 0).into();
    let listeners = [DialectId::Notifications, DialectId::Gateway];
    let server = Server::builder()
        .dev()
        .listeners(listeners.map(|dialect| fanwire::Listener::of(dialect, address)))
        .set("admin_listen", "127.0.0.1:0")
        .set("notify_api_key", "a key of this test")
        .start()
        .unwrap();
    let [notifications, gateway] = [0, 1].map(|index| server.addresses()[index]);
    let admin = server.admin_address().unwrap();
    let mut clients = [
        Client::open(notifications, "/ws"),
        Client::open(gateway, "/ws"),
    ];
    for client in &mut clients {
        client.send(r#"{"type":"ping"}"#);
        while !client.receive().contains("pong") {}
    }
    let key = "X-API-Key: a key of this test";
    let notify = |address, body: Value| {
        let (status, answer) = request(address, "POST", "/notify", key, &body);
        assert_eq!(status, 200, "{answer}");
        answer["clients"].as_u64().unwrap()
    };
    assert_eq!(notify(notifications, json!({"message": "own"})), 1);
    assert_eq!(notify(admin, json!({"message": "everyone"})), 2);
    assert_eq!(
        notify(admin, json!({"message": "named", "dialect": "gateway"})),
        1
    );
    assert_eq!(
        notify(notifications, json!({"message": "last", "dialect": "all"})),
        2
    );
    let expected = [["own", "everyone", "last"], ["everyone", "named", "last"]];
    for (client, expected) in clients.iter_mut().zip(expected) {
        for message in expected {
            let text = client.receive();
            assert!(text.contains(message), "{text}");
        }
    }
    drop(clients);
    block_on(server.stop());
}

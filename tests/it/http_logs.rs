//! Does the log say who changed what over HTTP, and by which id other programs know a request?

use crate::harness::{Raw, upgrade_request};
use crate::logs::Logging;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

const KEYS: &str = r#"
    api_keys = [
        "operator=0123456789abcdef admin publish",
        "acme=123456789abcdef0 admin tenant=acme",
        "reader=23456789abcdef01 read",
    ]
"#;
const OPERATOR: &str = "X-API-Key: 0123456789abcdef\r\n";

/// The whole answer to a request.
fn answer(address: SocketAddr, line: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

fn request_id(answer: &str) -> &str {
    let mut lines = answer.lines();
    lines
        .find_map(|line| line.strip_prefix("x-request-id: "))
        .unwrap_or_else(|| panic!("no id in {answer}"))
}

#[test]
fn every_answer_over_http_has_the_correlation_id_of_its_request_or_a_new_one() {
    let mut server = Logging::json("correlation", "debug", KEYS);
    let address = server.process.address;
    let id_of = |headers: &str| request_id(&answer(address, "GET /health", headers, "")).to_owned();
    assert_eq!(id_of("X-Request-Id: r:1\r\nX-Correlation-Id: c\r\n"), "r:1");
    assert_eq!(id_of("X-Correlation-Id: c\r\n"), "c");
    let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    assert_eq!(id_of(trace), "4bf92f3577b34da6a3ce929d0e0e4736");
    let (one, other) = (id_of(""), id_of("X-Request-Id: a b\r\n"));
    assert_ne!(one, other);
    for id in [&one, &other] {
        assert!(
            id.len() == 16 && id.bytes().all(|it| it.is_ascii_hexdigit()),
            "{id}"
        );
    }
    // Rejections have it in their lines, and no text of the caller.
    let rejected = answer(
        address,
        "GET /api/channels?token=hidden",
        "X-Request-Id: r:2\r\nX-API-Key: hidden\r\n",
        "",
    );
    assert!(rejected.starts_with("HTTP/1.1 401"), "{rejected}");
    let by = |id: &'static str| ("correlation_id", id);
    let line = server.await_line("fanwire::rejection", "request rejected", by("r:2"));
    assert_eq!(line["status"], 401);
    assert_eq!(line["reason"], "the key is wrong");
    assert_eq!(line["route"], "api/channels");
    assert!(
        line["client"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{line}"
    );
    let mut lost = Raw::connect(address);
    lost.write(upgrade_request("/nowhere?token=hidden", "X-Request-Id: r:3\r\n").as_bytes());
    assert!(lost.read_head().starts_with("HTTP/1.1 404"));
    server.await_line("fanwire::rejection", "connection rejected", by("r:3"));
    server.stop();
    assert!(!server.text().contains("hidden"), "{}", server.text());
}

/// The fields of a line that say who did what.
fn who_and_what(line: &Value) -> [String; 6] {
    ["key", "key_tenant", "method", "route", "target", "tenant"]
        .map(|field| line[field].as_str().unwrap_or("-").to_owned())
}

#[test]
fn changes_over_http_are_in_the_audit_log_with_who_and_what() {
    let settings = format!("{KEYS}log_client_events = false\nhistory = [\"* messages=10\"]\n");
    let mut server = Logging::json("audit", "debug", &settings);
    let address = server.process.address;
    let session = Raw::open(address, "/ws", "");
    let list = answer(
        address,
        "GET /api/connections",
        "X-API-Key: 23456789abcdef01\r\n",
        "",
    );
    let at = list.find(r#""id":""#).unwrap() + 6;
    let id = &list[at..at + 16];
    let acme = "X-API-Key: 123456789abcdef0\r\n";
    let reader = "X-API-Key: 23456789abcdef01\r\n";
    let subscriptions = format!("POST /admin/connections/{id}/subscriptions");
    let subscription = r#"{"channel": "news"}"#;
    let unsubscribe = format!("DELETE /admin/connections/{id}/subscriptions/news");
    let disconnect = format!("DELETE /admin/connections/{id}?reason=hidden");
    let of_session = "admin/connections/{}/subscriptions";
    for (correlation_id, key, line, body, message, expected) in [
        (
            "a1",
            OPERATOR,
            &*subscriptions,
            subscription,
            "changed",
            [
                "operator",
                "-",
                "POST",
                of_session,
                &format!("{id}/news"),
                "-",
            ],
        ),
        (
            "a2",
            OPERATOR,
            &*unsubscribe,
            "",
            "changed",
            [
                "operator",
                "-",
                "DELETE",
                "admin/connections/{}/subscriptions/{}",
                &format!("{id}/news"),
                "-",
            ],
        ),
        (
            "a3",
            OPERATOR,
            "DELETE /api/channels/news/history",
            "",
            "changed",
            [
                "operator",
                "-",
                "DELETE",
                "api/channels/{}/history",
                "news",
                "-",
            ],
        ),
        (
            "a4",
            acme,
            "DELETE /admin/users/ann/history",
            "",
            "changed",
            [
                "acme",
                "acme",
                "DELETE",
                "admin/users/{}/history",
                "ann",
                "acme",
            ],
        ),
        (
            "a5",
            OPERATOR,
            "DELETE /admin/users/a%E2%80%AEb/connections?tenant=t",
            "",
            "changed",
            [
                "operator",
                "-",
                "DELETE",
                "admin/users/{}/connections",
                "a\\u{202e}b",
                "t",
            ],
        ),
        (
            "a6",
            acme,
            &*disconnect,
            "",
            "not changed",
            ["acme", "acme", "DELETE", "admin/connections/{}", id, "-"],
        ),
        (
            "a7",
            OPERATOR,
            &*disconnect,
            "",
            "changed",
            ["operator", "-", "DELETE", "admin/connections/{}", id, "-"],
        ),
        (
            "a8",
            OPERATOR,
            "POST /api/publish",
            subscription,
            "published",
            ["operator", "-", "POST", "api/publish", "", "-"],
        ),
    ] {
        let headers = format!("{key}X-Request-Id: {correlation_id}\r\n");
        answer(address, line, &headers, body);
        let by = ("correlation_id", correlation_id);
        let line = server.await_line("fanwire::audit", message, by);
        assert_eq!(who_and_what(&line), expected, "{correlation_id}");
        assert!(
            line["client"].as_str().unwrap().starts_with("127.0.0.1:"),
            "{line}"
        );
    }
    // Who fails to change something, however often, hides no change.
    let unknown = "DELETE /admin/connections/0000000000000000";
    for _ in 0..1_500 {
        answer(address, unknown, acme, "");
    }
    let another = format!("{OPERATOR}X-Request-Id: a9\r\n");
    answer(address, "DELETE /api/channels/news/history", &another, "");
    server.await_line("fanwire::audit", "changed", ("correlation_id", "a9"));
    // Who may not change anything is none who does, however often.
    for (key, status) in [(reader, 403), ("X-API-Key: wrong\r\n", 401)] {
        let answer = answer(address, &disconnect, key, "");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    drop(session);
    server.stop();
    let text = server.text();
    assert_eq!(server.lines("fanwire::audit", "changed").len(), 7, "{text}");
    let failures = server.lines("fanwire::audit", "not changed").len();
    assert!((1..1_400).contains(&failures), "{failures}");
    for hidden in [
        "hidden",
        "0123456789abcdef",
        "123456789abcdef0",
        "23456789abcdef01",
    ] {
        assert!(!text.contains(hidden), "{hidden} in\n{text}");
    }
}

#[test]
fn changes_that_are_too_many_to_log_are_counted() {
    let settings = format!("{KEYS}log_client_events_per_second = 1\n");
    let mut server = Logging::json("audit-flood", "info", &settings);
    let address = server.process.address;
    // Of those without a right key none counts among the changes.
    for _ in 0..30 {
        answer(
            address,
            "DELETE /admin/users/ann/connections",
            "X-API-Key: wrong\r\n",
            "",
        );
    }
    for _ in 0..30 {
        answer(address, "DELETE /admin/users/ann/connections", OPERATOR, "");
    }
    let metrics = answer(address, "GET /metrics/prometheus", "", "");
    let series = "fanwire_log_lines_suppressed_total{event=\"admin_change\",shard=\"0\"} ";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(series));
    let counted: usize = counted.unwrap().parse().unwrap();
    server.stop();
    let written = server.lines("fanwire::audit", "changed").len();
    assert_eq!(counted + written, 30, "{}", server.text());
    assert!(written >= 10, "{written}");
}

//! The HTTP API on the same port.

use crate::harness::{Client, Frame, Raw, Server, http, http_get, upgrade_request};
use std::time::Duration;

#[test]
fn health_and_metrics_answer_beside_websockets() {
    let server = Server::dev();
    let _session = Client::subscribed(server.address, "news");
    let (status, body) = http_get(server.address, "/health");
    assert_eq!(status, 200);
    assert!(
        body.contains(r#""status":"healthy""#) && body.contains(r#""sessions":1"#),
        "{body}"
    );
    let (status, body) = http_get(server.address, "/metrics/prometheus");
    assert_eq!(status, 200);
    assert!(
        body.contains("# TYPE fanwire_deliveries_total counter\n"),
        "{body}"
    );
    let request = "GET /metrics/prometheus HTTP/1.1\r\nHost: t\r\n\
        Accept: application/openmetrics-text\r\n\r\n";
    assert!(http(server.address, request).1.ends_with("# EOF\n"));
    assert_eq!(http_get(server.address, "/elsewhere").0, 404);
    server.await_metric("fanwire_http_requests_total{status=\"2xx\"", 3);
    server.await_metric("fanwire_http_requests_total{status=\"4xx\"", 1);
    let post = "POST /health HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(http(server.address, post).0, 405);
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let server = Server::dev();
    let mut raw = Raw::connect(server.address);
    for byte in b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n" {
        raw.write(&[*byte]);
    }
    let head = raw.read_head();
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("connection: close"),
        "{head}"
    );
}

#[test]
fn a_hundred_requests_in_one_packet_get_a_hundred_answers() {
    let server = Server::dev();
    let requests = "GET /health HTTP/1.1\r\nHost: t\r\n\r\n".repeat(100);
    let (status, body) = http(server.address, &requests);
    assert_eq!((status, body.matches("uptime_seconds").count()), (200, 100));
}

#[test]
fn a_connection_carries_requests_and_then_a_session() {
    let server = Server::dev();
    let health = "GET /health HTTP/1.1\r\nHost: t\r\n\r\n";
    let upgrade = upgrade_request("/ws", "");
    // Each in a packet of its own, and all in one.
    for packets in [
        vec![health.to_owned(), health.to_owned(), upgrade.clone()],
        vec![format!("{health}{health}{upgrade}")],
    ] {
        let mut raw = Raw::connect(server.address);
        let count = packets.len();
        for packet in packets {
            raw.write(packet.as_bytes());
            if count > 1 && packet == health {
                raw.read_http();
            }
        }
        if count == 1 {
            for _ in 0..2 {
                let answer = raw.read_http();
                assert!(answer.contains("uptime_seconds"), "{answer}");
            }
        }
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw.send(r#"{"type":"ping"}"#);
        assert!(matches!(raw.read(), Frame::Text(text) if text.contains("pong")));
    }
}

#[test]
fn a_client_that_reads_no_answers_is_answered_no_more() {
    let server = Server::dev();
    let mut raw = Raw::connect(server.address);
    // More than the sockets take.
    let requests = "GET /metrics/prometheus HTTP/1.1\r\nHost: t\r\n\r\n".repeat(1_000_000);
    let is_held_up = raw.write_for(requests.as_bytes(), Duration::from_secs(2));
    assert!(is_held_up, "everything was taken");
    let waiting = server.metric("fanwire_waiting_bytes");
    assert!(waiting < 4 << 20, "{waiting}");
    // Others are served meanwhile, and its answers are whole when it reads.
    assert_eq!(http_get(server.address, "/health").0, 200);
    for _ in 0..200 {
        assert!(raw.read_http().contains("fanwire_deliveries_total"));
    }
}

#[test]
fn requests_that_can_be_read_in_two_ways_end_the_connection() {
    let server = Server::dev();
    let smuggled = "GET /health HTTP/1.1\r\nHost: t\r\n\r\n";
    let both = format!(
        "POST /notify HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\
        Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
    );
    let (status, text) = http(server.address, &both);
    assert_eq!((status, text.matches("uptime").count()), (400, 0), "{text}");
    // The same behind a request that is as it should be.
    let (status, text) = http(server.address, &format!("{smuggled}{both}"));
    assert_eq!(status, 200);
    assert_eq!(text.matches("uptime_seconds").count(), 1, "{text}");
    for head in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, gzip",
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding : chunked",
    ] {
        for before in ["", smuggled] {
            let bad = format!(
                "{before}POST /notify HTTP/1.1\r\nHost: t\r\n{head}\r\n\r\nhello{smuggled}"
            );
            let (_, text) = http(server.address, &bad);
            let answers = text.matches("uptime_seconds").count();
            assert_eq!(answers, usize::from(!before.is_empty()), "{head}: {text}");
        }
    }
    for host in ["", "Host: a\r\nHost: b\r\n", "Host: a b\r\n"] {
        let second = format!("{smuggled}GET /health HTTP/1.1\r\n{host}\r\n{smuggled}");
        let (_, text) = http(server.address, &second);
        assert_eq!(text.matches("uptime_seconds").count(), 1, "{host}: {text}");
        assert!(text.contains("400 Bad Request"), "{text}");
    }
}

#[test]
fn a_peer_that_half_closes_after_its_request_still_gets_the_answer() {
    let server = Server::dev();
    let mut raw = Raw::connect(server.address);
    raw.write(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n");
    raw.shut_down_write();
    assert!(raw.read_head().starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn a_draining_server_is_not_healthy() {
    let server = Server::dev();
    let mut raw = Raw::connect(server.address);
    // Half a request keeps the connection; the drain closes it.
    raw.write(b"GET /hea");
    server.drain();
    assert_eq!(raw.read(), crate::harness::Frame::End);
}

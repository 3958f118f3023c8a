//! The HTTP API on the same port.

use crate::harness::{Client, Raw, Server, http, http_get};

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
    let post = "POST /health HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(http(server.address, post).0, 405);
}

#[test]
fn a_request_may_come_byte_by_byte_and_its_answer_ends_the_connection() {
    let server = Server::dev();
    let mut raw = Raw::connect(server.address);
    for byte in b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n" {
        raw.write(&[*byte]);
    }
    let head = raw.read_head();
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("connection: close"),
        "{head}"
    );
}

#[test]
fn a_hundred_requests_in_one_packet_get_one_answer_and_an_end() {
    let server = Server::dev();
    let requests = "GET /health HTTP/1.1\r\nHost: t\r\n\r\n".repeat(100);
    let (status, body) = http(server.address, &requests);
    assert_eq!((status, body.matches("uptime_seconds").count()), (200, 1));
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

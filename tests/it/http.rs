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
    assert!(body.ends_with("# EOF\n"), "{body}");
    assert_eq!(http_get(server.address, "/elsewhere").0, 404);
    let post = "POST /health HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(http(server.address, post).0, 405);
}

#[test]
fn a_connection_carries_many_requests_even_in_one_packet_or_in_bytes() {
    let server = Server::dev();
    let mut raw = Raw::connect(server.address);
    let request = b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n";
    raw.write(&[&request[..], request, request].concat());
    for byte in request {
        raw.write(&[*byte]);
    }
    for _ in 0..4 {
        assert!(raw.read_head().starts_with("HTTP/1.1 200 OK\r\n"));
        raw.read_json();
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

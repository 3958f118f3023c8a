//! Heads of requests as hyper has read them, where the shard has to decide.

use crate::http::is_host;
use hyper::header::{HOST, HeaderMap, UPGRADE};
use hyper::{Request, Version};

/// Whether the request asks for WebSocket.
pub(super) fn asks_for_websocket<B>(request: &Request<B>) -> bool {
    let values = request.headers().get_all(UPGRADE).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| {
            token
                .trim_matches([' ', '\t'])
                .eq_ignore_ascii_case("websocket")
        })
}

/// The head of a request again, as the shard reads it.
pub(super) fn to_bytes<B>(request: &Request<B>) -> Vec<u8> {
    let version = match request.version() {
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let mut bytes = format!("{} {} {version}\r\n", request.method(), request.uri()).into_bytes();
    for (name, value) in request.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Whether a request has the `Host` that its version requires (RFC 9112 3.2), as the shard checks it in
/// the first request of a connection.
pub(super) fn has_valid_host<B>(request: &Request<B>) -> bool {
    let headers: &HeaderMap = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_host),
        (None, None) => request.version() == Version::HTTP_10,
        _ => false,
    }
}

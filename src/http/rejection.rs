//! Answers to requests that are rejected before the HTTP API or a dialect handles them.

use crate::base::counters::RejectReason;

/// The whole answer for a rejected request; the connection is closed after it.
#[must_use]
pub fn answer(reason: RejectReason) -> String {
    let (status, extra, text) = match reason {
        RejectReason::HeadTooLarge => (
            "431 Request Header Fields Too Large",
            "",
            "The request head is over 16 KiB, has over 100 headers or a target over 8 KiB.",
        ),
        RejectReason::HeadTimeout => (
            "408 Request Timeout",
            "",
            "The request head did not arrive in time.",
        ),
        RejectReason::UnknownPath => (
            "404 Not Found",
            "",
            "No dialect is served on this path. docs/PROTOCOLS.md lists the paths.",
        ),
        RejectReason::Version => (
            "426 Upgrade Required",
            "Sec-WebSocket-Version: 13\r\n",
            "Only version 13 of the WebSocket protocol (RFC 6455) is supported.",
        ),
        RejectReason::Origin => ("403 Forbidden", "", "This Origin is not allowed."),
        RejectReason::Capacity => (
            "503 Service Unavailable",
            "Retry-After: 5\r\n",
            "The server is at its connection limit.",
        ),
        RejectReason::HandshakesPerIpMax => (
            "429 Too Many Requests",
            "Retry-After: 1\r\n",
            "Too many handshakes from this address.",
        ),
        RejectReason::HandshakesPerShardMax => (
            "503 Service Unavailable",
            "Retry-After: 1\r\n",
            "Too many handshakes at once.",
        ),
        RejectReason::ProxyHeader => (
            "400 Bad Request",
            "",
            "The proxy sent an invalid header of the PROXY protocol, or one of over 4 KiB.",
        ),
        RejectReason::ProxyHeaderMissing => (
            "400 Bad Request",
            "",
            "Connections must come from a trusted proxy and begin with a header of the PROXY protocol.",
        ),
        RejectReason::ProxyHeaderUntrusted => (
            "400 Bad Request",
            "",
            "A header of the PROXY protocol counts only from a trusted proxy, and where proxy_protocol \
             is on.",
        ),
        RejectReason::ForwardedHeader => (
            "400 Bad Request",
            "",
            "The proxy named the client by something that is no address, or named over 16 proxies.",
        ),
        RejectReason::Draining => (
            "503 Service Unavailable",
            "Retry-After: 5\r\n",
            "The server is shutting down.",
        ),
        _ => (
            "400 Bad Request",
            "",
            "The request is not HTTP/1.1, not a valid WebSocket upgrade (RFC 6455, 4.1), names a \
             tenant of over 256 bytes, or has no valid Host (RFC 9112, 3.2).",
        ),
    };
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\n{extra}Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{text}\n"
    )
}

/// The status of that answer.
#[must_use]
pub fn status(reason: RejectReason) -> u16 {
    let answer = answer(reason);
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    status.expect("every answer begins with its status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsupported_version_is_told_the_right_one() {
        // RFC 6455 4.4.
        let answer = answer(RejectReason::Version);
        assert!(answer.starts_with("HTTP/1.1 426 "));
        assert!(answer.contains("\r\nSec-WebSocket-Version: 13\r\n"));
    }
}

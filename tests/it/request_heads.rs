//! Heads of requests, and the status that answers them: RFC 9112, RFC 9110 and RFC 6455 4.2.

use crate::harness::{Raw, Server};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

/// What is tried, the head without its empty line, and the status; 101 is an upgrade.
type Row = (&'static str, String, u16);

/// A WebSocket handshake in which one line is another, or several.
fn upgrade(line: &str, instead: &str) -> String {
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{KEY}\r\n\
         Sec-WebSocket-Version: 13\r\n"
    );
    assert!(head.contains(line), "{line}");
    head.replace(line, instead)
}

fn get(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{lines}")
}

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    let connection = "Connection: Upgrade\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let host = "Host: h\r\n";
    let row = |name, head, status| (name, head, status);
    let mut rows = vec![
        row("as it should be", upgrade("", ""), 101),
        // RFC 6455 4.2.1.
        row("no host", upgrade(host, ""), 400),
        row("two hosts", upgrade(host, "Host: h\r\nHost: h\r\n"), 400),
        row("a host that is none", upgrade("Host: h", "Host: a/b"), 400),
        row("POST", upgrade("GET", "POST"), 400),
        row("HTTP/1.0", upgrade("HTTP/1.1", "HTTP/1.0"), 400),
        row("in capitals", upgrade("Upgrade: websocket", "UPGRADE: WEBSOCKET"), 101),
        row("other protocols besides", upgrade("Upgrade: websocket", "Upgrade: h2c, websocket"), 101),
        row("in a list", upgrade(connection, "Connection: keep-alive,upgrade\r\n"), 101),
        row("in two lines", upgrade(connection, "Connection: keep-alive\r\nConnection: Upgrade\r\n"), 101),
        row("no `Connection: upgrade`", upgrade(connection, "Connection: close\r\n"), 400),
        row("no key", upgrade(&format!("{KEY}\r\n"), ""), 400),
        row("two keys", upgrade(&format!("{KEY}\r\n"), &format!("{KEY}\r\n{KEY}\r\n")), 400),
        row("a key of 15 bytes", upgrade("dGhlIHNhbXBsZSBub25jZQ==", "AAAAAAAAAAAAAAAAAAAA"), 400),
        row("a key of 17 bytes", upgrade("dGhlIHNhbXBsZSBub25jZQ==", "AAAAAAAAAAAAAAAAAAAAAAA="), 400),
        row("a key that is not base64", upgrade("ZQ==", "Z*=="), 400),
        row("no version", upgrade(version, ""), 400),
        row("version 8", upgrade("13", "8"), 426),
        row("two versions", upgrade(version, "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13\r\n"), 400),
        row("an unknown subprotocol", upgrade(host, "Host: h\r\nSec-WebSocket-Protocol: chat\r\n"), 101),
        row("an unknown extension", upgrade(host, "Host: h\r\nSec-WebSocket-Extensions: x-unknown; a=1\r\n"), 101),
        row("an unknown path", upgrade("GET /ws", "GET /nowhere"), 404),
        row("a target in absolute form", upgrade("GET /ws", "GET http://h/ws"), 101),
        // A body of a handshake would be taken for frames.
        row("a body", upgrade(host, "Host: h\r\nContent-Length: 5\r\n"), 400),
        row("a body in chunks", upgrade(host, "Host: h\r\nTransfer-Encoding: chunked\r\n"), 400),
        // RFC 9112 2, 5: what could be read in two ways is rejected.
        row("white space before a colon", upgrade("Host: h", "Host : h"), 400),
        row("a folded line", upgrade("Host: h", "Host: h\r\n folded"), 400),
        row("no colon", upgrade(host, "Host: h\r\nnonsense\r\n"), 400),
        row("an empty name", upgrade(host, "Host: h\r\n: a\r\n"), 400),
        row("NUL in a value", upgrade(host, "Host: h\r\nX: a\0b\r\n"), 400),
        row("a bare carriage return", upgrade(host, "Host: h\r\nX: a\rb\r\n"), 400),
        row("a space in the target", upgrade("GET /ws", "GET /w s"), 400),
        row("no target", upgrade("GET /ws ", "GET "), 400),
        row("HTTP/2 as text", upgrade("HTTP/1.1", "HTTP/2"), 400),
        row("a method that is none", upgrade("GET", "G@T"), 400),
        row("lower case HTTP", upgrade("HTTP/1.1", "http/1.1"), 400),
        // RFC 9110 5.6.3: optional white space is space and tab.
        row("tabs and spaces around a value", upgrade("Host: h", "Host:\t h \t"), 101),
        row("no space after a colon", upgrade("Host: h", "Host:h"), 101),
        row("a no-break space is a part of the value: no upgrade", upgrade(": websocket", ": \u{a0}websocket"), 404),
        row("a value beyond ASCII elsewhere", upgrade(host, "Host: h\r\nX: caf\u{e9}\r\n"), 101),
        // Limits.
        row("a head of 20,000 bytes", upgrade(host, &format!("Host: h\r\nX: {}\r\n", "a".repeat(20_000))), 431),
        row("300 headers", upgrade(host, &format!("Host: h\r\n{}", "X: a\r\n".repeat(300))), 431),
        row("a target of 10,000 bytes", upgrade("GET /ws", &format!("GET /ws?{}", "a".repeat(10_000))), 431),
        // Requests that ask for no upgrade.
        row("health", get("/health", ""), 200),
        row("nothing there", get("/nowhere", ""), 404),
        row("a length twice, not the same", get("/health", "Content-Length: 1\r\nContent-Length: 2\r\n"), 400),
        row("a length and chunks", get("/health", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400),
        row("a length that is no number", get("/health", "Content-Length: +1\r\n"), 400),
    ];
    // What is no HTTP at all.
    for (name, bytes) in [
        ("TLS", "\u{16}\u{3}\u{1}\r\n"),
        ("SSH", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("a preface of HTTP/2", "PRI * HTTP/2.0\r\n"),
    ] {
        rows.push(row(name, bytes.to_owned(), 400));
    }
    rows
}

fn status(address: std::net::SocketAddr, head: &str, cut: usize) -> u16 {
    let mut raw = Raw::connect(address);
    let bytes = format!("{head}\r\n");
    if cut == usize::MAX {
        raw.write(bytes.as_bytes());
    } else {
        // A rejected head need not be read to its end.
        bytes
            .as_bytes()
            .chunks(cut)
            .all(|piece| raw.try_write(piece));
    }
    let answer = raw.read_head();
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    status.unwrap_or_else(|| panic!("no status: {answer}"))
}

#[test]
fn each_head_is_answered_with_its_status_in_one_read_and_in_many() {
    let server = Server::dev();
    for (name, head, expected) in rows() {
        for cut in [usize::MAX, 7] {
            let status = status(server.address, &head, cut);
            assert_eq!(status, expected, "{name}, {cut} bytes at a time:\n{head}");
        }
    }
    server.await_metric("fanwire_connections{", 0);
}

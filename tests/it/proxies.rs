//! Do proxies that are trusted speak for their clients, and does nobody else?

use crate::harness::{Frame, Raw, SECRET, Server, http_get, token, upgrade_request};
use fanwire::Builder;
use fanwire::auth::{Grant, issue};
use fanwire::base::now::Clock;
use std::net::SocketAddr;

const TRUSTED: &str = "127.0.0.1";
const UNTRUSTED: &str = "192.0.2.250";

/// How a proxy names its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    XForwardedFor,
    Forwarded,
    Text,
    Binary,
}

const WAYS: [Way; 4] = [Way::XForwardedFor, Way::Forwarded, Way::Text, Way::Binary];

impl Way {
    /// Sets a server up for it, with the loopback address or another one as the trusted proxy.
    fn server(self, trusted: &str, change: impl FnOnce(Builder) -> Builder) -> Server {
        Server::with(|builder| {
            let builder = builder.set("trusted_proxies", vec![trusted]);
            change(match self {
                Self::XForwardedFor => builder.set("forwarded_header", "x-forwarded-for"),
                Self::Forwarded => builder.set("forwarded_header", "forwarded"),
                Self::Text | Self::Binary => builder.set("proxy_protocol", "optional"),
            })
        })
    }

    /// What a proxy sends before the request, and in its head.
    fn name(self, client: [u8; 4]) -> (Vec<u8>, String) {
        let [a, b, c, d] = client;
        let address = format!("{a}.{b}.{c}.{d}");
        match self {
            // The client says that it is another one.
            Self::XForwardedFor => (
                Vec::new(),
                format!("X-Forwarded-For: 203.0.113.{d}, {address}\r\nForwarded: for=_x\r\n"),
            ),
            Self::Forwarded => (
                Vec::new(),
                format!("Forwarded: for=\"203.0.113.{d}\"\r\nForwarded: for=\"{address}:8\"\r\n"),
            ),
            Self::Text => (
                format!("PROXY TCP4 {address} 127.0.0.1 4000 80\r\n").into_bytes(),
                format!("X-Forwarded-For: 203.0.113.{d}\r\n"),
            ),
            Self::Binary => {
                let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10".to_vec();
                bytes.extend([a, b, c, d, 127, 0, 0, 1, 0x0f, 0xa0, 0, 80]);
                bytes.extend([4, 0, 1, 0]);
                (bytes, String::new())
            }
        }
    }
}

/// Connects as the proxy does for this client.
fn connect(server: &Server, way: Way, client: [u8; 4], target: &str) -> Raw {
    let (before, headers) = way.name(client);
    let mut raw = Raw::connect(server.address);
    let request = upgrade_request(target, &headers);
    raw.write(&[before, request.into_bytes()].concat());
    raw
}

fn open(server: &Server, way: Way, client: [u8; 4], target: &str) -> Raw {
    let mut raw = connect(server, way, client, target);
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{way:?}: {head}");
    raw
}

fn rejected(server: &Server, reason: &str) -> u64 {
    server.metric(&format!(
        "fanwire_connections_rejected_total{{reason=\"{reason}\""
    ))
}

fn target_of(user: usize) -> String {
    format!("/ws?token={}", token(&format!("user{user}"), &[]))
}

#[test]
fn users_behind_one_proxy_have_the_limits_of_their_own_addresses() {
    for way in WAYS {
        let server = way.server(TRUSTED, |builder| {
            let builder = builder.set("gateway.sessions_per_ip_max", 2);
            builder.set("unauthenticated_per_ip_max", 2)
        });
        let sessions: Vec<_> = (0..150)
            .map(|user| {
                let client = [192, 0, 2, u8::try_from(user).unwrap()];
                let mut session = open(&server, way, client, &target_of(user));
                assert!(
                    session.read_text().contains("auth_success"),
                    "{way:?} {user}"
                );
                session
            })
            .collect();
        assert_eq!(server.metric("fanwire_authenticated_sessions"), 150);
        // One of them has a limit, as before.
        let client = [192, 0, 2, 7];
        let mut second = open(&server, way, client, &target_of(1_000));
        assert!(second.read_text().contains("auth_success"));
        let mut third = open(&server, way, client, &target_of(1_001));
        assert_eq!(third.read(), Frame::Close(1008, "quota".into()), "{way:?}");
        drop((sessions, second, third));
        server.await_metric("fanwire_authenticated_sessions", 0);
        server.await_metric("fanwire_unauthenticated_connections", 0);
    }
}

#[test]
fn the_session_shows_the_address_of_its_client() {
    for way in WAYS {
        let server = way.server(TRUSTED, Builder::dev);
        let mut session = open(&server, way, [192, 0, 2, 9], "/monitoring");
        let welcome = session.read_text();
        let id = "\"connection_id\":\"192.0.2.9:";
        assert!(welcome.contains(id), "{way:?}: {welcome}");
    }
    // In chains of proxies, each by its own way.
    let server = Server::with(|builder| {
        let builder = builder
            .dev()
            .set("trusted_proxies", vec![TRUSTED, "10.0.0.0/8"]);
        let builder = builder.set("forwarded_header", "x-forwarded-for");
        builder.set("proxy_protocol", "optional")
    });
    for (before, headers, expected) in [
        ("", "X-Forwarded-For: 192.0.2.1, 10.0.0.2\r\n", "192.0.2.1:"),
        (
            "PROXY TCP4 10.1.1.1 10.0.0.1 5 6\r\n",
            "X-Forwarded-For: 192.0.2.1:77\r\n",
            "192.0.2.1:77:",
        ),
        ("PROXY TCP4 10.1.1.1 10.0.0.1 5 6\r\n", "", "10.1.1.1:5:"),
        (
            "PROXY TCP6 2001:db8::1 ::1 5 6\r\n",
            "X-Forwarded-For: 192.0.2.1\r\n",
            "2001:db8::1:5:",
        ),
        // Nobody is named: it is the proxy, and what the request says does not count.
        (
            "PROXY UNKNOWN\r\n",
            "X-Forwarded-For: 192.0.2.1\r\n",
            "127.0.0.1:",
        ),
        ("", "Forwarded: for=192.0.2.1\r\n", "127.0.0.1:"),
        ("", "", "127.0.0.1:"),
    ] {
        let mut raw = Raw::connect(server.address);
        raw.write(before.as_bytes());
        raw.write(upgrade_request("/monitoring", headers).as_bytes());
        raw.read_head();
        let welcome = raw.read_text();
        let id = format!("\"connection_id\":\"{expected}");
        assert!(welcome.contains(&id), "{before}{headers}: {welcome}");
    }
}

#[test]
fn who_is_no_trusted_proxy_speaks_for_nobody() {
    for way in [Way::XForwardedFor, Way::Forwarded] {
        let server = way.server(UNTRUSTED, |builder| {
            builder.set("gateway.sessions_per_ip_max", 2)
        });
        let mut sessions: Vec<_> = (0..3)
            .map(|user| open(&server, way, [192, 0, 2, user], &target_of(user.into())))
            .collect();
        for session in &mut sessions[..2] {
            assert!(session.read_text().contains("auth_success"));
        }
        let quota = Frame::Close(1008, "quota".into());
        assert_eq!(sessions[2].read(), quota, "{way:?}");
    }
    for way in [Way::Text, Way::Binary] {
        // From elsewhere, and where none is read at all.
        let not_trusted = way.server(UNTRUSTED, |builder| builder);
        let off = Way::XForwardedFor.server(TRUSTED, |builder| builder);
        for (number, server) in [not_trusted, off, Server::secured()].iter().enumerate() {
            let mut raw = connect(server, way, [192, 0, 2, 1], &target_of(0));
            let head = raw.read_head();
            assert!(
                head.starts_with("HTTP/1.1 400 "),
                "{way:?} {number}: {head}"
            );
            assert_eq!(rejected(server, "proxy_header_untrusted"), 1);
        }
        // A client behind a trusted proxy does not name itself once more.
        let server = way.server(TRUSTED, |builder| builder);
        let mut raw = Raw::connect(server.address);
        raw.write(b"PROXY TCP4 192.0.2.1 127.0.0.1 5 6\r\n");
        raw.write(&way.name([192, 0, 2, 2]).0);
        assert!(raw.read_head().starts_with("HTTP/1.1 400 "), "{way:?}");
        assert_eq!(rejected(&server, "proxy_header_untrusted"), 1);
    }
}

#[test]
fn mistakes_of_a_trusted_proxy_are_answered_with_400_and_counted() {
    let required = |builder: Builder| builder.set("proxy_protocol", "required");
    let server = Way::XForwardedFor.server(TRUSTED, required);
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff";
    let long = format!("PROXY UNKNOWN {}", "x".repeat(100));
    for (bytes, reason) in [
        (&b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n"[..], "proxy_header"),
        (b"PROXY TCP4 here there 1 2\r\n", "proxy_header"),
        (long.as_bytes(), "proxy_header"),
        (binary, "proxy_header"),
        (
            b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n",
            "proxy_header_missing",
        ),
        (
            b"PROXY TCP4 127.0.0.1 192.0.2.2 1 2\r\nGET /health HTTP/1.1\r\nHost: t\r\n\
              X-Forwarded-For: here\r\n\r\n",
            "forwarded_header",
        ),
    ] {
        let before = rejected(&server, reason);
        let mut raw = Raw::connect(server.address);
        raw.write(bytes);
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 400 "), "{reason}: {head}");
        assert_eq!(rejected(&server, reason), before + 1, "{reason}");
    }
    // Others cannot connect then, whatever they send.
    let server = Way::XForwardedFor.server(UNTRUSTED, required);
    let (status, text) = http_get(server.address, "/health");
    assert!(
        status == 400 && text.contains("from a trusted proxy"),
        "{text}"
    );
    let mut raw = Raw::connect(server.address);
    raw.write(b"PROXY TCP4 127.0.0.1 192.0.2.2 1 2\r\nGET /health HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(raw.read_head().starts_with("HTTP/1.1 400 "));
}

#[test]
fn before_authentication_a_proxy_has_no_limit_and_each_client_has_its_own() {
    for way in WAYS {
        let server = way.server(TRUSTED, |builder| {
            builder.set("unauthenticated_per_ip_max", 3)
        });
        // Nobody knows whose they are.
        let silent: Vec<_> = (0..20).map(|_| Raw::connect(server.address)).collect();
        let mut sessions: Vec<_> = (0..20)
            .map(|client| open(&server, way, [192, 0, 2, client], "/ws"))
            .collect();
        server.await_metric("fanwire_unauthenticated_connections", 40);
        // One address, on the shards as it happens: each closes only its own.
        let crowd: Vec<_> = (0..30)
            .map(|_| open(&server, way, [198, 51, 100, 1], "/ws"))
            .collect();
        let count = server.metric("fanwire_unauthenticated_connections");
        assert!((40 + 3..=40 + 4).contains(&count), "{way:?}: {count}");
        for session in &mut sessions {
            session.send(r#"{"type":"ping"}"#);
            assert!(session.read_text().contains("pong"), "{way:?}");
        }
        drop((silent, sessions, crowd));
        server.await_metric("fanwire_unauthenticated_connections", 0);
    }
}

#[test]
fn a_tenant_header_counts_from_a_trusted_proxy_only() {
    let grant = Grant::new("ann");
    let token = issue(&grant, SECRET.as_bytes(), 3_600, Clock::start().now()).unwrap();
    let tenants = |builder: Builder| {
        let builder = builder.set("gateway.tenant_source", "proxy");
        builder.set("proxy_protocol", "optional")
    };
    let target = format!("/ws?token={token}");
    let named = "X-Tenant-ID: t1\r\n";
    let server = Way::XForwardedFor.server(TRUSTED, tenants);
    let untrusted = Way::XForwardedFor.server(UNTRUSTED, tenants);
    let check = |address: SocketAddr, before: &str, target: &str, is_in: bool| {
        let mut raw = Raw::connect(address);
        raw.write(before.as_bytes());
        raw.write(upgrade_request(target, named).as_bytes());
        assert!(raw.read_head().starts_with("HTTP/1.1 101 "));
        if !is_in {
            assert_eq!(raw.read(), Frame::Close(1008, "tenant".into()), "{before}");
            return;
        }
        assert!(raw.read_text().contains("auth_success"), "{before}");
        raw.send(r#"{"type":"status"}"#);
        assert!(raw.read_text().contains(r#""tenant_id":"t1""#));
    };
    check(server.address, "", &target, true);
    check(untrusted.address, "", &target, false);
    // The path goes over the header, and clients choose it.
    let in_path = target.replace("/ws", "/ws/tenant/t1");
    check(server.address, "", &in_path, false);
    // Behind the PROXY protocol it is the client that sends the header, unless that is a proxy too.
    let header = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 5 6\r\n");
    check(server.address, &header("192.0.2.1"), &target, false);
    check(server.address, "PROXY UNKNOWN\r\n", &target, false);
    check(server.address, &header("127.0.0.1"), &target, true);
}

#[test]
fn a_request_has_one_valid_host_wherever_it_goes() {
    let server = Server::with(|builder| builder.dev().set("gateway.tenant_domain", "example.org"));
    let long = format!("Host: {}\r\n", "a".repeat(15_000));
    for (target, host, status) in [
        ("", "Host: t\r\n", 101),
        ("", "Host: [::1]:80\r\n", 101),
        ("", "Host:\r\n", 101),
        ("", &long, 101),
        ("http://t", "Host: other\r\n", 101),
        ("", "Host: t\r\nHost: t\r\n", 400),
        ("", "Host: a b\r\n", 400),
        ("", "Host: a/b\r\n", 400),
        ("", "Host: t:80:80\r\n", 400),
        ("http://a b", "Host: t\r\n", 400),
        ("http://u@t", "Host: t\r\n", 400),
        ("http://", "Host: t\r\n", 400),
    ] {
        for path in ["/ws", "/health"] {
            let request = match path {
                "/ws" => upgrade_request(&format!("{target}/ws"), host),
                _ => format!("GET {target}/health HTTP/1.1\r\n{host}\r\n"),
            };
            let mut raw = Raw::connect(server.address);
            raw.write(request.as_bytes());
            let status = if status == 101 && path != "/ws" {
                200
            } else {
                status
            };
            let head = raw.read_head();
            let expected = format!("HTTP/1.1 {status} ");
            assert!(head.starts_with(&expected), "{target}{path} {host}: {head}");
        }
    }
    let status = |request: &str| crate::harness::http(server.address, request).0;
    assert_eq!(status("GET /health HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status("GET /health HTTP/1.0\r\n\r\n"), 200);
    // The tenant of a subdomain is that of the target, and of no header but `Host`.
    let tenant_of = |target: &str, headers: &str| {
        let mut raw = Raw::open(server.address, target, headers);
        raw.send(r#"{"type":"auth","data":{"token":"TOKEN"}}"#.replace("TOKEN", &token("ann", &[])).as_str());
        assert!(raw.read_text().contains("auth_success"));
        raw.send(r#"{"type":"status"}"#);
        let status: serde_json::Value = serde_json::from_str(&raw.read_text()).unwrap();
        status["data"]["tenant_id"].as_str().map(str::to_owned)
    };
    let t1 = Some("t1".to_owned());
    assert_eq!(tenant_of("/ws", "Host: t1.example.org\r\n"), t1);
    assert_eq!(
        tenant_of("http://t1.example.org/ws", "Host: t2.example.org\r\n"),
        t1
    );
    let others = "Host: example.org\r\nX-Forwarded-Host: t2.example.org\r\n\
        Forwarded: host=t2.example.org\r\n";
    assert_eq!(tenant_of("/ws", others), None);
}

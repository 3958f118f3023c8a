//! Parses the parts of a request head that an upgrade needs. The HTTP API parses other requests
//! again.

use super::correlation::Correlation;
use super::forwarded::ForwardedForm;
use super::target::authority;
use crate::base::limits::{HEAD_BYTES_MAX, HEAD_HEADERS_MAX, TARGET_BYTES_MAX};
use crate::base::trace::TraceParent;
use crate::ws::handshake;

/// The parts of a request head that an upgrade needs, borrowed from the bytes.
#[derive(Debug, Default)]
pub struct Head<'a> {
    /// Length of the head including its empty line, bytes.
    pub head_bytes: usize,
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// Name and port of the host: `Host`, or what stands in its place in a target in absolute form
    /// (RFC 9112 3.2.2).
    pub host: Option<&'a str>,
    /// `X-Tenant-ID`.
    pub tenant: Option<&'a str>,
    /// Whether there are several, which differ.
    pub has_tenants: bool,
    /// The token of `Authorization: Bearer`.
    pub bearer: Option<&'a str>,
    /// `Sec-WebSocket-Protocol`, all its lines.
    subprotocols: Vec<&'a str>,
    /// `Sec-WebSocket-Extensions`, all its lines.
    extensions: Vec<&'a str>,
    /// The lines of the header in which proxies name the client, if it is to be read.
    forwarded: Vec<&'a str>,
    correlation: Correlation<'a>,
    key: Option<&'a str>,
    version: Option<&'a str>,
    is_http_1_1: bool,
    is_host_valid: bool,
    hosts: u8,
    keys: u8,
    versions: u8,
    has_body: bool,
    has_length: bool,
    has_transfer_encoding: bool,
    connection_upgrade: bool,
    upgrade_websocket: bool,
}

/// Why bytes are not a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The peer sent something that is not HTTP/1.1.
    Malformed,
    /// The peer sent more than the limits allow.
    TooLarge,
}

/// Why a request for an upgrade to WebSocket is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeError {
    /// RFC 6455 4.2.1 requires GET, HTTP/1.1, Host, Connection and a key.
    Malformed,
    /// A version other than 13 (RFC 6455 4.2.2).
    Version,
}

impl<'a> Head<'a> {
    /// Parses a head from the start of `bytes`; `None` when more bytes are needed. Of the headers in
    /// which proxies name the client, `forwarded` is kept.
    ///
    /// # Errors
    /// [`HeadError`] determines the answer.
    pub fn parse(
        bytes: &'a [u8],
        forwarded: Option<ForwardedForm>,
    ) -> Result<Option<Self>, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; HEAD_HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let head_bytes = match request.parse(bytes) {
            Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
            Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => {
                return Err(HeadError::TooLarge);
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(_) => return Err(HeadError::Malformed),
        };
        let target = request.path.unwrap_or_default();
        if head_bytes > HEAD_BYTES_MAX || target.len() > TARGET_BYTES_MAX {
            return Err(HeadError::TooLarge);
        }
        let mut head = Self {
            head_bytes,
            method: request.method.unwrap_or_default(),
            target,
            is_http_1_1: request.version == Some(1),
            ..Self::default()
        };
        for header in request.headers.iter() {
            head.note(header.name, header.value, forwarded);
        }
        head.is_host_valid = match head.hosts {
            0 => !head.is_http_1_1,
            1 => head.host.is_some_and(is_host),
            _ => false,
        };
        if let Some(authority) = authority(target) {
            head.is_host_valid &= is_host(authority) && !authority.is_empty();
            head.host = Some(authority);
        }
        Ok(Some(head))
    }

    fn note(&mut self, name: &str, bytes: &'a [u8], forwarded: Option<ForwardedForm>) {
        let is_text = str::from_utf8(bytes).is_ok();
        // A value that is not UTF-8 is read as empty: such an origin is not allowed.
        let value = trimmed(str::from_utf8(bytes).unwrap_or_default());
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("host") {
            // One that is not UTF-8 is as invalid as two.
            self.hosts = self.hosts.saturating_add(if is_text { 1 } else { 2 });
            self.host = Some(value);
        } else if is("connection") {
            self.connection_upgrade |= has_token(value, "upgrade");
        } else if is("upgrade") {
            self.upgrade_websocket |= has_token(value, "websocket");
        } else if is("sec-websocket-key") {
            self.keys = self.keys.saturating_add(1);
            self.key = Some(value);
        } else if is("sec-websocket-version") {
            self.versions = self.versions.saturating_add(1);
            self.version = Some(value);
        } else if is("sec-websocket-protocol") {
            self.subprotocols.push(value);
        } else if is("sec-websocket-extensions") {
            self.extensions.push(value);
        } else if is("transfer-encoding") {
            self.has_body = true;
            self.has_transfer_encoding = true;
        } else if is("content-length") {
            self.has_body |= value != "0";
            self.has_length = true;
        } else if is("origin") {
            // Repeated, it names no origin.
            self.origin = Some(if self.origin.is_none() { value } else { "" });
        } else if is("x-tenant-id") {
            self.has_tenants |= self.tenant.is_some_and(|other| other != value);
            self.tenant = Some(value);
        } else if is("authorization") {
            self.bearer = value
                .split_once(' ')
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .map(|(_, token)| trimmed(token));
        } else if forwarded.is_some_and(|form| is(form.name())) {
            if is_text {
                self.forwarded.push(value);
            } else {
                // Malformed up to the element with the last byte that is not UTF-8: a client may
                // have written it, and the proxy what follows.
                self.forwarded.push("\0");
                let rest = valid_end(bytes).split_once(',');
                self.forwarded.extend(rest.map(|(_, rest)| trimmed(rest)));
            }
        } else {
            self.correlation.note(name, value);
        }
    }

    /// Whether it has the `Host` that its version requires: one, and a valid one (RFC 9112 3.2). A
    /// target in absolute form must have a valid host too.
    #[must_use]
    pub const fn has_valid_host(&self) -> bool {
        self.is_host_valid
    }

    /// Whether the end of its body can be found in two ways, so that something before this server may
    /// have read another request (RFC 9112 6.3).
    #[must_use]
    pub const fn is_ambiguous(&self) -> bool {
        self.has_length && self.has_transfer_encoding
    }

    /// The lines of the header in which proxies name the client, in their order.
    pub fn forwarded(&self) -> impl DoubleEndedIterator<Item = &'a str> {
        self.forwarded.iter().copied()
    }

    /// By which other programs know the request: the first there is of `X-Request-Id`,
    /// `X-Correlation-Id` and the trace id of `traceparent`, if it is well-formed and short.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&'a str> {
        self.correlation.id()
    }

    /// `traceparent`, if it is well-formed.
    #[must_use]
    pub const fn trace_parent(&self) -> Option<TraceParent> {
        self.correlation.trace_parent()
    }

    /// Whether the request asks for WebSocket; all others go to the HTTP API.
    #[must_use]
    pub fn asks_for_websocket(&self) -> bool {
        self.upgrade_websocket
    }

    /// The key of a request that may be upgraded.
    ///
    /// # Errors
    /// [`UpgradeError`] determines the answer.
    pub fn upgrade_key(&self) -> Result<&'a str, UpgradeError> {
        let is_upgrade = self.method == "GET"
            && self.is_http_1_1
            // A body would be read as frames.
            && self.hosts == 1
            // RFC 6455 11.3.1, 11.3.5: neither header appears more than once.
            && self.keys == 1
            && self.versions <= 1
            && !self.has_body
            && self.connection_upgrade
            && self.upgrade_websocket;
        if !is_upgrade {
            return Err(UpgradeError::Malformed);
        }
        match self.version {
            Some(handshake::VERSION) => {}
            Some(_) => return Err(UpgradeError::Version),
            None => return Err(UpgradeError::Malformed),
        }
        let key = self.key.filter(|key| handshake::is_key(key));
        key.ok_or(UpgradeError::Malformed)
    }

    /// The lines with the extensions that the client offers.
    pub fn extensions(&self) -> impl Iterator<Item = &'a str> {
        self.extensions.iter().copied()
    }

    /// The offered subprotocols, in order.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> {
        let lines = self.subprotocols.iter();
        lines.flat_map(|line| line.split(',').map(trimmed))
    }
}

/// `uri-host [ ":" port ]` (RFC 9110 7.2), by its characters; it may be empty.
#[must_use]
pub fn is_host(value: &str) -> bool {
    let (name, port) = match value.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, ""),
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (address, port),
                None => return false,
            },
            None => return false,
        },
        None => value.split_once(':').unwrap_or((value, "")),
    };
    let is_address = value.starts_with('[');
    let is_name_byte = |byte: u8| match byte {
        b':' => is_address,
        byte => byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte),
    };
    (!is_address || name.contains(':'))
        && name.bytes().all(is_name_byte)
        && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn has_token(value: &str, token: &str) -> bool {
    let mut tokens = value.split(',');
    tokens.any(|candidate| trimmed(candidate).eq_ignore_ascii_case(token))
}

/// The value without optional white space (RFC 9110 5.6.3); other spaces are part of it.
fn trimmed(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}

/// What follows the last byte that is not UTF-8.
fn valid_end(mut bytes: &[u8]) -> &str {
    loop {
        match str::from_utf8(bytes) {
            Ok(text) => return text,
            Err(error) => {
                let invalid = error
                    .error_len()
                    .unwrap_or(bytes.len() - error.valid_up_to());
                bytes = &bytes[error.valid_up_to() + invalid..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADE: &str = "GET /ws?token=t HTTP/1.1\r\nHost: h\r\nUpgrade: WebSocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: a, b\r\nsec-websocket-protocol: c\r\n\
        Authorization: bearer abc\r\n\r\n";

    fn check(request: &str, expected: Result<&str, UpgradeError>) {
        let head = Head::parse(request.as_bytes(), None).unwrap().unwrap();
        assert_eq!(head.upgrade_key(), expected, "{request}");
    }

    #[test]
    fn an_upgrade_needs_each_of_its_headers() {
        check(UPGRADE, Ok("dGhlIHNhbXBsZSBub25jZQ=="));
        let malformed = Err(UpgradeError::Malformed);
        for part in [
            "Host: h\r\n",
            "Upgrade: WebSocket\r\n",
            "Sec-WebSocket-Version: 13\r\n",
        ] {
            check(&UPGRADE.replace(part, ""), malformed);
        }
        check(&UPGRADE.replace("GET", "POST"), malformed);
        check(&UPGRADE.replace("HTTP/1.1", "HTTP/1.0"), malformed);
        for line in [
            "Host: i\r\n",
            "Sec-WebSocket-Version: 13\r\n",
            "Sec-WebSocket-Version: 8\r\n",
            "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
        ] {
            check(
                &UPGRADE.replace("Host: h\r\n", &format!("Host: h\r\n{line}")),
                malformed,
            );
        }
        check(&UPGRADE.replace("ZQ==", "ZQ=!"), malformed);
        // Optional white space is space and tab.
        check(
            &UPGRADE.replace("Key: ", "Key:\t "),
            Ok("dGhlIHNhbXBsZSBub25jZQ=="),
        );
        check(&UPGRADE.replace("Key: ", "Key: \u{a0}"), malformed);
        check(
            &UPGRADE.replace("WebSocket\r", "WebSocket\u{a0}\r"),
            malformed,
        );
        check(&UPGRADE.replace("13", "8"), Err(UpgradeError::Version));
    }

    #[test]
    fn a_request_has_one_valid_host() {
        for (lines, expected) in [
            ("Host: example.org\r\n", true),
            ("Host: example.org:8080\r\n", true),
            ("Host: [::1]:8080\r\n", true),
            ("Host: [::1]\r\n", true),
            ("Host:\r\n", true),
            ("", false),
            ("Host: a\r\nHost: a\r\n", false),
            ("Host: a b\r\n", false),
            ("Host: a/b\r\n", false),
            ("Host: user@a\r\n", false),
            ("Host: a:b\r\n", false),
            ("Host: a:1:2\r\n", false),
            ("Host: [::1\r\n", false),
            ("Host: [::1]x\r\n", false),
            ("Host: [a]\r\n", false),
            ("Host: \u{e9}\r\n", false),
        ] {
            let request = format!("GET / HTTP/1.1\r\n{lines}\r\n");
            let head = Head::parse(request.as_bytes(), None).unwrap().unwrap();
            assert_eq!(head.has_valid_host(), expected, "{lines}");
            let request = request.replace("1.1", "1.0");
            let head = Head::parse(request.as_bytes(), None).unwrap().unwrap();
            assert_eq!(head.has_valid_host(), expected || lines.is_empty());
        }
    }

    #[test]
    fn the_host_of_a_target_in_absolute_form_stands_in_place_of_the_header() {
        for (target, lines, expected) in [
            (
                "http://a.example/ws",
                "Host: a.example\r\n",
                Some("a.example"),
            ),
            (
                "http://a.example:80/ws",
                "Host: b.example\r\n",
                Some("a.example:80"),
            ),
            ("http://a.example", "Host: b\r\n", Some("a.example")),
            ("http://a.example?x=/", "Host: b\r\n", Some("a.example")),
            ("ws://[::1]:8080/", "Host:\r\n", Some("[::1]:8080")),
            ("/ws?to=http://a/", "Host: b\r\n", Some("b")),
            ("*", "Host: b\r\n", Some("b")),
            ("http://a.example/ws", "", None),
            ("http://a.example/ws", "Host: a\r\nHost: a\r\n", None),
            ("http://a.example/ws", "Host: a/b\r\n", None),
            ("http:///ws", "Host: b\r\n", None),
            ("http://user@a.example/ws", "Host: a.example\r\n", None),
            ("http://a:b/ws", "Host: a\r\n", None),
        ] {
            let request = format!("GET {target} HTTP/1.1\r\n{lines}\r\n");
            let head = Head::parse(request.as_bytes(), None).unwrap().unwrap();
            let host = head.host.filter(|_| head.has_valid_host());
            assert_eq!(host, expected, "{target} {lines}");
        }
    }

    #[test]
    fn only_the_header_that_is_asked_for_names_the_client() {
        let request = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: a, b\r\nForwarded: for=c\r\n\
            x-forwarded-for:\t d\r\n\r\n";
        let lines = |form| {
            let head = Head::parse(request.as_bytes(), form).unwrap().unwrap();
            head.forwarded().collect::<Vec<_>>()
        };
        assert_eq!(lines(None), [""; 0]);
        assert_eq!(lines(Some(ForwardedForm::XForwardedFor)), ["a, b", "d"]);
        assert_eq!(lines(Some(ForwardedForm::Forwarded)), ["for=c"]);
        // What a proxy appended to bytes that are not UTF-8 counts.
        for (value, expected) in [
            (&b"\xff"[..], &["\0"][..]),
            (b"\xffa", &["\0"]),
            (b"a, \xff\xc3b, c, d", &["\0", "c, d"]),
            (b"a\xc3, d", &["\0", "d"]),
        ] {
            let head = [b"GET / HTTP/1.1\r\nForwarded: ", value, b"\r\n\r\n"].concat();
            let head = Head::parse(&head, Some(ForwardedForm::Forwarded));
            let head = head.unwrap().unwrap();
            assert_eq!(head.forwarded().collect::<Vec<_>>(), expected, "{value:?}");
        }
    }

    #[test]
    fn tokens_and_subprotocols_are_found() {
        let head = Head::parse(UPGRADE.as_bytes(), None).unwrap().unwrap();
        assert_eq!(head.bearer, Some("abc"));
        assert_eq!(head.subprotocols().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(head.head_bytes, UPGRADE.len());
    }

    #[test]
    fn incomplete_malformed_and_huge_heads_differ() {
        let parse = |text: &str| Head::parse(text.as_bytes(), None).map(|head| head.is_some());
        assert_eq!(parse(&UPGRADE[..40]), Ok(false));
        assert_eq!(parse("hello there\r\n\r\n"), Err(HeadError::Malformed));
        assert_eq!(parse("\x16\x03\x01\x02"), Err(HeadError::Malformed));
        let padding = "a".repeat(HEAD_BYTES_MAX);
        assert_eq!(
            parse(&format!("GET / HTTP/1.1\r\nX: {padding}")),
            Err(HeadError::TooLarge)
        );
        assert_eq!(
            parse(&format!(
                "GET /{} HTTP/1.1\r\n\r\n",
                &padding[..TARGET_BYTES_MAX]
            )),
            Err(HeadError::TooLarge)
        );
        let many = "A: b\r\n".repeat(HEAD_HEADERS_MAX + 1);
        assert_eq!(
            parse(&format!("GET / HTTP/1.1\r\n{many}\r\n")),
            Err(HeadError::TooLarge)
        );
    }
}

//! Request heads, in one piece and in many, at listeners of each kind.
//!
//! The first byte of an input chooses the listener, the second how the rest is cut; the rest, with an
//! empty line at its end, is what a client sends. What a shard makes of it must not depend on how it
//! is cut, and only what RFC 6455 4.2.1 asks for may be upgraded.

use super::input::{chooser, expanded};
use fanwire::auth::Verifier;
use fanwire::base::{DialectId, Now};
use fanwire::config::{
    AddressRange, ForwardedHeader, Policy, ProxyProtocol, RejectionMode, Routes,
};
use fanwire::http::{Head, Target, target};
use fanwire::shard::{ConnectionAction, Shard, ShardParts};
use fanwire_ring::{Ring, RingConfig};
use std::net::SocketAddr;
use std::sync::Arc;

const NOW: Now = Now::at(1_000, 1_700_000_000_000);

/// Sends the head that the input says.
pub fn request(input: &[u8]) {
    check(input, false);
}

/// The same from a trusted proxy, which names its clients by the PROXY protocol and by a header.
pub fn request_of_proxy(input: &[u8]) {
    check(input, true);
}

fn check(input: &[u8], is_proxy: bool) {
    let [listener, cuts, request @ ..] = input else {
        return;
    };
    // A shard waits with a head that has no line end; this one ends, wherever it is cut.
    let request = [request, b"\r\n\r\n"].concat();
    check_head(&request);
    let answer = |pieces: &[usize]| answer(*listener, is_proxy, &request, pieces);
    let whole = answer(&[request.len()]);
    let choices = expanded(u64::from(*cuts), 64);
    let mut choose = chooser(&choices);
    let mut pieces = Vec::new();
    let mut left = request.len();
    while left > 0 {
        let piece = 1 + choose(left.min(64));
        pieces.push(piece);
        left -= piece;
    }
    for pieces in [vec![1; request.len()], pieces] {
        let answer = answer(&pieces);
        assert_eq!(answer, whole, "in pieces of {pieces:?}");
    }
}

/// What a shard makes of a request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    /// What the client receives.
    bytes: String,
    /// What the HTTP API receives.
    http: Vec<u8>,
    is_session: bool,
    /// The address of the client, if it is a session.
    client: Option<SocketAddr>,
    is_ended: bool,
}

fn answer(listener: u8, is_proxy: bool, request: &[u8], pieces: &[usize]) -> Answer {
    let mut routes = vec![Routes::ByPath];
    routes.extend(DialectId::ALL.map(Routes::of));
    let forwarded_header = match (is_proxy, listener & 0x80) {
        (false, _) => ForwardedHeader::None,
        (true, 0) => ForwardedHeader::XForwardedFor,
        (true, _) => ForwardedHeader::Forwarded,
    };
    let proxies = ["127.0.0.1", "10.0.0.0/8"].map(|range| AddressRange::parse(range).unwrap());
    let listener = usize::from(listener & 0x7f) % routes.len();
    let config = RingConfig {
        capacity_bytes: 1 << 16,
        readers_max: 1,
    };
    let ring = Ring::new(config).expect("the configuration is valid");
    let parts = ShardParts {
        index: 0,
        connections_max: 1,
        policy: Arc::new(Policy {
            allowed_origins: vec![
                fanwire::config::OriginPattern::parse("https://app.example").unwrap(),
            ],
            tenant_domain: Some("example.org".into()),
            origin_rejection: RejectionMode::Http,
            trusted_proxies: proxies.into_iter().filter(|_| is_proxy).collect(),
            proxy_protocol: match is_proxy {
                true => ProxyProtocol::Optional,
                false => ProxyProtocol::Off,
            },
            forwarded_header,
            unauthenticated_per_ip_max: 1,
            routes,
            ..Policy::default()
        }),
        verifier: Verifier::default(),
        process_state: Arc::default(),
        quotas: Arc::default(),
        counters: Arc::default(),
        hooks: Arc::default(),
        reader: ring.reader().expect("the ring has a reader's place"),
        ring,
    };
    let mut shard = Shard::new(parts, NOW);
    let peer = ([127, 0, 0, 1], 9).into();
    let listener = u8::try_from(listener).expect("there are few listeners");
    let id = shard.accept(peer, listener, NOW).expect("there is a place");
    let mut left = request.to_vec();
    for length in pieces {
        let mut piece: Vec<_> = left.drain(..*length).collect();
        shard.receive(id, &mut piece, NOW);
    }
    while shard.has_waiting_input() {
        shard.continue_input(NOW);
    }
    let mut answer = Answer {
        is_session: shard.describe(id, NOW).is_some(),
        client: shard.describe(id, NOW).map(|session| session.peer),
        ..Answer::default()
    };
    let mut bytes = Vec::new();
    while let Some(id) = shard.next_ready(&mut { usize::MAX }) {
        let sent = shard.begin_send(id, 64).collect::<Vec<_>>().concat();
        shard.sent(id, u32::try_from(sent.len()).expect("an answer is short"));
        bytes.extend(sent);
    }
    answer.bytes = String::from_utf8_lossy(&bytes).into_owned();
    for action in shard.take_actions() {
        match action {
            ConnectionAction::Http(_, bytes) => answer.http.extend(bytes),
            ConnectionAction::ShutdownWrite(_)
            | ConnectionAction::Close(_)
            | ConnectionAction::Reset(_) => answer.is_ended = true,
            ConnectionAction::HttpBegin(..)
            | ConnectionAction::HttpWritten(_)
            | ConnectionAction::HttpEnd(_)
            | ConnectionAction::PauseReceive(_)
            | ConnectionAction::ResumeReceive(_) => {}
        }
    }
    answer
}

/// Reads the head as the shard does; what may be upgraded must be right by the RFC.
fn check_head(request: &[u8]) {
    let Ok(Some(head)) = Head::parse(request, None) else {
        return;
    };
    let parsed = Target::parse(head.target);
    for name in ["token", "tenant", ""] {
        drop(parsed.parameter(name));
    }
    drop(target::percent_decode(parsed.path));
    if let Ok(key) = head.upgrade_key() {
        let text = &request[..head.head_bytes];
        if let Err(missing) = check_upgrade(text, key.as_bytes()) {
            panic!("{missing}: {}", String::from_utf8_lossy(text));
        }
    }
}

/// RFC 6455 4.2.1, read from the bytes once more.
fn check_upgrade(head: &[u8], key: &[u8]) -> Result<(), &'static str> {
    let lines = head.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut lines = lines.filter(|line| !line.is_empty());
    let request_line = lines.next().ok_or("no request line")?;
    let mut words = request_line.split(|byte| *byte == b' ');
    let is = |word: Option<&[u8]>, known: &[u8]| word == Some(known);
    if !is(words.next(), b"GET") || words.next().is_none() || !is(words.next(), b"HTTP/1.1") {
        return Err("no GET of HTTP/1.1");
    }
    let headers: Vec<_> = lines
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], trimmed(&line[colon + 1..])))
        })
        .collect();
    let named = |wanted: &str| {
        let headers = headers.iter();
        let found = headers.filter(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()));
        found.map(|(_, value)| *value).collect::<Vec<_>>()
    };
    let has_token = |name: &str, token: &str| {
        let values = named(name);
        let mut tokens = values
            .iter()
            .flat_map(|value| value.split(|byte| *byte == b','));
        tokens.any(|found| trimmed(found).eq_ignore_ascii_case(token.as_bytes()))
    };
    if named("host").len() != 1 {
        return Err("not one Host");
    }
    if !has_token("upgrade", "websocket") {
        return Err("no Upgrade to websocket");
    }
    if !has_token("connection", "upgrade") {
        return Err("no Connection: Upgrade");
    }
    if named("sec-websocket-key") != [key] || !is_sixteen_bytes(key) {
        return Err("not one key of sixteen bytes");
    }
    // RFC 6455 11.3.5: not more than once.
    if named("sec-websocket-version") != [b"13"] {
        return Err("not one version, 13");
    }
    Ok(())
}

/// Without optional white space (RFC 9110 5.6.3): space and tab, nothing else.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes
        .iter()
        .position(|byte| !is_space(byte))
        .unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(|byte| !is_space(byte))
        .map_or(start, |at| at + 1);
    &bytes[start..end]
}

/// Whether this is sixteen bytes in base64 (RFC 4648 4): 22 characters, and two for padding.
fn is_sixteen_bytes(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key[..22].iter().all(is_digit) && key.ends_with(b"==")
}

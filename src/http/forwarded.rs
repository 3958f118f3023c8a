//! The address of a client as proxies report it: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! ```text
//!   X-Forwarded-For: 203.0.113.9, 192.0.2.1, 10.0.0.2      the peer is 10.0.0.3
//!                    what the      the      a trusted
//!                    client says   client   proxy
//! ```
//!
//! Each proxy adds the address of its own peer at the right. So an entry is as true as the address to
//! its right, and only what trusted proxies wrote is read at all.

use crate::base::limits::FORWARDED_PROXIES_MAX;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The header that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedForm {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// A trusted proxy wrote something that is neither an address nor says that it is withheld, or there
/// are more proxies than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedForwarded;

/// Who a proxy says its peer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Address(IpAddr, Option<u16>),
    /// `unknown`, an obfuscated identifier (RFC 7239 6.3), or none.
    Withheld,
}

impl ForwardedForm {
    /// The name of the header, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }

    /// The client behind trusted proxies: of the addresses in `lines`, which are in the order of the
    /// request, the right-most that `is_trusted` does not hold for, or else the left-most. `proxy` is
    /// the proxy that sent the request; its address stands for clients that it does not name, and its
    /// port for one that is not named.
    ///
    /// # Errors
    /// [`MalformedForwarded`]: a mistake of a trusted proxy. What the client wrote is not read.
    pub fn client<'a>(
        self,
        lines: impl DoubleEndedIterator<Item = &'a str>,
        is_trusted: impl Fn(IpAddr) -> bool,
        proxy: SocketAddr,
    ) -> Result<SocketAddr, MalformedForwarded> {
        let mut client = proxy;
        let mut entries = lines.rev().flat_map(|line| FromRight {
            line: Some(line),
            has_quotes: self == Self::Forwarded,
        });
        // One more than there may be proxies: the client.
        for _ in 0..=FORWARDED_PROXIES_MAX {
            let Some(entry) = entries.next() else {
                return Ok(client);
            };
            let node = match self {
                Self::XForwardedFor => node(entry),
                Self::Forwarded => element(entry),
            };
            let Node::Address(address, port) = node.ok_or(MalformedForwarded)? else {
                return Ok(client);
            };
            client = SocketAddr::new(address, port.unwrap_or(proxy.port()));
            if !is_trusted(address) {
                return Ok(client);
            }
        }
        Err(MalformedForwarded)
    }
}

/// The entries of a line from right to left, without empty ones (RFC 9110 5.6.1.2). Read from the
/// right, what a client has written cannot change how the entries of proxies are read.
struct FromRight<'a> {
    line: Option<&'a str>,
    /// Whether a comma may stand in a quoted string.
    has_quotes: bool,
}

impl<'a> Iterator for FromRight<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let line = self.line?;
            let entry = match self.last_comma(line) {
                Some(comma) => {
                    self.line = line.get(..comma);
                    line.get(comma + 1..).unwrap_or_default()
                }
                None => {
                    self.line = None;
                    line
                }
            };
            let entry = trimmed(entry);
            if !entry.is_empty() {
                return Some(entry);
            }
        }
    }
}

impl FromRight<'_> {
    fn last_comma(&self, line: &str) -> Option<usize> {
        let bytes = line.as_bytes();
        let mut is_quoted = false;
        for (index, byte) in bytes.iter().enumerate().rev() {
            match byte {
                b',' if !is_quoted => return Some(index),
                b'"' if self.has_quotes => {
                    let before = bytes.get(..index).unwrap_or_default();
                    let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\');
                    is_quoted ^= backslashes.count() % 2 == 0;
                }
                _ => {}
            }
        }
        None
    }
}

/// An element of `Forwarded`: pairs with `;` between them, of which one may be `for` (RFC 7239 4).
fn element(text: &str) -> Option<Node> {
    let mut found = None;
    let mut rest = text;
    loop {
        let (name, value) = rest.split_once('=')?;
        let value_bytes = match value.strip_prefix('"') {
            Some(quoted) => 2 + closing_quote(quoted)?,
            None => value.find(';').unwrap_or(value.len()),
        };
        let (value, after) = value.split_at_checked(value_bytes)?;
        if trimmed(name).eq_ignore_ascii_case("for") {
            let value = value.strip_prefix('"').map_or(trimmed(value), |quoted| {
                quoted.strip_suffix('"').unwrap_or(quoted)
            });
            if found.replace(node(value)?).is_some() {
                return None;
            }
        }
        let after = trimmed(after);
        if after.is_empty() {
            return Some(found.unwrap_or(Node::Withheld));
        }
        rest = after.strip_prefix(';')?;
    }
}

/// Where a quoted string ends, after its first quote (RFC 9110 5.6.4).
fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })
}

/// A node (RFC 7239 6), which proxies write in `X-Forwarded-For` too, and an IPv6 address without
/// brackets.
fn node(text: &str) -> Option<Node> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Node::Address(address.to_canonical(), None));
    }
    if let Some(text) = text.strip_prefix('[') {
        let (address, port) = text.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = match port.strip_prefix(':') {
            Some(port) => port_of(port)?,
            None if port.is_empty() => None,
            None => return None,
        };
        return Some(Node::Address(IpAddr::from(address).to_canonical(), port));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, port_of(port)?),
        None => (text, None),
    };
    if name.eq_ignore_ascii_case("unknown") || is_obfuscated(name) {
        return Some(Node::Withheld);
    }
    let address: Ipv4Addr = name.parse().ok()?;
    Some(Node::Address(address.into(), port))
}

/// A port, which may be withheld too.
fn port_of(text: &str) -> Option<Option<u16>> {
    if is_obfuscated(text) {
        return Some(None);
    }
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok().map(Some))?
}

fn is_obfuscated(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.len() > 1 && text.starts_with('_') && text.bytes().all(is_part)
}

fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use ForwardedForm::{Forwarded, XForwardedFor};

    /// `None` is malformed. The proxy is 10.0.0.9:443, and all of 10.0.0.0/8 is trusted.
    fn check(form: ForwardedForm, lines: &[&str], expected: Option<&str>) {
        let is_trusted =
            |address: IpAddr| matches!(address, IpAddr::V4(it) if it.octets()[0] == 10);
        let proxy = SocketAddr::from(([10, 0, 0, 9], 443));
        let client = form.client(lines.iter().copied(), is_trusted, proxy);
        let client = client.ok().map(|client| client.to_string());
        assert_eq!(client.as_deref(), expected, "{lines:?}");
    }

    #[test]
    fn the_client_is_the_right_most_address_that_is_no_proxy() {
        for (lines, expected) in [
            (&["192.0.2.1"][..], Some("192.0.2.1:443")),
            (&["203.0.113.9, 192.0.2.1, 10.0.0.2"], Some("192.0.2.1:443")),
            (
                &["203.0.113.9", "192.0.2.1 ,\t10.0.0.2"],
                Some("192.0.2.1:443"),
            ),
            (&["192.0.2.1", "10.0.0.2"], Some("192.0.2.1:443")),
            (&["10.0.0.3, 10.0.0.2"], Some("10.0.0.3:443")),
            (&["192.0.2.1:5000"], Some("192.0.2.1:5000")),
            (&["[2001:db8::1]:5000"], Some("[2001:db8::1]:5000")),
            (&["[2001:db8::1]"], Some("[2001:db8::1]:443")),
            (&["2001:db8::1"], Some("[2001:db8::1]:443")),
            (&["::ffff:192.0.2.1"], Some("192.0.2.1:443")),
            (&["[::ffff:10.0.0.2]:7"], Some("10.0.0.2:7")),
            // Nothing is named: the proxy speaks for itself.
            (&[""], Some("10.0.0.9:443")),
            (&[" ,, "], Some("10.0.0.9:443")),
            (&[], Some("10.0.0.9:443")),
            (&["192.0.2.1,"], Some("192.0.2.1:443")),
            // The address is withheld: its proxy stands for it.
            (&["192.0.2.1, unknown"], Some("10.0.0.9:443")),
            (&["192.0.2.1, Unknown, 10.0.0.2"], Some("10.0.0.2:443")),
            (&["192.0.2.1, _gate"], Some("10.0.0.9:443")),
            // What the client has written is not read.
            (&["<script>, 192.0.2.1"], Some("192.0.2.1:443")),
            (&["\", 192.0.2.1"], Some("192.0.2.1:443")),
            (&["\0", "192.0.2.1"], Some("192.0.2.1:443")),
            // What a proxy has written, is.
            (&["<script>"], None),
            (&["192.0.2.1, here, 10.0.0.2"], None),
            (&["192.0.2.256"], None),
            (&["192.0.2.01"], None),
            (&["192.0.2.1:"], None),
            (&["192.0.2.1:99999"], None),
            (&["192.0.2.1:+1"], None),
            (&["[192.0.2.1]"], None),
            (&["[2001:db8::1"], None),
            (&["[2001:db8::1]5"], None),
            (&["fe80::1%eth0"], None),
            (&["192.0.2.1 192.0.2.2"], None),
            (&["\"192.0.2.1\""], None),
            (&["_"], None),
            (&["\0"], None),
        ] {
            check(XForwardedFor, lines, expected);
        }
    }

    #[test]
    fn elements_of_rfc_7239_name_their_node_in_for() {
        for (line, expected) in [
            (
                "for=192.0.2.60;proto=http;by=203.0.113.43",
                Some("192.0.2.60:443"),
            ),
            (
                "For=\"[2001:db8:cafe::17]:4711\"",
                Some("[2001:db8:cafe::17]:4711"),
            ),
            (
                "by=10.0.0.1; FOR=192.0.2.43 , for=10.0.0.2",
                Some("192.0.2.43:443"),
            ),
            ("for=\"192.0.2.43:47011\"", Some("192.0.2.43:47011")),
            ("for=\"192.0.2.43:_port\"", Some("192.0.2.43:443")),
            ("for=192.0.2.1, for=_hidden", Some("10.0.0.9:443")),
            ("for=192.0.2.1, for=\"unknown\"", Some("10.0.0.9:443")),
            ("proto=https", Some("10.0.0.9:443")),
            ("host=\"a;b,c\\\",d\";for=192.0.2.1", Some("192.0.2.1:443")),
            (
                "for=192.0.2.1;host=\"a, for=192.0.2.2\"",
                Some("192.0.2.1:443"),
            ),
            // A quote of the client does not reach what the proxy adds.
            ("for=\"203.0.113.9, for=192.0.2.1", Some("192.0.2.1:443")),
            (
                "for=\"203.0.113.9, for=192.0.2.1;host=\"a\"",
                Some("192.0.2.1:443"),
            ),
            ("for=\"\\, for=192.0.2.1", Some("192.0.2.1:443")),
            ("for=192.0.2.1;for=192.0.2.2", None),
            ("for", None),
            ("for=", None),
            ("192.0.2.1", None),
            ("for=192.0.2.1;", None),
            ("for=192.0.2.1;proto", None),
            ("for=\"192.0.2.1", None),
            ("for=\"192.0.2.1\"x", None),
            ("for=\"192\\.0.2.1\"", None),
            ("for=here", None),
        ] {
            check(Forwarded, &[line], expected);
        }
    }

    #[test]
    fn the_chain_of_proxies_has_a_limit() {
        let chain = |proxies: usize| format!("192.0.2.1{}", ", 10.0.0.2".repeat(proxies));
        let longest = chain(FORWARDED_PROXIES_MAX);
        check(XForwardedFor, &[&longest], Some("192.0.2.1:443"));
        let too_long = chain(FORWARDED_PROXIES_MAX + 1);
        check(XForwardedFor, &[&too_long], None);
    }
}

//! A publication as text, for the other nodes.
//!
//! ```text
//!   1700000000000 j 6:update 4:uann 0: 0: 0: {"count":5}
//!   ├ unix ms     ├ kind of the data: j = JSON, b = binary
//!                   ├ type   ├ target ├ retained value ├ tenant ├ trace ├ data
//! ```
//!
//! The texts between have their lengths in bytes in front of them, so they may contain anything. The name of
//! the channel is that of the channel in Redis.

use crate::base::TraceContext;
use crate::base::channel_names::name_for_clients;
use crate::base::trace::TraceParent;
use crate::broker::{BroadcastTarget, Data, Publication, Retain, TenantScope};
use std::fmt::Write as _;

/// A publication of another node, or of this one, that has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// When it was accepted, milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// The publication, in its scope.
    pub publication: Publication<'a>,
}

/// Writes an envelope.
#[must_use]
pub fn seal(publication: &Publication<'_>, unix_ms: u64) -> Vec<u8> {
    let data = publication.data;
    let format = if data.is_binary() { 'b' } else { 'j' };
    let (target, whom) = match publication.target {
        BroadcastTarget::All => ("", ""),
        BroadcastTarget::User(user) => ("u", user),
        BroadcastTarget::Role(role) => ("r", role),
        BroadcastTarget::Permission(permission) => ("p", permission),
        BroadcastTarget::Tenant(tenant) => ("t", tenant),
        BroadcastTarget::Except(session) => ("x", session),
    };
    let (retain, key) = match publication.retain {
        Retain::None => ("", ""),
        Retain::Value(key) => ("v", key),
        Retain::Clear(key) => ("c", key),
    };
    let (scope, tenant) = match publication.scope {
        TenantScope::Without => ("", ""),
        TenantScope::Of(tenant) => ("t", tenant),
        TenantScope::All => ("a", ""),
    };
    let trace = publication.trace.map(TraceContext::to_header);
    let trace = trace.as_deref().unwrap_or_default();
    let mut text = format!("{unix_ms} {format} ");
    let fields = [
        ("", publication.kind),
        (target, whom),
        (retain, key),
        (scope, tenant),
        ("", trace),
    ];
    for (letter, name) in fields {
        // Writing to a string cannot fail.
        let _ = write!(text, "{}:{letter}{name} ", letter.len() + name.len());
    }
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(data.bytes());
    bytes
}

/// Reads the envelope of a publication on a channel, by its full name; `None` if it is none.
#[must_use]
pub fn open<'a>(channel: &'a str, bytes: &'a [u8]) -> Option<Envelope<'a>> {
    let (unix_ms, rest) = split(bytes, b' ')?;
    let unix_ms = text(unix_ms)?.parse().ok()?;
    let (format, rest) = split(rest, b' ')?;
    let (kind, rest) = field(rest)?;
    let (target, rest) = field(rest)?;
    let (retain, rest) = field(rest)?;
    let (scope, rest) = field(rest)?;
    let (trace, data) = field(rest)?;
    let publication = Publication {
        data: match format {
            b"j" => Data::Json(text(data)?),
            b"b" => Data::Binary(data),
            _ => return None,
        },
        target: match first(target) {
            ("", _) => BroadcastTarget::All,
            ("u", user) => BroadcastTarget::User(user),
            ("r", role) => BroadcastTarget::Role(role),
            ("p", permission) => BroadcastTarget::Permission(permission),
            ("t", tenant) => BroadcastTarget::Tenant(tenant),
            ("x", session) => BroadcastTarget::Except(session),
            _ => return None,
        },
        retain: match first(retain) {
            ("", _) => Retain::None,
            ("v", key) => Retain::Value(key),
            ("c", key) => Retain::Clear(key),
            _ => return None,
        },
        scope: match first(scope) {
            ("", _) => TenantScope::Without,
            ("t", tenant) => TenantScope::Of(tenant),
            ("a", _) => TenantScope::All,
            _ => return None,
        },
        trace: TraceParent::parse(trace).map(|parent| parent.context),
        ..Publication::new(name_for_clients(channel), kind, "")
    };
    let is_its = publication.is_valid() && publication.full_name() == channel;
    is_its.then_some(Envelope {
        unix_ms,
        publication,
    })
}

/// A text with its length in front of it, and what follows the space behind it.
fn field(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = split(bytes, b':')?;
    let length = text(length)?.parse().ok()?;
    let (field, rest) = rest.split_at_checked(length)?;
    Some((text(field)?, rest.strip_prefix(b" ")?))
}

/// The letter that a text begins with, and the rest.
fn first(field: &str) -> (&str, &str) {
    field.split_at_checked(1).unwrap_or(("", field))
}

fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn text(bytes: &[u8]) -> Option<&str> {
    simdutf8::basic::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_comes_out_as_it_went_in() {
        let base = Publication::new("news", "up date", "{\"a\":\"1:2 \"}");
        let publications = [
            base,
            Publication::binary("news", b"\0\xff 3:"),
            Publication {
                target: BroadcastTarget::User("\u{e9}\n1:x"),
                retain: Retain::Value("a b"),
                scope: TenantScope::Of("acme"),
                ..base
            },
            Publication {
                target: BroadcastTarget::Except("0001000002000003"),
                retain: Retain::Clear(""),
                trace: Some(TraceContext {
                    trace_id: [7; 16],
                    span_id: [9; 8],
                }),
                ..base
            },
            Publication {
                scope: TenantScope::All,
                ..Publication::new("user:ann", "m", "1")
            },
        ];
        for publication in publications {
            let name = publication.full_name();
            let bytes = seal(&publication, 1_700_000_000_000);
            let envelope = open(&name, &bytes);
            let expected = Envelope {
                unix_ms: 1_700_000_000_000,
                publication,
            };
            assert_eq!(envelope, Some(expected), "{publication:?}");
            for end in 0..bytes.len() - publication.data.bytes().len() {
                assert_eq!(open(&name, &bytes[..end]), None);
            }
        }
    }

    #[test]
    fn what_another_program_writes_is_no_envelope_or_a_valid_one() {
        let valid = seal(&Publication::new("news", "m", "1"), 7);
        for channel in ["", "tenant:acme:news", "new\ns"] {
            assert_eq!(open(channel, &valid), None, "{channel}");
        }
        for bytes in [
            &b""[..],
            b"hello",
            b"7 j",
            b"7 j 1:m 0: 0: 0: 0:",
            b"7 x 1:m 0: 0: 0: 0: 1",
            b"7 j 1:m 1:q 0: 0: 0: 1",
            b"7 j 9:m 0: 0: 0: 0: 1",
            b"7 j 18446744073709551616:m 0: 0: 0: 0: 1",
            b"7 j 1:m 0: 0: 0: 0: \xff",
            b"7 j 1:\n 0: 0: 0: 0: 1",
        ] {
            assert_eq!(open("news", bytes), None, "{bytes:?}");
        }
    }
}

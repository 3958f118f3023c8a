//! Publications as records: what a program writes that publishes into a running server.
//!
//! ```text
//!   0         1         2        3       4         6       8        10       12        16
//!   ├ version ┼ content ┼ target ┼ scope ┼ channel ┼ type  ┼ target ┼ tenant ┼ zero    ┤
//!   │ (u8)    │ (u8)    │ (u8)   │ (u8)  │ bytes   │ bytes │ bytes  │ bytes  │ (u32)   │
//!   │         │         │        │       │ (u16)   │ (u16) │ (u16)  │ (u16)  │         │
//!   16
//!   ├ channel ┼ type ┼ target ┼ tenant ┼ data, to the end of the record ┤
//! ```
//!
//! Numbers are little-endian. The tag of the record is zero: there is one reader, and it wants all.

use core::fmt;

/// Bytes in front of the texts of a publication.
pub const PUBLICATION_HEAD_BYTES: usize = 16;
/// Changes with every change of the layout.
const VERSION: u8 = 1;
/// Parts of a record: the head, the four texts, and the data.
const PARTS: usize = 6;

/// A message for the subscribers of a channel, as a program writes it into a ring that a server reads. The
/// server checks the texts and the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication<'a> {
    /// The channel.
    pub channel: &'a str,
    /// What is published.
    pub content: Content<'a>,
    /// Which of the subscribers receive it.
    pub target: Target<'a>,
    /// The tenant whose channel it is.
    pub scope: Scope<'a>,
}

/// What is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content<'a> {
    /// A message of a type. The data are one JSON value in UTF-8.
    Json {
        /// The type of the message.
        kind: &'a str,
        /// The value.
        data: &'a [u8],
    },
    /// Bytes, for clients that take binary messages.
    Binary(&'a [u8]),
}

/// Which subscribers of the channel receive a publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target<'a> {
    /// All.
    #[default]
    All,
    /// The sessions of this user.
    User(&'a str),
    /// The sessions with this role.
    Role(&'a str),
    /// The sessions with this permission.
    Permission(&'a str),
    /// All but the session with this id.
    ExceptSession(&'a str),
}

/// The tenant whose channel is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope<'a> {
    /// None: sessions without a tenant, and those of protocols that do not separate tenants.
    #[default]
    WithoutTenant,
    /// This one.
    Tenant(&'a str),
    /// All; only for channels that the server subscribes sessions to.
    AllTenants,
}

/// Why a publication cannot be a record, or a record is no publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublicationError {
    /// A text is longer than 65,535 bytes.
    TextTooLong,
    /// The record has another version of the layout.
    Version(u8),
    /// The record is shorter than its texts, or has a number that means nothing.
    Malformed,
    /// A text is not UTF-8.
    NotUtf8,
}

impl fmt::Display for PublicationError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TextTooLong => formatter.write_str("a text is longer than 65,535 bytes"),
            Self::Version(found) => {
                write!(
                    formatter,
                    "version {found} of publications, expected {VERSION}"
                )
            }
            Self::Malformed => formatter.write_str("the record is no publication"),
            Self::NotUtf8 => formatter.write_str("a text is not UTF-8"),
        }
    }
}

impl core::error::Error for PublicationError {}

impl<'a> Publication<'a> {
    /// A message of a type with a JSON value, for all subscribers.
    #[must_use]
    pub const fn json(channel: &'a str, kind: &'a str, data: &'a [u8]) -> Self {
        Self::of(channel, Content::Json { kind, data })
    }

    /// Bytes for all subscribers that take binary messages.
    #[must_use]
    pub const fn binary(channel: &'a str, data: &'a [u8]) -> Self {
        Self::of(channel, Content::Binary(data))
    }

    const fn of(channel: &'a str, content: Content<'a>) -> Self {
        Self {
            channel,
            content,
            target: Target::All,
            scope: Scope::WithoutTenant,
        }
    }

    /// The first bytes of the record, from which [`Publication::parts`] makes the whole.
    ///
    /// # Errors
    ///
    /// [`PublicationError::TextTooLong`].
    pub fn head(&self) -> Result<[u8; PUBLICATION_HEAD_BYTES], PublicationError> {
        let texts = self.texts();
        let mut head = [0; PUBLICATION_HEAD_BYTES];
        let content = match self.content {
            Content::Json { .. } => 0,
            Content::Binary(_) => 1,
        };
        let target = match self.target {
            Target::All => 0,
            Target::User(_) => 1,
            Target::Role(_) => 2,
            Target::Permission(_) => 3,
            Target::ExceptSession(_) => 4,
        };
        let scope = match self.scope {
            Scope::WithoutTenant => 0,
            Scope::Tenant(_) => 1,
            Scope::AllTenants => 2,
        };
        head[..4].copy_from_slice(&[VERSION, content, target, scope]);
        for (bytes, text) in head[4..12].as_chunks_mut().0.iter_mut().zip(texts) {
            let length = u16::try_from(text.len()).map_err(|_| PublicationError::TextTooLong)?;
            *bytes = length.to_le_bytes();
        }
        Ok(head)
    }

    /// The parts of the record, for [`Writer::try_write`](crate::Writer::try_write). `head` is what
    /// [`Publication::head`] gave.
    #[must_use]
    pub fn parts<'b>(&'b self, head: &'b [u8; PUBLICATION_HEAD_BYTES]) -> [&'b [u8]; PARTS] {
        let [channel, kind, target, tenant] = self.texts().map(str::as_bytes);
        let (Content::Json { data, .. } | Content::Binary(data)) = self.content;
        [head, channel, kind, target, tenant, data]
    }

    fn texts(&self) -> [&'a str; 4] {
        let kind = match self.content {
            Content::Json { kind, .. } => kind,
            Content::Binary(_) => "",
        };
        let target = match self.target {
            Target::All => "",
            Target::User(text)
            | Target::Role(text)
            | Target::Permission(text)
            | Target::ExceptSession(text) => text,
        };
        let tenant = match self.scope {
            Scope::Tenant(tenant) => tenant,
            Scope::WithoutTenant | Scope::AllTenants => "",
        };
        [self.channel, kind, target, tenant]
    }

    /// The publication in a record, which may hold anything.
    ///
    /// # Errors
    ///
    /// If it holds none.
    pub fn parse(record: &'a [u8]) -> Result<Self, PublicationError> {
        let malformed = PublicationError::Malformed;
        let (head, mut rest) = record
            .split_first_chunk::<PUBLICATION_HEAD_BYTES>()
            .ok_or(malformed)?;
        let [version, content, target, scope] = [head[0], head[1], head[2], head[3]];
        if version != VERSION {
            return Err(PublicationError::Version(version));
        }
        if head[12..] != [0; 4] {
            return Err(malformed);
        }
        let mut texts = [""; 4];
        for (text, length) in texts.iter_mut().zip(head[4..12].as_chunks().0) {
            let length = usize::from(u16::from_le_bytes(*length));
            let (bytes, behind) = rest.split_at_checked(length).ok_or(malformed)?;
            *text = str::from_utf8(bytes).map_err(|_| PublicationError::NotUtf8)?;
            rest = behind;
        }
        let [channel, kind, whom, tenant] = texts;
        let content = match (content, kind) {
            (0, kind) => Content::Json { kind, data: rest },
            (1, "") => Content::Binary(rest),
            _ => return Err(malformed),
        };
        let target = match (target, whom) {
            (0, "") => Target::All,
            (1, user) => Target::User(user),
            (2, role) => Target::Role(role),
            (3, permission) => Target::Permission(permission),
            (4, session) => Target::ExceptSession(session),
            _ => return Err(malformed),
        };
        let scope = match (scope, tenant) {
            (0, "") => Scope::WithoutTenant,
            (1, tenant) => Scope::Tenant(tenant),
            (2, "") => Scope::AllTenants,
            _ => return Err(malformed),
        };
        Ok(Self {
            channel,
            content,
            target,
            scope,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn record(publication: &Publication<'_>) -> Vec<u8> {
        let head = publication.head().expect("short texts");
        publication.parts(&head).concat()
    }

    #[test]
    fn a_publication_reads_as_it_was_written() {
        let json = Publication::json("news", "headline", b"{\"a\":1}");
        for publication in [
            json,
            Publication::binary("news", &[0, 255]),
            Publication::json("", "", b""),
            Publication {
                target: Target::User("ann"),
                scope: Scope::Tenant("acme"),
                ..json
            },
            Publication {
                target: Target::Role("editor"),
                scope: Scope::AllTenants,
                ..json
            },
            Publication {
                target: Target::Permission("billing"),
                ..json
            },
            Publication {
                target: Target::ExceptSession("0123456789abcdef"),
                ..json
            },
        ] {
            let record = record(&publication);
            assert_eq!(Publication::parse(&record), Ok(publication));
        }
    }

    #[test]
    fn what_is_no_publication_is_an_error() {
        let publication = Publication {
            target: Target::User("ann"),
            scope: Scope::Tenant("acme"),
            ..Publication::json("news", "headline", b"")
        };
        let whole = record(&publication);
        // Cut anywhere; its data are empty, so each byte belongs to a text.
        for bytes in 0..whole.len() {
            let cut = Publication::parse(&whole[..bytes]);
            assert_eq!(cut, Err(PublicationError::Malformed), "{bytes}");
        }
        let with = |at: usize, value: u8| {
            let mut changed = whole.clone();
            changed[at] = value;
            changed
        };
        for (at, value, error) in [
            (0, 2, PublicationError::Version(2)),
            (1, 1, PublicationError::Malformed),
            (1, 2, PublicationError::Malformed),
            (2, 0, PublicationError::Malformed),
            (2, 5, PublicationError::Malformed),
            (3, 0, PublicationError::Malformed),
            (3, 2, PublicationError::Malformed),
            (3, 3, PublicationError::Malformed),
            (5, 255, PublicationError::Malformed),
            (15, 1, PublicationError::Malformed),
            (16, 0xff, PublicationError::NotUtf8),
        ] {
            assert_eq!(Publication::parse(&with(at, value)), Err(error), "{at}");
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_an_error() {
        let long = "x".repeat(65_536);
        let publication = Publication::json(&long, "x", b"1");
        assert_eq!(publication.head(), Err(PublicationError::TextTooLong));
    }
}

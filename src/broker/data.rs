//! What a publication says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::borrow::Cow;

/// The content of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// Valid JSON, as the publisher wrote it.
    Json(&'a str),
    /// Any bytes: for the subscribers that have asked for binary messages.
    Binary(&'a [u8]),
}

impl<'a> Data<'a> {
    /// The JSON; `None` if it is not that.
    #[must_use]
    pub const fn json(self) -> Option<&'a str> {
        match self {
            Self::Json(json) => Some(json),
            Self::Binary(_) => None,
        }
    }

    /// As JSON: of binary data a text in base64 (RFC 4648 4).
    #[must_use]
    pub fn to_json(self) -> Cow<'a, str> {
        match self {
            Self::Json(json) => json.into(),
            Self::Binary(bytes) => format!("\"{}\"", BASE64.encode(bytes)).into(),
        }
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        match self {
            Self::Json(json) => json.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// Whether it is binary.
    #[must_use]
    pub const fn is_binary(self) -> bool {
        matches!(self, Self::Binary(_))
    }
}

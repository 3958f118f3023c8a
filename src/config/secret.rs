//! Secrets, which are never shown, and checks for weak ones.

/// What is printed in place of a secret.
pub(super) const MASK: &str = "(secret)";
/// Secrets of examples and tutorials, in lower case.
const PLACEHOLDERS: [&str; 16] = [
    "your-secret-key",
    "your-secret-key-change-this",
    "your-secret-key-here",
    "your-secret",
    "your_jwt_secret",
    "your-jwt-secret",
    "your-super-secret-key",
    "change-me",
    "changeme",
    "change_me",
    "change-this-in-production",
    "secret",
    "password",
    "your-256-bit-secret",
    "a secret of 32 bytes or more, from a vault",
    MASK,
];
/// Bytes of a key of HS256 (RFC 7518 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// A text that is never shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl Secret {
    /// Whether it is known from examples, or blank.
    pub(super) fn is_placeholder(&self) -> bool {
        let text = self.0.trim();
        let is_blank = text.is_empty() && !self.0.is_empty();
        is_blank || PLACEHOLDERS.contains(&&*text.to_ascii_lowercase())
    }

    /// Whether it can be guessed.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        self.is_placeholder() || self.is_short()
    }

    /// Whether it is what reports print in place of a secret.
    pub(super) fn is_mask(&self) -> bool {
        self.0 == MASK
    }

    /// Whether it is shorter than its hash.
    pub(super) fn is_short(&self) -> bool {
        self.0.len() < SECRET_BYTES_MIN
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(MASK)
    }
}

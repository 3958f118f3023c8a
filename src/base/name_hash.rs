//! Keyed hashes of names, which tables use instead of the names.

use siphasher::sip::SipHasher13;
use std::hash::{BuildHasher, Hasher, RandomState};

/// The key: 16 secret random bytes, so that no client can choose names with equal hashes. What a
/// durable store has of hashes is of use only with the key of the process that wrote it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NameKey([u8; 16]);

impl std::fmt::Debug for NameKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("NameKey")
    }
}

impl NameKey {
    /// A new key.
    #[must_use]
    pub fn random() -> Self {
        let random = || RandomState::new().hash_one(0).to_le_bytes();
        let mut key = [0; 16];
        key[..8].copy_from_slice(&random());
        key[8..].copy_from_slice(&random());
        Self(key)
    }

    /// The key with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// The hash of a name (SipHash-1-3, Aumasson and Bernstein, 2012), the same in all processes with
    /// this key.
    #[must_use]
    pub fn hash(self, name: &str) -> u64 {
        self.hash_bytes(name.as_bytes())
    }

    /// The same of any bytes.
    #[must_use]
    pub fn hash_bytes(self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(bytes);
        hasher.finish()
    }

    /// The hash of two names; no other two have the same for their bytes, wherever one ends.
    #[must_use]
    pub fn hash_pair(self, first: &str, second: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(&first.len().to_le_bytes());
        hasher.write(first.as_bytes());
        hasher.write(second.as_bytes());
        hasher.finish()
    }
}

impl Default for NameKey {
    fn default() -> Self {
        Self::random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_depend_on_the_key_and_the_name_only() {
        let key = NameKey::from_bytes([7; 16]);
        assert_eq!(
            key.hash("news"),
            NameKey::from_bytes(key.bytes()).hash("news")
        );
        assert_ne!(key.hash("news"), NameKey::from_bytes([8; 16]).hash("news"));
        assert_ne!(key.hash("news"), key.hash("new"));
        assert_ne!(key.hash_pair("ab", "c"), key.hash_pair("a", "bc"));
        assert_ne!(NameKey::random(), NameKey::random());
        // As every later version must give it, because stores have it.
        assert_eq!(key.hash("news"), 14_261_885_459_952_452_626);
    }
}

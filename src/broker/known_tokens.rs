//! Which tokens were valid when they were last verified, and which are being verified.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tokens that are remembered as valid: those of the users behind the addresses that are attacked
/// at the same time, at eight bytes each.
const KNOWN_TOKENS: usize = 16_384;

/// Hashes of tokens that were valid when they were last verified, one per slot: a later token takes
/// the slot of an earlier one. A hash that is found says only that its token is worth verifying.
#[derive(Debug)]
pub(super) struct KnownTokens {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for KnownTokens {
    fn default() -> Self {
        let slots = (0..KNOWN_TOKENS).map(|_| AtomicU64::new(0));
        Self {
            slots: slots.collect(),
            hasher: RandomState::new(),
        }
    }
}

/// What is remembered of a token: a keyed hash, not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenKey(u64);

/// A token that others are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The address of the client.
    pub(super) address: IpAddr,
    pub(super) token: TokenKey,
    pub(super) asked_unix_s: u64,
    /// It counts as a failure until the others say that it is none.
    pub(super) is_counted: bool,
}

impl KnownTokens {
    pub(super) fn key(&self, token: &str) -> TokenKey {
        TokenKey(self.hasher.hash_one(token).max(1))
    }

    fn slot(&self, key: TokenKey) -> &AtomicU64 {
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of the slots")]
        let index = (key.0 % KNOWN_TOKENS as u64) as usize;
        &self.slots[index]
    }

    pub(super) fn contains(&self, key: TokenKey) -> bool {
        self.slot(key).load(Ordering::Relaxed) == key.0
    }

    pub(super) fn add(&self, key: TokenKey) {
        self.slot(key).store(key.0, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, key: TokenKey) {
        let slot = self.slot(key);
        let _ = slot.compare_exchange(key.0, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_until_it_fails_or_another_takes_its_slot() {
        let known = KnownTokens::default();
        let [a, b] = ["a", "b"].map(|token| known.key(token));
        assert!(!known.contains(a));
        known.add(a);
        assert!(known.contains(a) && !known.contains(b));
        known.remove(b);
        assert!(known.contains(a));
        known.remove(a);
        assert!(!known.contains(a));
        let key = |number: u32| known.key(&number.to_string());
        for number in 0..100_000 {
            known.add(key(number));
        }
        let found = (0..100_000).filter(|number| known.contains(key(*number)));
        let count = found.count();
        assert!(
            (KNOWN_TOKENS / 2..=KNOWN_TOKENS).contains(&count),
            "{count}"
        );
    }
}

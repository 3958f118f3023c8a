//! Which tokens were valid when they were last verified.

use std::hash::{BuildHasher, RandomState};
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

impl KnownTokens {
    fn slot(&self, token: &str) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(token).max(1);
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of the slots")]
        let index = (hash % KNOWN_TOKENS as u64) as usize;
        (&self.slots[index], hash)
    }

    pub(super) fn contains(&self, token: &str) -> bool {
        let (slot, hash) = self.slot(token);
        slot.load(Ordering::Relaxed) == hash
    }

    pub(super) fn add(&self, token: &str) {
        let (slot, hash) = self.slot(token);
        slot.store(hash, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, token: &str) {
        let (slot, hash) = self.slot(token);
        let _ = slot.compare_exchange(hash, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_until_it_fails_or_another_takes_its_slot() {
        let known = KnownTokens::default();
        assert!(!known.contains("a"));
        known.add("a");
        assert!(known.contains("a") && !known.contains("b"));
        known.remove("b");
        assert!(known.contains("a"));
        known.remove("a");
        assert!(!known.contains("a"));
        for number in 0..100_000 {
            known.add(&number.to_string());
        }
        let found = (0..100_000).filter(|number| known.contains(&number.to_string()));
        let count = found.count();
        assert!(
            (KNOWN_TOKENS / 2..=KNOWN_TOKENS).contains(&count),
            "{count}"
        );
    }
}

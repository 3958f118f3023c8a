//! What the shards of a process count together: connections, and which variants are in use.

use super::id::{DialectId, Variant};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts shared by all shards.
///
/// All accesses are relaxed: each value stands alone, and nothing else is published through it. A
/// reader that sees a count late encodes one variant too many, or lets a shard that needs one encode
/// it itself.
#[derive(Debug, Default)]
pub struct Census {
    sessions: [AtomicU64; DialectId::COUNT],
    subscriptions: [AtomicU64; Variant::COUNT],
}

impl Census {
    /// Takes a place for a session of `dialect`, unless `dialect_max` or `total_max` sessions are
    /// there already; 0 means no limit.
    pub fn admit(&self, dialect: DialectId, dialect_max: u64, total_max: u64) -> bool {
        let count = self.sessions[dialect.index()].fetch_add(1, Ordering::Relaxed) + 1;
        let over_dialect = dialect_max != 0 && count > dialect_max;
        let over_total = total_max != 0 && self.sessions_total() > total_max;
        if over_dialect || over_total {
            self.leave(dialect);
            return false;
        }
        true
    }

    /// Gives a session's place back.
    pub fn leave(&self, dialect: DialectId) {
        self.sessions[dialect.index()].fetch_sub(1, Ordering::Relaxed);
    }

    /// Sessions of one dialect.
    #[must_use]
    pub fn sessions(&self, dialect: DialectId) -> u64 {
        self.sessions[dialect.index()].load(Ordering::Relaxed)
    }

    /// Sessions of all dialects.
    #[must_use]
    pub fn sessions_total(&self) -> u64 {
        let counts = self.sessions.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Notes one more subscription that wants frames of `variant`.
    pub fn subscribe(&self, variant: Variant) {
        self.subscriptions[usize::from(variant.index())].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes `count` subscriptions fewer.
    pub fn unsubscribe(&self, variant: Variant, count: u64) {
        self.subscriptions[usize::from(variant.index())].fetch_sub(count, Ordering::Relaxed);
    }

    /// Subscriptions that want frames of `variant`.
    #[must_use]
    pub fn subscriptions(&self, variant: Variant) -> u64 {
        self.subscriptions[usize::from(variant.index())].load(Ordering::Relaxed)
    }

    /// The variants that have a subscriber anywhere in the process, as a mask.
    #[must_use]
    pub fn variants_in_use(&self) -> u32 {
        let in_use = Variant::all().filter(|variant| self.subscriptions(*variant) > 0);
        in_use.map(Variant::bit).fold(0, |mask, bit| mask | bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_dialect_refuses_without_taking_a_place() {
        let census = Census::default();
        assert!(census.admit(DialectId::Gateway, 1, 0));
        assert!(!census.admit(DialectId::Gateway, 1, 0));
        assert!(census.admit(DialectId::Monitoring, 1, 2));
        assert!(!census.admit(DialectId::Monitoring, 0, 2));
        assert_eq!(census.sessions_total(), 2);
        census.leave(DialectId::Gateway);
        assert!(census.admit(DialectId::Gateway, 1, 2));
    }

    #[test]
    fn the_mask_holds_just_the_variants_with_subscribers() {
        let census = Census::default();
        let monitoring = Variant::plain(DialectId::Monitoring);
        assert_eq!(census.variants_in_use(), 0);
        census.subscribe(monitoring);
        census.subscribe(monitoring);
        assert_eq!(census.variants_in_use(), monitoring.bit());
        census.unsubscribe(monitoring, 2);
        assert_eq!(census.variants_in_use(), 0);
    }
}

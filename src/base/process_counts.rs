//! What the shards of a process count together: sessions, and which variants are in use where.

use super::id::{DialectId, Variant};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Buckets of the table that tells which variants a channel needs. Channels that share a bucket cost
/// each other an encode at most, never a delivery.
const BUCKETS: usize = 1_024;

/// Where a channel's subscriptions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    bucket: u16,
    watch: Option<u8>,
}

/// Counts shared by all shards.
///
/// All accesses are relaxed: each value stands alone, and nothing else is published through it. A
/// reader that sees a count late encodes one variant too many, or lets a shard that needs one encode
/// it itself.
#[derive(Debug)]
pub struct Census {
    sessions: [AtomicU64; DialectId::COUNT],
    sessions_ever: AtomicU64,
    subscriptions: Box<[[AtomicU32; Variant::COUNT]]>,
    watched: Vec<(&'static str, AtomicU64)>,
}

impl Default for Census {
    fn default() -> Self {
        Self::watching(&[])
    }
}

impl Census {
    /// A census that also counts the subscriptions of `channels` one by one.
    #[must_use]
    pub fn watching(channels: &[&'static str]) -> Self {
        let buckets = (0..BUCKETS).map(|_| std::array::from_fn(|_| AtomicU32::new(0)));
        let watched = channels.iter().map(|name| (*name, AtomicU64::new(0)));
        Self {
            sessions: std::array::from_fn(|_| AtomicU64::new(0)),
            sessions_ever: AtomicU64::new(0),
            subscriptions: buckets.collect(),
            watched: watched.collect(),
        }
    }

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
        self.sessions_ever.fetch_add(1, Ordering::Relaxed);
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

    /// Sessions that ever were.
    #[must_use]
    pub fn sessions_ever(&self) -> u64 {
        self.sessions_ever.load(Ordering::Relaxed)
    }

    /// Where the subscriptions of `channel` are counted.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a remainder of 1,024, and an index of a list of a few names"
    )]
    pub fn place(&self, channel: &str) -> Place {
        let mut hasher = DefaultHasher::new();
        channel.hash(&mut hasher);
        let mut watched = self.watched.iter();
        Place {
            bucket: (hasher.finish() % BUCKETS as u64) as u16,
            watch: watched
                .position(|(name, _)| *name == channel)
                .map(|index| index as u8),
        }
    }

    /// Notes one more subscription that wants frames of `variant`.
    pub fn subscribe(&self, place: Place, variant: Variant) {
        self.count_of(place, variant)
            .fetch_add(1, Ordering::Relaxed);
        if let Some(watch) = place.watch {
            let (_, count) = &self.watched[usize::from(watch)];
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes one subscription fewer.
    pub fn unsubscribe(&self, place: Place, variant: Variant) {
        self.count_of(place, variant)
            .fetch_sub(1, Ordering::Relaxed);
        if let Some(watch) = place.watch {
            let (_, count) = &self.watched[usize::from(watch)];
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn count_of(&self, place: Place, variant: Variant) -> &AtomicU32 {
        &self.subscriptions[usize::from(place.bucket)][usize::from(variant.index())]
    }

    /// The variants that subscribers of a channel want, anywhere in the process, as a mask.
    #[must_use]
    pub fn variants_in_use(&self, place: Place) -> u32 {
        let in_use = |variant: &Variant| self.count_of(place, *variant).load(Ordering::Relaxed) > 0;
        let in_use = Variant::all().filter(in_use);
        in_use.map(Variant::bit).fold(0, |mask, bit| mask | bit)
    }

    /// Subscriptions of a channel that this census watches; 0 for any other.
    #[must_use]
    pub fn subscriptions_of(&self, channel: &str) -> u64 {
        let mut watched = self.watched.iter();
        let found = watched.find(|(name, _)| *name == channel);
        found.map_or(0, |(_, count)| count.load(Ordering::Relaxed))
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
        assert_eq!(census.sessions_ever(), 3);
    }

    #[test]
    fn the_mask_holds_just_the_variants_that_the_channel_needs() {
        let census = Census::default();
        let monitoring = Variant::plain(DialectId::Monitoring);
        let (news, other) = (census.place("news"), census.place("other"));
        assert_ne!(news, other);
        census.subscribe(news, monitoring);
        census.subscribe(news, monitoring);
        assert_eq!(census.variants_in_use(news), monitoring.bit());
        assert_eq!(census.variants_in_use(other), 0);
        census.unsubscribe(news, monitoring);
        census.unsubscribe(news, monitoring);
        assert_eq!(census.variants_in_use(news), 0);
    }

    #[test]
    fn watched_channels_are_counted_apart() {
        let census = Census::watching(&["host"]);
        let gateway = Variant::plain(DialectId::Gateway);
        census.subscribe(census.place("host"), gateway);
        census.subscribe(census.place("news"), gateway);
        assert_eq!(census.subscriptions_of("host"), 1);
        assert_eq!(census.subscriptions_of("news"), 0);
        census.unsubscribe(census.place("host"), gateway);
        assert_eq!(census.subscriptions_of("host"), 0);
    }
}

//! Counts shared by the shards of a process: sessions, and the variants in use on each channel.

use super::id::{DialectId, Variant};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Buckets of the table of variants in use. Channels that share a bucket can cost each other an
/// encode, never a delivery.
const BUCKETS: usize = 1_024;

/// Where a channel's subscriptions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterSlot {
    bucket: u16,
    tracked: Option<u8>,
}

/// Counts shared by all shards.
///
/// All accesses are relaxed: the values are independent, and no other data is published through
/// them. A reader that sees a count late encodes one variant too many, or leaves the encoding of
/// one variant to the shard that needs it.
#[derive(Debug)]
pub struct ProcessCounts {
    sessions: [AtomicU64; DialectId::COUNT],
    sessions_opened: AtomicU64,
    subscriptions: Box<[[AtomicU32; Variant::COUNT]]>,
    tracked: Vec<(String, AtomicU64)>,
}

impl Default for ProcessCounts {
    fn default() -> Self {
        Self::tracking(&[])
    }
}

impl ProcessCounts {
    /// Counts that also include the exact number of subscriptions of each of `channels`.
    #[must_use]
    pub fn tracking(channels: &[String]) -> Self {
        let buckets = (0..BUCKETS).map(|_| std::array::from_fn(|_| AtomicU32::new(0)));
        let tracked = channels
            .iter()
            .map(|name| (name.clone(), AtomicU64::new(0)));
        Self {
            sessions: std::array::from_fn(|_| AtomicU64::new(0)),
            sessions_opened: AtomicU64::new(0),
            subscriptions: buckets.collect(),
            tracked: tracked.collect(),
        }
    }

    /// Counts a session of `dialect`, unless `dialect_max` or `total_max` is reached; 0 means no
    /// limit.
    pub fn add_session(&self, dialect: DialectId, dialect_max: u64, total_max: u64) -> bool {
        let count = self.sessions[dialect.index()].fetch_add(1, Ordering::Relaxed) + 1;
        let over_dialect = dialect_max != 0 && count > dialect_max;
        let over_total = total_max != 0 && self.sessions_total() > total_max;
        if over_dialect || over_total {
            self.remove_session(dialect);
            return false;
        }
        self.sessions_opened.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Removes a session of `dialect` from the count.
    pub fn remove_session(&self, dialect: DialectId) {
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

    /// Sessions opened since the start.
    #[must_use]
    pub fn sessions_opened(&self) -> u64 {
        self.sessions_opened.load(Ordering::Relaxed)
    }

    /// Where the subscriptions of `channel` are counted.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a remainder of 1,024, and an index of a list of a few names"
    )]
    pub fn counter_slot(&self, channel: &str) -> CounterSlot {
        let mut hasher = DefaultHasher::new();
        channel.hash(&mut hasher);
        let mut tracked = self.tracked.iter();
        CounterSlot {
            bucket: (hasher.finish() % BUCKETS as u64) as u16,
            tracked: tracked
                .position(|(name, _)| *name == channel)
                .map(|index| index as u8),
        }
    }

    /// Counts one more subscription that receives frames of `variant`.
    pub fn subscribe(&self, counter_slot: CounterSlot, variant: Variant) {
        self.count_of(counter_slot, variant)
            .fetch_add(1, Ordering::Relaxed);
        if let Some(tracked) = counter_slot.tracked {
            let (_, count) = &self.tracked[usize::from(tracked)];
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts one subscription fewer.
    pub fn unsubscribe(&self, counter_slot: CounterSlot, variant: Variant) {
        self.count_of(counter_slot, variant)
            .fetch_sub(1, Ordering::Relaxed);
        if let Some(tracked) = counter_slot.tracked {
            let (_, count) = &self.tracked[usize::from(tracked)];
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn count_of(&self, counter_slot: CounterSlot, variant: Variant) -> &AtomicU32 {
        &self.subscriptions[usize::from(counter_slot.bucket)][usize::from(variant.index())]
    }

    /// The variants that subscribers of a channel receive, anywhere in the process, as a mask.
    #[must_use]
    pub fn variants_in_use(&self, counter_slot: CounterSlot) -> u32 {
        let in_use = |variant: &Variant| {
            self.count_of(counter_slot, *variant)
                .load(Ordering::Relaxed)
                > 0
        };
        let in_use = Variant::all().filter(in_use);
        in_use.map(Variant::bit).fold(0, |mask, bit| mask | bit)
    }

    /// Subscriptions of a channel given to [`tracking`](Self::tracking); 0 for any other.
    #[must_use]
    pub fn subscriptions_of(&self, channel: &str) -> u64 {
        let mut tracked = self.tracked.iter();
        let found = tracked.find(|(name, _)| *name == channel);
        found.map_or(0, |(_, count)| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_dialect_refuses_without_taking_a_place() {
        let process_counts = ProcessCounts::default();
        assert!(process_counts.add_session(DialectId::Gateway, 1, 0));
        assert!(!process_counts.add_session(DialectId::Gateway, 1, 0));
        assert!(process_counts.add_session(DialectId::Monitoring, 1, 2));
        assert!(!process_counts.add_session(DialectId::Monitoring, 0, 2));
        assert_eq!(process_counts.sessions_total(), 2);
        process_counts.remove_session(DialectId::Gateway);
        assert!(process_counts.add_session(DialectId::Gateway, 1, 2));
        assert_eq!(process_counts.sessions_opened(), 3);
    }

    #[test]
    fn the_mask_holds_just_the_variants_that_the_channel_needs() {
        let process_counts = ProcessCounts::default();
        let monitoring = Variant::plain(DialectId::Monitoring);
        let (news, other) = (
            process_counts.counter_slot("news"),
            process_counts.counter_slot("other"),
        );
        assert_ne!(news, other);
        process_counts.subscribe(news, monitoring);
        process_counts.subscribe(news, monitoring);
        assert_eq!(process_counts.variants_in_use(news), monitoring.bit());
        assert_eq!(process_counts.variants_in_use(other), 0);
        process_counts.unsubscribe(news, monitoring);
        process_counts.unsubscribe(news, monitoring);
        assert_eq!(process_counts.variants_in_use(news), 0);
    }

    #[test]
    fn tracked_channels_are_counted_apart() {
        let process_counts = ProcessCounts::tracking(&["host".to_owned()]);
        let gateway = Variant::plain(DialectId::Gateway);
        process_counts.subscribe(process_counts.counter_slot("host"), gateway);
        process_counts.subscribe(process_counts.counter_slot("news"), gateway);
        assert_eq!(process_counts.subscriptions_of("host"), 1);
        assert_eq!(process_counts.subscriptions_of("news"), 0);
        process_counts.unsubscribe(process_counts.counter_slot("host"), gateway);
        assert_eq!(process_counts.subscriptions_of("host"), 0);
    }
}

//! What is known of channels that are not in the table of the history any more.

use super::interest::{ChannelTag, TagMap};
use super::limits::HISTORY_REMOVED_MAX;
use std::collections::VecDeque;

/// Up to which offsets entries of channels may have been removed that are not in the table.
///
/// Of the channels that were removed last it is known for each one, so that a client of a quiet
/// channel, whose last publication is over its age, is not told that it missed something because
/// other channels did. Of all others the highest one is known.
#[derive(Debug, Default)]
pub(super) struct RemovedChannels {
    by_tag: TagMap<u64>,
    /// In the order in which they were removed. Those that have come back are left in it.
    order: VecDeque<(ChannelTag, u64)>,
    others: u64,
}

impl RemovedChannels {
    /// The offset up to which entries of a channel may have been removed that is not in the table.
    pub(super) fn lost_through(&self, tag: ChannelTag) -> u64 {
        self.by_tag.get(&tag).copied().unwrap_or(self.others)
    }

    /// The highest such offset.
    pub(super) fn max(&self) -> u64 {
        let highest = self.by_tag.values().copied().max();
        highest.unwrap_or_default().max(self.others)
    }

    /// Of all channels that are not in the table, entries up to an offset may have been removed.
    pub(super) fn raise(&mut self, through: u64) {
        *self = Self {
            others: self.max().max(through),
            ..Self::default()
        };
    }

    /// As `lost_through`, of a channel that is in the table from now on.
    pub(super) fn take(&mut self, tag: ChannelTag) -> u64 {
        self.by_tag.remove(&tag).unwrap_or(self.others)
    }

    /// A channel is not in the table from now on.
    pub(super) fn add(&mut self, tag: ChannelTag, lost_through: u64) {
        if self.order.len() == HISTORY_REMOVED_MAX
            && let Some((oldest, lost_through)) = self.order.pop_front()
            && self.by_tag.get(&oldest) == Some(&lost_through)
        {
            self.by_tag.remove(&oldest);
            self.others = self.others.max(lost_through);
        }
        self.by_tag.insert(tag, lost_through);
        self.order.push_back((tag, lost_through));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(number: u64) -> ChannelTag {
        ChannelTag::from_bits(number)
    }

    #[test]
    fn what_channels_lost_is_known_of_each_of_the_last_ones() {
        let mut removed = RemovedChannels::default();
        let count = HISTORY_REMOVED_MAX as u64;
        for number in 0..count {
            removed.add(tag(number), 100 + number);
        }
        let lost = |removed: &RemovedChannels, number| removed.lost_through(tag(number));
        assert_eq!([0, 1, count].map(|it| lost(&removed, it)), [100, 101, 0]);
        // The first one comes back and goes again; the next one is the oldest then.
        assert_eq!(removed.take(tag(0)), 100);
        removed.add(tag(0), 5_000);
        assert_eq!([0, 1].map(|it| lost(&removed, it)), [5_000, 101]);
        removed.add(tag(count), 6_000);
        assert_eq!([0, 1, 2].map(|it| lost(&removed, it)), [5_000, 101, 102]);
        // Never less than was lost, whatever is forgotten.
        for number in 0..4 * count {
            let tag = tag(10_000 + number);
            assert_eq!(removed.take(tag), removed.others);
            removed.add(tag, 7_000 + number);
        }
        assert_eq!(removed.order.len(), HISTORY_REMOVED_MAX);
        assert_eq!(removed.by_tag.len(), HISTORY_REMOVED_MAX);
        assert_eq!(lost(&removed, 0), 7_000 + 3 * count - 1);
        assert_eq!(removed.max(), 7_000 + 4 * count - 1);
        removed.raise(5);
        assert_eq!(lost(&removed, 10_000), 7_000 + 4 * count - 1);
    }
}

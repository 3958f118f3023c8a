//! Who subscribed to what, on one shard.

use super::filters::{Filter, FilterId, FilterIndex};
use crate::base::process_counts::CounterSlot;
use crate::base::{SubscriptionId, Variant};
use crate::json::Object;
use std::collections::HashMap;

/// What the subscribers of an audience have in common, so that one run of frames serves them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taste {
    /// The form in which they want frames.
    pub variant: Variant,
    /// Width of their subscription ids, bytes; 0 = they have none.
    pub subscription_id_bytes: u16,
    /// Their filter among the channel's; `None` = they want everything.
    filter: Option<FilterId>,
}

/// Subscribers of a channel with the same taste.
#[derive(Debug)]
pub struct Audience {
    /// What they have in common.
    pub taste: Taste,
    /// Their slots, in no order. A slot leaves before its connection does, so none is stale.
    pub slots: Vec<u32>,
    /// Their subscription ids, in the same order; empty if they have none.
    pub subscription_ids: Vec<SubscriptionId>,
}

/// A channel with at least one subscriber on this shard.
#[derive(Debug)]
pub struct Channel {
    name: Box<str>,
    counter_slot: CounterSlot,
    /// Whether sessions hear it without asking.
    is_direct: bool,
    audiences: Vec<Audience>,
    /// Audiences without subscribers, to be used again.
    vacant: Vec<u32>,
    /// Those of `audiences` that want everything.
    unfiltered: Vec<u32>,
    filters: Option<Box<Filters>>,
}

/// The filters of a channel, and which audiences each one serves.
#[derive(Debug, Default)]
struct Filters {
    index: FilterIndex,
    /// By the slots of the filters.
    audiences: Vec<Vec<u32>>,
    matched: Vec<FilterId>,
}

impl Filters {
    /// The audiences of a filter.
    fn groups_of(&mut self, filter_id: FilterId) -> &mut Vec<u32> {
        let slot = filter_id.slot() as usize;
        if self.audiences.len() <= slot {
            self.audiences.resize_with(slot + 1, Vec::new);
        }
        &mut self.audiences[slot]
    }
}

impl Channel {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether some subscribers want only what matches their filter.
    #[must_use]
    pub fn has_filters(&self) -> bool {
        self.filters.is_some()
    }

    /// The audience with that index.
    #[must_use]
    pub fn audience(&self, index: u32) -> &Audience {
        &self.audiences[index as usize]
    }

    /// Appends the audiences that want every publication.
    pub fn unfiltered(&self, audiences: &mut Vec<u32>) {
        audiences.extend_from_slice(&self.unfiltered);
    }

    /// Appends the audiences whose filter matches `data`; returns how many filters were evaluated.
    pub fn matching(&mut self, data: &Object<'_>, audiences: &mut Vec<u32>) -> u64 {
        let Some(filters) = &mut self.filters else {
            return 0;
        };
        let Filters {
            index,
            audiences: by_group,
            matched,
        } = &mut **filters;
        matched.clear();
        let evaluations = index.matches(data, matched);
        for filter_id in matched {
            audiences.extend_from_slice(&by_group[filter_id.slot() as usize]);
        }
        evaluations
    }

    fn audience_of(&mut self, taste: Taste) -> u32 {
        let same = match taste.filter {
            None => &self.unfiltered,
            Some(filter_id) => self.filters.get_or_insert_default().groups_of(filter_id),
        };
        let mut same = same.iter();
        if let Some(found) = same.find(|index| self.audiences[**index as usize].taste == taste) {
            return *found;
        }
        let audience = Audience {
            taste,
            slots: Vec::new(),
            subscription_ids: Vec::new(),
        };
        let index = match self.vacant.pop() {
            Some(index) => {
                self.audiences[index as usize] = audience;
                index
            }
            None => {
                self.audiences.push(audience);
                let index = u32::try_from(self.audiences.len() - 1);
                index.expect("fewer audiences than subscriptions, which are u32")
            }
        };
        match taste.filter {
            None => self.unfiltered.push(index),
            Some(filter_id) => {
                let filters = self.filters.get_or_insert_default();
                filters.groups_of(filter_id).push(index);
            }
        }
        index
    }

    /// Forgets an audience that has lost its last subscriber, and its filter if nobody else has it.
    fn vacate(&mut self, index: u32) {
        let taste = self.audiences[index as usize].taste;
        self.vacant.push(index);
        let Some(filter_id) = taste.filter else {
            return self.unfiltered.retain(|other| *other != index);
        };
        let filters = self.filters.as_mut();
        let filters = filters.expect("an audience's filter is its channel's");
        let groups_of = filters.groups_of(filter_id);
        groups_of.retain(|other| *other != index);
        if groups_of.is_empty() {
            filters.index.remove(filter_id);
        }
        if filters.index.is_empty() {
            self.filters = None;
        }
    }
}

/// Index of a channel in this shard's table; reused when the channel has lost its last subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelIndex(u32);

/// One subscription of a session: the channel, and where in which audience the session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) channel: ChannelIndex,
    audience: u32,
    position: u32,
}

/// A subscriber that moved to another position in its audience when a neighbour left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) slot: u32,
    pub(super) from: Membership,
    pub(super) to: Membership,
}

/// Who joins a channel, and how.
#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) slot: u32,
    pub(super) variant: Variant,
    pub(super) subscription_id: Option<SubscriptionId>,
    pub(super) filter: Option<Filter>,
}

/// The channels of one shard.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_name: HashMap<Box<str>, ChannelIndex>,
    channels: Vec<Channel>,
    free: Vec<ChannelIndex>,
    direct_count: usize,
}

impl Channels {
    /// The channel of that name, if it has subscribers here.
    pub(super) fn find(&self, name: &str) -> Option<ChannelIndex> {
        self.by_name.get(name).copied()
    }

    /// The channel with that index.
    pub(super) fn at(&self, index: ChannelIndex) -> &Channel {
        &self.channels[index.0 as usize]
    }

    /// The channel with that index, to match filters.
    pub(super) fn at_mut(&mut self, index: ChannelIndex) -> &mut Channel {
        &mut self.channels[index.0 as usize]
    }

    /// The name of the channel of a membership.
    pub(super) fn name(&self, membership: Membership) -> &str {
        &self.at(membership.channel).name
    }

    /// The subscription id of a membership.
    pub(super) fn subscription_id(&self, membership: Membership) -> Option<&SubscriptionId> {
        let audience = self.at(membership.channel).audience(membership.audience);
        audience.subscription_ids.get(membership.position as usize)
    }

    /// Where the subscriptions of a membership's channel are counted.
    pub(super) fn counter_slot(&self, membership: Membership) -> CounterSlot {
        self.at(membership.channel).counter_slot
    }

    /// The names of the channels that sessions asked for.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let asked = self.by_name.iter();
        asked
            .filter(|(_, index)| !self.at(**index).is_direct)
            .map(|(name, _)| &**name)
    }

    /// How many channels have subscribers that asked for them.
    pub(super) fn count(&self) -> usize {
        self.by_name.len() - self.direct_count
    }

    /// The channel of that name, made if there is none. `counter_slot` is asked for a new one.
    pub(super) fn open(
        &mut self,
        name: &str,
        is_direct: bool,
        counter_slot: impl FnOnce() -> CounterSlot,
    ) -> ChannelIndex {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let channel = Channel {
            name: name.into(),
            counter_slot: counter_slot(),
            is_direct,
            audiences: Vec::new(),
            vacant: Vec::new(),
            unfiltered: Vec::new(),
            filters: None,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.channels[index.0 as usize] = channel;
                index
            }
            None => {
                self.channels.push(channel);
                let index = u32::try_from(self.channels.len() - 1);
                ChannelIndex(index.expect("fewer channels than subscriptions, which are u32"))
            }
        };
        self.direct_count += usize::from(is_direct);
        self.by_name.insert(name.into(), index);
        index
    }

    /// Adds a subscriber.
    pub(super) fn join(&mut self, index: ChannelIndex, joiner: Joiner) -> Membership {
        let channel = &mut self.channels[index.0 as usize];
        let filter = joiner.filter.map(|filter| {
            let filters = channel.filters.get_or_insert_default();
            let found = filters.index.find(&filter);
            found.unwrap_or_else(|| filters.index.insert(filter))
        });
        let subscription_id_bytes = joiner
            .subscription_id
            .as_ref()
            .map_or(0, |subscription_id| subscription_id.text().len());
        let taste = Taste {
            variant: joiner.variant,
            subscription_id_bytes: u16::try_from(subscription_id_bytes)
                .expect("tags are limited to 128 bytes"),
            filter,
        };
        let audience_index = channel.audience_of(taste);
        let audience = &mut channel.audiences[audience_index as usize];
        audience.slots.push(joiner.slot);
        audience.subscription_ids.extend(joiner.subscription_id);
        let position = u32::try_from(audience.slots.len() - 1);
        Membership {
            channel: index,
            audience: audience_index,
            position: position.expect("fewer subscribers than slots, which are u32"),
        }
    }

    /// Removes a subscriber; the channel goes with its last one.
    pub(super) fn leave(&mut self, membership: Membership) -> Option<Moved> {
        let channel = &mut self.channels[membership.channel.0 as usize];
        let audience = &mut channel.audiences[membership.audience as usize];
        let position = membership.position as usize;
        audience.slots.swap_remove(position);
        if !audience.subscription_ids.is_empty() {
            audience.subscription_ids.swap_remove(position);
        }
        let last = u32::try_from(audience.slots.len()).expect("it was shorter than u32 before");
        let moved = audience.slots.get(position).map(|slot| Moved {
            slot: *slot,
            from: Membership {
                position: last,
                ..membership
            },
            to: membership,
        });
        if audience.slots.is_empty() {
            channel.vacate(membership.audience);
        }
        if channel.vacant.len() == channel.audiences.len() {
            self.direct_count -= usize::from(channel.is_direct);
            let name = std::mem::take(&mut channel.name);
            self.by_name.remove(&name);
            self.free.push(membership.channel);
        }
        moved
    }
}

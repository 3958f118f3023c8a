//! The channels of one shard and their subscribers.

use super::filters::{Filter, FilterId, FilterIndex};
use crate::base::interest::is_mostly_empty;
use crate::base::{
    ChannelTag, PresenceMode, PresencePlace, ProcessState, StateChanges, SubscriptionId, Variant,
};
use crate::json::{JsonReader, Object};
use hashbrown::HashTable;
use slab::Slab;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

/// Values of a filter that are removed in the time of one subscription without a filter.
const VALUES_PER_WORK: usize = 4;

/// What the subscribers of a group have in common, so that one run of frames serves them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriberGroupKey {
    /// The form of their frames.
    pub variant: Variant,
    /// Width of their subscription ids, bytes; 0 = they have none.
    pub subscription_id_bytes: u16,
    /// Their filter among those of the channel; `None` = they receive every publication.
    filter: Option<FilterId>,
    /// Whether they receive binary publications too.
    pub takes_binary: bool,
    /// Their tenant, in the channels of server-side subscriptions.
    tenant: TenantKey,
    /// The number of the recovery of its only subscriber, which receives nothing from the ring yet.
    pub(super) recovery: Option<NonZeroU32>,
}

impl SubscriberGroupKey {
    /// Their filter, if they have one.
    #[must_use]
    pub fn filter(&self) -> Option<FilterId> {
        self.filter
    }
}

/// A tenant with sessions on this shard, or none.
///
/// It is the channel of all sessions of the tenant, to which each of them is subscribed before any
/// other and until it has left all others. So no other channel has the index while a group names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TenantKey(u32);

impl TenantKey {
    /// No tenant.
    pub const NONE: Self = Self(0);

    /// The tenant of this channel.
    pub(super) const fn of(channel: ChannelIndex) -> Self {
        Self(channel.0 + 1)
    }
}

/// Of which tenants the subscribers of a channel receive a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// This one, or those without one.
    Tenant(TenantKey),
    /// All.
    All,
}

/// Subscribers of a channel with the same key.
#[derive(Debug)]
pub struct SubscriberGroup {
    /// What they have in common.
    pub key: SubscriberGroupKey,
    /// Their slots, in no particular order. A slot is removed before its connection is, so none is
    /// stale.
    pub slots: Vec<u32>,
    /// Their subscription ids, in the same order; empty if they have none.
    pub subscription_ids: Vec<SubscriptionId>,
}

impl SubscriberGroup {
    /// Takes a subscriber out; returns its slot and its subscription id, and the subscriber that takes
    /// its place.
    fn take(
        &mut self,
        subscription: SubscriptionRef,
    ) -> (u32, Option<SubscriptionId>, Option<Moved>) {
        let position = subscription.position as usize;
        let slot = self.slots.swap_remove(position);
        let has_ids = !self.subscription_ids.is_empty();
        let subscription_id = has_ids.then(|| self.subscription_ids.swap_remove(position));
        let last = u32::try_from(self.slots.len()).expect("it was shorter than u32 before");
        let moved = self.slots.get(position).map(|slot| Moved {
            slot: *slot,
            from: SubscriptionRef {
                position: last,
                ..subscription
            },
            to: subscription,
        });
        (slot, subscription_id, moved)
    }
}

/// A channel with at least one subscriber on this shard.
#[derive(Debug)]
pub struct Channel {
    name: Box<str>,
    tag: ChannelTag,
    /// Whether its subscriptions are server-side.
    is_server_side: bool,
    /// What is kept of who is on it.
    presence: PresenceMode,
    /// The groups that have subscribers.
    groups: Slab<SubscriberGroup>,
    /// How many groups receive each variant.
    groups_by_variant: [u32; Variant::COUNT],
    /// Indices of the groups without a filter that receive publications, in the order of their
    /// tenants.
    unfiltered: Vec<u32>,
    filters: Option<Box<Filters>>,
    /// The offset in the history of the last publication that was read, 0 = none.
    newest_offset: u64,
}

/// The filters of a channel, and which subscriber groups each one serves.
#[derive(Debug, Default)]
struct Filters {
    index: FilterIndex,
    /// By the slots of the filters.
    groups: Vec<Vec<u32>>,
    matched: Vec<FilterId>,
}

impl Filters {
    /// The subscriber groups of a filter.
    fn groups_of(&mut self, filter_id: FilterId) -> &mut Vec<u32> {
        let slot = filter_id.slot() as usize;
        if self.groups.len() <= slot {
            self.groups.resize_with(slot + 1, Vec::new);
        }
        &mut self.groups[slot]
    }
}

impl Channel {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag of the name.
    #[must_use]
    pub fn tag(&self) -> ChannelTag {
        self.tag
    }

    /// Its place in the table of who is on which channel, if that is kept.
    pub(super) fn presence_place(&self) -> Option<PresencePlace<'_>> {
        (self.presence != PresenceMode::Off).then_some(PresencePlace {
            tag: self.tag,
            name: &self.name,
            has_events: self.presence == PresenceMode::Events,
        })
    }

    /// Whether some subscribers have a filter.
    #[must_use]
    pub fn has_filters(&self) -> bool {
        self.filters.is_some()
    }

    /// The subscriber group at this index.
    #[must_use]
    pub fn group(&self, index: u32) -> &SubscriberGroup {
        &self.groups[index as usize]
    }

    /// Appends the subscriber groups without a filter, which receive every publication for their
    /// tenant.
    pub fn unfiltered(&self, reach: Reach, groups: &mut Vec<u32>) {
        let reached = match reach {
            Reach::Tenant(tenant) => self.of_tenant(tenant),
            Reach::All => 0..self.unfiltered.len(),
        };
        groups.extend_from_slice(&self.unfiltered[reached]);
    }

    /// Where the groups of a tenant are in `unfiltered`.
    fn of_tenant(&self, tenant: TenantKey) -> Range<usize> {
        let tenant_at = |index: &u32| self.groups[*index as usize].key.tenant;
        let start = self.unfiltered.partition_point(|it| tenant_at(it) < tenant);
        let rest = &self.unfiltered[start..];
        start..start + rest.partition_point(|it| tenant_at(it) == tenant)
    }

    /// The subscribers: their slots, subscriber groups and positions there.
    pub(super) fn subscribers(&self) -> impl Iterator<Item = (u32, u32, usize)> {
        self.groups.iter().flat_map(|(index, group)| {
            let index = u32::try_from(index).expect("fewer groups than subscriptions");
            let slots = group.slots.iter().enumerate();
            slots.map(move |(position, slot)| (*slot, index, position))
        })
    }

    /// How many subscribers it has.
    pub(super) fn subscriber_count(&self) -> usize {
        let groups = self.groups.iter();
        groups.map(|(_, group)| group.slots.len()).sum()
    }

    /// Appends the subscriber groups whose filter matches `data`; returns how many filters were
    /// evaluated.
    pub fn matching(
        &mut self,
        data: &Object<'_>,
        reader: &mut JsonReader,
        groups: &mut Vec<u32>,
    ) -> u64 {
        let Some(filters) = &mut self.filters else {
            return 0;
        };
        let Filters {
            index,
            groups: by_group,
            matched,
        } = &mut **filters;
        matched.clear();
        let evaluations = index.matches(data, reader, matched);
        for filter_id in matched {
            let all = by_group[filter_id.slot() as usize].iter();
            let is_live = |index: &&u32| self.groups[**index as usize].key.recovery.is_none();
            groups.extend(all.filter(is_live));
        }
        evaluations
    }

    /// Whether data pass a filter of the channel.
    pub(super) fn passes(
        &mut self,
        filter_id: FilterId,
        data: &Object<'_>,
        reader: &mut JsonReader,
    ) -> bool {
        let Some(filters) = &mut self.filters else {
            return false;
        };
        filters.matched.clear();
        filters.index.matches(data, reader, &mut filters.matched);
        filters.matched.contains(&filter_id)
    }

    /// The variants that its subscribers receive, as a mask.
    pub(crate) fn variants(&self) -> u32 {
        let in_use = self.groups_by_variant.iter().map(|groups| *groups > 0);
        let bits = in_use
            .enumerate()
            .map(|(bit, is_used)| u32::from(is_used) << bit);
        bits.fold(0, |mask, bit| mask | bit)
    }

    /// Notes that a publication with this offset in the history was read, here or in the history;
    /// returns that of the newest one before, 0 = none.
    pub(crate) fn pass(&mut self, offset: u64) -> u64 {
        let newest = self.newest_offset.max(offset);
        std::mem::replace(&mut self.newest_offset, newest)
    }

    fn group_for(&mut self, key: SubscriberGroupKey) -> u32 {
        let is_live = key.recovery.is_none();
        let of_tenant = self.of_tenant(key.tenant);
        let end = of_tenant.end;
        let same = match key.filter {
            None => &self.unfiltered[of_tenant],
            Some(filter_id) => self.filters.get_or_insert_default().groups_of(filter_id),
        };
        let mut same = same.iter();
        if let Some(found) = same.find(|index| self.groups[**index as usize].key == key) {
            return *found;
        }
        let group = SubscriberGroup {
            key,
            slots: Vec::new(),
            subscription_ids: Vec::new(),
        };
        self.groups_by_variant[usize::from(key.variant.index())] += 1;
        let index = u32::try_from(self.groups.insert(group));
        let index = index.expect("fewer groups than subscriptions, which are u32");
        match key.filter {
            None if is_live => self.unfiltered.insert(end, index),
            None => {}
            Some(filter_id) => {
                let filters = self.filters.get_or_insert_default();
                filters.groups_of(filter_id).push(index);
            }
        }
        index
    }

    /// Removes a subscriber group that has lost its last subscriber, and its filter if no other
    /// group has it; returns how many values of filters were removed.
    fn vacate(&mut self, index: u32) -> usize {
        let key = self.groups.remove(index as usize).key;
        self.groups_by_variant[usize::from(key.variant.index())] -= 1;
        let Some(filter_id) = key.filter else {
            self.unfiltered.retain(|other| *other != index);
            return 0;
        };
        let mut values = 0;
        let filters = self.filters.as_mut();
        let filters = filters.expect("a group's filter is in its channel's index");
        let groups_of = filters.groups_of(filter_id);
        groups_of.retain(|other| *other != index);
        if groups_of.is_empty() {
            values = filters.index.remove(filter_id);
        }
        if filters.index.is_empty() {
            self.filters = None;
        }
        values
    }
}

/// Index of a channel in this shard's table; reused when the channel has lost its last subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelIndex(u32);

impl ChannelIndex {
    /// Its place in the table.
    pub(super) const fn slot(self) -> u32 {
        self.0
    }
}

/// One subscription of a session: the channel, the subscriber group, and the position in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubscriptionRef {
    pub(super) channel: ChannelIndex,
    pub(super) group: u32,
    pub(super) position: u32,
}

/// A subscriber that moved to another position in its subscriber group when another subscriber
/// left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) slot: u32,
    pub(super) from: SubscriptionRef,
    pub(super) to: SubscriptionRef,
}

/// A subscriber to add to a channel.
#[derive(Debug)]
pub(super) struct NewSubscriber {
    pub(super) slot: u32,
    pub(super) variant: Variant,
    pub(super) subscription_id: Option<SubscriptionId>,
    pub(super) filter: Option<Filter>,
    /// Whether it receives binary publications too.
    pub(super) takes_binary: bool,
    /// Its tenant, in the channels of server-side subscriptions.
    pub(super) tenant: TenantKey,
    /// The number of its recovery, if it recovers.
    pub(super) recovery: Option<NonZeroU32>,
}

/// The channels of one shard.
#[derive(Debug)]
pub(super) struct Channels {
    shard: u16,
    process_state: Arc<ProcessState>,
    /// By the tags of their names.
    by_tag: HashTable<ChannelIndex>,
    channels: Slab<Channel>,
    server_side_count: usize,
}

impl Channels {
    /// No channels. What their subscribers want is told to the other shards by `process_state`.
    pub(super) fn new(shard: u16, process_state: Arc<ProcessState>) -> Self {
        Self {
            shard,
            process_state,
            by_tag: HashTable::new(),
            channels: Slab::new(),
            server_side_count: 0,
        }
    }

    /// The channel of this name, if it has subscribers on this shard.
    pub(super) fn find(&self, name: &str) -> Option<ChannelIndex> {
        self.find_tagged(self.process_state.interests.tag(name), name.as_bytes())
    }

    /// The same, with the tag of the name.
    pub(super) fn find_tagged(&self, tag: ChannelTag, name: &[u8]) -> Option<ChannelIndex> {
        let is_named = |index: &ChannelIndex| self.at(*index).name.as_bytes() == name;
        self.by_tag.find(tag.bits(), is_named).copied()
    }

    /// Whether a channel with this tag has subscribers on this shard.
    pub(super) fn has_tag(&self, tag: ChannelTag) -> bool {
        let has_tag = |index: &ChannelIndex| self.at(*index).tag == tag;
        self.by_tag.find(tag.bits(), has_tag).is_some()
    }

    /// The channels with this tag that have subscribers on this shard.
    pub(super) fn all_tagged(&self, tag: ChannelTag) -> Vec<ChannelIndex> {
        let found = self.by_tag.iter_hash(tag.bits());
        let found = found.filter(|index| self.at(**index).tag == tag);
        found.copied().collect()
    }

    /// Whether no channel has subscribers on this shard.
    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// The channel at this index.
    pub(super) fn at(&self, index: ChannelIndex) -> &Channel {
        &self.channels[index.0 as usize]
    }

    /// The channel at this index, for matching filters.
    pub(super) fn at_mut(&mut self, index: ChannelIndex) -> &mut Channel {
        &mut self.channels[index.0 as usize]
    }

    /// The name of the channel of a subscription.
    pub(super) fn name(&self, subscription: SubscriptionRef) -> &str {
        &self.at(subscription.channel).name
    }

    /// Bytes of JSON of the filter of a subscription; 0 = it has none.
    pub(super) fn filter_bytes(&self, subscription: SubscriptionRef) -> u32 {
        let channel = self.at(subscription.channel);
        let filter_id = channel.group(subscription.group).key.filter;
        match (&channel.filters, filter_id) {
            (Some(filters), Some(filter_id)) => filters.index.text_bytes(filter_id),
            _ => 0,
        }
    }

    /// The key of the group of a subscription; `None` if there is no such group any more.
    pub(super) fn group_key(&self, subscription: SubscriptionRef) -> Option<SubscriberGroupKey> {
        let channel = self.channels.get(subscription.channel.0 as usize)?;
        let group = channel.groups.get(subscription.group as usize)?;
        Some(group.key)
    }

    /// The subscription id of a subscription.
    pub(super) fn subscription_id(&self, subscription: SubscriptionRef) -> Option<&SubscriptionId> {
        let group = self.at(subscription.channel).group(subscription.group);
        group.subscription_ids.get(subscription.position as usize)
    }

    /// The names of the channels that clients have subscribed to.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let channels = self.channels.iter();
        channels
            .filter(|(_, channel)| !channel.is_server_side)
            .map(|(_, channel)| &*channel.name)
    }

    /// Slots of channels, some of which are free.
    pub(super) fn slot_count(&self) -> u32 {
        u32::try_from(self.channels.capacity()).unwrap_or(u32::MAX)
    }

    /// The channel in this slot, if clients have subscribed to one there.
    pub(super) fn client_side_at(&self, slot: u32) -> Option<&Channel> {
        let channel = self.channels.get(slot as usize)?;
        (!channel.is_server_side).then_some(channel)
    }

    /// How many channels clients have subscribed to.
    pub(super) fn count(&self) -> usize {
        self.channels.len() - self.server_side_count
    }

    /// The channel of this name, created if there is none.
    pub(super) fn open(&mut self, name: &str, is_server_side: bool) -> ChannelIndex {
        let tag = self.process_state.interests.tag(name);
        if let Some(index) = self.find_tagged(tag, name.as_bytes()) {
            return index;
        }
        let channel = Channel {
            name: name.into(),
            tag,
            is_server_side,
            presence: self.process_state.presence.mode_of(name),
            // Most channels have one group.
            groups: Slab::with_capacity(1),
            groups_by_variant: [0; Variant::COUNT],
            unfiltered: Vec::new(),
            filters: None,
            newest_offset: 0,
        };
        let index = u32::try_from(self.channels.insert(channel));
        let index = ChannelIndex(index.expect("fewer channels than subscriptions, which are u32"));
        self.server_side_count += usize::from(is_server_side);
        if let Some(changes) = self.noted(index) {
            changes.enter(name);
        }
        let channels = &self.channels;
        self.by_tag.insert_unique(tag.bits(), index, |index| {
            channels[index.0 as usize].tag.bits()
        });
        index
    }

    /// Where it is noted whether a channel is occupied, if that is.
    fn noted(&self, index: ChannelIndex) -> Option<&StateChanges> {
        let changes = self.process_state.changes.as_ref()?;
        let channel = self.at(index);
        let is_noted = !channel.is_server_side && changes.has_channel(&channel.name);
        is_noted.then_some(changes)
    }

    /// Adds a subscriber.
    pub(super) fn join(
        &mut self,
        index: ChannelIndex,
        subscriber: NewSubscriber,
    ) -> SubscriptionRef {
        let channel = &mut self.channels[index.0 as usize];
        let variants_before = channel.variants();
        let filter = subscriber.filter.map(|filter| {
            let filters = channel.filters.get_or_insert_default();
            let found = filters.index.find(&filter);
            found.unwrap_or_else(|| filters.index.insert(filter))
        });
        let subscription_id_bytes = subscriber
            .subscription_id
            .as_ref()
            .map_or(0, |subscription_id| subscription_id.text().len());
        let key = SubscriberGroupKey {
            variant: subscriber.variant,
            subscription_id_bytes: u16::try_from(subscription_id_bytes)
                .expect("subscription ids are limited to 128 bytes"),
            filter,
            takes_binary: subscriber.takes_binary,
            tenant: subscriber.tenant,
            recovery: subscriber.recovery,
        };
        let group_index = channel.group_for(key);
        let group = &mut channel.groups[group_index as usize];
        group.slots.push(subscriber.slot);
        group.subscription_ids.extend(subscriber.subscription_id);
        let position = u32::try_from(group.slots.len() - 1);
        let (tag, variants) = (channel.tag, channel.variants());
        if variants != variants_before {
            self.process_state.interests.set(tag, self.shard, variants);
            if let Some(link) = &self.process_state.link
                && variants_before == 0
            {
                link.want(tag, &channel.name);
            }
        }
        SubscriptionRef {
            channel: index,
            group: group_index,
            position: position.expect("fewer subscribers than slots, which are u32"),
        }
    }

    /// Moves the only subscriber of a group, which recovers, to one that receives publications.
    pub(super) fn make_live(&mut self, recovering: SubscriptionRef) -> SubscriptionRef {
        let channel = &mut self.channels[recovering.channel.0 as usize];
        let former = &mut channel.groups[recovering.group as usize];
        let key = SubscriberGroupKey {
            recovery: None,
            ..former.key
        };
        let slots = std::mem::take(&mut former.slots);
        let subscription_ids = std::mem::take(&mut former.subscription_ids);
        let live = channel.group_for(key);
        let group = &mut channel.groups[live as usize];
        let position = u32::try_from(group.slots.len());
        group.slots.extend(slots);
        group.subscription_ids.extend(subscription_ids);
        channel.vacate(recovering.group);
        SubscriptionRef {
            channel: recovering.channel,
            group: live,
            position: position.expect("fewer subscribers than slots, which are u32"),
        }
    }

    /// Moves a subscriber that receives publications to a group of its own, in which it recovers;
    /// returns also the subscriber that took its place.
    pub(super) fn make_recovering(
        &mut self,
        live: SubscriptionRef,
        number: NonZeroU32,
    ) -> (SubscriptionRef, Option<Moved>) {
        let channel = &mut self.channels[live.channel.0 as usize];
        let former = &mut channel.groups[live.group as usize];
        let key = SubscriberGroupKey {
            recovery: Some(number),
            ..former.key
        };
        let (slot, subscription_id, moved) = former.take(live);
        let is_empty = former.slots.is_empty();
        let group = channel.group_for(key);
        channel.groups[group as usize].slots.push(slot);
        let subscription_ids = &mut channel.groups[group as usize].subscription_ids;
        subscription_ids.extend(subscription_id);
        if is_empty {
            channel.vacate(live.group);
        }
        let recovering = SubscriptionRef {
            channel: live.channel,
            group,
            position: 0,
        };
        (recovering, moved)
    }

    /// What `of` says of each channel, by the slots of their indices.
    pub(super) fn map_all<T>(&self, of: impl Fn(&Channel) -> T) -> HashMap<u32, T> {
        let channels = self.channels.iter();
        let slot = |index| u32::try_from(index).expect("fewer channels than subscriptions");
        channels
            .map(|(index, channel)| (slot(index), of(channel)))
            .collect()
    }

    /// Removes a subscriber; the channel is removed with its last subscriber. Returns also how much
    /// work it was: 1, and more for a filter that nobody else has.
    pub(super) fn leave(&mut self, subscription: SubscriptionRef) -> (Option<Moved>, usize) {
        let channel = &mut self.channels[subscription.channel.0 as usize];
        let group = &mut channel.groups[subscription.group as usize];
        let (_, _, moved) = group.take(subscription);
        let mut work = 1;
        if group.slots.is_empty() {
            work += self.vacate(subscription) / VALUES_PER_WORK;
        }
        (moved, work)
    }

    /// Removes a subscriber group without subscribers, and the channel with its last group; returns
    /// how many values of filters were removed.
    fn vacate(&mut self, subscription: SubscriptionRef) -> usize {
        let index = subscription.channel.0 as usize;
        let channel = &mut self.channels[index];
        let variants_before = channel.variants();
        let values = channel.vacate(subscription.group);
        let (tag, variants) = (channel.tag, channel.variants());
        if variants != variants_before {
            self.process_state.interests.set(tag, self.shard, variants);
        }
        if variants != 0 {
            return values;
        }
        let is_this = |other: &ChannelIndex| *other == subscription.channel;
        if let Ok(entry) = self.by_tag.find_entry(tag.bits(), is_this) {
            entry.remove();
        }
        if let Some(changes) = self.noted(subscription.channel) {
            changes.leave(&self.channels[index].name);
        }
        let channel = self.channels.remove(index);
        self.server_side_count -= usize::from(channel.is_server_side);
        // It keeps the memory of its largest size.
        if self.channels.is_empty() {
            self.channels = Slab::new();
        }
        let channels = &self.channels;
        if is_mostly_empty(self.by_tag.len(), self.by_tag.capacity()) {
            self.by_tag
                .shrink_to_fit(|index| channels[index.0 as usize].tag.bits());
        }
        values
    }
}

//! Joins the frames of consecutive publications of a channel into runs, one for each form.

use super::batch::{Batches, Positions};
use super::frame_encoder::{FrameEncoder, SharedEncoder};
use super::record::{Frame, Record};
use crate::base::{ChannelTag, FrameRun, Position, ShardCounters, SubscriptionId, Variant};
use crate::broker::{
    BroadcastTarget, Broker, Channel, ChannelIndex, Reach, TenantKey, TenantScope,
};
use crate::dialect::Placeholders;
use crate::json::{Document, JsonReader};

/// Often enough that memory is free soon, and seldom enough that a channel which is published to by
/// turns keeps what it needs.
const DELIVERIES_PER_REVIEW: u32 = 1_024;

/// Frames of one channel, collected as long as the next records are for the same channel. This
/// keeps the order of all publications, and consecutive publications cost each subscriber one
/// buffer.
#[derive(Debug)]
pub(super) struct Coalescer {
    encoder: SharedEncoder,
    /// `None` while no frames are collected.
    channel: Option<ChannelIndex>,
    /// Whether their publications have positions: all of a run have, or none.
    have_positions: bool,
    batches: Batches,
    /// What each subscriber group receives, by the indices of the channel's groups.
    shares: Vec<Share>,
    /// How many of them were needed since the last review, and how often frames were delivered.
    shares_needed: usize,
    deliveries: u32,
    /// The subscriber groups that receive something.
    touched: Vec<u32>,
    wanted: Vec<u32>,
    json: JsonReader,
}

/// What a subscriber group receives: of one batch, the frames of the publications that match its
/// filter.
#[derive(Debug, Default)]
struct Share {
    batch: usize,
    frames: Vec<u32>,
    /// The frames in one run, while they are delivered.
    run: Option<FrameRun>,
}

/// A frame that the publisher did not encode, because the variant came into use after the publisher
/// had checked.
#[derive(Debug, Default)]
struct LateFrame {
    variant: Option<Variant>,
    bytes: Vec<u8>,
    placeholders: Placeholders,
}

impl Coalescer {
    pub(super) fn new(encoder: SharedEncoder) -> Self {
        Self {
            encoder,
            channel: None,
            have_positions: false,
            batches: Batches::default(),
            shares: Vec::new(),
            shares_needed: 0,
            deliveries: 0,
            touched: Vec::new(),
            wanted: Vec::new(),
            json: JsonReader::default(),
        }
    }

    /// Adds the frames of a record, after delivering those collected for another channel.
    /// `position` is its position in the history.
    pub(super) fn add(
        &mut self,
        tag: ChannelTag,
        bytes: &[u8],
        position: Position,
        broker: &mut Broker,
        counters: &ShardCounters,
        deliver: &mut impl FnMut(u32, &FrameRun, Option<&SubscriptionId>),
    ) {
        let Some(record) = Record::read(bytes) else {
            counters.ring_malformed.add(1);
            return;
        };
        let Some(target) = record.target() else {
            counters.ring_malformed.add(1);
            return;
        };
        if record.meta.is_quiet {
            return;
        }
        let is_for_all = target == BroadcastTarget::All;
        let has_position = record.meta.has_position;
        let is_same = |index| {
            broker.channel(index).name().as_bytes() == record.channel
                && self.have_positions == has_position
        };
        if !is_for_all || !self.channel.is_some_and(is_same) {
            self.finish(broker, BroadcastTarget::All, deliver);
            self.channel = broker.find_channel(tag, record.channel);
            self.have_positions = has_position;
        }
        let Some(index) = self.channel else {
            return;
        };
        let reach = match record.reach() {
            Some(TenantScope::Without) => Some(Reach::Tenant(TenantKey::NONE)),
            // Without a session of the tenant nobody here receives it.
            Some(TenantScope::Of(tenant)) => broker.find_tenant(tenant).map(Reach::Tenant),
            Some(TenantScope::All) => Some(Reach::All),
            None => return counters.ring_malformed.add(1),
        };
        let Some(reach) = reach else {
            return;
        };
        self.find_groups(broker.channel_mut(index), reach, &record, counters);
        if record.is_binary() {
            self.leave_out_text(broker.channel(index), counters);
        }
        let positions = record.meta.has_position.then(|| {
            let previous = broker.channel_mut(index).pass(position.offset);
            Positions::new(position, previous, record.meta.shared)
        });
        let channel = broker.channel(index);
        // Frames that the writer did not encode are encoded here, from the texts.
        let is_late = channel.variants() & !record.variants() != 0;
        if is_late && record.publication().is_none() {
            return counters.ring_malformed.add(1);
        }
        let mut late = LateFrame::default();
        self.batches.begin_publication();
        for group in &self.wanted {
            let key = channel.group(*group).key;
            let batch = self.batches.of(key.variant, key.subscription_id_bytes);
            let frame = self.batches.at(batch).add(positions, || {
                let ready = record.frame(key.variant);
                ready.unwrap_or_else(|| {
                    let encoder = &mut self.encoder.borrow_mut();
                    late.of(key.variant, &record, encoder, counters)
                })
            });
            let at = *group as usize;
            if self.shares.len() <= at {
                self.shares.resize_with(at + 1, Share::default);
            }
            let share = &mut self.shares[at];
            if share.frames.is_empty() {
                self.touched.push(*group);
            }
            share.batch = batch;
            share.frames.push(frame);
        }
        if self.batches.is_long() || !is_for_all {
            self.finish(broker, target, deliver);
        }
    }

    /// Lists in `wanted` the subscriber groups that receive a publication.
    fn find_groups(
        &mut self,
        channel: &mut Channel,
        reach: Reach,
        record: &Record<'_>,
        counters: &ShardCounters,
    ) {
        self.wanted.clear();
        channel.unfiltered(reach, &mut self.wanted);
        if !channel.has_filters() {
            return;
        }
        let data = record.data().unwrap_or_default();
        // Data other than an object has no fields that a filter could match.
        if let Ok(object) = Document::new(data).object() {
            let evaluations = channel.matching(&object, &mut self.json, &mut self.wanted);
            counters.filter_evaluations.add(evaluations);
        }
    }

    /// Takes the subscriber groups out of `wanted` that receive no binary publications.
    fn leave_out_text(&mut self, channel: &Channel, counters: &ShardCounters) {
        self.wanted.retain(|index| {
            let group = channel.group(*index);
            if !group.key.takes_binary {
                counters.binary_skipped.add(group.slots.len() as u64);
            }
            group.key.takes_binary
        });
    }

    /// Delivers the collected frames to their subscribers.
    pub(super) fn finish(
        &mut self,
        broker: &Broker,
        target: BroadcastTarget<'_>,
        deliver: &mut impl FnMut(u32, &FrameRun, Option<&SubscriptionId>),
    ) {
        if let Some(index) = self.channel.take() {
            let channel = broker.channel(index);
            for group in &self.touched {
                let share = &mut self.shares[*group as usize];
                share.run = Some(
                    self.batches
                        .at(share.batch)
                        .run(channel.tag(), &share.frames),
                );
                share.frames.clear();
            }
            if target == BroadcastTarget::All {
                for group in &self.touched {
                    let run = self.shares[*group as usize].run.as_ref();
                    let run = run.expect("made above");
                    let group = channel.group(*group);
                    if group.subscription_ids.is_empty() {
                        for slot in &group.slots {
                            deliver(*slot, run, None);
                        }
                    } else {
                        for (slot, subscription_id) in
                            group.slots.iter().zip(&group.subscription_ids)
                        {
                            deliver(*slot, run, Some(subscription_id));
                        }
                    }
                }
            } else {
                broker.visit_target(index, target, |slot, group, position| {
                    let share = self.shares.get(group as usize);
                    if let Some(run) = share.and_then(|share| share.run.as_ref()) {
                        let ids = &channel.group(group).subscription_ids;
                        deliver(slot, run, ids.get(position));
                    }
                });
            }
            for group in self.touched.drain(..) {
                self.shares_needed = self.shares_needed.max(group as usize + 1);
                self.shares[group as usize].run = None;
            }
            self.review();
        }
        self.batches.clear();
    }

    /// Frees, now and then, what only channels with more subscriber groups needed.
    fn review(&mut self) {
        self.deliveries += 1;
        if self.deliveries == DELIVERIES_PER_REVIEW {
            self.deliveries = 0;
            let needed = std::mem::take(&mut self.shares_needed);
            self.shares.truncate(needed);
            self.shares.shrink_to(2 * needed);
        }
    }
}

impl LateFrame {
    fn of(
        &mut self,
        variant: Variant,
        record: &Record<'_>,
        encoder: &mut FrameEncoder,
        counters: &ShardCounters,
    ) -> Frame<'_> {
        if self.variant != Some(variant) {
            self.variant = Some(variant);
            self.bytes.clear();
            self.placeholders = record.encode(variant, encoder, &mut self.bytes);
            encoder.count(counters);
            counters.encodes.of(variant).add(1);
        }
        Frame {
            bytes: &self.bytes,
            placeholders: self.placeholders,
        }
    }
}

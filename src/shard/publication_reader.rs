//! Reads the ring for a shard: each record that it wants once, within a budget for one fan-out.

use super::coalescer::Coalescer;
use super::frame_encoder::SharedEncoder;
use super::publication_writer::number_of;
use super::record::{self, Form, Fragment};
use crate::base::limits::{RING_BYTES_PER_FANOUT, RING_RECORDS_PER_TURN};
use crate::base::memory::Waiting;
use crate::base::publish_times::PublishTimes;
use crate::base::{ChannelTag, FrameRun, Position, ShardCounters, SubscriptionId, TraceContext};
use crate::broker::{BroadcastTarget, Broker};
use fanwire_ring::{Lapped, ReadError, Reader, Visit};
use std::collections::HashMap;
use std::sync::Arc;

/// The reader of one shard.
#[derive(Debug)]
pub(super) struct PublicationReader {
    reader: Reader,
    /// Publications of which more fragments are to come, by their ids.
    fragments: HashMap<u64, Unfinished>,
    coalescer: Coalescer,
    counters: Arc<ShardCounters>,
    /// The last publication that was read of those whose time is measured.
    sampled: Option<u64>,
    /// Bytes that may still be read until `renew_budget`, and the budget that it restores.
    bytes_left: usize,
    budget_bytes: usize,
}

/// The fragments of a publication that are here.
#[derive(Debug)]
struct Unfinished {
    tag: ChannelTag,
    bytes: Vec<u8>,
    waiting: Waiting,
}

/// Handles the records of one drain.
struct Visitor<'a, D, T> {
    broker: &'a mut Broker,
    fragments: &'a mut HashMap<u64, Unfinished>,
    coalescer: &'a mut Coalescer,
    counters: &'a ShardCounters,
    sampled: &'a mut Option<u64>,
    bytes_left: &'a mut usize,
    deliver: D,
    trace: T,
}

impl<D, T> Visit for Visitor<'_, D, T>
where
    D: FnMut(u32, &FrameRun, Option<&SubscriptionId>),
    T: FnMut(TraceContext),
{
    fn is_wanted(&mut self, tag: u64) -> bool {
        let tag = ChannelTag::from_bits(tag);
        // The rest of what was begun, though its last subscriber has left: others may come.
        self.broker.is_wanted(tag) || self.fragments.values().any(|begun| begun.tag == tag)
    }

    fn visit(&mut self, ring_position: u64, tag: u64, bytes: &[u8]) -> bool {
        *self.bytes_left = self.bytes_left.saturating_sub(bytes.len());
        let tag = ChannelTag::from_bits(tag);
        match record::form(bytes) {
            Some(Form::Whole) => self.add(ring_position, tag, bytes),
            Some(form) => self.reassemble(ring_position, tag, form, bytes),
            None => self.counters.ring_malformed.add(1),
        }
        *self.bytes_left > 0
    }
}

impl<D, T> Visitor<'_, D, T>
where
    D: FnMut(u32, &FrameRun, Option<&SubscriptionId>),
    T: FnMut(TraceContext),
{
    fn add(&mut self, ring_position: u64, tag: ChannelTag, bytes: &[u8]) {
        let Self {
            broker,
            coalescer,
            counters,
            deliver,
            sampled,
            ..
        } = self;
        let id = record::id(bytes);
        let id = id.filter(|id| PublishTimes::is_sampled(number_of(*id)));
        **sampled = id.or(**sampled);
        if let Some(context) = record::trace(bytes) {
            (self.trace)(context);
        }
        let position = broker.position_of(ring_position);
        coalescer.add(tag, bytes, position, broker, counters, deliver);
    }

    /// Adds a piece to its publication. Where the pieces before it are not here, because nobody here
    /// wanted them or they are lost, those who subscribed meanwhile recover the whole at the last one.
    fn reassemble(&mut self, ring_position: u64, tag: ChannelTag, form: Form, bytes: &[u8]) {
        let Some(Fragment { id, offset, piece }) = record::fragment(bytes) else {
            return self.counters.ring_malformed.add(1);
        };
        if form == Form::First {
            let unfinished = Unfinished {
                tag,
                bytes: Vec::new(),
                waiting: Waiting::default(),
            };
            self.fragments.insert(id, unfinished);
        }
        let Some(unfinished) = self.fragments.get_mut(&id) else {
            if form == Form::Last {
                self.recover(ring_position, tag);
            }
            return;
        };
        if unfinished.bytes.len() != offset {
            self.fragments.remove(&id);
            return self.counters.ring_malformed.add(1);
        }
        unfinished.bytes.extend_from_slice(piece);
        unfinished.waiting.set(unfinished.bytes.capacity());
        if form == Form::Last
            && let Some(whole) = self.fragments.remove(&id)
        {
            self.add(ring_position, tag, &whole.bytes);
        }
    }

    /// Lets subscribers recover a publication of which just the last piece is here.
    fn recover(&mut self, ring_position: u64, tag: ChannelTag) {
        // First they receive what is before it: afterwards they are in other groups.
        self.coalescer
            .finish(self.broker, BroadcastTarget::All, &mut self.deliver);
        let Position { offset, .. } = self.broker.position_of(ring_position);
        self.broker.recover_last(tag, offset);
    }
}

impl PublicationReader {
    pub(super) fn new(
        reader: Reader,
        send_queue_bytes_max: u32,
        encoder: SharedEncoder,
        counters: Arc<ShardCounters>,
    ) -> Self {
        // Up to twice the budget can wait for a connection that was first in one fan-out and last
        // in the next; half of the send queue stays free.
        let budget_bytes = RING_BYTES_PER_FANOUT.min(send_queue_bytes_max as usize / 4);
        Self {
            bytes_left: budget_bytes,
            budget_bytes,
            reader,
            fragments: HashMap::new(),
            coalescer: Coalescer::new(encoder),
            counters,
            sampled: None,
        }
    }

    pub(super) fn park(&self) -> bool {
        self.reader.park()
    }

    /// Whether publications are read of which more fragments are to come.
    pub(super) fn has_unfinished(&self) -> bool {
        !self.fragments.is_empty()
    }

    /// Parks without waiting for any record.
    pub(super) fn park_away(&self) {
        self.reader.park_away();
    }

    pub(super) fn unpark(&self) {
        self.reader.unpark();
    }

    /// Restores the budget of one fan-out.
    pub(super) fn renew_budget(&mut self) {
        self.bytes_left = self.budget_bytes;
    }

    /// The position of the ring before which everything has been read.
    pub(super) fn next_position(&self) -> u64 {
        self.reader.next_position()
    }

    /// Whether the ring has unread records.
    pub(super) fn has_unread(&self) -> bool {
        !self.reader.is_empty()
    }

    /// Reads records as long as the budget lasts, and passes a run to `deliver` for each
    /// subscriber, and to `trace` the context of each publication that is traced. Returns how many
    /// records it passed, wanted or not.
    ///
    /// # Errors
    /// [`Lapped`] when the shard was stalled for so long that records are lost.
    pub(super) fn drain(
        &mut self,
        broker: &mut Broker,
        mut deliver: impl FnMut(u32, &FrameRun, Option<&SubscriptionId>),
        trace: impl FnMut(TraceContext),
    ) -> Result<usize, Lapped> {
        if self.bytes_left == 0 {
            return Ok(0);
        }
        let mut visitor = Visitor {
            broker,
            fragments: &mut self.fragments,
            coalescer: &mut self.coalescer,
            counters: &self.counters,
            sampled: &mut self.sampled,
            bytes_left: &mut self.bytes_left,
            deliver: &mut deliver,
            trace,
        };
        let drained = self.reader.drain_while(RING_RECORDS_PER_TURN, &mut visitor);
        self.coalescer
            .finish(broker, BroadcastTarget::All, &mut deliver);
        self.counters
            .ring_records
            .add(drained.unwrap_or_default() as u64);
        self.counters.ring_lag_bytes.set(self.reader.lag_bytes());
        drained.map_err(|error| match error {
            ReadError::Lapped(lapped) => lapped,
            error => unreachable!("nobody else writes this ring's memory: {error}"),
        })
    }

    /// The last publication since the last call whose time is measured.
    pub(super) fn take_sampled(&mut self) -> Option<u64> {
        self.sampled.take()
    }

    /// Forgets the publications of which more fragments were to come, as some of those are lost;
    /// returns their channels.
    pub(super) fn abandon_unfinished(&mut self) -> Vec<ChannelTag> {
        self.fragments.drain().map(|(_, begun)| begun.tag).collect()
    }
}

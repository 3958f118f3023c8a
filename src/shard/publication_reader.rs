//! Reads the ring for a shard: each record once, within a budget for one fan-out.

use super::coalescer::Coalescer;
use super::record::{self, Form};
use crate::base::limits::{RING_BYTES_PER_FANOUT, RING_RECORDS_PER_TURN};
use crate::base::{FrameRun, ShardCounters, SubscriptionId};
use crate::broker::{BroadcastTarget, Broker};
use fanwire_ring::Reader;
use std::collections::HashMap;
use std::sync::Arc;

/// The reader of one shard.
#[derive(Debug)]
pub(super) struct PublicationReader {
    reader: Reader,
    /// Publications that arrive in fragments, by the shard that writes them.
    fragments: HashMap<u16, Vec<u8>>,
    coalescer: Coalescer,
    counters: Arc<ShardCounters>,
    /// Bytes that may still be read until `renew_budget`, and the budget that it restores.
    bytes_left: usize,
    budget_bytes: usize,
}

impl PublicationReader {
    pub(super) fn new(
        reader: Reader,
        send_queue_bytes_max: u32,
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
            coalescer: Coalescer::default(),
            counters,
        }
    }

    pub(super) fn park(&self) -> bool {
        self.reader.park()
    }

    pub(super) fn unpark(&self) {
        self.reader.unpark();
    }

    /// Restores the budget of one fan-out.
    pub(super) fn renew_budget(&mut self) {
        self.bytes_left = self.budget_bytes;
    }

    /// Whether the ring has unread records.
    pub(super) fn has_unread(&self) -> bool {
        !self.reader.is_empty()
    }

    /// Reads records as long as the budget lasts, and passes a run to `deliver` for each
    /// subscriber.
    pub(super) fn drain(
        &mut self,
        broker: &mut Broker,
        mut deliver: impl FnMut(u32, &FrameRun, Option<&SubscriptionId>),
    ) -> usize {
        let Self {
            reader,
            fragments,
            coalescer,
            counters,
            bytes_left,
            ..
        } = self;
        if *bytes_left == 0 {
            return 0;
        }
        let count = reader.drain_while(RING_RECORDS_PER_TURN, |bytes| {
            *bytes_left = bytes_left.saturating_sub(bytes.len());
            let Some((form, writer)) = record::form(bytes) else {
                return *bytes_left > 0;
            };
            if form == Form::Whole {
                coalescer.add(bytes, broker, counters, &mut deliver);
                return *bytes_left > 0;
            }
            let whole = fragments.entry(writer).or_default();
            if form == Form::First {
                whole.clear();
            }
            whole.extend_from_slice(&bytes[record::FRAGMENT_PREFIX_BYTES..]);
            if form == Form::Last {
                let whole = fragments.remove(&writer).unwrap_or_default();
                coalescer.add(&whole, broker, counters, &mut deliver);
            }
            *bytes_left > 0
        });
        if count > 0 {
            coalescer.finish(broker, BroadcastTarget::All, &mut deliver);
            counters.ring_records.add(count as u64);
        }
        counters.ring_lag_bytes.set(reader.lag_bytes());
        count
    }
}

//! Publications arrive here: each record is read once, and its frames join a run for each audience.

use super::record::{self, Form, Record};
use crate::base::limits::{RING_BYTES_PER_FANOUT, RING_RECORDS_PER_TURN, RUN_BYTES_MAX};
use crate::base::{FrameRun, ShardCounters, Variant};
use crate::broker::Broker;
use crate::dialect;
use crate::ws::frame;
use fanwire_ring::Reader;
use std::collections::HashMap;
use std::sync::Arc;

/// One shard's way out of the ring.
#[derive(Debug)]
pub(super) struct Inbox {
    reader: Reader,
    /// Publications that come in fragments, by the shard that writes them.
    fragments: HashMap<u16, Vec<u8>>,
    gathering: Gathering,
    counters: Arc<ShardCounters>,
    /// Bytes that may be read until `renew_budget`, and how many it gives.
    bytes_left: usize,
    budget_bytes: usize,
}

/// Frames of one channel, gathered as long as the records that follow are for the same channel: so
/// the order of all publications is kept, and publications in a row cost each subscriber one buffer.
#[derive(Debug, Default)]
struct Gathering {
    channel: String,
    frames: [Frames; Variant::COUNT],
}

#[derive(Debug, Default)]
struct Frames {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Inbox {
    pub(super) fn new(reader: Reader, outbox_bytes_max: u32, counters: Arc<ShardCounters>) -> Self {
        // Twice the budget can wait for a connection that was first in one fan-out and last in the
        // next; half of the outbox stays free.
        let budget_bytes = RING_BYTES_PER_FANOUT.min(outbox_bytes_max as usize / 4);
        Self {
            bytes_left: budget_bytes,
            budget_bytes,
            reader,
            fragments: HashMap::new(),
            gathering: Gathering::default(),
            counters,
        }
    }

    pub(super) fn park(&self) -> bool {
        self.reader.park()
    }

    pub(super) fn unpark(&self) {
        self.reader.unpark();
    }

    /// Allows as many bytes again as are good for one fan-out.
    pub(super) fn renew_budget(&mut self) {
        self.bytes_left = self.budget_bytes;
    }

    /// Whether records wait.
    pub(super) fn has_unread(&self) -> bool {
        !self.reader.is_empty()
    }

    /// Reads records as long as the budget lasts, and hands a run to `deliver` for each subscriber.
    pub(super) fn drain(
        &mut self,
        broker: &Broker,
        mut deliver: impl FnMut(u32, &FrameRun),
    ) -> usize {
        let Self {
            reader,
            fragments,
            gathering,
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
                gathering.take(bytes, broker, counters, &mut deliver);
                return *bytes_left > 0;
            }
            let whole = fragments.entry(writer).or_default();
            if form == Form::First {
                whole.clear();
            }
            whole.extend_from_slice(&bytes[record::FRAGMENT_PREFIX_BYTES..]);
            if form == Form::Last {
                let whole = fragments.remove(&writer).unwrap_or_default();
                gathering.take(&whole, broker, counters, &mut deliver);
            }
            *bytes_left > 0
        });
        if count > 0 {
            gathering.finish(broker, &mut deliver);
            counters.ring_records.add(count as u64);
        }
        counters.ring_lag_bytes.set(reader.lag_bytes());
        count
    }
}

impl Gathering {
    /// Adds the frames of a record, after finishing what is gathered for another channel.
    fn take(
        &mut self,
        bytes: &[u8],
        broker: &Broker,
        counters: &ShardCounters,
        deliver: &mut impl FnMut(u32, &FrameRun),
    ) {
        let Some(record) = Record::read(bytes) else {
            return;
        };
        let name = record.publication.channel;
        if name != self.channel {
            self.finish(broker, deliver);
            self.channel.push_str(name);
        }
        let Some(channel) = broker.channel(name) else {
            return;
        };
        let mut is_long = false;
        for audience in channel.audiences() {
            let frames = &mut self.frames[usize::from(audience.variant.index())];
            match record.frame(audience.variant) {
                Some(frame) => frames.bytes.extend_from_slice(frame),
                // The variant came into use after the publisher had looked.
                None => {
                    frames.encode(audience.variant, &record);
                    counters.encodes.of(audience.variant).add(1);
                }
            }
            frames.end_frame();
            is_long |= frames.bytes.len() >= RUN_BYTES_MAX;
        }
        if is_long {
            self.finish(broker, deliver);
        }
    }

    /// Hands out what is gathered.
    fn finish(&mut self, broker: &Broker, deliver: &mut impl FnMut(u32, &FrameRun)) {
        if let Some(channel) = broker.channel(&self.channel) {
            for audience in channel.audiences() {
                let frames = &mut self.frames[usize::from(audience.variant.index())];
                if frames.ends.is_empty() {
                    continue;
                }
                let run = FrameRun::publications(&frames.bytes, &frames.ends);
                frames.clear();
                for slot in &audience.slots {
                    deliver(*slot, &run);
                }
            }
        }
        self.channel.clear();
    }
}

impl Frames {
    fn encode(&mut self, variant: Variant, record: &Record<'_>) {
        let base = self.bytes.len();
        let start = frame::build_text(&mut self.bytes, |output| {
            dialect::of(variant.dialect()).publication(&record.publication, output);
        });
        self.bytes.drain(base..start);
    }

    fn end_frame(&mut self) {
        let end = u32::try_from(self.bytes.len());
        self.ends
            .push(end.expect("a run ends at its limit, far below 4 GiB"));
    }

    fn clear(&mut self) {
        self.ends.clear();
        self.bytes.clear();
        self.bytes.shrink_to(2 * RUN_BYTES_MAX);
    }
}

//! Publications arrive here: each record is read once, and its frames join a run for each audience.

use super::record::{self, Form, Frame, Record};
use crate::base::limits::{RING_BYTES_PER_FANOUT, RING_RECORDS_PER_TURN, RUN_BYTES_MAX};
use crate::base::{FrameRun, ShardCounters, TAG_BYTES, Tag, Variant};
use crate::broker::{Broker, Channel, Only};
use crate::dialect::{self, Hole};
use crate::json::JsonReader;
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
    /// By the indices of the channel's audiences.
    frames: Vec<Frames>,
    /// The audiences that have frames.
    touched: Vec<u32>,
    wanted: Vec<u32>,
    json: JsonReader,
}

/// The frames gathered for one audience.
#[derive(Debug, Default)]
struct Frames {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    holes: Vec<u32>,
}

/// A frame that the publisher did not make, as the variant came into use after it had looked.
#[derive(Debug, Default)]
struct LateFrame {
    variant: Option<Variant>,
    bytes: Vec<u8>,
    hole: Option<usize>,
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
        broker: &mut Broker,
        mut deliver: impl FnMut(u32, &FrameRun, Option<&Tag>),
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
            gathering.finish(broker, Only::All, &mut deliver);
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
        broker: &mut Broker,
        counters: &ShardCounters,
        deliver: &mut impl FnMut(u32, &FrameRun, Option<&Tag>),
    ) {
        let Some(record) = Record::read(bytes) else {
            return;
        };
        let publication = &record.publication;
        broker.keep(publication);
        let is_for_all = publication.only == Only::All;
        if publication.channel != self.channel || !is_for_all {
            self.finish(broker, Only::All, deliver);
            self.channel.push_str(publication.channel);
        }
        let Some(index) = broker.find_channel(publication.channel) else {
            return;
        };
        self.find_audiences(broker.channel_mut(index), publication.data, counters);
        let channel = broker.channel(index);
        let mut late = LateFrame::default();
        let mut is_long = false;
        for audience in &self.wanted {
            let taste = channel.audience(*audience).taste;
            let at = *audience as usize;
            if self.frames.len() <= at {
                self.frames.resize_with(at + 1, Frames::default);
            }
            let frame = match record.frame(taste.variant) {
                Some(frame) => frame,
                None => late.of(taste.variant, &record, counters),
            };
            let frames = &mut self.frames[at];
            if frames.ends.is_empty() {
                self.touched.push(*audience);
            }
            frames.append(frame, usize::from(taste.tag_bytes));
            is_long |= frames.bytes.len() >= RUN_BYTES_MAX;
        }
        if is_long || !is_for_all {
            self.finish(broker, publication.only, deliver);
        }
    }

    /// Lists in `wanted` the audiences that hear a publication with this data.
    fn find_audiences(&mut self, channel: &mut Channel, data: &str, counters: &ShardCounters) {
        self.wanted.clear();
        channel.unfiltered(&mut self.wanted);
        if !channel.has_filters() {
            return;
        }
        // Data that is no object has no fields that a filter could match.
        if let Ok(document) = self.json.parse(data)
            && let Ok(object) = document.object()
        {
            let evaluations = channel.matching(&object, &mut self.wanted);
            counters.filter_evaluations.add(evaluations);
        }
    }

    /// Hands out what is gathered, to the subscribers that it is for.
    fn finish(
        &mut self,
        broker: &Broker,
        only: Only<'_>,
        deliver: &mut impl FnMut(u32, &FrameRun, Option<&Tag>),
    ) {
        if let Some(index) = broker.find_channel(&self.channel) {
            let channel = broker.channel(index);
            for audience in self.touched.drain(..) {
                let frames = &mut self.frames[audience as usize];
                let run = FrameRun::publications(&frames.bytes, &frames.ends, &frames.holes);
                frames.clear();
                let audience = channel.audience(audience);
                if only != Only::All {
                    for (at, slot) in audience.slots.iter().enumerate() {
                        if broker.is_meant(*slot, only) {
                            deliver(*slot, &run, audience.tags.get(at));
                        }
                    }
                } else if audience.tags.is_empty() {
                    for slot in &audience.slots {
                        deliver(*slot, &run, None);
                    }
                } else {
                    for (slot, tag) in audience.slots.iter().zip(&audience.tags) {
                        deliver(*slot, &run, Some(tag));
                    }
                }
            }
        }
        self.channel.clear();
    }
}

impl LateFrame {
    fn of(&mut self, variant: Variant, record: &Record<'_>, counters: &ShardCounters) -> Frame<'_> {
        if self.variant != Some(variant) {
            self.variant = Some(variant);
            self.bytes.clear();
            self.hole = record::append_frame(&mut self.bytes, |output| {
                let dialect = dialect::of(variant.dialect());
                dialect.publication(&record.publication, record.stamp, output)
            });
            counters.encodes.of(variant).add(1);
        }
        Frame {
            bytes: &self.bytes,
            hole: self.hole,
        }
    }
}

impl Frames {
    /// Adds a frame, its hole made as wide as the subscribers' tags.
    fn append(&mut self, frame: Frame<'_>, tag_bytes: usize) {
        let base = self.bytes.len();
        let hole = match frame.hole {
            None => {
                self.bytes.extend_from_slice(frame.bytes);
                None
            }
            Some(hole) if tag_bytes == TAG_BYTES => {
                self.bytes.extend_from_slice(frame.bytes);
                Some(hole)
            }
            Some(hole) => {
                let header_bytes = frame::header_bytes(frame.bytes);
                record::append_frame(&mut self.bytes, |output| {
                    output.extend_from_slice(&frame.bytes[header_bytes..hole]);
                    output.resize(output.len() + tag_bytes, 0);
                    output.extend_from_slice(&frame.bytes[hole + TAG_BYTES..]);
                    Some(Hole(hole - header_bytes))
                })
            }
        };
        let offset = |at: usize| u32::try_from(at).expect("a run is far shorter than 4 GiB");
        if tag_bytes > 0 {
            self.holes.extend(hole.map(|hole| offset(base + hole)));
        }
        self.ends.push(offset(self.bytes.len()));
    }

    fn clear(&mut self) {
        self.ends.clear();
        self.holes.clear();
        self.bytes.clear();
        self.bytes.shrink_to(2 * RUN_BYTES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_becomes_as_wide_as_the_tags() {
        let mut template = Vec::new();
        let hole = record::append_frame(&mut template, |output| {
            output.extend_from_slice(b"ab");
            output.extend_from_slice(&[b'_'; TAG_BYTES]);
            output.extend_from_slice(b"cd");
            Some(Hole(2))
        });
        let frame = Frame {
            bytes: &template,
            hole,
        };
        for (width, tag) in [(0, ""), (3, "xyz"), (TAG_BYTES, "01234567890123456789")] {
            let mut frames = Frames::default();
            frames.append(frame, width);
            frames.append(frame, width);
            let run = FrameRun::publications(&frames.bytes, &frames.ends, &frames.holes);
            let text = format!("ab{tag}cd");
            let length = u8::try_from(text.len()).unwrap();
            let expected = [&[0x81, length], text.as_bytes()].concat().repeat(2);
            assert_eq!(run.filled(&Tag::new(tag)).bytes(), expected, "{width}");
        }
    }
}

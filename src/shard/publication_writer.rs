//! Encodes publications once per variant in use, and writes them once to the ring.

use super::acknowledgements::{Acknowledgements, Ticket};
use super::envelope;
use super::frame_encoder::{FrameEncoder, SharedEncoder};
use super::record::{self, FRAGMENT_PREFIX_BYTES, Form};
use super::stored;
use crate::base::interest::variants_of;
use crate::base::memory::Waiting;
use crate::base::now::Stopwatch;
use crate::base::publish_times::PublishTimes;
use crate::base::{
    ChannelTag, ConnectionId, HistoryLimits, Now, Outgoing, ProcessState, RetainedChange, Sent,
    ShardCounters, ShardSet, Variant,
};
use crate::broker::{Event, Publication, Retain};
use crate::dialect::{self, PublicationMeta};
use crate::journal::PublicationLog;
use crate::store::Completion;
use fanwire_ring::{Ring, WriteError, Writer};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bits of a publication's id that hold its number; the bits above hold the shard.
pub(super) const ID_BITS: u32 = 48;

/// The number of a publication among those of its writer, from 1.
pub(super) const fn number_of(id: u64) -> u64 {
    id & ((1 << ID_BITS) - 1)
}

/// The writer of a publication: a shard, or [`SHARDS_MAX`](crate::base::limits::SHARDS_MAX).
pub(super) fn writer_of(id: u64) -> usize {
    usize::try_from(id >> ID_BITS).unwrap_or(usize::MAX)
}

/// Parts of the ring. When the ring has moved on by one, shards that sleep and want none of its
/// records are woken too, so that their positions never hold the writers.
const RING_PARTS: u64 = 8;
/// Channels of which it is noted that records are to be announced; with more, all shards are woken.
const UNANNOUNCED_MAX: usize = 64;

/// Memory that a writer keeps for its next record, bytes.
const SPARE_BYTES_MAX: usize = 256 * 1024;

/// What all writers of publications have in common: the ring, and what is known of the shards.
#[derive(Clone, Debug)]
pub(super) struct RingWriter {
    writer: Writer,
    ring: Ring,
    process_state: Arc<ProcessState>,
    /// The shard whose writer this is.
    shard: Option<u16>,
}

/// A publication in one piece or in several.
#[derive(Debug)]
pub(super) struct Pieces {
    pub(super) tag: ChannelTag,
    id: u64,
    pub(super) record: Vec<u8>,
    /// Bytes of `record` that are written.
    written: usize,
    /// How much its channel keeps, if it has a history and is kept.
    history: Option<HistoryLimits>,
    /// Its offset among the publications of all nodes, and its age in milliseconds; of none, zeros.
    shared: (u64, u64),
    /// Its offset there, once it is written.
    pub(super) offset: Option<u64>,
    /// Of one whose publisher waits until it is stored.
    ticket: Option<Ticket>,
}

impl Pieces {
    /// Whether a part of it is written.
    /// States that it was accepted earlier, milliseconds ago.
    pub(super) fn set_age(&mut self, age_ms: u64) {
        self.shared.1 = age_ms;
    }

    pub(super) fn is_begun(&self) -> bool {
        self.written > 0
    }
}

/// The records whose subscribers' shards are still to be woken.
#[derive(Debug, Default)]
pub(super) struct Unannounced {
    tags: Vec<ChannelTag>,
    wakes_all: bool,
    /// The part of the ring in which the last record was written.
    part: u64,
    shards: ShardSet,
}

impl RingWriter {
    /// The writer of a shard, or one for all threads that are not shards.
    pub(super) fn new(ring: &Ring, process_state: Arc<ProcessState>, shard: Option<u16>) -> Self {
        Self {
            writer: ring.writer(),
            ring: ring.clone(),
            process_state,
            shard,
        }
    }

    /// Notes when a publication is made, if it is one whose time is measured.
    pub(super) fn note_time(&self, id: u64, stopwatch: Stopwatch) {
        if PublishTimes::is_sampled(number_of(id)) && stopwatch.is_running() {
            let times = &self.process_state.publish_times;
            times.note(writer_of(id), number_of(id), stopwatch.nanos());
        }
    }

    /// The position at which the next record is claimed, or an earlier one.
    pub(super) fn ring_position(&self) -> u64 {
        self.ring.tail_position()
    }

    /// Encodes a publication in the variants in use, and names each to `note_encode`.
    pub(super) fn encode(
        &self,
        publication: &Publication<'_>,
        meta: PublicationMeta,
        (record, encoder): (Vec<u8>, &mut FrameEncoder),
        note_encode: impl FnMut(Variant),
    ) -> Pieces {
        let interests = &self.process_state.interests;
        let channel = publication.full_name();
        let tag = interests.tag(&channel);
        let mut variants = interests.variants(tag);
        if publication.data.is_binary() {
            let takes =
                |variant: &Variant| dialect::of(variant.dialect()).has_binary_publications();
            let takers = variants_of(variants).filter(takes);
            variants = takers.fold(0, |mask, variant| mask | variant.bit());
        }
        variants_of(variants).for_each(note_encode);
        let history = self.process_state.history.limits_of(&channel);
        // Where there are several nodes, the history has what all of them number.
        let is_alone = self.process_state.link.is_none();
        let history = history.filter(|_| is_alone || meta.shared.is_some());
        let meta = PublicationMeta {
            has_position: history.is_some(),
            ..meta
        };
        let mut record = record;
        record::write(
            &mut record,
            publication,
            &channel,
            meta,
            (variants, encoder),
            |variant, output| {
                dialect::of(variant.dialect()).publication(publication, meta.of(variant), output)
            },
        );
        Pieces {
            tag,
            id: meta.id,
            record,
            written: 0,
            history,
            shared: (meta.shared.map_or(0, |shared| shared.offset), 0),
            offset: None,
            ticket: None,
        }
    }

    /// Writes what is left of a publication; false when the ring is full.
    pub(super) fn write(
        &self,
        pieces: &mut Pieces,
        unannounced: &mut Unannounced,
        now: Now,
    ) -> bool {
        let record_bytes_max = self.ring.record_bytes_max() as usize;
        if pieces.record.len() <= record_bytes_max {
            let offset = self.write_last(pieces, &[&pieces.record], unannounced, now);
            pieces.offset = offset.filter(|_| pieces.history.is_some());
            return offset.is_some();
        }
        while pieces.written < pieces.record.len() {
            let rest = &pieces.record[pieces.written..];
            let piece = &rest[..rest.len().min(record_bytes_max - FRAGMENT_PREFIX_BYTES)];
            let form = if pieces.written == 0 {
                Form::First
            } else if piece.len() == rest.len() {
                Form::Last
            } else {
                Form::Middle
            };
            let prefix = record::fragment_prefix(form, pieces.written, pieces.id);
            let parts = [&prefix[..], piece];
            let is_written = match form {
                Form::Last => {
                    let offset = self.write_last(pieces, &parts, unannounced, now);
                    pieces.offset = offset.filter(|_| pieces.history.is_some());
                    offset.is_some()
                }
                Form::First => {
                    let offset = self.write_noted(pieces, &parts, unannounced, now, None);
                    offset.is_some()
                }
                _ => self
                    .write_record(pieces.tag, &parts, unannounced, now)
                    .is_some(),
            };
            if !is_written {
                return false;
            }
            pieces.written += piece.len();
        }
        true
    }

    /// Writes the record with which a publication is complete, and inserts the publication in the
    /// history; its offset, or nothing when the ring is full.
    fn write_last(
        &self,
        pieces: &Pieces,
        parts: &[&[u8]],
        unannounced: &mut Unannounced,
        now: Now,
    ) -> Option<u64> {
        self.write_noted(pieces, parts, unannounced, now, pieces.history)
    }

    /// Writes a record of which shards that did not read it must be able to learn: from the history,
    /// within `limits`, or from a note. Returns its offset, or nothing when the ring is full.
    fn write_noted(
        &self,
        pieces: &Pieces,
        parts: &[&[u8]],
        unannounced: &mut Unannounced,
        now: Now,
        limits: Option<HistoryLimits>,
    ) -> Option<u64> {
        let history = &self.process_state.history;
        if !history.has_rules() {
            let position = self.write_record(pieces.tag, parts, unannounced, now)?;
            return Some(history.offset_of(position));
        }
        let tail = self.ring.tail_position();
        let writing = match self.shard {
            Some(shard) => Some(history.begin_in_shard(shard, tail)),
            None => history.begin_outside(tail),
        };
        // Too many threads publish at once: as if the ring was full.
        let writing = writing?;
        let position = self.write_record(pieces.tag, parts, unannounced, now)?;
        let (tag, offset) = (pieces.tag, history.offset_of(position));
        match (limits, record::without_frames(&pieces.record)) {
            (Some(limits), Some(parts)) => {
                let (shared, age_ms) = pieces.shared;
                let times_ms = (now.monotonic_ms, age_ms);
                history.insert_shared(tag, (offset, shared), &parts, limits, times_ms);
            }
            _ => history.note_unkept(tag, offset),
        }
        drop(writing);
        Some(offset)
    }

    /// Writes one record; its position, or nothing when the ring is full.
    fn write_record(
        &self,
        tag: ChannelTag,
        parts: &[&[u8]],
        unannounced: &mut Unannounced,
        now: Now,
    ) -> Option<u64> {
        let written = match self.writer.try_write(tag.bits(), parts) {
            Err(WriteError::Full) if self.put_out_stalled(now) => {
                self.writer.try_write(tag.bits(), parts)
            }
            written => written,
        };
        match written {
            Ok(position) => {
                let part = position / (u64::from(self.ring.capacity_bytes()) / RING_PARTS);
                unannounced.add(tag, part);
                Some(position)
            }
            Err(WriteError::Full) => {
                unannounced.wakes_all = true;
                None
            }
            Err(error) => {
                // Records over the limit are cut into fragments; the rest is for shared rings.
                unreachable!("{error}")
            }
        }
    }

    /// Puts the readers of stalled shards out of the gate, so that nobody waits for them; whether
    /// there was one.
    #[cold]
    fn put_out_stalled(&self, now: Now) -> bool {
        let heartbeats = &self.process_state.heartbeats;
        let mut was_one = false;
        for shard in heartbeats.stalled(now.monotonic_ms) {
            if heartbeats.is_confirmed(shard, now.monotonic_ms) {
                was_one |= self.ring.put_out(u32::from(shard));
            }
        }
        was_one
    }

    /// Calls `wake` for each shard that sleeps and has subscribers of what was written.
    pub(super) fn announce(&self, unannounced: &mut Unannounced, wake: impl FnMut(u32)) {
        if unannounced.tags.is_empty() && !unannounced.wakes_all {
            return;
        }
        let Unannounced {
            tags,
            wakes_all,
            shards,
            ..
        } = unannounced;
        let mut is_known = false;
        let wanted = |word| {
            if *wakes_all {
                return u64::MAX;
            }
            if !std::mem::replace(&mut is_known, true) {
                shards.clear();
                for tag in tags.iter() {
                    self.process_state.interests.add_shards(*tag, shards);
                }
            }
            shards.word(word)
        };
        self.writer.wake_parked(wanted, wake);
        tags.clear();
        *wakes_all = false;
    }
}

impl Unannounced {
    fn add(&mut self, tag: ChannelTag, part: u64) {
        self.wakes_all |= part != self.part || self.tags.len() >= UNANNOUNCED_MAX;
        self.part = part;
        if !self.wakes_all && self.tags.last() != Some(&tag) {
            self.tags.push(tag);
        }
    }
}

/// A publication on its way to the other nodes.
pub(super) fn outgoing(
    publication: &Publication<'_>,
    process_state: &ProcessState,
    sent: Option<Sent>,
    now: Now,
) -> Outgoing {
    let channel = publication.full_name();
    let mut key = String::new();
    let retain = match dialect::retaining(publication, &mut key).retain {
        Retain::None => None,
        Retain::Value(key) => publication.data.json().map(|value| (key, Some(value))),
        Retain::Clear(key) => Some((key, None)),
    };
    let retain = retain.map(|(key, value)| {
        let (key, value) = (key.into(), value.map(Into::into));
        Box::new(RetainedChange { key, value })
    });
    Outgoing {
        retain,
        tag: process_state.interests.tag(&channel),
        history: process_state.history.limits_of(&channel),
        envelope: envelope::seal(publication, now.unix_ms),
        channel: channel.into(),
        sent,
    }
}

/// The writer of one shard.
#[derive(Debug)]
pub(super) struct PublicationWriter {
    shard: u16,
    ring_writer: RingWriter,
    counters: Arc<ShardCounters>,
    encoder: SharedEncoder,
    /// Publications that found the ring full, oldest first.
    unsent: VecDeque<(Pieces, Waiting)>,
    unannounced: Unannounced,
    /// Publications so far.
    count: u64,
    pub(super) stopwatch: Stopwatch,
    /// Memory for the next record.
    spare: Vec<u8>,
    /// With a durable store: what is published on channels with a history.
    pub(super) log: Option<PublicationLog>,
    /// Publications that found no room on the way to the other nodes, oldest first.
    unsent_to_nodes: VecDeque<(Outgoing, Waiting)>,
    /// Who waits until publications are stored, or with the other nodes.
    pub(super) acknowledgements: Option<Acknowledgements>,
}

impl PublicationWriter {
    pub(super) fn new(
        shard: u16,
        ring: &Ring,
        process_state: Arc<ProcessState>,
        encoder: SharedEncoder,
        counters: Arc<ShardCounters>,
    ) -> Self {
        Self {
            shard,
            ring_writer: RingWriter::new(ring, process_state, Some(shard)),
            counters,
            encoder,
            unsent: VecDeque::new(),
            unannounced: Unannounced::default(),
            count: 0,
            stopwatch: Stopwatch::STOPPED,
            spare: Vec::new(),
            log: None,
            unsent_to_nodes: VecDeque::new(),
            acknowledgements: None,
        }
    }

    /// An offset of the history that no publication has yet.
    pub(super) fn next_offset(&self) -> u64 {
        let position = self.ring_writer.ring_position();
        self.process_state().history.offset_of(position)
    }

    /// What the shards of the process share.
    pub(super) fn process_state(&self) -> &ProcessState {
        &self.ring_writer.process_state
    }

    /// Publishes to the shards of all nodes.
    pub(super) fn publish(&mut self, publication: &Publication<'_>, now: Now) {
        let Some(link) = &self.ring_writer.process_state.link else {
            return self.publish_here(publication, now);
        };
        let acknowledgements = self.acknowledgements.as_mut();
        let completion = acknowledgements.and_then(|its| {
            let ticket = its.begin(true)?;
            let completion: Sent = Box::new(its.completion(ticket));
            Some(completion)
        });
        let outgoing = outgoing(publication, self.process_state(), completion, now);
        if !self.unsent_to_nodes.is_empty() {
            return self.delay(outgoing);
        }
        if let Err(outgoing) = link.send(outgoing) {
            self.delay(outgoing);
        }
    }

    fn delay(&mut self, outgoing: Outgoing) {
        self.counters.ring_full.add(1);
        let waiting = Waiting::of(outgoing.bytes());
        self.unsent_to_nodes.push_back((outgoing, waiting));
    }

    /// Publishes to the shards of this node, including this one.
    pub(super) fn publish_here(&mut self, publication: &Publication<'_>, now: Now) {
        self.count += 1;
        let id = u64::from(self.shard) << ID_BITS | self.count;
        let meta = PublicationMeta::new(now.unix_ms, id);
        self.ring_writer.note_time(meta.id, self.stopwatch);
        let spare = std::mem::take(&mut self.spare);
        let counters = &self.counters;
        let note_encode = |variant| counters.encodes.of(variant).add(1);
        let mut encoder = self.encoder.borrow_mut();
        let mut pieces =
            self.ring_writer
                .encode(publication, meta, (spare, &mut encoder), note_encode);
        encoder.count(counters);
        drop(encoder);
        if let (Some(log), Some(acknowledgements)) = (&self.log, &mut self.acknowledgements) {
            let is_later = pieces.history.is_some() && log.acknowledges_stored();
            pieces.ticket = acknowledgements.begin(is_later);
        }
        if !self.unsent.is_empty() || !self.write(&mut pieces, now) {
            self.counters.ring_full.add(1);
            let waiting = Waiting::of(pieces.record.capacity());
            self.unsent.push_back((pieces, waiting));
        } else if pieces.record.len() <= SPARE_BYTES_MAX {
            self.spare = pieces.record;
        }
    }

    fn write(&mut self, pieces: &mut Pieces, now: Now) -> bool {
        let is_written = self.ring_writer.write(pieces, &mut self.unannounced, now);
        if is_written {
            self.store(pieces, now);
        }
        is_written
    }

    /// Appends a publication that is in the ring to the log, if there is one.
    fn store(&mut self, pieces: &Pieces, now: Now) {
        let Some(log) = &mut self.log else {
            return;
        };
        let acknowledgements = self.acknowledgements.as_ref();
        let completion = || Some(acknowledgements?.completion(pieces.ticket?));
        let of_log = completion()
            .map(|completion| -> Completion { Box::new(move |stored| completion(stored.is_ok())) });
        if !stored::log(log, pieces, of_log, now)
            && let Some(completion) = completion()
        {
            completion(false);
        }
    }

    /// Whether the acknowledgement of what session `id` has just published waits.
    pub(super) fn is_held_back(&mut self, id: ConnectionId, event: &Event<'_>) -> bool {
        let acknowledgements = self.acknowledgements.as_mut();
        acknowledgements.is_some_and(|its| its.is_held_back(id, event))
    }

    /// Whether the durable store cannot write at the moment.
    pub(super) fn is_log_failing(&self) -> bool {
        self.log.as_ref().is_some_and(PublicationLog::is_failing)
    }

    /// Writes waiting records, as far as there is room.
    pub(super) fn retry(&mut self, now: Now) {
        while let Some((mut pieces, waiting)) = self.unsent.pop_front() {
            if !self.write(&mut pieces, now) {
                self.unsent.push_front((pieces, waiting));
                break;
            }
        }
        while let (Some(link), Some((outgoing, waiting))) = (
            &self.ring_writer.process_state.link,
            self.unsent_to_nodes.pop_front(),
        ) {
            if let Err(outgoing) = link.send(outgoing) {
                self.unsent_to_nodes.push_front((outgoing, waiting));
                break;
            }
        }
    }

    /// Whether publications wait for room in the ring.
    pub(super) fn is_congested(&self) -> bool {
        !self.unsent.is_empty() || !self.unsent_to_nodes.is_empty()
    }

    /// Wakes the shards that sleep and have subscribers of what was written since the last call.
    pub(super) fn wake_peers(&mut self, wake: impl FnMut(u32)) {
        self.ring_writer.announce(&mut self.unannounced, wake);
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

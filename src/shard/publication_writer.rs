//! Encodes publications once per variant in use, and writes them once to the ring.

use super::record::{self, Form};
use crate::base::{ProcessCounts, ShardCounters, Variant};
use crate::broker::Publication;
use crate::dialect::{self, PublicationMeta};
use fanwire_ring::{Ring, WriteError, Writer};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bits of a publication's id that hold its number; the bits above hold the shard.
const ID_BITS: u32 = 48;

/// The writer of one shard.
#[derive(Debug)]
pub(super) struct PublicationWriter {
    shard: u16,
    writer: Writer,
    process_counts: Arc<ProcessCounts>,
    counters: Arc<ShardCounters>,
    record: Vec<u8>,
    piece_bytes_max: usize,
    /// Records that found the ring full, oldest first.
    unsent: VecDeque<Box<[u8]>>,
    has_written: bool,
    /// Publications so far.
    count: u64,
}

impl PublicationWriter {
    pub(super) fn new(
        shard: u16,
        ring: &Ring,
        process_counts: Arc<ProcessCounts>,
        counters: Arc<ShardCounters>,
    ) -> Self {
        let record_bytes_max = ring.record_bytes_max() as usize;
        Self {
            shard,
            writer: ring.writer(),
            process_counts,
            counters,
            record: Vec::new(),
            piece_bytes_max: record_bytes_max - record::FRAGMENT_PREFIX_BYTES,
            unsent: VecDeque::new(),
            has_written: false,
            count: 0,
        }
    }

    /// Publishes to all shards, including this one.
    pub(super) fn publish(&mut self, publication: &Publication<'_>, unix_ms: u64) {
        self.count += 1;
        let meta = PublicationMeta {
            unix_ms,
            id: u64::from(self.shard) << ID_BITS | self.count,
        };
        let counter_slot = self.process_counts.counter_slot(publication.channel);
        let in_use = self.process_counts.variants_in_use(counter_slot);
        let variants = Variant::all().filter(|variant| in_use & variant.bit() != 0);
        let counters = &self.counters;
        record::write(
            &mut self.record,
            self.shard,
            publication,
            meta,
            variants,
            |variant, output| {
                counters.encodes.of(variant).add(1);
                dialect::of(variant.dialect()).publication(publication, meta, output)
            },
        );
        if self.record.len() > self.piece_bytes_max {
            self.queue_fragments();
            self.retry();
        } else if !self.unsent.is_empty() || !self.try_write_record() {
            self.unsent.push_back(self.record.as_slice().into());
        }
    }

    fn try_write_record(&mut self) -> bool {
        let written = self.writer.try_write(&[&self.record]);
        self.note(written)
    }

    fn note(&mut self, written: Result<(), WriteError>) -> bool {
        match written {
            Ok(()) => {
                self.has_written = true;
                true
            }
            Err(WriteError::Full) => {
                self.counters.ring_full.add(1);
                false
            }
            Err(WriteError::TooLarge) => {
                unreachable!("records over the limit were cut into fragments")
            }
        }
    }

    fn queue_fragments(&mut self) {
        let record = std::mem::take(&mut self.record);
        let pieces = record.chunks(self.piece_bytes_max);
        let last = pieces.len() - 1;
        for (index, piece) in pieces.enumerate() {
            let form = match index {
                0 => Form::First,
                index if index == last => Form::Last,
                _ => Form::Middle,
            };
            let prefix = record::fragment_prefix(form, self.shard);
            let fragment = [&prefix, piece].concat();
            self.unsent.push_back(fragment.into());
        }
    }

    /// Writes waiting records, as far as there is room.
    pub(super) fn retry(&mut self) {
        while let Some(record) = self.unsent.front() {
            let written = self.writer.try_write(&[record]);
            if !self.note(written) {
                return;
            }
            self.unsent.pop_front();
        }
    }

    /// Whether publications wait for room in the ring.
    pub(super) fn is_congested(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Wakes the shards that sleep, if anything was written since the last call.
    pub(super) fn wake_peers(&mut self, wake: impl FnMut(u32)) {
        if std::mem::take(&mut self.has_written) {
            self.writer.wake_parked(wake);
        }
    }
}

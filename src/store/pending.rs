//! Records that are not durable yet, and who wants to know.

use super::status::{self, Status};
use crate::base::catch_panic;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// A record that was queued and will not be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLost;

/// Called on a thread of the store, once, with the sequence number when the record is as durable
/// as the policy promises. It must not wait for anything.
pub type Completion = Box<dyn FnOnce(Result<u64, RecordLost>) + Send>;

/// Records on their way to the disk. Those that are dropped on it are counted as lost, and their
/// completions know it.
pub(super) struct PendingRecords {
    records: u64,
    /// Completions by the number of their record: its index in a chunk, its sequence number in a
    /// batch.
    completions: VecDeque<(u64, Completion)>,
    status: Arc<Status>,
}

impl PendingRecords {
    pub(super) fn new(status: &Arc<Status>) -> Self {
        Self {
            records: 0,
            completions: VecDeque::new(),
            status: Arc::clone(status),
        }
    }

    pub(super) const fn records(&self) -> u64 {
        self.records
    }

    pub(super) fn push(&mut self, number: u64, completion: Option<Completion>) {
        self.records += 1;
        if let Some(completion) = completion {
            self.completions.push_back((number, completion));
        }
    }

    /// Moves the records of a chunk behind these, and adds the sequence number of its first one to
    /// their numbers.
    pub(super) fn append_numbered(&mut self, mut chunk: Self, first_sequence: u64) {
        self.records += std::mem::take(&mut chunk.records);
        let completions = std::mem::take(&mut chunk.completions).into_iter();
        self.completions
            .extend(completions.map(|(index, completion)| (first_sequence + index, completion)));
    }

    /// Moves all records of `other` behind these.
    pub(super) fn append(&mut self, mut other: Self) {
        self.records += std::mem::take(&mut other.records);
        self.completions.append(&mut other.completions);
    }

    /// The records are durable.
    pub(super) fn complete(mut self) {
        self.records = 0;
        while let Some((sequence, completion)) = self.completions.pop_front() {
            // It is the caller's code.
            catch_panic(|| completion(Ok(sequence)));
        }
    }
}

impl Drop for PendingRecords {
    fn drop(&mut self) {
        status::add(&self.status.records_lost, self.records);
        for (_, completion) in self.completions.drain(..) {
            catch_panic(|| completion(Err(RecordLost)));
        }
    }
}

impl fmt::Debug for PendingRecords {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("PendingRecords");
        debug
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

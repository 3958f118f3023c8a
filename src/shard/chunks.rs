//! Parts of runs in a queue that allocates only when it holds more than one.

use crate::base::{FrameRun, SubscriptionId};
use std::collections::VecDeque;

/// Memory of a chunk beside its bytes, roughly: in the queue, and in the run.
const CHUNK_OVERHEAD_BYTES: u32 = 160;

/// A part of a run: all of it, or the rest after a short write.
///
/// A chunk may start inside a frame whose first bytes are already written, but it always ends at
/// the end of a frame, so a control frame may follow any chunk.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) run: FrameRun,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) is_control: bool,
    /// The subscription id for the run's placeholders; `None` when it has none, or when they are
    /// filled.
    pub(super) subscription_id: Option<SubscriptionId>,
}

impl Chunk {
    pub(super) fn whole(run: FrameRun, is_control: bool) -> Self {
        Self {
            end: run.len(),
            run,
            start: 0,
            is_control,
            subscription_id: None,
        }
    }

    /// A run with placeholders, for the subscriber with this subscription id.
    pub(super) fn for_subscriber(run: FrameRun, subscription_id: Option<SubscriptionId>) -> Self {
        Self {
            subscription_id,
            ..Self::whole(run, false)
        }
    }

    /// Copies the run with the subscription id in its placeholders. This happens just before the
    /// send: the copy is then still in the processor's cache when the kernel copies it again, and
    /// few copies exist at a time.
    pub(super) fn insert_subscription_id(&mut self) {
        if let Some(subscription_id) = self.subscription_id.take() {
            self.run = self.run.with_subscription_id(&subscription_id);
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.run.bytes()[self.start as usize..self.end as usize]
    }

    pub(super) fn length(&self) -> u32 {
        self.end - self.start
    }

    /// What a reply costs while it waits, bytes; nothing for other chunks.
    pub(super) fn reply_bytes(&self) -> u32 {
        if self.is_control || self.run.is_publications() {
            return 0;
        }
        self.run.len().saturating_add(CHUNK_OVERHEAD_BYTES)
    }

    /// Publications in the chunk, a partly written one included.
    pub(super) fn publications(&self) -> u64 {
        self.publications_to(self.end)
    }

    /// Publications that end in `start..=offset` of the run.
    pub(super) fn publications_to(&self, offset: u32) -> u64 {
        if self.run.is_publications() {
            self.run.frames_before(offset) - self.run.frames_before(self.start)
        } else {
            0
        }
    }
}

/// Chunks in order. Nearly always one waits per connection, so the first is stored inline and only
/// a backlog allocates.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    first: Option<Chunk>,
    /// Never empty; `Some` only if `first` is.
    #[expect(
        clippy::box_collection,
        reason = "eight bytes instead of thirty-two in each connection without a backlog"
    )]
    rest: Option<Box<VecDeque<Chunk>>>,
}

impl Chunks {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn len(&self) -> usize {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.len());
        usize::from(self.first.is_some()) + rest
    }

    pub(super) fn push_back(&mut self, chunk: Chunk) {
        if self.first.is_none() {
            self.first = Some(chunk);
        } else {
            self.rest.get_or_insert_default().push_back(chunk);
        }
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Chunk> {
        self.first.as_mut()
    }

    pub(super) fn pop_front(&mut self) {
        self.remove(0);
    }

    pub(super) fn get(&self, at: usize) -> Option<&Chunk> {
        match at {
            0 => self.first.as_ref(),
            at => self.rest.as_ref()?.get(at - 1),
        }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Chunk> {
        let rest = self.rest.iter_mut().flat_map(|rest| rest.iter_mut());
        self.first.iter_mut().chain(rest)
    }

    /// Inserts a chunk at index `at`, at most `len`.
    pub(super) fn insert(&mut self, at: usize, chunk: Chunk) {
        if at > 0 {
            let rest = self.rest.get_or_insert_default();
            rest.insert(at - 1, chunk);
        } else if let Some(second) = self.first.replace(chunk) {
            self.rest.get_or_insert_default().push_front(second);
        }
    }

    /// Removes the chunk at index `at`.
    pub(super) fn remove(&mut self, at: usize) -> Option<Chunk> {
        let removed = match at {
            0 => {
                let first = self.first.take();
                self.first = self.rest.as_mut().and_then(|rest| rest.pop_front());
                first
            }
            at => self.rest.as_mut()?.remove(at - 1),
        };
        self.drop_empty_rest();
        removed
    }

    /// Removes and returns all chunks from index `at` on.
    pub(super) fn split_off(&mut self, at: usize) -> VecDeque<Chunk> {
        let mut taken = match &mut self.rest {
            Some(rest) => rest.split_off(at.saturating_sub(1).min(rest.len())),
            None => VecDeque::new(),
        };
        if at == 0
            && let Some(first) = self.first.take()
        {
            taken.push_front(first);
        }
        self.drop_empty_rest();
        taken
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.first
            .iter()
            .chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }

    fn drop_empty_rest(&mut self) {
        if self.rest.as_ref().is_some_and(|rest| rest.is_empty()) {
            self.rest = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The letters of the runs, in order.
    fn letters(chunks: &Chunks) -> String {
        assert_eq!(chunks.len(), chunks.iter().count());
        assert!(chunks.rest.as_ref().is_none_or(|rest| !rest.is_empty()));
        chunks
            .iter()
            .map(|chunk| char::from(chunk.bytes()[0]))
            .collect()
    }

    fn chunk(byte: u8) -> Chunk {
        Chunk::whole(FrameRun::reply(&[byte]), false)
    }

    #[test]
    fn insertions_and_removals_keep_the_order() {
        let mut chunks = Chunks::default();
        for byte in *b"bd" {
            chunks.push_back(chunk(byte));
        }
        chunks.insert(0, chunk(b'a'));
        chunks.insert(2, chunk(b'c'));
        chunks.insert(4, chunk(b'e'));
        assert_eq!(letters(&chunks), "abcde");
        chunks.pop_front();
        assert_eq!(
            (letters(&chunks), chunks.get(1).is_some()),
            ("bcde".into(), true)
        );
        let taken = chunks.split_off(1);
        assert_eq!((letters(&chunks), taken.len()), ("b".into(), 3));
        assert_eq!(chunks.split_off(0).len(), 1);
        assert!(chunks.is_empty());
        chunks.insert(0, chunk(b'z'));
        assert_eq!(letters(&chunks), "z");
    }
}

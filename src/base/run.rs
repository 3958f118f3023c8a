//! Finished frames, shared by all send queues of a shard.

use super::interest::ChannelTag;
use super::memory::Waiting;
use std::rc::Rc;

/// A subscription id, which the frames of one subscriber contain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId(Rc<str>);

/// Length of the subscription ids that the server assigns, bytes: frames are encoded with a
/// placeholder of this width.
pub const SUBSCRIPTION_ID_BYTES: usize = 20;

impl SubscriptionId {
    /// A subscription id with this text, which must need no escapes in JSON.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// One or more finished WebSocket frames, back to back, shared within a shard.
///
/// Consecutive publications of a channel are joined in one run, so that sixty-four of them waiting
/// for a connection cost one pointer and one buffer of one send. Cloning counts a reference,
/// without atomics: a run never leaves its shard.
#[derive(Clone, Debug)]
pub struct FrameRun(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: Box<[u8]>,
    /// End of each frame but the last; empty for a single frame.
    ends: Box<[u32]>,
    /// Where subscribers' subscription ids go: offsets of placeholders of equal width.
    placeholders: Box<[u32]>,
    /// If the channel has a history, its tag and the offset of each publication in it.
    source: Option<(ChannelTag, Box<[u64]>)>,
    publications: bool,
    _waiting: Waiting,
}

/// Memory of a run beside its bytes, roughly.
const RUN_OVERHEAD_BYTES: usize = 96;

impl FrameRun {
    /// A single frame that answers one connection; not counted as a delivery.
    #[must_use]
    pub fn reply(frame: &[u8]) -> Self {
        Self(Rc::new(Inner {
            bytes: frame.into(),
            ends: Box::default(),
            placeholders: Box::default(),
            source: None,
            publications: false,
            _waiting: Waiting::of(frame.len() + RUN_OVERHEAD_BYTES),
        }))
    }

    /// Frames of publications: `bytes` holds them back to back, `ends` where each one ends,
    /// `placeholders` where a subscriber's subscription id goes, and `source` the channel and the
    /// offset of each publication in its history, if it has one.
    ///
    /// # Panics
    /// When `ends` is empty or its last entry is not the length of `bytes`, or when some offsets are
    /// missing.
    #[must_use]
    pub fn publications(
        bytes: &[u8],
        ends: &[u32],
        placeholders: &[u32],
        source: Option<(ChannelTag, &[u64])>,
    ) -> Self {
        let (last, inner) = ends.split_last().expect("a run has at least one frame");
        assert_eq!(*last as usize, bytes.len(), "the last frame ends the run");
        assert!(source.is_none_or(|(_, offsets)| offsets.len() == ends.len()));
        Self(Rc::new(Inner {
            bytes: bytes.into(),
            ends: inner.into(),
            placeholders: placeholders.into(),
            source: source.map(|(tag, offsets)| (tag, offsets.into())),
            publications: true,
            _waiting: Waiting::of(bytes.len() + RUN_OVERHEAD_BYTES),
        }))
    }

    /// A copy of the frames for one subscriber, with `subscription_id` in each placeholder.
    ///
    /// # Panics
    /// When the subscription id is wider than the rest of the run after a placeholder.
    #[must_use]
    pub fn with_subscription_id(&self, subscription_id: &SubscriptionId) -> Self {
        let subscription_id = subscription_id.text().as_bytes();
        let mut bytes = self.0.bytes.clone();
        for placeholder in &self.0.placeholders {
            let placeholder = *placeholder as usize;
            bytes[placeholder..placeholder + subscription_id.len()]
                .copy_from_slice(subscription_id);
        }
        Self(Rc::new(Inner {
            _waiting: Waiting::of(bytes.len() + RUN_OVERHEAD_BYTES),
            bytes,
            ends: self.0.ends.clone(),
            placeholders: Box::default(),
            source: self.0.source.clone(),
            publications: self.0.publications,
        }))
    }

    /// The bytes of all frames.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Length of all frames in bytes.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "frame ends are u32, so a run is shorter than 4 GiB"
    )]
    pub fn len(&self) -> u32 {
        self.0.bytes.len() as u32
    }

    /// A run is never empty; the method is here for symmetry with `len`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.bytes.is_empty()
    }

    /// Frames in the run.
    #[must_use]
    pub fn frame_count(&self) -> u64 {
        self.0.ends.len() as u64 + 1
    }

    /// Whether the frames count as deliveries.
    #[must_use]
    pub fn is_publications(&self) -> bool {
        self.0.publications
    }

    /// Frames that lie completely in the first `offset` bytes.
    #[must_use]
    pub fn frames_before(&self, offset: u32) -> u64 {
        if offset >= self.len() {
            return self.frame_count();
        }
        self.0.ends.partition_point(|end| *end <= offset) as u64
    }

    /// The channel and the offset in its history of the first publication that does not lie
    /// completely in the first `bytes` bytes; `None` if there is none, or the channel has no history.
    #[must_use]
    pub fn next_offset(&self, bytes: u32) -> Option<(ChannelTag, u64)> {
        let (tag, offsets) = self.0.source.as_ref()?;
        let frames = usize::try_from(self.frames_before(bytes)).ok()?;
        Some((*tag, *offsets.get(frames)?))
    }

    /// The first frame boundary at or after `offset`.
    #[must_use]
    pub fn frame_end(&self, offset: u32) -> u32 {
        if offset == 0 {
            return 0;
        }
        let index = self.0.ends.partition_point(|end| *end < offset);
        self.0.ends.get(index).copied().unwrap_or(self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_of_a_run_are_found_from_any_offset() {
        let tag = ChannelTag::from_bits(1);
        let run = FrameRun::publications(b"aabbbbc", &[2, 6, 7], &[], Some((tag, &[5, 8, 9])));
        let frames: Vec<_> = (0..=7).map(|offset| run.frames_before(offset)).collect();
        assert_eq!(frames, [0, 0, 1, 1, 1, 1, 2, 3]);
        let ends: Vec<_> = (0..=7).map(|offset| run.frame_end(offset)).collect();
        assert_eq!(ends, [0, 2, 2, 6, 6, 6, 6, 7]);
        let next: Vec<_> = (0..=7).map(|bytes| run.next_offset(bytes)).collect();
        let [first, second, third] = [5, 8, 9].map(|offset| Some((tag, offset)));
        let expected = [first, first, second, second, second, second, third, None];
        assert_eq!(next, expected);
    }

    #[test]
    fn a_tag_goes_into_each_hole_of_a_copy() {
        let run = FrameRun::publications(b"a__bc__d", &[4, 8], &[1, 5], None);
        assert_eq!(
            run.with_subscription_id(&SubscriptionId::new("xy")).bytes(),
            b"axybcxyd"
        );
        assert_eq!(run.bytes(), b"a__bc__d");
        assert_eq!(
            run.with_subscription_id(&SubscriptionId::new("xy"))
                .frame_count(),
            2
        );
    }

    #[test]
    fn a_reply_is_one_frame() {
        let run = FrameRun::reply(b"abc");
        assert_eq!((run.frame_count(), run.frames_before(2)), (1, 0));
        assert_eq!((run.frames_before(3), run.frame_end(1)), (1, 3));
    }
}

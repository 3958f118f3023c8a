//! Makes frames of texts, and compresses them where client and server have agreed on it.
//!
//! Each message is compressed by itself, so one frame serves all who receive the same text, and the
//! compressors belong to the thread and not to a session.

use crate::base::limits::{COMPRESSED_BYTES_MAX, COMPRESSION_COST, SCRATCH_BYTES_KEPT};
use crate::base::{
    FrameEncoding, FrameRun, POSITION_BYTES, SUBSCRIPTION_ID_BYTES, ShardCounters, Variant,
};
use crate::config::CompressionPolicy;
use crate::dialect::{PREVIOUS_BYTES, Placeholders};
use crate::ws::{Deflater, frame};
use std::cell::RefCell;
use std::rc::Rc;

/// The encoder of a shard: of what it publishes, renders for late subscribers, and answers.
pub(super) type SharedEncoder = Rc<RefCell<FrameEncoder>>;

/// Makes frames, with the compressors of one thread.
#[derive(Debug)]
pub(super) struct FrameEncoder {
    deflater: Deflater,
    /// A shorter text is not compressed.
    bytes_min: usize,
    /// Memory for texts and payloads.
    text: Vec<u8>,
    payload: Vec<u8>,
    compressions: Compressions,
    /// What was compressed costs so much of a turn, until `take_cost`.
    cost: usize,
}

/// What was compressed and is not counted yet.
#[derive(Debug, Default)]
struct Compressions {
    count: u64,
    input_bytes: u64,
    output_bytes: u64,
}

impl FrameEncoder {
    pub(super) fn new(policy: CompressionPolicy) -> Self {
        Self {
            deflater: Deflater::new(policy.level),
            bytes_min: policy.bytes_min,
            text: Vec::new(),
            payload: Vec::new(),
            compressions: Compressions::default(),
            cost: 0,
        }
    }

    /// Appends the frames of a text, encoded as the variants of the mask are, and tells `note` of each
    /// one its variant and its placeholders. The variants have the same text, that of `plain`, which
    /// `render` appends.
    pub(super) fn append(
        &mut self,
        output: &mut Vec<u8>,
        (plain, variants): (Variant, u32),
        render: impl FnOnce(&mut Vec<u8>) -> Placeholders,
        mut note: impl FnMut(&mut Vec<u8>, Variant, Placeholders),
    ) {
        if variants == plain.bit() {
            let placeholders = append_frame(output, render);
            return note(output, plain, placeholders);
        }
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let in_text = render(&mut text);
        for encoding in FrameEncoding::ALL {
            let variant = plain.encoded(encoding);
            if variants & variant.bit() == 0 {
                continue;
            }
            let placeholders = match self.compress(variant, &text, in_text) {
                Some(in_payload) => {
                    let base = output.len();
                    frame::append_compressed_text(output, &self.payload);
                    in_payload.behind(output.len() - base - self.payload.len())
                }
                None => append_frame(output, |output| {
                    output.extend_from_slice(&text);
                    in_text
                }),
            };
            note(output, variant, placeholders);
        }
        text.shrink_to(SCRATCH_BYTES_KEPT);
        self.text = text;
        self.payload.shrink_to(SCRATCH_BYTES_KEPT);
    }

    /// The run of a frame for one client, which receives this variant: the frame itself, or compressed.
    pub(super) fn reply(&mut self, variant: Variant, plain: &[u8]) -> FrameRun {
        let text = &plain[frame::header_bytes(plain)..];
        if self
            .compress(variant, text, Placeholders::default())
            .is_none()
        {
            return FrameRun::reply(plain);
        }
        let mut compressed =
            Vec::with_capacity(self.payload.len() + frame::SERVER_HEADER_BYTES_MAX);
        frame::append_compressed_text(&mut compressed, &self.payload);
        if frame::is_binary(plain) {
            frame::mark_binary(&mut compressed);
        }
        self.payload.shrink_to(SCRATCH_BYTES_KEPT);
        FrameRun::reply(&compressed)
    }

    /// Compresses a text into `payload`, and returns where its placeholders are there; nothing if it is
    /// to be sent as it is.
    fn compress(
        &mut self,
        variant: Variant,
        text: &[u8],
        placeholders: Placeholders,
    ) -> Option<Placeholders> {
        let is_worth_it = (self.bytes_min..=COMPRESSED_BYTES_MAX).contains(&text.len());
        if variant.encoding() == FrameEncoding::Plain || !is_worth_it {
            return None;
        }
        let position_bytes = match variant.has_previous() {
            true => PREVIOUS_BYTES + POSITION_BYTES,
            false => POSITION_BYTES,
        };
        let id = placeholders
            .subscription_id
            .map(|at| at..at + SUBSCRIPTION_ID_BYTES);
        let position = placeholders.position.map(|at| at..at + position_bytes);
        let mut holes: Vec<_> = id.into_iter().chain(position).collect();
        let is_position_first = holes.len() == 2 && holes[1].start < holes[0].start;
        if is_position_first {
            holes.swap(0, 1);
        }
        self.payload.clear();
        let encoding = variant.encoding();
        let is_done = self
            .deflater
            .deflate(encoding, text, &mut holes, &mut self.payload);
        let is_smaller = is_done && self.payload.len() < text.len();
        let sent_bytes = if is_smaller {
            self.payload.len()
        } else {
            text.len()
        };
        self.compressions.count += 1;
        self.compressions.input_bytes += text.len() as u64;
        self.compressions.output_bytes += sent_bytes as u64;
        self.cost += text.len() * COMPRESSION_COST;
        if is_position_first {
            holes.swap(0, 1);
        }
        let mut starts = holes.iter().map(|hole| hole.start);
        is_smaller.then(|| Placeholders {
            subscription_id: placeholders.subscription_id.and_then(|_| starts.next()),
            position: placeholders.position.and_then(|_| starts.next()),
        })
    }

    /// Counts what was compressed since the last call.
    pub(super) fn count(&mut self, counters: &ShardCounters) {
        let done = std::mem::take(&mut self.compressions);
        if done.count > 0 {
            counters.compressions.add(done.count);
            counters.compression_input_bytes.add(done.input_bytes);
            counters.compression_output_bytes.add(done.output_bytes);
        }
    }

    /// What the compressions since the last call cost of the budget of a turn.
    pub(super) fn take_cost(&mut self) -> usize {
        std::mem::take(&mut self.cost)
    }
}

/// Appends a text frame with the payload that `render` writes; returns the offsets of its
/// placeholders from the frame's start.
pub(super) fn append_frame(
    output: &mut Vec<u8>,
    render: impl FnOnce(&mut Vec<u8>) -> Placeholders,
) -> Placeholders {
    let base = output.len();
    let mut placeholders = Placeholders::default();
    let start = frame::build_text(output, |output| placeholders = render(output));
    let header_bytes = frame::SERVER_HEADER_BYTES_MAX - (start - base);
    output.copy_within(start.., base);
    output.truncate(output.len() - (start - base));
    placeholders.behind(header_bytes)
}

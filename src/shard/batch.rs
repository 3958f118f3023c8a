//! Joins the frames of a few publications of one channel into runs that subscriber groups share.
//!
//! Subscriber groups with filters receive different publications, but most of their frames are the
//! same. So frames are collected once per form, and groups that receive the same publications share
//! a run.

use super::frame_encoder::append_frame;
use super::record::Frame;
use crate::base::limits::RUN_BYTES_MAX;
use crate::base::{ChannelTag, FrameRun, POSITION_BYTES, Position, SUBSCRIPTION_ID_BYTES, Variant};
use crate::dialect::{PREVIOUS_BYTES, PREVIOUS_BYTES_BINARY, Placeholders};
use crate::ws::deflater::{STORED_LENGTH_BYTES, stored_length};
use crate::ws::frame;

/// Batches whose memory is kept: clients may choose subscription ids of any width, but few do.
const BATCHES_KEPT: usize = 8;

/// A batch for each form that some subscriber group receives.
#[derive(Debug, Default)]
pub(super) struct Batches {
    batches: Vec<Batch>,
    /// Publications so far; identifies the frames of the current publication.
    publication: u64,
}

/// Frames in one form: of one variant, with placeholders for subscription ids of one width.
#[derive(Debug)]
pub(super) struct Batch {
    variant: Variant,
    subscription_id_bytes: u16,
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    /// The current publication, and the publication of the last frame.
    publication: u64,
    newest: u64,
    /// The latest run, and the frames that it was made of.
    latest: Option<(Vec<u32>, FrameRun)>,
}

/// The positions that the message of a publication has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Positions {
    /// Its own, as clients see it.
    pub(super) own: Position,
    /// Where the one before on its channel is; 0 = none is known.
    pub(super) previous_offset: u64,
    /// Its offset in the history of this process.
    pub(super) offset: u64,
}

impl Positions {
    /// Of a publication at an offset of this process, the one before it being at another one, unless it
    /// has a position of all nodes: those have no gaps.
    pub(super) fn new(local: Position, previous_offset: u64, shared: Option<Position>) -> Self {
        Self {
            own: shared.unwrap_or(local),
            previous_offset: shared.map_or(previous_offset, |shared| shared.offset - 1),
            offset: local.offset,
        }
    }
}

/// One frame of a batch.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    end: usize,
    /// Offset of the placeholder from the start of the batch.
    placeholder: Option<usize>,
    /// The publication's offset in the history; 0 = it has none.
    offset: u64,
}

impl Batches {
    /// Begins the next publication: frames that are added from now on belong to it.
    pub(super) fn begin_publication(&mut self) {
        self.publication += 1;
    }

    /// The index of the batch for this form.
    pub(super) fn of(&mut self, variant: Variant, subscription_id_bytes: u16) -> usize {
        let is_it = |batch: &Batch| {
            batch.variant == variant && batch.subscription_id_bytes == subscription_id_bytes
        };
        let found = self.batches.iter().position(is_it);
        found.unwrap_or_else(|| {
            self.batches
                .push(Batch::new(variant, subscription_id_bytes));
            self.batches.len() - 1
        })
    }

    /// The batch at this index, for the current publication.
    pub(super) fn at(&mut self, index: usize) -> &mut Batch {
        let batch = &mut self.batches[index];
        batch.publication = self.publication;
        batch
    }

    /// Whether some batch has reached the target length of a run.
    pub(super) fn is_long(&self) -> bool {
        let mut batches = self.batches.iter();
        batches.any(|batch| batch.bytes.len() >= RUN_BYTES_MAX)
    }

    /// Removes all frames.
    pub(super) fn clear(&mut self) {
        self.batches.truncate(BATCHES_KEPT);
        for batch in &mut self.batches {
            batch.latest = None;
            batch.pieces.clear();
            batch.bytes.clear();
            batch.bytes.shrink_to(2 * RUN_BYTES_MAX);
        }
    }
}

/// The run of one frame, for subscribers with subscription ids of this width.
pub(super) fn single(
    tag: ChannelTag,
    variant: Variant,
    subscription_id_bytes: u16,
    positions: Positions,
    frame: Frame<'_>,
) -> FrameRun {
    let mut batch = Batch::new(variant, subscription_id_bytes);
    batch.append(Some(positions), frame);
    batch.run(tag, &[0])
}

impl Batch {
    fn new(variant: Variant, subscription_id_bytes: u16) -> Self {
        Self {
            variant,
            subscription_id_bytes,
            bytes: Vec::new(),
            pieces: Vec::new(),
            publication: 0,
            newest: 0,
            latest: None,
        }
    }

    /// Adds the frame of the current publication, unless it is already present; returns its index.
    pub(super) fn add<'a>(
        &mut self,
        positions: Option<Positions>,
        frame: impl FnOnce() -> Frame<'a>,
    ) -> u32 {
        if self.newest != self.publication {
            self.newest = self.publication;
            self.append(positions, frame());
        }
        u32::try_from(self.pieces.len() - 1).expect("a run is far shorter than 4 GiB")
    }

    /// Adds a frame, with its position, and with the placeholder for subscription ids as wide as
    /// those of the subscribers.
    fn append(&mut self, positions: Option<Positions>, frame: Frame<'_>) {
        let start = self.bytes.len();
        let subscription_id_bytes = usize::from(self.subscription_id_bytes);
        let placeholders = match frame.placeholders.subscription_id {
            Some(at) if subscription_id_bytes != SUBSCRIPTION_ID_BYTES => {
                let header_bytes = frame::header_bytes(frame.bytes);
                let moved = |other: usize| match other > at {
                    true => other + subscription_id_bytes - SUBSCRIPTION_ID_BYTES - header_bytes,
                    false => other - header_bytes,
                };
                let is_compressed = frame::is_compressed(frame.bytes);
                let placeholders = append_frame(&mut self.bytes, |output| {
                    output.extend_from_slice(&frame.bytes[header_bytes..at]);
                    if is_compressed {
                        // It is a stored block, whose length is right in front of it.
                        let length_at = output.len() - STORED_LENGTH_BYTES;
                        output.truncate(length_at);
                        output.extend_from_slice(&stored_length(subscription_id_bytes));
                    }
                    output.resize(output.len() + subscription_id_bytes, 0);
                    output.extend_from_slice(&frame.bytes[at + SUBSCRIPTION_ID_BYTES..]);
                    Placeholders {
                        subscription_id: Some(moved(at)),
                        position: frame.placeholders.position.map(moved),
                    }
                });
                if is_compressed {
                    frame::mark_compressed(&mut self.bytes[start..]);
                }
                placeholders
            }
            _ => {
                self.bytes.extend_from_slice(frame.bytes);
                frame.placeholders
            }
        };
        if let (Some(at), Some(positions)) = (placeholders.position, positions) {
            self.fill_in(start + at, positions.own);
            if self.variant.has_previous() {
                let previous = Position {
                    offset: positions.previous_offset,
                    ..positions.own
                };
                let behind = match frame::is_binary(&self.bytes[start..]) {
                    true => PREVIOUS_BYTES_BINARY,
                    false => PREVIOUS_BYTES,
                };
                self.fill_in(start + at + behind, previous);
            }
        }
        self.pieces.push(Piece {
            start,
            end: self.bytes.len(),
            placeholder: placeholders
                .subscription_id
                .filter(|_| subscription_id_bytes > 0)
                .map(|placeholder| start + placeholder),
            offset: positions.map_or(0, |positions| positions.offset),
        });
    }

    fn fill_in(&mut self, at: usize, position: Position) {
        self.bytes[at..at + POSITION_BYTES].copy_from_slice(&position.text());
    }

    /// The run of these frames of the channel with this tag; the latest run again if the frames are the same.
    pub(super) fn run(&mut self, tag: ChannelTag, frames: &[u32]) -> FrameRun {
        if let Some((latest, run)) = &self.latest
            && latest == frames
        {
            return run.clone();
        }
        let offset = |at: usize| u32::try_from(at).expect("a run is far shorter than 4 GiB");
        let (mut bytes, mut ends, mut placeholders) = (Vec::new(), Vec::new(), Vec::new());
        let offsets = frames.iter().map(|it| self.pieces[*it as usize].offset);
        let offsets: Vec<_> = offsets.take_while(|offset| *offset > 0).collect();
        let source = (!offsets.is_empty()).then_some((tag, &offsets[..]));
        for index in frames {
            let piece = self.pieces[*index as usize];
            let moved = |at: usize| offset(at - piece.start + bytes.len());
            placeholders.extend(piece.placeholder.map(moved));
            bytes.extend_from_slice(&self.bytes[piece.start..piece.end]);
            ends.push(offset(bytes.len()));
        }
        let run = FrameRun::publications(&bytes, &ends, &placeholders, source);
        self.latest = Some((frames.to_vec(), run.clone()));
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DialectId, FrameEncoding, SubscriptionId};
    use crate::config::CompressionPolicy;
    use crate::dialect::PREVIOUS_FIELD;
    use crate::shard::frame_encoder::FrameEncoder;
    use crate::ws::Inflater;

    const TAG: ChannelTag = ChannelTag::from_bits(1);
    const VARIANT: Variant = Variant::plain(DialectId::Analytics);

    fn plain(bytes: &[u8]) -> Frame<'_> {
        Frame {
            bytes,
            placeholders: Placeholders::default(),
        }
    }

    #[test]
    fn a_placeholder_becomes_as_wide_as_the_subscription_ids_and_the_position_is_filled_in() {
        check_placeholders(false);
        check_placeholders(true);
    }

    fn check_placeholders(is_after: bool) {
        let mut template = Vec::new();
        let placeholders = append_frame(&mut template, |output| {
            output.extend_from_slice(b"a\"                      \"b");
            let at = POSITION_BYTES + 4;
            output.extend_from_slice(&[b'_'; SUBSCRIPTION_ID_BYTES]);
            output.extend_from_slice(b"c\"                      \"d");
            let after = at + SUBSCRIPTION_ID_BYTES + 2;
            Placeholders {
                subscription_id: Some(at),
                position: Some(if is_after { after } else { 2 }),
            }
        });
        let frame = Frame {
            bytes: &template,
            placeholders,
        };
        for (width, subscription_id) in [(0, ""), (3, "xyz"), (20, "01234567890123456789")] {
            let mut batch = Batch::new(VARIANT, width);
            let position = Position {
                epoch: 1,
                offset: 2,
            };
            let positions = Positions::new(position, 0, None);
            batch.append(Some(positions), frame);
            batch.append(Some(positions), frame);
            let (before, after) = match is_after {
                true => (" ".repeat(POSITION_BYTES), position.to_string()),
                false => (position.to_string(), " ".repeat(POSITION_BYTES)),
            };
            let text = format!("a\"{before}\"b{subscription_id}c\"{after}\"d");
            let length = u8::try_from(text.len()).unwrap();
            let expected = [&[0x81, length], text.as_bytes()].concat();
            let both = batch
                .run(TAG, &[0, 1])
                .with_subscription_id(&SubscriptionId::new(subscription_id));
            assert_eq!(both.bytes(), expected.repeat(2), "{width}");
            let second = batch
                .run(TAG, &[1])
                .with_subscription_id(&SubscriptionId::new(subscription_id));
            assert_eq!(second.bytes(), expected, "{width}");
        }
    }

    #[test]
    fn the_same_is_so_inside_of_compressed_frames() {
        let variant = Variant::GATEWAY_WITH_PREVIOUS;
        for encoding in [FrameEncoding::Deflate, FrameEncoding::DeflateSmallWindow] {
            for is_after in [false, true] {
                check_compressed(variant.encoded(encoding), is_after, "short");
                let long = "a part that is compressed, because it is long enough ".repeat(20);
                check_compressed(variant.encoded(encoding), is_after, &long);
            }
        }
    }

    fn check_compressed(variant: Variant, is_after: bool, part: &str) {
        let position = Position {
            epoch: 1,
            offset: 200,
        };
        let previous = Position {
            offset: 100,
            ..position
        };
        // The text, with these contents, and where they are.
        let text = |id: &str, position: &str, previous: &str| {
            let positions = format!("{position}{PREVIOUS_FIELD}{previous}");
            let (first, second) = match is_after {
                true => (id, &*positions),
                false => (&*positions, id),
            };
            let before = format!("{{\"{part}\":\"");
            let between = format!("\",\"{part}\":\"");
            let second_at = before.len() + first.len() + between.len();
            let (id_at, position_at) = match is_after {
                true => (before.len(), second_at),
                false => (second_at, before.len()),
            };
            let placeholders = Placeholders {
                subscription_id: Some(id_at),
                position: Some(position_at),
            };
            let text = format!("{before}{first}{between}{second}\",\"{part}\":0}}");
            (text, placeholders)
        };
        let blank = " ".repeat(POSITION_BYTES);
        let (template, in_text) = text(&"_".repeat(SUBSCRIPTION_ID_BYTES), &blank, &blank);
        // So long that its end is far behind the beginning, and there is something to gain.
        let tail = "tail ".repeat(200);
        let mut encoder = FrameEncoder::new(CompressionPolicy::default());
        let (mut bytes, mut placeholders) = (Vec::new(), Placeholders::default());
        encoder.append(
            &mut bytes,
            (variant.encoded(FrameEncoding::Plain), variant.bit()),
            |output| {
                output.extend_from_slice(template.as_bytes());
                output.extend_from_slice(tail.as_bytes());
                in_text
            },
            |_, _, its| placeholders = its,
        );
        assert!(frame::is_compressed(&bytes));
        let frame = Frame {
            bytes: &bytes,
            placeholders,
        };
        for id in ["", "xyz", "01234567890123456789", &"z".repeat(200)] {
            let positions = Positions::new(position, previous.offset, None);
            let width = u16::try_from(id.len()).unwrap();
            let run = single(TAG, variant, width, positions, frame);
            let run = run.with_subscription_id(&SubscriptionId::new(id));
            assert!(frame::is_compressed(run.bytes()));
            let payload = &run.bytes()[frame::header_bytes(run.bytes())..];
            let mut inflater = Inflater::default();
            let inflated = inflater.inflate(payload, 100_000).unwrap();
            let (expected, _) = text(id, &position.to_string(), &previous.to_string());
            assert_eq!(str::from_utf8(inflated), Ok(&*(expected + &tail)));
        }
    }

    #[test]
    fn audiences_that_want_the_same_share_a_run() {
        let mut batches = Batches::default();
        let batch = batches.of(VARIANT, 0);
        for (index, bytes) in [b"aa", b"bb", b"cc"].iter().enumerate() {
            batches.begin_publication();
            for _ in 0..2 {
                assert_eq!(
                    batches.at(batch).add(None, || plain(*bytes)) as usize,
                    index
                );
            }
        }
        let all = batches.at(batch).run(TAG, &[0, 1, 2]);
        assert_eq!(all.bytes(), b"aabbcc");
        let same = batches.at(batch).run(TAG, &[0, 1, 2]);
        assert_eq!(same.bytes().as_ptr(), all.bytes().as_ptr());
        assert_eq!(batches.at(batch).run(TAG, &[0, 2]).bytes(), b"aacc");
        assert_eq!(batches.of(VARIANT, 0), batch);
        assert_ne!(batches.of(VARIANT, 20), batch);
    }
}

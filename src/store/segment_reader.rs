//! Reads the frames of one segment, and goes on behind what is damaged.

use super::format::{
    BLOCK_BYTES, Checksum, FRAME_ALIGNMENT, Parsed, StoredRecord, is_zero, parse_frame,
};

/// What is in a segment, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A record, and the offset of its frame.
    Record(StoredRecord<'a>, usize),
    /// Bytes that are neither a frame nor padding, in front of a frame.
    Unreadable { offset: usize, bytes: usize },
    /// The same behind the last frame, or blocks of zeros there: what was never written whole, or
    /// is damaged. The last item.
    Tail { offset: usize, bytes: usize },
}

/// An iterator over the bytes of a segment.
#[derive(Debug)]
pub(super) struct SegmentReader<'a> {
    segment: &'a [u8],
    checksum: Checksum,
    /// Where the next frame or padding begins.
    offset: usize,
    /// The end of what is as it was written: a frame with its padding, or the header.
    end: usize,
}

impl<'a> SegmentReader<'a> {
    /// Reads behind the header of `segment`.
    pub(super) fn new(segment: &'a [u8], checksum: Checksum) -> Self {
        Self {
            segment,
            checksum,
            offset: BLOCK_BYTES,
            end: BLOCK_BYTES,
        }
    }

    /// The end of the padding that begins at `offset`, if it is padding.
    fn padding_end(&self, offset: usize) -> Option<usize> {
        let end = (offset + 1)
            .next_multiple_of(BLOCK_BYTES)
            .min(self.segment.len());
        is_zero(&self.segment[offset..end]).then_some(end)
    }

    /// Where a frame begins, at `offset` or behind it.
    fn find_frame(&self, mut offset: usize) -> Option<usize> {
        while offset < self.segment.len() {
            match parse_frame(&self.segment[offset..], self.checksum) {
                Parsed::Frame(..) => return Some(offset),
                Parsed::DamagedBody(bytes) => offset += bytes,
                Parsed::None => offset += FRAME_ALIGNMENT,
            }
        }
        None
    }
}

impl<'a> Iterator for SegmentReader<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        while self.offset < self.segment.len() {
            let offset = self.offset;
            let rest = &self.segment[offset..];
            if let Parsed::Frame(record, bytes) = parse_frame(rest, self.checksum) {
                self.offset += bytes;
                self.end = self.offset.next_multiple_of(BLOCK_BYTES);
                return Some(Found::Record(record, offset));
            }
            if let Some(end) = self.padding_end(offset) {
                self.offset = end;
                continue;
            }
            if let Some(next) = self.find_frame(offset) {
                self.offset = next;
                let bytes = next - offset;
                return Some(Found::Unreadable { offset, bytes });
            }
            self.offset = self.segment.len();
            self.end = self.end.min(offset);
        }
        let (offset, end) = (self.end, self.segment.len());
        self.end = usize::MAX;
        (offset < end).then(|| Found::Tail {
            offset,
            bytes: end - offset,
        })
    }
}

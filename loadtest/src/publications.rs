//! The publications on their way: the frame each subscriber must get, exactly but for its own id, and
//! who still lacks it.

use crate::{
    dialect::Dialect,
    frames::{TEXT, encode_client, encode_server},
    placeholders::{Placeholders, SubscriptionId},
};

/// Memory for expected frames, in bytes: bounds the window for large publications.
const WINDOW_BYTES_MAX: usize = 64 << 20;
/// Publications in the window, at most: what a subscriber may be behind and still be checked byte
/// by byte.
const WINDOW_MAX: usize = 8192;

/// A window of the newest publications.
#[derive(Debug)]
pub(crate) struct Publications {
    dialect: Dialect,
    delivery_bytes: usize,
    frame_bytes: usize,
    /// Bytes of a frame before its payload.
    header_bytes: usize,
    placeholders: Option<Placeholders>,
    /// Window size, a power of two.
    window: usize,
    frames: Vec<u8>,
    sent_ns: Vec<u64>,
    outstanding: Vec<u32>,
    published: u64,
    completed: u64,
    due: u64,
    text: Vec<u8>,
}

impl Publications {
    /// Publications that deliver `delivery_bytes` bytes each.
    pub(crate) fn new(dialect: Dialect, delivery_bytes: usize) -> Self {
        let (mut text, mut frame) = (Vec::new(), Vec::new());
        dialect.delivery(0, 0, delivery_bytes, &mut text);
        encode_server(TEXT, &text, &mut frame);
        let fitting = (WINDOW_BYTES_MAX / frame.len()).clamp(2, WINDOW_MAX);
        let window = 1 << fitting.ilog2();
        Self {
            dialect,
            delivery_bytes,
            frame_bytes: frame.len(),
            header_bytes: frame.len() - text.len(),
            placeholders: dialect.placeholders(),
            window,
            frames: vec![0; window * frame.len()],
            sent_ns: vec![0; window],
            outstanding: vec![0; window],
            published: 0,
            completed: 0,
            due: 0,
            text,
        }
    }

    /// Publications sent so far; also the next sequence number.
    pub(crate) fn published(&self) -> u64 {
        self.published
    }

    /// Publications that nobody lacks any more.
    pub(crate) fn completed(&self) -> u64 {
        self.completed
    }

    /// Deliveries of these publications that have neither come nor been given up.
    pub(crate) fn due(&self) -> u64 {
        self.due
    }

    /// How many more may be sent before the oldest incomplete one leaves the window.
    pub(crate) fn room(&self) -> u64 {
        self.window as u64 - (self.published - self.completed)
    }

    /// Makes the next publication for `subscriber_count` (1 or more) subscribers, appends the
    /// publisher's frame to `out`.
    pub(crate) fn publish(&mut self, sent_ns: u64, subscriber_count: u32, out: &mut Vec<u8>) {
        assert!(self.room() > 0 && subscriber_count > 0);
        let sequence = self.published;
        self.text.clear();
        self.dialect
            .publication(sequence, sent_ns, self.delivery_bytes, &mut self.text);
        encode_client(TEXT, &self.text, out);
        self.text.clear();
        self.dialect
            .delivery(sequence, sent_ns, self.delivery_bytes, &mut self.text);
        let mut frame = Vec::with_capacity(self.frame_bytes);
        encode_server(TEXT, &self.text, &mut frame);
        let place = self.place(sequence);
        self.frames[place * self.frame_bytes..][..self.frame_bytes].copy_from_slice(&frame);
        self.sent_ns[place] = sent_ns;
        self.outstanding[place] = subscriber_count;
        self.due += u64::from(subscriber_count);
        self.published += 1;
    }

    /// The frame and the time of sending of a publication within the window; it has placeholders if the
    /// dialect has.
    #[inline]
    pub(crate) fn expected(&self, sequence: u64) -> Option<(&[u8], u64)> {
        if sequence >= self.published || self.published - sequence > self.window as u64 {
            return None;
        }
        let place = self.place(sequence);
        Some((
            &self.frames[place * self.frame_bytes..][..self.frame_bytes],
            self.sent_ns[place],
        ))
    }

    /// Takes a publication's frame off the front of `bytes`; returns the rest and the time of
    /// sending. `None` if it is not there as it must be for the subscriber with this id.
    #[inline]
    pub(crate) fn strip<'a>(
        &self,
        sequence: u64,
        bytes: &'a [u8],
        id: &SubscriptionId,
    ) -> Option<(&'a [u8], u64)> {
        let (expected, sent_ns) = self.expected(sequence)?;
        let rest = match self.placeholders {
            None => bytes.strip_prefix(expected)?,
            Some(placeholders) => {
                let (frame, rest) = bytes.split_at_checked(expected.len())?;
                placeholders.fits(frame, expected, id).then_some(rest)?
            }
        };
        Some((rest, sent_ns))
    }

    /// What a message with this publication should have been instead; `None` if it is right, or if
    /// the publication has left the window.
    ///
    /// The first message tells the time that the server wrote into this publication.
    pub(crate) fn correction(
        &mut self,
        sequence: u64,
        message: &[u8],
        id: &SubscriptionId,
    ) -> Option<Vec<u8>> {
        self.expected(sequence)?;
        let start = self.place(sequence) * self.frame_bytes;
        let expected = &mut self.frames[start + self.header_bytes..start + self.frame_bytes];
        let Some(placeholders) = self.placeholders else {
            return (message != expected).then(|| expected.to_vec());
        };
        placeholders.fill_time(expected, message);
        if placeholders.fits(message, expected, id) {
            return None;
        }
        let mut wanted = expected.to_vec();
        placeholders.fill_id(&mut wanted, id);
        Some(wanted)
    }

    /// One subscriber lacks this publication no longer. Returns whether it was the last one.
    #[inline]
    pub(crate) fn confirm_one(&mut self, sequence: u64) -> bool {
        if sequence >= self.published || self.published - sequence > self.window as u64 {
            return false;
        }
        let place = self.place(sequence);
        let Some(left) = self.outstanding[place].checked_sub(1) else {
            return false;
        };
        self.outstanding[place] = left;
        self.due -= 1;
        self.completed += u64::from(left == 0);
        left == 0
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "masked to the window, which is a usize"
    )]
    fn place(&self, sequence: u64) -> usize {
        sequence as usize & (self.window - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_is_complete_when_the_last_subscriber_has_it() {
        let mut publications = Publications::new(Dialect::Verbatim, 64);
        let mut out = Vec::new();
        publications.publish(5, 2, &mut out);
        publications.publish(6, 1, &mut out);
        assert_eq!(out.len(), 2 * (2 + 4 + 64));
        assert!(!publications.confirm_one(0));
        assert!(publications.confirm_one(1));
        assert_eq!(publications.completed(), 1);
        assert!(publications.confirm_one(0));
        assert!(
            !publications.confirm_one(0),
            "settled once more than there are subscribers"
        );
        assert!(!publications.confirm_one(2), "not yet published");
        assert_eq!((publications.published(), publications.completed()), (2, 2));
    }

    #[test]
    fn the_expected_frame_is_a_servers_frame_with_the_asked_bytes() {
        for (bytes, header) in [(100, 2), (200, 4), (70_000, 10)] {
            let mut publications = Publications::new(Dialect::Gateway, bytes);
            publications.publish(9, 1, &mut Vec::new());
            let (frame, sent_ns) = publications.expected(0).unwrap();
            assert_eq!((frame.len(), sent_ns), (bytes + header, 9));
            assert!(publications.expected(1).is_none());
        }
    }

    #[test]
    fn a_frame_with_blanks_is_taken_with_the_right_id_once_its_time_is_known() {
        let mut publications = Publications::new(Dialect::Analytics, 256);
        publications.publish(9, 2, &mut Vec::new());
        let (mine, other) = (*b"sub_0000000000000001", *b"sub_0000000000000002");
        let text = String::from_utf8(publications.expected(0).unwrap().0[4..].to_vec()).unwrap();
        let text = text
            .replace("____________________", "sub_0000000000000001")
            .replace("____-__-__T__:__:__.___Z", "2024-01-01T00:00:00.000Z");
        let mut frame = Vec::new();
        encode_server(TEXT, text.as_bytes(), &mut frame);
        assert!(publications.strip(0, &frame, &mine).is_none());
        assert_eq!(publications.correction(0, text.as_bytes(), &mine), None);
        assert!(publications.strip(0, &frame, &mine).is_some());
        assert!(publications.strip(0, &frame, &other).is_none());
        let wanted = publications.correction(0, text.as_bytes(), &other);
        assert_eq!(wanted.unwrap().len(), 256);
    }

    #[test]
    fn the_window_forgets_the_oldest() {
        let mut publications = Publications::new(Dialect::Verbatim, 8 << 20);
        for _ in 0..publications.window {
            publications.publish(1, 1, &mut Vec::new());
        }
        assert_eq!(publications.room(), 0);
        publications.confirm_one(0);
        publications.publish(1, 1, &mut Vec::new());
        assert!(publications.expected(0).is_none());
        assert!(publications.expected(1).is_some());
    }
}

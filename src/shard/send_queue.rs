//! The bytes that wait to be written to one connection.

use super::chunks::{Chunk, Chunks};
use crate::base::{ChannelTag, FrameRun, SubscriptionId};

/// The bounded list of shared frames of one connection.
///
/// ```text
///   ┌ in flight ─────────┐
///   chunk (partly written) │ control… │ chunk │ chunk …     bytes = everything not yet written
/// ```
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    chunks: Chunks,
    bytes: u32,
    /// Of these, replies, with their overhead.
    reply_bytes: u32,
    /// Bytes written, modulo 2^32.
    sent_bytes: u32,
    /// Chunks at the front that an unfinished send reads from.
    in_flight: u32,
}

/// What may wait in a send queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    /// Bytes up to which a run of any length is accepted, so that there is always room for one
    /// largest message.
    pub(super) bytes_max: u32,
    /// Bytes that may wait beyond it; the caller gives up peers that do not get on with reading.
    pub(super) slack_bytes: u32,
}

impl QueueLimits {
    /// Any number of bytes.
    pub(super) const NONE: Self = Self {
        bytes_max: u32::MAX,
        slack_bytes: 0,
    };
}

/// The send queue has no room for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendQueueFull;

/// A number of publications that were sent or dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FrameCount(pub(super) u64);

impl SendQueue {
    /// Appends a run, with `subscription_id` for its placeholders.
    ///
    /// # Errors
    /// [`SendQueueFull`] when more bytes wait than `limits` allow.
    pub(super) fn push(
        &mut self,
        run: FrameRun,
        subscription_id: Option<SubscriptionId>,
        limits: QueueLimits,
    ) -> Result<(), SendQueueFull> {
        let bytes = self.bytes.checked_add(run.len()).ok_or(SendQueueFull)?;
        let bytes_max = u64::from(limits.bytes_max) + u64::from(limits.slack_bytes);
        let has_room = self.bytes <= limits.bytes_max || u64::from(bytes) <= bytes_max;
        if !has_room {
            return Err(SendQueueFull);
        }
        self.bytes = bytes;
        let chunk = Chunk::for_subscriber(run, subscription_id);
        self.reply_bytes = self.reply_bytes.saturating_add(chunk.reply_bytes());
        self.chunks.push_back(chunk);
        Ok(())
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Inserts a control frame ahead of all data, after earlier control frames and after the frame
    /// that is partly written.
    ///
    /// When `frames_max` control frames wait, the new one replaces the latest of them: RFC 6455
    /// 5.5.3 lets an endpoint answer only the latest of several pings. Returns where in the
    /// stream it begins: the bytes that precede it, modulo 2^32.
    pub(super) fn push_control(&mut self, run: FrameRun, frames_max: usize) -> u32 {
        let mut at = self.in_flight as usize;
        if at == 0 {
            at = self.split_front();
        }
        let first = at;
        while self.chunks.get(at).is_some_and(|chunk| chunk.is_control) {
            at += 1;
        }
        if at - first >= frames_max {
            at -= 1;
            self.bytes -= self.chunks.remove(at).map_or(0, |chunk| chunk.length());
        }
        self.bytes = self.bytes.saturating_add(run.len());
        self.chunks.insert(at, Chunk::whole(run, true));
        let ahead = self.chunks.iter().take(at).map(Chunk::length);
        ahead.fold(self.sent_bytes, u32::wrapping_add)
    }

    /// Splits the front chunk where its partly written frame ends; returns the index after that
    /// frame.
    fn split_front(&mut self) -> usize {
        let Some(front) = self.chunks.front_mut() else {
            return 0;
        };
        let frame_end = front.run.frame_end(front.start);
        if frame_end == front.start {
            return 0;
        }
        if frame_end < front.end {
            let rest = Chunk {
                start: frame_end,
                ..front.clone()
            };
            front.end = frame_end;
            self.chunks.insert(1, rest);
        }
        1
    }

    /// Drops everything but the rest of a partly written frame and what is in flight.
    pub(super) fn give_up(&mut self) -> FrameCount {
        let mut keep = self.in_flight as usize;
        if keep == 0 {
            keep = self.split_front();
        }
        let given_up = self.chunks.split_off(keep);
        let (mut bytes, mut frames) = (0, 0);
        for chunk in given_up {
            bytes += chunk.length();
            frames += chunk.publications();
            self.reply_bytes = self.reply_bytes.saturating_sub(chunk.reply_bytes());
        }
        self.bytes -= bytes;
        FrameCount(frames)
    }

    /// Drops the publications on these channels, but the rest of a partly written frame and what is in
    /// flight.
    pub(super) fn drop_publications(&mut self, tags: &[ChannelTag]) -> FrameCount {
        let mut keep = self.in_flight as usize;
        if keep == 0 {
            keep = self.split_front();
        }
        let (mut bytes, mut frames) = (0, 0);
        let waiting = self.chunks.split_off(keep);
        for chunk in waiting {
            let source = chunk.run.next_offset(chunk.start);
            if source.is_some_and(|(tag, _)| tags.contains(&tag)) {
                bytes += chunk.length();
                frames += chunk.publications();
            } else {
                self.chunks.push_back(chunk);
            }
        }
        self.bytes -= bytes;
        FrameCount(frames)
    }

    /// The publications that were never written completely, once the connection is closed.
    pub(super) fn abandoned(&self) -> FrameCount {
        FrameCount(self.chunks.iter().map(Chunk::publications).sum())
    }

    /// For each channel with a history, the offset of the first publication that was not written
    /// completely.
    pub(super) fn unsent(&self) -> Vec<(ChannelTag, u64)> {
        let mut unsent: Vec<(ChannelTag, u64)> = Vec::new();
        for chunk in self.chunks.iter() {
            let Some((tag, offset)) = chunk.run.next_offset(chunk.start) else {
                continue;
            };
            match unsent.iter_mut().find(|(other, _)| *other == tag) {
                Some((_, first)) => *first = offset.min(*first),
                None => unsent.push((tag, offset)),
            }
        }
        unsent
    }

    /// The bytes for the next send, as at most `slices_max` slices; they stay in place until
    /// `sent`.
    pub(super) fn begin_send(&mut self, slices_max: usize) -> impl Iterator<Item = &[u8]> {
        let count = self.chunks.len().min(slices_max);
        self.in_flight = u32::try_from(count).expect("slices_max is small");
        for chunk in self.chunks.iter_mut().take(count) {
            chunk.insert_subscription_id();
        }
        let chunks = self.chunks.iter().take(count);
        chunks.map(Chunk::bytes)
    }

    /// The send that `begin_send` began has written `bytes` bytes.
    ///
    /// # Panics
    /// When more was written than was waiting, which the kernel cannot do.
    pub(super) fn sent(&mut self, bytes: u32) -> FrameCount {
        self.in_flight = 0;
        self.bytes -= bytes;
        self.sent_bytes = self.sent_bytes.wrapping_add(bytes);
        let (mut left, mut frames) = (bytes, 0);
        while left > 0 {
            let chunk = self
                .chunks
                .front_mut()
                .expect("only waiting bytes are written");
            let taken = left.min(chunk.length());
            frames += chunk.publications_to(chunk.start + taken);
            chunk.start += taken;
            left -= taken;
            if chunk.length() == 0 {
                self.reply_bytes = self.reply_bytes.saturating_sub(chunk.reply_bytes());
                self.chunks.pop_front();
            }
        }
        FrameCount(frames)
    }

    /// Bytes written, modulo 2^32.
    pub(super) fn sent_bytes(&self) -> u32 {
        self.sent_bytes
    }

    /// What the replies that wait cost, bytes.
    pub(super) fn reply_bytes(&self) -> u32 {
        self.reply_bytes
    }

    /// Whether a send is in flight.
    pub(super) fn is_sending(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether the queue is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(send_queue: &mut SendQueue) -> Vec<u8> {
        let bytes = send_queue.begin_send(64).collect::<Vec<_>>().concat();
        send_queue.sent(0);
        bytes
    }

    const LIMITS: QueueLimits = QueueLimits {
        bytes_max: 100,
        slack_bytes: 0,
    };

    fn push(send_queue: &mut SendQueue, run: FrameRun) {
        send_queue.push(run, None, LIMITS).unwrap();
    }

    fn data(bytes: &[u8], ends: &[u32]) -> FrameRun {
        FrameRun::publications(bytes, ends, &[], None)
    }

    #[test]
    fn a_tag_is_filled_in_when_the_run_is_sent() {
        let mut send_queue = SendQueue::default();
        let run = FrameRun::publications(b"a_b_", &[2, 4], &[1, 3], None);
        let subscription_id = |text| Some(SubscriptionId::new(text));
        send_queue
            .push(run.clone(), subscription_id("x"), LIMITS)
            .unwrap();
        send_queue.push(run, subscription_id("y"), LIMITS).unwrap();
        assert_eq!(waiting(&mut send_queue), b"axbxayby");
        assert_eq!(send_queue.begin_send(64).map(<[u8]>::len).sum::<usize>(), 8);
        assert_eq!(send_queue.sent(5), FrameCount(2));
        assert_eq!(waiting(&mut send_queue), b"yby");
    }

    #[test]
    fn whatever_the_socket_takes_the_bytes_come_in_order() {
        for step in 1..=9 {
            let mut send_queue = SendQueue::default();
            push(&mut send_queue, data(b"aabbb", &[2, 5]));
            push(&mut send_queue, FrameRun::reply(b"cc"));
            push(&mut send_queue, data(b"dd", &[2]));
            let (mut written, mut frames) = (Vec::new(), 0);
            while !send_queue.is_empty() {
                let bytes = send_queue.begin_send(2).collect::<Vec<_>>().concat();
                let taken = bytes.len().min(step);
                written.extend_from_slice(&bytes[..taken]);
                frames += send_queue.sent(u32::try_from(taken).unwrap()).0;
            }
            assert_eq!((written.as_slice(), frames), (&b"aabbbccdd"[..], 3));
        }
    }

    #[test]
    fn control_frames_pass_data_but_never_cut_a_frame() {
        let control = |bytes: &[u8]| FrameRun::reply(bytes);
        for (written, expected, begins) in [
            (0, &b"XYaabbb"[..], 0),
            (1, b"aXYbbb", 2),
            (2, b"XYbbb", 2),
            (3, b"bbXY", 5),
        ] {
            let mut send_queue = SendQueue::default();
            push(&mut send_queue, data(b"aabbb", &[2, 5]));
            send_queue.begin_send(64).for_each(drop);
            send_queue.sent(written);
            assert_eq!(send_queue.push_control(control(b"X"), 10), begins);
            assert_eq!(send_queue.push_control(control(b"Y"), 10), begins + 1);
            assert_eq!(
                waiting(&mut send_queue),
                expected,
                "{written} bytes written"
            );
        }
    }

    #[test]
    fn a_control_frame_stays_behind_what_is_in_flight() {
        let mut send_queue = SendQueue::default();
        push(&mut send_queue, data(b"aabb", &[2, 4]));
        push(&mut send_queue, data(b"cc", &[2]));
        send_queue.begin_send(1).for_each(drop);
        assert_eq!(send_queue.push_control(FrameRun::reply(b"X"), 10), 4);
        assert_eq!(send_queue.sent(3), FrameCount(1));
        assert_eq!(waiting(&mut send_queue), b"bXcc");
    }

    #[test]
    fn there_is_room_for_one_run_of_any_length_and_some_slack() {
        let limits = QueueLimits {
            bytes_max: 10,
            slack_bytes: 30,
        };
        let mut send_queue = SendQueue::default();
        let push = |send_queue: &mut SendQueue, bytes: usize| {
            let run = data(&vec![b'x'; bytes], &[u32::try_from(bytes).unwrap()]);
            send_queue.push(run, None, limits).is_ok()
        };
        assert!(push(&mut send_queue, 10), "nothing waits");
        assert!(push(&mut send_queue, 55), "no more than the limit waits");
        assert!(!push(&mut send_queue, 1), "the slack is used");
        send_queue.begin_send(64).for_each(drop);
        send_queue.sent(30);
        assert!(push(&mut send_queue, 5) && !push(&mut send_queue, 1));
    }

    #[test]
    fn of_too_many_control_frames_the_newest_replaces_the_one_before() {
        let mut send_queue = SendQueue::default();
        push(&mut send_queue, data(b"aa", &[2]));
        for byte in *b"UVWXYZ" {
            send_queue.push_control(FrameRun::reply(&[byte]), 3);
        }
        assert_eq!(send_queue.bytes, 5);
        assert_eq!(waiting(&mut send_queue), b"UVZaa");
    }

    #[test]
    fn giving_up_keeps_a_partly_written_frame_and_counts_the_rest() {
        let mut send_queue = SendQueue::default();
        push(&mut send_queue, data(b"aabbbc", &[2, 5, 6]));
        push(&mut send_queue, data(b"dd", &[2]));
        send_queue.begin_send(64).for_each(drop);
        assert_eq!(send_queue.sent(3), FrameCount(1));
        assert_eq!(send_queue.abandoned(), FrameCount(3));
        assert_eq!(send_queue.give_up(), FrameCount(2));
        assert_eq!(waiting(&mut send_queue), b"bb");
        assert_eq!(send_queue.bytes, 2);
    }
}

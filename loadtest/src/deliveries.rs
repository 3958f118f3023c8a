//! What arrives at the subscribers, held against what was published.

use crate::{
    dialect::{Dialect, difference, find_stamp, shorten},
    frames::{self, Fault, Frame, Reader},
    inflated::{Inflated, InflatedInOrder},
    ledger::{Ledger, SequenceCheck},
    placeholders::{PLACEHOLDER_ID, SubscriptionId},
    publications::Publications,
    report::latency_histogram,
};
use hdrhistogram::Histogram;

/// All subscribers of a run and the publications on their way to them.
pub(crate) struct Deliveries {
    publications: Publications,
    subscribers: Vec<Subscriber>,
    /// What each subscriber must find in its deliveries, in dialects that have ids.
    ids: Vec<SubscriptionId>,
    open_count: u32,
    /// Figures of the measured part of the run.
    pub(crate) figures: Figures,
    /// Faults of the whole run.
    pub(crate) faults: Faults,
    publisher: Reader,
    /// If the subscribers have offered compression.
    inflated: Option<Inflating>,
}

#[derive(Debug)]
enum Inflating {
    EachByItself(Inflated),
    InOrder(InflatedInOrder),
}

/// 40 bytes: thousands of these are walked for every publication.
#[derive(Debug, Default)]
struct Subscriber {
    ledger: Ledger,
    reader: Reader,
    state: State,
}

const _: () = assert!(size_of::<Subscriber>() == 40);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Its bytes make no sense any more; what arrives is thrown away.
    Broken,
    Closed,
}

/// Counts and latencies.
pub(crate) struct Figures {
    /// Frames of the channel that arrived.
    pub(crate) delivered: u64,
    /// Publish to receive, in nanoseconds.
    pub(crate) delivery_ns: Histogram<u64>,
    /// Publish to the last receive, in nanoseconds.
    pub(crate) fanout_ns: Histogram<u64>,
}

/// What went wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Publications that a subscriber never got.
    pub(crate) lost: u64,
    /// Deliveries behind a later one.
    pub(crate) out_of_order: u64,
    /// Deliveries that had come before.
    pub(crate) duplicated: u64,
    /// Deliveries that are not exactly what was published.
    pub(crate) altered: u64,
    /// Connections whose frames could not be read any more.
    pub(crate) broken: u64,
    /// Connections that the server ended.
    pub(crate) disconnected: u64,
    /// The first of all these, in words.
    pub(crate) first: Option<String>,
}

impl Faults {
    fn explain(&mut self, words: impl FnOnce() -> String) {
        if self.first.is_none() {
            self.first = Some(words());
        }
    }
}

impl Figures {
    fn new() -> Self {
        Self {
            delivered: 0,
            delivery_ns: latency_histogram(),
            fanout_ns: latency_histogram(),
        }
    }
}

impl Deliveries {
    /// No subscribers yet.
    pub(crate) fn new(dialect: Dialect, delivery_bytes: usize) -> Self {
        Self {
            publications: Publications::new(dialect, delivery_bytes),
            subscribers: Vec::new(),
            ids: Vec::new(),
            open_count: 0,
            figures: Figures::new(),
            faults: Faults::default(),
            publisher: Reader::default(),
            inflated: None,
        }
    }

    /// The same of subscribers that have offered compression.
    pub(crate) fn inflating(self) -> Self {
        Self {
            inflated: Some(Inflating::EachByItself(Inflated::default())),
            ..self
        }
    }

    /// The same of subscribers whose server keeps its context from message to message.
    pub(crate) fn inflating_in_order(self) -> Self {
        Self {
            inflated: Some(Inflating::InOrder(InflatedInOrder::new())),
            ..self
        }
    }

    /// One more subscriber, numbered from 0, and the id that the server gave it.
    pub(crate) fn add_subscriber(&mut self, id: Option<SubscriptionId>) {
        self.subscribers.push(Subscriber {
            reader: Reader::new(self.inflated.is_some()),
            ..Subscriber::default()
        });
        self.ids.push(id.unwrap_or(PLACEHOLDER_ID));
        self.open_count += 1;
    }

    /// Whether anyone is left to publish for.
    pub(crate) fn has_subscribers(&self) -> bool {
        self.open_count > 0
    }

    /// Publications sent so far.
    pub(crate) fn published(&self) -> u64 {
        self.publications.published()
    }

    /// Publications that all subscribers have, or will never have.
    pub(crate) fn completed(&self) -> u64 {
        self.publications.completed()
    }

    /// How many deliveries are under way, at most.
    pub(crate) fn due(&self) -> u64 {
        self.publications.due()
    }

    /// Changes whenever something arrives or ends.
    pub(crate) fn progress(&self) -> u64 {
        self.figures.delivered + self.faults.disconnected + self.faults.duplicated
    }

    /// The warm-up is over: starts the figures anew. Faults stay.
    pub(crate) fn forget_figures(&mut self) {
        self.figures = Figures::new();
    }

    /// Whether the window has room and somebody listens.
    pub(crate) fn may_publish(&self) -> bool {
        self.open_count > 0 && self.publications.room() > 0
    }

    /// Appends the next publication to the publisher's bytes.
    pub(crate) fn publish(&mut self, sent_ns: u64, out: &mut Vec<u8>) {
        self.publications.publish(sent_ns, self.open_count, out);
    }

    /// Bytes arrived at a subscriber. `reply` sends bytes back on its connection.
    pub(crate) fn received(
        &mut self,
        index: u32,
        mut bytes: &[u8],
        now_ns: u64,
        mut reply: impl FnMut(&[u8]),
    ) {
        let subscriber = &mut self.subscribers[index as usize];
        let id = &self.ids[index as usize];
        let (publications, figures, faults) =
            (&mut self.publications, &mut self.figures, &mut self.faults);
        if subscriber.state != State::Open {
            return;
        }
        loop {
            // Nearly always the next frame is exactly the expected one: one comparison checks all
            // of it.
            while subscriber.reader.between_frames()
                && let Some((rest, sent_ns)) =
                    publications.strip(subscriber.ledger.next(), bytes, id)
            {
                bytes = rest;
                let sequence = subscriber.ledger.next();
                subscriber.ledger.advance();
                arrived(publications, figures, sequence, sent_ns, now_ns);
            }
            match subscriber.reader.next(&mut bytes) {
                Ok(Some(Frame {
                    opcode: frames::PING,
                    payload,
                })) => reply(&pong(payload)),
                Ok(Some(Frame {
                    opcode: frames::TEXT | frames::BINARY,
                    payload,
                })) => {
                    examine(
                        &mut subscriber.ledger,
                        publications,
                        figures,
                        faults,
                        (payload, id),
                        now_ns,
                    );
                }
                Ok(Some(Frame {
                    opcode: opcode @ (frames::COMPRESSED_TEXT | frames::COMPRESSED_BINARY),
                    payload,
                })) => {
                    let inflated = match &mut self.inflated {
                        // The reader takes no compressed message.
                        None => Err(Fault::Deflate),
                        Some(Inflating::EachByItself(all)) => all.message(opcode, payload),
                        Some(Inflating::InOrder(all)) => {
                            all.message(index as usize, opcode, payload)
                        }
                    };
                    let text = match inflated {
                        Ok(text) => text,
                        Err(fault) => {
                            faults.broken += 1;
                            faults.explain(|| fault.to_string());
                            subscriber.state = State::Broken;
                            return self.give_up(index);
                        }
                    };
                    examine(
                        &mut subscriber.ledger,
                        publications,
                        figures,
                        faults,
                        (text, id),
                        now_ns,
                    );
                }
                Ok(Some(Frame {
                    opcode: frames::CLOSE,
                    payload,
                })) => {
                    faults.explain(|| {
                        format!("the server closed a subscriber: {}", close_words(payload))
                    });
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(fault) => {
                    faults.broken += 1;
                    faults.explain(|| fault.to_string());
                    subscriber.state = State::Broken;
                    return self.give_up(index);
                }
            }
        }
    }

    /// Bytes arrived at the publisher: pings are answered, refusals noted, the rest is none of our
    /// business.
    pub(crate) fn overheard(&mut self, mut bytes: &[u8], mut reply: impl FnMut(&[u8])) {
        while let Ok(Some(frame)) = self.publisher.next(&mut bytes) {
            match frame.opcode {
                frames::PING => reply(&pong(frame.payload)),
                frames::TEXT
                    if frame
                        .payload
                        .windows(7)
                        .any(|window| window == br#""error""#) =>
                {
                    self.faults
                        .explain(|| format!("the publisher was told {}", shorten(frame.payload)));
                }
                frames::CLOSE => {
                    self.faults.explain(|| {
                        format!(
                            "the server closed the publisher: {}",
                            close_words(frame.payload)
                        )
                    });
                }
                _ => {}
            }
        }
    }

    /// A subscriber's connection has ended.
    pub(crate) fn closed(&mut self, index: u32) {
        let state = std::mem::replace(&mut self.subscribers[index as usize].state, State::Closed);
        self.faults.disconnected += 1;
        if state == State::Open {
            self.give_up(index);
        }
    }

    /// What has not arrived by now is lost.
    pub(crate) fn close_books(&mut self) {
        let published = self.publications.published();
        self.faults.lost += self
            .subscribers
            .iter()
            .map(|subscriber| published.saturating_sub(subscriber.ledger.next()))
            .sum::<u64>();
    }

    /// The first fault for the end of an error text, or nothing.
    pub(crate) fn first_fault_in_words(&self) -> String {
        self.faults
            .first
            .as_ref()
            .map_or_else(String::new, |words| format!(": {words}"))
    }

    /// Nobody waits for this subscriber any more.
    fn give_up(&mut self, index: u32) {
        self.open_count -= 1;
        for sequence in
            self.subscribers[index as usize].ledger.next()..self.publications.published()
        {
            self.publications.confirm_one(sequence);
        }
    }
}

#[inline]
fn arrived(
    publications: &mut Publications,
    figures: &mut Figures,
    sequence: u64,
    sent_ns: u64,
    now_ns: u64,
) {
    let latency = now_ns.saturating_sub(sent_ns);
    figures.delivered += 1;
    figures.delivery_ns.saturating_record(latency);
    if publications.confirm_one(sequence) {
        figures.fanout_ns.saturating_record(latency);
    }
}

/// A message that is not the expected frame as a whole: cut over two reads, another one, or wrong.
fn examine(
    ledger: &mut Ledger,
    publications: &mut Publications,
    figures: &mut Figures,
    faults: &mut Faults,
    (message, id): (&[u8], &SubscriptionId),
    now_ns: u64,
) {
    let Some((sequence, sent_ns)) =
        find_stamp(message).filter(|&(sequence, _)| sequence < publications.published())
    else {
        // A greeting, a presence notice: not of this channel's publications.
        return;
    };
    if let Some(wanted) = publications.correction(sequence, message, id) {
        faults.altered += 1;
        faults.explain(|| difference(message, &wanted));
    }
    match ledger.take(sequence) {
        SequenceCheck::InOrder => arrived(publications, figures, sequence, sent_ns, now_ns),
        SequenceCheck::Gap(gap) => {
            faults.lost += gap.end - gap.start;
            faults.explain(|| format!("publication {sequence} came where {} was due", gap.start));
            for skipped in gap {
                publications.confirm_one(skipped);
            }
            arrived(publications, figures, sequence, sent_ns, now_ns);
        }
        SequenceCheck::Late => {
            faults.lost -= 1;
            faults.out_of_order += 1;
            figures.delivered += 1;
        }
        SequenceCheck::Duplicate => {
            faults.duplicated += 1;
            faults.explain(|| format!("publication {sequence} came twice"));
        }
    }
}

fn pong(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 8);
    frames::encode_client(frames::PONG, payload, &mut frame);
    frame
}

/// Code and reason of a close frame.
fn close_words(payload: &[u8]) -> String {
    match payload {
        [high, low, reason @ ..] => {
            format!("{} {}", u16::from_be_bytes([*high, *low]), shorten(reason))
        }
        _ => "without a code".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 130;

    /// Publishes `published` times to two subscribers and feeds subscriber 0 the deliveries in the
    /// given order.
    fn run(published: u64, order: &[u64], piece_bytes: usize) -> Deliveries {
        let mut deliveries = Deliveries::new(Dialect::Gateway, BYTES);
        deliveries.add_subscriber(None);
        deliveries.add_subscriber(None);
        for _ in 0..published {
            deliveries.publish(1000, &mut Vec::new());
        }
        let stream: Vec<u8> = order
            .iter()
            .flat_map(|&sequence| {
                deliveries
                    .publications
                    .expected(sequence)
                    .unwrap()
                    .0
                    .to_vec()
            })
            .collect();
        for piece in stream.chunks(piece_bytes) {
            deliveries.received(0, piece, 2_001_000, |_| panic!("nothing to answer"));
        }
        deliveries
    }

    /// Lost, out of order, duplicated, altered after closing the books on subscriber 0 alone.
    fn check(published: u64, order: &[u64], expected: [u64; 4]) {
        for piece_bytes in [1, 7, BYTES, BYTES + 3, 10_000] {
            let mut deliveries = run(published, order, piece_bytes);
            deliveries.close_books();
            let faults = &deliveries.faults;
            // Subscriber 1 got nothing.
            let found = [
                faults.lost - published,
                faults.out_of_order,
                faults.duplicated,
                faults.altered,
            ];
            assert_eq!(
                found, expected,
                "{order:?} in pieces of {piece_bytes}: {:?}",
                faults.first
            );
        }
    }

    #[test]
    fn every_kind_of_fault_is_counted_as_what_it_is() {
        check(3, &[0, 1, 2], [0, 0, 0, 0]);
        check(3, &[0, 2], [1, 0, 0, 0]);
        check(3, &[0, 1], [1, 0, 0, 0]);
        check(3, &[1, 0, 2], [0, 1, 0, 0]);
        check(3, &[0, 0, 1, 2], [0, 0, 1, 0]);
        check(3, &[], [3, 0, 0, 0]);
    }

    #[test]
    fn latency_is_from_sending_to_arrival_and_a_fanout_ends_with_the_last_subscriber() {
        let mut deliveries = run(1, &[0], 1000);
        assert_eq!(deliveries.completed(), 0);
        let frame = deliveries.publications.expected(0).unwrap().0.to_vec();
        deliveries.received(1, &frame, 4_001_000, |_| {});
        assert_eq!(deliveries.completed(), 1);
        assert_eq!(deliveries.figures.delivered, 2);
        assert_eq!(deliveries.figures.fanout_ns.len(), 1);
        assert!(deliveries.figures.fanout_ns.max().abs_diff(4_000_000) < 4_000);
        assert!(deliveries.figures.delivery_ns.min().abs_diff(2_000_000) < 2_000);
    }

    #[test]
    fn an_altered_message_is_noticed_though_its_number_is_right() {
        let mut deliveries = run(1, &[], 1);
        let mut frame = deliveries.publications.expected(0).unwrap().0.to_vec();
        let last = frame.len() - 4;
        frame[last] ^= 1;
        deliveries.received(0, &frame, 2000, |_| {});
        assert_eq!(
            (deliveries.faults.altered, deliveries.figures.delivered),
            (1, 1)
        );
    }

    #[test]
    fn the_id_of_another_subscriber_is_an_alteration() {
        for (id, altered) in [(*b"sub_0000000000000001", 0), (*b"sub_0000000000000002", 1)] {
            for piece_bytes in [7, 1000] {
                let mut deliveries = Deliveries::new(Dialect::Analytics, 256);
                deliveries.add_subscriber(Some(*b"sub_0000000000000001"));
                for _ in 0..2 {
                    deliveries.publish(1000, &mut Vec::new());
                }
                let (placeholders, mut stream) =
                    (Dialect::Analytics.placeholders().unwrap(), Vec::new());
                for sequence in 0..2 {
                    let mut frame = deliveries
                        .publications
                        .expected(sequence)
                        .unwrap()
                        .0
                        .to_vec();
                    let at = frame.len() - b"2024-01-01T00:00:00.000Z\"}".len();
                    frame[at..at + 24].copy_from_slice(b"2024-01-01T00:00:00.000Z");
                    placeholders.fill_id(&mut frame, &id);
                    stream.extend_from_slice(&frame);
                }
                for piece in stream.chunks(piece_bytes) {
                    deliveries.received(0, piece, 2000, |_| panic!("nothing to answer"));
                }
                assert_eq!(deliveries.figures.delivered, 2);
                assert_eq!(
                    deliveries.faults.altered,
                    2 * altered,
                    "{:?}",
                    deliveries.faults
                );
            }
        }
    }

    #[test]
    fn pings_are_answered_and_other_messages_skipped() {
        let mut deliveries = run(1, &[], 1);
        let mut stream = Vec::new();
        frames::encode_server(frames::TEXT, br#"{"type":"welcome"}"#, &mut stream);
        frames::encode_server(frames::PING, b"hi", &mut stream);
        stream.extend_from_slice(deliveries.publications.expected(0).unwrap().0);
        let mut replies = Vec::new();
        deliveries.received(0, &stream, 2000, |bytes| replies.push(bytes.to_vec()));
        assert_eq!(replies, [pong(b"hi")]);
        assert_eq!(
            (deliveries.figures.delivered, deliveries.faults.altered),
            (1, 0)
        );
    }

    #[test]
    fn a_closed_or_broken_subscriber_holds_up_nobody() {
        for broken in [false, true] {
            let mut deliveries = run(2, &[0, 1], 1000);
            if broken {
                deliveries.received(1, &[0x81, 0x80], 2000, |_| {});
            }
            deliveries.closed(1);
            assert_eq!(deliveries.completed(), 2);
            assert_eq!(deliveries.open_count, 1);
            deliveries.close_books();
            assert_eq!(
                (deliveries.faults.lost, deliveries.faults.disconnected),
                (2, 1)
            );
            assert_eq!(deliveries.faults.broken, u64::from(broken));
        }
    }
}

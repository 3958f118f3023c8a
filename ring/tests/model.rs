//! Does the ring do, step by step, what a plain list of records with plain positions would do?
//!
//! One thread interleaves writers (with grants left open, shortened and ended out of order), readers,
//! observers, joins, leaves, parking, panics and looks of the retirer; after every step the ring must
//! say what the oracle says: which records, in which order, with which numbers, how many of them an
//! observer has missed, how much is free, how much is held, who is woken.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use fanwire_ring::{
    Bookmark, Grant, Observer, Reader, Retired, Retirer, Ring, RingConfig, RingError, Start, Writer,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

#[path = "model/oracle.rs"]
mod oracle;

use oracle::{Oracle, OracleObserver, State};

const CAPACITY_BYTES: u32 = 4096;
const READERS_MAX: u32 = 3;
const OBSERVERS_MAX: usize = 2;
const GAPS_MAX: usize = 4;
/// Two records of 512 bytes with their headers.
const HELD_BYTES_MAX: u64 = 2 * 544;
const STEPS_MAX: usize = 600;
const CASES: u32 = 2000;
/// Tags are 0, 1 or 2.
const UNWANTED_TAG: u64 = 2;

/// Numbers are taken modulo what there is, so that every list of steps is a valid one.
#[derive(Clone, Debug)]
enum Step {
    Write {
        parts: Vec<u32>,
    },
    /// `pieces` of three are written.
    Reserve {
        payload_bytes: u32,
        pieces: usize,
    },
    Commit(usize),
    Shorten {
        grant: usize,
        payload_bytes: u32,
    },
    Abort(usize),
    Join,
    Leave(usize),
    PutOut(usize),
    ParkAway(usize),
    Drain {
        reader: usize,
        records_max: usize,
    },
    DrainUntilPanic {
        reader: usize,
        records: usize,
    },
    IsEmpty(usize),
    Park(usize),
    Unpark(usize),
    Wake,
    Look,
    Observe {
        observer: usize,
        start: Start,
    },
    /// At the place of the other one.
    ObserveThere(usize),
    ObserverNext(usize),
    ObserverPayload(usize),
    ObserverAdvance(usize),
    ObserverDrain {
        observer: usize,
        records_max: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = || prop_oneof![3 => 0..64_u32, 3 => 400..=512_u32, 1 => 500..530_u32];
    let any_index = || 0..8_usize;
    let step = prop_oneof![
        20 => vec(bytes(), 0..3).prop_map(|parts| Step::Write { parts }),
        12 => (bytes(), 0..6_usize)
            .prop_map(|(payload_bytes, pieces)| Step::Reserve { payload_bytes, pieces }),
        7 => any_index().prop_map(Step::Commit),
        3 => (any_index(), bytes())
            .prop_map(|(grant, payload_bytes)| Step::Shorten { grant, payload_bytes }),
        3 => any_index().prop_map(Step::Abort),
        2 => Just(Step::Join),
        1 => any_index().prop_map(Step::Leave),
        3 => any_index().prop_map(Step::PutOut),
        1 => any_index().prop_map(Step::ParkAway),
        12 => (any_index(), 0..20_usize)
            .prop_map(|(reader, records_max)| Step::Drain { reader, records_max }),
        1 => (any_index(), 0..3_usize)
            .prop_map(|(reader, records)| Step::DrainUntilPanic { reader, records }),
        2 => any_index().prop_map(Step::IsEmpty),
        2 => any_index().prop_map(Step::Park),
        1 => any_index().prop_map(Step::Unpark),
        2 => Just(Step::Wake),
        12 => Just(Step::Look),
        1 => (any_index(), prop_oneof![Just(Start::Tail), Just(Start::Oldest)])
            .prop_map(|(observer, start)| Step::Observe { observer, start }),
        1 => any_index().prop_map(Step::ObserveThere),
        4 => any_index().prop_map(Step::ObserverNext),
        4 => any_index().prop_map(Step::ObserverPayload),
        3 => any_index().prop_map(Step::ObserverAdvance),
        4 => (any_index(), 0..20_usize)
            .prop_map(|(observer, records_max)| Step::ObserverDrain { observer, records_max }),
    ];
    vec(step, 1..STEPS_MAX)
}

/// The ring and the oracle side by side.
struct Pair<'a> {
    ring: &'a Ring,
    writers: &'a [Writer; 2],
    retirer: Retirer,
    grants: Vec<Grant<'a>>,
    readers: [Option<Reader>; READERS_MAX as usize],
    observers: [Option<Observer>; OBSERVERS_MAX],
    oracle: Oracle,
    written: u64,
}

impl<'a> Pair<'a> {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Write { parts } => self.write(parts),
            Step::Reserve {
                payload_bytes,
                pieces,
            } => self.reserve(*payload_bytes, *pieces),
            Step::Commit(index) => self.end_grant(*index, State::Committed),
            Step::Abort(index) => self.end_grant(*index, State::Aborted),
            Step::Shorten {
                grant,
                payload_bytes,
            } => self.shorten_grant(*grant, *payload_bytes),
            Step::Join => self.join(),
            Step::Leave(index) => {
                let index = *index % self.readers.len();
                if self.readers[index].is_some() {
                    self.readers[index] = None;
                    self.oracle.readers[index] = None;
                }
            }
            Step::Drain {
                reader,
                records_max,
            } => self.drain(*reader, *records_max),
            Step::DrainUntilPanic { reader, records } => self.drain_until_panic(*reader, *records),
            Step::PutOut(index) => {
                if let Some(index) = self.joined(*index) {
                    let reader = self.oracle.readers[index].as_mut().unwrap();
                    let expected = !std::mem::replace(&mut reader.out, true);
                    let slot = u32::try_from(index).unwrap();
                    assert_eq!(self.ring.put_out(slot), expected);
                }
            }
            Step::ParkAway(index) => {
                if let Some(index) = self.joined(*index) {
                    self.reader(index).park_away();
                    let reader = self.oracle.readers[index].as_mut().unwrap();
                    (reader.out, reader.away) = (true, true);
                }
            }
            Step::IsEmpty(index) => {
                if let Some(index) = self.joined(*index) {
                    let is_empty =
                        self.oracle.enter(index).is_ok() && self.oracle.peek(index).is_none();
                    self.oracle.publish(index);
                    assert_eq!(self.reader(index).is_empty(), is_empty);
                }
            }
            Step::Park(index) => self.park(*index),
            Step::Unpark(index) => {
                let index = *index % self.readers.len();
                if self.readers[index].is_some() {
                    self.reader(index).unpark();
                    let reader = self.oracle.readers[index].as_mut().unwrap();
                    if std::mem::take(&mut reader.away) {
                        self.oracle.catch_up(index);
                    } else {
                        reader.parked = false;
                    }
                }
            }
            Step::Wake => self.wake(),
            Step::Look => assert_eq!(self.retirer.look(), self.oracle.look()),
            Step::Observe { observer, start } => self.observe(*observer, *start),
            Step::ObserveThere(index) => {
                let place = match &self.observers[(*index + 1) % OBSERVERS_MAX] {
                    Some(other) => other.bookmark(),
                    None => Bookmark {
                        position: 0,
                        number: 0,
                    },
                };
                self.observe(*index, Start::At(place));
            }
            Step::ObserverNext(index) => {
                self.observer_next(*index % OBSERVERS_MAX);
            }
            Step::ObserverPayload(index) => self.observer_payload(*index % OBSERVERS_MAX),
            Step::ObserverAdvance(index) => self.observer_advance(*index % OBSERVERS_MAX),
            Step::ObserverDrain {
                observer,
                records_max,
            } => {
                let index = *observer % OBSERVERS_MAX;
                for _ in 0..*records_max {
                    if !self.observer_next(index) {
                        break;
                    }
                    self.observer_payload(index);
                    self.observer_advance(index);
                }
            }
        }
        self.compare_gauges();
    }

    /// Payloads are all different, so a record of an earlier lap is recognised.
    fn payload(&mut self, payload_bytes: u32) -> Vec<u8> {
        self.written += 1;
        let number = self
            .written
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_le_bytes();
        number
            .into_iter()
            .cycle()
            .take(payload_bytes as usize)
            .collect()
    }

    fn writer(&self) -> &'a Writer {
        &self.writers[usize::from(self.written.is_multiple_of(2))]
    }

    fn write(&mut self, parts: &[u32]) {
        let payload = self.payload(parts.iter().sum());
        let mut rest = payload.as_slice();
        let mut slices = Vec::new();
        for bytes in parts {
            let (part, behind) = rest.split_at(*bytes as usize);
            slices.push(part);
            rest = behind;
        }
        let tag = payload.len() as u64 % 3;
        let written = self.writer().try_write(tag, &slices);
        let expected = self.oracle.claim(payload);
        let position = expected.map(|record| self.oracle.records[record].position);
        assert_eq!(written, position);
        if let Ok(record) = expected {
            self.oracle.records[record].state = State::Committed;
        }
    }

    /// In three pieces of any size, of which the last ones may be left out.
    fn reserve(&mut self, payload_bytes: u32, pieces: usize) {
        let payload = self.payload(payload_bytes);
        let reserved = self
            .writer()
            .try_reserve(u64::from(payload_bytes) % 3, payload_bytes);
        match (reserved, self.oracle.claim(payload)) {
            (Ok(mut grant), Ok(record)) => {
                let payload = &mut self.oracle.records[record].payload;
                let length = payload.len();
                let (first, rest) = payload.split_at_mut(length / 3);
                let length = rest.len();
                let (second, third) = rest.split_at_mut(length / 5);
                let mut rest_bytes = 0;
                for (index, piece) in [first, second, third].into_iter().enumerate() {
                    if index < pieces {
                        grant.write(piece);
                    } else {
                        piece.fill(0);
                        rest_bytes += piece.len();
                    }
                }
                assert_eq!(grant.rest_bytes(), rest_bytes);
                self.grants.push(grant);
            }
            (reserved, expected) => assert_eq!(reserved.err(), expected.err()),
        }
    }

    fn end_grant(&mut self, index: usize, state: State) {
        if self.grants.is_empty() {
            return;
        }
        let grant = self.grants.swap_remove(index % self.grants.len());
        let expected = self.oracle.end(grant.position(), state);
        if state == State::Committed {
            assert_eq!(grant.commit(), expected.then_some(()).ok_or(Retired));
        } else {
            self.oracle.aborted_total += 1;
        }
    }

    fn shorten_grant(&mut self, index: usize, payload_bytes: u32) {
        if self.grants.is_empty() {
            return;
        }
        let grant = self.grants.swap_remove(index % self.grants.len());
        let record = self.oracle.record_at(grant.position()).unwrap();
        let reserved = u32::try_from(self.oracle.records[record].payload.len()).unwrap();
        let payload_bytes = payload_bytes % (reserved + 1);
        let expected = self
            .oracle
            .shorten(grant.position(), payload_bytes as usize);
        assert_eq!(
            grant.commit_shortened(payload_bytes),
            expected.then_some(()).ok_or(Retired)
        );
    }

    fn observe(&mut self, index: usize, start: Start) {
        let index = index % OBSERVERS_MAX;
        let observer = self.ring.observer(start).unwrap();
        let place = observer.bookmark();
        match start {
            Start::Tail => assert_eq!(place.position, self.oracle.newest),
            Start::Oldest => {
                // The slowest reader's next, or older; never overwritten.
                let in_gate = self.oracle.slowest();
                assert!(place.position <= in_gate.unwrap_or(self.oracle.newest));
                assert!(!self.oracle.is_overwritten(place.position));
            }
            Start::At(there) => assert_eq!(place, there),
        }
        assert!(place.position <= self.oracle.first_open());
        assert_eq!(place.number, self.oracle.number(place.position));
        self.observers[index] = Some(observer);
        self.oracle.observers[index] = Some(OracleObserver {
            start: if start == Start::Tail {
                self.oracle.tail
            } else {
                0
            },
            position: place.position,
            is_shown: false,
        });
    }

    /// Whether there is a record.
    fn observer_next(&mut self, index: usize) -> bool {
        let Some(observer) = &mut self.observers[index] else {
            return false;
        };
        let expected = self.oracle.observe(index);
        assert_eq!(observer.next(), expected);
        matches!(expected, Ok(Some(_)))
    }

    fn observer_payload(&mut self, index: usize) {
        if let Some(observer) = &mut self.observers[index] {
            let payload = observer.payload().map(|it| it.map(<[u8]>::to_vec));
            assert_eq!(payload, self.oracle.observed_payload(index));
        }
    }

    fn observer_advance(&mut self, index: usize) {
        if let Some(observer) = &mut self.observers[index] {
            assert_eq!(observer.advance(), self.oracle.advance(index));
        }
    }

    fn join(&mut self) {
        match (self.ring.reader(), self.oracle.join()) {
            (Ok(reader), Some(index)) => {
                assert_eq!(reader.index() as usize, index);
                self.readers[index] = Some(reader);
            }
            (joined, expected) => {
                assert_eq!(expected, None);
                assert_eq!(
                    joined.err(),
                    Some(RingError::ReadersFull {
                        readers_max: READERS_MAX
                    })
                );
            }
        }
    }

    fn drain(&mut self, index: usize, records_max: usize) {
        let Some(index) = self.joined(index) else {
            return;
        };
        let (expected, outcome) = self.oracle.drain(index, records_max);
        let mut payloads = Vec::new();
        let reader = self.readers[index].as_mut().unwrap();
        let visit = |_, _, payload: &[u8]| {
            payloads.push(payload.to_vec());
            true
        };
        let records = reader.drain_while(records_max, &mut (|tag| tag != UNWANTED_TAG, visit));
        assert_eq!(payloads, expected);
        assert_eq!(records, outcome);
    }

    /// The panic comes from within the visit after `records` whole ones.
    fn drain_until_panic(&mut self, index: usize, records: usize) {
        let Some(index) = self.joined(index) else {
            return;
        };
        let position = self.oracle.readers[index].as_ref().unwrap().position;
        let mut expected: Vec<Vec<u8>> = Vec::new();
        let lapped = self.oracle.enter(index).is_err();
        if lapped {
            self.oracle.catch_up(index);
        } else {
            while expected.len() <= records
                && let Some((_, payload, end)) = self.oracle.peek(index)
            {
                expected.push(payload);
                self.oracle.readers[index].as_mut().unwrap().position = end;
            }
        }
        self.oracle.publish(index);
        let mut payloads = Vec::new();
        let reader = self.readers[index].as_mut().unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            reader.drain(usize::MAX, |payload| {
                payloads.push(payload.to_vec());
                if payloads.len() > records {
                    resume_unwind(Box::new("visit"));
                }
            })
        }));
        assert_eq!(payloads, expected, "from {position}");
        assert_eq!(outcome.is_err(), expected.len() > records);
        if let Ok(outcome) = outcome {
            assert_eq!(outcome.is_err(), lapped);
        }
    }

    fn park(&mut self, index: usize) {
        let Some(index) = self.joined(index) else {
            return;
        };
        let parked = self.reader(index).park();
        let is_empty = self.oracle.enter(index).is_ok() && self.oracle.peek(index).is_none();
        self.oracle.publish(index);
        assert_eq!(parked, is_empty);
        self.oracle.readers[index].as_mut().unwrap().parked = parked;
    }

    fn wake(&mut self) {
        let mut woken = Vec::new();
        self.writer()
            .wake_parked(|_| u64::MAX, |index| woken.push(index as usize));
        let mut expected = Vec::new();
        for (index, reader) in self.oracle.readers.iter_mut().enumerate() {
            if let Some(reader) = reader
                && std::mem::take(&mut reader.parked)
            {
                expected.push(index);
            }
        }
        assert_eq!(woken, expected);
    }

    fn compare_gauges(&self) {
        assert_eq!(self.ring.depth_bytes(), self.oracle.depth_bytes());
        assert_eq!(self.ring.aborted_total(), self.oracle.aborted_total);
        assert_eq!(self.ring.held_bytes(), self.oracle.held_bytes());
        assert_eq!(
            (
                self.ring.retirements_total(),
                self.ring.retirements_rejected_total()
            ),
            (self.oracle.gaps.len() as u64, self.oracle.rejected_total)
        );
        for (reader, expected) in self.readers.iter().zip(&self.oracle.readers) {
            let lag_bytes = reader.as_ref().map(Reader::lag_bytes);
            let expected = expected
                .as_ref()
                .map(|reader| self.oracle.tail - reader.position);
            assert_eq!(lag_bytes, expected);
        }
        for (observer, expected) in self.observers.iter().zip(&self.oracle.observers) {
            let place = observer
                .as_ref()
                .map(|it| (it.bookmark().position, it.bookmark().number, it.lag_bytes()));
            let expected = expected.as_ref().map(|it| {
                let number = self.oracle.number(it.position);
                (it.position, number, self.oracle.tail - it.position)
            });
            assert_eq!(place, expected);
        }
    }

    /// All grants are ended: after some laps nothing is held any longer.
    fn recover(&mut self) {
        for _ in 0..100 {
            self.step(&Step::Write { parts: vec![200] });
            for reader in 0..READERS_MAX as usize {
                self.step(&Step::Drain {
                    reader,
                    records_max: usize::MAX,
                });
            }
            self.step(&Step::Look);
        }
        assert_eq!(self.ring.held_bytes(), 0);
    }

    /// The index of a joined reader that is not away, chosen by a number of any size.
    fn joined(&self, number: usize) -> Option<usize> {
        let index = number % self.readers.len();
        let reader = self.oracle.readers[index].as_ref()?;
        (!reader.away).then_some(index)
    }

    fn reader(&self, index: usize) -> &Reader {
        self.readers[index].as_ref().unwrap()
    }
}

#[test]
fn ring_does_what_a_list_of_records_would_do() {
    let seed = getrandom::u64().unwrap();
    // PROPTEST_RNG_SEED, if set, is already in the default.
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let config = match config.rng_seed {
        RngSeed::Random => ProptestConfig {
            rng_seed: RngSeed::Fixed(seed),
            ..config
        },
        RngSeed::Fixed(_) => config,
    };
    let seed = config.rng_seed;
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        let config = RingConfig {
            capacity_bytes: CAPACITY_BYTES,
            readers_max: READERS_MAX,
        };
        let ring = Ring::with_salt(config, 7).unwrap();
        let writers = [ring.writer(), ring.writer()];
        let mut pair = Pair {
            ring: &ring,
            writers: &writers,
            retirer: ring.retirer().unwrap(),
            grants: Vec::new(),
            readers: [const { None }; READERS_MAX as usize],
            observers: [const { None }; OBSERVERS_MAX],
            oracle: Oracle {
                tail: 0,
                limit: u64::from(CAPACITY_BYTES),
                records: Vec::new(),
                gaps: Vec::new(),
                tails: [0; 2],
                rejected: None,
                rejected_total: 0,
                readers: [const { None }; READERS_MAX as usize],
                observers: [const { None }; OBSERVERS_MAX],
                aborted_total: 0,
                newest: 0,
            },
            written: 0,
        };
        for step in &steps {
            pair.step(step);
        }
        // What is too old by now is written late.
        for _ in 0..3 {
            pair.step(&Step::Look);
        }
        while !pair.grants.is_empty() {
            pair.step(&Step::Commit(0));
        }
        for reader in 0..READERS_MAX as usize {
            pair.step(&Step::Unpark(reader));
            pair.step(&Step::Drain {
                reader,
                records_max: usize::MAX,
            });
        }
        pair.recover();
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!(
            "{failure}\nseed {seed}; replay: PROPTEST_RNG_SEED={seed} \
             cargo test -p fanwire-ring --test model"
        );
    }
}

//! Two writers, two readers and an observer in a ring that is lapped.
//!
//! Five threads with all their looks at each other: one preemption takes about half a minute, so this
//! model has one, and two with `LOOM_DEEP=1`.

use fanwire_ring::{ObserveError, Observer, Start};
use loom::thread;

use super::{check, drain, ring, write, write_some};

/// Reads what there is; each record's number and content, and how many records were missed.
fn observe(observer: &mut Observer, seen: &mut Vec<(u64, u64)>) -> u64 {
    let mut missed = 0;
    loop {
        let outcome = match observer.next() {
            Ok(Some(record)) => observer.payload().map(|payload| {
                let (first, second) = payload.unwrap().split_at(8);
                assert_eq!(first, second, "torn");
                let content = u64::from_le_bytes(first.try_into().unwrap());
                seen.push((record.number, content));
            }),
            Ok(None) => return missed,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => assert!(observer.advance()),
            Err(ObserveError::Missed { records, .. }) => missed += records,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn writers_readers_and_an_observer_agree_on_every_record_while_the_ring_is_lapped() {
    check(1, || {
        let ring = ring(2);
        let mut readers = [ring.reader().unwrap(), ring.reader().unwrap()];
        let mut observer = ring.observer(Start::Tail).unwrap();
        let writer = ring.writer();
        for number in 1..=4 {
            write(&writer, number).unwrap();
        }
        let reading = thread::spawn(move || {
            let mut numbers = [Vec::new(), Vec::new()];
            for (reader, numbers) in readers.iter_mut().zip(&mut numbers) {
                drain(reader, numbers);
            }
            (readers, numbers)
        });
        // It is full until both readers have passed the first.
        let writers = [10, 20].map(|first| {
            let writer = ring.writer();
            thread::spawn(move || write_some(&writer, first, 1))
        });
        // The last one, so that the others lap it as soon as it is interrupted.
        let observing = thread::spawn(move || {
            let mut seen = Vec::new();
            let missed = observe(&mut observer, &mut seen);
            (observer, seen, missed)
        });
        let written = writers.map(|writer| writer.join().unwrap());
        let (mut readers, mut numbers) = reading.join().unwrap();
        let (mut observer, mut seen, mut missed) = observing.join().unwrap();
        for (reader, numbers) in readers.iter_mut().zip(&mut numbers) {
            drain(reader, numbers);
        }
        missed += observe(&mut observer, &mut seen);

        let [numbers, there] = numbers;
        assert_eq!(numbers, there, "one order");
        assert_eq!(numbers[..4], [1, 2, 3, 4]);
        for (first, written) in [10, 20].into_iter().zip(written) {
            let own = numbers[4..]
                .iter()
                .copied()
                .filter(|it| it / 10 * 10 == first);
            let own: Vec<u64> = own.collect();
            assert_eq!(own, (first..first + written).collect::<Vec<_>>());
        }
        assert_eq!(seen.len() as u64 + missed, numbers.len() as u64);
        assert!(seen.is_sorted());
        for (number, content) in seen {
            let number = usize::try_from(number).unwrap();
            assert_eq!(numbers[number], content, "record {number}");
        }
    });
}

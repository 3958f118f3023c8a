//! Do real threads on real processors see every record once, whole, and in one order?
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fanwire_ring::{Reader, Ring, RingConfig, WriteError, Writer};

const WRITERS: u32 = 2;
const READERS: usize = 2;
/// Enough for about two seconds on two processors.
const RECORDS_PER_WRITER: u32 = 4_000_000;

/// xorshift64*, good enough to vary lengths and contents.
fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// Writer, number, then bytes that follow from both: the receiver knows what they must be.
fn fill(payload: &mut [u8], writer: u32, number: u32) {
    let mut state = u64::from(writer) << 32 | u64::from(number) | 1 << 63;
    let (head, body) = payload.split_at_mut(8);
    head[..4].copy_from_slice(&writer.to_le_bytes());
    head[4..].copy_from_slice(&number.to_le_bytes());
    for chunk in body.chunks_mut(8) {
        let word = random(&mut state).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

fn payload_bytes(writer: u32, number: u32) -> u32 {
    let mut state = u64::from(number) << 32 | u64::from(writer) | 1 << 63;
    let bits = random(&mut state) >> 40;
    let bytes = if bits.is_multiple_of(50) {
        bits % 4000
    } else {
        bits % 120
    };
    8 + u32::try_from(bytes).unwrap()
}

fn write_all(writer: &Writer, name: u32, threads: &[thread::Thread]) -> u64 {
    let mut full_total = 0;
    let mut payload = Vec::new();
    for number in 0..RECORDS_PER_WRITER {
        let mut grant = loop {
            match writer.try_reserve(0, payload_bytes(name, number)) {
                Ok(grant) => break grant,
                Err(WriteError::Full) => {
                    full_total += 1;
                    thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        };
        payload.resize(grant.rest_bytes(), 0);
        fill(&mut payload, name, number);
        grant.write(&payload);
        // Some are dropped: readers must not see them.
        if number % 1000 == 999 {
            drop(grant);
        } else {
            grant.commit().unwrap();
        }
        writer.wake_parked(|_| u64::MAX, |index| threads[index as usize].unpark());
    }
    full_total
}

/// Checks each record and returns the order in which the writers' records came.
fn read_all(reader: &mut Reader) -> Vec<u8> {
    let mut next = [0_u32; WRITERS as usize];
    let mut order = Vec::new();
    let mut expected = Vec::new();
    while next.iter().any(|number| *number < RECORDS_PER_WRITER) {
        let records = reader.drain(64, |payload| {
            let writer = u32::from_le_bytes(payload[..4].try_into().unwrap());
            let number = &mut next[writer as usize];
            expected.resize(payload_bytes(writer, *number) as usize, 0);
            fill(&mut expected, writer, *number);
            assert_eq!(payload, expected, "record {number} of writer {writer}");
            *number += 1;
            if *number % 1000 == 999 {
                *number += 1;
            }
            order.push(u8::try_from(writer).unwrap());
        });
        let records = records.unwrap();
        if records == 0 && reader.park() {
            thread::park();
            reader.unpark();
        }
    }
    order
}

#[test]
fn all_readers_see_every_record_once_and_in_the_same_order() {
    let ring = Ring::new(RingConfig {
        capacity_bytes: 1 << 21,
        readers_max: 4,
    })
    .unwrap();
    let (threads_source, threads_target) = mpsc::channel();
    let orders = thread::scope(|scope| {
        let mut readers = Vec::new();
        let mut threads = Vec::new();
        for _ in 0..READERS {
            let mut reader = ring.reader().unwrap();
            let threads_source = threads_source.clone();
            readers.push(scope.spawn(move || {
                threads_source
                    .send((reader.index(), thread::current()))
                    .unwrap();
                read_all(&mut reader)
            }));
            threads.push(threads_target.recv().unwrap().1);
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|name| {
                let (writer, threads) = (ring.writer(), threads.clone());
                scope.spawn(move || write_all(&writer, name, &threads))
            })
            .collect();
        for writer in writers {
            println!("full_total {}", writer.join().unwrap());
        }
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .collect::<Vec<_>>()
    });
    let aborted = u64::from(WRITERS * (RECORDS_PER_WRITER / 1000));
    assert_eq!(ring.aborted_total(), aborted);
    assert_eq!(
        orders[0].len() as u64,
        u64::from(WRITERS * RECORDS_PER_WRITER) - aborted
    );
    assert!(
        orders.iter().all(|order| *order == orders[0]),
        "one total order"
    );
}

#[test]
fn readers_that_come_and_go_see_a_gapless_stretch_of_a_small_ring() {
    const JOINS: u32 = 3000;
    let ring = Ring::new(RingConfig {
        capacity_bytes: 4096,
        readers_max: 2,
    })
    .unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for name in 0..WRITERS {
            let (writer, stop) = (ring.writer(), &stop);
            scope.spawn(move || {
                let mut number = 0_u64;
                // Relaxed: only a wish to end.
                while !stop.load(Ordering::Relaxed) {
                    let parts: [&[u8]; 3] = [
                        &name.to_le_bytes(),
                        &number.to_le_bytes(),
                        &[0xa5; 64][..usize::try_from(number % 64).unwrap()],
                    ];
                    match writer.try_write(0, &parts) {
                        Ok(_) => number += 1,
                        Err(_) => thread::yield_now(),
                    }
                }
            });
        }
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let ring = ring.clone();
                scope.spawn(move || (0..JOINS).for_each(|_| read_a_stretch(&ring)))
            })
            .collect();
        let outcomes: Vec<_> = readers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok));
    });
}

fn read_a_stretch(ring: &Ring) {
    let mut reader = ring.reader().unwrap();
    let mut next = [None; WRITERS as usize];
    let mut records = 0;
    while records < 100 {
        let drained = reader.drain(16, |payload| {
            let writer = u32::from_le_bytes(payload[..4].try_into().unwrap());
            let number = u64::from_le_bytes(payload[4..12].try_into().unwrap());
            assert_eq!(payload.len() as u64, 12 + number % 64);
            assert!(payload[12..].iter().all(|byte| *byte == 0xa5));
            let next = &mut next[writer as usize];
            assert!(
                next.is_none_or(|expected| expected == number),
                "a gap before {number}"
            );
            *next = Some(number + 1);
        });
        let drained = drained.unwrap();
        if drained == 0 {
            thread::yield_now();
        }
        records += drained;
    }
}

/// Readers are put out of the gate all the time, in a small ring with fast writers: what they are
/// shown must still be whole and in order, and every gap must be told.
#[test]
fn readers_that_are_put_out_see_no_torn_record_and_no_silent_gap() {
    const RECORDS: u64 = 2_000_000;
    let ring = Ring::new(RingConfig {
        capacity_bytes: 4096,
        readers_max: 2,
    })
    .unwrap();
    let stop = AtomicBool::new(false);
    let (lapped, seen) = thread::scope(|scope| {
        let (writer, stop) = (ring.writer(), &stop);
        let mut reader = ring.reader().unwrap();
        let index = reader.index();
        let outcome = scope.spawn(move || {
            let (mut next, mut lapped, mut seen) = (0_u64, 0_u64, 0_u64);
            let mut has_gap = false;
            while next < RECORDS {
                let drained = reader.drain(8, |payload| {
                    let number = u64::from_le_bytes(payload[..8].try_into().unwrap());
                    assert_eq!(payload.len() as u64, 8 + number % 64);
                    let filler = u8::try_from(number % 251).unwrap();
                    assert!(payload[8..].iter().all(|byte| *byte == filler));
                    assert!(number >= next, "records in order");
                    assert!(
                        number == next || has_gap,
                        "a gap before {number} that nobody told"
                    );
                    has_gap = false;
                    (next, seen) = (number + 1, seen + 1);
                });
                if drained.is_err() {
                    (lapped, has_gap) = (lapped + 1, true);
                }
            }
            (lapped, seen)
        });
        scope.spawn(move || {
            for number in 0_u64.. {
                let filler = [u8::try_from(number % 251).unwrap(); 64];
                let filler = &filler[..usize::try_from(number % 64).unwrap()];
                let head = number.to_le_bytes();
                let payload: [&[u8]; 2] = [&head, filler];
                while writer.try_write(0, &payload).is_err() {
                    ring.put_out(index);
                }
                // Relaxed: only a wish to end.
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let outcome = outcome.join();
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap()
    });
    println!("lapped {lapped} times, {seen} records seen");
    assert!(lapped > 0 && seen > 0);
}

/// Writers sleep now and then between claim and commit, for longer than the retirer allows: nobody
/// may wait for them, no record may be lost, torn or seen twice, and all bytes must come back.
#[test]
fn writers_that_sleep_in_a_claim_are_retired_and_write_again() {
    const RECORDS: u32 = 300_000;
    let ring = Ring::new(RingConfig {
        capacity_bytes: 1 << 16,
        readers_max: 2,
    })
    .unwrap();
    let stop = AtomicBool::new(false);
    let retired = thread::scope(|scope| {
        let (mut retirer, stop) = (ring.retirer().unwrap(), &stop);
        scope.spawn(move || {
            // Relaxed: only a wish to end.
            while !stop.load(Ordering::Relaxed) {
                retirer.look();
                thread::sleep(Duration::from_micros(300));
            }
        });
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let mut reader = ring.reader().unwrap();
                scope.spawn(move || read_numbers(&mut reader, RECORDS))
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|name| {
                let writer = ring.writer();
                scope.spawn(move || write_with_pauses(&writer, name, RECORDS))
            })
            .collect();
        let joined = readers.into_iter().map(thread::ScopedJoinHandle::join);
        let joined: Vec<_> = joined.collect();
        let retired = writers.into_iter().map(|writer| writer.join().unwrap());
        let retired = retired.sum::<u32>();
        // A few laps with looks in between end the gaps.
        let writer = ring.writer();
        for _ in 0..10_000 {
            writer.try_write(0, &[&[0; 100]]).unwrap();
            if ring.held_bytes() == 0 {
                break;
            }
            thread::sleep(Duration::from_micros(20));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(joined.iter().all(Result::is_ok));
        retired
    });
    println!(
        "{retired} records retired in {} gaps, {} rejected",
        ring.retirements_total(),
        ring.retirements_rejected_total()
    );
    assert!(retired > 0);
    assert_eq!(ring.held_bytes(), 0);
}

/// Returns how often a record was retired.
fn write_with_pauses(writer: &Writer, name: u32, records: u32) -> u32 {
    let mut payload = Vec::new();
    let mut retired = 0;
    for number in 0..records {
        payload.resize(payload_bytes(name, number) as usize, 0);
        fill(&mut payload, name, number);
        let mut pauses = number % 3_000 == 2_999;
        loop {
            let Ok(mut grant) = writer.try_reserve(0, u32::try_from(payload.len()).unwrap()) else {
                thread::yield_now();
                continue;
            };
            let (first, second) = payload.split_at(payload.len() / 2);
            grant.write(first);
            if std::mem::take(&mut pauses) {
                thread::sleep(Duration::from_millis(2 + u64::from(number % 7)));
            }
            grant.write(second);
            if grant.commit().is_ok() {
                break;
            }
            retired += 1;
        }
    }
    retired
}

fn read_numbers(reader: &mut Reader, records: u32) {
    let mut next = [0_u32; WRITERS as usize];
    let mut expected = Vec::new();
    while next.iter().any(|number| *number < records) {
        let drained = reader.drain(64, |payload| {
            let writer = u32::from_le_bytes(payload[..4].try_into().unwrap());
            let number = &mut next[writer as usize];
            expected.resize(payload_bytes(writer, *number) as usize, 0);
            fill(&mut expected, writer, *number);
            assert_eq!(payload, expected, "record {number} of writer {writer}");
            *number += 1;
        });
        if drained.unwrap() == 0 {
            thread::yield_now();
        }
    }
}

/// The retirer looks all the time, so now and then a large record is too old before it is copied:
/// it is written again, and seen once.
#[test]
fn records_that_are_retired_while_they_are_written_are_written_again() {
    const RECORDS_MAX: u64 = 300_000;
    const REWRITTEN_MIN: u64 = 5;
    let ring = Ring::new(RingConfig {
        capacity_bytes: 1 << 20,
        readers_max: 1,
    })
    .unwrap();
    let stop = AtomicBool::new(false);
    let mut reader = ring.reader().unwrap();
    let (read, written) = thread::scope(|scope| {
        let (mut retirer, stop) = (ring.retirer().unwrap(), &stop);
        scope.spawn(move || {
            // Relaxed: only a wish to end.
            while !stop.load(Ordering::Relaxed) {
                retirer.look();
            }
        });
        let ring = &ring;
        let writing = scope.spawn(move || {
            let (writer, payload) = (ring.writer(), vec![7; 1 << 16]);
            let mut number = 0_u64;
            while number < RECORDS_MAX && ring.rewritten_total() < REWRITTEN_MIN {
                let parts: [&[u8]; 2] = [&number.to_le_bytes(), &payload];
                match writer.try_write(0, &parts) {
                    Ok(_) => number += 1,
                    Err(_) => thread::yield_now(),
                }
            }
            number
        });
        let (mut read, mut in_order) = (0_u64, true);
        loop {
            let is_last = writing.is_finished();
            let drained = reader.drain(8, |payload| {
                in_order &= payload[..8] == read.to_le_bytes();
                read += 1;
            });
            match drained.unwrap() {
                0 if is_last => break,
                0 => thread::yield_now(),
                _ => (),
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(in_order);
        (read, writing.join().unwrap())
    });
    let rewritten = ring.rewritten_total();
    println!("{rewritten} of {written} records written again");
    assert!(rewritten >= REWRITTEN_MIN);
    assert_eq!(read, written);
}

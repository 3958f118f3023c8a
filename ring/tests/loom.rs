//! Does the ring hold in every order of steps that the memory model allows?
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p fanwire-ring --test loom --release
//! ```
//!
//! Under loom a ring may have 256 bytes: four records of 16 bytes, or eight empty ones. All its words
//! are loom's atomics, so a relaxed load sees every value that the memory model allows; a record
//! whose two halves differ is torn. Preemptions are bounded to keep the whole file short.
#![cfg(loom)]
#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

use fanwire_ring::{
    Grant, ObserveError, Reader, Retired, Retirer, Ring, RingConfig, Start, WriteError, Writer,
};
use loom::model::Builder;
use loom::thread;

#[path = "loom/crowd.rs"]
mod crowd;
#[path = "loom/peers.rs"]
mod peers;

/// Explores the orders with so many preemptions at most; with `LOOM_DEEP=1` in the environment with one
/// more, which takes much longer.
fn check(preemptions_max: usize, model: impl Fn() + Send + Sync + 'static) {
    let deeper = usize::from(std::env::var_os("LOOM_DEEP").is_some());
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions_max + deeper);
    builder.max_branches = 20_000;
    builder.check(model);
}

fn ring(readers_max: u32) -> Ring {
    Ring::with_salt(
        RingConfig {
            capacity_bytes: 256,
            readers_max,
        },
        42,
    )
    .unwrap()
}

/// Writes the number twice, as 16 bytes: half a record is recognised.
fn write(writer: &Writer, number: u64) -> Result<u64, WriteError> {
    writer.try_write(0, &[&number.to_le_bytes(), &number.to_le_bytes()])
}

fn drain(reader: &mut Reader, numbers: &mut Vec<u64>) -> usize {
    let drained = reader.drain(usize::MAX, |payload| {
        let (first, second) = payload.split_at(8);
        assert_eq!(first, second);
        numbers.push(u64::from_le_bytes(first.try_into().unwrap()));
    });
    drained.unwrap()
}

/// Writes numbers from `first` on until `attempts` are made; returns how many went in.
fn write_some(writer: &Writer, first: u64, attempts: u32) -> u64 {
    (0..attempts).fold(0, |written, _| {
        written + u64::from(write(writer, first + written).is_ok())
    })
}

#[test]
fn two_readers_see_the_records_of_two_writers_whole_and_in_one_order() {
    check(3, || {
        let ring = ring(2);
        let (mut early, mut late) = (ring.reader().unwrap(), ring.reader().unwrap());
        let writers = [1, 2].map(|number| {
            let writer = ring.writer();
            thread::spawn(move || write(&writer, number).unwrap())
        });
        let (mut early_numbers, mut late_numbers) = (Vec::new(), Vec::new());
        drain(&mut early, &mut early_numbers);
        for writer in writers {
            writer.join().unwrap();
        }
        drain(&mut early, &mut early_numbers);
        drain(&mut late, &mut late_numbers);
        assert_eq!(early_numbers, late_numbers);
        late_numbers.sort_unstable();
        assert_eq!(late_numbers, [1, 2]);
    });
}

#[test]
fn writers_at_the_limit_wait_for_the_reader_and_lose_nothing() {
    check(2, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        for number in 1..=3 {
            write(&writer, number).unwrap();
        }
        let writers = [10, 20].map(|first| {
            let writer = ring.writer();
            thread::spawn(move || write_some(&writer, first, 2))
        });
        let mut numbers = Vec::new();
        drain(&mut reader, &mut numbers);
        let written = writers.map(|writer| writer.join().unwrap());
        drain(&mut reader, &mut numbers);
        assert_eq!(numbers[..3], [1, 2, 3]);
        for (first, written) in [10, 20].into_iter().zip(written) {
            let own: Vec<u64> = numbers[3..]
                .iter()
                .copied()
                .filter(|n| n / 10 * 10 == first)
                .collect();
            assert_eq!(own, (first..first + written).collect::<Vec<_>>());
        }
        assert!(
            written.iter().sum::<u64>() >= 1,
            "one record fitted from the start"
        );
    });
}

#[test]
fn one_writer_laps_the_ring_while_the_reader_follows() {
    check(3, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        // One empty record shifts the rest, so that a lap ends in padding.
        writer.try_write(0, &[]).unwrap();
        assert_eq!(reader.drain(1, |_| ()), Ok(1));
        let thread = thread::spawn(move || write_some(&writer, 1, 6));
        let mut numbers = Vec::new();
        for _ in 0..3 {
            drain(&mut reader, &mut numbers);
        }
        let written = thread.join().unwrap();
        drain(&mut reader, &mut numbers);
        assert_eq!(numbers, (1..=written).collect::<Vec<_>>());
        assert!(written >= 3);
    });
}

#[test]
fn record_is_not_overwritten_while_it_is_visited() {
    check(3, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        for number in 1..=4 {
            write(&writer, number).unwrap();
        }
        let thread = thread::spawn(move || write_some(&writer, 5, 2));
        let mut numbers = Vec::new();
        let drained = reader.drain(2, |payload| {
            // Lets the writer run while the record is in use.
            thread::yield_now();
            numbers.push(payload[0]);
        });
        assert_eq!((drained, numbers), (Ok(2), vec![1, 2]));
        thread.join().unwrap();
    });
}

/// With `records` in the ring and one of them read, two writers get what room there is, no more.
fn limit_older_than_the_tail_is_never_used(records: u64) {
    check(3, move || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        for number in 1..=records {
            write(&writer, number).unwrap();
        }
        assert_eq!(reader.drain(1, |_| ()), Ok(1));
        let there = thread::spawn(move || write_some(&writer, 5, 2));
        let here = write_some(&ring.writer(), 5, 2);
        assert_eq!(here + there.join().unwrap(), 5 - records);
    });
}

#[test]
fn limit_older_than_the_tail_is_not_used_by_a_late_writer() {
    limit_older_than_the_tail_is_never_used(4);
}

#[test]
fn limit_older_than_the_tail_is_not_used_after_a_lost_claim() {
    limit_older_than_the_tail_is_never_used(3);
}

#[test]
fn bytes_are_reused_only_after_the_last_look_of_a_slots_former_reader() {
    check(3, || {
        let ring = ring(1);
        let mut former = ring.reader().unwrap();
        let writer = ring.writer();
        for number in 1..=4 {
            write(&writer, number).unwrap();
        }
        let thread = thread::spawn(move || {
            former
                .drain(1, |payload| assert_eq!(payload[0], 1))
                .unwrap();
        });
        if let Ok(mut reader) = ring.reader() {
            drain(&mut reader, &mut Vec::new());
            write_some(&writer, 5, 2);
        }
        thread.join().unwrap();
    });
}

#[test]
fn parked_reader_is_always_woken() {
    // A lost wake-up leaves every thread blocked, which loom reports as a deadlock.
    check(3, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let sleeper = thread::current();
        let writers = [1, 2].map(|number| {
            let (writer, sleeper) = (ring.writer(), sleeper.clone());
            thread::spawn(move || {
                write(&writer, number).unwrap();
                writer.wake_parked(|_| u64::MAX, |_| sleeper.unpark());
            })
        });
        let mut numbers = Vec::new();
        while numbers.len() < 2 {
            if drain(&mut reader, &mut numbers) == 0 && reader.park() {
                thread::park();
            }
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

#[test]
fn one_park_is_woken_by_one_writer() {
    check(3, || {
        let ring = ring(1);
        let reader = ring.reader().unwrap();
        let writers = [1, 2].map(|number| {
            let writer = ring.writer();
            thread::spawn(move || {
                write(&writer, number).unwrap();
                let mut woken = 0;
                writer.wake_parked(|_| u64::MAX, |_| woken += 1);
                woken
            })
        });
        let parked = reader.park();
        let woken: u32 = writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .sum();
        if parked {
            assert_eq!(woken, 1);
        } else {
            assert!(woken <= 1);
        }
    });
}

/// A reader joins while a writer runs through the limit: what it sees must be whole, without a
/// gap, and reach to the end. `others` is how many readers are there before.
fn reader_joins_a_running_writer(others: u32) {
    // A join looks at the anchors of all slots, which makes many orders; beside a sweeper, too many.
    let preemptions_max = if others == 0 { 2 } else { 3 };
    check(preemptions_max, move || {
        let ring = ring(2);
        let writer = ring.writer();
        let mut readers: Vec<Reader> = (0..others).map(|_| ring.reader().unwrap()).collect();
        for number in 1..=3 {
            write(&writer, number).unwrap();
        }
        for reader in &mut readers {
            drain(reader, &mut Vec::new());
        }
        let thread = thread::spawn(move || write_some(&writer, 4, 4));
        let mut numbers = Vec::new();
        let mut reader = ring.reader().unwrap();
        drain(&mut reader, &mut numbers);
        let last = 3 + thread.join().unwrap() + 1;
        drain(&mut reader, &mut numbers);
        readers.clear();
        write(&ring.writer(), last).unwrap();
        drain(&mut reader, &mut numbers);
        let first = numbers[0];
        assert!(first > 3, "records from before the join are not shown");
        assert_eq!(numbers, (first..=last).collect::<Vec<_>>());
    });
}

#[test]
fn reader_joins_beside_another_without_being_overrun() {
    reader_joins_a_running_writer(1);
}

#[test]
fn reader_joins_a_ring_without_readers_without_being_overrun() {
    reader_joins_a_running_writer(0);
}

#[test]
fn reader_leaves_while_a_writer_waits_for_it() {
    check(3, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        for number in 1..=4 {
            write(&writer, number).unwrap();
        }
        let thread = thread::spawn(move || {
            write_some(&writer, 5, 2);
            writer
        });
        reader
            .drain(1, |payload| assert_eq!(payload[0], 1))
            .unwrap();
        drop(reader);
        let writer = thread.join().unwrap();
        assert_eq!(write_some(&writer, 7, 4), 4, "nobody is left to wait for");
    });
}

#[test]
fn open_grant_is_not_overrun_in_a_ring_without_readers() {
    check(2, || {
        let ring = ring(1);
        let (slow, fast) = (ring.writer(), ring.writer());
        for number in 1..=2 {
            write(&slow, number).unwrap();
        }
        let mut grant = slow.try_reserve(0, 16).unwrap();
        let position = grant.position();
        let fast = thread::spawn(move || {
            let mut written = 0;
            while written < 5
                && let Ok(behind) = write(&fast, 3 + written)
            {
                written += 1;
                assert!(behind < position + 256, "the grant is overrun");
            }
            written
        });
        grant.write(&[0; 16]);
        let mut reader = ring.reader().unwrap();
        // From here on the writer may go further.
        let (slow_position, fast) = (grant.position(), fast.join().unwrap());
        assert_eq!(slow_position, position);
        grant.commit().unwrap();
        let mut numbers = Vec::new();
        drain(&mut reader, &mut numbers);
        let last = 2 + fast;
        drain(&mut reader, &mut numbers);
        assert!(last >= 3, "one record fitted from the start");
        let first = numbers.first().copied().unwrap_or(last + 1);
        assert_eq!(numbers, (first..=last).collect::<Vec<_>>());
    });
}

#[test]
fn two_writers_make_room_in_a_ring_without_readers() {
    check(3, || {
        let ring = ring(1);
        let writers = [ring.writer(), ring.writer()];
        for number in 1..=4 {
            write(&writers[0], number).unwrap();
        }
        let [here, there] = writers;
        let there = thread::spawn(move || write_some(&there, 1, 2));
        let written = write_some(&here, 1, 2) + there.join().unwrap();
        assert!(written >= 1, "one of them was not disturbed");
    });
}

#[test]
fn aborted_grant_is_skipped_and_its_slot_reused() {
    check(3, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writers = [ring.writer(), ring.writer()];
        let [aborting, writing] = writers;
        let aborting = thread::spawn(move || drop(aborting.try_reserve(0, 16).unwrap()));
        let writing = thread::spawn(move || write_some(&writing, 1, 2));
        let mut numbers = Vec::new();
        drain(&mut reader, &mut numbers);
        aborting.join().unwrap();
        assert_eq!(writing.join().unwrap(), 2);
        drain(&mut reader, &mut numbers);
        assert_eq!(numbers, [1, 2]);
        assert_eq!(ring.aborted_total(), 1);
    });
}

#[test]
fn reader_put_out_while_it_reads_sees_whole_records_or_learns_that_it_was_lapped() {
    check(2, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        for number in 1..=4 {
            write(&writer, number).unwrap();
        }
        let thread = thread::spawn(move || {
            ring.put_out(0);
            write_some(&writer, 5, 3)
        });
        let mut next = 1;
        let mut is_lapped = false;
        for _ in 0..2 {
            let drained = reader.drain(2, |payload| {
                let (first, second) = payload.split_at(8);
                assert_eq!(first, second, "torn");
                let number = u64::from_le_bytes(first.try_into().unwrap());
                assert!(number == next || (is_lapped && number > next));
                next = number + 1;
            });
            is_lapped |= drained.is_err();
        }
        thread.join().unwrap();
    });
}

#[test]
fn reader_put_out_enters_again_without_being_overrun_unawares() {
    check(2, || {
        let ring = ring(2);
        let (mut slow, mut fast) = (ring.reader().unwrap(), ring.reader().unwrap());
        let writer = ring.writer();
        for number in 1..=3 {
            write(&writer, number).unwrap();
        }
        drain(&mut fast, &mut Vec::new());
        ring.put_out(slow.index());
        let thread = thread::spawn(move || {
            let written = write_some(&writer, 4, 3);
            (writer, written)
        });
        let mut numbers = Vec::new();
        let first = slow.drain(1, |payload| numbers.push(u64::from(payload[0])));
        let (writer, written) = thread.join().unwrap();
        let last = 3 + written;
        if first.is_ok() {
            // It gates: all is still there.
            let rest = slow.drain(usize::MAX, |payload| numbers.push(u64::from(payload[0])));
            assert!(rest.is_ok());
            assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
        }
        drain(&mut fast, &mut Vec::new());
        let behind = numbers.len();
        write(&writer, last + 1).unwrap();
        slow.drain(usize::MAX, |payload| numbers.push(u64::from(payload[0])))
            .unwrap();
        assert_eq!(numbers[behind..].last(), Some(&(last + 1)));
    });
}

/// A grant for the number, filled, that is too old at the retirer's next look.
fn old_grant<'a>(writer: &'a Writer, retirer: &mut Retirer, number: u64) -> Grant<'a> {
    let mut grant = writer.try_reserve(0, 16).unwrap();
    assert!(!retirer.look() && !retirer.look());
    grant.write(&number.to_le_bytes());
    grant.write(&number.to_le_bytes());
    grant
}

#[test]
fn retirement_and_commit_at_the_same_time_agree_for_all() {
    check(3, || {
        let ring = ring(2);
        let (mut early, mut late) = (ring.reader().unwrap(), ring.reader().unwrap());
        let writer = ring.writer();
        let mut retirer = ring.retirer().unwrap();
        let grant = old_grant(&writer, &mut retirer, 1);
        write(&writer, 2).unwrap();
        let retirer = thread::spawn(move || {
            retirer.look();
            retirer
        });
        let early = thread::spawn(move || {
            let mut numbers = Vec::new();
            drain(&mut early, &mut numbers);
            (early, numbers)
        });
        let is_committed = grant.commit().is_ok();
        let _retirer = retirer.join().unwrap();
        let (mut early, mut numbers) = early.join().unwrap();
        drain(&mut early, &mut numbers);
        let expected: &[u64] = if is_committed { &[1, 2] } else { &[2] };
        assert_eq!(numbers, expected);
        numbers.clear();
        drain(&mut late, &mut numbers);
        assert_eq!(numbers, expected);
        assert_eq!(ring.retirements_total(), u64::from(!is_committed));
    });
}

#[test]
fn two_claims_of_one_gap_are_each_committed_or_retired() {
    check(3, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        let mut retirer = ring.retirer().unwrap();
        let first = writer.try_reserve(0, 16).unwrap();
        let second = old_grant(&writer, &mut retirer, 2);
        let retirer = thread::spawn(move || {
            retirer.look();
            retirer
        });
        let mut numbers = Vec::new();
        let second = second.commit();
        drain(&mut reader, &mut numbers);
        let mut retirer = retirer.join().unwrap();
        // Nothing has written the first: it is retired.
        assert_eq!(first.commit(), Err(Retired));
        drain(&mut reader, &mut numbers);
        let expected: &[u64] = if second.is_ok() { &[2] } else { &[] };
        assert_eq!(numbers, expected);
        retirer.look();
        write(&writer, 3).unwrap();
        numbers.clear();
        drain(&mut reader, &mut numbers);
        assert_eq!(numbers, [3]);
    });
}

/// Writes and reads so many numbers from `first` on, so that each is read before the next is
/// written.
fn write_and_drain(writer: &Writer, reader: &mut Reader, first: u64, count: u64) {
    for number in first..first + count {
        // The retirer holds the ring for a moment when it ends a gap.
        while write(writer, number).is_err() {
            thread::yield_now();
        }
        let mut numbers = Vec::new();
        drain(reader, &mut numbers);
        assert_eq!(numbers, [number]);
    }
}

#[test]
fn late_writer_tears_no_record_of_those_who_lap_over_its_bytes() {
    check(2, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        let mut retirer = ring.retirer().unwrap();
        let grant = old_grant(&writer, &mut retirer, 0);
        assert!(retirer.look());
        let there = ring.writer();
        let there = thread::spawn(move || {
            write_and_drain(&there, &mut reader, 1, 5);
            reader
        });
        assert_eq!(grant.commit(), Err(Retired));
        retirer.look();
        let mut reader = there.join().unwrap();
        write_and_drain(&writer, &mut reader, 6, 1);
    });
}

#[test]
fn returned_bytes_are_used_again_behind_the_stores_of_the_late_writer() {
    check(2, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        let mut retirer = ring.retirer().unwrap();
        let grant = old_grant(&writer, &mut retirer, 0);
        assert!(retirer.look());
        write_and_drain(&writer, &mut reader, 1, 2);
        let retirer = thread::spawn(move || {
            retirer.look();
            retirer
        });
        assert_eq!(grant.commit(), Err(Retired));
        // More than a lap: through the gap, and its end if the look was early.
        write_and_drain(&writer, &mut reader, 3, 3);
        let mut retirer = retirer.join().unwrap();
        for first in [6, 14, 22] {
            retirer.look();
            write_and_drain(&writer, &mut reader, first, 8);
        }
        assert_eq!(ring.held_bytes(), 0);
    });
}

#[test]
fn an_entry_of_the_table_is_used_again_while_others_read_it() {
    check(2, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        let mut retirer = ring.retirer().unwrap();
        let grant = old_grant(&writer, &mut retirer, 0);
        assert!(retirer.look());
        assert_eq!(grant.commit(), Err(Retired));
        // Ends the gap, whose end is then passed.
        retirer.look();
        write_and_drain(&writer, &mut reader, 1, 2);
        write(&writer, 0).unwrap();
        let grant = writer.try_reserve(0, 0).unwrap();
        retirer.look();
        retirer.look();
        assert_eq!(ring.held_bytes(), 64);
        let mut numbers = Vec::new();
        drain(&mut reader, &mut numbers);
        while write(&writer, 0).is_ok() {}
        // Now the gap's end is passed. The next look frees the entry and uses it for another size at
        // other bytes.
        let there = ring.writer();
        let retirer = thread::spawn(move || {
            assert!(retirer.look());
            retirer
        });
        drain(&mut reader, &mut numbers);
        let mut written = write_some(&there, 1, 2);
        let _retirer = retirer.join().unwrap();
        assert_eq!(ring.held_bytes(), 32);
        assert_eq!(grant.commit(), Err(Retired));
        drain(&mut reader, &mut numbers);
        written += write_some(&there, 1 + written, 4);
        drain(&mut reader, &mut numbers);
        numbers.retain(|number| *number > 0);
        assert_eq!(numbers, (1..=written).collect::<Vec<_>>());
        assert!(written >= 3);
    });
}

#[test]
fn retirer_that_is_lapped_while_it_walks_publishes_no_wrong_number() {
    check(3, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        let mut retirer = ring.retirer().unwrap();
        writer.try_write(0, &[]).unwrap();
        let grant = old_grant(&writer, &mut retirer, 0);
        while writer.try_write(0, &[]).is_ok() {}
        let looking = thread::spawn(move || {
            retirer.look();
            retirer
        });
        assert_eq!(reader.drain(1, |_| ()), Ok(1));
        // Where the first record was is one now that does not count.
        drop(writer.try_reserve(0, 0));
        let mut retirer = looking.join().unwrap();
        // The newest place that is known is before the grant.
        let bookmark = ring.observer(Start::Tail).unwrap().bookmark();
        assert_eq!((bookmark.position, bookmark.number), (32, 1));
        retirer.look();
        assert_eq!(grant.commit(), Err(Retired));
        assert_eq!(reader.next().unwrap().unwrap().number, 1);
    });
}

#[test]
fn place_that_is_published_while_another_looks_for_one_is_whole() {
    check(2, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        for number in 1..=4 {
            write(&writer, number).unwrap();
        }
        let looking = ring.clone();
        let looking = thread::spawn(move || looking.observer(Start::Tail).unwrap().bookmark());
        for _ in 0..3 {
            assert_eq!(reader.drain(1, |_| ()), Ok(1));
        }
        let place = looking.join().unwrap();
        assert_eq!(place.position, 64 * place.number);
    });
}

#[test]
fn writers_at_the_limit_go_on_when_the_claim_before_them_is_retired() {
    check(2, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        let mut retirer = ring.retirer().unwrap();
        let grant = old_grant(&writer, &mut retirer, 0);
        let written = write_some(&writer, 1, 4);
        assert_eq!(written, 3, "the ring is full");
        let there = ring.writer();
        let there = thread::spawn(move || write_some(&there, 4, 2));
        let retirer = thread::spawn(move || {
            assert!(retirer.look());
            retirer
        });
        let mut numbers = Vec::new();
        drain(&mut reader, &mut numbers);
        let _retirer = retirer.join().unwrap();
        let written = written + there.join().unwrap();
        drain(&mut reader, &mut numbers);
        let written = written + write_some(&writer, written + 1, 3);
        assert!(written >= 6, "one lap without the held bytes");
        drain(&mut reader, &mut numbers);
        assert_eq!(numbers, (1..=written).collect::<Vec<_>>());
        assert_eq!(grant.commit(), Err(Retired));
    });
}

#[test]
fn ring_without_readers_goes_on_when_its_oldest_claim_is_retired() {
    check(2, || {
        let ring = ring(1);
        let writer = ring.writer();
        let mut retirer = ring.retirer().unwrap();
        let grant = old_grant(&writer, &mut retirer, 0);
        assert_eq!(write_some(&writer, 1, 4), 3);
        let there = ring.writer();
        let there = thread::spawn(move || write_some(&there, 4, 4));
        assert!(retirer.look());
        there.join().unwrap();
        let mut reader = ring.reader().unwrap();
        drain(&mut reader, &mut Vec::new());
        write_and_drain(&writer, &mut reader, 9, 4);
        assert_eq!(grant.commit(), Err(Retired));
    });
}

/// Reads what an observer is shown, and adds up what it is told it missed.
fn observe(observer: &mut fanwire_ring::Observer, seen: &mut Vec<u64>, missed: &mut u64) {
    loop {
        match observer.next() {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(ObserveError::Missed { records, .. }) => {
                *missed += records;
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        match observer.payload() {
            Ok(payload) => {
                let (first, second) = payload.unwrap().split_at(8);
                assert_eq!(first, second, "torn");
                seen.push(u64::from_le_bytes(first.try_into().unwrap()));
                observer.advance();
            }
            Err(ObserveError::Missed { records, .. }) => *missed += records,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn observer_sees_whole_records_in_order_and_counts_what_it_missed() {
    check(2, || {
        let ring = ring(1);
        let mut reader = ring.reader().unwrap();
        let writer = ring.writer();
        let mut observer = ring.observer(Start::Tail).unwrap();
        for number in 1..=3 {
            write(&writer, number).unwrap();
        }
        drain(&mut reader, &mut Vec::new());
        let there = thread::spawn(move || {
            let mut written = write_some(&writer, 4, 3);
            drain(&mut reader, &mut Vec::new());
            written += write_some(&writer, 4 + written, 1);
            3 + written
        });
        let (mut seen, mut missed) = (Vec::new(), 0);
        observe(&mut observer, &mut seen, &mut missed);
        let last = there.join().unwrap();
        observe(&mut observer, &mut seen, &mut missed);
        assert!(seen.is_sorted() && seen.last().is_none_or(|number| *number <= last));
        assert_eq!(seen.len() as u64 + missed, last);
    });
}

//! What the crate's documentation promises in single sentences.
#![cfg(not(loom))]

use fanwire_ring::{Lapped, Reader, Ring, RingConfig, RingError, WriteError};

const CONFIG: RingConfig = RingConfig {
    capacity_bytes: 4096,
    readers_max: 2,
};

fn drain(reader: &mut Reader) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    let drained = reader.drain(usize::MAX, |payload| payloads.push(payload.to_vec()));
    assert_eq!(drained, Ok(payloads.len()));
    payloads
}

#[test]
fn record_is_the_concatenation_of_its_parts() {
    let ring = Ring::new(CONFIG).unwrap();
    let mut reader = ring.reader().unwrap();
    let check = |reader: &mut Reader, parts: &[&[u8]], expected: &[u8]| {
        ring.writer().try_write(0, parts).unwrap();
        assert_eq!(drain(reader), [expected]);
    };
    check(&mut reader, &[], b"");
    check(&mut reader, &[b""], b"");
    check(&mut reader, &[b"one"], b"one");
    check(&mut reader, &[b"one", b"", b"two"], b"onetwo");
    check(
        &mut reader,
        &[&[7; 500], &[8; 12]],
        &[[7; 500].as_slice(), &[8; 12]].concat(),
    );
}

#[test]
fn payload_above_record_bytes_max_is_too_large() {
    let ring = Ring::new(CONFIG).unwrap();
    let writer = ring.writer();
    assert_eq!(ring.record_bytes_max(), 512);
    assert_eq!(writer.try_write(0, &[&[0; 512]]), Ok(0));
    assert_eq!(
        writer.try_write(0, &[&[0; 512], &[0]]),
        Err(WriteError::TooLarge)
    );
    assert_eq!(writer.try_reserve(0, 513).err(), Some(WriteError::TooLarge));
    assert_eq!(
        writer.try_reserve(0, u32::MAX).err(),
        Some(WriteError::TooLarge)
    );
}

#[test]
fn ring_holds_exactly_its_capacity() {
    let ring = Ring::new(CONFIG).unwrap();
    let writer = ring.writer();
    let mut reader = ring.reader().unwrap();
    for lap in 0..3 {
        for _ in 0..4096 / 64 {
            writer.try_write(0, &[&[lap; 40]]).unwrap();
        }
        assert_eq!(ring.depth_bytes(), 4096);
        assert_eq!(reader.lag_bytes(), 4096);
        assert_eq!(writer.try_write(0, &[]), Err(WriteError::Full));
        assert_eq!(drain(&mut reader).len(), 64);
        assert_eq!(ring.depth_bytes(), 0);
    }
}

#[test]
fn payload_is_a_commit_only_for_who_knows_the_salt() {
    let check = |salt: u64, salt_guessed: u64, forged: bool| {
        let ring = Ring::with_salt(CONFIG, salt).unwrap();
        let writer = ring.writer();
        // Three of four granules of two laps hold a header for the lap after.
        for position in (0..2 * 4096_u64).step_by(128) {
            let mut payload = vec![0; 8];
            for granule in (position + 32..position + 128).step_by(32) {
                let stamp = (granule + 4096) ^ (salt_guessed | 1 << 63);
                payload.extend_from_slice(&stamp.to_le_bytes());
                payload.extend_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0]);
                payload.extend_from_slice(&[0; 16]);
            }
            payload.truncate(104);
            writer.try_write(0, &[&payload]).unwrap();
        }
        let reader = ring.reader().unwrap();
        // Empty grants put the start of a record onto every granule.
        let mut seen = false;
        for _ in 0..16 {
            let grant = writer.try_reserve(0, 0).unwrap();
            seen |= !reader.is_empty();
            drop(grant);
        }
        assert_eq!(seen, forged, "{salt} guessed as {salt_guessed}");
    };
    check(0x1234_5678, 0x1234_5678, true);
    check(0x1234_5678, 0x1234_5679, false);
    check(0x1234_5678, 0, false);
}

#[test]
fn slot_is_free_again_when_its_reader_is_dropped() {
    let ring = Ring::new(CONFIG).unwrap();
    let first = ring.reader().unwrap();
    let second = ring.reader().unwrap();
    assert_eq!((first.index(), second.index()), (0, 1));
    assert_eq!(
        ring.reader().err(),
        Some(RingError::ReadersFull { readers_max: 2 })
    );
    assert!(first.park());
    drop(first);
    ring.writer()
        .wake_parked(|_| u64::MAX, |index| panic!("reader {index} is gone"));
    assert_eq!(ring.reader().unwrap().index(), 0);
}

#[test]
fn reader_before_an_open_grant_sleeps_until_that_grant_is_committed() {
    let ring = Ring::new(CONFIG).unwrap();
    let (slow, fast) = (ring.writer(), ring.writer());
    let mut reader = ring.reader().unwrap();
    let woken_by = |writer: &fanwire_ring::Writer| {
        let mut woken = Vec::new();
        writer.wake_parked(|_| u64::MAX, |index| woken.push(index));
        woken
    };
    let grant = slow.try_reserve(0, 0).unwrap();
    assert!(reader.park());
    fast.try_write(0, &[b"behind"]).unwrap();
    assert_eq!(woken_by(&fast), [0]);
    assert_eq!(woken_by(&fast), []);
    assert!(
        reader.park(),
        "what is behind an open grant is not there yet"
    );
    grant.commit();
    assert_eq!(woken_by(&slow), [0]);
    assert_eq!(drain(&mut reader), [b"".to_vec(), b"behind".to_vec()]);
}

#[test]
fn grant_dropped_by_a_panic_does_not_stall_the_ring() {
    let ring = Ring::new(CONFIG).unwrap();
    let writer = ring.writer();
    let mut reader = ring.reader().unwrap();
    let outcome = std::panic::catch_unwind(|| {
        let _grant = writer.try_reserve(0, 100).unwrap();
        std::panic::resume_unwind(Box::new("while filling"));
    });
    assert!(outcome.is_err());
    writer.try_write(0, &[b"next"]).unwrap();
    assert_eq!(drain(&mut reader), [b"next"]);
    assert_eq!(ring.aborted_total(), 1);
}

#[test]
fn panic_in_wake_loses_no_other_readers_mark() {
    let ring = Ring::new(CONFIG).unwrap();
    let writer = ring.writer();
    let readers = [ring.reader().unwrap(), ring.reader().unwrap()];
    assert!(readers.iter().all(Reader::park));
    let outcome = std::panic::catch_unwind(|| {
        writer.wake_parked(
            |_| u64::MAX,
            |_| std::panic::resume_unwind(Box::new("wake")),
        );
    });
    assert!(outcome.is_err());
    let mut woken = Vec::new();
    writer.wake_parked(|_| u64::MAX, |index| woken.push(index));
    assert_eq!(woken, [1]);
}

#[test]
fn ring_without_readers_never_fills_up_but_an_open_grant_is_not_overwritten() {
    let ring = Ring::new(CONFIG).unwrap();
    let writer = ring.writer();
    for _ in 0..1000 {
        writer.try_write(0, &[&[1; 100]]).unwrap();
    }
    let mut grant = writer.try_reserve(0, 16).unwrap();
    let position = grant.position();
    grant.write(&[0xab; 16]);
    while let Ok(behind) = writer.try_write(0, &[&[2; 100]]) {
        assert!(behind < position + u64::from(CONFIG.capacity_bytes));
    }
    let mut reader = ring.reader().unwrap();
    grant.commit();
    let room = writer.try_write(0, &[&[3; 100]]);
    assert!(room.is_err(), "the reader stands before the grant");
    assert!(
        drain(&mut reader).is_empty(),
        "all is from before it joined"
    );
    assert!(writer.try_write(0, &[&[3; 100]]).is_ok());
    drop(reader);
    assert_eq!(ring.depth_bytes(), 0);
}

#[test]
fn reader_that_is_put_out_holds_nobody_and_is_told_when_it_was_lapped() {
    let ring = Ring::new(CONFIG).unwrap();
    let writer = ring.writer();
    let (mut slow, mut fast) = (ring.reader().unwrap(), ring.reader().unwrap());
    let write = |number: u8| writer.try_write(0, &[&[number; 40]]);
    while write(1).is_ok() {
        drain(&mut fast);
    }
    assert!(ring.put_out(slow.index()));
    assert!(!ring.put_out(slow.index()));
    assert_eq!(drain(&mut slow).len(), 64, "nothing was overwritten yet");
    assert_eq!(ring.depth_bytes(), 0, "it is in the gate again");
    for _ in 0..64 {
        write(2).unwrap();
        drain(&mut fast);
    }
    assert_eq!(write(2), Err(WriteError::Full));
    ring.put_out(slow.index());
    for _ in 0..100 {
        write(3).unwrap();
        drain(&mut fast);
    }
    assert!(!slow.is_empty() && !slow.park(), "it has to look");
    let lapped = slow.drain(usize::MAX, |_| panic!("all of it is overwritten"));
    assert_eq!(lapped, Err(Lapped { bytes: 164 * 64 }));
    write(4).unwrap();
    assert_eq!(drain(&mut slow), [[4; 40]]);
    assert_eq!(drain(&mut fast), [[4; 40]]);
}

#[test]
fn reader_that_parks_away_comes_back_at_the_tail_and_has_missed_nothing_it_wanted() {
    let ring = Ring::new(CONFIG).unwrap();
    let writer = ring.writer();
    let mut reader = ring.reader().unwrap();
    reader.park_away();
    for _ in 0..1000 {
        writer.try_write(0, &[&[1; 100]]).unwrap();
    }
    writer.wake_parked(|_| u64::MAX, |_| panic!("it is not parked in the gate"));
    reader.unpark();
    writer.try_write(0, &[&[2; 100]]).unwrap();
    assert_eq!(drain(&mut reader), [[2; 100]]);
    while writer.try_write(0, &[&[3; 100]]).is_ok() {}
    assert_eq!(ring.depth_bytes(), 4096, "it is in the gate again");
}

#[test]
fn unwanted_records_are_passed_and_counted_and_not_shown() {
    let ring = Ring::new(CONFIG).unwrap();
    let writer = ring.writer();
    let mut reader = ring.reader().unwrap();
    for tag in [1, 2, 1, 3] {
        writer.try_write(tag, &[&tag.to_le_bytes()]).unwrap();
    }
    let mut seen = Vec::new();
    let visit = |_, tag, payload: &[u8]| {
        seen.push((tag, payload[0]));
        true
    };
    let drained = reader.drain_while(usize::MAX, &mut (|tag| tag != 1, visit));
    assert_eq!((drained, seen), (Ok(4), vec![(2, 2), (3, 3)]));
}

#[test]
fn parked_reader_is_woken_only_by_who_wants_it() {
    let ring = Ring::new(CONFIG).unwrap();
    let writer = ring.writer();
    let readers = [ring.reader().unwrap(), ring.reader().unwrap()];
    assert!(readers.iter().all(Reader::park));
    let mut woken = Vec::new();
    writer.wake_parked(|_| 0b10, |index| woken.push(index));
    writer.wake_parked(|_| 0b10, |index| woken.push(index));
    assert_eq!(woken, [1]);
    writer.wake_parked(|_| u64::MAX, |index| woken.push(index));
    assert_eq!(woken, [1, 0]);
}

//! What the crate's documentation promises in single sentences.
#![cfg(not(loom))]

use fanwire_ring::{
    Lapped, ReadError, Reader, Retired, Retirer, Ring, RingConfig, RingError, WriteError,
};

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
    grant.commit().unwrap();
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
    grant.commit().unwrap();
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
    assert_eq!(lapped, Err(ReadError::Lapped(Lapped { bytes: 164 * 64 })));
    write(4).unwrap();
    assert_eq!(drain(&mut slow), [[4; 40]]);
    assert_eq!(drain(&mut fast), [[4; 40]]);
}

#[test]
fn record_that_is_overwritten_between_the_look_and_the_copy_is_not_shown() {
    // Puts the reader out and writes more than a lap.
    let lap = |ring: &Ring, reader_index: u32| {
        assert!(ring.put_out(reader_index));
        for _ in 0..70 {
            ring.writer().try_write(0, &[&[2; 40]]).unwrap();
        }
    };
    let lapped = Err(ReadError::Lapped(Lapped { bytes: 71 * 64 }));
    let ring = Ring::new(CONFIG).unwrap();
    let mut reader = ring.reader().unwrap();
    let index = reader.index();
    ring.writer().try_write(0, &[&[1; 40]]).unwrap();
    let is_wanted = |_| {
        lap(&ring, index);
        true
    };
    let visit = |_, _, _: &[u8]| panic!("it is overwritten");
    let drained = reader.drain_while(usize::MAX, &mut (is_wanted, visit));
    assert_eq!(drained, lapped.map(|()| 0));

    let ring = Ring::new(CONFIG).unwrap();
    let mut reader = ring.reader().unwrap();
    ring.writer().try_write(0, &[&[1; 40]]).unwrap();
    assert!(reader.next().unwrap().is_some());
    lap(&ring, reader.index());
    assert_eq!(reader.payload(), lapped.map(|()| None));
    ring.writer().try_write(0, &[&[3; 40]]).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().number, 71);
    assert_eq!(reader.payload(), Ok(Some([3; 40].as_slice())));
}

#[test]
fn reader_that_is_walked_gives_its_bytes_back_when_there_is_nothing_left() {
    let ring = Ring::new(CONFIG).unwrap();
    let mut reader = ring.reader().unwrap();
    let walk = |reader: &mut Reader| {
        // Less than a sixteenth of the ring.
        for _ in 0..3 {
            ring.writer().try_write(0, &[b"few"]).unwrap();
        }
        while reader.lag_bytes() > 0 {
            assert!(reader.next().unwrap().is_some() && reader.advance());
        }
        assert_eq!(ring.depth_bytes(), 96, "not published yet");
    };
    walk(&mut reader);
    assert_eq!(reader.next(), Ok(None));
    assert_eq!(ring.depth_bytes(), 0);
    // It does not go back to what it had published before.
    walk(&mut reader);
    reader.park_away();
    reader.unpark();
    assert_eq!((reader.lag_bytes(), ring.depth_bytes()), (0, 0));
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

/// Looks until what is claimed now is too old, and says whether the last look has retired it.
fn retire(retirer: &mut Retirer) -> bool {
    retirer.look();
    retirer.look();
    retirer.look()
}

#[test]
fn claim_that_is_neither_committed_nor_dropped_is_retired_at_the_third_look() {
    let ring = Ring::new(CONFIG).unwrap();
    let mut retirer = ring.retirer().unwrap();
    assert_eq!(ring.retirer().err(), Some(RingError::RetirerTaken));
    let (slow, fast) = (ring.writer(), ring.writer());
    let mut reader = ring.reader().unwrap();
    fast.try_write(0, &[b"before"]).unwrap();
    let mut grant = slow.try_reserve(0, 100).unwrap();
    grant.write(&[1; 50]);
    fast.try_write(0, &[b"behind"]).unwrap();
    assert!(!retirer.look());
    let young = slow.try_reserve(0, 100).unwrap();
    assert!(!retirer.look());
    assert_eq!(drain(&mut reader), [b"before"]);
    assert!(reader.park(), "a claim holds it");
    assert!(retirer.look());
    let mut woken = Vec::new();
    fast.wake_parked(|_| u64::MAX, |index| woken.push(index));
    assert_eq!(woken, [0]);
    assert_eq!(drain(&mut reader), [b"behind"]);
    assert_eq!((ring.retirements_total(), ring.held_bytes()), (1, 128));
    grant.write(&[2; 50]);
    assert_eq!(grant.commit(), Err(Retired));
    assert_eq!(young.commit(), Ok(()), "it is not old enough");
    assert_eq!(drain(&mut reader), [[0; 100]]);
    drop(retirer);
    assert!(ring.retirer().is_ok());
}

#[test]
fn claims_that_nobody_reads_are_not_retired_while_their_writers_get_on() {
    let ring = Ring::new(CONFIG).unwrap();
    let mut retirer = ring.retirer().unwrap();
    let writer = ring.writer();
    let _reader = ring.reader().unwrap();
    while writer.try_write(0, &[&[1; 100]]).is_ok() {}
    drop(writer.try_reserve(0, 0));
    assert!(!retire(&mut retirer));
    assert_eq!(ring.retirements_total(), 0);
}

#[test]
fn held_bytes_are_not_claimed_until_they_are_returned_and_then_used_again() {
    let ring = Ring::new(CONFIG).unwrap();
    let mut retirer = ring.retirer().unwrap();
    let writer = ring.writer();
    let mut reader = ring.reader().unwrap();
    // At the beginning of the lap, in the middle and at its end.
    let mut grants = Vec::new();
    for (fill, payload) in [(0, 8), (1928, 200), (1500, 104)] {
        for chunk in vec![0; fill].chunks(488) {
            writer.try_write(0, &[chunk]).unwrap();
        }
        drain(&mut reader);
        grants.push(writer.try_reserve(0, payload).unwrap());
        assert!(retire(&mut retirer));
    }
    let held_bytes = ring.held_bytes();
    assert_eq!(held_bytes, 32 + 224 + 128);
    let mut laps = |ring: &Ring, count: usize| {
        let mut read = Vec::new();
        for number in 0..count {
            let payload = [u8::try_from(number % 251).unwrap(); 72];
            writer.try_write(0, &[&payload]).unwrap();
            read.extend(drain(&mut reader));
            assert_eq!(read.pop().as_deref(), Some(payload.as_slice()));
        }
        for _ in 0..3 {
            assert!(!retirer.look());
        }
        ring.held_bytes()
    };
    assert_eq!(laps(&ring, 300), held_bytes);
    // The late writers store into their bytes, which disturbs nobody.
    for mut grant in grants.drain(..2) {
        grant.write(&[0xff; 8]);
        assert_eq!(grant.commit(), Err(Retired));
    }
    assert_eq!(
        laps(&ring, 300),
        held_bytes,
        "all have yet to pass their ends"
    );
    assert_eq!(laps(&ring, 300), 128);
    // Dropped is returned, too.
    grants.clear();
    laps(&ring, 300);
    assert_eq!(laps(&ring, 300), 0);
    assert_eq!((ring.retirements_total(), ring.aborted_total()), (3, 1));
}

#[test]
fn held_bytes_have_a_bound_and_so_have_their_stretches() {
    // A full ring's worth of claims of that payload, all too old, and how much of it is retired.
    let check = |payload_bytes: u32, stretches: u64, held_bytes: u64| {
        let ring = Ring::new(CONFIG).unwrap();
        let mut retirer = ring.retirer().unwrap();
        let writer = ring.writer();
        let mut reader = ring.reader().unwrap();
        let mut grants = Vec::new();
        while let Ok(grant) = writer.try_reserve(0, payload_bytes) {
            grants.push(grant);
            if writer.try_write(0, &[b"between"]).is_err() {
                break;
            }
        }
        assert!(retire(&mut retirer));
        assert_eq!(
            (ring.retirements_total(), ring.held_bytes()),
            (stretches, held_bytes)
        );
        assert!(!retirer.look());
        assert_eq!(ring.retirements_rejected_total(), 1);
        assert_eq!(drain(&mut reader).len() as u64, stretches);
        // As they are returned, the others follow.
        for grant in grants {
            let _ = grant.commit();
        }
        drain(&mut reader);
        for _ in 0..300 {
            writer.try_write(0, &[&[1; 400]]).unwrap();
            drain(&mut reader);
            retirer.look();
        }
        assert_eq!(ring.held_bytes(), 0);
    };
    check(40, 4, 4 * 64);
    check(512, 2, 2 * 544);
}

#[test]
fn records_of_the_largest_size_fit_whatever_is_held() {
    let ring = Ring::new(CONFIG).unwrap();
    let mut retirer = ring.retirer().unwrap();
    let writer = ring.writer();
    let mut reader = ring.reader().unwrap();
    let mut grants = Vec::new();
    // Four stretches with equal room between them, so that there is no larger room anywhere.
    for _ in 0..4 {
        writer.try_write(0, &[&[0; 280]]).unwrap();
        writer.try_write(0, &[&[0; 280]]).unwrap();
        drain(&mut reader);
        grants.push(writer.try_reserve(0, 232).unwrap());
        assert!(retire(&mut retirer));
    }
    assert_eq!(ring.held_bytes(), 4 * 256);
    for _ in 0..100 {
        writer.try_write(0, &[&[1; 512]]).unwrap();
        assert_eq!(drain(&mut reader), [[1; 512]]);
    }
    drop(grants);
}

#[test]
fn ring_without_readers_does_not_fill_up_behind_a_claim_that_is_too_old() {
    let ring = Ring::new(CONFIG).unwrap();
    let mut retirer = ring.retirer().unwrap();
    let writer = ring.writer();
    let grant = writer.try_reserve(0, 100).unwrap();
    while writer.try_write(0, &[&[1; 100]]).is_ok() {}
    assert!(retire(&mut retirer));
    for _ in 0..1000 {
        writer.try_write(0, &[&[1; 100]]).unwrap();
    }
    assert_eq!(grant.commit(), Err(Retired));
}

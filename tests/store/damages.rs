//! Files that were changed or cut.

use crate::harness::{Content, Directory, Random, content, open, write_run};
use fanwire::store::{DamageKind, SyncPolicy, verify};
use std::collections::BTreeMap;
use std::fs;

const RECORDS: u64 = 3_000;
const PAYLOAD_MAX: usize = 800;
const BLOCK: usize = 4_096;
const SEED: u64 = 12;

/// A store of a few segments, and the bytes of each.
fn written() -> (Directory, BTreeMap<u64, Content>) {
    let directory = Directory::new("damage");
    write_run(
        &directory.config(SyncPolicy::Never),
        1,
        RECORDS,
        PAYLOAD_MAX,
    );
    assert!(directory.segments().len() >= 2);
    let records = (0..RECORDS).map(|index| (index + 1, content(1, index, PAYLOAD_MAX)));
    (directory, records.collect())
}

#[test]
fn every_flipped_bit_is_found_and_costs_no_other_record() {
    let (directory, expected) = written();
    let segments = directory.segments();
    let config = directory.config(SyncPolicy::Never);
    let whole: Vec<_> = segments
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    let mut random = Random::new(SEED);
    for round in 0..150 {
        let chosen = random.below(segments.len());
        let mut bytes = whole[chosen].clone();
        // Headers and the end are rare in random places.
        let offset = match round % 5 {
            0 => random.below(BLOCK),
            1 => bytes.len() - 1 - random.below(BLOCK),
            _ => random.below(bytes.len()),
        };
        bytes[offset] ^= 1 << random.below(8);
        fs::write(&segments[chosen], &bytes).unwrap();
        let case = format!("seed {SEED}, round {round}: segment {chosen}, offset {offset}");

        let inspection = verify(&directory.0).unwrap();
        assert!(inspection.is_damaged(), "{case}");
        let scan = &inspection.scan;
        for damage in &scan.damages {
            assert_eq!(damage.segment, segments[chosen], "{case}");
            let start = usize::try_from(damage.offset).unwrap();
            let end = start + usize::try_from(damage.bytes).unwrap();
            let is_there = damage.kind == DamageKind::HeaderCopy || (start..end).contains(&offset);
            assert!(is_there, "{case}: {damage}");
        }
        let (store, _, records) = open(&config);
        drop(store);
        let lost = |sequence: &u64| {
            let is_in_tail = scan.torn_tail.is_some() && *sequence > scan.last_sequence;
            let mut damages = scan.damages.iter().filter_map(|it| it.lost.as_ref());
            is_in_tail || damages.any(|it| it.contains(sequence))
        };
        let mut left = expected.clone();
        left.retain(|sequence, _| !lost(sequence));
        assert!(expected.len() - left.len() <= 1, "{case}: {scan:?}");
        assert!(records == left, "{case}");
        // Opening it may have cut the tail.
        fs::write(&segments[chosen], &whole[chosen]).unwrap();
    }
    assert!(!verify(&directory.0).unwrap().is_damaged());
}

#[test]
fn a_torn_tail_is_cut_and_reported_at_any_length() {
    let (directory, expected) = written();
    let config = directory.config(SyncPolicy::Never);
    let segments = directory.segments();
    let last = segments.last().unwrap();
    let whole = fs::read(last).unwrap();
    let mut random = Random::new(SEED);
    for round in 0..120 {
        let cut = match round % 4 {
            0 => random.below(2 * BLOCK),
            _ => random.below(whole.len()),
        };
        let mut bytes = whole[..cut].to_vec();
        // What a disk may hold of blocks that were not written.
        match round % 3 {
            0 => {}
            1 => bytes.resize(whole.len(), 0),
            _ => bytes.extend((cut..whole.len()).map(|_| random.next().to_le_bytes()[0] | 1)),
        }
        fs::write(last, &bytes).unwrap();
        let case = format!("seed {SEED}, round {round}: cut at {cut}");
        let (store, scan, records) = open(&config);
        drop(store);
        let count = records.len() as u64;
        let until = records.keys().last().copied().unwrap_or_default();
        assert_eq!(until, count, "{case}: a gap");
        assert!(expected.range(..=until).eq(&records), "{case}");
        assert_eq!(scan.last_sequence, until, "{case}");
        // Padding that was cut off and is zeros again is as before.
        if round % 3 != 0 && bytes != whole {
            let tail = scan.torn_tail.as_ref();
            assert!(tail.is_some_and(|it| it.bytes > 0), "{case}: {scan:?}");
            assert!(!scan.was_closed, "{case}");
        }
        // Now it is whole.
        let (store, scan, again) = open(&config);
        drop(store);
        assert!(
            scan.torn_tail.is_none() && scan.damages.is_empty(),
            "{case}: {scan:?}"
        );
        assert_eq!(again, records, "{case}");
        assert!(!verify(&directory.0).unwrap().is_damaged(), "{case}");
    }
}

#[test]
fn a_missing_segment_and_one_without_a_header_are_reported_with_what_they_held() {
    let (directory, _) = written();
    let segments = directory.segments();
    let first_of = |index: usize| -> u64 {
        let name = segments[index].file_stem().unwrap().to_str().unwrap();
        name.parse().unwrap()
    };
    let whole = fs::read(&segments[0]).unwrap();
    let mut bytes = whole.clone();
    bytes[..BLOCK].fill(0xAA);
    fs::write(&segments[0], &bytes).unwrap();
    let scan = verify(&directory.0).unwrap().scan;
    assert_eq!(scan.damages_total, 1);
    assert_eq!(scan.damages[0].kind, DamageKind::Header);
    assert_eq!(scan.first_sequence, first_of(1));
    fs::write(&segments[0], &whole).unwrap();

    if segments.len() > 2 {
        fs::remove_file(&segments[1]).unwrap();
        let scan = verify(&directory.0).unwrap().scan;
        assert_eq!(scan.damages_total, 1);
        assert_eq!(scan.damages[0].kind, DamageKind::Missing);
        assert_eq!(scan.damages[0].lost, Some(first_of(1)..=first_of(2) - 1));
    }
}

#[test]
fn a_record_is_no_place_to_hide_another_one() {
    // The payload holds a whole segment of another store; then its frame is damaged.
    let (other, _) = written();
    let hidden = fs::read(&other.segments()[0]).unwrap();
    let directory = Directory::new("hidden");
    let config = directory.config(SyncPolicy::Always);
    let (store, _, _) = open(&config);
    let mut appender = store.appender();
    appender.append(1, b"outer", &hidden).unwrap();
    appender.flush().unwrap();
    appender.append(1, b"next", b"").unwrap();
    drop(appender);
    drop(store);
    let segments = directory.segments();
    let mut bytes = fs::read(&segments[0]).unwrap();
    for offset in [BLOCK, BLOCK + 17, BLOCK + 100] {
        bytes[offset] ^= 1;
        fs::write(&segments[0], &bytes).unwrap();
        let (_store, scan, records) = open(&config);
        bytes[offset] ^= 1;
        assert_eq!(records.len(), 1, "offset {offset}");
        assert_eq!(records[&2].1, b"next");
        assert_eq!(scan.damages_total, 1, "offset {offset}: {scan:?}");
        assert_eq!(scan.damages[0].lost, Some(1..=1));
    }
}

#[test]
fn a_segment_of_a_later_version_is_left_alone() {
    let (directory, _) = written();
    let segment = &directory.segments()[0];
    let mut bytes = fs::read(segment).unwrap();
    for copy in [0, 512] {
        bytes[copy + 8] = 2;
        let checksum = crc32c::crc32c(&bytes[copy..copy + 44]);
        bytes[copy + 44..copy + 48].copy_from_slice(&checksum.to_le_bytes());
    }
    fs::write(segment, &bytes).unwrap();
    let error = verify(&directory.0).unwrap_err().to_string();
    assert!(
        error.contains("has version 2 of the format, expected 1"),
        "{error}"
    );
}

#[test]
fn segments_that_were_renamed_or_are_of_another_store_are_reported() {
    let (directory, _) = written();
    let (other, _) = written();
    let segments = directory.segments();
    let whole: Vec<_> = segments
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    let kinds = |directory: &Directory| {
        let scan = verify(&directory.0).unwrap().scan;
        let damages = scan.damages.iter();
        let kinds = damages.map(|it| (it.segment.clone(), it.kind.clone()));
        (kinds.collect::<Vec<_>>(), scan)
    };
    let first_of = |index: usize| -> u64 {
        let name = segments[index].file_stem().unwrap().to_str().unwrap();
        name.parse().unwrap()
    };

    fs::write(&segments[0], &whole[1]).unwrap();
    fs::write(&segments[1], &whole[0]).unwrap();
    let (found, scan) = kinds(&directory);
    let renamed = |at: usize, first| (segments[at].clone(), DamageKind::Renamed(first));
    assert_eq!(found[..2], [renamed(0, first_of(1)), renamed(1, 1)]);
    // No number of theirs is given again.
    let (store, _, records) = open(&directory.config(SyncPolicy::Never));
    assert!(
        records
            .keys()
            .all(|sequence| *sequence >= scan.first_sequence)
    );
    drop(store);

    let (directory, _) = written();
    let segments = directory.segments();
    let at = segments.len() - 1;
    fs::copy(&other.segments()[at], &segments[at]).unwrap();
    let (found, scan) = kinds(&directory);
    // Of two segments nobody can say which is the wrong one; the newer one counts.
    let wrong = if segments.len() > 2 { at } else { 0 };
    assert_eq!(found, [(segments[wrong].clone(), DamageKind::OtherStore)]);
    assert!(scan.records < RECORDS);
}

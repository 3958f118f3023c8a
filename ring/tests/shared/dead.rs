//! What the dead have announced, beside those who live.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fanwire_ring::shared::SharedRing;
use fanwire_ring::{AttachError, Liveness, PeerIdentity, Retired, Ring, WriteError};

use super::{attach, config, die, drain, look, memfd};

/// Stores an announcement, as a writer does that is stopped before its claim. Of `RING` with three
/// peers: in front of the lines of writers are five lines, four slots and the peers.
fn announce(shared: &SharedRing, line: u64, entry: u64, position: u64, end: u64) {
    let bytes = [position | 1, end].map(u64::to_ne_bytes).concat();
    let offset = 128 * (5 + 4 + 1 + line) + 8 + 16 * entry;
    rustix::io::pwrite(shared, &bytes, offset).unwrap();
}

#[test]
fn claim_of_the_dead_ends_where_the_one_who_won_it_has_said() {
    // The claim, and the end that a writer has announced who lost it and died as well.
    for (claimed, other_end) in [(64, 32), (64, 96), (96, 32), (96, 64), (32, 96)] {
        let here = memfd();
        let mut reader = here.ring().reader().unwrap();
        let mut retirer = here.ring().retirer().unwrap();
        let there = attach(&here);
        let dying = [there.ring().writer(), there.ring().writer()];
        let grant = dying[0].try_reserve_owned(0, claimed - 24).unwrap();
        dying[0].try_write(0, &[&[1; 40]]).unwrap();
        announce(&here, 1, 0, 0, other_end);
        die(there, (dying, grant));
        look(&mut retirer, 4);
        assert_eq!(drain(&mut reader), [1]);
        let ring = here.ring();
        assert_eq!((ring.aborted_total(), ring.retirements_total()), (1, 0));
        assert!(!ring.is_damaged());
    }
}

/// Lives for so many questions.
struct Dying(Arc<AtomicUsize>);

impl Liveness for Dying {
    fn is_alive(&self, _number: u32) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }
}

#[repr(align(128))]
#[derive(Clone)]
struct Line(#[expect(dead_code, reason = "only its address is used")] [u8; 128]);

/// A ring in memory of this process, as two peers see it.
#[expect(unsafe_code, reason = "the memory is ours")]
fn in_memory(questions: &Arc<AtomicUsize>) -> [Ring; 2] {
    let bytes = config().region_bytes().unwrap();
    let lines = vec![Line([0; 128]); bytes / 128].leak();
    let memory = NonNull::from(lines).cast();
    let identity = |number| PeerIdentity {
        number,
        liveness: Box::new(Dying(Arc::clone(questions))),
    };
    // SAFETY: leaked, so it stays where it is, aligned, and nobody else has its address.
    let first = unsafe { Ring::create_in_memory(memory, bytes, &config(), identity(0)) };
    // SAFETY: as above.
    let second = unsafe { Ring::attach_to_memory(memory, bytes, Some(identity(1))) };
    [first.unwrap(), second.unwrap()]
}

#[test]
fn claim_is_given_back_whenever_its_writer_dies_during_a_look() {
    for alive in 0..12 {
        let questions = Arc::new(AtomicUsize::new(usize::MAX));
        let [here, there] = in_memory(&questions);
        let mut reader = here.reader().unwrap();
        let mut retirer = here.retirer().unwrap();
        let writer = here.writer();
        let dying = there.writer();
        std::mem::forget(dying.try_reserve_owned(0, 100).unwrap());
        look(&mut retirer, 3);
        assert_eq!((here.held_bytes(), here.retirements_total()), (128, 1));
        questions.store(alive, Ordering::Relaxed);
        for number in 0..100 {
            look(&mut retirer, 1);
            here.evict_dead();
            writer.try_write(0, &[&[number; 100]]).unwrap();
            assert_eq!(drain(&mut reader), [number]);
        }
        assert_eq!(here.held_bytes(), 0, "it dies after {alive} questions");
        assert!(here.writer().try_write(0, &[b"its line"]).is_ok());
    }
}

#[test]
fn claim_of_a_living_writer_is_not_that_of_a_dead_one_who_lost_it() {
    let here = memfd();
    let mut retirer = here.ring().retirer().unwrap();
    let there = attach(&here);
    let dying = there.ring().writer();
    let living = here.ring().writer();
    announce(&here, 0, 0, 0, 64);
    die(there, dying);
    let grant = living.try_reserve(0, 40).unwrap();
    look(&mut retirer, 4);
    // It is late like any other, and learns that.
    assert_eq!(
        (here.ring().aborted_total(), here.ring().retirements_total()),
        (0, 1)
    );
    assert_eq!(grant.commit(), Err(Retired));
}

#[test]
fn who_takes_the_line_of_a_dead_writer_announces_nothing_of_it() {
    let here = memfd();
    let mut retirer = here.ring().retirer().unwrap();
    let first = attach(&here);
    let dying = first.ring().writer();
    announce(&here, 0, 3, 0, 64);
    die(first, dying);
    here.ring().evict_dead();
    let living = here.ring().writer();
    let second = attach(&here);
    let dying = second.ring().writer();
    let grant = dying.try_reserve_owned(0, 40).unwrap();
    die(second, (dying, grant));
    look(&mut retirer, 3);
    assert_eq!(
        (here.ring().aborted_total(), here.ring().retirements_total()),
        (1, 0)
    );
    assert!(living.try_write(0, &[b"x"]).is_ok());
}

#[test]
fn what_a_dead_peer_had_without_a_claim_is_given_back_without_a_retirer() {
    let here = memfd();
    let there = attach(&here);
    let (reader, writers) = (
        there.ring().reader().unwrap(),
        [there.ring().writer(), there.ring().writer()],
    );
    for writer in &writers {
        assert!(writer.try_write(0, &[b"x"]).is_ok());
    }
    let own = here.ring().writer();
    assert_eq!(
        own.try_write(0, &[b"x"]),
        Err(WriteError::TooManyGrants),
        "both lines are taken"
    );
    die(there, (reader, writers));
    assert_eq!(here.ring().evict_dead(), 1);
    let own = [here.ring().writer(), here.ring().writer()];
    assert!(own.iter().all(|it| it.try_write(0, &[b"x"]).is_ok()));
}

#[test]
fn mark_of_a_dead_reader_that_slept_wakes_nobody() {
    let here = memfd();
    let there = attach(&here);
    let reader = there.ring().reader().unwrap();
    assert!(reader.park());
    die(there, reader);
    assert_eq!(here.ring().evict_dead(), 1);
    let writer = here.ring().writer();
    writer.wake_parked(|_| u64::MAX, |index| panic!("reader {index} is dead"));
}

#[test]
#[expect(unsafe_code, reason = "the memory is ours")]
fn memory_that_is_too_small_or_not_aligned_is_rejected() {
    let bytes = config().region_bytes().unwrap();
    let memory = NonNull::from(vec![Line([0; 128]); bytes / 128 + 1].leak()).cast::<u8>();
    let identity = |number| PeerIdentity {
        number,
        liveness: Box::new(Dying(Arc::default())),
    };
    for (skipped, bytes) in [(0, bytes - 1), (0, 127), (64, bytes)] {
        // SAFETY: inside of what was leaked, which nobody else has.
        let start = unsafe { memory.add(skipped) };
        // SAFETY: as above, for as many bytes.
        let made = unsafe { Ring::create_in_memory(start, bytes, &config(), identity(0)) };
        let expected = AttachError::TooSmall { found: bytes };
        assert_eq!(made.err(), Some(expected));
    }
    // SAFETY: as above.
    let made = unsafe { Ring::create_in_memory(memory, bytes, &config(), identity(3)) };
    assert_eq!(made.err(), Some(AttachError::PeersFull { peers_max: 3 }));
}

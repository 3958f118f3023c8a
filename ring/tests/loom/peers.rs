//! Peers that die: what their announcements say beside those who live.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fanwire_ring::{Liveness, Ring};
use loom::thread;

use super::{check, drain, write, write_some};

/// Whether the other peer lives: what the kernel knows of a lock.
struct Other(Arc<AtomicBool>);

impl Liveness for Other {
    fn is_alive(&self, _number: u32) -> bool {
        // As the kernel: who finds it dead sees what it stored.
        self.0.load(Ordering::Acquire)
    }
}

/// A ring as two peers see it, and whether the second lives.
fn peers() -> (Ring, Ring, Arc<AtomicBool>) {
    let is_alive = Arc::new(AtomicBool::new(true));
    let liveness = || Box::new(Other(Arc::clone(&is_alive)));
    let [first, second] = Ring::peers_for_models(256, 1, 42, [liveness(), liveness()]);
    (first, second, is_alive)
}

#[test]
fn claim_of_a_dead_writer_is_aborted_beside_living_writers() {
    check(2, || {
        let (here, there, is_alive) = peers();
        let mut reader = here.reader().unwrap();
        let mut retirer = here.retirer().unwrap();
        let dying = there.writer();
        // It dies with a claim, by which it leaves nothing but what it has stored.
        let mut grant = dying.try_reserve_owned(0, 16).unwrap();
        grant.write(&9_u64.to_le_bytes());
        std::mem::forget(grant);
        is_alive.store(false, Ordering::Release);
        let writer = here.writer();
        assert!(!retirer.look() && !retirer.look());
        let looking = thread::spawn(move || {
            assert!(retirer.look());
            retirer
        });
        let written = write_some(&writer, 1, 2);
        let mut numbers = Vec::new();
        drain(&mut reader, &mut numbers);
        let _retirer = looking.join().unwrap();
        drain(&mut reader, &mut numbers);
        assert_eq!(numbers, (1..=written).collect::<Vec<_>>());
        assert_eq!(
            (
                here.held_bytes(),
                here.aborted_total(),
                here.retirements_total()
            ),
            (0, 1, 0)
        );
    });
}

#[test]
fn claim_of_a_living_writer_is_never_taken_for_that_of_a_dead_one() {
    check(2, || {
        let (here, there, is_alive) = peers();
        let mut reader = here.reader().unwrap();
        let mut retirer = here.retirer().unwrap();
        // The dead one has announced a position and lost it, or has claimed what is behind it.
        let dying = there.writer();
        std::mem::forget(dying.try_reserve_owned(0, 16).unwrap());
        is_alive.store(false, Ordering::Release);
        let (writer, looker) = (here.writer(), here.clone());
        let living = thread::spawn(move || write(&writer, 7).is_ok());
        let mut looks = 0;
        for _ in 0..3 {
            looks += u64::from(retirer.look());
        }
        let is_written = living.join().unwrap();
        for _ in 0..3 {
            looks += u64::from(retirer.look());
        }
        let mut numbers = Vec::new();
        drain(&mut reader, &mut numbers);
        assert!(is_written && looks >= 1);
        assert_eq!(numbers, [7], "a living writer's record is seen once");
        assert!(!looker.is_damaged());
    });
}

#[test]
fn slot_of_a_dead_reader_is_freed_once() {
    check(2, || {
        let (here, there, is_alive) = peers();
        std::mem::forget(there.reader().unwrap());
        is_alive.store(false, Ordering::Release);
        let evicting = here.clone();
        let evicting = thread::spawn(move || evicting.evict_dead());
        let evicted = here.evict_dead();
        // There is one slot.
        let reader = here.reader();
        assert_eq!(evicted + evicting.join().unwrap(), 1);
        assert!(reader.is_err() || here.reader().is_err(), "it is taken");
    });
}

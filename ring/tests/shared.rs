//! What the documentation promises of rings between processes, each attachment standing for a process.
#![cfg(all(target_os = "linux", not(loom)))]
#![cfg_attr(
    not(loom),
    allow(
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        reason = "numbers at random, and small ones"
    )
)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use fanwire_ring::shared::{Access, RingListener, SharedError, SharedRing};
use fanwire_ring::{
    AttachError, ObserveError, ReadError, Reader, Retirer, Ring, RingConfig, RingError,
    SharedConfig, Start, Wakers, WriteError, Writer,
};
use rustix::fs::{MemfdFlags, SealFlags};

#[path = "shared/dead.rs"]
mod dead;

const RING: RingConfig = RingConfig {
    capacity_bytes: 4096,
    readers_max: 2,
};

fn config() -> SharedConfig {
    SharedConfig {
        ring: RING,
        peers_max: 3,
        writers_max: 2,
    }
}

fn memfd() -> SharedRing {
    SharedRing::memfd("test", &config()).unwrap()
}

fn attach(shared: &SharedRing) -> SharedRing {
    SharedRing::from_fd(shared.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

fn drain(reader: &mut Reader) -> Vec<u8> {
    let mut first_bytes = Vec::new();
    reader
        .drain(usize::MAX, |payload| first_bytes.push(payload[0]))
        .unwrap();
    first_bytes
}

fn attach_error(outcome: Result<SharedRing, SharedError>) -> AttachError {
    match outcome {
        Err(SharedError::Attach(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// A path that nobody else uses.
fn path(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ring-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    folder
}

#[test]
fn records_of_one_peer_are_read_by_another() {
    let here = memfd();
    let there = attach(&here);
    assert_eq!(
        (here.ring().peer_number(), there.ring().peer_number()),
        (Some(0), Some(1))
    );
    let mut reader = there.ring().reader().unwrap();
    let writer = here.ring().writer();
    for lap in 0..200_u8 {
        writer.try_write(u64::from(lap), &[&[lap; 300]]).unwrap();
        let record = reader.next().unwrap().unwrap();
        assert_eq!(
            (record.number, record.tag),
            (u64::from(lap), u64::from(lap))
        );
        assert_eq!(reader.payload().unwrap().unwrap(), [lap; 300]);
        assert!(reader.advance());
    }
    assert!(!reader.advance());
    assert_eq!(reader.next(), Ok(None));
}

#[test]
fn numbers_of_peers_are_used_again_and_are_limited() {
    let first = memfd();
    let second = attach(&first);
    let third = attach(&first);
    let fourth = SharedRing::from_fd(first.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(
        attach_error(fourth),
        AttachError::PeersFull { peers_max: 3 }
    );
    drop(second);
    assert_eq!(attach(&first).ring().peer_number(), Some(1));
    drop(third);
}

#[test]
fn file_of_which_the_size_can_change_is_rejected() {
    let valid = memfd();
    let bytes = config().region_bytes().unwrap();
    let mut content = vec![0; bytes];
    rustix::io::pread(&valid, &mut content, 0).unwrap();
    let seals = [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL];
    for left_out in 0..=seals.len() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd: OwnedFd = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::io::pwrite(&fd, &content, 0).unwrap();
        let seals = seals.iter().enumerate();
        let seals = seals.filter(|(index, _)| *index != left_out);
        let seals = seals.fold(SealFlags::empty(), |seals, (_, seal)| seals | *seal);
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        let attached = SharedRing::from_fd(fd);
        if left_out == 3 {
            assert!(attached.is_ok());
        } else {
            assert_eq!(attach_error(attached), AttachError::NotSealed);
        }
    }
}

#[test]
fn memfd_cannot_be_resized_by_a_peer_or_opened_by_another_user() {
    let shared = memfd();
    assert!(rustix::fs::ftruncate(&shared, 0).is_err());
    assert!(rustix::fs::ftruncate(&shared, 1 << 20).is_err());
    // Nor opened by others through /proc.
    let mode = rustix::fs::fstat(&shared).unwrap().st_mode;
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn named_ring_is_found_until_it_is_unlinked() {
    let name = format!("ring-test-{}", std::process::id());
    let here = SharedRing::create_named(&name, &config()).unwrap();
    let again = SharedRing::create_named(&name, &config());
    let Err(SharedError::System { error, .. }) = again else {
        panic!("{again:?}")
    };
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    let there = SharedRing::open_named(&name).unwrap();
    let observing = SharedRing::observe_named(&name).unwrap();
    SharedRing::unlink(&name).unwrap();
    assert!(SharedRing::open_named(&name).is_err());
    let mut observer = observing.ring().observer(Start::Tail).unwrap();
    there.ring().writer().try_write(0, &[b"x"]).unwrap();
    assert!(observer.next().unwrap().is_some());
    assert_eq!(observer.payload().unwrap().unwrap(), b"x");
    assert_eq!(here.ring().tail_position(), 32);
    for name in ["", ".", ".x", "a/b", "../x", "a b", "\0", &"x".repeat(201)] {
        let outcome = SharedRing::open_named(name);
        assert!(matches!(outcome, Err(SharedError::NameInvalid)), "{name}");
    }
}

#[test]
fn listener_hands_out_descriptions_that_nobody_shares() {
    let folder = path("listener");
    let socket = folder.join("ring.sock");
    let shared = memfd();
    let listener = RingListener::bind(&socket, Access::ReadWrite, None).unwrap();
    let second = RingListener::bind(&socket, Access::ReadWrite, None);
    assert_eq!(
        second.err().map(|error| error.kind()),
        Some(io::ErrorKind::AddrInUse)
    );
    // The connection of that attempt: it is gone, and the listener goes on.
    assert!(listener.serve_one(&shared).is_err());
    let there = thread::spawn({
        let socket = socket.clone();
        move || SharedRing::connect(&socket).unwrap()
    });
    listener.serve_one(&shared).unwrap();
    let there = there.join().unwrap();
    assert_eq!(there.ring().peer_number(), Some(1));
    let reader = there.ring().reader().unwrap();
    assert_eq!(shared.ring().evict_dead(), 0, "it lives");
    drop(reader);
    let mode = fs::metadata(&socket).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
        0o600
    );
    drop(listener);
    assert!(!socket.exists());
    // A socket that nobody listens behind, and a file that is no socket.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    drop(RingListener::bind(&socket, Access::ReadWrite, None).unwrap());
    fs::write(&socket, b"").unwrap();
    let file = RingListener::bind(&socket, Access::ReadWrite, None);
    assert_eq!(
        file.err().map(|error| error.kind()),
        Some(io::ErrorKind::AlreadyExists)
    );
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn those_who_may_observe_cannot_write() {
    let folder = path("observe");
    let socket = folder.join("ring.sock");
    let shared = memfd();
    let listener = RingListener::bind(&socket, Access::Observe, None).unwrap();
    let there = thread::spawn({
        let socket = socket.clone();
        move || SharedRing::connect(&socket).unwrap()
    });
    listener.serve_one(&shared).unwrap();
    let there = there.join().unwrap();
    assert!(there.is_read_only() && there.ring().peer_number().is_none());
    let ring = there.ring();
    assert_eq!(ring.reader().err(), Some(RingError::ReadOnly));
    assert_eq!(ring.retirer().err(), Some(RingError::ReadOnly));
    assert_eq!(
        ring.writer().try_write(0, &[b""]),
        Err(WriteError::ReadOnly)
    );
    assert_eq!(
        (ring.evict_dead(), ring.put_out(0), ring.put_out_laggards(0)),
        (0, false, 0)
    );
    ring.writer().wake_sleepers();
    let mut observer = ring.observer(Start::Oldest).unwrap();
    let writer = shared.ring().writer();
    let mut read = 0;
    for number in 0..1000_u64 {
        writer.try_write(number, &[&[7; 100]]).unwrap();
        if number % 5 == 4 {
            while let Some(record) = observer.next().unwrap() {
                assert_eq!((record.number, record.tag), (read, read));
                assert_eq!(observer.payload().unwrap().unwrap(), [7; 100]);
                observer.advance();
                read += 1;
            }
        }
    }
    assert_eq!(read, 1000);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn observer_is_told_exactly_how_many_records_it_missed() {
    let shared = memfd();
    let ring = shared.ring();
    for with_reader in [false, true] {
        let mut reader = with_reader.then(|| ring.reader().unwrap());
        let writer = ring.writer();
        let mut observer = ring.observer(Start::Tail).unwrap();
        let first = observer.next().unwrap();
        assert!(first.is_none());
        let begin = observer.bookmark().number;
        let (mut written, mut seen, mut missed) = (0_u64, 0, 0);
        for step in 0..5000_u64 {
            // Some are dropped, which is not a record.
            let grant = writer.try_reserve(step, 20 + u32::try_from(step % 200).unwrap());
            match grant {
                Ok(grant) if step % 7 == 3 => drop(grant),
                Ok(grant) => {
                    grant.commit().unwrap();
                    written += 1;
                }
                Err(error) => assert_eq!(error, WriteError::Full),
            }
            if let Some(reader) = &mut reader
                && step % 3 == 0
            {
                reader.drain(usize::MAX, |_| ()).unwrap();
            }
            if step % 61 == 60 {
                // Two of them: it falls behind for good, again and again.
                for _ in 0..2 {
                    match observer.next() {
                        Ok(Some(record)) => {
                            assert_eq!(record.number, begin + seen + missed);
                            assert!(observer.advance());
                            seen += 1;
                        }
                        Ok(None) => {}
                        Err(ObserveError::Missed { records, bytes }) => {
                            assert!(bytes >= records * 32);
                            missed += records;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
        loop {
            match observer.next() {
                Ok(Some(_)) => {
                    observer.advance();
                    seen += 1;
                }
                Ok(None) => break,
                Err(ObserveError::Missed { records, .. }) => missed += records,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(seen + missed, written);
        assert!(missed > 100 && seen > 10, "{missed} missed, {seen} seen");
        // Another one goes on where this one is, and one that has only the begin is told the rest.
        let place = observer.bookmark();
        writer.try_write(9, &[b"next"]).unwrap();
        let mut next = ring.observer(Start::At(place)).unwrap();
        assert_eq!(next.next().unwrap().unwrap().number, begin + written);
        if let Some(mut reader) = reader {
            reader.drain(usize::MAX, |_| ()).unwrap();
        }
    }
}

#[test]
fn slot_of_a_dead_peer_is_freed_and_that_of_a_living_one_is_not() {
    let here = memfd();
    let there = attach(&here);
    let (living, dead) = (
        here.ring().reader().unwrap(),
        there.ring().reader().unwrap(),
    );
    let writer = here.ring().writer();
    while writer.try_write(0, &[&[1; 100]]).is_ok() {}
    assert_eq!(here.ring().evict_dead(), 0);
    let third = attach(&here);
    assert_eq!(third.ring().evict_dead(), 0);
    die(there, dead);
    assert_eq!(third.ring().evict_dead(), 1);
    assert_eq!(third.ring().evict_dead(), 0);
    assert_eq!(
        writer.try_write(0, &[&[1; 100]]),
        Err(WriteError::Full),
        "one lives"
    );
    drop(living);
    assert!(writer.try_write(0, &[&[1; 100]]).is_ok());
    let _both = [here.ring().reader().unwrap(), here.ring().reader().unwrap()];
}

/// Takes the lock away under everything that the peer has, as its death does: the file is closed, and
/// nothing is given back.
fn die<T>(shared: SharedRing, had: T) {
    let number = u64::from(shared.ring().peer_number().unwrap());
    std::mem::forget(had);
    unlock(&shared, number);
    std::mem::forget(shared);
}

#[expect(unsafe_code, reason = "there is no other way to these locks")]
fn unlock(shared: &SharedRing, number: u64) {
    use std::os::fd::AsRawFd;
    let mut lock = libc::flock {
        l_type: i16::try_from(libc::F_UNLCK).unwrap(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
        l_start: i64::try_from(number).unwrap(),
        l_len: 1,
        l_pid: 0,
    };
    let fd = shared.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the lock is ours.
    let answer = unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &raw mut lock) };
    assert_eq!(answer, 0);
}

fn look(retirer: &mut Retirer, looks: u32) {
    for _ in 0..looks {
        retirer.look();
    }
}

/// Peers die in a claim, `before` the claim is retired or after it, more often than there are gaps.
fn claims_of_the_dead_are_given_back(before: bool) {
    let here = memfd();
    let mut reader = here.ring().reader().unwrap();
    let mut retirer = here.ring().retirer().unwrap();
    let writer = here.ring().writer();
    for round in 0..50_u8 {
        let there = attach(&here);
        let dying = there.ring().writer();
        let mut grant = dying.try_reserve_owned(0, 200).unwrap();
        let second = dying.try_reserve_owned(0, 50).unwrap();
        grant.write(&[9; 100]);
        writer.try_write(0, &[&[round]]).unwrap();
        let had = (dying, grant, second);
        if before {
            die(there, had);
            look(&mut retirer, 3);
        } else {
            look(&mut retirer, 3);
            assert!(here.ring().held_bytes() > 0);
            die(there, had);
        }
        assert_eq!(drain(&mut reader), [round]);
        // The bytes come back when a lap has passed.
        for _ in 0..20 {
            writer.try_write(0, &[&[round; 400]]).unwrap();
            look(&mut retirer, 1);
            drain(&mut reader);
        }
        assert_eq!(here.ring().held_bytes(), 0, "round {round}");
        assert_eq!(here.ring().evict_dead(), 0);
    }
    assert_eq!(here.ring().retirements_total(), if before { 0 } else { 50 });
    // Their line, too: there are two.
    let third = here.ring().writer();
    assert!(third.try_write(0, &[b"x"]).is_ok());
}

#[test]
fn claims_of_those_who_died_become_aborted_records() {
    claims_of_the_dead_are_given_back(true);
}

#[test]
fn retired_claims_of_those_who_died_are_returned() {
    claims_of_the_dead_are_given_back(false);
}

#[test]
fn place_of_a_dead_retirer_is_taken_again() {
    let here = memfd();
    let there = attach(&here);
    let retirer = there.ring().retirer().unwrap();
    assert_eq!(here.ring().retirer().err(), Some(RingError::RetirerTaken));
    die(there, retirer);
    assert_eq!(here.ring().evict_dead(), 1);
    assert!(here.ring().retirer().is_ok());
}

#[test]
fn writers_and_grants_are_limited_by_their_lines() {
    let shared = memfd();
    let [first, second, third] = [(); 3].map(|()| shared.ring().writer());
    assert!(first.try_write(0, &[b""]).is_ok());
    assert!(second.try_write(0, &[b""]).is_ok());
    assert_eq!(third.try_write(0, &[b""]), Err(WriteError::TooManyGrants));
    drop(second);
    assert!(shared.ring().writer().try_write(0, &[b""]).is_ok());
    let grants: Vec<_> = (0..7).map(|_| first.try_reserve(0, 0).unwrap()).collect();
    assert_eq!(
        first.try_reserve(0, 0).err(),
        Some(WriteError::TooManyGrants)
    );
    drop(grants);
    assert!(first.try_reserve_owned(0, 0).unwrap().commit().is_ok());
}

#[test]
fn reader_sleeps_until_a_writer_of_another_peer_wakes_it() {
    let shared = memfd();
    let reader = shared.ring().reader().unwrap();
    assert!(
        !reader.wait(10, Some(Duration::from_millis(1))),
        "there is nothing"
    );
    let writer = shared.ring().writer();
    writer.wake_parked(|_| u64::MAX, |_| panic!("it sleeps no longer"));
    let (is_read, there) = (AtomicBool::new(false), attach(&shared));
    thread::scope(|scope| {
        let (mut reader, is_read) = (reader, &is_read);
        scope.spawn(move || {
            for number in 0..2000_u32 {
                while !reader.wait(0, None) {}
                let record = reader.next().unwrap().unwrap();
                assert_eq!(record.tag, u64::from(number));
                reader.advance();
                is_read.store(true, Ordering::Release);
            }
        });
        let writer = there.ring().writer();
        for number in 0..2000_u64 {
            writer.try_write(number, &[b"wake"]).unwrap();
            writer.wake_sleepers();
            // A lost wake-up ends here.
            while !is_read.swap(false, Ordering::Acquire) {
                thread::yield_now();
            }
        }
    });
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn task_is_woken_once_when_there_is_a_record() {
    let ring = Ring::new(RING).unwrap();
    let wakers = Wakers::new(&ring);
    let (reader, writer) = (ring.reader().unwrap(), ring.writer());
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    assert_eq!(wakers.poll_ready(&reader, &mut context), Poll::Pending);
    wakers.wake_parked(&writer);
    assert_eq!(count.0.load(Ordering::Relaxed), 1, "a wake is never wrong");
    assert_eq!(wakers.poll_ready(&reader, &mut context), Poll::Pending);
    writer.try_write(0, &[b"x"]).unwrap();
    wakers.wake_parked(&writer);
    wakers.wake_parked(&writer);
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
    assert_eq!(wakers.poll_ready(&reader, &mut context), Poll::Ready(()));
}

#[test]
fn shortened_grant_leaves_padding_and_no_old_bytes() {
    for reserved in [0, 1, 8, 9, 40, 100, 512_u32] {
        for written in [0, 1, 7, 8, 13, 40, 100, 512_u32] {
            let ring = Ring::new(RING).unwrap();
            let (mut reader, writer) = (ring.reader().unwrap(), ring.writer());
            let bytes: Vec<u8> = (0..written.min(reserved)).map(|it| it as u8 | 1).collect();
            for kept in (0..=reserved).step_by(3) {
                let mut grant = writer.try_reserve_owned(5, reserved).unwrap();
                grant.write(&bytes);
                grant.commit_shortened(kept).unwrap();
                writer.try_write(6, &[b"behind"]).unwrap();
                let mut expected = bytes.clone();
                expected.resize(kept as usize, 0);
                let record = reader.next().unwrap().unwrap();
                assert_eq!((record.tag, record.payload_bytes), (5, kept));
                assert_eq!(reader.payload().unwrap().unwrap(), expected);
                reader.advance();
                assert_eq!(reader.next().unwrap().unwrap().tag, 6);
                reader.advance();
                assert_eq!(reader.next(), Ok(None));
            }
        }
    }
}

#[test]
fn length_that_leaves_the_data_is_damage() {
    let shared = memfd();
    let ring = shared.ring();
    let (mut reader, writer) = (ring.reader().unwrap(), ring.writer());
    for _ in 0..4096 / 32 - 1 {
        writer.try_write(0, &[]).unwrap();
        assert_eq!(reader.drain(1, |_| ()), Ok(1));
    }
    let mut observer = ring.observer(Start::Tail).unwrap();
    let last = writer.try_write(0, &[]).unwrap();
    assert_eq!(last, 4096 - 32);
    // Behind five lines, four slots, peers and two writers: the second word of the last record.
    let length_and_kind = 100_u64 | 1 << 32;
    let offset = 128 * (5 + 4 + 1 + 2) + last + 8;
    rustix::io::pwrite(&shared, &length_and_kind.to_ne_bytes(), offset).unwrap();
    assert_eq!(observer.next(), Err(ObserveError::Damaged));
    assert_eq!(reader.drain(1, |_| ()), Err(ReadError::Damaged));
    assert!(reader.next().unwrap().is_some());
    assert_eq!(reader.payload(), Err(ReadError::Damaged));
    assert!(ring.is_damaged());
}

#[test]
fn laggard_is_put_out_by_the_writer_that_bounds_its_lag() {
    let ring = Ring::new(RING).unwrap();
    let (mut slow, mut fast) = (ring.reader().unwrap(), ring.reader().unwrap());
    let write = |writer: &Writer| writer.try_write(0, &[&[0; 100]]);
    let patient = ring.writer();
    while write(&patient).is_ok() {}
    drain(&mut fast);
    assert_eq!(write(&patient), Err(WriteError::Full));
    assert!(write(&patient.with_lag_bytes_max(2048)).is_ok());
    for _ in 0..40 {
        write(&ring.writer()).unwrap();
        drain(&mut fast);
    }
    let outcome = slow.drain(usize::MAX, |_| ());
    assert!(matches!(outcome, Err(ReadError::Lapped(_))), "{outcome:?}");
    write(&ring.writer()).unwrap();
    assert_eq!(ring.put_out_laggards(128), 0);
    assert_eq!(ring.put_out_laggards(127), 2);
}

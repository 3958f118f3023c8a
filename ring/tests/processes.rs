//! Do processes that are killed take anything from those that live?
//!
//! This program runs itself as writers, as a gating reader and as an observer on one memfd, and kills
//! one of them after the other (SIGKILL) at random moments, mostly in the middle of something. The
//! parent reads everything, gates the writers, retires what is late, and says:
//!
//! - each writer's numbers arrive whole, in order, without one missing, up to the one it died in;
//! - the ring goes on after each death within a few looks of the retirer (counted in looks);
//! - at the end no byte is held, no slot and no line is taken.
#![cfg(not(loom))]
#![cfg_attr(
    not(loom),
    allow(
        clippy::cast_possible_truncation,
        clippy::multiple_unsafe_ops_per_block,
        reason = "numbers at random, and small ones"
    )
)]

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("child") => {
            let role = arguments.next().expect("a role");
            let name = arguments.next().and_then(|name| name.parse().ok());
            linux::child(&role, name.expect("a number"));
        }
        // As the list of tests, which cargo and others ask for.
        Some("--list") => println!("killed_processes_take_nothing_from_those_that_live: test"),
        _ => linux::parent(),
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader};
    use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
    use std::process::{Child, Command, Stdio};
    use std::thread;
    use std::time::Duration;

    use fanwire_ring::shared::SharedRing;
    use fanwire_ring::{
        ObserveError, Reader, Retirer, RingConfig, SharedConfig, Start, WriteError,
    };

    const ROUNDS: u32 = 200;
    const WRITERS: u32 = 3;
    /// Looks of the retirer after which a death must no longer be felt: two until a claim is old, one
    /// for each gap that may stand in front of it, and some for a child that has no processor.
    const LOOKS_MAX: u32 = 4000;
    const LOOK_INTERVAL: Duration = Duration::from_micros(500);

    fn random(state: &mut u64) -> u64 {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(payload: &mut Vec<u8>, writer: u32, number: u32) {
        let mut state = u64::from(writer) << 32 | u64::from(number) | 1 << 63;
        let bytes = 8 + random(&mut state) as usize % 400;
        payload.clear();
        payload.extend_from_slice(&writer.to_le_bytes());
        payload.extend_from_slice(&number.to_le_bytes());
        while payload.len() < bytes {
            payload.extend_from_slice(&random(&mut state).to_le_bytes());
        }
    }

    fn numbers(payload: &[u8]) -> (u32, u32) {
        let word = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().expect("4 bytes"));
        (word(0), word(4))
    }

    #[expect(unsafe_code, reason = "the parent leaves the descriptor open for us")]
    pub(super) fn child(role: &str, name: u32) {
        // SAFETY: the parent has put the ring's file here, and nobody else in this process uses it.
        let fd = unsafe { OwnedFd::from_raw_fd(3) };
        let shared = SharedRing::from_fd(fd).expect("the parent's ring");
        println!("ready");
        match role {
            "writer" => write(&shared, name),
            "reader" => read(&shared),
            "observer" => observe(&shared),
            _ => panic!("{role}"),
        }
    }

    fn write(shared: &SharedRing, name: u32) {
        let writer = shared.ring().writer();
        let mut payload = Vec::new();
        for number in 0.. {
            fill(&mut payload, name, number);
            loop {
                let grant = writer.try_reserve(0, u32::try_from(payload.len()).expect("small"));
                match grant {
                    Ok(mut grant) => {
                        for chunk in payload.chunks(50) {
                            grant.write(chunk);
                        }
                        // Most deaths come here, in a claim.
                        if number % 4 == 0 {
                            thread::sleep(Duration::from_micros(300));
                        }
                        if grant.commit().is_ok() {
                            break;
                        }
                    }
                    Err(WriteError::Full) => thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
            writer.wake_sleepers();
        }
    }

    fn read(shared: &SharedRing) {
        let mut payload = Vec::new();
        loop {
            let mut reader = shared.ring().reader().expect("a slot");
            for _ in 0..100 {
                let drained = reader.drain(16, |found| {
                    let (writer, number) = numbers(found);
                    fill(&mut payload, writer, number);
                    assert_eq!(payload, found);
                });
                drained.expect("nobody puts it out");
                reader.wait(10, Some(Duration::from_millis(1)));
            }
        }
    }

    fn observe(shared: &SharedRing) {
        let mut observer = shared.ring().observer(Start::Oldest).expect("a sound ring");
        let mut payload = Vec::new();
        let mut next = None;
        loop {
            match observer.next() {
                Ok(Some(record)) => {
                    assert!(
                        next.is_none_or(|next| next == record.number),
                        "{next:?} {record:?}"
                    );
                    if let Ok(found) = observer.payload() {
                        let found = found.expect("it was shown");
                        let (writer, number) = numbers(found);
                        fill(&mut payload, writer, number);
                        assert_eq!(payload, found);
                        observer.advance();
                        next = Some(record.number + 1);
                    } else {
                        next = None;
                    }
                }
                Ok(None) => thread::yield_now(),
                Err(ObserveError::Missed { records, .. }) => {
                    next = next.map(|next| next + records);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[expect(unsafe_code, reason = "the child finds the ring at descriptor 3")]
    fn spawn(shared: &SharedRing, role: &str, name: u32) -> Child {
        use std::os::unix::process::CommandExt;
        let fd = shared.as_fd().as_raw_fd();
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["child", role, &name.to_string()]);
        command.stdout(Stdio::piped());
        // SAFETY: dup2, fcntl and prctl may be called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                let done = if fd == 3 {
                    libc::fcntl(fd, libc::F_SETFD, 0)
                } else {
                    libc::dup2(fd, 3)
                };
                // Nobody else ends the child when the parent fails.
                let bound = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if done == -1 || bound == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let mut child = command.spawn().expect("this program runs");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        child
    }

    struct Parent {
        shared: SharedRing,
        reader: Reader,
        retirer: Retirer,
        /// The next number of each writer.
        next: BTreeMap<u32, u32>,
        read: u64,
    }

    impl Parent {
        /// One turn: read all there is, look.
        fn turn(&mut self) -> u64 {
            let (next, mut payload) = (&mut self.next, Vec::new());
            let drained = self.reader.drain(usize::MAX, |found| {
                let (writer, number) = numbers(found);
                fill(&mut payload, writer, number);
                assert_eq!(payload, found, "record {number} of writer {writer} is torn");
                let expected = next.entry(writer).or_default();
                assert_eq!(*expected, number, "of writer {writer}");
                *expected += 1;
            });
            let drained = drained.expect("nobody puts it out") as u64;
            self.read += drained;
            self.retirer.look();
            self.shared.ring().evict_dead();
            thread::sleep(LOOK_INTERVAL);
            drained
        }

        /// Goes on until each of these writers has got something through.
        fn until_all_get_on(&mut self, writers: &[u32]) -> u32 {
            let before = self.next.clone();
            for looks in 0..LOOKS_MAX {
                self.turn();
                if writers.iter().all(|it| self.next.get(it) > before.get(it)) {
                    return looks;
                }
            }
            panic!(
                "after {LOOKS_MAX} looks not all writers get on: {:?}",
                self.shared.ring()
            );
        }
    }

    pub(super) fn parent() {
        let config = SharedConfig {
            ring: RingConfig {
                capacity_bytes: 1 << 14,
                readers_max: 3,
            },
            peers_max: 8,
            // One for each that lives, and the parent's at the end.
            writers_max: WRITERS + 1,
        };
        let shared = SharedRing::memfd("processes", &config).expect("a memfd");
        let mut state = shared.as_fd().as_raw_fd() as u64 ^ u64::from(std::process::id()) << 20 | 1;
        println!("seed {state}");
        let mut parent = Parent {
            reader: shared.ring().reader().expect("a slot"),
            retirer: shared.ring().retirer().expect("the first"),
            shared,
            next: BTreeMap::new(),
            read: 0,
        };
        let mut names = 0..;
        let mut name = || names.next().expect("names do not end");
        let mut writers: Vec<(u32, Child)> = Vec::new();
        let mut others: Vec<(&str, Child)> = Vec::new();
        let mut looks_max = 0;
        for round in 0..ROUNDS {
            while writers.len() < WRITERS as usize {
                let name = name();
                writers.push((name, spawn(&parent.shared, "writer", name)));
            }
            for role in ["reader", "observer"] {
                if others.iter().all(|(other, _)| *other != role) {
                    others.push((role, spawn(&parent.shared, role, 0)));
                }
            }
            let living: Vec<u32> = writers.iter().map(|(name, _)| *name).collect();
            looks_max = looks_max.max(parent.until_all_get_on(&living));
            for _ in 0..random(&mut state) % 4 {
                parent.turn();
            }
            thread::sleep(Duration::from_micros(random(&mut state) % 2000));
            for (role, other) in &mut others {
                let ended = other.try_wait().expect("our child");
                assert!(ended.is_none(), "{role} in round {round}: {ended:?}");
            }
            let mut killed = if random(&mut state).is_multiple_of(3) {
                others
                    .swap_remove(random(&mut state) as usize % others.len())
                    .1
            } else {
                writers
                    .swap_remove(random(&mut state) as usize % writers.len())
                    .1
            };
            killed.kill().expect("our child");
            killed.wait().expect("our child");
        }
        let rest = writers.into_iter().map(|(_, child)| child);
        for mut child in rest.chain(others.into_iter().map(|(_, child)| child)) {
            child.kill().expect("our child");
            child.wait().expect("our child");
        }
        for _ in 0..20 {
            parent.turn();
        }
        let ring = parent.shared.ring().clone();
        println!(
            "{} records of {} writers read, {} aborted, {} retirements, {} rejected; at most {looks_max} \
             looks until all went on",
            parent.read,
            parent.next.len(),
            ring.aborted_total(),
            ring.retirements_total(),
            ring.retirements_rejected_total()
        );
        assert!(ring.aborted_total() > 0, "some died in a claim");
        // All lines can be taken, and all slots; and after some laps no byte is held.
        let own: Vec<_> = (0..=WRITERS).map(|_| ring.writer()).collect();
        let name = name();
        let mut number = 0;
        for _ in 0..200 {
            for writer in &own {
                let mut payload = Vec::new();
                fill(&mut payload, name, number);
                writer.try_write(0, &[&payload]).expect("a line and room");
                number += 1;
            }
            parent.turn();
        }
        assert_eq!(ring.held_bytes(), 0);
        let slots = [ring.reader(), ring.reader()];
        assert!(slots.iter().all(Result::is_ok));
        assert!(!ring.is_damaged());
    }
}

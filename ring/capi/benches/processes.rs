//! How fast do records go from one process to another, and what does the C API cost beside Rust?
//!
//! A writer and a reader, each a process of its own, on a ring in a memfd. Records of 64 bytes go in batches of
//! 32: written, the sleepers woken, and handed to a function by `drain`. Then the time from before the write
//! of a single record to behind its read, by a reader that spins. Both once in Rust, by this program, and once
//! in C (`processes.c`, with the shared library of this build); the kinds take turns, and the median counts.
//!
//! ```text
//! cargo bench -p fanwire-ring-capi --bench processes
//! ```
//!
//! It needs two processors that nothing else uses.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        // As the list of tests, which cargo and others ask for.
        ["--list", ..] => println!("processes: benchmark"),
        [role @ ("write" | "read" | "send" | "receive"), count] => {
            linux::child(role, count.parse().expect("a number"));
        }
        _ => linux::parent(arguments.contains(&"--bench")),
    }
}

#[cfg(target_os = "linux")]
mod linux {
    #![expect(clippy::disallowed_methods, reason = "a bench measures")]

    use std::io::{self, BufRead, BufReader, Write};
    use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
    use std::os::unix::process::CommandExt;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::thread;
    use std::time::Instant;

    use core_ring::shared::SharedRing;
    use core_ring::{RingConfig, SharedConfig, WriteError};

    const ROUNDS: usize = 7;
    const RECORD_BYTES: usize = 64;
    const BATCH: u64 = 32;
    const DRAIN: usize = 256;
    const CAPACITY_BYTES: u32 = 1 << 20;
    /// Doublings of the pause before a process yields; as in `processes.c`.
    const SPIN_STEPS: u32 = 6;
    const PAUSE_NS: u64 = 2000;

    /// Waits longer each time, as all such loops do.
    #[derive(Default)]
    struct Idle(u32);

    impl Idle {
        fn wait(&mut self) {
            if self.0 > SPIN_STEPS {
                return thread::yield_now();
            }
            for _ in 0..1 << self.0 {
                std::hint::spin_loop();
            }
            self.0 += 1;
        }
    }

    /// Nanoseconds that all processes count from the same moment.
    #[expect(unsafe_code, reason = "an Instant cannot be sent to another process")]
    fn now() -> u64 {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the pointer is valid and ours.
        let answer = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        assert_eq!(answer, 0);
        let nanoseconds = time.tv_sec * 1_000_000_000 + time.tv_nsec;
        u64::try_from(nanoseconds).expect("after the start of the machine")
    }

    fn record(number: u64) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&number.to_ne_bytes());
        record
    }

    fn number_of(payload: &[u8]) -> u64 {
        assert_eq!(payload.len(), RECORD_BYTES);
        u64::from_ne_bytes(payload[..8].try_into().expect("8 bytes"))
    }

    /// Says that this process is ready, and waits until all are.
    fn meet() {
        println!("ready");
        let mut line = String::new();
        io::stdin().read_line(&mut line).expect("the parent's line");
        assert_eq!(line, "go\n");
    }

    #[expect(unsafe_code, reason = "the parent leaves the descriptor open for us")]
    pub(super) fn child(role: &str, count: u64) {
        // SAFETY: the parent has put the ring's file here, and nobody else in this process uses it.
        let fd = unsafe { OwnedFd::from_raw_fd(3) };
        let shared = SharedRing::from_fd(fd).expect("the parent's ring");
        match role {
            "write" => write(&shared, count),
            "read" => read(&shared, count),
            "send" => send(&shared, count),
            _ => receive(&shared, count),
        }
    }

    fn write(shared: &SharedRing, count: u64) {
        let writer = shared.ring().writer();
        meet();
        let (mut number, mut idle) = (0, Idle::default());
        while number < count {
            let batch_end = count.min(number + BATCH);
            let mut outcome = Ok(0);
            while number < batch_end && outcome.is_ok() {
                outcome = writer.try_write(number, &[&record(number)]);
                number += u64::from(outcome.is_ok());
            }
            writer.wake_sleepers();
            match outcome {
                Ok(_) => idle = Idle::default(),
                Err(error) => {
                    assert_eq!(error, WriteError::Full);
                    idle.wait();
                }
            }
        }
    }

    fn read(shared: &SharedRing, count: u64) {
        let mut reader = shared.ring().reader().expect("a slot");
        meet();
        let (mut next, mut idle) = (0, Idle::default());
        while next < count {
            let visit = |payload: &[u8]| {
                assert_eq!(number_of(payload), next);
                next += 1;
            };
            match reader.drain(DRAIN, visit).expect("nobody puts it out") {
                0 => idle.wait(),
                _ => idle = Idle::default(),
            }
        }
        println!("done");
    }

    /// Writes the time, again and again.
    fn send(shared: &SharedRing, count: u64) {
        let writer = shared.ring().writer();
        meet();
        for _ in 0..count {
            let began = now();
            while now() - began < PAUSE_NS {
                std::hint::spin_loop();
            }
            while writer.try_write(0, &[&record(now())]).is_err() {}
        }
    }

    fn receive(shared: &SharedRing, count: u64) {
        let mut reader = shared.ring().reader().expect("a slot");
        let mut times = Vec::with_capacity(usize::try_from(count).expect("small"));
        meet();
        while (times.len() as u64) < count {
            let visit = |payload: &[u8]| times.push(now().saturating_sub(number_of(payload)));
            reader.drain(1, visit).expect("nobody puts it out");
        }
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        println!("{} {} {}", at(50), at(90), at(99));
    }

    /// A child that has the ring at descriptor 3 and is ready.
    struct Peer {
        child: Child,
        output: BufReader<std::process::ChildStdout>,
    }

    impl Peer {
        #[expect(unsafe_code, reason = "the child finds the ring at descriptor 3")]
        fn new(program: &Path, shared: &SharedRing, role: &str, count: u64) -> Self {
            let fd = shared.as_fd().as_raw_fd();
            let mut command = Command::new(program);
            command.args([role, &count.to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let prepare = move || {
                let moved = if fd == 3 {
                    // SAFETY: it takes numbers: the descriptor stays open.
                    unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }
                } else {
                    // SAFETY: it takes numbers; what descriptor 3 was is not needed in the child.
                    unsafe { libc::dup2(fd, 3) }
                };
                // SAFETY: it takes numbers. Nobody else ends the child when the parent fails.
                let bound = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                if moved == -1 || bound == -1 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            };
            // SAFETY: fcntl, dup2 and prctl may be called between fork and exec.
            unsafe { command.pre_exec(prepare) };
            let mut child = command.spawn().expect("the program runs");
            let output = BufReader::new(child.stdout.take().expect("piped"));
            let mut peer = Self { child, output };
            assert_eq!(peer.line(), "ready\n");
            peer
        }

        fn go(&mut self) {
            let input = self.child.stdin.as_mut().expect("piped");
            input.write_all(b"go\n").expect("it waits for this");
        }

        fn line(&mut self) -> String {
            let mut line = String::new();
            self.output.read_line(&mut line).expect("a line");
            line
        }

        fn end(mut self) {
            assert!(self.child.wait().expect("our child").success());
        }
    }

    /// Runs a writer beside a reader; the reader's line, and seconds until it came.
    fn run(program: &Path, roles: [&str; 2], count: u64) -> (String, f64) {
        let config = SharedConfig::new(RingConfig {
            capacity_bytes: CAPACITY_BYTES,
            readers_max: 1,
        });
        let shared = SharedRing::memfd("bench", &config).expect("a memfd");
        let mut reader = Peer::new(program, &shared, roles[1], count);
        let mut writer = Peer::new(program, &shared, roles[0], count);
        reader.go();
        let began = Instant::now();
        writer.go();
        let line = reader.line();
        let seconds = began.elapsed().as_secs_f64();
        writer.end();
        reader.end();
        (line, seconds)
    }

    /// The C program of this build.
    fn compiled(is_bench: bool) -> PathBuf {
        let program = std::env::current_exe().expect("this program");
        let profile = program.ancestors().nth(2).expect("deps, profile");
        let target = profile.parent().expect("the target folder");
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "fanwire-ring-capi"])
            .args(["--profile", if is_bench { "bench" } else { "dev" }])
            .current_dir(package)
            .env("CARGO_TARGET_DIR", target)
            .status();
        assert!(built.expect("cargo").success());
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-processes");
        let compiled = Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&program)
            .arg(package.join("benches/processes.c"))
            .arg("-I")
            .arg(package.join("include"))
            .arg(profile.join("libfanwire_ring.so"))
            .arg(format!("-Wl,-rpath,{}", profile.display()))
            .status();
        assert!(compiled.expect("a C compiler").success());
        program
    }

    fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
        values.sort_by(f64::total_cmp);
        (
            values[values.len() / 2],
            values[0],
            values[values.len() - 1],
        )
    }

    pub(super) fn parent(is_bench: bool) {
        let (records, samples, rounds) = if is_bench {
            (4_000_000, 100_000, ROUNDS)
        } else {
            (20_000, 100, 1)
        };
        let programs = [
            ("Rust", std::env::current_exe().expect("this program")),
            ("C", compiled(is_bench)),
        ];
        let mut costs = [const { Vec::new() }; 2];
        let mut latencies = [const { [const { Vec::new() }; 3] }; 2];
        for _ in 0..rounds {
            for (index, (_, program)) in programs.iter().enumerate() {
                let (line, seconds) = run(program, ["write", "read"], records);
                assert_eq!(line, "done\n");
                costs[index].push(seconds / records as f64 * 1e9);
                let (line, _) = run(program, ["send", "receive"], samples);
                let mut numbers = line.split_whitespace();
                for values in &mut latencies[index] {
                    let number = numbers.next().expect("three of them");
                    values.push(number.parse().expect("a number"));
                }
            }
        }
        let mut of_rust = 0.0;
        for ((language, _), (cost, latency)) in
            programs.iter().zip(costs.into_iter().zip(latencies))
        {
            let (middle, least, most) = median(cost);
            if of_rust == 0.0 {
                of_rust = middle;
            }
            let [half, ninety, ninety_nine] = latency.map(|values| median(values).0);
            println!(
                "{language:>4}: {middle:>6.1} ns per record ({least:.1}-{most:.1}), {:.1} MB/s, {:.3} x Rust's; \
                 write to read, spinning: median {half:.0} ns, 90 % {ninety:.0} ns, 99 % {ninety_nine:.0} ns",
                RECORD_BYTES as f64 * 1e3 / middle,
                middle / of_rust
            );
        }
    }
}

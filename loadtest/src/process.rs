//! What a process costs, read from /proc: CPU time of all its threads, and their waits for a CPU;
//! memory.

use std::{collections::BTreeMap, fs, io};

/// CPU time of a process at one moment, by thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct CpuSnapshot {
    run_ns: BTreeMap<u32, u64>,
    wait_ns: BTreeMap<u32, u64>,
}

impl CpuSnapshot {
    /// Reads /proc/PID/task/*/schedstat.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn take(pid: u32) -> io::Result<Self> {
        let mut snapshot = Self::default();
        for entry in
            fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| of_process(pid, &error))?
        {
            let entry = entry?;
            let Some(thread) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else {
                continue;
            };
            let mut numbers = text.split_ascii_whitespace().map(str::parse);
            if let (Some(Ok(run_ns)), Some(Ok(wait_ns))) = (numbers.next(), numbers.next()) {
                snapshot.run_ns.insert(thread, run_ns);
                snapshot.wait_ns.insert(thread, wait_ns);
            }
        }
        Ok(snapshot)
    }

    /// CPU nanoseconds used since `earlier` by the threads that still exist.
    pub(crate) fn since(&self, earlier: &Self) -> u64 {
        self.run_ns
            .keys()
            .map(|thread| growth(&self.run_ns, &earlier.run_ns, *thread))
            .sum()
    }

    /// Nanoseconds since `earlier` in which the busiest thread could run and had no CPU: others had
    /// it.
    pub(crate) fn waited_since(&self, earlier: &Self) -> u64 {
        let busiest = self
            .run_ns
            .keys()
            .max_by_key(|thread| growth(&self.run_ns, &earlier.run_ns, **thread));
        busiest.map_or(0, |thread| growth(&self.wait_ns, &earlier.wait_ns, *thread))
    }
}

fn growth(now: &BTreeMap<u32, u64>, earlier: &BTreeMap<u32, u64>, thread: u32) -> u64 {
    let of = |map: &BTreeMap<u32, u64>| map.get(&thread).copied().unwrap_or(0);
    of(now).saturating_sub(of(earlier))
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All resident pages.
    pub(crate) resident_bytes: u64,
    /// Resident anonymous pages: what the program itself asked for.
    pub(crate) anonymous_bytes: u64,
}

impl Memory {
    /// Reads /proc/PID/status and, for the exact anonymous part, smaps_rollup where that is
    /// allowed.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn take(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .map_err(|error| of_process(pid, &error))?;
        // The counters behind status are kept per CPU and may be behind by some pages; smaps_rollup
        // counts pages.
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        Ok(Self {
            resident_bytes: kibibytes(&rollup, "Rss:")
                .or_else(|| kibibytes(&status, "VmRSS:"))
                .unwrap_or(0),
            anonymous_bytes: kibibytes(&rollup, "Anonymous:")
                .or_else(|| kibibytes(&status, "RssAnon:"))
                .unwrap_or(0),
        })
    }
}

fn of_process(pid: u32, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("process {pid} cannot be read: {error}"),
    )
}

fn first_number(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn kibibytes(text: &str, field: &str) -> Option<u64> {
    Some(first_number(text.lines().find_map(|line| line.strip_prefix(field))?)? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::thread_cpu_ns;

    #[test]
    fn own_cpu_grows_with_work() {
        let before = CpuSnapshot::take(std::process::id()).unwrap();
        let start = thread_cpu_ns();
        while thread_cpu_ns() - start < 30_000_000 {
            std::hint::spin_loop();
        }
        // schedstat of a running thread is brought up to date when it leaves the CPU.
        std::thread::yield_now();
        let used = CpuSnapshot::take(std::process::id())
            .unwrap()
            .since(&before);
        assert!(used >= 20_000_000, "{used} ns");
    }

    #[test]
    fn threads_that_share_a_core_wait_for_it() {
        let busy = || {
            let cores = core_affinity::get_core_ids().unwrap();
            assert!(core_affinity::set_for_current(cores[0]));
            let start = thread_cpu_ns();
            while thread_cpu_ns() - start < 50_000_000 {
                std::hint::spin_loop();
            }
            std::thread::yield_now();
            CpuSnapshot::take(std::process::id()).unwrap()
        };
        // The busiest thread of the process may be another test's, which waits for nobody.
        let waits = || {
            let before = CpuSnapshot::take(std::process::id()).unwrap();
            let waited = std::thread::scope(|scope| {
                let threads = [scope.spawn(busy), scope.spawn(busy)];
                let snapshots = threads.map(|thread| thread.join().unwrap());
                snapshots.map(|snapshot| snapshot.waited_since(&before))
            });
            waited.iter().any(|ns| *ns >= 5_000_000)
        };
        assert!((0..50).any(|_| waits()));
    }

    #[test]
    fn own_memory_is_seen() {
        let before = Memory::take(std::process::id()).unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = Memory::take(std::process::id()).unwrap();
        assert!(
            after.anonymous_bytes >= before.anonymous_bytes + (60 << 20),
            "{before:?} {after:?}"
        );
        assert!(after.resident_bytes >= after.anonymous_bytes);
        drop(block);
    }

    #[test]
    fn fields_are_found_by_name() {
        let text = "VmRSS:\t     123 kB\nRssAnon:\t      45 kB\n";
        assert_eq!(kibibytes(text, "RssAnon:"), Some(45 * 1024));
        assert_eq!(kibibytes(text, "Nothing:"), None);
    }

    #[test]
    fn a_missing_process_is_named() {
        let error = CpuSnapshot::take(u32::MAX).unwrap_err();
        assert!(error.to_string().contains("4294967295"), "{error}");
    }
}

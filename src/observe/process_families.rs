//! The metrics that Prometheus expects of every process, from `/proc/self`.

use super::families::{Family, Sample, one};
use crate::base::metric::{MetricKind, MetricValue};
use std::fs;

/// The metrics of the process as the kernel sees it. One that cannot be read is left out.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "process_cpu_seconds",
        help: "Processor time of the process, of the user and of the system",
        kind: MetricKind::Counter,
        labels: &[],
        collect: |_| real(cpu_seconds()),
    },
    Family {
        name: "process_resident_memory_bytes",
        help: "Resident memory",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |_| whole(resident_bytes()),
    },
    Family {
        name: "process_virtual_memory_bytes",
        help: "Virtual memory",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |_| whole(stat_field(VIRTUAL_BYTES)),
    },
    Family {
        name: "process_open_fds",
        help: "Open file descriptors; connections have none",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |_| whole(open_files()),
    },
    Family {
        name: "process_max_fds",
        help: "Limit of open file descriptors",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |_| whole(rustix::process::getrlimit(rustix::process::Resource::Nofile).current),
    },
    Family {
        name: "process_threads",
        help: "Threads",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |_| whole(stat_field(THREADS)),
    },
    Family {
        name: "process_start_time_seconds",
        help: "When the process started, seconds since 1970-01-01 UTC",
        kind: MetricKind::Gauge,
        labels: &[],
        collect: |_| real(start_seconds()),
    },
];

/// Fields of `/proc/self/stat` (proc_pid_stat(5)) by their numbers there.
const USER_TICKS: usize = 14;
const SYSTEM_TICKS: usize = 15;
const THREADS: usize = 20;
const START_TICKS: usize = 22;
const VIRTUAL_BYTES: usize = 23;
const RESIDENT_PAGES: usize = 24;
/// The field after the name of the program, which may itself have spaces and parentheses.
const AFTER_NAME: usize = 3;

fn whole(value: Option<u64>) -> Vec<Sample> {
    value.map_or(Vec::new(), one)
}

fn real(value: Option<f64>) -> Vec<Sample> {
    let sample = |value| vec![Sample::of([], MetricValue::Real(value))];
    value.map_or(Vec::new(), sample)
}

/// Resident memory of the process, if the kernel says.
pub(super) fn resident_bytes() -> Option<u64> {
    stat_field(RESIDENT_PAGES).map(|pages| pages * page_bytes())
}

fn stat_field(field: usize) -> Option<u64> {
    field_of(&fs::read_to_string("/proc/self/stat").ok()?, field)
}

fn field_of(stat: &str, field: usize) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split_ascii_whitespace();
    fields.nth(field - AFTER_NAME)?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    Some(seconds(
        field_of(&stat, USER_TICKS)? + field_of(&stat, SYSTEM_TICKS)?,
    ))
}

fn start_seconds() -> Option<f64> {
    let of_host = fs::read_to_string("/proc/stat").ok()?;
    let booted = of_host.lines().find_map(|line| line.strip_prefix("btime "));
    let booted: f64 = booted?.trim().parse().ok()?;
    Some(booted + seconds(stat_field(START_TICKS)?))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "ticks stay below 2^53 for millions of years"
)]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

fn open_files() -> Option<u64> {
    // One of them is the directory that is being read.
    let count = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(count.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_shifts_no_field() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 3 0 400 1000 20 184";
        let of = |field| field_of(stat, field);
        assert_eq!((of(USER_TICKS), of(SYSTEM_TICKS)), (Some(250), Some(50)));
        assert_eq!((of(THREADS), of(START_TICKS)), (Some(3), Some(400)));
        assert_eq!(
            (of(VIRTUAL_BYTES), of(RESIDENT_PAGES)),
            (Some(1_000), Some(20))
        );
        assert_eq!(of(99), None);
    }

    #[test]
    fn this_process_has_plausible_values() {
        assert!(stat_field(RESIDENT_PAGES).unwrap() > 100);
        assert!(open_files().unwrap() >= 3);
        // Later than 2024.
        assert!(start_seconds().unwrap() > 1_704_067_200.0);
    }
}

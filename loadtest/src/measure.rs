//! What a stretch of time cost the server and this program.

use crate::{
    clock,
    process::{CpuSnapshot, Memory},
    report::{Report, approximate, ratio},
};
use std::io;

/// From this share of one core on a thread counts as fully busy.
const BUSY_PERCENT: f64 = 95.0;

/// A running measurement.
#[derive(Debug)]
pub(crate) struct Meter {
    pid: Option<u32>,
    server: CpuSnapshot,
    own_cpu_ns: u64,
    wall_ns: u64,
}

/// What was used between start and stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// CPU of all threads of the server, if its process is known.
    pub(crate) server_cpu_ns: Option<u64>,
    /// Time in which the busiest of them could run and had no CPU.
    pub(crate) server_wait_ns: Option<u64>,
    /// CPU of the measuring thread.
    pub(crate) own_cpu_ns: u64,
    /// Time passed.
    pub(crate) wall_ns: u64,
}

impl Meter {
    /// Starts to measure; `pid` is the server's process.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn start(pid: Option<u32>) -> io::Result<Self> {
        Ok(Self {
            pid,
            server: pid.map(CpuSnapshot::take).transpose()?.unwrap_or_default(),
            own_cpu_ns: clock::thread_cpu_ns(),
            wall_ns: clock::now_ns(),
        })
    }

    /// What was used since the start.
    ///
    /// # Errors
    /// The server's process has ended.
    pub(crate) fn stop(&self) -> io::Result<Usage> {
        let server = self.pid.map(CpuSnapshot::take).transpose()?;
        Ok(Usage {
            server_cpu_ns: server.as_ref().map(|snapshot| snapshot.since(&self.server)),
            server_wait_ns: server.map(|snapshot| snapshot.waited_since(&self.server)),
            own_cpu_ns: clock::thread_cpu_ns() - self.own_cpu_ns,
            wall_ns: clock::now_ns() - self.wall_ns,
        })
    }
}

impl Usage {
    /// Adds CPU per operation of both sides, their load, and a warning if this program was the
    /// slower one.
    pub(crate) fn report(&self, report: &mut Report, operation: &str, operation_count: u64) {
        let own_busy = 100.0 * ratio(self.own_cpu_ns, self.wall_ns);
        if let Some(server_cpu_ns) = self.server_cpu_ns {
            let server_busy = 100.0 * ratio(server_cpu_ns, self.wall_ns);
            report.row(
                format!("server_cpu_ns_per_{operation}"),
                format!("server CPU per {operation}"),
                ratio(server_cpu_ns, operation_count),
                "ns",
            );
            report.row(
                "server_busy_percent",
                "server busy",
                server_busy,
                "% of a core",
            );
            if own_busy >= BUSY_PERCENT && server_busy < BUSY_PERCENT {
                report.note(format!(
                    "THE GENERATOR IS THE BOTTLENECK (busy {own_busy:.0} %, the server \
                     {server_busy:.0} %): rates and latencies are its own, only CPU per {operation} \
                     speaks of the server"
                ));
            }
        } else if own_busy >= BUSY_PERCENT {
            report.note(format!(
                "the generator is busy {own_busy:.0} % and may be the bottleneck; give --pid to see \
                 the server's side"
            ));
        }
        report.row(
            format!("generator_cpu_ns_per_{operation}"),
            format!("generator CPU per {operation}"),
            ratio(self.own_cpu_ns, operation_count),
            "ns",
        );
        report.row(
            "generator_busy_percent",
            "generator busy",
            own_busy,
            "% of a core",
        );
    }

    /// Operations per second of time passed.
    pub(crate) fn per_second(&self, operation_count: u64) -> f64 {
        1e9 * ratio(operation_count, self.wall_ns)
    }
}

/// Adds the server's memory, if its process is known.
pub(crate) fn report_memory(report: &mut Report, pid: Option<u32>) -> io::Result<()> {
    if let Some(pid) = pid {
        let memory = Memory::take(pid)?;
        report.row(
            "server_rss_mib",
            "server resident memory",
            mebibytes(memory.resident_bytes),
            "MiB",
        );
        report.row(
            "server_anonymous_mib",
            "server anonymous memory",
            mebibytes(memory.anonymous_bytes),
            "MiB",
        );
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> f64 {
    approximate(bytes) / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a run with these loads (in percent of a core) is called the generator's own.
    fn check(server_percent: Option<u64>, own_percent: u64, is_named: bool) {
        let usage = Usage {
            server_cpu_ns: server_percent.map(|percent| percent * 1_000_000),
            server_wait_ns: None,
            own_cpu_ns: own_percent * 1_000_000,
            wall_ns: 100_000_000,
        };
        let mut report = Report::new("t");
        usage.report(&mut report, "delivery", 1000);
        let table = report.to_table();
        assert_eq!(
            table.to_lowercase().contains("bottleneck"),
            is_named,
            "{table}"
        );
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let expected = server_percent.map_or(serde_json::Value::Null, |percent| {
            (approximate(percent) * 1000.0).into()
        });
        assert_eq!(json["server_cpu_ns_per_delivery"], expected);
    }

    #[test]
    fn a_busy_generator_before_an_idle_server_is_named() {
        check(Some(60), 99, true);
        check(Some(99), 99, false);
        check(Some(99), 60, false);
        check(None, 99, true);
        check(None, 50, false);
    }
}

//! `neighbours`: what a connection that does little notices of others that do much, on the same
//! server.

mod bystander;
mod leavers;
mod load;
mod readers;

use crate::{
    cli::{NeighboursArgs, ServerArgs},
    clock::now_ns,
    connect::{Dialer, Target},
    dialect::Dialect,
    fail::RunError,
    measure::{Meter, report_memory},
    process::CpuSnapshot,
    report::{Report, approximate, ratio},
};
use bystander::{Bystander, Observation};
use load::{Load, Tally};
use std::{sync::atomic::Ordering, thread, time::Duration};

/// Time from the begin of the load to the begin of the measurement, so that socket buffers are full
/// and what they take is what the server takes.
const WARM_UP: Duration = Duration::from_secs(1);
/// From this share of one core on the generator counts as fully busy.
const BUSY_PERCENT: f64 = 95.0;
/// From this delay of the bystander's own thread on its latencies are in doubt.
const OWN_DELAY_NS: u64 = 200_000;

/// Runs the command.
///
/// # Errors
/// The server could not be reached, or the load does not exist in its dialect.
pub(crate) fn run(server: &ServerArgs, arguments: &NeighboursArgs) -> Result<Report, RunError> {
    if server.dialect == Dialect::Analytics {
        let words = "neighbours measures the dialects gateway and verbatim".to_owned();
        return Err(RunError::Usage(words));
    }
    let load = Load::of(arguments, server.dialect)?;
    let dialer = Dialer::new(
        Target::parse_without_tls(&server.url)?,
        server.dialect,
        server.token.clone(),
    );
    let mut bystander = Bystander::open(dialer.clone(), server.dialect)?;
    let seconds = arguments.seconds.max(1);
    let alone = bystander.observe_on_thread(seconds)?;

    let tally = Tally::default();
    let (beside, usage, own_cpu_ns, load_count) = thread::scope(|scope| {
        let outcome = load
            .start(scope, &dialer, server.dialect, &tally)
            .and_then(|()| {
                thread::sleep(WARM_UP);
                let own = CpuSnapshot::take(std::process::id())?;
                let (meter, done) = (Meter::start(server.pid)?, load.done(server.dialect, &tally));
                let beside = bystander.observe_on_thread(seconds)?;
                let (usage, done) = (meter.stop()?, load.done(server.dialect, &tally) - done);
                let own_cpu_ns = CpuSnapshot::take(std::process::id())?.since(&own);
                Ok((beside, usage, own_cpu_ns, done))
            });
        tally.is_over.store(true, Ordering::Relaxed);
        outcome
    })?;

    let what = load.words();
    let mut report = Report::new(format!("a bystander beside {what}"));
    report.row("seconds", "time", approximate(usage.wall_ns) / 1e9, "s");
    alone.report(&mut report, "alone");
    beside.report(&mut report, "beside");
    report.row(
        "load_per_s",
        format!("load: {} per second", load.unit()),
        usage.per_second(load_count),
        "/s",
    );
    let own_busy = 100.0 * ratio(own_cpu_ns, usage.wall_ns);
    if let Some(server_cpu_ns) = usage.server_cpu_ns {
        let server_busy = 100.0 * ratio(server_cpu_ns, usage.wall_ns);
        report.row(
            "server_busy_percent",
            "server busy",
            server_busy,
            "% of a core",
        );
        if own_busy >= BUSY_PERCENT && server_busy < BUSY_PERCENT {
            report.note(format!(
                "THE GENERATOR IS THE BOTTLENECK (busy {own_busy:.0} %, the server \
                 {server_busy:.0} %): the server could take more of this load"
            ));
        }
    }
    if let Some(server_wait_ns) = usage.server_wait_ns {
        report.row(
            "server_waiting_percent",
            "server without a core though it could run",
            100.0 * ratio(server_wait_ns, usage.wall_ns),
            "% of the time",
        );
    }
    report.row(
        "generator_busy_percent",
        "generator busy",
        own_busy,
        "% of a core",
    );
    report_memory(&mut report, server.pid)?;
    report.count(
        "load_sessions_ended",
        "load: sessions ended by the server",
        tally.ended.load(Ordering::Relaxed),
    );
    load.report_failures(&tally, &mut report);
    // Of those who never read, the server need not take anything.
    if load_count == 0 && !matches!(load, Load::NeverRead(_)) {
        report.failure("the load did nothing");
    }
    note_own_delay(&mut report, &[&alone, &beside]);
    Ok(report)
}

fn note_own_delay(report: &mut Report, observations: &[&Observation]) {
    if observations.iter().any(|it| !it.is_realtime) {
        report.note(
            "the bystander runs without SCHED_FIFO (not permitted): its latencies contain waits for \
             the generator's own threads",
        );
    }
    if observations
        .iter()
        .any(|it| it.own_delay_p99_ns() > OWN_DELAY_NS)
    {
        report.note(
            "the bystander's own thread was late: latencies of the same order are the generator's",
        );
    }
}

/// Waits until a condition holds, the load is over or the time has passed; whether it held.
fn wait_until(tally: &Tally, patience: Duration, condition: impl Fn() -> bool) -> bool {
    const NAP: Duration = Duration::from_micros(50);
    let end_ns = now_ns() + u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
    loop {
        if condition() {
            return true;
        }
        if tally.is_over() || now_ns() >= end_ns {
            return false;
        }
        thread::sleep(NAP);
    }
}

//! `recovery`: many clients come back at once and recover what they missed, beside a live channel.
//!
//! ```text
//!  clients       subscribe, go       connect               recover, all at once   one more each
//!  publisher                   100                                                one
//!  live channel                             before ──────▶ answering, sending
//! ```

mod clients;
mod faults;
mod live;
mod messages;

use crate::{
    cli::{RecoveryArgs, ServerArgs},
    connect::{Dialer, Target},
    dialect::Dialect,
    fail::RunError,
    measure::{Meter, Usage, report_memory},
    report::{Report, approximate, ratio},
};
use clients::{Clients, State};
use live::Live;
use messages::{Messages, Position};
use std::{
    io::Write,
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::Duration,
};

/// Time for the server to finish with those who have gone, and for the live channel to warm up.
const SETTLE: Duration = Duration::from_secs(1);
/// Bytes of publications that are written together.
const BATCH_BYTES: usize = 64 * 1024;

/// Runs the command.
///
/// # Errors
/// The server could not be reached, or it is used wrongly.
pub(crate) fn run(server: &ServerArgs, arguments: &RecoveryArgs) -> Result<Report, RunError> {
    if server.dialect != Dialect::Gateway {
        let words = "recovery measures the dialect gateway".to_owned();
        return Err(RunError::Usage(words));
    }
    let &RecoveryArgs {
        clients: count,
        messages: missed,
        channels,
        ..
    } = arguments;
    let size = arguments.size as usize;
    // One more, which they receive when they have all that they missed.
    let messages = Messages::new(channels, missed + 1, size);
    let mut dialer = Dialer::new(
        Target::parse_without_tls(&server.url)?,
        server.dialect,
        server.token.clone(),
    );
    let patience = Duration::from_secs(arguments.patience);
    let numbers = (count, channels, missed);
    let positions = note_positions(&mut dialer, &messages, numbers, patience)?;
    thread::sleep(SETTLE);
    publish(&mut dialer, &messages, 0..missed, channels)?;

    let mut clients = Clients::open(&mut dialer, &messages, numbers)?;
    let mut live = Live::open(&mut dialer, arguments.bystanders, arguments.rate, size)?;
    let stage = AtomicU8::new(live::WARM_UP);
    let usage = thread::scope(|scope| {
        let thread = thread::Builder::new().name("live".to_owned());
        thread.spawn_scoped(scope, || live.run(&stage))?;
        let outcome = recover(&mut clients, &positions, arguments, server.pid, &stage);
        stage.store(live::OVER, Ordering::Relaxed);
        outcome
    })?;
    let recovered = clients.state.received;
    let seconds = approximate(usage.wall_ns) / 1e9;
    publish(&mut dialer, &messages, missed..missed + 1, channels)?;
    let all = u64::from(count) + recovered;
    clients.wait_until(patience, |state| state.received >= all)?;
    // What is delivered twice comes now.
    clients.hold(SETTLE)?;
    clients.count_missing(u64::from(missed) + 1);

    let mut report = Report::new(format!(
        "{count} clients on {channels} channels that recover {missed} messages each, at once"
    ));
    let State {
        latency_ns,
        faults,
        not_recovered,
        completed,
        ..
    } = &clients.state;
    live.report(&mut report);
    report.row(
        "recovery_seconds",
        "time until the last client had all",
        seconds,
        "s",
    );
    report.latencies("client", "request to last message of a client", latency_ns);
    report.count("recovered_messages", "recovered messages", recovered);
    report.row(
        "recovered_per_s",
        "recovered messages per second",
        usage.per_second(recovered),
        "/s",
    );
    usage.report(&mut report, "recovered_message", recovered);
    if let Some(server_wait_ns) = usage.server_wait_ns {
        report.row(
            "server_waiting_percent",
            "server without a core though it could run",
            100.0 * ratio(server_wait_ns, usage.wall_ns),
            "% of the time",
        );
    }
    report_memory(&mut report, server.pid)?;
    report.count("completed_total", "clients that received all", *completed);
    report.failure_count(
        "not_recovered_total",
        "clients told recovered: false",
        *not_recovered,
    );
    faults.report(&mut report, "recovery");
    Ok(report)
}

/// Lets the clients subscribe, note their positions and go.
fn note_positions(
    dialer: &mut Dialer,
    messages: &Messages,
    numbers: (u32, u32, u32),
    patience: Duration,
) -> Result<Vec<Option<Position>>, RunError> {
    let mut clients = Clients::open(dialer, messages, numbers)?;
    clients.subscribe(&[])?;
    let count = u64::from(numbers.0);
    clients.wait_until(patience, |state| state.subscribed == count)?;
    let positions = clients.positions();
    if positions.iter().all(Option::is_some) {
        return Ok(positions);
    }
    let first = clients.state.faults.first.as_deref();
    Err(RunError::Failed(format!(
        "a client was told no position: the channels recovery-* need a history ({})",
        first.unwrap_or("no error")
    )))
}

/// Publishes these on every channel, and waits until the server has handled them.
fn publish(
    dialer: &mut Dialer,
    messages: &Messages,
    sequences: std::ops::Range<u32>,
    channels: u32,
) -> Result<(), RunError> {
    let mut publisher = dialer.open(false)?;
    let mut bytes = Vec::new();
    for sequence in sequences {
        for channel in 0..channels {
            messages.publish(sequence, channel, &mut bytes);
            if bytes.len() >= BATCH_BYTES {
                publisher.stream.write_all(&bytes)?;
                bytes.clear();
            }
        }
    }
    publisher.stream.write_all(&bytes)?;
    Ok(publisher.ask(Dialect::Gateway)?)
}

/// Measures the live channel alone, then lets all clients recover.
fn recover(
    clients: &mut Clients<'_>,
    positions: &[Option<Position>],
    arguments: &RecoveryArgs,
    pid: Option<u32>,
    stage: &AtomicU8,
) -> Result<Usage, RunError> {
    let count = u64::from(arguments.clients);
    clients.hold(SETTLE)?;
    stage.store(live::BEFORE, Ordering::Relaxed);
    clients.hold(Duration::from_secs(arguments.seconds))?;
    stage.store(live::ANSWERING, Ordering::Relaxed);
    let meter = Meter::start(pid)?;
    clients.subscribe(positions)?;
    let patience = Duration::from_secs(arguments.patience);
    clients.wait_until(patience, |state| state.subscribed >= count)?;
    stage.store(live::SENDING, Ordering::Relaxed);
    clients.wait_until(patience, |state| state.finished >= count)?;
    let usage = meter.stop()?;
    stage.store(live::AFTER, Ordering::Relaxed);
    Ok(usage)
}

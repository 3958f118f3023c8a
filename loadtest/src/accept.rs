//! `connect`: connections set up, and what each costs the server.

use crate::{
    cli::{ConnectArgs, ServerArgs},
    clock::now_ns,
    connect::{Dialer, Target},
    fail::RunError,
    measure::{Meter, report_memory},
    report::{Report, approximate, latency_histogram},
    wire::Wire,
};

/// Connections before the measurement, so that memory and caches are as they stay.
const WARM_UP_CONNECTIONS: u32 = 100;
/// Connections per ring, as in `idle`.
const RING_CONNECTIONS: u32 = 16_000;

/// Runs the command.
///
/// # Errors
/// A connection could not be set up.
pub(crate) fn run(server: &ServerArgs, arguments: &ConnectArgs) -> Result<Report, RunError> {
    let mut dialer = Dialer::new(
        Target::parse(&server.url)?,
        server.dialect,
        server.token.clone(),
    );
    let mut latency_ns = latency_histogram();
    for _ in 0..WARM_UP_CONNECTIONS.min(arguments.connections) {
        drop(dialer.open(arguments.subscribe)?);
    }
    let mut wires = Vec::new();
    let meter = Meter::start(server.pid)?;
    let mut keeping_ns = 0;
    let mut opened_count = 0;
    while opened_count < arguments.connections {
        let together = arguments
            .in_flight
            .min(arguments.connections - opened_count);
        let start_ns = now_ns();
        let ready = dialer
            .open_together(together, arguments.subscribe)
            .map_err(|error| {
                RunError::Failed(format!("{error} (with {opened_count} connections done)"))
            })?;
        let done_ns = now_ns();
        latency_ns.saturating_record_n(done_ns - start_ns, u64::from(together));
        if !arguments.close {
            for (dialed, number) in ready.into_iter().zip(opened_count..) {
                if number % RING_CONNECTIONS == 0 {
                    wires.push(Wire::new(
                        RING_CONNECTIONS.min(arguments.connections - number),
                    )?);
                }
                wires
                    .last_mut()
                    .expect("a ring was made for connection 0")
                    .register_socket(dialed.stream, dialed.tls)?;
            }
            keeping_ns += now_ns() - done_ns;
        }
        opened_count += together;
    }
    let usage = meter.stop()?;

    let mut what = vec!["accept and upgrade"];
    what.extend(server.token.is_some().then_some("token"));
    what.extend(arguments.subscribe.then_some("subscription"));
    what.extend(arguments.close.then_some("close"));
    let count = u64::from(arguments.connections);
    let order = match arguments.in_flight {
        1 => "one after the other".to_owned(),
        together => format!("{together} at a time"),
    };
    let mut report = Report::new(format!("{count} connections {order}: {}", what.join(", ")));
    report.count("connections", "connections", count);
    report.row("seconds", "time", approximate(usage.wall_ns) / 1e9, "s");
    let rate = approximate(count) * 1e9 / approximate((usage.wall_ns - keeping_ns).max(1));
    report.row("connections_per_s", "connections per second", rate, "/s");
    usage.report(&mut report, "connection", count);
    report.latencies("connect", "set-up", &latency_ns);
    report_memory(&mut report, server.pid)?;
    Ok(report)
}

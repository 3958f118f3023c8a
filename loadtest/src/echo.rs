//! `echo`: request and response, one request outstanding on every connection.

use crate::{
    cli::{EchoArgs, ServerArgs},
    clock::now_ns,
    connect::{Dialer, Target},
    dialect::Dialect,
    fail::RunError,
    frames::{self, Reader},
    measure::{Meter, report_memory},
    report::{Report, approximate, latency_histogram},
    wire::{Event, Rest, SendQueue, Wire},
};
use hdrhistogram::Histogram;
use std::time::Duration;

/// Time before the measurement, so that memory and caches are as they stay.
const WARM_UP_NS: u64 = 300_000_000;
/// Longest sleep without looking at the clock.
const TURN_PATIENCE: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct Caller {
    reader: Reader,
    /// When the outstanding request was sent; `None` without one.
    sent_ns: Option<u64>,
    closed: bool,
}

struct Echo {
    dialect: Dialect,
    /// The request as a frame.
    request: Vec<u8>,
    callers: Vec<Caller>,
    asking: bool,
    answered: u64,
    latency_ns: Histogram<u64>,
    closed: u64,
    broken: u64,
    first_fault: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The server could not be reached.
pub(crate) fn run(server: &ServerArgs, arguments: &EchoArgs) -> Result<Report, RunError> {
    let mut dialer = Dialer::new(
        Target::parse(&server.url)?,
        server.dialect,
        server.token.clone(),
    );
    let mut wire = Wire::new(arguments.connections)?;
    let mut echo = Echo::new(server.dialect);
    for permissive in 0..arguments.connections {
        let dialed = dialer.open(false).map_err(|error| {
            RunError::Failed(format!("{error} (with {permissive} connections open)"))
        })?;
        let slot = wire.register_socket(dialed.stream, dialed.tls)?;
        echo.callers.push(Caller::default());
        echo.received(slot, &dialed.leftover, wire.send_queue());
    }
    for slot in 0..arguments.connections {
        echo.ask(slot, wire.send_queue());
    }
    let start_ns = now_ns();
    echo.turn_until(&mut wire, start_ns + WARM_UP_NS)?;
    let meter = Meter::start(server.pid)?;
    (echo.answered, echo.latency_ns) = (0, latency_histogram());
    echo.turn_until(
        &mut wire,
        now_ns() + arguments.seconds.max(1) * 1_000_000_000,
    )?;
    let usage = meter.stop()?;
    let answered = echo.answered;
    echo.asking = false;
    let end_ns = now_ns() + arguments.patience.max(1) * 1_000_000_000;
    while echo.unanswered() > 0 && now_ns() < end_ns {
        echo.turn(&mut wire)?;
    }

    let mut report = Report::new(format!(
        "request and response over {} connections",
        arguments.connections
    ));
    report.count(
        "connections",
        "connections",
        u64::from(arguments.connections),
    );
    report.count("requests", "requests answered", answered);
    report.row("seconds", "time", approximate(usage.wall_ns) / 1e9, "s");
    report.row(
        "requests_per_s",
        "requests per second",
        usage.per_second(answered),
        "/s",
    );
    usage.report(&mut report, "request", answered);
    report.latencies("round_trip", "round trip", &echo.latency_ns);
    report_memory(&mut report, server.pid)?;
    report.failure_count(
        "unanswered_total",
        "requests without answer",
        echo.unanswered(),
    );
    report.failure_count(
        "disconnects_total",
        "connections ended by the server",
        echo.closed,
    );
    report.failure_count(
        "broken_total",
        "connections with protocol faults",
        echo.broken,
    );
    if answered == 0 {
        report.failure("no request was answered");
    }
    if let Some(words) = echo.first_fault {
        report.note(format!("first fault: {words}"));
    }
    Ok(report)
}

impl Echo {
    fn new(dialect: Dialect) -> Self {
        let mut request = Vec::new();
        frames::encode_client(frames::TEXT, dialect.request().as_bytes(), &mut request);
        Self {
            dialect,
            request,
            callers: Vec::new(),
            asking: true,
            answered: 0,
            latency_ns: latency_histogram(),
            closed: 0,
            broken: 0,
            first_fault: None,
        }
    }

    /// Requests that are still without an answer, those of ended connections too.
    fn unanswered(&self) -> u64 {
        self.callers
            .iter()
            .filter(|caller| caller.sent_ns.is_some())
            .count() as u64
    }

    fn ask(&mut self, slot: u32, send_queue: &mut SendQueue) {
        self.callers[slot as usize].sent_ns = Some(now_ns());
        send_queue.send(slot, &self.request);
    }

    fn turn_until(&mut self, wire: &mut Wire, end_ns: u64) -> Result<(), RunError> {
        while now_ns() < end_ns {
            self.turn(wire)?;
        }
        Ok(())
    }

    fn turn(&mut self, wire: &mut Wire) -> Result<(), RunError> {
        wire.turn(
            Rest::until_event(TURN_PATIENCE),
            |slot, event, send_queue| match event {
                Event::Received(bytes) => self.received(slot, bytes, send_queue),
                Event::Closed(_) => {
                    self.callers[slot as usize].closed = true;
                    self.closed += 1;
                }
            },
        )?;
        if self.callers.iter().all(|caller| caller.closed) {
            return Err(RunError::Failed("all connections are gone".to_owned()));
        }
        Ok(())
    }

    fn received(&mut self, slot: u32, mut bytes: &[u8], send_queue: &mut SendQueue) {
        let caller = &mut self.callers[slot as usize];
        let mut is_answered = false;
        loop {
            match caller.reader.next(&mut bytes) {
                Ok(Some(frame)) if frame.opcode == frames::PING => {
                    send_queue.send_with(slot, |out| {
                        frames::encode_client(frames::PONG, frame.payload, out)
                    });
                }
                Ok(Some(frame)) if self.dialect.answers_request(frame.payload) => {
                    let Some(sent_ns) = caller.sent_ns.take() else {
                        self.first_fault
                            .get_or_insert_with(|| "an answer without a request".to_owned());
                        self.broken += 1;
                        continue;
                    };
                    self.answered += 1;
                    self.latency_ns
                        .saturating_record(now_ns().saturating_sub(sent_ns));
                    is_answered = true;
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(fault) => {
                    self.broken += 1;
                    self.first_fault.get_or_insert_with(|| fault.to_string());
                    return;
                }
            }
        }
        if is_answered && self.asking {
            self.ask(slot, send_queue);
        }
    }
}

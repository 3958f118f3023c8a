//! `fanout`: one publisher, many subscribers, every frame on every connection checked.

use crate::{
    cli::{FanoutArgs, ServerArgs},
    clock::now_ns,
    connect::{Dialer, Target},
    deliveries::Deliveries,
    dialect::Dialect,
    fail::RunError,
    measure::{Meter, Usage, report_memory},
    report::{Report, approximate},
    sample::{Expectation, Findings, Samples},
    wire::{Event, Rest, Wire},
};
use std::time::Duration;

/// Publications before the measurement, so that memory and caches are as they stay.
const WARM_UP_PUBLICATIONS: u64 = 20;
/// How far the publisher may be ahead of the slowest sample beyond the publications in flight.
const SAMPLE_SLACK: u64 = 256;
/// Longest sleep without looking at the clock.
const TURN_PATIENCE: Duration = Duration::from_millis(20);
/// While more deliveries than this are due per completion waited for, waiting for several distorts
/// no latency by more than 1 in this many.
const DELIVERIES_PER_WAIT: u64 = 256;
/// Most completions waited for at once.
const WAIT_EVENTS_MAX: u64 = 32;
/// Longest sleep while waiting for several completions: they come for sure unless some are lost.
const WAIT_PATIENCE: Duration = Duration::from_millis(1);
/// The publisher's slot: it is adopted first.
const PUBLISHER: u32 = 0;

/// When the next publication is due.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// So many are under way all the time.
    InFlight(u64),
    /// So many nanoseconds after the last one, whatever the server does.
    Interval(u64),
}

/// When to stop publishing.
#[derive(Debug, Clone, Copy)]
enum Until {
    /// After so many publications in all.
    Published(u64),
    /// At this moment.
    Moment(u64),
}

struct FanOut {
    wire: Wire,
    deliveries: Deliveries,
    samples: Samples,
    patience_ns: u64,
    separate_writes: bool,
    /// The publisher's connection has ended.
    publisher_lost: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The settings make no sense, or the server could not be reached.
pub(crate) fn run(server: &ServerArgs, arguments: &FanoutArgs) -> Result<Report, RunError> {
    let least = server.dialect.delivery_bytes_min();
    if arguments.size < least {
        return Err(RunError::Usage(format!(
            "--size must be at least {least} bytes in this dialect"
        )));
    }
    if arguments.filters > 0 && server.dialect != Dialect::Analytics {
        return Err(RunError::Usage(
            "--filters needs --dialect analytics".to_owned(),
        ));
    }
    let sample_count = arguments.samples.min(arguments.subscribers);
    let counted = arguments.subscribers - sample_count;
    if counted == 0 {
        return Err(RunError::Usage(
            "--subscribers must be more than --samples".to_owned(),
        ));
    }
    let mut fanout = set_up(server, arguments, counted, sample_count)?;
    let pace = match (arguments.rate, arguments.in_flight) {
        (Some(rate), _) if rate > 0.0 && rate <= 1e9 => Pace::Interval(nanoseconds(1.0 / rate)),
        (Some(_), _) => return Err(RunError::Usage("--rate must be above 0".to_owned())),
        (None, in_flight) => Pace::InFlight(in_flight.unwrap_or(1)),
    };
    fanout.phase(pace, Until::Published(WARM_UP_PUBLICATIONS))?;
    fanout.deliveries.forget_figures();

    let meter = Meter::start(server.pid)?;
    let published_before = fanout.deliveries.published();
    let until = match (arguments.publications, arguments.seconds) {
        (Some(count), _) => Until::Published(published_before + count),
        (None, seconds) => Until::Moment(now_ns() + nanoseconds(seconds.unwrap_or(5.0))),
    };
    let stalled = fanout.phase(pace, until)?;
    let mut usage = meter.stop()?;
    if stalled {
        // The wait for what never came is not part of the run.
        usage.wall_ns = usage.wall_ns.saturating_sub(fanout.patience_ns).max(1);
    }
    let published = fanout.deliveries.published() - published_before;
    fanout.await_samples()?;
    fanout.deliveries.close_books();
    let findings = fanout.samples.finish();
    let mut report = Report::new(title(arguments, server.dialect));
    report.count(
        "subscribers",
        "subscribers",
        u64::from(arguments.subscribers),
    );
    summarize(
        &mut report,
        &fanout.deliveries,
        &usage,
        published,
        u64::from(sample_count),
    );
    report_memory(&mut report, server.pid)?;
    report_samples(&mut report, &findings, fanout.deliveries.published());
    if stalled {
        report.failure(format!(
            "stopped after {} s without progress",
            arguments.patience
        ));
    }
    Ok(report)
}

fn set_up(
    server: &ServerArgs,
    arguments: &FanoutArgs,
    counted: u32,
    sample_count: u32,
) -> Result<FanOut, RunError> {
    let target = Target::parse(&server.url)?;
    let mut dialer = Dialer::new(target.clone(), server.dialect, server.token.clone())
        .with_filters(arguments.filters);
    dialer = match arguments.context_takeover {
        true => dialer.with_deflate_in_context(),
        false => dialer.with_deflate(arguments.deflate),
    };
    let mut wire = Wire::new(counted + 1).map_err(|error| {
        RunError::Failed(format!(
            "{counted} subscribers do not fit into one ring: {error}"
        ))
    })?;
    let (spoken, path) = server.dialect.publisher();
    let node = arguments.publisher_url.as_deref().map(Target::parse);
    let node = node.transpose()?.unwrap_or_else(|| target.clone());
    let publishing = path.map_or_else(|| node.clone(), |path| node.at_path(path));
    let mut publisher = Dialer::new(publishing, spoken, server.token.clone());
    let dialed = publisher.open(false)?;
    wire.register_socket(dialed.stream, dialed.tls)?;
    let samples = Samples::start(
        sample_count as usize,
        &Expectation {
            target,
            url: server.url.clone(),
            dialect: server.dialect,
            token: server.token.clone(),
            filter_count: arguments.filters,
            delivery_bytes: arguments.size,
        },
    )
    .map_err(RunError::Failed)?;
    let mut deliveries = Deliveries::new(server.dialect, arguments.size);
    if arguments.context_takeover {
        deliveries = deliveries.inflating_in_order();
    } else if arguments.deflate {
        deliveries = deliveries.inflating();
    }
    for permissive in 0..counted {
        let dialed = dialer.open(true).map_err(|error| {
            RunError::Failed(format!("{error} (with {permissive} subscribers connected)"))
        })?;
        let slot = wire.register_socket(dialed.stream, dialed.tls)?;
        deliveries.add_subscriber(dialed.id);
        deliveries.received(slot - 1, &dialed.leftover, now_ns(), |bytes| {
            wire.send_queue().send(slot, bytes)
        });
    }
    let patience_ns = nanoseconds(arguments.patience);
    Ok(FanOut {
        wire,
        deliveries,
        samples,
        patience_ns,
        separate_writes: arguments.separate_writes,
        publisher_lost: None,
    })
}

impl FanOut {
    /// Publishes at `pace` and returns when all has arrived, or true if nothing more came.
    fn phase(&mut self, pace: Pace, until: Until) -> Result<bool, RunError> {
        let start_ns = now_ns();
        let start_published = self.deliveries.published();
        let (mut progress, mut progress_ns) = (self.deliveries.progress(), start_ns);
        loop {
            let now = now_ns();
            let published = self.deliveries.published();
            let left = match until {
                Until::Published(count) => count.saturating_sub(published),
                Until::Moment(end_ns) if now < end_ns => u64::MAX,
                Until::Moment(_) => 0,
            };
            let under_way = published - self.deliveries.completed();
            if left == 0 && under_way == 0 {
                return Ok(false);
            }
            let mut sleep = TURN_PATIENCE;
            let due = match pace {
                Pace::InFlight(count) => count.saturating_sub(under_way),
                Pace::Interval(interval_ns) => {
                    let due_ns = start_ns + (published - start_published) * interval_ns;
                    sleep = sleep.min(Duration::from_nanos(due_ns.saturating_sub(now).max(1)));
                    if now >= due_ns {
                        (now - due_ns) / interval_ns + 1
                    } else {
                        0
                    }
                }
            };
            for index in 0..due.min(left).min(self.sample_room()) {
                // At a fixed rate the clock runs from when a publication was due, not from when we
                // came to send it.
                let sent_ns = match pace {
                    Pace::InFlight(_) => now_ns(),
                    Pace::Interval(ns) => start_ns + (published - start_published + index) * ns,
                };
                if !self.publish(sent_ns) {
                    break;
                }
                if self.separate_writes {
                    self.turn(Duration::ZERO)?;
                }
                progress_ns = now;
            }
            self.turn(sleep)?;
            if self.deliveries.progress() != progress {
                (progress, progress_ns) = (self.deliveries.progress(), now);
            } else if now.saturating_sub(progress_ns) > self.patience_ns {
                return Ok(true);
            }
        }
    }

    /// Sends one publication unless none may be sent now.
    fn publish(&mut self, sent_ns: u64) -> bool {
        let deliveries = &mut self.deliveries;
        if !deliveries.may_publish() {
            return false;
        }
        self.wire
            .send_queue()
            .send_with(PUBLISHER, |out| deliveries.publish(sent_ns, out));
        true
    }

    fn sample_room(&self) -> u64 {
        let ahead = self
            .deliveries
            .completed()
            .saturating_sub(self.samples.reached());
        if ahead > SAMPLE_SLACK { 0 } else { u64::MAX }
    }

    fn turn(&mut self, sleep: Duration) -> Result<(), RunError> {
        let due = self.deliveries.due();
        let (deliveries, publisher_lost) = (&mut self.deliveries, &mut self.publisher_lost);
        let rest = match u32::try_from((due / DELIVERIES_PER_WAIT).min(WAIT_EVENTS_MAX)) {
            Ok(events @ 2..) => Rest {
                events,
                patience: sleep.min(WAIT_PATIENCE),
            },
            _ => Rest::until_event(sleep),
        };
        self.wire
            .turn(rest, |slot, event, send_queue| match event {
                Event::Received(bytes) if slot == PUBLISHER => {
                    deliveries.overheard(bytes, |pong| send_queue.send(PUBLISHER, pong));
                }
                Event::Closed(error) if slot == PUBLISHER => {
                    *publisher_lost = Some(error.map_or_else(
                        || "the server ended it".to_owned(),
                        |error| error.to_string(),
                    ));
                }
                Event::Received(bytes) => {
                    deliveries.received(slot - 1, bytes, now_ns(), |pong| {
                        send_queue.send(slot, pong)
                    });
                }
                Event::Closed(_) => deliveries.closed(slot - 1),
            })?;
        match &self.publisher_lost {
            Some(words) => Err(RunError::Failed(format!(
                "the publisher's connection is gone: {words}"
            ))),
            None if !self.deliveries.has_subscribers() => Err(RunError::Failed(format!(
                "all subscribers are gone{}",
                self.deliveries.first_fault_in_words()
            ))),
            None => Ok(()),
        }
    }

    /// Waits until the samples have everything that was published.
    fn await_samples(&mut self) -> Result<(), RunError> {
        let (mut reached, mut progress_ns) = (self.samples.reached(), now_ns());
        while reached < self.deliveries.published() && now_ns() - progress_ns < self.patience_ns {
            self.turn(TURN_PATIENCE)?;
            if self.samples.reached() != reached {
                (reached, progress_ns) = (self.samples.reached(), now_ns());
            }
        }
        Ok(())
    }
}

fn title(arguments: &FanoutArgs, dialect: Dialect) -> String {
    let pace = match (arguments.rate, arguments.in_flight) {
        (Some(rate), _) => format!("{rate} publications/s"),
        (None, in_flight) => format!("{} in flight", in_flight.unwrap_or(1)),
    };
    let filters = match arguments.filters {
        0 => String::new(),
        count => format!(", {count} filters"),
    };
    format!(
        "fan-out to {} subscribers, {} bytes, {pace}, {} dialect{filters}",
        arguments.subscribers,
        arguments.size,
        dialect.name()
    )
}

fn summarize(
    report: &mut Report,
    deliveries: &Deliveries,
    usage: &Usage,
    published: u64,
    sample_count: u64,
) {
    // The samples' deliveries cost the server as much as the others.
    let delivered = deliveries.figures.delivered + published * sample_count;
    report.count("publications", "publications", published);
    report.count("deliveries", "deliveries", delivered);
    report.row("seconds", "time", approximate(usage.wall_ns) / 1e9, "s");
    report.row(
        "publications_per_s",
        "publications per second",
        usage.per_second(published),
        "/s",
    );
    report.row(
        "deliveries_per_s",
        "deliveries per second",
        usage.per_second(delivered),
        "/s",
    );
    usage.report(report, "delivery", delivered);
    report.latencies(
        "delivery",
        "publish to receive",
        &deliveries.figures.delivery_ns,
    );
    report.latencies(
        "fanout",
        "publish to last receive",
        &deliveries.figures.fanout_ns,
    );
    let faults = &deliveries.faults;
    report.failure_count("lost_total", "lost", faults.lost);
    report.failure_count("out_of_order_total", "out of order", faults.out_of_order);
    report.failure_count("duplicates_total", "duplicates", faults.duplicated);
    report.failure_count("altered_total", "altered messages", faults.altered);
    report.failure_count(
        "broken_total",
        "connections with protocol faults",
        faults.broken,
    );
    report.failure_count(
        "disconnects_total",
        "subscribers disconnected",
        faults.disconnected,
    );
    if let Some(words) = &faults.first {
        report.note(format!("first fault: {words}"));
    }
}

fn report_samples(report: &mut Report, findings: &[Findings], published: u64) {
    let sum = |of: fn(&Findings) -> u64| findings.iter().map(of).sum::<u64>();
    report.count(
        "samples",
        "sample clients (async-tungstenite)",
        findings.len() as u64,
    );
    report.count(
        "samples_received",
        "messages checked by samples",
        sum(|sample| sample.received),
    );
    let never: u64 = findings
        .iter()
        .map(|sample| published.saturating_sub(sample.received - sample.duplicated))
        .sum();
    report.failure_count("samples_lost_total", "lost by samples", never);
    report.failure_count(
        "samples_out_of_order_total",
        "out of order at samples",
        sum(|sample| sample.out_of_order),
    );
    report.failure_count(
        "samples_duplicates_total",
        "duplicates at samples",
        sum(|sample| sample.duplicated),
    );
    report.failure_count(
        "samples_altered_total",
        "altered messages at samples",
        sum(|sample| sample.altered),
    );
    if let Some(words) = findings.iter().find_map(|sample| sample.complaint.as_ref()) {
        report.failure(format!("a sample client says: {words}"));
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds of a command line, saturating"
)]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9).max(1.0) as u64
}

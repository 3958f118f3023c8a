//! The live channel beside the recovery: a publisher at a fixed rate and its subscribers, on a thread
//! that comes before all others of this program.

use super::faults::Faults;
use crate::{
    clock::now_ns,
    connect::{Dialed, Dialer},
    dialect::{Dialect, find_stamp, shorten},
    fail::RunError,
    frames::{self, Reader},
    ledger::Ledger,
    realtime::become_realtime,
    report::{Report, approximate, latency_histogram},
};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

/// Time for the last deliveries, and for the kernel to take a publication.
const PATIENCE: Duration = Duration::from_secs(10);
/// The stages of a run, in their order.
pub(super) const WARM_UP: u8 = 0;
pub(super) const BEFORE: u8 = 1;
pub(super) const ANSWERING: u8 = 2;
pub(super) const SENDING: u8 = 3;
pub(super) const AFTER: u8 = 4;
pub(super) const OVER: u8 = 5;

/// The publisher and the bystanders.
#[derive(Debug)]
pub(super) struct Live {
    /// The publisher is the first.
    sessions: Vec<Session>,
    interval_ns: u64,
    bytes: usize,
    stage: u8,
    /// In which stage each publication was sent.
    stages: Vec<u8>,
    /// Of the stages from `BEFORE` to `SENDING`.
    figures: [Figures; 3],
    faults: Faults,
    is_realtime: bool,
}

#[derive(Debug)]
struct Session {
    stream: TcpStream,
    reader: Reader,
    ledger: Ledger,
    has_ended: bool,
}

/// What was noticed in one stage.
#[derive(Debug)]
struct Figures {
    /// From sending a publication to its receipt, of each delivery.
    latency_ns: Histogram<u64>,
    /// How late publications were sent, which is this program's own fault.
    own_delay_ns: Histogram<u64>,
    published: u64,
}

impl Live {
    /// Connects the publisher and the bystanders.
    ///
    /// # Errors
    /// A session could not be set up.
    pub(super) fn open(
        dialer: &mut Dialer,
        bystanders: u32,
        rate: u64,
        bytes: usize,
    ) -> Result<Self, RunError> {
        let mut live = Self {
            sessions: Vec::new(),
            interval_ns: 1_000_000_000 / rate,
            bytes,
            stage: WARM_UP,
            stages: Vec::new(),
            figures: [Figures::new(), Figures::new(), Figures::new()],
            faults: Faults::default(),
            is_realtime: false,
        };
        for number in 0..=bystanders {
            let Dialed {
                stream, leftover, ..
            } = dialer.open(number > 0)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            live.sessions.push(Session {
                stream,
                reader: Reader::default(),
                ledger: Ledger::default(),
                has_ended: false,
            });
            live.received(number as usize, &leftover);
        }
        Ok(live)
    }

    /// Publishes until the stage is [`OVER`], then waits for the last deliveries.
    pub(super) fn run(&mut self, stage: &AtomicU8) {
        self.is_realtime = become_realtime();
        let mut due_ns = now_ns();
        loop {
            // Relaxed: nothing else is read on its account.
            self.stage = stage.load(Ordering::Relaxed);
            if self.stage == OVER {
                break;
            }
            let now = now_ns();
            if now < due_ns {
                self.read(due_ns - now);
                continue;
            }
            let late_ns = now - due_ns;
            if let Some(figures) = self.figures_of(self.stage) {
                figures.own_delay_ns.saturating_record(late_ns);
                figures.published += 1;
            }
            // The time that this thread was late is not the server's.
            due_ns = now + self.interval_ns - late_ns % self.interval_ns;
            self.publish();
        }
        let end_ns = now_ns() + 1_000_000_000 * PATIENCE.as_secs();
        while self.missing() > 0 && now_ns() < end_ns {
            self.read(end_ns - now_ns());
        }
        self.faults.lost += self.missing();
    }

    fn missing(&self) -> u64 {
        let published = self.stages.len() as u64;
        let bystanders = self.sessions.iter().skip(1).filter(|it| !it.has_ended);
        bystanders.map(|it| published - it.ledger.next()).sum()
    }

    fn figures_of(&mut self, stage: u8) -> Option<&mut Figures> {
        match stage {
            BEFORE => Some(&mut self.figures[0]),
            ANSWERING => Some(&mut self.figures[1]),
            SENDING => Some(&mut self.figures[2]),
            _ => None,
        }
    }

    fn publish(&mut self) {
        let (mut text, mut frame) = (Vec::new(), Vec::new());
        let sequence = self.stages.len() as u64;
        Dialect::Gateway.publication(sequence, now_ns(), self.bytes, &mut text);
        frames::encode_client(frames::TEXT, &text, &mut frame);
        self.stages.push(self.stage);
        self.write(0, &frame);
    }

    fn write(&mut self, number: usize, bytes: &[u8]) {
        let session = &mut self.sessions[number];
        if session.has_ended {
            return;
        }
        if let Err(error) = session.stream.write_all(bytes) {
            self.end(number, &error.to_string());
        }
    }

    fn end(&mut self, number: usize, words: &str) {
        if !std::mem::replace(&mut self.sessions[number].has_ended, true) {
            self.faults.disconnected(words);
        }
    }

    /// Reads what comes within this time.
    fn read(&mut self, patience_ns: u64) {
        const NS: u64 = 1_000_000_000;
        let timeout = Timespec {
            tv_sec: i64::try_from(patience_ns / NS).unwrap_or(i64::MAX),
            tv_nsec: (patience_ns % NS).cast_signed(),
        };
        let mut sockets: Vec<_> = self.sessions.iter().map(Session::polled).collect();
        // An interrupted wait has found nothing, and the caller comes again.
        if poll(&mut sockets, Some(&timeout)).unwrap_or_default() == 0 {
            return;
        }
        let ready: Vec<_> = sockets.iter().map(|it| !it.revents().is_empty()).collect();
        for (number, _) in ready.into_iter().enumerate().filter(|(_, ready)| *ready) {
            let mut chunk = [0; 16 * 1024];
            let session = &mut self.sessions[number];
            if session.has_ended {
                continue;
            }
            match session.stream.read(&mut chunk) {
                Ok(0) => self.end(number, "the server closed the connection"),
                Ok(count) => self.received(number, &chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.end(number, &error.to_string()),
            }
        }
    }

    fn received(&mut self, number: usize, mut bytes: &[u8]) {
        let now = now_ns();
        let mut reader = std::mem::take(&mut self.sessions[number].reader);
        loop {
            match reader.next(&mut bytes) {
                Ok(Some(frame)) if frame.opcode == frames::PING => {
                    let mut pong = Vec::new();
                    frames::encode_client(frames::PONG, frame.payload, &mut pong);
                    self.write(number, &pong);
                }
                Ok(Some(frame)) if frame.opcode == frames::CLOSE => {
                    let words = shorten(frame.payload.get(2..).unwrap_or_default());
                    self.end(number, &format!("the server closed: {words}"));
                }
                Ok(Some(frame)) if frame.opcode == frames::TEXT => {
                    self.delivered(number, frame.payload, now);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(fault) => {
                    self.end(number, &fault.to_string());
                    break;
                }
            }
        }
        self.sessions[number].reader = reader;
    }

    fn delivered(&mut self, number: usize, message: &[u8], now: u64) {
        // Greetings and answers have no stamp.
        let Some((sequence, sent_ns)) = find_stamp(message) else {
            return;
        };
        let mut expected = Vec::new();
        Dialect::Gateway.delivery(sequence, sent_ns, self.bytes, &mut expected);
        let stage = usize::try_from(sequence).ok();
        let stage = stage.and_then(|at| self.stages.get(at)).copied();
        let Some(stage) = stage.filter(|_| message == expected) else {
            return self.faults.altered(shorten(message));
        };
        let ledger = &mut self.sessions[number].ledger;
        self.faults.arrived(ledger, sequence);
        if let Some(figures) = self.figures_of(stage) {
            let latency_ns = now.saturating_sub(sent_ns);
            figures.latency_ns.saturating_record(latency_ns);
        }
    }

    /// Adds what was noticed before and during the recovery.
    pub(super) fn report(&self, report: &mut Report) {
        let p99 = |figures: &Figures| approximate(figures.latency_ns.value_at_quantile(0.99));
        let [before, answering, sending] = &self.figures;
        let mut during = Figures::new();
        for part in [answering, sending] {
            during.add(part);
        }
        for (figures, when) in [
            (before, "before"),
            (&during, "during"),
            (answering, "answering"),
            (sending, "sending"),
        ] {
            report.count(
                format!("{when}_publications"),
                format!("live, {when}: publications"),
                figures.published,
            );
            report.latencies(
                &format!("{when}_delivery"),
                &format!("live, {when}: publish to receive"),
                &figures.latency_ns,
            );
            let own_delay = approximate(figures.own_delay_ns.value_at_quantile(0.99));
            report.row(
                format!("{when}_own_delay_p99_us"),
                format!("live, {when}: own delay p99"),
                own_delay / 1000.0,
                "µs",
            );
        }
        for (figures, when) in [
            (&during, "during"),
            (answering, "answering"),
            (sending, "sending"),
        ] {
            report.row(
                format!("{when}_p99_ratio"),
                format!("live: p99 {when} / before"),
                p99(figures) / p99(before).max(1.0),
                "",
            );
        }
        self.faults.report(report, "live");
        if !self.is_realtime {
            report.note(
                "the live channel runs without SCHED_FIFO (not permitted): its latencies contain \
                 waits for the generator's own threads",
            );
        }
        if during.published == 0 {
            report.note("the recovery was over before the next live publication");
        }
    }
}

impl Session {
    fn polled(&self) -> PollFd<'_> {
        let events = match self.has_ended {
            // A closed socket would be ready all the time.
            true => PollFlags::empty(),
            false => PollFlags::IN,
        };
        PollFd::new(&self.stream, events)
    }
}

impl Figures {
    fn new() -> Self {
        Self {
            latency_ns: latency_histogram(),
            own_delay_ns: latency_histogram(),
            published: 0,
        }
    }

    fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.latency_ns, &other.latency_ns),
            (&mut self.own_delay_ns, &other.own_delay_ns),
        ] {
            sum.add(part)
                .expect("all latency histograms have the same bounds");
        }
        self.published += other.published;
    }
}

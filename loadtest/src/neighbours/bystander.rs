//! The bystander: one connection with a request every 2 ms, on a thread that comes before all
//! others of this program.

use crate::{
    clock::now_ns,
    connect::{ConnectError, Dialer},
    dialect::{Dialect, shorten},
    fail::RunError,
    frames::{self, Reader},
    realtime::become_realtime,
    report::{Report, latency_histogram},
};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

/// Time between two requests: far apart for the server, close enough for percentiles.
const INTERVAL_NS: u64 = 2_000_000;
/// Time for the last answers, and for the kernel to take a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// The connection.
#[derive(Debug)]
pub(super) struct Bystander {
    stream: TcpStream,
    dialect: Dialect,
    request: Vec<u8>,
    reader: Reader,
    leftover: Vec<u8>,
    /// When each unanswered request was sent. Answers come in the order of the requests.
    unanswered: VecDeque<u64>,
    /// Why the connection is of no use any more.
    end: Option<String>,
}

/// What it noticed in one stretch of time.
#[derive(Debug)]
pub(super) struct Observation {
    latency_ns: Histogram<u64>,
    /// How late the requests were sent, which is this program's own fault.
    own_delay_ns: Histogram<u64>,
    sent: u64,
    lost: u64,
    end: Option<String>,
    /// Whether its thread had SCHED_FIFO.
    pub(super) is_realtime: bool,
}

impl Bystander {
    /// Connects, and shows the dialer's token.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn open(mut dialer: Dialer, dialect: Dialect) -> Result<Self, RunError> {
        let dialed = dialer.open(false)?;
        dialed
            .stream
            .set_write_timeout(Some(PATIENCE))
            .map_err(|error| ConnectError::Io("connect", error))?;
        let mut request = Vec::new();
        frames::encode_client(frames::TEXT, dialect.request().as_bytes(), &mut request);
        Ok(Self {
            stream: dialed.stream,
            dialect,
            request,
            reader: Reader::default(),
            leftover: dialed.leftover,
            unanswered: VecDeque::new(),
            end: None,
        })
    }

    /// Asks for so many seconds, then waits for the last answers.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(super) fn observe_on_thread(&mut self, seconds: u64) -> Result<Observation, RunError> {
        thread::scope(|scope| {
            let observer = thread::Builder::new()
                .name("bystander".to_owned())
                .spawn_scoped(scope, || self.observe(seconds))?;
            observer
                .join()
                .map_err(|_| RunError::Failed("the bystander's thread has failed".to_owned()))
        })
    }

    fn observe(&mut self, seconds: u64) -> Observation {
        let mut seen = Observation {
            latency_ns: latency_histogram(),
            own_delay_ns: latency_histogram(),
            sent: 0,
            lost: 0,
            end: None,
            is_realtime: become_realtime(),
        };
        let leftover = std::mem::take(&mut self.leftover);
        self.received(&leftover, &mut seen);
        let mut due_ns = now_ns();
        let end_ns = due_ns + seconds * 1_000_000_000;
        while self.end.is_none() && due_ns < end_ns {
            let now = now_ns();
            if now < due_ns {
                self.read(due_ns - now, &mut seen);
                continue;
            }
            seen.own_delay_ns.saturating_record(now - due_ns);
            // The time that this thread was late is not the server's.
            due_ns = now.max(due_ns) + INTERVAL_NS - (now - due_ns) % INTERVAL_NS;
            self.unanswered.push_back(now);
            seen.sent += 1;
            if let Err(error) = self.stream.write_all(&self.request) {
                self.end = Some(error.to_string());
            }
        }
        let patience_end_ns = now_ns() + 1_000_000_000 * PATIENCE.as_secs();
        while self.end.is_none() && !self.unanswered.is_empty() {
            let now = now_ns();
            if now >= patience_end_ns {
                self.end = Some(format!("no answer within {} s", PATIENCE.as_secs()));
            } else {
                self.read(patience_end_ns - now, &mut seen);
            }
        }
        seen.lost = self.unanswered.drain(..).len() as u64;
        seen.end.clone_from(&self.end);
        seen
    }

    /// Reads what comes within this time.
    fn read(&mut self, patience_ns: u64, seen: &mut Observation) {
        const NS: u64 = 1_000_000_000;
        let timeout = Timespec {
            tv_sec: i64::try_from(patience_ns / NS).unwrap_or(i64::MAX),
            tv_nsec: (patience_ns % NS).cast_signed(),
        };
        let mut sockets = [PollFd::new(&self.stream, PollFlags::IN)];
        match poll(&mut sockets, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return,
            Ok(_) => {}
            Err(error) => {
                self.end = Some(error.to_string());
                return;
            }
        }
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.end = Some("the server closed the connection".to_owned()),
            Ok(count) => self.received(&chunk[..count], seen),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => self.end = Some(error.to_string()),
        }
    }

    fn received(&mut self, mut bytes: &[u8], seen: &mut Observation) {
        let now = now_ns();
        loop {
            match self.reader.next(&mut bytes) {
                Ok(Some(frame)) if frame.opcode == frames::PING => {
                    let mut pong = Vec::new();
                    frames::encode_client(frames::PONG, frame.payload, &mut pong);
                    if let Err(error) = self.stream.write_all(&pong) {
                        self.end = Some(error.to_string());
                    }
                }
                Ok(Some(frame)) if frame.opcode == frames::CLOSE => {
                    let reason = frame.payload.get(2..).unwrap_or_default();
                    self.end = Some(format!("the server closed: {}", shorten(reason)));
                }
                Ok(Some(frame)) if self.dialect.answers_request(frame.payload) => {
                    match self.unanswered.pop_front() {
                        Some(sent_ns) => seen.latency_ns.saturating_record(now - sent_ns),
                        None => self.end = Some("an answer without a request".to_owned()),
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(fault) => {
                    self.end = Some(fault.to_string());
                    return;
                }
            }
        }
    }
}

impl Observation {
    /// Adds what it noticed; `when` begins the keys.
    pub(super) fn report(&self, report: &mut Report, when: &str) {
        report.count(
            format!("{when}_requests"),
            format!("{when}: requests"),
            self.sent,
        );
        report.latencies(
            &format!("{when}_round_trip"),
            &format!("{when}: round trip"),
            &self.latency_ns,
        );
        for (suffix, value) in [
            ("p99", self.own_delay_p99_ns()),
            ("max", self.own_delay_ns.max()),
        ] {
            report.row(
                format!("{when}_own_delay_{suffix}_us"),
                format!("{when}: own delay {suffix}"),
                crate::report::approximate(value) / 1000.0,
                "µs",
            );
        }
        report.failure_count(
            &format!("{when}_lost_total"),
            &format!("{when}: requests without answer"),
            self.lost,
        );
        if let Some(words) = &self.end {
            report.failure(format!("{when}: bystander disconnected: {words}"));
        }
        let disconnects = u64::from(self.end.is_some());
        report.count(
            format!("{when}_disconnects_total"),
            format!("{when}: bystander disconnected"),
            disconnects,
        );
    }

    /// How late 1 % of the requests were sent at least.
    pub(super) fn own_delay_p99_ns(&self) -> u64 {
        self.own_delay_ns.value_at_quantile(0.99)
    }
}

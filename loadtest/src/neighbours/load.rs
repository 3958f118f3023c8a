//! The loads: sessions that do one thing as fast as the server lets them.

use super::{leavers, readers};
use crate::{
    cli::NeighboursArgs, connect::Dialer, dialect::Dialect, fail::RunError, frames, report::Report,
};
use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, Scope},
    time::Duration,
};

/// Length of a publication that nobody receives, bytes.
const PUBLICATION_BYTES: usize = 100;
/// Payload of a ping, bytes.
const PING_BYTES: usize = 8;
/// Bytes given to the kernel at once.
const BATCH_BYTES: usize = 16 * 1024;
/// How soon a thread that waits notices the end.
const NOTICE: Duration = Duration::from_millis(100);
/// Time until a session that the server rejects tries again.
const RETRY: Duration = Duration::from_millis(10);

/// What happens beside the bystander.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// So many sessions write frames at full speed and read what comes.
    Flood(u32, Kind),
    /// So many sessions with so many subscriptions vanish at once, again and again.
    Leavers { sessions: u32, channels: u32 },
    /// So many sessions are cut at once and come back, again and again.
    Reconnecting(u32),
    /// Large publications to readers that keep up.
    Large,
    /// So many sessions subscribe and ask, and never read.
    NeverRead(u32),
}

/// What a flood consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Publications,
    Pings,
    Unauthenticated,
}

/// What the load has done.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) is_over: AtomicBool,
    /// Bytes of frames that sockets took.
    pub(super) bytes: AtomicU64,
    /// Sessions that left or came back, or publications that every reader has.
    pub(super) done: AtomicU64,
    /// Sessions that the server ended.
    pub(super) ended: AtomicU64,
    /// Publications that a reader did not get.
    pub(super) lost: AtomicU64,
}

impl Tally {
    pub(super) fn is_over(&self) -> bool {
        // Relaxed: nothing else is read on its account.
        self.is_over.load(Ordering::Relaxed)
    }
}

impl Load {
    /// The load that was asked for.
    ///
    /// # Errors
    /// It does not exist in this dialect.
    pub(super) fn of(arguments: &NeighboursArgs, dialect: Dialect) -> Result<Self, RunError> {
        let &NeighboursArgs {
            publishers,
            pings,
            unauthenticated,
            leavers,
            channels,
            reconnecting,
            never_read,
            ..
        } = arguments;
        if channels > 1 && (leavers.is_none() || dialect == Dialect::Verbatim) {
            let words = "--channels above 1 needs --leavers and the gateway dialect".to_owned();
            return Err(RunError::Usage(words));
        }
        let loads = [
            publishers.map(|sessions| Self::Flood(sessions, Kind::Publications)),
            pings.map(|sessions| Self::Flood(sessions, Kind::Pings)),
            unauthenticated.map(|sessions| Self::Flood(sessions, Kind::Unauthenticated)),
            leavers.map(|sessions| Self::Leavers { sessions, channels }),
            reconnecting.map(Self::Reconnecting),
            never_read.map(Self::NeverRead),
        ];
        Ok(loads.into_iter().flatten().next().unwrap_or(Self::Large))
    }

    /// For the title.
    pub(super) fn words(self) -> String {
        match self {
            Self::Flood(count, Kind::Publications) => {
                format!("{count} publishers of {PUBLICATION_BYTES} bytes at full speed")
            }
            Self::Flood(count, Kind::Pings) => format!("{count} sessions that flood pings"),
            Self::Flood(count, Kind::Unauthenticated) => {
                format!("{count} sessions without a token that flood messages")
            }
            Self::Leavers { sessions, channels } => {
                format!("{sessions} sessions with {channels} channels each that vanish at once")
            }
            Self::Reconnecting(count) => {
                format!("{count} sessions that are cut at once and come back")
            }
            Self::Large => format!(
                "publications of {} bytes to {} readers",
                readers::PUBLICATION_BYTES,
                readers::READERS
            ),
            Self::NeverRead(count) => format!("{count} sessions that never read"),
        }
    }

    /// What is counted.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Flood(..) => "frames taken",
            Self::Leavers { .. } => "sessions that left",
            Self::Reconnecting(_) => "sessions that came back",
            Self::Large => "publications read by all",
            Self::NeverRead(_) => "bytes taken",
        }
    }

    /// How much was done up to now.
    pub(super) fn done(self, dialect: Dialect, tally: &Tally) -> u64 {
        let bytes = tally.bytes.load(Ordering::Relaxed);
        match self {
            Self::Flood(_, kind) => bytes / (kind.frame(dialect).len() as u64).max(1),
            Self::NeverRead(_) => bytes,
            Self::Leavers { .. } | Self::Reconnecting(_) | Self::Large => {
                tally.done.load(Ordering::Relaxed)
            }
        }
    }

    /// Starts the threads of the load; they end when the tally says that it is over.
    ///
    /// # Errors
    /// A session could not be set up.
    pub(super) fn start<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        dialer: &Dialer,
        dialect: Dialect,
        tally: &'scope Tally,
    ) -> Result<(), RunError> {
        match self {
            Self::Flood(sessions, kind) => {
                let dialer = match kind {
                    Kind::Unauthenticated => dialer.clone().without_token(),
                    _ => dialer.clone(),
                };
                let frame = kind.frame(dialect);
                let batch = frame.repeat(BATCH_BYTES.div_ceil(frame.len()));
                for mut flooder in Flooder::open_all(sessions, &dialer, &batch, false)? {
                    scope.spawn(move || flooder.run(tally, true));
                }
            }
            Self::NeverRead(sessions) => {
                let mut frame = Vec::new();
                frames::encode_client(frames::TEXT, dialect.request().as_bytes(), &mut frame);
                let batch = frame.repeat(BATCH_BYTES.div_ceil(frame.len()));
                let flooders = Flooder::open_all(sessions, dialer, &batch, true)?;
                readers::publish_on_and_on(scope, dialer.clone(), dialect, tally)?;
                for mut flooder in flooders {
                    scope.spawn(move || flooder.run(tally, false));
                }
            }
            Self::Leavers { sessions, channels } => {
                leavers::start(scope, dialer.clone(), dialect, (sessions, channels), tally)?;
            }
            Self::Reconnecting(sessions) => {
                leavers::reconnect(scope, dialer.clone(), sessions, tally)?;
            }
            Self::Large => readers::start(scope, dialer, dialect, tally)?,
        }
        Ok(())
    }

    /// Adds what must not happen under this load.
    pub(super) fn report_failures(self, tally: &Tally, report: &mut Report) {
        if self == Self::Large {
            report.failure_count(
                "readers_closed_total",
                "readers closed although they read",
                tally.ended.load(Ordering::Relaxed),
            );
            report.failure_count(
                "readers_lost_total",
                "publications that a reader did not get",
                tally.lost.load(Ordering::Relaxed),
            );
        }
    }
}

impl Kind {
    fn frame(self, dialect: Dialect) -> Vec<u8> {
        let mut frame = Vec::new();
        match self {
            Self::Publications => {
                let text = dialect.unheard_publication(PUBLICATION_BYTES);
                frames::encode_client(frames::TEXT, text.as_bytes(), &mut frame);
            }
            Self::Pings => frames::encode_client(frames::PING, &[b'p'; PING_BYTES], &mut frame),
            Self::Unauthenticated => {
                let text = dialect.request();
                frames::encode_client(frames::TEXT, text.as_bytes(), &mut frame);
            }
        }
        frame
    }
}

/// A session that writes the same bytes again and again.
#[derive(Debug)]
struct Flooder {
    dialer: Dialer,
    batch: Vec<u8>,
    subscribes: bool,
    stream: TcpStream,
}

impl Flooder {
    /// All sessions of a load, before any of them begins.
    fn open_all(
        sessions: u32,
        dialer: &Dialer,
        batch: &[u8],
        subscribes: bool,
    ) -> Result<Vec<Self>, RunError> {
        (0..sessions)
            .map(|_| Self::open(dialer.clone(), batch.to_vec(), subscribes))
            .collect()
    }

    fn open(mut dialer: Dialer, batch: Vec<u8>, subscribes: bool) -> Result<Self, RunError> {
        let stream = dialer.open(subscribes)?.stream;
        stream.set_write_timeout(Some(NOTICE))?;
        Ok(Self {
            dialer,
            batch,
            subscribes,
            stream,
        })
    }

    /// Floods until the load is over, in a new session when the server ends one.
    fn run(&mut self, tally: &Tally, reads: bool) {
        loop {
            self.flood(tally, reads);
            if tally.is_over() {
                return;
            }
            tally.ended.fetch_add(1, Ordering::Relaxed);
            while !tally.is_over() {
                thread::sleep(RETRY);
                let next = Self::open(self.dialer.clone(), Vec::new(), self.subscribes);
                if let Ok(next) = next {
                    self.stream = next.stream;
                    break;
                }
            }
        }
    }

    /// Floods until the load is over or the server ends the session.
    fn flood(&self, tally: &Tally, reads: bool) {
        thread::scope(|scope| {
            if reads {
                scope.spawn(|| discard(&self.stream));
            }
            let mut written = 0;
            while !tally.is_over() {
                match (&self.stream).write(&self.batch[written..]) {
                    Ok(count) => {
                        written = (written + count) % self.batch.len();
                        tally.bytes.fetch_add(count as u64, Ordering::Relaxed);
                    }
                    Err(error) if is_timeout(&error) => {}
                    Err(_) => break,
                }
            }
            // Ends the reader too. The peer may have ended the connection before.
            let _ = self.stream.shutdown(Shutdown::Both);
        });
    }
}

/// Reads until the connection ends.
fn discard(mut stream: &TcpStream) {
    let mut chunk = vec![0; BATCH_BYTES];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {}
            Err(_) => return,
        }
    }
}

/// Whether a read or write may be tried again.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

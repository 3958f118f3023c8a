//! The thread that reads the rings of all sources.

use super::IngestParts;
use super::source::{Progress, Source};
use crate::base::limits::{
    INGEST_ACCEPTS_PER_LOOK, INGEST_END_MS, INGEST_LOG_LINES_PER_SECOND, INGEST_TICK_MS,
};
use crate::base::{Now, SourceRejection};
use fanwire_ring::shared::{RingListener, WAIT_ANY_MAX, wait_any};
use rustix::event::{PollFd, PollFlags, poll};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Pause after an error of the system, such as too many open files, which would otherwise come again at
/// once.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct IngestLoop {
    listener: RingListener,
    wakes: UnixStream,
    is_stopped: Arc<AtomicBool>,
    parts: IngestParts,
    sources: Vec<Source>,
    /// When it was last looked who comes and goes, monotonic milliseconds.
    looked_ms: u64,
    /// Programs of which was logged that they came in this second.
    logged: (u64, u32),
}

impl IngestLoop {
    pub(super) fn new(
        listener: RingListener,
        wakes: UnixStream,
        is_stopped: Arc<AtomicBool>,
        parts: IngestParts,
    ) -> Self {
        assert!(
            parts.limits.sources_max <= WAIT_ANY_MAX,
            "the setting is limited to what can be waited for"
        );
        Self {
            listener,
            wakes,
            is_stopped,
            parts,
            sources: Vec::new(),
            looked_ms: 0,
            logged: (0, 0),
        }
    }

    pub(super) fn run(mut self) {
        // Relaxed: nothing else belongs to it.
        while !self.is_stopped.load(Ordering::Relaxed) {
            let now = self.parts.clock.now();
            if self.sources.is_empty() || now.monotonic_ms >= self.looked_ms + INGEST_TICK_MS {
                self.looked_ms = now.monotonic_ms;
                self.accept(now);
                self.look(now);
            }
            if !self.read() {
                self.wait();
            }
        }
        self.end();
    }

    /// Accepts some of the programs that have connected.
    fn accept(&mut self, now: Now) {
        for _ in 0..INGEST_ACCEPTS_PER_LOOK {
            let peer = match self.listener.accept() {
                Ok(peer) => peer,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.reject(SourceRejection::System, &error);
                    // Where there are sources, they are read before the next look.
                    if self.sources.is_empty() {
                        std::thread::sleep(ERROR_PAUSE);
                    }
                    return;
                }
            };
            if self.sources.len() >= self.parts.limits.sources_max {
                self.reject(
                    SourceRejection::Full,
                    &"as many programs are connected as ingest.sources_max allows",
                );
                continue;
            }
            let is_logged = self.may_log(now);
            let counters = &self.parts.process_state.ingest;
            match Source::new(peer, self.parts.limits.ring_bytes, counters, is_logged) {
                Ok(source) => self.sources.push(source),
                Err(error) => self.reject(SourceRejection::System, &error),
            }
        }
    }

    /// Whether there is room in the log for one more program.
    fn may_log(&mut self, now: Now) -> bool {
        let second = now.monotonic_ms / 1_000;
        if self.logged.0 != second {
            self.logged = (second, 0);
        }
        self.logged.1 += 1;
        self.logged.1 <= INGEST_LOG_LINES_PER_SECOND
    }

    fn reject(&self, reason: SourceRejection, error: &dyn std::fmt::Display) {
        let counters = &self.parts.process_state.ingest;
        // One line for each reason: whoever connects without end must not fill the log.
        if counters.rejected(reason) == 0 {
            tracing::warn!(%error, "a program that publishes through shared memory was rejected");
        }
        counters.reject(reason);
    }

    /// Takes back what dead programs had, and removes those that are gone.
    fn look(&mut self, now: Now) {
        self.sources.retain_mut(|source| source.look(now));
    }

    /// Gives each source its turn. Whether there was anything to read.
    fn read(&mut self) -> bool {
        // Relaxed: as in `run`. What waits then is read at the end.
        let may_wait = || !self.is_stopped.load(Ordering::Relaxed);
        let mut has_read = false;
        self.sources
            .retain_mut(|source| match source.read(&self.parts, &may_wait) {
                Progress::Read => {
                    has_read = true;
                    true
                }
                Progress::Nothing => true,
                Progress::Damaged => false,
            });
        has_read
    }

    fn wait(&self) {
        if !self.sources.is_empty() {
            let readers: Vec<_> = self.sources.iter().map(Source::reader).collect();
            wait_any(&readers, Duration::from_millis(INGEST_TICK_MS));
            return;
        }
        let mut waits = [
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::new(&self.wakes, PollFlags::IN),
        ];
        // A signal ends it early, as does anything else that may be wrong: it is looked again.
        if poll(&mut waits, None).is_err() {
            std::thread::sleep(ERROR_PAUSE);
        }
    }

    /// Reads what was written before now.
    fn end(mut self) {
        // Nobody connects any more.
        drop(self.listener);
        let clock = self.parts.clock;
        let until_ms = clock.now().monotonic_ms + INGEST_END_MS;
        let may_wait = || clock.now().monotonic_ms < until_ms;
        for source in &mut self.sources {
            source.end();
        }
        while !self.sources.is_empty() {
            let now = self.parts.clock.now();
            let is_over = now.monotonic_ms >= until_ms;
            let mut has_read = false;
            self.sources.retain_mut(|source| {
                let progress = source.read(&self.parts, &may_wait);
                has_read |= progress == Progress::Read;
                progress != Progress::Damaged
                    && !source.has_read_all()
                    && !is_over
                    && source.look(now)
            });
            if !has_read && !self.sources.is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

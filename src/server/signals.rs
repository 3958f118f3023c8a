//! The signals of the process, before, during and after the start of a server.

use super::handle::Server;
use super::run::StopOutcome;
use super::tls;
use crate::observe::log;
use crossbeam_channel::{Receiver, Sender, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a start may take to reach [`SignalWatch::run`] after SIGTERM or SIGINT; then the signal
/// ends the process. It is looked at every step.
const START_STEPS: u32 = 100;
const STEP: Duration = Duration::from_millis(10);

/// Watches the signals that stop the server, from [`SignalWatch::begin`] on.
///
/// ```no_run
/// use fanwire::{Server, SignalWatch};
///
/// let signals = SignalWatch::begin()?;
/// let server = Server::builder().dev().start()?;
/// let outcome = signals.run(&server);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SignalWatch {
    signals: Receiver<i32>,
    is_awaited: Arc<AtomicBool>,
}

impl SignalWatch {
    /// Handles SIGTERM, SIGINT, SIGHUP and SIGUSR1 from now on, until the process ends. SIGHUP and
    /// SIGUSR1 reopen the log files. SIGTERM and SIGINT are for [`SignalWatch::run`]; if it is not called within a
    /// second after one of them, or a second one arrives meanwhile, they end the process as they
    /// would without this watch.
    ///
    /// Call it before the server starts: without it, a signal during the start kills the process,
    /// with the connections that it may have accepted already.
    ///
    /// # Errors
    /// When signals cannot be watched.
    ///
    /// ```no_run
    /// let signals = fanwire::SignalWatch::begin()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn begin() -> io::Result<Self> {
        let (signal_sender, signals) = unbounded();
        let is_awaited = Arc::new(AtomicBool::new(false));
        let watched = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
        let is_awaited_there = Arc::clone(&is_awaited);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || watch(watched, &signal_sender, &is_awaited_there))?;
        Ok(Self {
            signals,
            is_awaited,
        })
    }

    /// Waits for SIGTERM or SIGINT, also for one that has arrived already, then drains as the
    /// settings specify; a second signal ends the drain at once.
    ///
    /// ```no_run
    /// let signals = fanwire::SignalWatch::begin()?;
    /// let server = fanwire::Server::builder().dev().start()?;
    /// let outcome = signals.run(&server);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn run(self, server: &Server) -> StopOutcome {
        // Relaxed: the signals themselves arrive through the channel.
        self.is_awaited.store(true, Ordering::Relaxed);
        server.run_until(&self.signals)
    }
}

fn watch(mut watched: Signals, signals: &Sender<i32>, is_awaited: &AtomicBool) {
    loop {
        let arrived: Vec<_> = watched.wait().collect();
        for signal in arrived {
            if reopens_logs(signal) {
                log::reopen();
                tls::read_again();
                continue;
            }
            let is_received = signals.send(signal).is_ok();
            if !is_received || !becomes_awaited(&mut watched, is_awaited) {
                // Fails only for numbers that are no signals.
                let _ = emulate_default_handler(signal);
            }
        }
    }
}

/// Programs that rotate log files send one or the other.
fn reopens_logs(signal: i32) -> bool {
    signal == SIGHUP || signal == SIGUSR1
}

/// Waits until somebody awaits signals; false when the wait is too long or another signal ends it.
fn becomes_awaited(watched: &mut Signals, is_awaited: &AtomicBool) -> bool {
    for _ in 0..START_STEPS {
        if is_awaited.load(Ordering::Relaxed) {
            return true;
        }
        std::thread::sleep(STEP);
        for signal in watched.pending() {
            if !reopens_logs(signal) {
                return false;
            }
            log::reopen();
        }
    }
    false
}

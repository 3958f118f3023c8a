//! Waits for a signal, then for the shards to drain.

use super::boot::Running;
use super::shard_thread::Report;
use crossbeam_channel::{after, never, select, unbounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::time::Duration;

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// All sessions were closed.
    Drained,
    /// The time for draining was over with sessions left.
    TimedOut,
    /// A second signal came.
    Forced,
    /// A shard failed.
    Failed(String),
}

/// Runs until SIGTERM or SIGINT, then drains for at most `drain_timeout`.
///
/// # Errors
/// What the kernel says when signals cannot be watched.
pub fn run_until_signal(running: &Running, drain_timeout: Duration) -> io::Result<Ended> {
    let (signal_sender, signals) = unbounded();
    let mut watched = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in watched.forever() {
                if signal_sender.send(signal).is_err() {
                    return;
                }
            }
        })?;
    let mut deadline = never();
    let mut left = running.cores.len();
    let mut is_draining = false;
    loop {
        select! {
            recv(signals) -> signal => {
                if is_draining {
                    return Ok(Ended::Forced);
                }
                let signal = signal.unwrap_or_default();
                tracing::info!(signal, ?drain_timeout, "draining");
                is_draining = true;
                deadline = after(drain_timeout);
                running.drain();
            }
            recv(running.reports()) -> report => match report {
                Ok(Report::Stopped) => {
                    left -= 1;
                    if left == 0 {
                        return Ok(Ended::Drained);
                    }
                }
                report => return Ok(Ended::Failed(format!("{report:?}"))),
            },
            recv(deadline) -> _ => return Ok(Ended::TimedOut),
        }
    }
}

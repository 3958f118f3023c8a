//! Waits for a signal, then for the shards to drain.

use super::boot::Running;
use super::shard_thread::Report;
use crate::config::Settings;
use crossbeam_channel::{after, never, select, unbounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

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

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Sessions may end by themselves.
    Waiting,
    /// They have been closed.
    Closing,
}

/// Runs until SIGTERM or SIGINT. Then no connection is accepted, sessions have the settings'
/// `drain_wait` to end by themselves, and those left are closed and have `drain_timeout` to answer.
///
/// # Errors
/// What the kernel says when signals cannot be watched.
pub fn run_until_signal(running: &Running, settings: &Settings) -> io::Result<Ended> {
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
    let mut stage = Stage::Serving;
    loop {
        select! {
            recv(signals) -> signal => {
                if stage != Stage::Serving {
                    return Ok(Ended::Forced);
                }
                let signal = signal.unwrap_or_default();
                let Settings { drain_wait, drain_timeout, .. } = settings;
                tracing::info!(signal, ?drain_wait, ?drain_timeout, "draining");
                stage = Stage::Waiting;
                deadline = after(*drain_wait);
                running.stop_accepting();
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
            recv(deadline) -> _ => {
                if stage == Stage::Closing {
                    return Ok(Ended::TimedOut);
                }
                stage = Stage::Closing;
                deadline = after(settings.drain_timeout);
                running.drain();
            }
        }
    }
}

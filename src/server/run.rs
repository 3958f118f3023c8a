//! Waits for a signal, then drains the shards.

use super::boot::Running;
use super::shard_thread::Report;
use crate::config::ProcessSettings;
use crossbeam_channel::{Receiver, RecvError, after, select, tick};
use std::time::Duration;

/// How often sessions are closed during the grace period.
const PACE: Duration = Duration::from_millis(100);

/// How a server ended.
///
/// ```no_run
/// let server = fanwire::Server::builder().dev().start()?;
/// assert_eq!(fanwire::block_on(server.stop()), fanwire::StopOutcome::Drained);
/// # Ok::<(), fanwire::StartError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopOutcome {
    /// All sessions were closed.
    Drained,
    /// The drain timed out with sessions left.
    TimedOut,
    /// A second signal arrived.
    Forced,
    /// A shard failed, or the thread of Redis.
    Failed(String),
}

/// Runs until one of `signals` arrives, then drains; a second one ends the drain at once. Drains without
/// a grace period when the program stops the server.
#[must_use]
pub(super) fn run_until_signal(
    running: &Running,
    settings: &ProcessSettings,
    signals: &Receiver<i32>,
) -> StopOutcome {
    let grace = select! {
        recv(signals) -> signal => {
            let signal = signal.unwrap_or_default();
            tracing::info!(target: "fanwire::server", signal, "a signal ends the server");
            settings.drain_grace_period
        }
        recv(running.stops.1) -> _ => Duration::ZERO,
        recv(running.reports()) -> report => return StopOutcome::Failed(describe(report)),
    };
    drain(running, grace, settings.drain_close_timeout, signals)
}

/// Drains the server: accepts no new sessions, announces the shutdown to the others, and waits up
/// to `wait` for them to end. During this grace period it closes sessions evenly, so that their
/// clients do not all reconnect elsewhere at once. Then it closes all sessions, which have
/// `timeout` to answer the close frame. A message in `force` ends the drain at once.
pub(super) fn drain(
    running: &Running,
    wait: Duration,
    timeout: Duration,
    force: &Receiver<i32>,
) -> StopOutcome {
    let sessions = running.context().process_state.sessions_total();
    tracing::info!(
        target: "fanwire::server",
        sessions,
        drain_grace_period = ?wait,
        drain_close_timeout = ?timeout,
        "draining"
    );
    if let Some(ended) = wait_for_sessions(running, wait, force) {
        return ended;
    }
    running.drain();
    let deadline = after(timeout);
    let mut left = running.cores.len();
    loop {
        select! {
            recv(force) -> _ => return StopOutcome::Forced,
            recv(running.reports()) -> report => match report {
                Ok(Report::Stopped) => {
                    left -= 1;
                    if left == 0 {
                        return StopOutcome::Drained;
                    }
                }
                report => return StopOutcome::Failed(describe(report)),
            },
            recv(deadline) -> _ => return StopOutcome::TimedOut,
        }
    }
}

fn wait_for_sessions(
    running: &Running,
    wait: Duration,
    force: &Receiver<i32>,
) -> Option<StopOutcome> {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    running.announce_shutdown(wait_ms);
    let context = running.context();
    let began_ms = context.clock.now().monotonic_ms;
    let first = context.process_state.sessions_total();
    let ticks = tick(PACE);
    loop {
        let sessions = context.process_state.sessions_total();
        let elapsed_ms = context.clock.now().monotonic_ms - began_ms;
        if sessions == 0 || elapsed_ms >= wait_ms {
            return None;
        }
        // The share of sessions that may be left equals the share of the time that is left.
        let left = u128::from(first) * u128::from(wait_ms - elapsed_ms);
        let left = left.div_ceil(u128::from(wait_ms));
        let excess = u128::from(sessions).saturating_sub(left);
        if let Ok(excess @ 1..) = usize::try_from(excess) {
            running.close_some(excess);
        }
        select! {
            recv(force) -> _ => return Some(StopOutcome::Forced),
            recv(running.reports()) -> report => {
                return Some(StopOutcome::Failed(describe(report)));
            }
            recv(ticks) -> _ => {}
        }
    }
}

/// The failure that a shard reported, as text.
pub(super) fn describe(report: Result<Report, RecvError>) -> String {
    match report {
        Ok(report) => report.to_string(),
        Err(_) => "all shards ended without a report".to_owned(),
    }
}

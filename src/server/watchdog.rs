//! Watches whether the shards get on, and clears the history of what is too old, on a thread of its
//! own.

use crate::base::ProcessState;
use crate::base::now::Clock;
use crate::net::Peers;
use crate::net::wire::ReuseportGroup;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks.
const TICK: Duration = Duration::from_millis(50);
/// Looks between two wake-ups of all shards: nobody would notice that one which sleeps has lost its
/// core. A wake-up costs some microseconds a second.
const TICKS_PER_WAKE_UP: u32 = 20;

/// The running watchdog; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    _stop: Sender<()>,
}

/// What it watches, and what it steers.
#[derive(Debug)]
pub(super) struct WatchdogParts {
    pub(super) shard_count: u16,
    /// The listeners, by address.
    pub(super) groups: Vec<ReuseportGroup>,
    pub(super) process_state: Arc<ProcessState>,
    pub(super) peers: Peers,
    pub(super) clock: Clock,
}

impl Watchdog {
    /// Starts the thread.
    pub(super) fn start(parts: WatchdogParts) -> io::Result<Self> {
        let (stop, stopped) = bounded(0);
        std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || run(&parts, &stopped))?;
        Ok(Self { _stop: stop })
    }
}

fn run(parts: &WatchdogParts, stopped: &Receiver<()>) {
    let mut known: Vec<u16> = Vec::new();
    let mut is_steered = false;
    let mut ticks = 0_u32;
    while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        let now = parts.clock.now();
        let now_ms = now.monotonic_ms;
        ticks = ticks.wrapping_add(1);
        if ticks.is_multiple_of(TICKS_PER_WAKE_UP) {
            for shard in 0..u32::from(parts.shard_count) {
                parts.peers.wake(shard, now);
            }
        }
        parts.process_state.history.sweep(ticks as usize, now_ms);
        let heartbeats = &parts.process_state.heartbeats;
        let stalled: Vec<_> = heartbeats.stalled(now_ms).collect();
        if stalled == known {
            continue;
        }
        for shard in stalled.iter().filter(|shard| !known.contains(shard)) {
            let busy_ms = heartbeats.stalled_ms(*shard, now_ms);
            tracing::warn!(
                shard,
                ?busy_ms,
                "a shard is stalled: is a handler blocking?"
            );
        }
        for shard in known.iter().filter(|shard| !stalled.contains(shard)) {
            tracing::info!(shard, "the shard is no longer stalled");
        }
        is_steered = steer(parts, &stalled, is_steered);
        known = stalled;
    }
}

/// Directs new connections to the shards that are not stalled, if there are any and not all are
/// healthy; whether they are directed now.
fn steer(parts: &WatchdogParts, stalled: &[u16], is_steered: bool) -> bool {
    let healthy = (0..parts.shard_count).filter(|shard| !stalled.contains(shard));
    let healthy: Vec<_> = healthy.collect();
    let steers = !healthy.is_empty() && !stalled.is_empty();
    for group in &parts.groups {
        let steered = match (steers, is_steered) {
            (true, _) => group.steer_to(&healthy),
            (false, true) => group.steer_to_all(),
            (false, false) => Ok(()),
        };
        if let Err(error) = steered {
            tracing::warn!(%error, "cannot direct new connections to other shards");
        }
    }
    steers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Waker;

    #[test]
    fn a_shard_that_sleeps_and_does_not_wake_up_is_found() {
        let wakers = [Waker::new().unwrap(), Waker::new().unwrap()];
        let process_state = Arc::new(ProcessState::new(wakers.len(), u64::MAX));
        let peers = Peers::new(&wakers, Arc::clone(&process_state));
        let clock = Clock::start();
        let watchdog = Watchdog::start(WatchdogParts {
            shard_count: 2,
            groups: Vec::new(),
            process_state: Arc::clone(&process_state),
            peers: peers.clone(),
            clock,
        });
        let heartbeats = &process_state.heartbeats;
        let mut found = Vec::new();
        let seconds_max = 20;
        while found.is_empty() && clock.now().monotonic_ms < seconds_max * 1_000 {
            std::thread::sleep(TICK / 5);
            // Shard 0 handles each wake-up and sleeps again; shard 1 has lost its core.
            peers.sleep(0);
            found = heartbeats.stalled(clock.now().monotonic_ms).collect();
        }
        assert_eq!(found, [1]);
        drop(watchdog.unwrap());
    }
}

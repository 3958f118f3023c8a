//! Watches whether the shards get on, retires what a shard claimed in the ring and does not write, and
//! clears the history of what is too old, on a thread of its own.

use crate::base::Now;
use crate::base::ProcessState;
use crate::base::now::Clock;
use crate::net::Peers;
use crate::net::wire::ReuseportGroup;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use fanwire_ring::{Retirer, Ring};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks. The ring's retirer makes of it that a claim is retired when it is 100 ms
/// old, and that readers are not held for longer than 150 ms.
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
    pub(super) ring: Ring,
    pub(super) clock: Clock,
}

impl Watchdog {
    /// Starts the thread.
    pub(super) fn start(parts: WatchdogParts) -> io::Result<Self> {
        let mut retirer = parts.ring.retirer().map_err(io::Error::other)?;
        let (stop, stopped) = bounded(0);
        std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || run(&parts, &mut retirer, &stopped))?;
        Ok(Self { _stop: stop })
    }
}

fn run(parts: &WatchdogParts, retirer: &mut Retirer, stopped: &Receiver<()>) {
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
        retire(parts, retirer, now);
        parts.process_state.history.sweep(ticks as usize, now_ms);
        parts.process_state.offline.sweep(ticks as usize, now_ms);
        parts.process_state.persistent.sweep(ticks as usize, now_ms);
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

/// Lets the shards go on behind records of the ring that were begun and not finished in time.
fn retire(parts: &WatchdogParts, retirer: &mut Retirer, now: Now) {
    let ring = &parts.ring;
    let rejected_before = ring.retirements_rejected_total();
    if retirer.look() {
        let held_bytes = ring.held_bytes();
        tracing::warn!(
            held_bytes,
            "a record of the ring was not finished for 100 ms and is retired: has a shard lost its core?"
        );
        let wake = |shard| parts.peers.wake(shard, now);
        ring.writer().wake_parked(|_| u64::MAX, wake);
    }
    if ring.retirements_rejected_total() > rejected_before {
        tracing::warn!(
            "a record of the ring is not finished and cannot be retired: too much is held"
        );
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
    use crate::base::heartbeat::STALL_MS;
    use crate::net::Waker;
    use fanwire_ring::{Reader, Retired, RingConfig};

    /// A watchdog of two shards, and what it watches.
    fn watchdog() -> (Watchdog, Arc<ProcessState>, Peers, Ring, Clock) {
        let wakers = [Waker::new().unwrap(), Waker::new().unwrap()];
        let process_state = Arc::new(ProcessState::new(wakers.len(), u64::MAX));
        let peers = Peers::new(&wakers, Arc::clone(&process_state));
        let ring = Ring::new(RingConfig {
            capacity_bytes: 65_536,
            readers_max: 2,
        });
        let (ring, clock) = (ring.unwrap(), Clock::start());
        let watchdog = Watchdog::start(WatchdogParts {
            shard_count: 2,
            groups: Vec::new(),
            process_state: Arc::clone(&process_state),
            peers: peers.clone(),
            ring: ring.clone(),
            clock,
        });
        (watchdog.unwrap(), process_state, peers, ring, clock)
    }

    #[test]
    fn a_shard_that_sleeps_and_does_not_wake_up_is_found() {
        let (_watchdog, process_state, peers, _ring, clock) = watchdog();
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
    }

    #[test]
    fn a_record_that_is_not_finished_is_retired_and_the_shards_that_sleep_are_woken() {
        let (_watchdog, process_state, peers, ring, clock) = watchdog();
        let mut readers = [ring.reader().unwrap(), ring.reader().unwrap()];
        let writer = ring.writer();
        let grant = writer.try_reserve(0, 100).unwrap();
        writer.try_write(0, &[b"next"]).unwrap();
        assert!(readers.iter().all(Reader::park));
        (0..2).for_each(|shard| peers.sleep(shard));
        let began_ms = clock.now().monotonic_ms;
        let woken = || {
            let stalled_ms = clock.now().monotonic_ms + STALL_MS;
            process_state.heartbeats.stalled(stalled_ms).count()
        };
        let seconds_max = 20;
        while woken() < 2 && clock.now().monotonic_ms < seconds_max * 1_000 {
            std::thread::sleep(TICK / 5);
        }
        let age_ms = clock.now().monotonic_ms - began_ms;
        assert!(age_ms >= 100, "retired after {age_ms} ms");
        writer.wake_parked(|_| u64::MAX, |shard| panic!("{shard} is still to be woken"));
        for reader in &mut readers {
            let mut read = Vec::new();
            reader
                .drain(8, |payload| read.extend_from_slice(payload))
                .unwrap();
            assert_eq!(read, b"next");
        }
        assert_eq!(grant.commit(), Err(Retired));
    }
}

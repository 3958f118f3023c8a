//! Periodic services, on a thread of their own.

use super::tls::CertificateWatch;
use crate::base::channel_names::dialect_channel;
use crate::base::now::Clock;
use crate::base::{DialectId, ProcessState};
use crate::broker::{Publication, Quotas};
use crate::dialect::assist::{notices, rooms};
use crate::dialect::notifications::{DEFAULT_KIND, notification};
use crate::observe::host_sampler::HostSampler;
use crate::shard::Publisher;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The channel of periodic notifications: the sessions of one dialect.
fn notified_channel() -> String {
    dialect_channel(DialectId::Notifications)
}

/// Longest time between two checks of what is due, milliseconds.
const TICK_MS: u64 = 200;
/// Time until a publication that found the ring full is tried again, milliseconds.
const RETRY_MS: u64 = 1;

/// The period of each service, milliseconds; 0 = never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Periods {
    /// A test notification to all clients of the notifications dialect.
    pub(super) notification_ms: u64,
    /// The host's metrics to their subscribers.
    pub(super) host_metrics_ms: u64,
    /// The removal of rate limit state of users without sessions.
    pub(super) quota_sweep_ms: u64,
}

/// What the services need.
#[derive(Debug)]
pub(super) struct ServiceParts {
    pub(super) publisher: Arc<Publisher>,
    pub(super) process_state: Arc<ProcessState>,
    pub(super) quotas: Arc<Quotas>,
    pub(super) clock: Clock,
    pub(super) periods: Periods,
    /// Of TLS, if it is on.
    pub(super) certificates: Option<CertificateWatch>,
}

/// A request to the services' thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Publications wait for room in the ring, or callers with theirs.
    Retry,
    /// Stop the services; publications that wait for room are still written.
    Stop,
}

/// The running services.
#[derive(Debug)]
pub(super) struct Services {
    requests: Sender<Request>,
}

/// The channel to the services' thread. One request of each kind is enough at a time.
pub(super) fn requests() -> (Sender<Request>, Receiver<Request>) {
    bounded(2)
}

impl Services {
    /// Starts the thread.
    pub(super) fn start(
        parts: ServiceParts,
        (requests, received): (Sender<Request>, Receiver<Request>),
    ) -> io::Result<Self> {
        std::thread::Builder::new()
            .name("services".into())
            .spawn(move || ServiceLoop::new(parts).run(&received))?;
        Ok(Self { requests })
    }

    /// Stops the services; publications that wait for room are still written.
    pub(super) fn stop(&self) {
        // Waits only while the thread takes an earlier request; fails if it has ended.
        let _ = self.requests.send(Request::Stop);
    }
}

/// When a service runs next.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    period_ms: u64,
    due_ms: u64,
}

impl Schedule {
    fn new(period_ms: u64, now_ms: u64) -> Self {
        Self {
            period_ms,
            due_ms: now_ms + period_ms,
        }
    }

    fn is_due(&mut self, now_ms: u64) -> bool {
        if self.period_ms == 0 || now_ms < self.due_ms {
            return false;
        }
        // Relative to now, not to when it was due: after a delay, missed runs are not repeated.
        self.due_ms = now_ms + self.period_ms;
        true
    }
}

struct ServiceLoop {
    parts: ServiceParts,
    host: HostSampler,
    notification: Schedule,
    host_metrics: Schedule,
    quota_sweep: Schedule,
    notification_count: u64,
    notified_channel: String,
}

impl ServiceLoop {
    fn new(parts: ServiceParts) -> Self {
        let now_ms = parts.clock.now().monotonic_ms;
        let periods = parts.periods;
        Self {
            host: HostSampler::default(),
            notification: Schedule::new(periods.notification_ms, now_ms),
            host_metrics: Schedule::new(periods.host_metrics_ms, now_ms),
            quota_sweep: Schedule::new(periods.quota_sweep_ms, now_ms),
            notification_count: 0,
            notified_channel: notified_channel(),
            parts,
        }
    }

    fn run(&mut self, requests: &Receiver<Request>) {
        let mut is_stopped = false;
        let mut tick_ms = 0;
        let mut woken_ms = 0;
        loop {
            match requests.recv_timeout(Duration::from_millis(tick_ms)) {
                Ok(Request::Stop) => is_stopped = true,
                Ok(Request::Retry) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !is_stopped {
                self.act();
            }
            let now = self.parts.clock.now();
            let publisher = &self.parts.publisher;
            let is_written = publisher.retry(now);
            // Not at each request, or callers and this thread would keep each other busy.
            if is_written && now.monotonic_ms > woken_ms {
                publisher.wake_waiting();
                woken_ms = now.monotonic_ms;
            }
            tick_ms = match (is_written && !publisher.has_waiting(), is_stopped) {
                (false, _) => RETRY_MS,
                (true, true) => TICK_MS,
                (true, false) => self.next_ms(),
            };
        }
    }

    /// Time until something is due, at most one tick.
    fn next_ms(&self) -> u64 {
        let now_ms = self.parts.clock.now().monotonic_ms;
        let schedules = [self.notification, self.host_metrics, self.quota_sweep];
        let schedules = schedules.iter().filter(|schedule| schedule.period_ms > 0);
        let left = schedules.map(|schedule| schedule.due_ms.saturating_sub(now_ms));
        left.fold(TICK_MS, u64::min)
    }

    fn act(&mut self) {
        let now = self.parts.clock.now();
        let has_listeners =
            |channel: &str| self.parts.process_state.interests.has_subscribers(channel);
        if self.notification.is_due(now.monotonic_ms) && has_listeners(&self.notified_channel) {
            self.notification_count += 1;
            let count = self.notification_count;
            let data = format!("{{\"sequence\":{count}}}");
            let data = notification(&format!("Periodic notification {count}"), Some(&data));
            self.publish(&Publication::new(
                &self.notified_channel,
                DEFAULT_KIND,
                &data,
            ));
        }
        if self.host_metrics.is_due(now.monotonic_ms) {
            if has_listeners(rooms::SYSTEM_MONITORING) {
                let channel = rooms::SYSTEM_MONITORING;
                match self.host.sample() {
                    Ok(data) => {
                        self.publish(&Publication::new(channel, notices::SYSTEM_METRICS, &data));
                    }
                    Err(error) => tracing::warn!(%error, "cannot read the load of the host"),
                }
            } else {
                self.host.release();
            }
        }
        if let Some(certificates) = &mut self.parts.certificates {
            certificates.look(now.monotonic_ms);
        }
        if self.quota_sweep.is_due(now.monotonic_ms) {
            self.parts.quotas.sweep(now);
        }
    }

    fn publish(&self, publication: &Publication<'_>) {
        let now = self.parts.clock.now();
        if let Err(error) = self.parts.publisher.publish_here(publication, now) {
            tracing::warn!(%error, channel = publication.channel, "a periodic message was skipped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_rings_once_a_period_and_never_without_one() {
        let mut schedule = Schedule::new(10, 5);
        let is_due: Vec<_> = [14, 15, 16, 24, 25, 80, 81]
            .into_iter()
            .filter(|now_ms| schedule.is_due(*now_ms))
            .collect();
        assert_eq!(is_due, [15, 25, 80]);
        assert!(!Schedule::new(0, 0).is_due(100));
    }
}

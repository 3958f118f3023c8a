//! Counters of requests to HTTP backends of the operator, which the integration thread makes.

use super::label::{Label, label};
use std::sync::atomic::{AtomicU64, Ordering};

label! {
    /// What a callback decides.
    CallbackKind {
        /// Whether a session may begin.
        Connect = "connect",
        /// Whether a session may subscribe to a channel.
        Subscribe = "subscribe",
        /// What is answered to a message.
        Message = "message",
    }
}

label! {
    /// How a question to a callback ended.
    CallbackOutcome {
        /// The backend allows it.
        Allowed = "allowed",
        /// The backend denies it.
        Denied = "denied",
        /// There is no answer in time, or none that can be relied on.
        Failed = "failed",
    }
}

label! {
    /// What became of an event for a webhook.
    WebhookOutcome {
        /// It was told.
        Delivered = "delivered",
        /// The webhook did not accept it in time.
        GivenUp = "given_up",
    }
}

/// Counters of the process.
///
/// All accesses are relaxed: the values are independent, and no other data is published through them.
#[derive(Debug, Default)]
pub struct BackendCounters {
    callbacks: [[AtomicU64; CallbackOutcome::ALL.len()]; CallbackKind::ALL.len()],
    webhook_events: [AtomicU64; WebhookOutcome::ALL.len()],
    webhook_in_flight: AtomicU64,
    webhook_requests: [AtomicU64; 2],
}

impl BackendCounters {
    /// A question to a callback has ended.
    pub fn count_callback(&self, kind: CallbackKind, outcome: CallbackOutcome) {
        self.callbacks[kind.index()][outcome.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Events for a webhook have ended in this way.
    pub fn count_webhook_events(&self, outcome: WebhookOutcome, count: usize) {
        self.webhook_events[outcome.index()].fetch_add(count as u64, Ordering::Relaxed);
    }

    /// How many events have ended in this way.
    #[must_use]
    pub fn webhook_events(&self, outcome: WebhookOutcome) -> u64 {
        self.webhook_events[outcome.index()].load(Ordering::Relaxed)
    }

    /// A request to a webhook was accepted or has failed.
    pub fn count_webhook_request(&self, is_accepted: bool) {
        self.webhook_requests[usize::from(is_accepted)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were accepted or have failed.
    #[must_use]
    pub fn webhook_requests(&self, is_accepted: bool) -> u64 {
        self.webhook_requests[usize::from(is_accepted)].load(Ordering::Relaxed)
    }

    /// So many events are in the request that is sent now, or again.
    pub fn set_webhook_in_flight(&self, count: usize) {
        self.webhook_in_flight
            .store(count as u64, Ordering::Relaxed);
    }

    /// How many these are.
    #[must_use]
    pub fn webhook_in_flight(&self) -> u64 {
        self.webhook_in_flight.load(Ordering::Relaxed)
    }

    /// How many questions to callbacks have ended in which way.
    pub fn callbacks(&self) -> impl Iterator<Item = (CallbackKind, CallbackOutcome, u64)> {
        CallbackKind::ALL.iter().flat_map(|kind| {
            CallbackOutcome::ALL.iter().map(|outcome| {
                let count = &self.callbacks[kind.index()][outcome.index()];
                (*kind, *outcome, count.load(Ordering::Relaxed))
            })
        })
    }
}

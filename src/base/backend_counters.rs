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

/// Counters of the process.
///
/// All accesses are relaxed: the values are independent, and no other data is published through them.
#[derive(Debug, Default)]
pub struct BackendCounters {
    callbacks: [[AtomicU64; CallbackOutcome::ALL.len()]; CallbackKind::ALL.len()],
}

impl BackendCounters {
    /// A question to a callback has ended.
    pub fn count_callback(&self, kind: CallbackKind, outcome: CallbackOutcome) {
        self.callbacks[kind.index()][outcome.index()].fetch_add(1, Ordering::Relaxed);
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

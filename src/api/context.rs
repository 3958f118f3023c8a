//! What the HTTP API depends on.

use crate::base::{Now, ProcessState, ShardCounters};
use crate::config::Secret;
use crate::journal::Journal;
use crate::observe::Metrics;
use crate::shard::Publisher;
use crate::store::StoreState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the HTTP API depends on.
#[derive(Debug)]
pub struct ApiContext {
    /// All counters.
    pub metrics: Metrics,
    /// The counters of all shards, and those of publications from outside the shards.
    pub counters: Vec<Arc<ShardCounters>>,
    /// The durable store, if there is one.
    pub journal: Option<Arc<Journal>>,
    /// Publishes from outside the shards.
    pub publisher: Arc<Publisher>,
    /// Who may call `POST /notify`.
    pub notify: NotifyAccess,
    /// Counts shared by all shards.
    pub process_state: Arc<ProcessState>,
    /// The number of shards.
    pub shard_count: usize,
    /// Whether the server is draining.
    pub is_draining: AtomicBool,
    /// The shards that have failed.
    pub failed_shards: Mutex<Vec<u16>>,
    /// Whether `/metrics/prometheus` answers.
    pub metrics_enabled: bool,
    /// Whether `/health` answers.
    pub health_enabled: bool,
    /// When the server started.
    pub began: Now,
    /// Reads the time.
    pub clock: crate::base::now::Clock,
}

/// Who may call `POST /notify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotifyAccess {
    /// Nobody: the answer is 404.
    Nobody,
    /// Every client, as on the notification server.
    Everyone,
    /// Clients that send the key, as `X-API-Key` or as `Authorization: Bearer`.
    Key(Secret),
}

impl ApiContext {
    /// Records that a shard has failed; its sessions are lost, and nobody accepts on its sockets.
    pub fn note_failed(&self, shard: u16) {
        self.failed().push(shard);
    }

    fn failed(&self) -> MutexGuard<'_, Vec<u16>> {
        // The list is whole after every operation.
        self.failed_shards
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server accepts sessions on all shards.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        !self.is_draining.load(Ordering::Relaxed) && self.failed().is_empty()
    }

    /// The health of the server and of its components: `healthy`, `degraded` while a shard is
    /// stalled or the durable store cannot write, `draining`, or `unhealthy` when a shard has failed.
    #[must_use]
    pub fn health(&self) -> serde_json::Value {
        let now = self.clock.now();
        let failed = self.failed().clone();
        let heartbeats = &self.process_state.heartbeats;
        let mut stalled: Vec<_> = heartbeats.stalled(now.monotonic_ms).collect();
        stalled.retain(|shard| !failed.contains(shard));
        let store = self.journal.as_ref().map(|journal| journal.state());
        let is_storing = matches!(store, None | Some(StoreState::Running));
        let word = if !failed.is_empty() {
            "unhealthy"
        } else if self.is_draining.load(Ordering::Relaxed) {
            "draining"
        } else if stalled.is_empty() && is_storing {
            "healthy"
        } else {
            "degraded"
        };
        let shards = if !failed.is_empty() {
            "failed"
        } else if stalled.is_empty() {
            "healthy"
        } else {
            "stalled"
        };
        let store = match store {
            None => serde_json::json!({"status": "healthy", "type": "memory"}),
            Some(StoreState::Running) => serde_json::json!({"status": "healthy", "type": "disk"}),
            Some(StoreState::Failed { error }) => {
                serde_json::json!({"status": "failed", "type": "disk", "error": error})
            }
            Some(StoreState::Closed) => serde_json::json!({"status": "closed", "type": "disk"}),
        };
        let sessions = self.process_state.sessions_total();
        let uptime_ms = now.monotonic_ms - self.began.monotonic_ms;
        serde_json::json!({
            "status": word,
            "components": {
                "server": {"status": word, "shards": self.shard_count},
                "shards": {"status": shards, "stalled": stalled, "failed": failed},
                "sessions": {"status": "healthy", "total_sessions": sessions},
                "store": store,
                "scaling_backend": {"status": "healthy", "type": "local"},
            },
            "shards": self.shard_count,
            "sessions": sessions,
            "uptime_seconds": uptime_ms / 1_000,
            "version": env!("CARGO_PKG_VERSION"),
        })
    }
}

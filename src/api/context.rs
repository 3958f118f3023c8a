//! What the HTTP API shows and uses.

use crate::base::{Now, ProcessCounts, ShardCounters};
use crate::config::Secret;
use crate::observe::Metrics;
use crate::shard::Publisher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the HTTP API shows and uses.
#[derive(Debug)]
pub struct ApiContext {
    /// All counters.
    pub metrics: Metrics,
    /// The counters of all shards, and of what is published from outside of them.
    pub counters: Vec<Arc<ShardCounters>>,
    /// Publishes from outside of the shards.
    pub publisher: Arc<Publisher>,
    /// Who may call `POST /notify`.
    pub notify: NotifyAccess,
    /// Counts shared by all shards.
    pub process_counts: Arc<ProcessCounts>,
    /// How many shards run.
    pub shard_count: usize,
    /// Whether the server is going away.
    pub is_draining: AtomicBool,
    /// Whether metrics are shown.
    pub metrics_enabled: bool,
    /// Whether `/health` answers.
    pub health_enabled: bool,
    /// When the server began.
    pub began: Now,
    /// Reads the time.
    pub clock: crate::base::now::Clock,
}

/// Who may call `POST /notify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotifyAccess {
    /// Nobody: the answer is 404.
    Nobody,
    /// Everyone who reaches it, as on the notification server.
    Everyone,
    /// Whoever sends the key, as `X-API-Key` or as `Authorization: Bearer`.
    Key(Secret),
}

impl ApiContext {
    /// The health of the server and of its parts: `healthy`, or `draining`.
    #[must_use]
    pub fn health(&self) -> serde_json::Value {
        let word = if self.is_draining.load(Ordering::Relaxed) {
            "draining"
        } else {
            "healthy"
        };
        let sessions = self.process_counts.sessions_total();
        let uptime_ms = self.clock.now().monotonic_ms - self.began.monotonic_ms;
        serde_json::json!({
            "status": word,
            "components": {
                "server": {"status": word, "shards": self.shard_count},
                "sessions": {"status": "healthy", "total_sessions": sessions},
                "scaling_backend": {"status": "healthy", "type": "local"},
            },
            "shards": self.shard_count,
            "sessions": sessions,
            "uptime_seconds": uptime_ms / 1_000,
            "version": env!("CARGO_PKG_VERSION"),
        })
    }
}

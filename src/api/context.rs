//! What the HTTP API depends on.

use super::idempotency::Idempotency;
use super::shards::Shards;
use crate::base::{DialectId, NodeUser, Now, ProcessState, ShardCounters, Tracer, UserChange};
use crate::broker::quota_user;
use crate::config::{ApiKey, HttpPart, HttpParts, OriginPattern, Secret};
use crate::journal::Journal;
use crate::observe::Metrics;
use crate::shard::{Publisher, is_entry_for_user};
use crate::store::StoreState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How long before its end a certificate is said to expire soon, seconds.
const CERTIFICATE_NOTICE_S: u64 = 14 * 24 * 60 * 60;

/// What the HTTP API depends on.
#[derive(Debug)]
pub struct ApiContext {
    /// Where something is traced.
    pub tracer: Option<Tracer>,
    /// All counters.
    pub metrics: Metrics,
    /// The counters of all shards, and those of publications from outside the shards.
    pub counters: Vec<Arc<ShardCounters>>,
    /// The durable store, if there is one.
    pub journal: Option<Arc<Journal>>,
    /// Publishes from outside the shards.
    pub publisher: Arc<Publisher>,
    /// All shards.
    pub shards: Shards,
    /// What each listener answers.
    pub listeners: Vec<HttpListener>,
    /// Who may call `POST /notify`, on each listener.
    pub notify: Vec<NotifyKey>,
    /// Keys of the API.
    pub api_keys: Vec<ApiKey>,
    /// Origins whose pages may call the API.
    pub cors_origins: Vec<OriginPattern>,
    /// Answers to requests that may be repeated.
    pub idempotency: Idempotency,
    /// Counts shared by all shards.
    pub process_state: Arc<ProcessState>,
    /// The number of shards.
    pub shard_count: usize,
    /// Whether the server is draining.
    pub is_draining: AtomicBool,
    /// The shards that have failed.
    pub failed_shards: Mutex<Vec<u16>>,
    /// Whether the thread of Redis has failed.
    pub has_failed_nodes: AtomicBool,
    /// Whether `/metrics/prometheus` answers.
    pub metrics_enabled: bool,
    /// Whether `/health` answers.
    pub health_enabled: bool,
    /// When the server started.
    pub began: Now,
    /// Reads the time.
    pub clock: crate::base::now::Clock,
}

/// What a listener answers over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpListener {
    /// Parts of it.
    pub parts: HttpParts,
    /// The dialect of its clients, if it has only one.
    pub dialect: Option<DialectId>,
    /// Whether callers need no key: in development mode, on loopback.
    pub is_open: bool,
}

/// Who may call `POST /notify`, beside those with a key of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotifyKey {
    /// Nobody.
    None,
    /// Everyone, as on the notification server.
    Open,
    /// Callers that send this key, as `X-API-Key` or as `Authorization: Bearer`.
    Key(Secret),
}

impl ApiContext {
    /// Whether a listener answers this.
    #[must_use]
    pub fn answers(&self, listener: u8, part: HttpPart) -> bool {
        let listener = self.listeners.get(usize::from(listener));
        listener.is_some_and(|listener| listener.parts.has(part))
    }

    /// Whether callers at a listener need no key.
    #[must_use]
    pub fn is_open(&self, listener: u8) -> bool {
        let listener = self.listeners.get(usize::from(listener));
        listener.is_some_and(|listener| listener.is_open)
    }

    /// The dialect of the clients of a listener, if it has only one.
    #[must_use]
    pub fn dialect_of(&self, listener: u8) -> Option<DialectId> {
        self.listeners.get(usize::from(listener))?.dialect
    }

    /// Removes the history of a channel, by its full name.
    pub fn delete_history(&self, full_name: &str) {
        let tag = self.process_state.interests.tag(full_name);
        let through = self.newest_offset();
        self.process_state.history.delete(tag, through);
        if let Some(journal) = &self.journal {
            journal.delete_channel(tag, through);
        }
    }

    /// Removes what was published for a user only, of a tenant or without one, and where the user
    /// stopped. Looks at every publication that is kept.
    pub fn delete_user_history(&self, tenant: Option<&str>, user: &str) {
        let is_it = |_, content: &[u8]| is_entry_for_user(content, tenant, user);
        self.process_state.history.delete_where(is_it);
        if let Some(journal) = &self.journal {
            journal.delete_user(tenant, user, self.newest_offset());
        }
        for dialect in DialectId::ALL {
            let key = quota_user(tenant, user);
            let key = self.process_state.offline.key(dialect, &key);
            self.process_state.offline.remove(key);
            if let Some(link) = &self.process_state.link {
                let user = NodeUser {
                    dialect,
                    tenant: tenant.map(Into::into),
                    user: user.into(),
                };
                link.change_user(user, UserChange::OfflineRemoved);
            }
        }
    }

    /// The offset of the newest publication, or a later one.
    fn newest_offset(&self) -> u64 {
        let position = self.publisher.ring_position();
        self.process_state.history.offset_before(position)
    }

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
        !self.is_draining.load(Ordering::Relaxed)
            && self.failed().is_empty()
            && !self.nodes_failed()
    }

    fn nodes_failed(&self) -> bool {
        // Relaxed: nothing else belongs to it.
        self.has_failed_nodes.load(Ordering::Relaxed)
    }

    /// The health of the server and of its components: `healthy`, `degraded` while a shard is
    /// stalled, the durable store cannot write or Redis is away, `draining`, or `unhealthy` when a shard or the
    /// thread of Redis has failed.
    #[must_use]
    pub fn health(&self) -> serde_json::Value {
        let now = self.clock.now();
        let failed = self.failed().clone();
        let heartbeats = &self.process_state.heartbeats;
        let mut stalled: Vec<_> = heartbeats.stalled(now.monotonic_ms).collect();
        stalled.retain(|shard| !failed.contains(shard));
        let store = self.journal.as_ref().map(|journal| journal.state());
        let is_storing = matches!(store, None | Some(StoreState::Running));
        // Relaxed: nothing else belongs to it.
        let expiry = self
            .process_state
            .certificate_expiry
            .load(Ordering::Relaxed);
        let tls = match expiry {
            0 => None,
            expiry if expiry <= now.unix_s() => Some("expired"),
            expiry if expiry <= now.unix_s() + CERTIFICATE_NOTICE_S => Some("expires_soon"),
            _ => Some("healthy"),
        };
        let link = self.process_state.link.as_ref();
        let is_up = link.is_none_or(|link| link.counters.is_up());
        let backend = match (link, is_up) {
            (None, _) => serde_json::json!({"status": "healthy", "type": "local"}),
            (Some(link), true) => serde_json::json!({
                "status": "healthy", "type": "redis",
                "round_trip_us": link.counters.round_trip_us.value(),
            }),
            (Some(_), false) => serde_json::json!({"status": "unhealthy", "type": "redis"}),
        };
        let word = if !failed.is_empty() || self.nodes_failed() {
            "unhealthy"
        } else if self.is_draining.load(Ordering::Relaxed) {
            "draining"
        } else if stalled.is_empty() && is_storing && is_up && tls != Some("expired") {
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
        let tls = tls.map(|status| serde_json::json!({"status": status, "expires_at": expiry}));
        let sessions = self.process_state.sessions_total();
        let uptime_ms = now.monotonic_ms - self.began.monotonic_ms;
        let mut health = serde_json::json!({
            "status": word,
            "components": {
                "server": {"status": word, "shards": self.shard_count},
                "shards": {"status": shards, "stalled": stalled, "failed": failed},
                "sessions": {"status": "healthy", "total_sessions": sessions},
                "store": store,
                "scaling_backend": backend,
            },
            "shards": self.shard_count,
            "sessions": sessions,
            "uptime_seconds": uptime_ms / 1_000,
            "version": env!("CARGO_PKG_VERSION"),
        });
        if let Some(tls) = tls {
            health["components"]["tls"] = tls;
        }
        health
    }
}

//! Shards that share a ring, and all that shards of one process share.

use fanwire::auth::Verifier;
use fanwire::base::offline::OfflineUsers;
use fanwire::base::{DialectId, History, HistoryRule, NameKey, Now, ProcessState, ShardCounters};
use fanwire::broker::Quotas;
use fanwire::config::{AccessRule, DialectPolicy, Policy};
use fanwire::shard::{Shard, ShardParts};
use fanwire_ring::{Ring, RingConfig};
use std::sync::Arc;

/// Shards, and what they count.
pub(crate) struct Shards {
    pub(crate) shards: Vec<Shard>,
    pub(crate) counters: Vec<Arc<ShardCounters>>,
    pub(crate) process_state: Arc<ProcessState>,
    pub(crate) quotas: Arc<Quotas>,
    pub(crate) ring: Ring,
}

/// Shards whose sessions need no token and have no limits but the send queue.
pub(crate) fn shards(count: usize, ring_bytes: u32, send_queue_bytes_max: u32, now: Now) -> Shards {
    let policy = open_policy(send_queue_bytes_max);
    shards_with(policy, &Verifier::default(), count, ring_bytes, now)
}

/// The same with a history, an offline queue of monitoring, and tokens with this secret.
pub(crate) fn shards_keeping(
    rules: Vec<HistoryRule>,
    secret: &[u8],
    count: usize,
    ring_bytes: u32,
    now: Now,
) -> Shards {
    let mut history = History::new(count, rules, 7, 1 << 30);
    // As if earlier processes had stored something.
    history.continue_from(1_000, Vec::new(), 0);
    let process_state = ProcessState::new(count, u64::MAX)
        .with_history(history, OfflineUsers::new(1_000, NameKey::random()));
    let mut policy = open_policy(1 << 22);
    policy.dialects[DialectId::Monitoring.index()].offline_queue = true;
    build(
        policy,
        &Verifier::hs256(secret),
        process_state,
        count,
        ring_bytes,
        now,
    )
}

fn open_policy(send_queue_bytes_max: u32) -> Policy {
    Policy {
        dialects: DialectId::ALL.map(|dialect| DialectPolicy::of(dialect).permissive()),
        publish_rules: AccessRule::open_dialect_channels().into(),
        send_queue_bytes_max,
        // Who takes nothing is slow at once.
        slow_consumer_timeout_ms: 0,
        ..Policy::default()
    }
}

/// Shards with rules, and with a verifier of tokens.
pub(crate) fn shards_with(
    policy: Policy,
    verifier: &Verifier,
    count: usize,
    ring_bytes: u32,
    now: Now,
) -> Shards {
    let process_state = ProcessState::new(count, u64::MAX);
    build(policy, verifier, process_state, count, ring_bytes, now)
}

fn build(
    policy: Policy,
    verifier: &Verifier,
    process_state: ProcessState,
    count: usize,
    ring_bytes: u32,
    now: Now,
) -> Shards {
    let ring = Ring::new(RingConfig {
        capacity_bytes: ring_bytes,
        readers_max: u32::try_from(count).unwrap(),
    })
    .unwrap();
    let policy = Arc::new(policy);
    let quotas = Arc::<Quotas>::default();
    let process_state = Arc::new(process_state);
    let counters: Vec<_> = (0..count)
        .map(|_| Arc::<ShardCounters>::default())
        .collect();
    let shards = counters.iter().enumerate().map(|(index, counters)| {
        let parts = ShardParts {
            index: u16::try_from(index).unwrap(),
            connections_max: 20_000,
            policy: Arc::clone(&policy),
            verifier: verifier.clone(),
            process_state: Arc::clone(&process_state),
            quotas: Arc::clone(&quotas),
            hooks: Arc::default(),
            counters: Arc::clone(counters),
            ring: ring.clone(),
            reader: ring.reader().unwrap(),
        };
        Shard::new(parts, now)
    });
    Shards {
        shards: shards.collect(),
        counters,
        process_state,
        quotas,
        ring,
    }
}

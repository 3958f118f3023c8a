//! Shards that share a ring, and all that shards of one process share.

use fanwire::auth::Verifier;
use fanwire::base::offline::OfflineUsers;
use fanwire::base::persistent::{PersistentLimits, PersistentSubscriptions};
use fanwire::base::{
    DialectId, History, HistoryRule, NameKey, Now, PresenceMode, PresenceRule, PresenceTable,
    ProcessState, ShardCounters,
};
use fanwire::broker::Quotas;
use fanwire::config::{AccessRule, Compression, CompressionPolicy, DialectPolicy, Policy};
use fanwire::shard::{Shard, ShardParts};
use fanwire_ring::{Ring, RingConfig};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// The shards of a process. When a run is over, all sessions vanish, and nobody may be left on any
/// channel.
pub(crate) struct ShardList {
    shards: Vec<Shard>,
    process_state: Arc<ProcessState>,
}

impl Deref for ShardList {
    type Target = [Shard];

    fn deref(&self) -> &[Shard] {
        &self.shards
    }
}

impl DerefMut for ShardList {
    fn deref_mut(&mut self) -> &mut [Shard] {
        &mut self.shards
    }
}

impl Drop for ShardList {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // Later than any run.
        let mut now = Now::at(1 << 40, 1 << 41);
        for shard in &mut self.shards {
            for id in shard.broker().sessions().collect::<Vec<_>>() {
                shard.abort(id, now);
            }
            while shard.has_leaving() {
                shard.drain_ring(now);
            }
            assert_eq!(shard.broker().sessions().count(), 0);
        }
        let presence = &self.process_state.presence;
        assert_eq!(presence.stats().members, 0);
        // The last changes are announced, where there is room, and the channels are quiet.
        while presence.stats().channels > 0 {
            now.monotonic_ms += 1_000;
            for shard in &mut self.shards {
                shard.retry_unsent(now);
                shard.drain_ring(now);
                shard.expire_timers(now);
            }
            assert!(now.monotonic_ms < (1 << 40) + 1_000_000, "nobody is left");
        }
    }
}

/// Shards, and what they count.
pub(crate) struct Shards {
    pub(crate) shards: ShardList,
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
    let process_state = process_state.with_presence(of_all(PresenceMode::Members, 1_000));
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
        compressions: vec![Compression::Deflate],
        compression: CompressionPolicy {
            level: 1,
            bytes_min: 64,
        },
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
    let process_state =
        ProcessState::new(count, u64::MAX).with_presence(of_all(PresenceMode::Members, 1_000));
    build(policy, verifier, process_state, count, ring_bytes, now)
}

/// The same, where it is announced who comes and goes: on the channels that do so by default, as soon
/// as timers are looked at.
pub(crate) fn shards_announcing(
    policy: Policy,
    verifier: &Verifier,
    count: usize,
    ring_bytes: u32,
    now: Now,
) -> Shards {
    let mut rules = fanwire::dialect::without_presence();
    rules.push(PresenceRule {
        literal: "room:".into(),
        is_prefix: true,
        mode: PresenceMode::Events,
    });
    let presence = PresenceTable::new(rules, u64::MAX, 0);
    let process_state = ProcessState::new(count, u64::MAX).with_presence(presence);
    build(policy, verifier, process_state, count, ring_bytes, now)
}

/// Shards whose sessions need no token but may show one with this secret, where it is kept in this
/// way who is on which channel.
pub(crate) fn shards_present(
    secret: &[u8],
    (mode, interval_ms): (PresenceMode, u64),
    count: usize,
    ring_bytes: u32,
    now: Now,
) -> Shards {
    let process_state = ProcessState::new(count, u64::MAX);
    let process_state = process_state.with_presence(of_all(mode, interval_ms));
    let policy = open_policy(1 << 22);
    build(
        policy,
        &Verifier::hs256(secret),
        process_state,
        count,
        ring_bytes,
        now,
    )
}

/// Shards whose sessions need no token but may show one with this secret, where persistent
/// subscriptions are remembered, of each tenant apart.
pub(crate) fn shards_remembering(
    secret: &[u8],
    limits: PersistentLimits,
    count: usize,
    ring_bytes: u32,
    now: Now,
) -> Shards {
    let process_state = ProcessState::new(count, u64::MAX)
        .with_presence(of_all(PresenceMode::Members, 1_000))
        .with_persistent(PersistentSubscriptions::new(limits));
    let mut policy = open_policy(1 << 22);
    policy.dialects[DialectId::Gateway.index()].tenant_isolation = true;
    build(
        policy,
        &Verifier::hs256(secret),
        process_state,
        count,
        ring_bytes,
        now,
    )
}

/// A table of who is on which channel, of all channels.
fn of_all(mode: PresenceMode, interval_ms: u64) -> PresenceTable {
    let rule = PresenceRule {
        literal: "".into(),
        is_prefix: true,
        mode,
    };
    PresenceTable::new(vec![rule], u64::MAX, interval_ms)
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
        shards: ShardList {
            shards: shards.collect(),
            process_state: Arc::clone(&process_state),
        },
        counters,
        process_state,
        quotas,
        ring,
    }
}

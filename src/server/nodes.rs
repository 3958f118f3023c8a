//! Connects this node with others through Redis.

use super::error::StartError;
use super::shard_thread::Report;
use crate::api::ApiContext;
use crate::base::now::Clock;
use crate::base::{NodeLink, ProcessState};
use crate::broker::Quotas;
use crate::config::{ByteSize, Millis, RedisSettings};
use crate::net::Peers;
use crate::net::wire::ShardCommand;
use crate::nodes::{Announce, Answerer, Nodes, NodesConfig, NoteFailed};
use crate::shard::Publisher;
use crossbeam_channel::Sender;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The way to the other nodes, if there are some.
pub(super) fn link(settings: &RedisSettings) -> Option<NodeLink> {
    settings.redis_url.as_ref()?;
    // Random, so that no two nodes have the same.
    let node = RandomState::new().hash_one(std::process::id());
    Some(NodeLink::new(node, bytes(settings.redis_queue_bytes_max)))
}

/// How shards are told something.
type ToShards = (Vec<Sender<ShardCommand>>, Peers, Clock);

/// Starts the thread of Redis.
pub(super) fn start(
    settings: &RedisSettings,
    publisher: &Arc<Publisher>,
    (process_state, quotas): (&Arc<ProcessState>, &Arc<Quotas>),
    ((commands, peers, clock), api): (ToShards, &Arc<ApiContext>),
    reports: &Sender<Report>,
) -> Result<Option<Nodes>, StartError> {
    let Some(address) = settings.address() else {
        return Ok(None);
    };
    let read = |path: &std::path::PathBuf| {
        fs::read(path).map_err(|error| {
            let path = path.display();
            StartError::Other(format!("cannot read {path} (redis_tls_roots): {error}"))
        })
    };
    let config = NodesConfig {
        address,
        tls_ca: settings.redis_tls_roots.as_ref().map(read).transpose()?,
        prefix: settings.redis_prefix.clone(),
        timeout: duration(settings.redis_timeout),
        leave_delay: duration(settings.redis_leave_delay),
        lease: duration(settings.redis_node_lease),
        history_ttl: duration(settings.redis_history_ttl),
        backlog_bytes_max: bytes(settings.redis_backlog_bytes_max),
    };
    let publisher = Arc::clone(publisher);
    let state = (Arc::clone(process_state), Arc::clone(quotas));
    let announce: Announce = Arc::new(move |shard, tag, name| {
        let call = ShardCommand::Call(Box::new(move |shard, now| {
            shard.begin_announcing((tag, name), now);
        }));
        if let Some(commands) = commands.get(usize::from(shard)) {
            // Fails only when the shard has stopped.
            let _ = commands.send(call);
            peers.wake(u32::from(shard), clock.now());
        }
    });
    let (context, reports) = (Arc::clone(api), reports.clone());
    let note_failed: NoteFailed = Box::new(move || {
        // Relaxed: nothing else belongs to it.
        context.has_failed_nodes.store(true, Ordering::Relaxed);
        tracing::error!("{}", Report::NodesFailed);
        // The main thread may have ended already, after a second signal.
        let _ = reports.send(Report::NodesFailed);
    });
    let api = Arc::clone(api);
    let answerer: Answerer = Box::new(move |text| {
        let api = Arc::clone(&api);
        Box::pin(async move { api.answer(&text).await })
    });
    let calls = (announce, answerer);
    let nodes = Nodes::start(config, publisher, state, clock, calls, note_failed);
    nodes.map(Some).map_err(StartError::Other)
}

fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

fn duration(time: Millis) -> Duration {
    Duration::from_millis(time.0)
}

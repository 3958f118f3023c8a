//! Who is on which channel of all nodes: each tells the others of its sessions, and Redis keeps it for those
//! who come later.
//!
//! ```text
//!   table of this node ─▶ what has changed ─▶ Redis: keeps it, publishes it ─▶ tables of the nodes with
//!                                                                              subscribers of the channel
//! ```
//!
//! Each node has a lease in Redis, which it renews. Who of a node without one is there counts no more. A node
//! that has connected tells all before it takes its lease: what Redis keeps of nodes with a lease is whole, even
//! if Redis has lost its memory. Once in a while each tells all again: what was lost on the way heals.

use super::connection::{Connection, Failure, failure};
use super::run::{Event, Runner};
use super::told_presence::{node_name, node_number, read_kept};
use crate::base::limits::{NODE_CATCH_UPS_AT_ONCE, NODE_PRESENCE_PARTS_AT_ONCE, NODE_TELL_PART_MS};
use crate::base::{ChannelTag, LocalPresence, NodePresence, PresenceTable, Telling};
use redis::{Cmd, RedisError, Value};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Starts the announcements of what has changed on a channel, on a shard.
pub type Announce = Arc<dyn Fn(u16, ChannelTag, Box<str>) + Send + Sync>;

/// What is known of the nodes, and what they are to be told.
#[derive(Default)]
pub(super) struct Sharing {
    /// The other nodes that are there, and how often in a row they had no lease when it was looked.
    nodes: HashMap<u64, u32>,
    /// Those that had a lease when it was last looked, on this connection.
    with_lease: HashSet<u64>,
    /// Since when the leases in Redis are watched, monotonic milliseconds.
    since_ms: u64,
    /// When the lease of this one is renewed next.
    renewal_due_ms: u64,
    is_renewing: bool,
    /// The next part of the table that is told in whole, and how many are to be told soon.
    next_part: usize,
    parts_due: usize,
    /// Whether all were told on this connection.
    is_all_told: bool,
    /// Whether the node has its lease since then.
    has_lease: bool,
    /// Whether Redis has rejected the lease.
    is_rejected: bool,
    /// When one was told last, monotonic milliseconds.
    told_part_ms: u64,
    is_telling: bool,
    /// Until when nothing is told, as Redis has rejected it, monotonic milliseconds.
    paused_until_ms: u64,
    /// Changes that are being told.
    in_flight: Vec<LocalPresence>,
    is_reading: bool,
}

/// What other nodes have on channels, as Redis keeps it: the nodes with a lease, and of each channel, each of them.
pub(super) type KeptPresence = (Vec<u64>, Vec<(ChannelTag, Vec<(u64, NodePresence)>)>);

impl Sharing {
    /// The connection is lost: what was being told is to be told again.
    pub(super) fn lost(&mut self) -> Vec<LocalPresence> {
        self.is_telling = false;
        std::mem::take(&mut self.in_flight)
    }

    /// Whether the node has its lease on this connection, or Redis does not give one now.
    pub(super) fn is_settled(&self) -> bool {
        self.has_lease || self.is_rejected
    }

    /// All was told on this connection, if no part is left: it is time for the lease.
    fn note_told(&mut self) {
        if self.parts_due == 0 && !self.is_all_told {
            self.is_all_told = true;
            self.renewal_due_ms = 0;
        }
    }

    /// There is a new connection: all is told again on it.
    pub(super) fn connected(&mut self, now_ms: u64) {
        *self = Self {
            nodes: std::mem::take(&mut self.nodes),
            renewal_due_ms: now_ms,
            since_ms: now_ms,
            parts_due: PresenceTable::PARTS,
            ..Self::default()
        };
    }
}

impl Runner {
    pub(super) fn share_presence(&mut self, now_ms: u64) {
        if self.connection().is_none() {
            return;
        }
        self.tell_presence(now_ms);
        self.renew_lease(now_ms);
        self.read_presence();
    }

    /// In Redis it is shorter: with the time until the others have looked twice, it is over in time.
    pub(super) fn renew_lease_command(&self, connection: &Connection) -> Cmd {
        let node = self.engine.link().node();
        let lease_ms = match self.sharing.is_all_told {
            true => self.lease_ms() / 4 * 3,
            false => 0,
        };
        let scripts = &connection.scripts;
        scripts.renew(&connection.names, node, (lease_ms, self.sharing.has_lease))
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.config.lease.as_millis()).unwrap_or(u64::MAX)
    }

    fn renew_lease(&mut self, now_ms: u64) {
        let Some(mut connection) = self.connection() else {
            return;
        };
        if self.sharing.is_renewing || now_ms < self.sharing.renewal_due_ms {
            return;
        }
        self.sharing.is_renewing = true;
        let lease_ms = self.lease_ms();
        self.sharing.renewal_due_ms = now_ms + lease_ms / 8;
        let command = self.renew_lease_command(&connection);
        self.spawn(async move { Event::Renewed(connection.run(vec![command]).await.pop()) });
    }

    /// The lease is renewed: the nodes that have one.
    pub(super) fn renewed(&mut self, result: Option<Result<Value, RedisError>>, now_ms: u64) {
        self.sharing.is_renewing = false;
        match result.map(|result| result.map(read_nodes)) {
            Some(Ok(Some(nodes))) => self.note_nodes(&nodes, now_ms),
            // Nobody renews a lease then, and nobody is taken for dead, not even when Redis takes leases again:
            // all have time to come back.
            Some(Err(error)) if failure(&error) == Failure::Rejected => {
                self.sharing.is_rejected = true;
                self.sharing.since_ms = now_ms;
                self.presence_rejected(&error);
            }
            Some(Err(error)) => self.lose(&error.to_string(), now_ms),
            _ => self.lose("Redis gave an answer that is not one", now_ms),
        }
    }

    fn note_nodes(&mut self, nodes: &[u64], now_ms: u64) {
        let (own, lease_ms) = (self.engine.link().node(), self.lease_ms());
        let sharing = &mut self.sharing;
        let has_lease = sharing.is_all_told && nodes.contains(&own);
        if sharing.has_lease && !has_lease {
            // The others take this node for dead, or Redis has lost what it knew of all, or takes nothing.
            sharing.is_all_told = false;
            sharing.parts_due = PresenceTable::PARTS;
            sharing.since_ms = now_ms;
        }
        sharing.has_lease = has_lease;
        sharing.is_rejected = false;
        let others = nodes.iter().copied().filter(|node| *node != own);
        let with_lease: HashSet<u64> = others.collect();
        if !with_lease.is_subset(&sharing.with_lease) {
            // What a node tells before it has its lease is missed by those who have just begun to follow.
            let tags: Vec<_> = self.engine.channels.tags().collect();
            tags.into_iter()
                .for_each(|tag| self.engine.read_presence_again(tag));
        }
        // Redis may have lost the leases, or take none: who was there has time to come back, as this node has.
        let is_early = now_ms < sharing.since_ms + lease_ms;
        for (node, missed) in &mut sharing.nodes {
            *missed = match with_lease.contains(node) || is_early || !has_lease {
                true => 0,
                false => *missed + 1,
            };
        }
        sharing
            .nodes
            .extend(with_lease.iter().map(|node| (*node, 0)));
        sharing.with_lease = with_lease;
        let dead = sharing.nodes.iter().filter(|(_, missed)| **missed >= 2);
        let dead: Vec<u64> = dead.map(|(node, _)| *node).collect();
        for node in dead {
            tracing::warn!(
                node = node_name(node),
                "a node is gone: its users are not present any more"
            );
            self.sharing.nodes.remove(&node);
            self.engine.remove_node(node);
        }
        let count = self.sharing.nodes.len() as u64 + 1;
        self.engine.link().counters.nodes.set(count);
    }

    /// Reads who of the other nodes is on channels that this one has begun to follow.
    fn read_presence(&mut self) {
        let count = self.engine.unread_presence.len();
        let count = count.min(NODE_CATCH_UPS_AT_ONCE);
        let Some(mut connection) = self.connection() else {
            return;
        };
        if count == 0 || self.sharing.is_reading {
            return;
        }
        self.sharing.is_reading = true;
        let own = self.engine.link().node();
        let renew = self.renew_lease_command(&connection);
        let tags: Vec<_> = self.engine.unread_presence.drain(..count).collect();
        let channels = tags.into_iter().filter_map(|tag| {
            let channel = self.engine.channels.get_mut(tag)?;
            Some((tag, Arc::clone(&channel.name)))
        });
        let channels: Vec<_> = channels.collect();
        let tags: Vec<_> = channels.iter().map(|(tag, _)| *tag).collect();
        self.spawn(async move {
            // A node that is not among these tells all later, which this one hears.
            let nodes = match connection.run(vec![renew]).await.pop() {
                Some(Ok(value)) => read_nodes(value).unwrap_or_default(),
                Some(Err(error)) => return Event::PresenceRead(Err((tags, error))),
                None => Vec::new(),
            };
            let nodes: Vec<u64> = nodes.into_iter().filter(|node| *node != own).collect();
            let names = Arc::clone(&connection.names);
            let reads = channels.iter().flat_map(|(_, name)| {
                let nodes = nodes.iter();
                nodes.map(|node| names.read_presence(name, *node))
            });
            let mut answers = connection.run(reads.collect()).await.into_iter();
            let mut kept = Vec::with_capacity(channels.len());
            for (tag, _) in channels {
                let mut of_nodes = Vec::new();
                for (node, answer) in nodes.iter().zip(answers.by_ref()) {
                    match answer {
                        Ok(value) => of_nodes.push((*node, read_kept(value).unwrap_or_default())),
                        Err(error) => return Event::PresenceRead(Err((tags, error))),
                    }
                }
                kept.push((tag, of_nodes));
            }
            Event::PresenceRead(Ok((nodes, kept)))
        });
    }

    pub(super) fn presence_read(
        &mut self,
        result: Result<KeptPresence, (Vec<ChannelTag>, RedisError)>,
        now_ms: u64,
    ) {
        self.sharing.is_reading = false;
        match result {
            Ok((nodes, channels)) => {
                for node in &nodes {
                    self.sharing.nodes.entry(*node).or_default();
                }
                // A node may have got its lease since.
                let is_whole = self.sharing.with_lease.iter().all(|it| nodes.contains(it));
                for (tag, told) in channels {
                    for node in self.engine.presence_read(tag, &told, now_ms) {
                        self.sharing.nodes.entry(node).or_default();
                    }
                    if !is_whole {
                        self.engine.read_presence_again(tag);
                    }
                }
            }
            Err((tags, error)) if failure(&error) == Failure::Rejected => {
                self.presence_rejected(&error);
                for tag in tags {
                    self.engine.presence_read(tag, &[], now_ms);
                }
            }
            Err((_, error)) => self.lose(&error.to_string(), now_ms),
        }
    }

    /// A node tells who is on a channel there.
    pub(super) fn hear_presence(&mut self, tag: ChannelTag, text: Vec<u8>) {
        if let Some(node) = self.engine.hear_presence(tag, text) {
            self.sharing.nodes.entry(node).or_default();
        }
    }

    /// Tells the other nodes what has changed here, and a part of all there is.
    fn tell_presence(&mut self, now_ms: u64) {
        if self.sharing.is_telling || now_ms < self.sharing.paused_until_ms {
            return;
        }
        let table = &self.engine.process_state.presence;
        let changes = table.take_unsent();
        let sharing = &mut self.sharing;
        if sharing.parts_due == 0 && now_ms >= sharing.told_part_ms + NODE_TELL_PART_MS {
            sharing.parts_due = 1;
        }
        let count = sharing.parts_due.min(NODE_PRESENCE_PARTS_AT_ONCE);
        let mut all = Vec::new();
        for _ in 0..count {
            all.extend(table.here(sharing.next_part));
            sharing.next_part = (sharing.next_part + 1) % PresenceTable::PARTS;
            sharing.told_part_ms = now_ms;
        }
        sharing.parts_due -= count;
        self.send_presence(changes, all);
    }

    fn send_presence(&mut self, changes: Vec<LocalPresence>, all: Vec<LocalPresence>) {
        let Some(mut connection) = self.connection() else {
            return;
        };
        // In a cluster, two commands on one channel may overtake each other.
        let untold = changes.clone();
        let told: HashSet<_> = all.iter().map(|it| it.tag).collect();
        let changes = changes.iter().filter(|it| !told.contains(&it.tag));
        let changes = changes.map(|it| (it, Telling::Changes));
        let all = all.iter().map(|it| (it, Telling::All));
        let node = self.engine.link().node();
        let scripts = Arc::clone(&connection.scripts);
        let commands = changes
            .chain(all)
            .map(|(local, telling)| scripts.tell_presence(&connection.names, node, local, telling));
        let commands: Vec<_> = commands.collect();
        if commands.is_empty() {
            self.sharing.note_told();
            return;
        }
        self.sharing.is_telling = true;
        self.sharing.in_flight = untold;
        self.spawn(async move { Event::PresenceTold(connection.run(commands).await) });
    }

    pub(super) fn presence_told(&mut self, results: Vec<Result<Value, RedisError>>, now_ms: u64) {
        self.sharing.is_telling = false;
        self.sharing.note_told();
        let mut is_rejected = false;
        for error in results.into_iter().filter_map(Result::err) {
            if failure(&error) != Failure::Rejected {
                return self.lose(&error.to_string(), now_ms);
            }
            is_rejected = true;
            self.presence_rejected(&error);
        }
        let told = std::mem::take(&mut self.sharing.in_flight);
        if is_rejected {
            self.sharing.paused_until_ms = now_ms + NODE_TELL_PART_MS;
            self.engine.process_state.presence.put_back(&told);
        }
    }

    /// Tells the other nodes that nobody is here any more.
    pub(super) async fn take_leave(&mut self) {
        let Some(mut connection) = self.connection() else {
            return;
        };
        let table = &self.engine.process_state.presence;
        let here = (0..PresenceTable::PARTS).flat_map(|part| table.here(part));
        let mut told: Vec<_> = table.take_unsent().into_iter().chain(here).collect();
        let nobody = |local: &mut LocalPresence| local.presence = NodePresence::default();
        told.iter_mut().for_each(nobody);
        let node = self.engine.link().node();
        let scripts = Arc::clone(&connection.scripts);
        let commands = told.iter().map(|local| {
            let telling = Telling::All;
            scripts.tell_presence(&connection.names, node, local, telling)
        });
        let mut commands: Vec<_> = commands.collect();
        commands.push(connection.names.give_up_lease(node));
        let run = connection.run(commands);
        // Without an answer, the lease ends by itself.
        let _ = tokio::time::timeout(self.config.timeout, run).await;
    }

    fn presence_rejected(&self, error: &RedisError) {
        let counters = &self.engine.link().counters;
        if counters.presence_rejected.value() == 0 {
            tracing::error!(%error, "Redis rejects what nodes tell of presence");
        }
        counters.presence_rejected.add(1);
    }
}

pub(super) fn read_nodes(value: Value) -> Option<Vec<u64>> {
    let names: Vec<Vec<u8>> = redis::from_redis_value(value).ok()?;
    let names = names
        .iter()
        .filter_map(|name| std::str::from_utf8(name).ok());
    Some(names.filter_map(node_number).collect())
}

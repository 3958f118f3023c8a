//! The simplest model of who receives what.
//!
//! Publications stand in one log. Each shard has read the log up to some position; a subscription
//! made on a shard begins at the position of that shard and ends at the position it has when the
//! client unsubscribes.

use std::collections::HashMap;

/// A virtual connection, by its place in the world's list.
pub(crate) type ClientIndex = usize;

#[derive(Default)]
pub(crate) struct Oracle {
    /// Channel and message number of each publication, in the order of the node.
    log: Vec<(usize, u64)>,
    positions: Vec<usize>,
    subscriptions: HashMap<(ClientIndex, usize), usize>,
    expected: HashMap<ClientIndex, Vec<(usize, usize)>>,
}

impl Oracle {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            positions: vec![0; shards],
            ..Self::default()
        }
    }

    pub(crate) fn publish(&mut self, channel: usize, number: u64) {
        self.log.push((channel, number));
    }

    /// The shard has read everything in the log.
    pub(crate) fn shard_read_all(&mut self, shard: usize) {
        self.positions[shard] = self.log.len();
    }

    pub(crate) fn subscribe(&mut self, shard: usize, client: ClientIndex, channel: usize) {
        let from = self.positions[shard];
        self.subscriptions.entry((client, channel)).or_insert(from);
    }

    pub(crate) fn unsubscribe(&mut self, shard: usize, client: ClientIndex, channel: usize) {
        if let Some(from) = self.subscriptions.remove(&(client, channel)) {
            let until = self.positions[shard];
            self.note(client, channel, from, until);
        }
    }

    fn note(&mut self, client: ClientIndex, channel: usize, from: usize, until: usize) {
        let hits = (from..until).filter(|at| self.log[*at].0 == channel);
        let hits: Vec<_> = hits.map(|at| (at, channel)).collect();
        self.expected.entry(client).or_default().extend(hits);
    }

    /// Ends all subscriptions and tells, for each client, the numbers it must have, in order.
    pub(crate) fn finish(mut self) -> HashMap<ClientIndex, Vec<u64>> {
        let open = std::mem::take(&mut self.subscriptions);
        for ((client, channel), from) in open {
            self.note(client, channel, from, self.log.len());
        }
        let Self { log, expected, .. } = self;
        let numbers = |mut hits: Vec<(usize, usize)>| {
            hits.sort_unstable();
            hits.into_iter().map(|(at, _)| log[at].1).collect()
        };
        expected
            .into_iter()
            .map(|(client, hits)| (client, numbers(hits)))
            .collect()
    }
}

//! The simplest model of who receives what.
//!
//! Publications stand in one log. Each shard has read the log up to some position; a subscription
//! made on a shard begins at the position of that shard and ends at the position it has when the
//! client unsubscribes.

use crate::client::Received;
use std::collections::HashMap;

/// A virtual connection, by its index in the world's list.
pub(crate) type ClientIndex = usize;

#[derive(Default)]
pub(crate) struct Oracle {
    /// The publications, in the order of the node.
    log: Vec<Received>,
    positions: Vec<usize>,
    subscriptions: HashMap<(ClientIndex, usize), usize>,
    expected: HashMap<ClientIndex, Vec<usize>>,
}

impl Oracle {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            positions: vec![0; shards],
            ..Self::default()
        }
    }

    pub(crate) fn publish(&mut self, publication: Received) {
        self.log.push(publication);
    }

    /// The publications so far.
    pub(crate) fn log(&self) -> &[Received] {
        &self.log
    }

    /// How many publications the shard has read.
    pub(crate) fn position(&self, shard: usize) -> usize {
        self.positions[shard]
    }

    /// The shard has read so many more publications.
    pub(crate) fn shard_read(&mut self, shard: usize, count: usize) {
        self.positions[shard] += count;
        assert!(self.positions[shard] <= self.log.len());
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
        let hits = (from..until).filter(|at| self.log[*at].channel == channel);
        self.expected.entry(client).or_default().extend(hits);
    }

    /// Ends all subscriptions and returns, for each client, what it must have received, in order.
    pub(crate) fn finish(mut self) -> HashMap<ClientIndex, Vec<Received>> {
        let open = std::mem::take(&mut self.subscriptions);
        for ((client, channel), from) in open {
            self.note(client, channel, from, self.log.len());
        }
        let Self { log, expected, .. } = self;
        let publications = |mut hits: Vec<usize>| {
            hits.sort_unstable();
            hits.into_iter().map(|at| log[at]).collect()
        };
        expected
            .into_iter()
            .map(|(client, hits)| (client, publications(hits)))
            .collect()
    }
}

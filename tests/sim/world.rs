//! Shards, clients and chance.

use crate::client::{self, Client};
use crate::oracle::Oracle;
use crate::random::Random;
use crate::shards::{Shards, shards};
use fanwire::base::counters::DropReason;
use fanwire::base::{ConnectionId, Now, ProcessCounts, ShardCounters, Variant};
use fanwire::shard::{ConnectionAction, Shard};
use std::collections::HashMap;
use std::sync::Arc;

/// How a run looks.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) shards: usize,
    pub(crate) connections: usize,
    pub(crate) channels: usize,
    pub(crate) steps: usize,
    pub(crate) ring_bytes: u32,
    pub(crate) send_queue_bytes_max: u32,
    /// Clients come, go, subscribe and unsubscribe while publications are under way.
    pub(crate) churn: bool,
    /// Most milliseconds that pass at once.
    pub(crate) pause_ms: usize,
}

pub(crate) struct World {
    plan: Plan,
    random: Random,
    now: Now,
    shards: Vec<Shard>,
    counters: Vec<Arc<ShardCounters>>,
    process_counts: Arc<ProcessCounts>,
    clients: Vec<Client>,
    by_id: HashMap<(usize, ConnectionId), usize>,
    oracle: Oracle,
    published: u64,
    /// Numbers in the order in which each publisher sent them.
    by_publisher: HashMap<usize, Vec<u64>>,
}

/// A run whose ring never fills is compared with the oracle's log; where it fills, the order of the
/// log is the ring's secret, and order is checked between subscribers and against publishers.
const RING_FITS: u32 = 1 << 20;

impl World {
    pub(crate) fn new(plan: Plan, seed: u64) -> Self {
        let now = Now::at(1_000, 1_700_000_000_000);
        let Shards {
            shards,
            counters,
            process_counts,
        } = shards(plan.shards, plan.ring_bytes, plan.send_queue_bytes_max, now);
        Self {
            plan,
            random: Random::new(seed),
            now,
            shards,
            counters,
            process_counts,
            clients: Vec::new(),
            by_id: HashMap::new(),
            oracle: Oracle::new(plan.shards),
            published: 0,
            by_publisher: HashMap::new(),
        }
    }

    pub(crate) fn run(&mut self) {
        for _ in 0..self.plan.connections {
            self.connect();
        }
        if !self.plan.churn {
            self.settle_subscriptions();
        }
        for _ in 0..self.plan.steps {
            match self.random.below(if self.plan.churn { 12 } else { 8 }) {
                0..3 => self.publish(),
                3 => {
                    let shard = self.random.below(self.plan.shards);
                    self.drain(shard);
                }
                4 | 5 => {
                    let shard = self.random.below(self.plan.shards);
                    self.flush(shard);
                }
                6 => self.toggle_blocked(),
                7 => self.pass_time(),
                8 | 9 => self.subscribe_or_not(),
                10 => self.connect(),
                _ => self.on_eof(),
            }
        }
    }

    fn connect(&mut self) {
        let shard = self.random.below(self.plan.shards);
        let dialect = client::DIALECTS[self.random.below(client::DIALECTS.len())];
        let peer = ([127, 0, 0, 1], 9).into();
        let id = self.shards[shard].accept(peer, 0, self.now).unwrap();
        self.by_id.insert((shard, id), self.clients.len());
        self.clients.push(Client::new(shard, id, dialect));
        self.send_in_pieces(self.clients.len() - 1, client::request(dialect));
    }

    /// Gives the bytes to the client's shard, cut at random.
    fn send_in_pieces(&mut self, client: usize, mut bytes: Vec<u8>) {
        let Client { shard, id, .. } = self.clients[client];
        while !bytes.is_empty() {
            let whole = self.random.once_in(2);
            let length = if whole {
                bytes.len()
            } else {
                1 + self.random.below(bytes.len())
            };
            let mut piece: Vec<_> = bytes.drain(..length).collect();
            self.shards[shard].receive(id, &mut piece, self.now);
        }
        self.carry_out(shard);
    }

    /// A client that is connected and does not wait for its end.
    fn any_client(&mut self) -> Option<usize> {
        let client = self.random.below(self.clients.len());
        let Client {
            is_gone,
            close_code,
            is_stuck,
            ..
        } = self.clients[client];
        (!is_gone && close_code.is_none() && !is_stuck).then_some(client)
    }

    /// Every client subscribes to one channel and every shard is in the same state.
    fn settle_subscriptions(&mut self) {
        for client in 0..self.clients.len() {
            let channel = self.random.below(self.plan.channels);
            self.subscribe(client, channel);
        }
        let stuck = self.plan.send_queue_bytes_max < RING_FITS;
        for client in 0..self.clients.len() {
            self.clients[client].is_stuck = stuck && self.random.once_in(5);
        }
    }

    fn subscribe(&mut self, client: usize, channel: usize) {
        let bytes = self.clients[client].subscribe(channel);
        self.oracle
            .subscribe(self.clients[client].shard, client, channel);
        self.send_in_pieces(client, bytes);
    }

    fn subscribe_or_not(&mut self) {
        let Some(client) = self.any_client() else {
            return;
        };
        let channel = self.random.below(self.plan.channels);
        if self.random.once_in(3) {
            let bytes = self.clients[client].unsubscribe(channel);
            self.oracle
                .unsubscribe(self.clients[client].shard, client, channel);
            self.send_in_pieces(client, bytes);
        } else {
            self.subscribe(client, channel);
        }
    }

    fn publish(&mut self) {
        let Some(client) = self.any_client() else {
            return;
        };
        let shard = self.clients[client].shard;
        if self.shards[shard].is_congested() {
            // The wire gives a congested shard no input.
            self.shards[shard].retry_unsent();
            return;
        }
        let channel = self.random.below(self.plan.channels);
        // Now and then one that needs several records of a small ring.
        let padding = match self.random.below(40) {
            0 => self.plan.ring_bytes as usize / 7,
            _ => self.random.below(300),
        };
        let bytes = self.clients[client].publish(channel, self.published, padding.min(40_000));
        let accepted = self.counters[shard].publications.value();
        self.send_in_pieces(client, bytes);
        if self.counters[shard].publications.value() == accepted {
            // The publisher has been closed as a slow consumer and has not read of it yet.
            assert!(
                self.plan.send_queue_bytes_max < RING_FITS,
                "a publication was refused"
            );
            return;
        }
        self.oracle.publish(channel, self.published);
        self.by_publisher
            .entry(client)
            .or_default()
            .push(self.published);
        self.published += 1;
        if self.plan.ring_bytes >= RING_FITS {
            assert!(
                !self.shards[shard].is_congested(),
                "the ring was to be large enough"
            );
            if self.published.is_multiple_of(16) {
                (0..self.plan.shards).for_each(|shard| self.drain(shard));
            }
        }
    }

    fn drain(&mut self, shard: usize) {
        while self.shards[shard].has_unread() {
            if self.shards[shard].drain_ring(self.now) == 0 {
                self.flush(shard);
            }
        }
        self.oracle.shard_read_all(shard);
        self.carry_out(shard);
    }

    /// Sends what waits, with sockets that take all, a part or nothing.
    fn flush(&mut self, shard: usize) {
        while let Some(id) = self.shards[shard].next_ready() {
            let client = self.by_id[&(shard, id)];
            let slices_max = 1 + self.random.below(4);
            let slices = self.shards[shard].begin_send(id, slices_max);
            let mut bytes = slices.collect::<Vec<_>>().concat();
            let whole = bytes.len();
            if self.clients[client].is_blocked || self.clients[client].is_stuck {
                bytes.clear();
            } else if self.random.once_in(3) {
                bytes.truncate(self.random.below(whole + 1));
            }
            self.clients[client].take(&bytes);
            self.shards[shard].sent(id, u32::try_from(bytes.len()).unwrap());
            if bytes.len() < whole {
                self.shards[shard].would_block(id);
                self.clients[client].is_blocked = true;
            }
        }
        self.carry_out(shard);
    }

    fn unblock_all(&mut self) {
        for client in &mut self.clients {
            if client.is_blocked && !client.is_stuck {
                client.is_blocked = false;
                self.shards[client.shard].writable(client.id);
            }
        }
    }

    /// Sends until only clients that do not read have something waiting.
    fn flush_wholly(&mut self, shard: usize) {
        self.unblock_all();
        while self.shards[shard].has_ready() {
            self.flush(shard);
            self.unblock_all();
        }
    }

    fn toggle_blocked(&mut self) {
        for client in 0..self.clients.len() {
            let Client {
                shard,
                id,
                is_blocked,
                is_stuck,
                ..
            } = self.clients[client];
            if is_blocked && !is_stuck && self.random.once_in(2) {
                self.clients[client].is_blocked = false;
                self.shards[shard].writable(id);
            }
        }
    }

    /// Heartbeats are due now and then, and answered in time by all clients that read.
    fn pass_time(&mut self) {
        self.unblock_all();
        (0..self.plan.shards).for_each(|shard| self.flush_wholly(shard));
        for client in 0..self.clients.len() {
            let pings = std::mem::take(&mut self.clients[client].pings);
            let Client {
                is_gone,
                close_code,
                ..
            } = self.clients[client];
            if pings > 0 && close_code.is_none() && !is_gone {
                self.send_in_pieces(client, client::frame(10, b""));
            }
        }
        let passed_ms = self.random.below(self.plan.pause_ms) as u64;
        self.now.monotonic_ms += passed_ms;
        self.now.unix_ms += passed_ms;
        for shard in 0..self.plan.shards {
            self.shards[shard].expire_timers(self.now);
            self.carry_out(shard);
        }
    }

    fn on_eof(&mut self) {
        let Some(client) = self.any_client() else {
            return;
        };
        let Client { shard, id, .. } = self.clients[client];
        self.clients[client].is_gone = true;
        for channel in 0..self.plan.channels {
            self.oracle.unsubscribe(shard, client, channel);
        }
        self.shards[shard].on_eof(id, self.now);
        self.carry_out(shard);
    }

    fn carry_out(&mut self, shard: usize) {
        loop {
            let requests = self.shards[shard].take_actions();
            if requests.is_empty() {
                return;
            }
            for request in requests {
                match request {
                    // The peer sees the end of the stream and ends its own.
                    ConnectionAction::ShutdownWrite(id) => self.shards[shard].on_eof(id, self.now),
                    ConnectionAction::Close(id) => {
                        let client = self.by_id.remove(&(shard, id)).unwrap();
                        self.clients[client].is_gone = true;
                        self.shards[shard].release(id);
                    }
                    request => panic!("no client speaks HTTP: {request:?}"),
                }
            }
        }
    }

    /// Lets everything arrive, then compares.
    pub(crate) fn finish(mut self) {
        while (0..self.plan.shards).any(|shard| self.shards[shard].is_congested()) {
            for shard in 0..self.plan.shards {
                self.shards[shard].retry_unsent();
                self.drain(shard);
            }
        }
        self.unblock_all();
        for shard in 0..self.plan.shards {
            self.drain(shard);
            self.flush_wholly(shard);
        }
        self.check_counters();
        self.check_received();
    }

    fn check_received(mut self) {
        let oracle = std::mem::take(&mut self.oracle);
        let expected = oracle.finish();
        let fits = self.plan.ring_bytes >= RING_FITS;
        if self.plan.send_queue_bytes_max >= RING_FITS {
            let queued: usize = expected.values().map(Vec::len).sum();
            let counters = self.counters.iter();
            let left = counters.map(|counters| {
                let dropped = counters.dropped.values().map(|(_, count)| count);
                counters.deliveries.value() + dropped.sum::<u64>()
            });
            let left: u64 = left.sum();
            assert_eq!(
                left, queued as u64,
                "all that was queued was delivered or dropped"
            );
        }
        let mut complete = 0;
        for (index, client) in self.clients.iter().enumerate() {
            let mut expected = expected.get(&index).cloned().unwrap_or_default();
            let mut received = client.numbers.clone();
            if !fits {
                self.check_publisher_order(&received);
                expected.sort_unstable();
                received.sort_unstable();
            }
            if client.is_gone || client.close_code.is_some() || client.is_stuck {
                // Whoever left has a beginning of what was meant for it.
                if fits {
                    assert!(
                        expected.starts_with(&received),
                        "client {index} has something else"
                    );
                }
                continue;
            }
            assert_eq!(received, expected, "client {index}");
            complete += usize::from(!expected.is_empty());
        }
        assert!(
            complete >= self.clients.len() / 10,
            "only {complete} clients received anything"
        );
        self.check_common_order();
    }

    fn check_publisher_order(&self, received: &[u64]) {
        for numbers in self.by_publisher.values() {
            let of_publisher = received.iter().filter(|number| numbers.contains(number));
            assert!(of_publisher.is_sorted(), "a publisher's order was changed");
        }
    }

    /// Any two clients received what both have in the same order.
    fn check_common_order(&self) {
        let mut order: HashMap<u64, usize> = HashMap::new();
        let longest = self
            .clients
            .iter()
            .max_by_key(|client| client.numbers.len())
            .unwrap();
        for (at, number) in longest.numbers.iter().enumerate() {
            order.insert(*number, at);
        }
        for client in &self.clients {
            let places = client.numbers.iter().filter_map(|number| order.get(number));
            assert!(places.is_sorted(), "two clients disagree on the order");
        }
    }

    fn check_counters(&self) {
        let sum = |pick: &dyn Fn(&ShardCounters) -> u64| -> u64 {
            self.counters.iter().map(|counters| pick(counters)).sum()
        };
        let received: usize = self.clients.iter().map(|client| client.numbers.len()).sum();
        let deliveries = sum(&|counters| counters.deliveries.value());
        assert_eq!(
            deliveries, received as u64,
            "deliveries are what clients received"
        );
        assert_eq!(
            sum(&|counters| counters.publications.value()),
            self.published
        );
        for variant in Variant::all() {
            let encodes = sum(&|counters| counters.encodes.of(variant).value());
            // A late subscriber's shard may have to encode for itself.
            let most = self.published * (1 + self.plan.shards as u64);
            assert!(
                encodes
                    <= if self.plan.churn {
                        most
                    } else {
                        self.published
                    }
            );
        }
        let full = sum(&|counters| counters.ring_full.value());
        assert_eq!(
            full > 0,
            self.plan.ring_bytes < RING_FITS,
            "the ring was full {full} times"
        );
        let slow = sum(&|counters| counters.dropped.of(DropReason::SlowConsumer).value());
        let stuck = self.clients.iter().filter(|client| client.is_stuck).count();
        assert_eq!(
            slow > 0,
            stuck > 0,
            "{slow} dropped, {stuck} clients do not read"
        );
        let open = self.clients.iter().filter(|client| !client.is_gone);
        let open = open.filter(|client| client.close_code.is_none()).count() as u64;
        assert!(self.process_counts.sessions_total() <= open);
    }
}

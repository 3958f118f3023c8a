//! Shards, clients and chance.

use crate::client::{self, Client, Received};
use crate::oracle::Oracle;
use crate::random::Random;
use crate::shards::{ShardList, Shards, shards};
use fanwire::base::{ConnectionId, Now, ProcessState, ShardCounters};
use fanwire::shard::ConnectionAction;
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
    /// Clients come and go while publications are under way.
    pub(crate) churn: bool,
    /// Most milliseconds that pass at once.
    pub(crate) pause_ms: usize,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    random: Random,
    now: Now,
    shards: ShardList,
    pub(crate) counters: Vec<Arc<ShardCounters>>,
    pub(crate) process_state: Arc<ProcessState>,
    pub(crate) clients: Vec<Client>,
    by_id: HashMap<(usize, ConnectionId), usize>,
    pub(crate) oracle: Oracle,
    /// Numbers in the order in which each publisher sent them.
    pub(crate) by_publisher: HashMap<usize, Vec<u64>>,
}

/// A run whose ring never fills is compared with the oracle's log. Where it fills, what a publisher
/// was told to wait with is written later: the log has the right publications but not their order,
/// and order is checked between subscribers and against publishers.
pub(crate) const RING_FITS: u32 = 1 << 20;
/// No send queue fills: that is what `slow_consumers` is about.
const SEND_QUEUE_BYTES_MAX: u32 = 1 << 22;
/// Most channels to which a client subscribes at the beginning.
const CHANNELS_AT_FIRST: usize = 4;

impl World {
    pub(crate) fn new(plan: Plan, seed: u64) -> Self {
        let now = Now::at(1_000, 1_700_000_000_000);
        let Shards {
            shards,
            counters,
            process_state,
            ..
        } = shards(plan.shards, plan.ring_bytes, SEND_QUEUE_BYTES_MAX, now);
        Self {
            plan,
            random: Random::new(seed),
            now,
            shards,
            counters,
            process_state,
            clients: Vec::new(),
            by_id: HashMap::new(),
            oracle: Oracle::new(plan.shards),
            by_publisher: HashMap::new(),
        }
    }

    /// Whether the ring never fills.
    pub(crate) fn ring_fits(&self) -> bool {
        self.plan.ring_bytes >= RING_FITS
    }

    pub(crate) fn run(&mut self) {
        for _ in 0..self.plan.connections {
            self.connect();
        }
        for client in 0..self.clients.len() {
            for _ in 0..=self.random.below(CHANNELS_AT_FIRST) {
                let channel = self.random.below(self.plan.channels);
                self.subscribe(client, channel);
            }
        }
        for _ in 0..self.plan.steps {
            match self.random.below(if self.plan.churn { 12 } else { 10 }) {
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
                _ => self.disconnect(),
            }
        }
    }

    fn connect(&mut self) {
        let shard = self.random.below(self.plan.shards);
        let dialect = client::DIALECTS[self.random.below(client::DIALECTS.len())];
        let peer = ([127, 0, 0, 1], 9).into();
        let id = self.shards[shard].accept(peer, 0, self.now).unwrap();
        self.by_id.insert((shard, id), self.clients.len());
        let client = Client::new(shard, id, dialect);
        // Every other one compresses, with one window or the other.
        let parameters = match self.clients.len() % 4 {
            1 => Some("; client_max_window_bits"),
            3 => Some("; server_max_window_bits=10"),
            _ => None,
        };
        let (client, request) = match parameters {
            Some(parameters) => (
                client.compressing(),
                client::compressing_request(dialect, parameters),
            ),
            None => (client, client::request(dialect)),
        };
        self.clients.push(client);
        self.send_in_pieces(self.clients.len() - 1, request);
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
            while self.shards[shard].has_waiting_input() {
                self.shards[shard].continue_input(self.now);
            }
        }
        self.carry_out(shard);
    }

    /// A client that is connected.
    fn any_client(&mut self) -> Option<usize> {
        let client = self.random.below(self.clients.len());
        (!self.clients[client].is_gone).then_some(client)
    }

    fn subscribe(&mut self, client: usize, channel: usize) {
        let bytes = self.clients[client].subscribe(channel);
        self.oracle
            .subscribe(self.clients[client].shard, client, channel);
        self.send_in_pieces(client, bytes);
    }

    fn subscribe_or_not(&mut self) {
        if !self.ring_fits() {
            // Rarely, as it empties the ring: only then the log tells what was published before.
            if !self.random.once_in(20) {
                return;
            }
            self.drain_all();
        }
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
            self.shards[shard].retry_unsent(self.now);
            return;
        }
        // Several in one read now and then. Where the ring may be full the second one might wait for
        // room, and others would come before it.
        let count = if self.ring_fits() {
            1 + self.random.below(4) / 2
        } else {
            1
        };
        let mut bytes = Vec::new();
        for _ in 0..count {
            let publication = self.next_publication();
            bytes.extend(self.clients[client].publish(publication));
            self.oracle.publish(publication);
            let numbers = self.by_publisher.entry(client).or_default();
            numbers.push(publication.number);
        }
        let accepted = self.counters[shard].publications.value();
        self.send_in_pieces(client, bytes);
        assert_eq!(
            self.counters[shard].publications.value(),
            accepted + count as u64,
            "all were accepted"
        );
        if self.ring_fits() {
            assert!(
                !self.shards[shard].is_congested(),
                "the ring was to be large enough"
            );
            // Every sixteen publications.
            if self.oracle.log().len() % 16 < count {
                (0..self.plan.shards).for_each(|shard| self.drain(shard));
            }
        }
    }

    fn next_publication(&mut self) -> Received {
        // Now and then one that needs several records of a small ring.
        let padding_bytes = match self.random.below(40) {
            0 => (self.plan.ring_bytes as usize / 7).min(40_000),
            _ => self.random.below(300),
        };
        Received {
            number: self.oracle.log().len() as u64,
            channel: self.random.below(self.plan.channels),
            padding_bytes,
        }
    }

    /// Lets every shard write and read all that was published.
    fn drain_all(&mut self) {
        while (0..self.plan.shards).any(|shard| self.shards[shard].is_congested()) {
            for shard in 0..self.plan.shards {
                self.shards[shard].retry_unsent(self.now);
                self.drain(shard);
            }
        }
        (0..self.plan.shards).for_each(|shard| self.drain(shard));
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
        while let Some(id) = self.shards[shard].next_ready(&mut { usize::MAX }) {
            let client = self.by_id[&(shard, id)];
            let slices_max = 1 + self.random.below(4);
            let slices = self.shards[shard].begin_send(id, slices_max);
            let mut bytes = slices.collect::<Vec<_>>().concat();
            let whole = bytes.len();
            if self.clients[client].is_blocked {
                bytes.clear();
            } else if self.random.once_in(3) {
                bytes.truncate(self.random.below(whole + 1));
            }
            self.clients[client].take(&bytes);
            self.shards[shard].sent(id, u32::try_from(bytes.len()).unwrap());
            if bytes.len() < whole {
                self.shards[shard].would_block(id, self.now);
                self.clients[client].is_blocked = true;
            }
        }
        self.carry_out(shard);
    }

    fn unblock_all(&mut self) {
        for client in &mut self.clients {
            if client.is_blocked {
                client.is_blocked = false;
                self.shards[client.shard].writable(client.id);
            }
        }
    }

    /// Sends until nothing waits.
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
                ..
            } = self.clients[client];
            if is_blocked && self.random.once_in(2) {
                self.clients[client].is_blocked = false;
                self.shards[shard].writable(id);
            }
        }
    }

    /// Heartbeats are due now and then, and answered in time.
    fn pass_time(&mut self) {
        self.unblock_all();
        (0..self.plan.shards).for_each(|shard| self.flush_wholly(shard));
        for client in 0..self.clients.len() {
            let pings = std::mem::take(&mut self.clients[client].pings);
            if pings > 0 && !self.clients[client].is_gone {
                self.send_in_pieces(client, client::frame(10, b""));
            }
        }
        let passed_ms = self.random.below(self.plan.pause_ms) as u64;
        self.now.monotonic_ms += passed_ms;
        self.now.unix_ms += passed_ms;
        for shard in 0..self.plan.shards {
            self.shards[shard].expire_timers(self.now);
            for (id, query) in self.shards[shard].take_queries() {
                // The kernels of the clients acknowledge all that they receive, pings too.
                self.shards[shard].unacknowledged(id, query, Some(0), self.now);
            }
            self.carry_out(shard);
        }
    }

    fn disconnect(&mut self) {
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
            let actions = self.shards[shard].take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    ConnectionAction::Close(id) | ConnectionAction::Reset(id) => {
                        let client = self.by_id.remove(&(shard, id)).unwrap();
                        assert!(
                            self.clients[client].is_gone,
                            "client {client} is closed, and has not sent its end"
                        );
                        self.shards[shard].release(id);
                    }
                    // Two of the largest publications in one piece, which is handled by now.
                    ConnectionAction::PauseReceive(_) | ConnectionAction::ResumeReceive(_) => {}
                    action => panic!("nobody is closed by the server: {action:?}"),
                }
            }
        }
    }

    /// Lets everything arrive.
    pub(crate) fn deliver_all(&mut self) {
        self.drain_all();
        self.unblock_all();
        (0..self.plan.shards).for_each(|shard| self.flush_wholly(shard));
    }
}

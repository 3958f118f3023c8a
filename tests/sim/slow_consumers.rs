//! Is just who falls behind closed, and is just what it loses counted?
//!
//! What waits for a client is known to the byte: all frames that were queued for it, less what its
//! socket took. So it is known, for every client and every read of the ring, whether its send queue must
//! overflow; who keeps up must never be closed.

use crate::client::{self, Client, Received};
use crate::oracle::Oracle;
use crate::order;
use crate::random::Random;
use crate::seeds::seeds;
use crate::shards::{ShardList, Shards, shards};
use fanwire::base::counters::{CloseReason, DropReason};
use fanwire::base::{ConnectionId, DialectId, Now, ShardCounters};
use fanwire::shard::ConnectionAction;
use std::collections::HashMap;
use std::sync::Arc;

const SHARDS: usize = 3;
const CLIENTS: usize = 40;
const CHANNELS: usize = 6;
const STEPS: usize = 4_000;
const SEND_QUEUE_BYTES_MAX: u32 = 4_096;
/// Longest padding of a publication, bytes: so that what one read of the ring may deliver, a quarter
/// of a send queue and one more publication, is far below a send queue.
const PADDING_BYTES_MAX: usize = 300;

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pace {
    /// All that is sent, at once.
    KeepsUp,
    /// Nothing for a while, now and then.
    Falters,
    /// Nothing any more.
    Stuck,
}

/// What the server knows of a client and the client does not tell.
struct Peer {
    pace: Pace,
    channels: Vec<usize>,
    /// Bytes queued for it that its socket has not taken.
    waiting_bytes: usize,
    /// Its socket has taken nothing since it was full.
    is_stuck: bool,
    /// How many publications were queued for it.
    queued: usize,
    closed: Option<Closed>,
}

/// What was known when a client was closed.
struct Closed {
    /// Publications that were certainly dropped as a slow consumer's, and those that may have been.
    dropped_at_least: usize,
    dropped_at_most: usize,
}

struct Readers {
    random: Random,
    now: Now,
    shards: ShardList,
    counters: Vec<Arc<ShardCounters>>,
    clients: Vec<Client>,
    peers: Vec<Peer>,
    by_id: HashMap<(usize, ConnectionId), usize>,
    oracle: Oracle,
}

impl Readers {
    fn new(seed: u64) -> Self {
        let now = Now::at(1_000, 1_700_000_000_000);
        let Shards {
            shards, counters, ..
        } = shards(SHARDS, 1 << 20, SEND_QUEUE_BYTES_MAX, now);
        let mut readers = Self {
            random: Random::new(seed),
            now,
            shards,
            counters,
            clients: Vec::new(),
            peers: Vec::new(),
            by_id: HashMap::new(),
            oracle: Oracle::new(SHARDS),
        };
        (0..CLIENTS).for_each(|index| readers.connect(index));
        readers
    }

    /// A client that subscribes to some channels and has read all answers.
    fn connect(&mut self, index: usize) {
        let shard = self.random.below(SHARDS);
        let dialect = client::DIALECTS[self.random.below(client::DIALECTS.len())];
        let peer = ([127, 0, 0, 1], 9).into();
        let id = self.shards[shard].accept(peer, 0, self.now).unwrap();
        let mut client = Client::new(shard, id, dialect);
        let mut bytes = client::request(dialect);
        let mut channels: Vec<_> = (0..CHANNELS).collect();
        channels.retain(|_| self.random.once_in(3));
        for channel in &channels {
            bytes.extend(client.subscribe(*channel));
            self.oracle.subscribe(shard, index, *channel);
        }
        self.shards[shard].receive(id, &mut bytes, self.now);
        while self.shards[shard].has_waiting_input() {
            self.shards[shard].continue_input(self.now);
        }
        self.by_id.insert((shard, id), index);
        self.clients.push(client);
        self.peers.push(Peer {
            // The first publishes.
            pace: match self.random.below(4) {
                _ if index == 0 => Pace::KeepsUp,
                0 | 1 => Pace::KeepsUp,
                2 => Pace::Falters,
                _ => Pace::Stuck,
            },
            channels,
            waiting_bytes: 0,
            is_stuck: false,
            queued: 0,
            closed: None,
        });
        while let Some(id) = self.shards[shard].next_ready(&mut { usize::MAX }) {
            let bytes = self.shards[shard].begin_send(id, 64).collect::<Vec<_>>();
            let bytes = bytes.concat();
            self.shards[shard].sent(id, u32::try_from(bytes.len()).unwrap());
            self.clients[index].take(&bytes);
        }
        assert_eq!(
            self.clients[index].acknowledged,
            self.clients[index].requested
        );
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            let shard = self.random.below(SHARDS);
            match self.random.below(8) {
                0..4 => self.publish(),
                // A read takes two or three publications.
                4 | 5 => (0..self.random.below(16)).for_each(|_| self.read_ring(shard)),
                6 => self.flush(shard),
                _ => self.wake_some(),
            }
        }
    }

    /// A client that keeps up publishes, so that nobody's publications end when it is closed.
    fn publish(&mut self) {
        let client = self.random.below(CLIENTS);
        let client = match self.peers[client].pace {
            Pace::KeepsUp => client,
            _ => 0,
        };
        let Client { shard, id, .. } = self.clients[client];
        let publication = Received {
            number: self.oracle.log().len() as u64,
            channel: self.random.below(CHANNELS),
            padding_bytes: self.random.below(PADDING_BYTES_MAX),
        };
        let mut bytes = self.clients[client].publish(publication);
        self.shards[shard].receive(id, &mut bytes, self.now);
        assert!(
            !self.shards[shard].is_congested(),
            "the ring is large enough"
        );
        self.oracle.publish(publication);
        if self.clients[client].dialect == DialectId::Monitoring {
            let channel = publication.channel;
            let answer = format!(r#"{{"type":"PUBLISHED","property_id":"{channel}"}}"#);
            self.peers[client].waiting_bytes += frame_bytes(answer.len());
        }
        // It reads the answer at once.
        self.flush(shard);
    }

    /// One read of the ring, and what it must mean for each client.
    fn read_ring(&mut self, shard: usize) {
        let from = self.oracle.position(shard);
        let count = self.shards[shard].drain_ring(self.now);
        self.oracle.shard_read(shard, count);
        // Who is stuck has acknowledged nothing.
        for (id, query) in self.shards[shard].take_queries() {
            self.shards[shard].unacknowledged(id, query, None, self.now);
        }
        let read = from..from + count;
        for index in 0..CLIENTS {
            if self.clients[index].shard == shard && self.peers[index].closed.is_none() {
                self.queue(index, read.clone());
            }
        }
        self.flush(shard);
    }

    /// Queues what was read for a client, and compares whether the server has closed it.
    fn queue(&mut self, index: usize, read: std::ops::Range<usize>) {
        let Client {
            shard, id, dialect, ..
        } = self.clients[index];
        let peer = &mut self.peers[index];
        let log = self.oracle.log()[read].iter();
        let wanted = log.filter(|publication| peer.channels.contains(&publication.channel));
        let wanted: Vec<_> = wanted.copied().collect();
        let sizes = wanted.iter();
        let bytes: usize = sizes
            .map(|publication| frame_bytes(publication.text(dialect).len()))
            .sum();
        assert!(
            bytes < SEND_QUEUE_BYTES_MAX as usize,
            "one read of the ring would fill an empty send queue"
        );
        let last = wanted.last().map_or(0, |publication| {
            frame_bytes(publication.text(dialect).len())
        });
        // A run is refused when more than the limit waits, and it may hold several publications.
        let max = SEND_QUEUE_BYTES_MAX as usize;
        let may_overflow = peer.is_stuck && peer.waiting_bytes + bytes - last > max;
        let must_overflow = peer.is_stuck && peer.waiting_bytes > max && bytes > 0;
        let is_open = self.shards[shard].describe(id, self.now).is_some();
        assert!(
            if is_open {
                !must_overflow
            } else {
                may_overflow
            },
            "client {index} ({:?}) of shard {shard} is open: {is_open}; {} bytes wait, {bytes} come",
            peer.pace,
            peer.waiting_bytes
        );
        assert!(
            is_open || peer.pace != Pace::KeepsUp,
            "client {index} keeps up and was closed"
        );
        let waiting = peer.queued - self.clients[index].received.len();
        peer.queued += wanted.len();
        peer.waiting_bytes += bytes;
        if !is_open {
            for channel in &peer.channels {
                self.oracle.unsubscribe(shard, index, *channel);
            }
            peer.closed = Some(Closed {
                // The frame of which the client has a part is still sent to it.
                dropped_at_least: waiting.saturating_sub(1) + 1,
                dropped_at_most: waiting + wanted.len(),
            });
        }
    }

    /// Sends what waits, with sockets that take all, a part or nothing.
    fn flush(&mut self, shard: usize) {
        while let Some(id) = self.shards[shard].next_ready(&mut { usize::MAX }) {
            let index = self.by_id[&(shard, id)];
            let slices_max = 1 + self.random.below(4);
            let slices = self.shards[shard].begin_send(id, slices_max);
            let mut bytes = slices.collect::<Vec<_>>().concat();
            let whole = bytes.len();
            let takes_part = self.random.once_in(3);
            match self.peers[index].pace {
                Pace::Stuck => bytes.clear(),
                Pace::KeepsUp | Pace::Falters if takes_part => {
                    bytes.truncate(self.random.below(whole + 1));
                }
                _ => {}
            }
            self.clients[index].take(&bytes);
            let peer = &mut self.peers[index];
            if peer.closed.is_none() {
                peer.waiting_bytes -= bytes.len();
            }
            self.shards[shard].sent(id, u32::try_from(bytes.len()).unwrap());
            peer.is_stuck = bytes.len() < whole;
            if bytes.len() < whole {
                self.shards[shard].would_block(id, self.now);
                if peer.pace == Pace::KeepsUp {
                    self.shards[shard].writable(id);
                } else {
                    self.clients[index].is_blocked = true;
                }
            }
        }
        self.carry_out(shard);
    }

    /// Some of those that faltered read on.
    fn wake_some(&mut self) {
        for index in 0..CLIENTS {
            if self.peers[index].pace == Pace::Falters && self.random.once_in(2) {
                self.unblock(index);
            }
        }
    }

    fn unblock(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if std::mem::take(&mut client.is_blocked) && !client.is_gone {
            self.shards[client.shard].writable(client.id);
        }
    }

    fn carry_out(&mut self, shard: usize) {
        for action in self.shards[shard].take_actions() {
            let ConnectionAction::Reset(id) = action else {
                panic!("nobody leaves but who is slow: {action:?}");
            };
            let index = self.by_id.remove(&(shard, id)).unwrap();
            assert!(self.peers[index].closed.is_some(), "client {index} is gone");
            self.clients[index].is_gone = true;
            self.shards[shard].release(id);
        }
    }

    fn finish(mut self) {
        for shard in 0..SHARDS {
            while self.shards[shard].has_unread() {
                self.read_ring(shard);
            }
            self.flush(shard);
        }
        // Whoever can, reads all.
        for index in 0..CLIENTS {
            while self.peers[index].pace == Pace::Falters && self.clients[index].is_blocked {
                self.unblock(index);
                self.flush(self.clients[index].shard);
            }
        }
        self.check();
    }

    fn check(mut self) {
        let mut expected = std::mem::take(&mut self.oracle).finish();
        let mut of_pace = HashMap::<(Pace, bool), usize>::new();
        for (index, (client, peer)) in self.clients.iter().zip(&self.peers).enumerate() {
            let expected = expected.remove(&index).unwrap_or_default();
            assert_eq!(peer.queued, expected.len(), "client {index}");
            let is_closed = peer.closed.is_some();
            *of_pace.entry((peer.pace, is_closed)).or_default() += 1;
            assert_eq!(client.is_gone, is_closed, "client {index}");
            match (peer.pace, is_closed) {
                (Pace::Stuck, _) => assert_eq!(client.received, []),
                (_, true) => {
                    assert!(expected.starts_with(&client.received), "client {index}");
                    assert_eq!(client.close, None, "client {index} was reset");
                }
                (_, false) => {
                    let who = format!("client {index} ({:?})", peer.pace);
                    order::assert_same(&client.received, &expected, &who);
                    assert_eq!(client.close, None, "client {index}");
                }
            }
        }
        for outcome in [
            (Pace::KeepsUp, false),
            (Pace::Falters, true),
            (Pace::Stuck, true),
        ] {
            assert!(of_pace.contains_key(&outcome), "{outcome:?} never happened");
        }
        (0..SHARDS).for_each(|shard| self.check_counters(shard));
    }

    /// All that was queued was delivered, or dropped for its reason.
    fn check_counters(&self, shard: usize) {
        let all = self.clients.iter().zip(&self.peers);
        let here: Vec<_> = all.filter(|(client, _)| client.shard == shard).collect();
        let counters = &self.counters[shard];
        let queued: usize = here.iter().map(|(_, peer)| peer.queued).sum();
        let received: usize = here.iter().map(|(client, _)| client.received.len()).sum();
        // What was queued for who is stuck but not closed still waits.
        let open = here.iter().filter(|(_, peer)| peer.closed.is_none());
        let waiting: usize = open
            .map(|(client, peer)| peer.queued - client.received.len())
            .sum();
        let closed: Vec<_> = here
            .iter()
            .filter_map(|(_, peer)| peer.closed.as_ref())
            .collect();
        let slow = counters.dropped.of(DropReason::SlowConsumer).value();
        let late = counters.dropped.of(DropReason::Closed).value();
        assert_eq!(counters.deliveries.value(), received as u64);
        assert_eq!(
            slow + late,
            (queued - received - waiting) as u64,
            "shard {shard}: losses that were counted, and losses"
        );
        let at_least: usize = closed.iter().map(|closed| closed.dropped_at_least).sum();
        let at_most: usize = closed.iter().map(|closed| closed.dropped_at_most).sum();
        assert!(
            (at_least as u64..=at_most as u64).contains(&slow),
            "shard {shard}: {slow} lost by slow consumers, not {at_least} to {at_most}"
        );
        let closes = counters.closes.of(CloseReason::SlowConsumer).value();
        assert_eq!(closes, closed.len() as u64, "shard {shard}");
        let others = counters.closes.values().map(|(_, count)| count);
        assert_eq!(others.sum::<u64>(), closes, "shard {shard}: nobody else");
        let open = here.len() - closed.len();
        assert_eq!(self.shards[shard].connection_count(), open);
    }
}

/// Bytes of a frame of the server with that much text.
fn frame_bytes(text_bytes: usize) -> usize {
    let header_bytes = if text_bytes < 126 { 2 } else { 4 };
    header_bytes + text_bytes
}

#[test]
fn just_who_falls_behind_is_closed_and_its_losses_are_counted() {
    for seed in seeds(300..320) {
        let mut readers = Readers::new(seed);
        readers.run();
        readers.finish();
    }
}

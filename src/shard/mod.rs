//! One core's machine: connections, the fan-out, the inbox, outboxes and the timer wheel.
//!
//! A shard has no socket, no thread and no clock. Whoever drives it (the wire, or a simulation) tells
//! it what came and what was written, and carries out what it asks for:
//!
//! ```text
//!   accept, receive, hang_up ─▶ ┌───────┐ ─▶ begin_send, sent      bytes for sockets
//!   wake (time)              ─▶ │ Shard │ ─▶ take_requests         close, hand over to HTTP
//!   drain_ring               ─▶ └───────┘ ─▶ wake_peers            other shards have records to read
//! ```

mod batch;
mod chunks;
mod connection;
mod connection_table;
mod handlers;
mod handshake;
mod hooks;
mod ingest;
mod publication_reader;
mod publication_writer;
mod publisher;
mod ready_queue;
mod record;
mod send_queue;
mod timer_wheel;

use crate::auth::Verifier;
use crate::base::{ConnectionId, Now, ProcessCounts, ShardCounters, SlabFull};
use crate::broker::{Broker, BrokerParts, Command, Quotas, SessionView};
use crate::config::Policy;
use crate::json::JsonReader;
use connection_table::Machine;
use fanwire_ring::{Reader, Ring};
use publication_reader::Inbox;
use publication_writer::Fanout;
use std::net::SocketAddr;
use std::sync::Arc;

pub use hooks::{Denied, Hooks, Message, Session};
pub use publisher::{PublishError, Publisher};

/// What a shard wants done to a connection beyond sending.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// All is written: shut the sending side down and wait for the peer's end.
    ShutdownWrite(ConnectionId),
    /// Close the socket, then call `Shard::release`.
    Close(ConnectionId),
    /// An HTTP request, or more bytes of one, for the HTTP API.
    Http(ConnectionId, Vec<u8>),
    /// The peer of an HTTP connection sends no more.
    HttpEnd(ConnectionId),
}

/// What a shard is made of.
#[derive(Debug)]
pub struct ShardParts {
    /// Which shard of the process this is, from 0.
    pub index: u16,
    /// Connections it may hold: the size of the wire ring's file table.
    pub connections_max: u32,
    /// The rules.
    pub policy: Arc<Policy>,
    /// Checks tokens.
    pub verifier: Verifier,
    /// Counts shared by all shards.
    pub process_counts: Arc<ProcessCounts>,
    /// What users, tenants and addresses use, on all shards.
    pub quotas: Arc<Quotas>,
    /// This shard's counters.
    pub counters: Arc<ShardCounters>,
    /// What the embedding program wants done.
    pub hooks: Arc<Hooks>,
    /// The ring that joins the shards.
    pub ring: Ring,
    /// This shard's reader of it.
    pub reader: Reader,
}

/// One core's machine.
#[derive(Debug)]
pub struct Shard {
    broker: Broker,
    /// None while a message is read, and after one so large that its reader was not kept.
    json: Option<JsonReader>,
    scratch: String,
    inbox: Inbox,
    machine: Machine,
    hooks: Arc<Hooks>,
    /// No new session begins.
    is_going_away: bool,
}

impl Shard {
    /// A shard without connections.
    #[must_use]
    pub fn new(parts: ShardParts, now: Now) -> Self {
        let broker = Broker::new(BrokerParts {
            shard: parts.index,
            policy: Arc::clone(&parts.policy),
            verifier: parts.verifier,
            process_counts: Arc::clone(&parts.process_counts),
            quotas: parts.quotas,
            counters: Arc::clone(&parts.counters),
        });
        let fanout = Fanout::new(
            parts.index,
            &parts.ring,
            parts.process_counts,
            Arc::clone(&parts.counters),
        );
        let inbox = Inbox::new(
            parts.reader,
            parts.policy.send_queue_bytes_max,
            Arc::clone(&parts.counters),
        );
        let machine = Machine::new(
            parts.connections_max,
            &parts.policy,
            parts.counters,
            fanout,
            now,
        );
        Self {
            broker,
            json: None,
            scratch: String::new(),
            inbox,
            machine,
            hooks: parts.hooks,
            is_going_away: false,
        }
    }

    /// Takes a new connection, which came by the listener of that index in [`Policy::routes`].
    ///
    /// # Errors
    /// [`SlabFull`] when the shard holds as many as it may; the socket is then to be closed.
    pub fn accept(
        &mut self,
        peer: SocketAddr,
        listener: u8,
        now: Now,
    ) -> Result<ConnectionId, SlabFull> {
        self.machine.accept(peer, listener, now)
    }

    /// Does what is due at `now`: heartbeats and timeouts.
    pub fn wake(&mut self, now: Now) {
        for id in self.machine.ring_alarms(now) {
            if self.machine.is_open(id) {
                let Self {
                    broker, machine, ..
                } = self;
                broker.step(id, Command::Wake, now, &mut |effect| {
                    machine.apply(id, effect, now);
                });
            } else {
                self.machine.time_out(id, now);
            }
        }
        self.settle(now);
    }

    /// When `wake` has to be called next, monotonic milliseconds.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<u64> {
        self.machine.next_wake_ms()
    }

    /// Delivers what other shards and this one have published; returns the count of records read.
    ///
    /// While connections still wait for their part of a fan-out it reads on only within a budget:
    /// publications that come meanwhile leave in the same sends, but no outbox fills because we read
    /// faster than we send.
    pub fn drain_ring(&mut self, now: Now) -> usize {
        let Self {
            broker,
            inbox,
            machine,
            ..
        } = self;
        let begins_fanout = machine.dirty.is_fanout_sent();
        if begins_fanout {
            inbox.renew_budget();
        }
        let count = inbox.drain(broker, |slot, run, subscription_id| {
            machine.deliver(slot, run, subscription_id, now);
        });
        if begins_fanout && count > 0 {
            machine.dirty.note_fanout();
        }
        self.settle(now);
        count
    }

    /// Whether records wait in the ring that `drain_ring` has not read: because they are new, or
    /// because a fan-out has to be sent first.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        self.inbox.has_unread()
    }

    /// Publications wait here for room in the ring: give no more input until there is some.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.machine.fanout.is_congested()
    }

    /// Tries again to write what found the ring full.
    pub fn retry_unsent(&mut self) {
        self.machine.fanout.retry();
    }

    /// Calls `wake` with the index of each shard that sleeps and has records to read.
    pub fn wake_peers(&mut self, wake: impl FnMut(u32)) {
        self.machine.fanout.wake_peers(wake);
    }

    /// Announces that the shard is going to sleep; false when there are records to read first.
    #[must_use]
    pub fn park(&self) -> bool {
        self.inbox.park()
    }

    /// Takes the announcement back.
    pub fn unpark(&self) {
        self.inbox.unpark();
    }

    /// The next connection that has bytes to send and no send under way.
    pub fn next_dirty(&mut self) -> Option<ConnectionId> {
        self.machine.next_dirty()
    }

    /// Whether a connection waits for `next_dirty`.
    #[must_use]
    pub fn has_dirty(&self) -> bool {
        !self.machine.dirty.is_empty()
    }

    /// The bytes to send to `id`, at most `slices_max` slices. They stay where they are until `sent`
    /// is called for the connection.
    pub fn begin_send(
        &mut self,
        id: ConnectionId,
        slices_max: usize,
    ) -> impl Iterator<Item = &[u8]> {
        let slices = self.machine.begin_send(id, slices_max);
        slices.into_iter().flatten()
    }

    /// The socket of `id` took `bytes`.
    pub fn sent(&mut self, id: ConnectionId, bytes: u32) {
        self.machine.sent(id, bytes);
    }

    /// The socket of `id` takes nothing now; nothing is sent to it until `writable` is called.
    pub fn would_block(&mut self, id: ConnectionId) {
        self.machine.would_block(id);
    }

    /// The socket of `id` takes bytes again.
    pub fn writable(&mut self, id: ConnectionId) {
        self.machine.writable(id);
    }

    /// Whether `take_requests` has something to tell.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        !self.machine.requests.is_empty()
    }

    /// What was asked for since the last call.
    pub fn take_requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.machine.requests)
    }

    /// The peer of `id` sends no more.
    pub fn hang_up(&mut self, id: ConnectionId, now: Now) {
        self.machine.hang_up(id);
        self.settle(now);
    }

    /// The socket of `id` failed.
    pub fn fail(&mut self, id: ConnectionId, now: Now) {
        self.machine.fail(id);
        self.settle(now);
    }

    /// The socket of `id` is closed and nothing of the kernel's refers to it any more.
    pub fn release(&mut self, id: ConnectionId) {
        self.machine.release(id);
    }

    /// Writes bytes of the HTTP API to `id`.
    pub fn send_http(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.machine.send_http(id, bytes);
    }

    /// The HTTP API is done with `id`: close when all is written.
    pub fn end_http(&mut self, id: ConnectionId, now: Now) {
        self.machine.end_http(id, now);
    }

    /// Tells every session that the server will go away in `wait_ms`; no new one begins.
    pub fn go_away(&mut self, wait_ms: u64, now: Now) {
        self.is_going_away = true;
        for id in self.machine.open_sessions() {
            self.step(id, Command::GoAway { wait_ms }, now);
        }
        self.settle(now);
    }

    /// Closes up to `count` sessions because the server goes away (1001).
    pub fn close_some(&mut self, count: usize, now: Now) {
        for id in self.machine.open_sessions().into_iter().take(count) {
            self.machine.dismiss(id, now);
        }
        self.settle(now);
    }

    /// Closes every session because the server goes away (1001).
    pub fn drain_sessions(&mut self, now: Now) {
        self.is_going_away = true;
        self.machine.go_away(now);
        self.settle(now);
    }

    /// What there is to know of the session `id`.
    #[must_use]
    pub fn describe(&self, id: ConnectionId, now: Now) -> Option<SessionView<'_>> {
        self.broker.view(id, now)
    }

    /// Messages that session `id` has used of its rate limit now, and how many it allows in its
    /// window or at once (`None` = any number).
    #[must_use]
    pub fn rate_status(&self, id: ConnectionId, now: Now) -> Option<(u32, Option<u32>)> {
        self.broker.rate_status(id, now)
    }

    /// The sessions, in no order.
    #[must_use]
    pub fn sessions(&self) -> Vec<ConnectionId> {
        self.machine.open_sessions()
    }

    /// The channels that sessions of this shard subscribed to and whose names begin so.
    pub fn channels(&self, prefix: &str) -> impl Iterator<Item = &str> {
        self.broker.channel_names(prefix)
    }

    /// Connections that are not yet closed.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.machine.connection_count()
    }

    /// Lets the broker forget the sessions that the machine began to close.
    fn settle(&mut self, now: Now) {
        while let Some(id) = self.machine.next_ended() {
            self.call_disconnect(id, now);
            self.step(id, Command::Disconnect, now);
        }
    }
}

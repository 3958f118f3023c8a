//! The state of one core: connections with their send queues and timers, the writer of publications
//! to the ring, and the reader of publications from it. The connections depend on neither of the
//! two.
//!
//! A shard has no socket, no thread and no clock. Its driver (the wire, or a simulation) reports
//! what was received and written, and carries out the actions of the shard:
//!
//! ```text
//!   accept, receive, on_eof  ─▶ ┌───────┐ ─▶ begin_send, sent      bytes for sockets
//!   expire_timers            ─▶ │ Shard │ ─▶ take_actions          close, hand over to HTTP
//!   drain_ring               ─▶ └───────┘ ─▶ wake_peers            records for other shards
//! ```

mod acknowledgements;
mod async_session;
mod batch;
mod chunks;
mod client_log;
mod closing;
mod coalescer;
mod connection;
mod connection_counts;
mod connection_table;
mod decoding;
mod effects;
pub mod envelope;
mod frame_encoder;
mod handlers;
mod handshake;
mod history_page;
mod hooks;
mod http_connection;
mod inflating;
mod input;
mod message_types;
mod owned_subscription;
mod probe;
mod property_counts;
mod publication_reader;
mod publication_writer;
mod publisher;
mod questions;
mod raw;
mod ready_queue;
mod record;
mod recovering;
mod restoring;
mod send_queue;
mod session;
mod stored;
mod tapped;
mod timer_wheel;
mod traces;
mod unauthenticated;

use crate::auth::Verifier;
use crate::base::client_counters::ReceivedType;
use crate::base::counters::RejectReason;
use crate::base::now::Stopwatch;
use crate::base::{
    ChannelTag, ConnectionId, DialectId, Now, ProcessState, ShardCounters, SlabFull, Tracer,
};
use crate::broker::{Broker, BrokerParts, Command, Quotas, SessionView};
use crate::config::Policy;
use client_log::{ClientLog, SessionEnd};
use connection_table::ConnectionTable;
use connection_table::Ended;
pub use connection_table::Query;
use fanwire_ring::{Lapped, Reader, Ring};
use frame_encoder::FrameEncoder;
use property_counts::PropertyCounts;
use publication_reader::PublicationReader;
use publication_writer::{PublicationWriter, number_of, writer_of};
use questions::Questions;
use recovering::Recovering;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use traces::ShardTraces;
use unauthenticated::UnauthenticatedPool;

pub use async_session::{AsyncSession, OwnedMessage};
pub use client_log::HttpEvent;
pub use history_page::{
    HistoryPage, PageRequest, channel_of_entry, is_entry_for_user, is_envelope_for_user,
};
pub use hooks::Hooks;
pub use http_connection::HttpOutput;
pub use input::ReceiveMode;
pub use publisher::{PublishError, Publisher, Received};
pub use questions::{Answer, BoxFuture, Question, QuestionKey, QuestionKind, UnknownToken};
pub use raw::Next;
pub use session::{Denied, HandlerError, Message, Session};
pub use tapped::{Tap, Tapped, TappedData};

pub use traces::published;

/// An action on a connection that a shard requests, other than sending.
#[derive(Debug, PartialEq, Eq)]
pub enum ConnectionAction {
    /// Everything is written: shut down the sending side and wait for the peer to close.
    ShutdownWrite(ConnectionId),
    /// Close the socket, then call `Shard::release`.
    Close(ConnectionId),
    /// Close the socket at once, so that the kernel frees what it holds for it, then call
    /// `Shard::release`.
    Reset(ConnectionId),
    /// A connection begins with an HTTP request, on this listener.
    HttpBegin(ConnectionId, u8),
    /// Bytes of HTTP requests.
    Http(ConnectionId, Vec<u8>),
    /// All answers so far are written.
    HttpWritten(ConnectionId),
    /// Receive nothing more from a connection until `ResumeReceive`.
    PauseReceive(ConnectionId),
    /// Receive again.
    ResumeReceive(ConnectionId),
    /// The peer of an HTTP connection sends no more.
    HttpEnd(ConnectionId),
}

/// What a shard is made of.
#[derive(Debug)]
pub struct ShardParts {
    /// Which shard of the process this is, from 0.
    pub index: u16,
    /// Connections that it may hold: the size of the wire ring's file table.
    pub connections_max: u32,
    /// The policy of the process.
    pub policy: Arc<Policy>,
    /// Checks tokens.
    pub verifier: Verifier,
    /// Counts shared by all shards.
    pub process_state: Arc<ProcessState>,
    /// Quotas of users, tenants and addresses, over all shards.
    pub quotas: Arc<Quotas>,
    /// This shard's counters.
    pub counters: Arc<ShardCounters>,
    /// The handlers of the embedding program.
    pub hooks: Arc<Hooks>,
    /// The ring that connects the shards.
    pub ring: Ring,
    /// This shard's reader of it.
    pub reader: Reader,
}

/// The state of one core.
#[derive(Debug)]
pub struct Shard {
    broker: Broker,
    scratch: String,
    inflaters: inflating::Inflaters,
    writer: PublicationWriter,
    reader: PublicationReader,
    connections: ConnectionTable,
    hooks: Arc<Hooks>,
    index: u16,
    questions: Questions,
    recovering: Recovering,
    /// Clients whose subscriptions are restored when they have read answers.
    restorations_waiting: usize,
    process_state: Arc<ProcessState>,
    /// No new sessions are accepted.
    is_shutting_down: bool,
    /// Whether the message that was just read must wait for room in the ring.
    awaits_room: bool,
    /// The type of the message that was just read.
    received_type: ReceivedType,
    stopwatch: Stopwatch,
    /// Where monitoring is served.
    property_counts: Option<PropertyCounts>,
}

impl Shard {
    /// A shard without connections.
    #[must_use]
    pub fn new(parts: ShardParts, now: Now) -> Self {
        let unauthenticated = UnauthenticatedPool::new(
            &parts.policy,
            parts.process_state.heartbeats.shard_count(),
            Arc::clone(&parts.quotas),
        );
        let node = parts.process_state.node();
        let broker = Broker::new(BrokerParts {
            shard: parts.index,
            policy: Arc::clone(&parts.policy),
            verifier: parts.verifier,
            process_state: Arc::clone(&parts.process_state),
            quotas: parts.quotas,
            counters: Arc::clone(&parts.counters),
        });
        let encoder = FrameEncoder::new(parts.policy.compression);
        let encoder = Rc::new(RefCell::new(encoder));
        let writer = PublicationWriter::new(
            parts.index,
            &parts.ring,
            Arc::clone(&parts.process_state),
            Rc::clone(&encoder),
            Arc::clone(&parts.counters),
        );
        let reader = PublicationReader::new(
            parts.reader,
            parts.policy.send_queue_bytes_max,
            Rc::clone(&encoder),
            Arc::clone(&parts.counters),
        );
        let connections = ConnectionTable::new(
            parts.connections_max,
            &parts.policy,
            unauthenticated,
            encoder,
            ClientLog::new(
                (node, parts.index),
                parts.policy.client_log,
                Arc::clone(&parts.counters),
                now,
            ),
            parts.counters,
            now,
        );
        Self {
            broker,
            scratch: String::new(),
            inflaters: inflating::Inflaters::default(),
            writer,
            reader,
            connections,
            hooks: parts.hooks,
            index: parts.index,
            questions: Questions::default(),
            recovering: Recovering::default(),
            restorations_waiting: 0,
            process_state: parts.process_state,
            is_shutting_down: false,
            awaits_room: false,
            received_type: ReceivedType::Malformed,
            stopwatch: Stopwatch::STOPPED,
            property_counts: parts
                .policy
                .serves(DialectId::Monitoring)
                .then(PropertyCounts::default),
        }
    }

    /// Measures times for metrics from now on. Nothing else depends on them.
    pub fn measure_with(&mut self, stopwatch: Stopwatch) {
        self.stopwatch = stopwatch;
        self.writer.stopwatch = stopwatch;
        self.connections.stopwatch = stopwatch;
    }

    /// Traces from now on what this tracer samples.
    pub fn trace_with(&mut self, tracer: Tracer) {
        let traces = ShardTraces::new(self.index, tracer);
        self.connections.traces = Some(Box::new(traces));
    }

    /// Registers a new connection of the listener with this index in [`Policy::routes`]. Where a
    /// limit of connections before authentication is exceeded, the oldest of them is closed.
    ///
    /// # Errors
    /// [`SlabFull`] when the shard has no room; the caller then closes the socket.
    pub fn accept(
        &mut self,
        peer: SocketAddr,
        listener: u8,
        now: Now,
    ) -> Result<ConnectionId, SlabFull> {
        let policy = self.broker.policy();
        let role = policy.role_of(peer.ip());
        let role = (role, policy.knows_client(role));
        let accepted = self.connections.accept(peer, role, listener, now);
        self.reap_ended(now);
        accepted
    }

    /// Handles the timers that are due at `now`: heartbeats and timeouts.
    pub fn expire_timers(&mut self, now: Now) {
        for id in self.connections.expired_timers(now) {
            if self.connections.is_open(id) {
                if self.waits_for_server(id) {
                    // The answer to a ping may be among what waits.
                    self.step(id, Command::Activity, now);
                }
                if self.broker.awaits_pong(id) {
                    // On a slow line the ping may be behind much that is still on its way.
                    self.connections.queries.push((id, Query::AtTimer));
                } else {
                    self.expire_timer(id, now);
                }
            } else {
                self.connections.time_out(id, now);
            }
        }
        self.announce_presence(now);
        self.reap_ended(now);
        self.connections.log.report_suppressed(now);
        if let Some(property_counts) = &mut self.property_counts {
            let counters = &self.connections.counters.clients;
            property_counts.step(&self.broker, counters, now.monotonic_ms);
        }
    }

    fn expire_timer(&mut self, id: ConnectionId, now: Now) {
        let message_waits = self.has_waiting_message(id) || self.questions.has(id);
        self.step(id, Command::TimerExpired { message_waits }, now);
    }

    /// When `expire_timers` has to be called next, monotonic milliseconds.
    #[must_use]
    pub fn next_timer_ms(&self) -> Option<u64> {
        let announcement_ms = self.broker.next_announcement_ms();
        let announcement_ms = announcement_ms.filter(|_| !self.writer.is_congested());
        let timer_ms = self.connections.next_timer_ms();
        let report_ms = self.connections.log.next_report_ms();
        let property_counts = self.property_counts.as_ref();
        let step_ms = property_counts.and_then(|counts| counts.next_ms(&self.broker));
        let all_ms = announcement_ms.into_iter().chain(timer_ms);
        all_ms.chain(report_ms).chain(step_ms).min()
    }

    /// Announces who has come to a channel of other nodes and who has left, from now on.
    pub fn begin_announcing(&mut self, channel: (ChannelTag, Box<str>), now: Now) {
        self.broker.begin_announcing(channel, now);
    }

    /// Announces who came and went on the channels that are due, unless an earlier announcement may
    /// still wait for room in the ring.
    fn announce_presence(&mut self, now: Now) {
        let Self { broker, writer, .. } = self;
        if !writer.is_congested() {
            broker.announce_presence(now, &mut |effect| effects::announce(writer, effect, now));
        }
    }

    /// Delivers what other shards and this one have published; returns the count of records read.
    ///
    /// While connections still wait for their part of a fan-out, it continues to read only within a
    /// budget. Publications that arrive meanwhile join the same sends, but no send queue fills
    /// because the shard reads faster than it sends.
    pub fn drain_ring(&mut self, now: Now) -> usize {
        self.continue_leaving(now);
        let Self {
            broker,
            reader,
            connections,
            ..
        } = self;
        let begins_fanout = connections.ready_queue.is_fanout_sent();
        if begins_fanout {
            reader.renew_budget();
        }
        let mut last_slot = None;
        let mut traces = connections.traces.take();
        let drained = reader.drain(
            broker,
            |slot, run, subscription_id| {
                last_slot = Some(slot);
                connections.deliver(slot, run, subscription_id, now);
            },
            |context| {
                if let Some(traces) = &mut traces {
                    traces.note_read(context);
                }
            },
        );
        connections.traces = traces;
        connections.note_fan_out_queued(last_slot);
        if let (Some(id), Some(slot)) = (reader.take_sampled(), last_slot) {
            let times = &self.process_state.publish_times;
            if let Some(published) = times.find(writer_of(id), number_of(id)) {
                connections.begin_probe(slot, published);
            }
        }
        if begins_fanout && drained != Ok(0) {
            connections.ready_queue.note_fanout();
        }
        let count = drained.unwrap_or_else(|lapped| {
            self.heal(lapped, now);
            1
        });
        let reached = self.reader.next_position();
        let reached = self.process_state.history.offset_before(reached);
        self.broker.reach(reached);
        self.continue_restoring(now);
        self.continue_recoveries(now);
        self.reap_ended(now);
        count
    }

    /// Records are lost for this shard: the sessions that missed nothing else than what the history
    /// has recover, the others are closed.
    fn heal(&mut self, lapped: Lapped, now: Now) {
        let counters = &self.connections.counters;
        counters.ring_lapped.add(1);
        counters.ring_lapped_bytes.add(lapped.bytes);
        let begun = self.reader.abandon_unfinished();
        let reached = self.reader.next_position();
        let history = &self.process_state.history;
        if !history.has_rules() || !history.is_settled(reached) {
            return self.connections.close_all_lapped(now);
        }
        let after = history.offset_before(reached - lapped.bytes);
        for id in self.broker.heal(after, &begun, now) {
            self.connections.close_lapped(id, now);
        }
    }

    /// Whether the ring has records that `drain_ring` has not read, because they are new or because
    /// a fan-out has to be sent first.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        self.reader.has_unread()
    }

    /// Whether sessions that have ended still have subscriptions to give back; the driver then calls
    /// `drain_ring` again before it sleeps.
    #[must_use]
    pub fn has_leaving(&self) -> bool {
        self.broker.has_leaving()
    }

    /// Whether publications wait for room in the ring.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.writer.is_congested()
    }

    /// Tries again to write the publications that found the ring full.
    pub fn retry_unsent(&mut self, now: Now) {
        self.writer.retry(now);
    }

    /// Calls `wake` with the index of each shard that sleeps and has records to read.
    pub fn wake_peers(&mut self, wake: impl FnMut(u32)) {
        self.writer.wake_peers(wake);
    }

    /// Announces that the shard is about to sleep; false when there are records to read first. A
    /// shard without subscribers reads no records meanwhile, and no writer waits for it.
    #[must_use]
    pub fn park(&self) -> bool {
        if self.broker.wants_nothing() && !self.reader.has_unfinished() {
            self.reader.park_away();
            return true;
        }
        self.reader.park()
    }

    /// Withdraws the announcement. Before any input is handled, `drain_ring` has to be called until
    /// the ring has no unread records or a fan-out has to be sent: a new subscriber must not receive
    /// what was published while the shard slept.
    pub fn unpark(&self) {
        self.reader.unpark();
    }

    /// The next connection that has bytes to send and no send in flight. Takes what the send counts
    /// for from `cost_left`; with nothing left there is no next one.
    pub fn next_ready(&mut self, cost_left: &mut usize) -> Option<ConnectionId> {
        self.connections.next_ready(cost_left)
    }

    /// Whether `next_ready` would return a connection.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.connections.ready_queue.is_empty()
    }

    /// The bytes to send to `id`, as at most `slices_max` slices. They stay in place until `sent`
    /// is called for the connection.
    pub fn begin_send(
        &mut self,
        id: ConnectionId,
        slices_max: usize,
    ) -> impl Iterator<Item = &[u8]> {
        let slices = self.connections.begin_send(id, slices_max);
        slices.into_iter().flatten()
    }

    /// The socket of `id` has accepted `bytes` bytes.
    pub fn sent(&mut self, id: ConnectionId, bytes: u32) {
        self.connections.sent(id, bytes);
    }

    /// The socket of `id` accepts nothing now; nothing is sent to it until `writable` is called.
    pub fn would_block(&mut self, id: ConnectionId, now: Now) {
        self.connections.would_block(id, now);
    }

    /// The socket of `id` has taken a part of what is in flight.
    pub fn gets_on(&mut self, id: ConnectionId) {
        self.connections.gets_on(id);
    }

    /// The peer of `id` has broken TLS, or does not speak it; the connection is closed.
    pub fn note_tls_error(&mut self, id: ConnectionId, error: &dyn std::fmt::Display, now: Now) {
        let client = self.connections.client_of(id);
        tracing::debug!(target: "fanwire::tls", ?client, %error, "TLS failed");
        if client.is_some() {
            let reason = RejectReason::Tls;
            self.connections
                .count_rejected(Some(id), client, reason, now);
        }
    }

    /// The socket of `id` is writable again.
    pub fn writable(&mut self, id: ConnectionId) {
        self.connections.writable(id);
    }

    /// Whether `take_actions`, `take_admitted` or `take_queries` would return any.
    #[must_use]
    pub fn has_actions(&self) -> bool {
        let connections = &self.connections;
        !connections.actions.is_empty()
            || !connections.admitted.is_empty()
            || !connections.queries.is_empty()
    }

    /// The connections whose sessions have authenticated, or need not, since the last call: their
    /// receive buffers may grow when they send much.
    #[must_use]
    pub fn take_admitted(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.connections.admitted)
    }

    /// The connections of which the driver is to find out how many sent bytes the peer has yet to
    /// acknowledge. Each is answered by `unacknowledged`.
    #[must_use]
    pub fn take_queries(&mut self) -> Vec<(ConnectionId, Query)> {
        std::mem::take(&mut self.connections.queries)
    }

    /// The answer to a query; `None` if the kernel cannot tell. A peer that has acknowledged bytes
    /// since the last one reads, though its socket is full. If they were ahead of the ping, its pong
    /// could not be here yet. The acknowledgement of the ping is the kernel's and says nothing of the
    /// client: the pong is then due.
    pub fn unacknowledged(&mut self, id: ConnectionId, query: Query, bytes: Option<u32>, now: Now) {
        let Some(connection) = self.connections.slab.get_mut(id) else {
            return;
        };
        let had_bytes_before_ping = connection.has_bytes_before_ping();
        let gets_on = bytes.is_some_and(|bytes| connection.acknowledge(bytes));
        if query == Query::WhenStuck {
            self.connections.note_progress(id, gets_on, now);
        }
        if query != Query::AtPing && self.connections.is_open(id) {
            if gets_on && had_bytes_before_ping {
                self.step(id, Command::PongDelayed, now);
            }
            if query == Query::AtTimer {
                self.expire_timer(id, now);
            }
        }
        self.reap_ended(now);
    }

    /// The actions requested since the last call.
    pub fn take_actions(&mut self) -> Vec<ConnectionAction> {
        std::mem::take(&mut self.connections.actions)
    }

    /// A socket was not accepted, or could not be used; it is no connection of the shard.
    pub fn note_not_accepted(&mut self, peer: Option<SocketAddr>, reason: RejectReason, now: Now) {
        self.connections.count_rejected(None, peer, reason, now);
    }

    /// The socket of `id` failed. What waits of its input is not handled any more, and takes no turn.
    pub fn abort(&mut self, id: ConnectionId, now: Now) {
        self.connections.abort(id);
        self.reap_ended(now);
    }

    /// The socket of `id` is closed and the kernel has no operation for it any more.
    pub fn release(&mut self, id: ConnectionId) {
        self.inflaters.release(id);
        let is_leaving = self.broker.has_session(id);
        self.connections.release(id, is_leaving);
    }

    /// Announces to every session that the server shuts down in `grace_ms`, and accepts no new
    /// sessions.
    pub fn announce_shutdown(&mut self, grace_ms: u64, now: Now) {
        self.is_shutting_down = true;
        for id in self.connections.open_sessions() {
            self.step(id, Command::AnnounceShutdown { grace_ms }, now);
        }
        self.reap_ended(now);
    }

    /// Closes up to `count` sessions because the server shuts down (1001).
    pub fn close_some_sessions(&mut self, count: usize, now: Now) {
        for id in self.connections.open_sessions().into_iter().take(count) {
            self.connections.close_going_away(id, now);
        }
        self.reap_ended(now);
    }

    /// Closes every session because the server shuts down (1001).
    pub fn close_all_sessions(&mut self, now: Now) {
        self.is_shutting_down = true;
        self.connections.close_all_going_away(now);
        self.reap_ended(now);
    }

    /// The view of session `id`.
    #[must_use]
    pub fn describe(&self, id: ConnectionId, now: Now) -> Option<SessionView<'_>> {
        self.broker.view(id, now)
    }

    /// Its broker, for questions about its sessions and channels.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Connections that are not yet closed.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.connections.connection_count()
    }

    /// Disconnects from the broker the sessions that the connection table has begun to close.
    fn reap_ended(&mut self, now: Now) {
        while let Some(Ended { id, unsent, closed }) = self.connections.next_ended() {
            let broker = &self.broker;
            let session = || Some(SessionEnd::of(&broker.view(id, now)?));
            self.connections.log.closed(id, &closed, session, now);
            if let Some(age_ms) = self.broker.age_ms(id, now) {
                let counters = &self.connections.counters.clients;
                counters.lifetimes.record(age_ms);
            }
            self.call_disconnect(id, now);
            self.step(id, Command::Disconnect { unsent: &unsent }, now);
        }
        // Sessions that have another user now.
        while let Some(id) = self.broker.next_stopped() {
            let unsent = self.connections.unsent(id);
            // The session stays, and what is queued for it is sent: also to its user of before.
            let _ = self.broker.remember_offline(id, &unsent);
        }
    }

    /// Gives back subscriptions of sessions that have ended: the share of one turn.
    fn continue_leaving(&mut self, now: Now) {
        let Self {
            broker,
            connections,
            writer,
            ..
        } = self;
        broker.continue_leaving(now, &mut |effect| effects::announce(writer, effect, now));
        while let Some(id) = broker.next_left() {
            connections.free_slot(id);
        }
    }
}

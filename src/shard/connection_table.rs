//! The connections of a shard and their transitions; the rules are in the broker.

use super::ConnectionAction;
use super::client_log::{ClientLog, Closed};
use super::connection::{CloseRequest, CloseWait, Connection, NO_TIMER, NOT_STUCK, Phase};
use super::frame_encoder::SharedEncoder;
use super::input::{InputQueue, WaitsFor};
use super::message_types::sent_type;
use super::probe::Probe;
use super::ready_queue::ReadyQueue;
use super::send_queue::{FrameCount, QueueLimits};
use super::timer_wheel::{Timer, TimerWheel};
use super::traces::ShardTraces;
use super::unauthenticated::{Excess, UnauthenticatedPool};
use crate::base::counters::{CloseReason, DropReason, ProtocolError, RejectReason};
use crate::base::limits::{
    CLOSE_TIMEOUT_MS, CONTROL_FRAMES_MAX, HEAD_TIMEOUT_MS, RECOVERY_BYTES_WAITING,
    REPLY_BYTES_WAITING, REPLY_BYTES_WAITING_UNAUTHENTICATED, REPLY_SEND_COST,
    ROOM_FOR_CONNECTIONS, WAITING_BYTES_WHEN_SHORT, WHEEL_TICK_MS,
};
use crate::base::now::Stopwatch;
use crate::base::{
    ChannelTag, ConnectionId, DialectId, FrameRun, Now, ShardCounters, Slab, SlabFull,
    SubscriptionId, Variant,
};
use crate::broker::Event;
use crate::config::{PeerRole, Policy};
use crate::dialect;
use crate::http::rejection;
use crate::ws::{CloseCode, Decoder, Opcode, close, frame};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct ConnectionTable {
    pub(super) slab: Slab<Connection>,
    pub(super) counters: Arc<ShardCounters>,
    pub(super) actions: Vec<ConnectionAction>,
    queue_limits: QueueLimits,
    /// How long a peer may take nothing while too much waits for it, milliseconds.
    slow_consumer_timeout_ms: u64,
    /// Whether more waits in the process than its budget allows.
    pub(super) is_memory_short: bool,
    /// Per dialect, how long a peer has to answer a close frame.
    close_timeouts_ms: [u64; DialectId::COUNT],
    wheel: TimerWheel,
    pub(super) ready_queue: ReadyQueue,
    /// From the moment that a connection is accepted until it is admitted or closed.
    pub(super) unauthenticated: UnauthenticatedPool,
    /// When fewer slots are free, the oldest of them goes.
    free_slots_min: usize,
    /// Sessions that have ended and whose end the broker has not processed yet.
    ended: Vec<Ended>,
    /// Connections whose sockets are closed and whose slots are still in use.
    pub(super) leaving_count: usize,
    text: Vec<u8>,
    pub(super) encoder: SharedEncoder,
    ping: FrameRun,
    pub(super) input_queue: InputQueue,
    /// What the wire is to ask the kernel.
    pub(super) queries: Vec<(ConnectionId, Query)>,
    /// Connections whose recoveries are suspended until they have read some of what waits, and those
    /// that have.
    suspended: HashSet<ConnectionId>,
    resumed: Vec<ConnectionId>,
    /// Connections that have just left the pool of those before authentication.
    pub(super) admitted: Vec<ConnectionId>,
    pub(super) log: ClientLog,
    pub(super) stopwatch: Stopwatch,
    /// The measurement of a publication that is not finished; one at a time is enough.
    pub(super) probe: Option<Probe>,
    /// Where something is traced.
    pub(super) traces: Option<Box<ShardTraces>>,
}

/// A session that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) id: ConnectionId,
    pub(super) unsent: Unsent,
    pub(super) closed: Closed,
}

/// For channels with a history, the offset of the first publication that was not sent.
type Unsent = Vec<(ChannelTag, u64)>;

/// Why it is asked how many bytes a peer has yet to acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// A ping is sent: to know whether bytes are ahead of it.
    AtPing,
    /// The pong is due.
    AtTimer,
    /// The socket has taken nothing for `slow_consumer_timeout`, and too much waits for it.
    WhenStuck,
}

impl ConnectionTable {
    pub(super) fn new(
        connections_max: u32,
        policy: &Policy,
        unauthenticated: UnauthenticatedPool,
        encoder: SharedEncoder,
        log: ClientLog,
        counters: Arc<ShardCounters>,
        now: Now,
    ) -> Self {
        Self {
            slab: Slab::new(connections_max),
            unauthenticated,
            free_slots_min: ROOM_FOR_CONNECTIONS.min(connections_max as usize / 8),
            counters,
            actions: Vec::new(),
            queue_limits: QueueLimits {
                bytes_max: policy.send_queue_bytes_max,
                slack_bytes: policy.send_queue_slack_bytes(),
            },
            slow_consumer_timeout_ms: policy.slow_consumer_timeout_ms,
            is_memory_short: false,
            close_timeouts_ms: policy.dialects.map(|dialect| dialect.close_timeout.0),
            wheel: TimerWheel::new(now.monotonic_ms),
            ready_queue: ReadyQueue::default(),
            ended: Vec::new(),
            leaving_count: 0,
            text: Vec::new(),
            encoder,
            ping: FrameRun::reply(&frame::control(Opcode::Ping, b"")),
            input_queue: InputQueue::default(),
            queries: Vec::new(),
            admitted: Vec::new(),
            suspended: HashSet::new(),
            resumed: Vec::new(),
            log,
            stopwatch: Stopwatch::STOPPED,
            probe: None,
            traces: None,
        }
    }

    pub(super) fn accept(
        &mut self,
        peer: SocketAddr,
        (role, is_client_known): (PeerRole, bool),
        listener: u8,
        now: Now,
    ) -> Result<ConnectionId, SlabFull> {
        let accepted_nanos = self.stopwatch.nanos();
        let new = |id| Connection::new(id, peer, role, (listener, accepted_nanos));
        let accepted = self.slab.insert_with(new);
        match accepted {
            Ok(id) => {
                let client = is_client_known.then_some(peer);
                if let Some(oldest) = self.unauthenticated.enter(id, client, now) {
                    self.evict(oldest, Excess::Address, now);
                }
                self.counters.connections_accepted.add(1);
                self.count_connections();
                self.set_timer(id, now.monotonic_ms + HEAD_TIMEOUT_MS);
            }
            Err(SlabFull) => self.count_rejected(None, Some(peer), RejectReason::TableFull, now),
        }
        if (self.unauthenticated.is_over() || self.slab.free_count() < self.free_slots_min)
            && let Some(oldest) = self.unauthenticated.oldest(accepted.ok())
        {
            self.evict(oldest, Excess::Shard, now);
        }
        self.count_unauthenticated();
        accepted
    }

    /// The address of a client is known: its connection counts against the limit of the address from
    /// now on.
    pub(super) fn count_address(&mut self, id: ConnectionId, client: SocketAddr, now: Now) {
        if let Some(oldest) = self.unauthenticated.count_address(id, client, now) {
            self.evict(oldest, Excess::Address, now);
            self.count_unauthenticated();
        }
    }

    /// Closes a connection that has yet to authenticate, in favour of a new one.
    fn evict(&mut self, id: ConnectionId, excess: Excess, now: Now) {
        self.unauthenticated.leave(id);
        let Some(connection) = self.slab.get(id) else {
            return;
        };
        match connection.phase {
            Phase::Open => {
                let close =
                    CloseRequest::flushing(CloseCode::TRY_AGAIN_LATER, excess.close_reason());
                return self.end(id, close, now);
            }
            Phase::Head(_) | Phase::Http(_) => {
                let client = self.client_of(id);
                self.count_rejected(Some(id), client, excess.reject_reason(), now);
            }
            // Counted when its close began.
            _ => {}
        }
        self.abort(id);
    }

    /// A connection that left the pool is to authenticate after all.
    pub(super) fn enter_pool_again(&mut self, id: ConnectionId, client: SocketAddr, now: Now) {
        if !self.unauthenticated.has(id) {
            self.unauthenticated.enter(id, None, now);
            self.count_address(id, client, now);
            self.count_unauthenticated();
        }
    }

    /// A connection is closed, or has authenticated, or need not.
    pub(super) fn leave_pool(&mut self, id: ConnectionId) {
        self.unauthenticated.leave(id);
        self.count_unauthenticated();
    }

    /// Sends a ping frame.
    pub(super) fn ping(&mut self, id: ConnectionId) {
        self.queries.push((id, Query::AtPing));
        if let Some(connection) = self.slab.get_mut(id) {
            let ping = self.ping.clone();
            connection.pinged_at_bytes =
                connection.send_queue.push_control(ping, CONTROL_FRAMES_MAX);
            self.ready_queue.join_urgently(connection);
        }
    }

    /// Answers a ping.
    pub(super) fn pong(&mut self, id: ConnectionId, payload: &[u8]) {
        let pong = FrameRun::reply(&frame::control(Opcode::Pong, payload));
        self.send_control(id, pong);
    }

    /// What may wait for a connection now: less while memory is short, so that those who make others
    /// wait go first.
    fn limits_now(&self) -> QueueLimits {
        if self.is_memory_short {
            return QueueLimits {
                bytes_max: self.queue_limits.bytes_max.min(WAITING_BYTES_WHEN_SHORT),
                slack_bytes: 0,
            };
        }
        self.queue_limits
    }

    /// Whether so many replies wait for the peer to read them that its input has to wait.
    pub(super) fn has_unread_replies(&self, id: ConnectionId, is_authenticated: bool) -> bool {
        let bytes_max = if is_authenticated {
            REPLY_BYTES_WAITING.min(self.queue_limits.bytes_max / 2)
        } else {
            REPLY_BYTES_WAITING_UNAUTHENTICATED.min(self.queue_limits.bytes_max / 2)
        };
        let connection = self.slab.get(id);
        connection.is_some_and(|connection| connection.send_queue.reply_bytes() > bytes_max)
    }

    /// Lets input that waits go on, as far as the connection is concerned.
    fn resume_input(&mut self, id: ConnectionId) {
        if let Some(connection) = self.slab.get_mut(id)
            && let Some(input) = &mut connection.input
        {
            input.waits_for = WaitsFor::Turn;
            self.input_queue.push(id, WaitsFor::Turn);
        }
    }

    /// Bytes that wait for a connection.
    pub(super) fn waiting_bytes(&self, id: ConnectionId) -> u32 {
        let connection = self.slab.get(id);
        connection.map_or(0, |connection| connection.send_queue.bytes())
    }

    /// Suspends the recoveries of a connection until fewer bytes wait for it.
    pub(super) fn suspend(&mut self, id: ConnectionId) {
        self.suspended.insert(id);
    }

    /// Whether `take_resumed` would return some.
    pub(super) fn has_resumed(&self) -> bool {
        !self.resumed.is_empty()
    }

    /// The connections that were suspended and for which at most [`RECOVERY_BYTES_WAITING`] bytes wait
    /// now.
    pub(super) fn take_resumed(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.resumed)
    }

    /// Sends an event to the client, in its dialect.
    pub(super) fn reply(&mut self, id: ConnectionId, event: &Event<'_>, now: Now) {
        // No data follows a close frame (RFC 6455 5.5.1).
        let Some(connection) = self.slab.get(id).filter(|it| it.is_open()) else {
            return;
        };
        let variant = connection.variant;
        let dialect = dialect::of(variant.dialect());
        self.text.clear();
        let mut is_silent = false;
        let start = frame::build_text(&mut self.text, |output| {
            let empty = output.len();
            dialect.event(event, output);
            is_silent = output.len() == empty;
        });
        if !is_silent {
            self.counters.clients.sent.of(sent_type(event)).add(1);
            let run = self.encoded(variant, &self.text[start..]);
            self.queue(id, run, now);
        }
    }

    /// The run of a frame for one client, compressed if that is agreed on and worth it.
    pub(super) fn encoded(&self, variant: Variant, frame: &[u8]) -> FrameRun {
        let mut encoder = self.encoder.borrow_mut();
        let run = encoder.reply(variant, frame);
        encoder.count(&self.counters);
        run
    }

    /// Queues a run of frames; a session whose send queue has no room for it is closed.
    pub(super) fn queue(&mut self, id: ConnectionId, run: FrameRun, now: Now) {
        let (limits, timeout_ms) = (self.limits_now(), self.slow_consumer_timeout_ms);
        let Some(connection) = self.slab.get_mut(id) else {
            return;
        };
        if let Some(query) = connection.progress_query(limits, timeout_ms, now) {
            self.queries.push((id, query));
        }
        if connection.send_queue.push(run, None, limits).is_ok() {
            connection.count_sent(FrameCount(1));
            self.ready_queue.join_urgently(connection);
        } else {
            self.end(id, CloseRequest::slow_consumer(), now);
        }
    }

    /// The answer to such a query: a session whose peer has acknowledged nothing is ended, if too much
    /// still waits for it.
    pub(super) fn note_progress(&mut self, id: ConnectionId, gets_on: bool, now: Now) {
        let limits = self.limits_now();
        let connection = self.slab.get_mut(id);
        let Some(connection) = connection.filter(|connection| connection.is_progress_asked())
        else {
            return;
        };
        let is_over = connection.send_queue.bytes() > limits.bytes_max;
        connection.begin_stuck(now);
        if is_over && !gets_on {
            self.end(id, CloseRequest::slow_consumer(), now);
        }
    }

    /// Queues a run of publications for the session in `slot`. This is the hot path of the server.
    pub(super) fn deliver(
        &mut self,
        slot: u32,
        run: &FrameRun,
        subscription_id: Option<&SubscriptionId>,
        now: Now,
    ) {
        let (limits, timeout_ms) = (self.limits_now(), self.slow_consumer_timeout_ms);
        let Some((id, connection)) = self.slab.at_slot_mut(slot) else {
            return;
        };
        if let Some(query) = connection.progress_query(limits, timeout_ms, now) {
            self.queries.push((id, query));
        }
        let reason = if !connection.is_open() {
            DropReason::Closed
        } else if connection
            .send_queue
            .push(run.clone(), subscription_id.cloned(), limits)
            .is_ok()
        {
            return self.ready_queue.join(connection);
        } else {
            self.end(id, CloseRequest::slow_consumer(), now);
            DropReason::SlowConsumer
        };
        self.counters.dropped.of(reason).add(run.frame_count());
    }

    /// Queues a control frame ahead of data.
    pub(super) fn send_control(&mut self, id: ConnectionId, run: FrameRun) {
        if let Some(connection) = self.slab.get_mut(id) {
            connection.send_queue.push_control(run, CONTROL_FRAMES_MAX);
            self.ready_queue.join_urgently(connection);
        }
    }

    /// Ends a WebSocket session: its close frame is queued and no more input is read.
    pub(super) fn end(&mut self, id: ConnectionId, close: CloseRequest, now: Now) {
        self.end_with(id, close, || close.frame(), now);
    }

    /// The same with this close frame.
    pub(super) fn end_with(
        &mut self,
        id: ConnectionId,
        close: CloseRequest,
        frame: impl FnOnce() -> Vec<u8>,
        now: Now,
    ) {
        let Some(connection) = self.slab.get_mut(id) else {
            return;
        };
        if !connection.is_open() {
            return;
        }
        self.counters.closes.of(close.reason).add(1);
        let ended = Ended {
            id,
            unsent: connection.send_queue.unsent(),
            closed: connection.closed(close.logged_code(), close.reason),
        };
        self.ended.push(ended);
        if !close.flush {
            let given_up = connection.send_queue.give_up();
            let dropped = self.counters.dropped.of(DropReason::SlowConsumer);
            dropped.add(given_up.0);
            // A close frame would wait behind all that the kernel holds for this peer, for as long as
            // the peer likes.
            connection.phase = Phase::Closed;
            self.leave_pool(id);
            return self.actions.push(ConnectionAction::Reset(id));
        }
        let close_frame = FrameRun::reply(&frame());
        let pushed = connection
            .send_queue
            .push(close_frame, None, QueueLimits::NONE);
        assert!(pushed.is_ok(), "no send queue reaches 4 GiB");
        connection.phase = Phase::Closing(close.close_wait());
        self.ready_queue.join(connection);
        let timeout_ms = self.close_timeouts_ms[connection.variant.dialect().index()];
        // What waits may contain the answer to the close frame.
        self.resume_input(id);
        self.set_timer(id, now.monotonic_ms + timeout_ms);
    }

    /// Answers a rejected request, and closes the connection.
    pub(super) fn reject(&mut self, id: ConnectionId, reason: RejectReason, now: Now) {
        self.reject_request(id, None, reason, now);
    }

    /// The same of a request that other programs know by this id.
    pub(super) fn reject_request(
        &mut self,
        id: ConnectionId,
        correlation_id: Option<&str>,
        reason: RejectReason,
        now: Now,
    ) {
        let client = self.client_of(id);
        self.counters.connections_rejected.of(reason).add(1);
        let rejected = (Some(id), client, correlation_id);
        self.log.connection_rejected(rejected, reason, now);
        // A client that its proxy has not named counts as the proxy, and not as nobody.
        if let Some(client) = client {
            self.count_address(id, client, now);
        }
        let answer = FrameRun::reply(rejection::answer(reason).as_bytes());
        self.queue(id, answer, now);
        self.close_when_written(id, now);
    }

    pub(super) fn close_when_written(&mut self, id: ConnectionId, now: Now) {
        let Some(connection) = self.slab.get_mut(id) else {
            return;
        };
        connection.phase = Phase::Closing(CloseWait::EndOfStream);
        let is_written = connection.send_queue.is_empty();
        self.set_timer(id, now.monotonic_ms + CLOSE_TIMEOUT_MS);
        if is_written {
            self.finish_closing(id);
        }
    }

    /// Handles a connection that is being closed and whose bytes are all written.
    fn finish_closing(&mut self, id: ConnectionId) {
        let Some(connection) = self.slab.get_mut(id) else {
            return;
        };
        let Phase::Closing(close_wait) = connection.phase else {
            return;
        };
        connection.phase = Phase::Lingering(close_wait);
        match close_wait {
            CloseWait::Done => self.abort(id),
            CloseWait::CloseFrame => {}
            CloseWait::EndOfStream => self.actions.push(ConnectionAction::ShutdownWrite(id)),
        }
    }

    /// Handles the peer's close frame, or the end of its stream, on a connection that is being
    /// closed.
    pub(super) fn peer_closed(&mut self, id: ConnectionId) {
        let Some(connection) = self.slab.get_mut(id) else {
            return;
        };
        match &mut connection.phase {
            Phase::Closing(close_wait) => *close_wait = CloseWait::Done,
            Phase::Lingering(_) => self.abort(id),
            _ => {}
        }
    }

    pub(super) fn on_eof(&mut self, id: ConnectionId, now: Now) {
        let Some(connection) = self.slab.get_mut(id) else {
            return;
        };
        match connection.phase {
            Phase::Head(_) => {
                let client = self.client_of(id);
                self.count_rejected(Some(id), client, RejectReason::Abandoned, now);
                self.abort(id);
            }
            Phase::Open => {
                let error = ProtocolError::AbruptEnd;
                self.counters.protocol_errors.of(error).add(1);
                self.abort(id);
            }
            // A peer that has only shut down its sending side still reads the answer.
            Phase::Http(_) => self.actions.push(ConnectionAction::HttpEnd(id)),
            Phase::Closing(_) | Phase::Lingering(_) => self.peer_closed(id),
            Phase::Closed | Phase::Leaving => {}
        }
    }

    /// Drops what an ended session was not sent of these channels; counted as for a closed one.
    pub(super) fn drop_remembered(&mut self, id: ConnectionId, tags: &[ChannelTag]) {
        if let Some(connection) = self.slab.get_mut(id) {
            let dropped = connection.send_queue.drop_publications(tags);
            self.counters.dropped.of(DropReason::Closed).add(dropped.0);
        }
    }

    /// Closes the socket at once; what waits in the send queue is counted as dropped.
    pub(super) fn abort(&mut self, id: ConnectionId) {
        let Some(connection) = self.slab.get_mut(id) else {
            return;
        };
        match connection.phase {
            Phase::Closed | Phase::Leaving => return,
            Phase::Open => {
                self.counters.closes.of(CloseReason::Peer).add(1);
                let ended = Ended {
                    id,
                    unsent: connection.send_queue.unsent(),
                    closed: connection.closed(close::ABNORMAL, CloseReason::Peer),
                };
                self.ended.push(ended);
            }
            _ => {}
        }
        connection.phase = Phase::Closed;
        self.leave_pool(id);
        self.actions.push(ConnectionAction::Close(id));
    }

    /// Releases the connection of a closed socket, but not its slot if it `is_leaving`.
    pub(super) fn release(&mut self, id: ConnectionId, is_leaving: bool) {
        let Some(connection) = self.slab.get_mut(id) else {
            return;
        };
        assert!(
            matches!(connection.phase, Phase::Closed),
            "only closed sockets are released"
        );
        connection.phase = Phase::Leaving;
        self.suspended.remove(&id);
        connection.decoder = Decoder::default();
        // Not earlier: a send in flight may still have written some of it.
        let abandoned = std::mem::take(&mut connection.send_queue).abandoned();
        self.counters
            .dropped
            .of(DropReason::Closed)
            .add(abandoned.0);
        self.leaving_count += 1;
        self.end_probe(id);
        if let Some(traces) = &mut self.traces {
            traces.end_connection(id);
        }
        if !is_leaving {
            self.free_slot(id);
        }
        self.count_connections();
    }

    /// Frees the slot of a released connection.
    pub(super) fn free_slot(&mut self, id: ConnectionId) {
        if let Some(connection) = self.slab.get(id)
            && matches!(connection.phase, Phase::Leaving)
        {
            self.slab.remove(id);
            self.leaving_count -= 1;
        }
    }

    /// The sessions that are not being closed.
    pub(super) fn open_sessions(&self) -> Vec<ConnectionId> {
        let ids = self.slab.ids();
        ids.filter(|id| self.is_open(*id)).collect()
    }

    pub(super) fn set_timer(&mut self, id: ConnectionId, due_ms: u64) {
        if let Some(connection) = self.slab.get_mut(id) {
            // Rounded up as in the wheel; in 13 years at the latest.
            let due_ticks = due_ms.div_ceil(WHEEL_TICK_MS);
            let due_ticks = u32::try_from(due_ticks).unwrap_or(NO_TIMER - 1);
            connection.timer_ticks = due_ticks;
            // An earlier timer expires first, and is then set again. So a deadline that is
            // postponed repeatedly costs one entry in the wheel, not one each time.
            if due_ticks < connection.wheel_ticks {
                connection.wheel_ticks = due_ticks;
                self.wheel.set(id, u64::from(due_ticks) * WHEEL_TICK_MS);
            }
        }
    }

    /// The connections whose timers have expired.
    pub(super) fn expired_timers(&mut self, now: Now) -> Vec<ConnectionId> {
        let mut timers = Vec::new();
        self.wheel.expire(now.monotonic_ms, &mut timers);
        let mut due = Vec::new();
        for Timer { id, due_ms } in timers {
            let Some(connection) = self.slab.get_mut(id) else {
                continue;
            };
            if u64::from(connection.wheel_ticks) * WHEEL_TICK_MS != due_ms {
                continue;
            }
            connection.wheel_ticks = NO_TIMER;
            let timer_ms = u64::from(connection.timer_ticks) * WHEEL_TICK_MS;
            if timer_ms <= now.monotonic_ms {
                due.push(id);
            } else {
                self.set_timer(id, timer_ms);
            }
        }
        due
    }

    /// Handles the expired timer of a connection that is not a session.
    pub(super) fn time_out(&mut self, id: ConnectionId, now: Now) {
        match self.slab.get(id).map(|connection| &connection.phase) {
            Some(Phase::Head(_)) => self.reject(id, RejectReason::HeadTimeout, now),
            Some(Phase::Http(_) | Phase::Closing(_) | Phase::Lingering(_)) => self.abort(id),
            _ => {}
        }
    }

    pub(super) fn next_timer_ms(&self) -> Option<u64> {
        self.wheel.next_ms()
    }

    pub(super) fn is_open(&self, id: ConnectionId) -> bool {
        self.slab.get(id).is_some_and(Connection::is_open)
    }

    /// The next session that has ended, and what it was not sent.
    pub(super) fn next_ended(&mut self) -> Option<Ended> {
        self.ended.pop()
    }

    /// For channels with a history, the offset of the first publication that waits for a connection.
    pub(super) fn unsent(&self, id: ConnectionId) -> Vec<(ChannelTag, u64)> {
        let connection = self.slab.get(id);
        connection.map_or(Vec::new(), |connection| connection.send_queue.unsent())
    }

    pub(super) fn next_ready(&mut self, cost_left: &mut usize) -> Option<ConnectionId> {
        while *cost_left > 0
            && let Some((id, is_urgent)) = self.ready_queue.pop()
        {
            let Some(connection) = self.slab.get_mut(id) else {
                continue;
            };
            if is_urgent {
                connection.is_urgent = false;
            } else {
                connection.is_queued = false;
            }
            let is_writable = !matches!(
                connection.phase,
                Phase::Lingering(_) | Phase::Closed | Phase::Leaving
            );
            // It may have been sent to from the other queue.
            let has_bytes =
                !connection.send_queue.is_empty() && !connection.send_queue.is_sending();
            if is_writable && !connection.is_blocked && has_bytes {
                let cost = if is_urgent { REPLY_SEND_COST } else { 1 };
                *cost_left = cost_left.saturating_sub(cost);
                return Some(id);
            }
        }
        None
    }

    pub(super) fn begin_send(
        &mut self,
        id: ConnectionId,
        slices_max: usize,
    ) -> Option<impl Iterator<Item = &[u8]>> {
        let connection = self.slab.get_mut(id)?;
        Some(connection.send_queue.begin_send(slices_max))
    }

    pub(super) fn sent(&mut self, id: ConnectionId, bytes: u32) {
        let Some(connection) = self.slab.get_mut(id) else {
            return;
        };
        if bytes > 0 {
            connection.stuck_since_ticks = NOT_STUCK;
        }
        let delivered = connection.send_queue.sent(bytes);
        connection.count_sent(delivered);
        if let Some(probe) = self.probe
            && probe.is_reached(connection)
        {
            let elapsed = probe.published.elapsed(self.stopwatch.nanos());
            self.counters.publish_latency_seconds.record(elapsed);
            self.probe = None;
        }
        if let Some(traces) = &mut self.traces {
            traces.sent(connection);
        }
        self.counters.bytes_sent.add(u64::from(bytes));
        self.counters.deliveries.add(delivered.0);
        if !self.suspended.is_empty()
            && connection.send_queue.bytes() <= RECOVERY_BYTES_WAITING
            && self.suspended.remove(&id)
        {
            self.resumed.push(id);
        }
        let input = connection.input.as_ref();
        let resumes = input.is_some_and(|input| input.waits_for == WaitsFor::Peer)
            && connection.send_queue.reply_bytes() == 0;
        if connection.send_queue.reply_bytes() > 0 {
            self.ready_queue.join_urgently(connection);
        } else if !connection.send_queue.is_empty() {
            self.ready_queue.join(connection);
        } else if matches!(connection.phase, Phase::Closing(_)) {
            self.finish_closing(id);
        } else if matches!(connection.phase, Phase::Http(_)) {
            self.actions.push(ConnectionAction::HttpWritten(id));
        }
        if resumes {
            self.resume_input(id);
        }
    }

    pub(super) fn would_block(&mut self, id: ConnectionId, now: Now) {
        self.end_probe(id);
        if let Some(traces) = &mut self.traces {
            traces.end_fan_outs(id);
        }
        if let Some(connection) = self.slab.get_mut(id) {
            connection.is_blocked = true;
            if connection.stuck_since_ticks == NOT_STUCK {
                connection.begin_stuck(now);
            }
        }
    }

    pub(super) fn gets_on(&mut self, id: ConnectionId) {
        if let Some(connection) = self.slab.get_mut(id) {
            connection.stuck_since_ticks = NOT_STUCK;
        }
    }

    pub(super) fn writable(&mut self, id: ConnectionId) {
        if let Some(connection) = self.slab.get_mut(id) {
            connection.is_blocked = false;
            self.ready_queue.join(connection);
        }
    }

    pub(super) fn connection_count(&self) -> usize {
        self.slab.count()
    }
}

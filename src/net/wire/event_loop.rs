//! The event loop of a shard: handles completions, then submits everything that became ready at
//! once.

#![expect(
    unsafe_code,
    reason = "the safety conditions of `Kernel` are met here: each call says how"
)]

use super::kernel::{Completion, Kernel, Operation, SocketOption};
use super::secure::SecureConnections;
use super::sockets::Socket;
use crate::base::counters::RejectReason;
use crate::base::heartbeat::STALL_MS;
use crate::base::limits::{RING_RECORDS_PER_TURN, SEND_COST_PER_SUBMISSION};
use crate::base::now::{Clock, Stopwatch};
use crate::base::{ConnectionId, Now, ShardCounters, SlotMap};
use crate::net::Peers;
use crate::shard::{ConnectionAction, HttpOutput, ReceiveMode, Shard};
use crossbeam_channel::Receiver;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Bytes after which a submission takes no further connection: copies of frames with a subscriber's
/// own subscription id exist only while they are being sent.
const BYTES_PER_SUBMISSION: usize = 4 * 1024 * 1024;
/// Sockets accepted and closed in one turn. The kernel needs several microseconds for each, and
/// thousands may come and go at once.
const ACCEPTS_PER_TURN: usize = 16;
const CLOSES_PER_TURN: usize = 32;
/// Slices of one send. Rarely more than a few: consecutive publications share a buffer.
const SLICES_PER_SEND: usize = 64;
/// Times until the next attempt, milliseconds: to write when the ring is full, and to accept after
/// a failure.
const RETRY_MS: u64 = 1;
const ACCEPT_RETRY_MS: u64 = 100;
/// Longest sleep, milliseconds.
const SLEEP_MAX_MS: u64 = 60_000;

/// A call to run on a shard's thread.
type ShardCall = Box<dyn FnOnce(&mut Shard, Now) + Send>;

/// A command of the server to a shard.
pub enum ShardCommand {
    /// Accept no new session, and announce the shutdown to the others, with this grace period in
    /// milliseconds.
    AnnounceShutdown(u64),
    /// Close this many sessions (1001).
    CloseSome(usize),
    /// Stop accepting, close all sessions (1001), and return when the last one has ended.
    Drain,
    /// Call this with the shard.
    Call(ShardCall),
}

impl std::fmt::Debug for ShardCommand {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AnnounceShutdown(grace_ms) => write!(formatter, "AnnounceShutdown({grace_ms})"),
            Self::CloseSome(count) => write!(formatter, "CloseSome({count})"),
            Self::Drain => formatter.write_str("Drain"),
            Self::Call(_) => formatter.write_str("Call"),
        }
    }
}

/// The HTTP side of a shard: it receives the bytes of connections other than WebSocket, and
/// answers.
pub trait HttpHandler {
    /// The connection `id` of this listener begins with an HTTP request.
    fn begin(&mut self, id: ConnectionId, listener: u8);
    /// Bytes arrived from `id`.
    fn receive(&mut self, id: ConnectionId, bytes: &[u8]);
    /// The kernel has taken all that was answered to `id` so far.
    fn written(&mut self, id: ConnectionId);
    /// The peer of `id` has ended its stream.
    fn end(&mut self, id: ConnectionId);
    /// The connection is closed.
    fn closed(&mut self, id: ConnectionId);
    /// Takes the next output, if there is any.
    fn take_output(&mut self) -> Option<(ConnectionId, HttpOutput)>;
    /// Whether `run_tasks` or `take_output` has something to do.
    fn is_busy(&self) -> bool;
    /// Answers what has arrived.
    fn run_tasks(&mut self);
}

/// An accepted socket: its listener, the completion's result, and when that came, by the stopwatch.
#[derive(Debug)]
struct Accepted {
    listener: u8,
    result: i32,
    nanos: u64,
}

/// Drives one shard.
pub(crate) struct EventLoop<K, H> {
    pub(super) kernel: K,
    pub(super) shard: Shard,
    http: H,
    pub(super) sockets: SlotMap<Socket>,
    pub(super) secure: SecureConnections,
    /// Connections whose receive must be armed again.
    unarmed: Vec<ConnectionId>,
    /// Accepted sockets that are to become connections.
    accepted: VecDeque<Accepted>,
    /// Connections whose sockets are to be closed.
    pub(super) closing: VecDeque<ConnectionId>,
    pub(super) commands: Receiver<ShardCommand>,
    index: u16,
    peers: Peers,
    pub(super) counters: Arc<ShardCounters>,
    clock: Clock,
    has_slept: bool,
    /// Monotonic milliseconds.
    turn_began_ms: u64,
    pub(super) stopwatch: Stopwatch,
    /// The same by the stopwatch.
    turn_began_nanos: u64,
    /// Listeners that stopped accepting, and when each one starts again, monotonic milliseconds.
    accept_again: Vec<(u8, u64)>,
    pub(super) is_draining: bool,
}

impl<K: Kernel, H: HttpHandler> EventLoop<K, H> {
    /// An event loop that is not running yet, of the shard with this index among its `peers`.
    pub(crate) fn new(
        kernel: K,
        shard: Shard,
        http: H,
        commands: Receiver<ShardCommand>,
        (index, peers): (u16, Peers),
        counters: Arc<ShardCounters>,
        clock: Clock,
    ) -> Self {
        Self {
            kernel,
            shard,
            http,
            sockets: SlotMap::default(),
            secure: SecureConnections::default(),
            unarmed: Vec::new(),
            accepted: VecDeque::new(),
            closing: VecDeque::new(),
            commands,
            index,
            peers,
            counters,
            turn_began_ms: clock.now().monotonic_ms,
            stopwatch: Stopwatch::of(clock),
            turn_began_nanos: Stopwatch::of(clock).nanos(),
            clock,
            has_slept: false,
            accept_again: Vec::new(),
            is_draining: false,
        }
    }

    /// Runs until a drain is finished.
    ///
    /// # Errors
    /// The error of the kernel when the ring itself fails.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.begin();
        loop {
            let is_idle = self.turn();
            let is_empty = self.shard.connection_count() == 0 && !self.shard.is_congested();
            if self.is_draining && is_empty {
                return Ok(());
            }
            if is_idle {
                self.sleep()?;
            } else {
                self.kernel.enter(None)?;
            }
        }
    }

    /// Waits for the next event, unless there are records to read.
    fn sleep(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        self.end_turn(now);
        let wait = self.sleep_time(now);
        // Before parking: who sees the reader parked may note at once that it is woken.
        self.peers.sleep(self.index);
        if !self.shard.park() {
            return self.kernel.enter(None);
        }
        let entered = self.kernel.enter(Some(wait));
        self.shard.unpark();
        self.has_slept = true;
        entered
    }

    pub(super) fn begin(&mut self) {
        for listener in 0..self.kernel.listener_count() {
            self.kernel.accept(listener);
        }
        self.kernel.await_wake();
    }

    #[cfg(test)]
    pub(super) fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Handles everything that is ready; true when nothing is left to do but wait.
    pub(super) fn turn(&mut self) -> bool {
        let now = self.clock.now();
        self.peers.begin_turn(self.index, now);
        let has_slept = std::mem::take(&mut self.has_slept);
        if has_slept {
            self.turn_began_ms = now.monotonic_ms;
            self.turn_began_nanos = self.stopwatch.nanos();
        } else {
            self.end_turn(now);
        }
        if has_slept {
            // Before any input: see `Shard::unpark`.
            while self.shard.drain_ring(now) >= RING_RECORDS_PER_TURN {}
        }
        while let Some(completion) = self.kernel.next_completion() {
            self.complete(completion, now);
        }
        self.take_connections(now);
        self.shake_hands(now);
        if self.shard.is_congested() {
            self.shard.retry_unsent(now);
        }
        self.shard.continue_input(now);
        let record_count = self.shard.drain_ring(now);
        if self
            .shard
            .next_timer_ms()
            .is_some_and(|at_ms| at_ms <= now.monotonic_ms)
        {
            self.shard.expire_timers(now);
        }
        while let Ok(command) = self.commands.try_recv() {
            match command {
                ShardCommand::AnnounceShutdown(wait_ms) => {
                    self.shard.announce_shutdown(wait_ms, now)
                }
                ShardCommand::CloseSome(count) => self.shard.close_some_sessions(count, now),
                ShardCommand::Drain => self.begin_drain(now),
                ShardCommand::Call(call) => call(&mut self.shard, now),
            }
        }
        self.shard.acknowledge(now);
        self.perform_actions(now);
        self.http.run_tasks();
        while let Some((id, output)) = self.http.take_output() {
            self.shard.answer_http(id, output, now);
        }
        self.perform_actions(now);
        let Self { shard, peers, .. } = self;
        shard.wake_peers(|index| peers.wake(index, now));
        self.arm_receives(now);
        self.close_late(now);
        for _ in 0..CLOSES_PER_TURN {
            let Some(id) = self.closing.pop_front() else {
                break;
            };
            self.begin_close(id);
        }
        self.flush(now);
        record_count == 0
            && !self.shard.has_ready()
            && !self.shard.has_actions()
            && !self.shard.has_waiting_input()
            && self.accepted.is_empty()
            && !self.secure.has_handshakes()
            && self.closing.is_empty()
            && !self.shard.has_leaving()
            && !self.shard.has_recovering()
            && !self.shard.has_restoring()
            && !self.http.is_busy()
    }

    /// Measures the turn that has ended, and counts it if it was too long; the next one begins.
    fn end_turn(&mut self, now: Now) {
        let nanos = self.stopwatch.nanos();
        let turns = &self.counters.turn_duration_seconds;
        turns.record(nanos - self.turn_began_nanos);
        let turn_ms = now.monotonic_ms - self.turn_began_ms;
        (self.turn_began_ms, self.turn_began_nanos) = (now.monotonic_ms, nanos);
        if turn_ms >= STALL_MS {
            self.counters.stalls.add(1);
            self.counters.stalled_seconds.add(turn_ms);
        }
    }

    fn sleep_time(&self, now: Now) -> Duration {
        let now_ms = now.monotonic_ms;
        let timer_ms = self.shard.next_timer_ms();
        let mut wake_ms = timer_ms.unwrap_or(u64::MAX).min(now_ms + SLEEP_MAX_MS);
        for (_, accept_ms) in &self.accept_again {
            wake_ms = wake_ms.min(*accept_ms);
        }
        if let Some(close_ms) = self.secure.next_close_ms() {
            wake_ms = wake_ms.min(close_ms);
        }
        if self.shard.is_congested() || self.shard.awaits_history() {
            // Readers of the ring do not notify writers of free space, and publishers do not say when
            // the history is complete, so it polls.
            wake_ms = wake_ms.min(now_ms + RETRY_MS);
        }
        Duration::from_millis(wake_ms.saturating_sub(now_ms))
    }

    fn complete(&mut self, completion: Completion, now: Now) {
        let Completion {
            operation,
            result,
            has_more,
            ..
        } = completion;
        match operation {
            Operation::Accept(listener) => self.accepted(listener, result, has_more, now),
            Operation::Wake => self.kernel.await_wake(),
            Operation::Receive(id) => {
                self.received(id, completion, now);
                // Other shards begin with the first record, not when all input is handled.
                let Self { shard, peers, .. } = self;
                shard.wake_peers(|index| peers.wake(index, now));
            }
            Operation::Send(id) if self.secure.has(id) => self.sent_records(id, result, now),
            Operation::Send(id) => {
                self.sent(id, result, now);
                self.sent_by_kernel(id, result, now);
            }
            Operation::Writable(id) => {
                if let Some(socket) = self.sockets.get_mut(id) {
                    socket.is_polling = false;
                }
                self.finish_operation(id);
                self.writable_for_control(id);
                self.shard.writable(id);
                self.send_records(id);
            }
            Operation::Shutdown(id) | Operation::SetOption(id) => self.finish_operation(id),
            Operation::AttachTls(id) => self.attached_tls(id, result, now),
            Operation::SetSendKeys(id) => self.set_send_keys(id, result, now),
            Operation::SendControl(id) => self.sent_control(id, result, now),
            Operation::Unacknowledged(id, query) => {
                self.finish_operation(id);
                let bytes = u32::try_from(result).ok();
                self.shard.unacknowledged(id, query, bytes, now);
            }
            Operation::Close(id) => {
                self.sockets.remove(id);
                self.secure.end(id);
                self.http.closed(id);
                self.shard.release(id);
            }
            Operation::Cancel => {}
        }
    }

    fn accepted(&mut self, listener: u8, result: i32, has_more: bool, now: Now) {
        if result >= 0 {
            self.accepted.push_back(Accepted {
                listener,
                result,
                nanos: self.stopwatch.nanos(),
            });
        } else if !self.is_draining {
            self.shard
                .note_not_accepted(None, RejectReason::Accept, now);
        }
        if !has_more && !self.is_draining {
            // At once after a success; after a failure (no descriptors, no memory) a little later.
            let delay_ms = if result >= 0 { 0 } else { ACCEPT_RETRY_MS };
            self.accept_again
                .push((listener, now.monotonic_ms + delay_ms));
        }
    }

    /// Takes some of the accepted sockets; all of them, to close them, during a drain.
    fn take_connections(&mut self, now: Now) {
        let count_max = if self.is_draining {
            usize::MAX
        } else {
            ACCEPTS_PER_TURN
        };
        for _ in 0..count_max {
            let Some(accepted) = self.accepted.pop_front() else {
                return;
            };
            let waited = self.stopwatch.nanos() - accepted.nanos;
            self.counters.accept_delay_seconds.record(waited);
            self.take_connection(accepted.listener, accepted.result, now);
        }
    }

    fn take_connection(&mut self, listener: u8, result: i32, now: Now) {
        // SAFETY: `take_connections` calls this once for each successful completion.
        let Ok((socket, peer)) = (unsafe { self.kernel.accepted(result) }) else {
            return self
                .shard
                .note_not_accepted(None, RejectReason::Abandoned, now);
        };
        if self.is_draining {
            return;
        }
        let Ok(id) = self.shard.accept(peer, listener, now) else {
            return;
        };
        self.sockets.insert(id, Socket::default());
        let has_header = self.shard.awaits_proxy_header(id);
        let is_begun = self.secure.begin(id, listener, has_header).is_ok();
        if self.kernel.register_socket(socket, id).is_ok() && is_begun {
            self.set_option(id, SocketOption::SmallReceiveBuffer);
            self.offer_to_kernel(id);
            self.arm_receive(id);
            if self.secure.has(id) && self.shard.reject_stranger(id, now) {
                self.secure.fail(id);
            }
        } else {
            self.shard
                .note_not_accepted(Some(peer), RejectReason::Accept, now);
            self.shard.abort(id, now);
        }
    }

    fn received(&mut self, id: ConnectionId, completion: Completion, now: Now) {
        if let (Some(buffer), Ok(length)) = (completion.buffer, usize::try_from(completion.result))
        {
            // SAFETY: this completion named the buffer, and it is given back below.
            let bytes = unsafe { self.kernel.buffer(buffer, length) };
            match self.secure.receive_ahead(id, bytes) {
                Some(ahead) => self.take_ahead(id, ahead, now),
                None => match self.secure.receive(id, bytes) {
                    None => self.shard.receive(id, bytes, now),
                    Some(result) => self.take_plaintext(id, result, now),
                },
            }
            let socket = self.sockets.get_mut(id);
            if socket.is_some_and(|socket| socket.count_received(length)) {
                self.set_option(id, SocketOption::GrowingReceiveBuffer);
            }
        }
        if let Some(buffer) = completion.buffer {
            // SAFETY: this completion named the buffer, and each completion is handled once.
            unsafe { self.kernel.recycle(buffer) };
        }
        if completion.has_more {
            return;
        }
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.is_receiving = false;
        }
        match completion.result {
            0 if self.secure.keeps_end(id) => {}
            0 => self.shard.on_eof(id, now),
            1.. => self.receive_again(id),
            error if error == -libc::ENOBUFS => {
                self.counters.buffers_exhausted.add(1);
                self.receive_again(id);
            }
            // After a pause.
            error if error == -libc::ECANCELED => self.receive_again(id),
            _ => self.shard.abort(id, now),
        }
        self.finish_operation(id);
    }

    /// Arms the receive again when the completions are handled, unless the shard wants a pause.
    fn receive_again(&mut self, id: ConnectionId) {
        let is_paused = self.shard.receive_mode(id) == ReceiveMode::None;
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.is_paused = is_paused;
            if !is_paused {
                self.unarmed.push(id);
            }
        }
    }

    fn sent(&mut self, id: ConnectionId, result: i32, now: Now) {
        let wanted = self.sockets.get(id).map_or(0, |socket| socket.send_bytes);
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.is_sending = false;
        }
        self.finish_operation(id);
        let written = u32::try_from(result).unwrap_or(0);
        self.shard.sent(id, written);
        let is_full = result == -libc::EAGAIN || (result >= 0 && written < wanted);
        if is_full {
            self.counters.short_sends.add(1);
            self.shard.would_block(id, now);
            self.arm_poll(id);
        } else if result < 0 && result != -libc::EINTR {
            self.shard.abort(id, now);
        }
    }

    /// Counts one more operation of `id`; false when its socket is being closed.
    pub(super) fn begin_operation(&mut self, id: ConnectionId) -> bool {
        match self.sockets.get_mut(id) {
            Some(socket) if !socket.is_closing => {
                socket.operations += 1;
                true
            }
            _ => false,
        }
    }

    pub(super) fn finish_operation(&mut self, id: ConnectionId) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.operations -= 1;
            self.close_when_quiet(id);
        }
    }

    fn arm_receive(&mut self, id: ConnectionId) {
        if self.begin_operation(id) {
            if let Some(socket) = self.sockets.get_mut(id) {
                socket.is_receiving = true;
            }
            let once = self.shard.receive_mode(id) != ReceiveMode::Many;
            self.kernel.receive(id, once);
        }
    }

    fn set_option(&mut self, id: ConnectionId, option: SocketOption) {
        if self.begin_operation(id) {
            self.kernel.set_option(id, option);
        }
    }

    pub(super) fn arm_poll(&mut self, id: ConnectionId) {
        if self.begin_operation(id) {
            if let Some(socket) = self.sockets.get_mut(id) {
                socket.is_polling = true;
            }
            self.kernel.await_writable(id);
        }
    }

    /// Arms receives that ran out of buffers, now that buffers are available again, and resumes
    /// accepting after a pause.
    fn arm_receives(&mut self, now: Now) {
        for id in std::mem::take(&mut self.unarmed) {
            self.arm_receive(id);
        }
        let is_draining = self.is_draining;
        for (listener, _) in self
            .accept_again
            .extract_if(.., |(_, at_ms)| is_draining || *at_ms <= now.monotonic_ms)
        {
            if !is_draining {
                self.kernel.accept(listener);
            }
        }
    }

    fn perform_actions(&mut self, now: Now) {
        for (id, query) in self.shard.take_queries() {
            if self.begin_operation(id) {
                self.kernel.ask_unacknowledged(id, query);
            }
        }
        for id in self.shard.take_admitted() {
            if let Some(socket) = self.sockets.get_mut(id) {
                socket.admit();
            }
        }
        for action in self.shard.take_actions() {
            match action {
                ConnectionAction::ShutdownWrite(id) => {
                    if !self.end_records(id) && self.begin_operation(id) {
                        self.kernel.shutdown_write(id);
                    }
                    if !self.secure.has_control(id) {
                        self.abort_after_end(id, now);
                    }
                }
                ConnectionAction::PauseReceive(id) => {
                    if let Some(socket) = self.sockets.get(id)
                        && socket.is_receiving
                        && !socket.is_closing
                    {
                        self.kernel.cancel(Operation::Receive(id));
                    }
                }
                ConnectionAction::ResumeReceive(id) => {
                    if let Some(socket) = self.sockets.get_mut(id)
                        && std::mem::take(&mut socket.is_paused)
                    {
                        self.unarmed.push(id);
                    }
                }
                ConnectionAction::Close(id) if self.closes_late(id, now) => {}
                ConnectionAction::Close(id) => self.closing.push_back(id),
                ConnectionAction::Reset(id) => {
                    self.set_option(id, SocketOption::ResetAtClose);
                    self.begin_close(id);
                }
                ConnectionAction::HttpBegin(id, listener) => self.http.begin(id, listener),
                ConnectionAction::Http(id, bytes) => self.http.receive(id, &bytes),
                ConnectionAction::HttpWritten(id) => {
                    self.http.written(id);
                    self.shard.http_written(id, now);
                }
                ConnectionAction::HttpEnd(id) => self.http.end(id),
            }
        }
    }

    /// The peer may have ended its stream before this side did: then no end will come.
    pub(super) fn abort_after_end(&mut self, id: ConnectionId, now: Now) {
        let socket = self.sockets.get(id);
        let has_ended = socket.is_some_and(|socket| !socket.is_receiving && !socket.is_paused);
        if has_ended && !self.unarmed.contains(&id) {
            self.shard.abort(id, now);
        }
    }

    /// Cancels the pending operations of `id`, then closes its socket.
    fn begin_close(&mut self, id: ConnectionId) {
        let Some(socket) = self.sockets.get_mut(id) else {
            return;
        };
        if socket.is_closing {
            return;
        }
        socket.is_closing = true;
        if socket.is_receiving {
            self.kernel.cancel(Operation::Receive(id));
        }
        if socket.is_polling {
            self.kernel.cancel(Operation::Writable(id));
        }
        self.close_when_quiet(id);
    }

    fn close_when_quiet(&mut self, id: ConnectionId) {
        if let Some(socket) = self.sockets.get_mut(id)
            && socket.is_closing
            && socket.operations == 0
            && !socket.close_sent
        {
            socket.close_sent = true;
            self.kernel.close(id);
        }
    }

    fn begin_drain(&mut self, now: Now) {
        if !self.is_draining {
            self.is_draining = true;
            self.kernel.stop_accepting();
            self.shard.close_all_sessions(now);
        }
    }

    /// Queues sends for connections that have bytes waiting.
    fn flush(&mut self, now: Now) {
        let (mut bytes, mut sends) = (0, 0);
        let mut cost_left = SEND_COST_PER_SUBMISSION;
        while bytes <= BYTES_PER_SUBMISSION {
            let Some(id) = self.shard.next_ready(&mut cost_left) else {
                break;
            };
            if self.begin_operation(id) {
                bytes += match self.secure.has(id) {
                    true => self.encrypt(id, now),
                    false if self.secure.is_shut(id) => {
                        // It is queued again when the kernel encrypts.
                        self.finish_operation(id);
                        0
                    }
                    false => self.send(id),
                };
            }
            sends += 1;
        }
        if sends > 0 {
            self.counters.sends_per_submission.record(sends as u64);
        }
    }

    fn send(&mut self, id: ConnectionId) -> usize {
        let slices = self.shard.begin_send(id, SLICES_PER_SEND);
        // SAFETY: the slices lie in runs that the connection's send queue holds. A send queue
        // drops a run that is in flight only in `Shard::sent`, which is called for this send's
        // completion, or with the whole connection in `Shard::release`, which is called after the
        // completion of the close, which is queued only when no operation of the connection is
        // left.
        let bytes = unsafe { self.kernel.send(id, slices) };
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.send_bytes = bytes;
            socket.is_sending = true;
        }
        bytes as usize
    }
}

//! Input of sessions that is not handled at once.
//!
//! ```text
//!   bytes arrive ─▶ handled at once, up to a cost ─▶ the rest waits
//!                                                     for its share of a turn
//!                                                     for room in the ring, before a publication
//!                                                     for the peer to read its replies
//!                                                     for the answer to a question
//! ```
//!
//! Every connection that sends something is served at once for a little, so a client that sends now
//! and then never waits for one that sends all the time. What waits is handled in shares, one
//! connection after the other, up to a cost for each turn of the event loop. When much waits for a
//! connection, nothing more is received from it, and its peer is held up by TCP.

use super::connection::Phase;
use super::decoding::{LargeMessages, Share, Stop};
use super::raw::DeferredMessage;
use super::{ConnectionAction, Shard};
use crate::base::limits::{
    CONTROL_COST, INFLATION_COST, INPUT_COST_AT_ONCE, INPUT_COST_PER_SHARE, INPUT_COST_PER_TURN,
    INPUT_WAITING, INPUT_WAITING_UNAUTHENTICATED, LARGE_MESSAGE_BYTES, MESSAGE_COST,
};
use crate::base::memory::{self, Waiting};
use crate::base::{ConnectionId, Now};
use crate::broker::Command;
use std::collections::VecDeque;

/// What the input of a connection waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum WaitsFor {
    /// Its share of a turn.
    #[default]
    Turn,
    /// The same, with a large message first.
    Large,
    /// The same, with a message that takes several turns.
    Long,
    /// The next turn, in which that message is inflated further.
    Inflation,
    /// Room in the ring.
    Room,
    /// The peer, which has to read its replies.
    Peer,
    /// The answer to a question, see [`super::questions`].
    Answer,
}

/// The input of one connection that waits.
#[derive(Debug, Default)]
pub(super) struct WaitingInput {
    pub(super) waits_for: WaitsFor,
    /// A message that waits for room in the ring, ahead of the bytes.
    message: Option<DeferredMessage>,
    bytes: Vec<u8>,
    /// How many of the bytes are handled.
    consumed: usize,
    /// The peer's stream ends after the bytes.
    has_ended: bool,
    /// Nothing is received until less waits.
    is_paused: bool,
    waiting: Waiting,
}

impl WaitingInput {
    fn len(&self) -> usize {
        self.bytes.len() - self.consumed
    }

    /// In which line it waits when there is room for its publication.
    fn line(&self) -> WaitsFor {
        match &self.message {
            Some(message) if message.len() > LARGE_MESSAGE_BYTES => WaitsFor::Large,
            _ => WaitsFor::Turn,
        }
    }

    fn count_memory(&mut self) {
        let message = self.message.as_ref().map_or(0, DeferredMessage::capacity);
        self.waiting.set(self.bytes.capacity() + message);
    }
}

/// The connections whose input waits.
#[derive(Debug, Default)]
pub(super) struct InputQueue {
    /// For their share of a turn, in this order.
    turn: VecDeque<ConnectionId>,
    /// The same, those with a large message, behind the others.
    large: VecDeque<ConnectionId>,
    /// The same, those whose message takes several turns; the first one may have begun.
    long: VecDeque<ConnectionId>,
    /// For room in the ring.
    room: VecDeque<ConnectionId>,
    /// What was handled at once in this turn.
    at_once_cost: usize,
}

impl InputQueue {
    /// Queues a connection; it may be in the queue already.
    pub(super) fn push(&mut self, id: ConnectionId, waits_for: WaitsFor) {
        match waits_for {
            WaitsFor::Turn => self.turn.push_back(id),
            WaitsFor::Large => self.large.push_back(id),
            WaitsFor::Long => self.long.push_back(id),
            WaitsFor::Inflation => self.long.push_front(id),
            WaitsFor::Room => self.room.push_back(id),
            WaitsFor::Peer | WaitsFor::Answer => {}
        }
    }

    /// Whether connections wait with messages that take several turns.
    pub(super) fn has_long(&self) -> bool {
        !self.long.is_empty()
    }
}

/// How the wire is to receive from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveMode {
    /// Whatever arrives.
    Many,
    /// One buffer, then ask again: a client that has yet to authenticate gets no more memory.
    One,
    /// Nothing, until [`ConnectionAction::ResumeReceive`].
    None,
}

impl Shard {
    /// Receives bytes of a session.
    pub(super) fn receive_frames(&mut self, id: ConnectionId, bytes: &mut [u8], now: Now) {
        self.step(id, Command::Activity, now);
        // When many send at once, each is served for one message that costs little.
        let queue = &self.connections.input_queue;
        let (cost_max, compressed_bytes_max) = match queue.at_once_cost < INPUT_COST_PER_TURN {
            true => (INPUT_COST_AT_ONCE, LARGE_MESSAGE_BYTES),
            false => (1, INPUT_COST_AT_ONCE / INFLATION_COST),
        };
        let mut consumed = 0;
        let share = Share {
            cost_max,
            compressed_bytes_max,
            large: LargeMessages::Wait,
        };
        let (cost, stop) = self.decode(id, bytes, &mut consumed, share, now);
        self.connections.input_queue.at_once_cost += cost;
        if let Some(stop) = stop {
            let (waits_for, message) = stop.reason();
            let waiting = WaitingInput {
                message,
                bytes: bytes[consumed..].to_vec(),
                ..WaitingInput::default()
            };
            self.keep(id, Box::new(waiting), waits_for);
            self.pause_if_full(id);
        }
    }

    /// Adds bytes to the input that waits for a connection; false if there is none.
    pub(super) fn joins_waiting_input(&mut self, id: ConnectionId, bytes: &[u8]) -> bool {
        let connection = self.connections.slab.get_mut(id);
        let Some(waiting) = connection.and_then(|connection| connection.input.as_mut()) else {
            return false;
        };
        waiting.bytes.extend_from_slice(bytes);
        waiting.count_memory();
        self.pause_if_full(id);
        true
    }

    /// The peer of `id` has ended its stream. Messages that are complete are handled first, however long they wait:
    /// what a client has published just before counts. Then the connection is closed, without what waits to be
    /// sent. A peer that is gone altogether is a case of [`Shard::abort`]: nothing that waits is handled.
    pub fn on_eof(&mut self, id: ConnectionId, now: Now) {
        let connection = self.connections.slab.get_mut(id);
        match connection.and_then(|connection| connection.input.as_mut()) {
            Some(waiting) => waiting.has_ended = true,
            None => self.connections.on_eof(id, now),
        }
        self.reap_ended(now);
    }

    /// How to receive from `id` next.
    #[must_use]
    pub fn receive_mode(&self, id: ConnectionId) -> ReceiveMode {
        let Some(connection) = self.connections.slab.get(id) else {
            return ReceiveMode::None;
        };
        let is_paused = connection
            .input
            .as_ref()
            .is_some_and(|input| input.is_paused);
        match connection.phase {
            _ if is_paused => ReceiveMode::None,
            Phase::Http(ref peer) if peer.is_paused => ReceiveMode::None,
            Phase::Head(_) => ReceiveMode::One,
            Phase::Open if !self.broker.auth_satisfied(id) => ReceiveMode::One,
            _ => ReceiveMode::Many,
        }
    }

    /// Whether input waits that `continue_input` would handle now.
    #[must_use]
    pub fn has_waiting_input(&self) -> bool {
        let queue = &self.connections.input_queue;
        !queue.turn.is_empty()
            || !queue.large.is_empty()
            || !queue.long.is_empty()
            || (!queue.room.is_empty() && !self.writer.is_congested())
    }

    /// Handles input that waits, as much as belongs in one turn.
    pub fn continue_input(&mut self, now: Now) {
        self.connections.is_memory_short = self.process_state.memory.update();
        self.connections
            .counters
            .waiting_bytes
            .set(memory::waiting_bytes());
        let queue = &mut self.connections.input_queue;
        queue.at_once_cost = 0;
        if !self.writer.is_congested() {
            for id in std::mem::take(&mut queue.room) {
                let connection = self.connections.slab.get(id);
                let input = connection.and_then(|connection| connection.input.as_ref());
                let waits_for = input.map_or(WaitsFor::Turn, |input| input.line());
                self.connections.input_queue.push(id, waits_for);
            }
        }
        let mut cost = 0;
        while cost < INPUT_COST_PER_TURN
            && let Some(id) = self.connections.input_queue.turn.pop_front()
        {
            let share = self.continue_input_of(id, LargeMessages::Wait, now);
            cost += share.max(CONTROL_COST);
        }
        // At least one of each kind in each turn, so that they get on beside any number of others; but
        // none has two shares.
        let has_long = self.connections.input_queue.has_long();
        while let Some(id) = self.connections.input_queue.large.pop_front() {
            cost += self.continue_input_of(id, LargeMessages::InOneTurn, now);
            if cost >= INPUT_COST_PER_TURN {
                break;
            }
        }
        while has_long && let Some(id) = self.connections.input_queue.long.pop_front() {
            cost += self.continue_input_of(id, LargeMessages::Any, now);
            if cost >= INPUT_COST_PER_TURN {
                break;
            }
        }
        self.reap_ended(now);
    }

    /// Gives one connection its share; returns what it cost.
    fn continue_input_of(&mut self, id: ConnectionId, large: LargeMessages, now: Now) -> usize {
        let connection = self.connections.slab.get_mut(id);
        let Some(mut waiting) = connection.and_then(|connection| connection.input.take()) else {
            return 0;
        };
        let is_open = self.connections.is_open(id);
        if !is_open {
            self.inflaters.release(id);
        }
        if waiting.message.is_some() && is_open && self.writer.is_congested() {
            // An earlier one has filled the ring again.
            self.keep(id, waiting, WaitsFor::Room);
            return 0;
        }
        let mut cost = 0;
        let mut stop = None;
        if let Some(message) = waiting.message.take()
            && is_open
        {
            cost += MESSAGE_COST + message.len();
            stop = self.message(id, message.message(), message.is_seen, now);
        }
        if stop.is_none() {
            let WaitingInput {
                bytes, consumed, ..
            } = &mut *waiting;
            let share = Share {
                cost_max: INPUT_COST_PER_SHARE,
                compressed_bytes_max: LARGE_MESSAGE_BYTES,
                large,
            };
            let (decode_cost, decode_stop) = self.decode(id, bytes, consumed, share, now);
            cost += decode_cost;
            stop = decode_stop;
        }
        let Some(stop) = stop else {
            if waiting.is_paused {
                let resume = ConnectionAction::ResumeReceive(id);
                self.connections.actions.push(resume);
            }
            if waiting.has_ended {
                self.connections.on_eof(id, now);
            }
            return cost;
        };
        if waiting.consumed > waiting.bytes.len() / 2 {
            waiting.bytes.drain(..waiting.consumed);
            waiting.consumed = 0;
        }
        let (_, resume_bytes) = self.input_limits(id);
        if waiting.is_paused && waiting.len() < resume_bytes {
            waiting.is_paused = false;
            let resume = ConnectionAction::ResumeReceive(id);
            self.connections.actions.push(resume);
        }
        let (waits_for, message) = stop.reason();
        waiting.message = message;
        self.keep(id, waiting, waits_for);
        cost
    }

    /// Keeps input until what it waits for is there.
    fn keep(&mut self, id: ConnectionId, mut waiting: Box<WaitingInput>, waits_for: WaitsFor) {
        waiting.waits_for = waits_for;
        waiting.count_memory();
        if let Some(connection) = self.connections.slab.get_mut(id) {
            connection.input = Some(waiting);
            self.connections.input_queue.push(id, waits_for);
        }
    }

    /// Receives nothing more from a connection for which much input waits.
    fn pause_if_full(&mut self, id: ConnectionId) {
        let (pause_bytes, _) = self.input_limits(id);
        let connection = self.connections.slab.get_mut(id);
        if let Some(waiting) = connection.and_then(|connection| connection.input.as_mut())
            && waiting.len() >= pause_bytes
            && !waiting.is_paused
        {
            waiting.is_paused = true;
            let pause = ConnectionAction::PauseReceive(id);
            self.connections.actions.push(pause);
        }
    }

    fn input_limits(&self, id: ConnectionId) -> (usize, usize) {
        if self.broker.auth_satisfied(id) {
            INPUT_WAITING
        } else {
            INPUT_WAITING_UNAUTHENTICATED
        }
    }

    /// Whether input of a connection waits for this server, so that an answer of the peer may be
    /// among it.
    pub(super) fn waits_for_server(&self, id: ConnectionId) -> bool {
        let connection = self.connections.slab.get(id);
        let waiting = connection.and_then(|connection| connection.input.as_ref());
        waiting.is_some_and(|waiting| waiting.waits_for != WaitsFor::Peer)
    }

    /// Whether a complete message of a connection waits for this server: to be inflated, for the share of a
    /// large one, or for room in the ring.
    pub(super) fn has_waiting_message(&self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.slab.get(id) else {
            return false;
        };
        let is_complete = |waiting: &WaitingInput| {
            waiting.waits_for == WaitsFor::Large
                || waiting.message.is_some()
                || connection.decoder.has_put_back()
        };
        self.waits_for_server(id) && connection.input.as_deref().is_some_and(is_complete)
    }
}

impl Stop {
    /// What the rest waits for, and the message ahead of it.
    fn reason(self) -> (WaitsFor, Option<DeferredMessage>) {
        match self {
            Self::Cost => (WaitsFor::Turn, None),
            Self::Large => (WaitsFor::Large, None),
            Self::Long => (WaitsFor::Long, None),
            Self::Inflation => (WaitsFor::Inflation, None),
            Self::Answer => (WaitsFor::Answer, None),
            Self::Room(message) => (WaitsFor::Room, Some(message)),
            Self::Peer => (WaitsFor::Peer, None),
        }
    }
}

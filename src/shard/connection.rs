//! One connection of a shard.

use super::client_log::Closed;
use super::connection_table::Query;
use super::input::WaitingInput;
use super::send_queue::{FrameCount, QueueLimits, SendQueue};
use crate::base::counters::{CloseReason, ProtocolError};
use crate::base::label::Label;
use crate::base::{ConnectionId, DialectId, Now, Variant};
use crate::config::PeerRole;
use crate::ws::close::{self, PeerClose};
use crate::ws::{CloseCode, Decoder, Opcode, frame};
use std::net::SocketAddr;

/// The state of a connection.
///
/// ```text
///   Head ──upgrade──▶ Open ──close frame queued──▶ Closing ──written──▶ Lingering ──▶ Closed
///     │ └─rejected───────────────────────────────▶ Closing                              │
///   ▲ └──other request──▶ Http ──last answer─────▶ Closing                              ▼
///   └───────upgrade────────┘                                                      slot free
/// ```
///
/// An HTTP connection carries one request after the other, until one asks for an upgrade.
/// `Lingering` ends with the peer's close frame, the end of its stream, or a timeout.
#[derive(Debug)]
pub(super) enum Phase {
    /// Waiting for a complete request head. Boxed, because a session does not need this data and it
    /// would make each connection larger.
    Head(Box<PendingRequest>),
    /// A WebSocket session.
    Open,
    /// Bytes go to the HTTP API.
    Http(Box<HttpPeer>),
    /// The last bytes wait in the send queue.
    Closing(CloseWait),
    /// Everything is written; waiting for the peer to close.
    Lingering(CloseWait),
    /// The wire was asked to close the socket.
    Closed,
    /// The socket is closed, and the slot waits for the broker to give back the subscriptions.
    Leaving,
}

/// A connection whose request head is incomplete.
#[derive(Debug)]
pub(super) struct PendingRequest {
    /// The address of the client, as far as it is known; else that of the proxy.
    pub(super) client: SocketAddr,
    /// What has sent the bytes that come next.
    pub(super) role: PeerRole,
    /// The listener that accepted it.
    pub(super) listener: u8,
    /// When it was accepted, or when the turn of its upgrade came after other requests, by the
    /// stopwatch.
    pub(super) accepted_nanos: u64,
    /// The part of its request head that has arrived.
    pub(super) head: Vec<u8>,
}

/// Who sends HTTP requests.
#[derive(Debug)]
pub(super) struct HttpPeer {
    /// As it was when the first request was complete, without its head.
    pub(super) origin: PendingRequest,
    /// The answer to the last request is queued, and no byte of another one has arrived.
    pub(super) is_idle: bool,
    /// Nothing is received until the HTTP API has read what it has.
    pub(super) is_paused: bool,
    /// A request for an upgrade, and what came behind it, while answers are written.
    pub(super) upgrade: Option<Vec<u8>>,
}

/// How a connection that is being closed waits for its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseWait {
    /// The peer has sent its close frame, or ended its stream; there is nothing to wait for.
    Done,
    /// The peer has yet to send its close frame (RFC 6455 7.1.1); until then its frames are read
    /// and ignored.
    CloseFrame,
    /// The peer does not speak WebSocket, or violated the protocol: the server shuts down its
    /// sending side, so that the peer sees the end of the stream, and discards further input.
    /// Closing at once would reset the connection and could destroy data in flight to the peer (RFC
    /// 9112 9.6).
    EndOfStream,
}

/// The socket takes bytes.
pub(super) const NOT_STUCK: u32 = u32::MAX;
/// The socket has taken nothing for too long, and the kernel is asked whether the peer acknowledges
/// bytes.
const ASKED: u32 = u32::MAX - 1;
const STUCK_TICK_MS: u64 = 100;
/// The wheel has no timer of the connection.
pub(super) const NO_TIMER: u32 = u32::MAX;

/// A connection. Keep it small: a shard has tens of thousands of them.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) phase: Phase,
    /// The dialect of its session, and how frames for it are encoded. If that is not plain, its
    /// messages may be compressed too.
    pub(super) variant: Variant,
    /// Whether it is in the queue of connections to send to.
    pub(super) is_queued: bool,
    /// Whether it is in the queue of those that have a reply or a control frame.
    pub(super) is_urgent: bool,
    /// The socket accepted no bytes; waiting for it to become writable.
    pub(super) is_blocked: bool,
    pub(super) decoder: Decoder,
    /// Input that waits; nearly always there is none.
    pub(super) input: Option<Box<WaitingInput>>,
    pub(super) send_queue: SendQueue,
    /// Bytes that the peer had acknowledged when it was last asked for, modulo 2^32.
    acknowledged_bytes: u32,
    /// Where in the stream the latest ping begins: bytes that precede it, modulo 2^32.
    pub(super) pinged_at_bytes: u32,
    /// Since when the socket has taken no byte and the peer acknowledged none, monotonic tenths of a
    /// second; [`NOT_STUCK`] if it takes them, [`ASKED`] while the kernel is asked.
    pub(super) stuck_since_ticks: u32,
    /// When its timer expires, monotonic ticks of the wheel.
    pub(super) timer_ticks: u32,
    /// Time of its earliest timer in the wheel, which has no other that counts; [`NO_TIMER`] if it has
    /// none.
    pub(super) wheel_ticks: u32,
    /// Messages of the client, and messages to it that its socket has taken; both modulo 2^32.
    pub(super) received_count: u32,
    pub(super) sent_count: u32,
}

const _: () = assert!(size_of::<Connection>() <= 136);

/// How a session is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CloseRequest {
    /// The code of the server's close frame; `None` echoes a close frame without a code.
    code: Option<CloseCode>,
    pub(super) reason: CloseReason,
    /// Whether what is queued is sent before the close frame.
    pub(super) flush: bool,
}

impl CloseRequest {
    /// Sends everything queued first.
    pub(super) fn flushing(code: CloseCode, reason: CloseReason) -> Self {
        Self {
            code: Some(code),
            reason,
            flush: true,
        }
    }

    /// The peer violated the protocol. Answers to its earlier messages are still sent.
    pub(super) fn protocol_error(error: ProtocolError) -> Self {
        Self::flushing(close::code_for(error), CloseReason::Protocol)
    }

    /// The peer sent a close frame; RFC 6455 5.5.1 allows echoing its code.
    pub(super) fn echo(close: PeerClose) -> Self {
        Self {
            code: close.code,
            reason: CloseReason::Peer,
            flush: true,
        }
    }

    /// The peer reads too slowly; the frames queued for it are dropped.
    pub(super) fn slow_consumer() -> Self {
        Self {
            code: Some(CloseCode::POLICY_VIOLATION),
            reason: CloseReason::SlowConsumer,
            flush: false,
        }
    }

    /// The embedding program closes the session, with a code of its own.
    pub(super) fn by_program(code: CloseCode) -> Self {
        Self::flushing(code, CloseReason::Operator)
    }

    /// What to wait for after the server's close frame.
    pub(super) fn close_wait(self) -> CloseWait {
        match self.reason {
            CloseReason::Peer => CloseWait::Done,
            // The decoder is gone, with the part of a message that it had.
            CloseReason::Protocol | CloseReason::Memory => CloseWait::EndOfStream,
            // Others need its place.
            CloseReason::UnauthenticatedMax
            | CloseReason::UnauthenticatedPerIpMax
            | CloseReason::HandshakesPerIpMax
            | CloseReason::HandshakesPerShardMax
            | CloseReason::AuthThrottled
            | CloseReason::AuthUnanswered => CloseWait::Done,
            _ => CloseWait::CloseFrame,
        }
    }

    /// The code for the log; RFC 6455 7.1.5: 1005 stands for a close frame without one, and 1006 for
    /// none.
    pub(super) fn logged_code(self) -> u16 {
        match self.code {
            _ if !self.flush => close::ABNORMAL,
            Some(code) => code.value(),
            None => close::NO_CODE,
        }
    }

    /// The close frame; its reason text is the label of the counter, so that a client's log and
    /// the server's metrics say the same.
    pub(super) fn frame(self) -> Vec<u8> {
        let text = match self.reason {
            CloseReason::Peer => "",
            reason => reason.name(),
        };
        self.frame_with(text)
    }

    /// The close frame with another reason text.
    pub(super) fn frame_with(self, text: &str) -> Vec<u8> {
        let Some(code) = self.code else {
            return frame::control(Opcode::Close, &[]);
        };
        let payload = [&code.value().to_be_bytes(), text.as_bytes()].concat();
        frame::control(Opcode::Close, &payload)
    }
}

impl Connection {
    pub(super) fn new(
        id: ConnectionId,
        peer: SocketAddr,
        role: PeerRole,
        (listener, accepted_nanos): (u8, u64),
    ) -> Self {
        Self {
            id,
            phase: Phase::Head(Box::new(PendingRequest {
                client: peer,
                role,
                listener,
                accepted_nanos,
                head: Vec::new(),
            })),
            variant: Variant::plain(DialectId::Gateway),
            is_queued: false,
            is_urgent: false,
            is_blocked: false,
            decoder: Decoder::default(),
            input: None,
            send_queue: SendQueue::default(),
            acknowledged_bytes: 0,
            pinged_at_bytes: 0,
            stuck_since_ticks: NOT_STUCK,
            timer_ticks: 0,
            wheel_ticks: NO_TIMER,
            received_count: 0,
            sent_count: 0,
        }
    }

    /// Notes how many of the bytes that the socket has taken the peer has yet to acknowledge. Returns
    /// whether it has acknowledged some since the last time.
    pub(super) fn acknowledge(&mut self, unacknowledged_bytes: u32) -> bool {
        let earlier = self.acknowledged_bytes;
        self.acknowledged_bytes = self
            .send_queue
            .sent_bytes()
            .wrapping_sub(unacknowledged_bytes);
        self.acknowledged_bytes != earlier
    }

    /// Whether, when last asked, the peer had yet to acknowledge bytes that are ahead of the ping.
    pub(super) fn has_bytes_before_ping(&self) -> bool {
        // Modulo 2^32; a socket holds far less than half of that.
        let ahead = self.pinged_at_bytes.wrapping_sub(self.acknowledged_bytes);
        ahead.cast_signed() > 0
    }

    /// The socket takes no bytes from now on.
    pub(super) fn begin_stuck(&mut self, now: Now) {
        // Rounded up, so that nobody is given up early.
        let ticks = u32::try_from(now.monotonic_ms.div_ceil(STUCK_TICK_MS));
        self.stuck_since_ticks = ticks.unwrap_or(NOT_STUCK);
    }

    /// What to ask the kernel before more is queued: a full socket says nothing of a peer that reads
    /// less than its buffer holds.
    pub(super) fn progress_query(
        &mut self,
        limits: QueueLimits,
        timeout_ms: u64,
        now: Now,
    ) -> Option<Query> {
        let is_due = self.is_open()
            && self.stuck_since_ticks < ASKED
            && self.send_queue.bytes() > limits.bytes_max
            && self.has_been_stuck(timeout_ms, now);
        is_due.then(|| {
            self.stuck_since_ticks = ASKED;
            Query::WhenStuck
        })
    }

    fn has_been_stuck(&self, timeout_ms: u64, now: Now) -> bool {
        let since_ms = u64::from(self.stuck_since_ticks) * STUCK_TICK_MS;
        now.monotonic_ms.saturating_sub(since_ms) >= timeout_ms
    }

    /// Whether the answer is due: the socket has taken nothing since.
    pub(super) fn is_progress_asked(&self) -> bool {
        self.stuck_since_ticks == ASKED
    }

    /// Counts messages that are sent to the client.
    pub(super) fn count_sent(&mut self, count: FrameCount) {
        #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32")]
        let count = count.0 as u32;
        self.sent_count = self.sent_count.wrapping_add(count);
    }

    /// For the log: that it is closed now.
    pub(super) fn closed(&self, code: u16, reason: CloseReason) -> Closed {
        Closed {
            code,
            reason,
            received_count: self.received_count,
            sent_count: self.sent_count,
            waiting_bytes: self.send_queue.bytes(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }
}

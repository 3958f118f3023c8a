//! One connection of a shard.

use super::send_queue::SendQueue;
use crate::base::counters::{CloseReason, ProtocolError};
use crate::base::label::Label;
use crate::base::{ConnectionId, DialectId};
use crate::ws::close::{self, PeerClose};
use crate::ws::{CloseCode, Decoder, Opcode, frame};
use std::net::SocketAddr;

/// Where a connection is in its life.
///
/// ```text
///   Head ──upgrade──▶ Open ──close frame queued──▶ Closing ──written──▶ Lingering ──▶ Gone
///     │ └─rejected────────────────────────────────▶ Closing    peer's close frame,      │
///     └──other request──▶ Http ──answered────────▶ Closing    its end, or a timeout    ▼ slot free
/// ```
#[derive(Debug)]
pub(super) enum Phase {
    /// Waiting for a complete request head. Apart, as what is known until then is of no use to a
    /// session and would make each connection larger.
    Head(Box<PendingRequest>),
    /// A WebSocket session.
    Open,
    /// Bytes go to the HTTP API.
    Http,
    /// Something last waits in the send queue.
    Closing(CloseWait),
    /// All is written; waiting for the peer's end.
    Lingering(CloseWait),
    /// The wire was asked to close the socket.
    Closed,
}

/// What is known of a connection before its request.
#[derive(Debug)]
pub(super) struct PendingRequest {
    pub(super) peer: SocketAddr,
    /// Which listener it came by.
    pub(super) listener: u8,
    /// The front of its request head.
    pub(super) head: Vec<u8>,
}

/// How a connection that is being closed waits for its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseWait {
    /// The peer has sent its close frame, or ended its stream: nothing to wait for.
    Done,
    /// The peer owes a close frame (RFC 6455 7.1.1); until then its frames are read and ignored.
    CloseFrame,
    /// The peer speaks no WebSocket, or broke its rules: our sending side is shut down, so that it
    /// sees the end, and what it still sends is discarded. Closing at once would reset the
    /// connection and could destroy what is still on its way to the peer (RFC 9112 9.6).
    EndOfStream,
}

/// A connection; its size counts ten thousand times.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) phase: Phase,
    pub(super) dialect: DialectId,
    /// Stands in the list of connections to send to.
    pub(super) is_queued: bool,
    /// The socket took nothing; waiting for it to become writable.
    pub(super) is_blocked: bool,
    pub(super) decoder: Decoder,
    pub(super) send_queue: SendQueue,
    /// When to look at the connection.
    pub(super) timer_ms: u64,
    /// The earliest of its timers in the wheel; others are stale.
    pub(super) wheel_ms: u64,
}

/// How a session is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CloseRequest {
    /// The code of our close frame; none echoes a close frame without one.
    code: Option<CloseCode>,
    pub(super) reason: CloseReason,
    /// Whether what is queued is sent before the close frame.
    pub(super) flush: bool,
}

impl CloseRequest {
    /// Everything queued is sent first.
    pub(super) fn flushing(code: CloseCode, reason: CloseReason) -> Self {
        Self {
            code: Some(code),
            reason,
            flush: true,
        }
    }

    /// The peer broke the protocol. What came before was right and is still answered.
    pub(super) fn protocol_error(error: ProtocolError) -> Self {
        Self::flushing(close::code_for(error), CloseReason::Protocol)
    }

    /// The peer sent a close frame; RFC 6455 5.5.1 allows its own code as the answer.
    pub(super) fn echo(close: PeerClose) -> Self {
        Self {
            code: close.code,
            reason: CloseReason::Peer,
            flush: true,
        }
    }

    /// The peer does not read; what it has not read is dropped.
    pub(super) fn slow_consumer() -> Self {
        Self {
            code: Some(CloseCode::POLICY_VIOLATION),
            reason: CloseReason::SlowConsumer,
            flush: false,
        }
    }

    /// What is expected of the peer after our close frame.
    pub(super) fn close_wait(self) -> CloseWait {
        match self.reason {
            CloseReason::Peer => CloseWait::Done,
            CloseReason::Protocol => CloseWait::EndOfStream,
            _ => CloseWait::CloseFrame,
        }
    }

    /// The close frame; its reason text is the label of the counter, so that a client's log and
    /// the server's metrics say the same.
    pub(super) fn frame(self) -> Vec<u8> {
        let Some(code) = self.code else {
            return frame::control(Opcode::Close, &[]);
        };
        let mut payload = code.value().to_be_bytes().to_vec();
        if self.reason != CloseReason::Peer {
            payload.extend_from_slice(self.reason.name().as_bytes());
        }
        frame::control(Opcode::Close, &payload)
    }
}

impl Connection {
    pub(super) fn new(id: ConnectionId, peer: SocketAddr, listener: u8) -> Self {
        Self {
            id,
            phase: Phase::Head(Box::new(PendingRequest {
                peer,
                listener,
                head: Vec::new(),
            })),
            dialect: DialectId::Gateway,
            is_queued: false,
            is_blocked: false,
            decoder: Decoder::default(),
            send_queue: SendQueue::default(),
            timer_ms: 0,
            wheel_ms: u64::MAX,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }
}

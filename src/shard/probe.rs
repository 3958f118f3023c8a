//! Measures how long a publication takes to the socket of the last subscriber.
//!
//! ```text
//!   noted by its writer ─▶ its record is read ─▶ runs in the send queues ─▶ the last one is written
//! ```

use super::connection::Connection;
use super::connection_table::ConnectionTable;
use crate::base::ConnectionId;
use crate::base::publish_times::PublishTime;

/// A measurement that is not finished.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    /// The subscriber that was last in the fan-out.
    pub(super) id: ConnectionId,
    pub(super) published: PublishTime,
    /// Where in the stream of its connection the fan-out ends: bytes, modulo 2^32.
    pub(super) end_bytes: u32,
}

impl Probe {
    /// Whether its subscriber is this connection, and has taken the fan-out.
    pub(super) fn is_reached(&self, connection: &Connection) -> bool {
        let sent_bytes = connection.send_queue.sent_bytes();
        self.id == connection.id && sent_bytes.wrapping_sub(self.end_bytes).cast_signed() >= 0
    }
}

impl ConnectionTable {
    /// Begins to measure a publication of the fan-out whose last subscriber is in this slot, unless
    /// another one is measured.
    pub(super) fn begin_probe(&mut self, slot: u32, published: PublishTime) {
        if self.probe.is_none()
            && self.stopwatch.is_running()
            && let Some((id, connection)) = self.slab.at_slot_mut(slot)
            && connection.is_open()
            && !connection.is_blocked
        {
            let send_queue = &connection.send_queue;
            self.probe = Some(Probe {
                id,
                published,
                end_bytes: send_queue.sent_bytes().wrapping_add(send_queue.bytes()),
            });
        }
    }

    /// A client that does not read, or has gone, says nothing of the server.
    pub(super) fn end_probe(&mut self, id: ConnectionId) {
        if self.probe.is_some_and(|probe| probe.id == id) {
            self.probe = None;
        }
    }
}

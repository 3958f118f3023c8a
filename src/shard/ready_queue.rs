//! The connections that have bytes to send, first in first out.

use super::connection::Connection;
use crate::base::ConnectionId;
use std::collections::VecDeque;

/// The queue of connections that wait for a send, and its end at the last fan-out.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    queue: VecDeque<ConnectionId>,
    /// Connections that have left the queue so far.
    removed: u64,
    /// The value of `removed` at which all connections of the last fan-out have left the queue.
    fanout_end: u64,
}

impl ReadyQueue {
    /// Queues the connection, unless it is queued already or a completion will queue it.
    pub(super) fn join(&mut self, connection: &mut Connection) {
        if !connection.is_queued && !connection.is_blocked && !connection.send_queue.is_sending() {
            connection.is_queued = true;
            self.queue.push_back(connection.id);
        }
    }

    pub(super) fn pop(&mut self) -> Option<ConnectionId> {
        let first = self.queue.pop_front()?;
        self.removed += 1;
        Some(first)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Records that a fan-out was just queued, and sorts the queue by slot.
    ///
    /// Connections that were accepted one after the other are adjacent in the memory of the server
    /// and of the kernel, while subscriber groups are in any order, and so are subscribers after
    /// some have left. Sorting does not delay any connection: connections that join later are
    /// behind all that are queued now.
    pub(super) fn note_fanout(&mut self) {
        let queue = self.queue.make_contiguous();
        queue.sort_unstable_by_key(|id| id.slot());
        self.fanout_end = self.removed + self.queue.len() as u64;
    }

    /// Whether all connections of the last fan-out have had their turn.
    pub(super) fn is_fanout_sent(&self) -> bool {
        self.removed >= self.fanout_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr};

    #[test]
    fn a_fanout_leaves_in_the_order_of_slots_and_who_joins_later_comes_behind() {
        let mut queue = ReadyQueue::default();
        let join = |queue: &mut ReadyQueue, slot| {
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
            queue.join(&mut Connection::new(ConnectionId::new(slot, 0), peer, 0));
        };
        for slot in [2, 0, 3] {
            join(&mut queue, slot);
        }
        queue.note_fanout();
        join(&mut queue, 1);
        let mut left = Vec::new();
        while !queue.is_fanout_sent() {
            left.extend(queue.pop().map(ConnectionId::slot));
        }
        assert_eq!(left, [0, 2, 3]);
        assert_eq!(queue.pop().map(ConnectionId::slot), Some(1));
    }
}

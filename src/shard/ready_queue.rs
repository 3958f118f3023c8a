//! The connections that have bytes to send, first in first out.

use super::connection::Connection;
use crate::base::ConnectionId;
use std::collections::VecDeque;

/// The queue of connections that wait for a send, and its end at the last fan-out.
///
/// Connections that have a reply or a control frame are in a second, shorter queue, which goes first:
/// an answer does not wait for a fan-out to thousands. While both have some, they take turns, so that
/// answers to thousands hold up no fan-out either.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    queue: VecDeque<ConnectionId>,
    urgent: VecDeque<ConnectionId>,
    /// Whether the last one was of `urgent`.
    was_urgent: bool,
    /// Connections that have left `queue` so far.
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

    /// The same for a connection that has a reply or a control frame.
    pub(super) fn join_urgently(&mut self, connection: &mut Connection) {
        if !connection.is_urgent && !connection.is_blocked && !connection.send_queue.is_sending() {
            connection.is_urgent = true;
            self.urgent.push_back(connection.id);
        }
    }

    /// The first connection, and whether it was in the urgent queue. It may be in the other one as
    /// well.
    pub(super) fn pop(&mut self) -> Option<(ConnectionId, bool)> {
        if (!self.was_urgent || self.queue.is_empty())
            && let Some(first) = self.urgent.pop_front()
        {
            self.was_urgent = true;
            return Some((first, true));
        }
        self.was_urgent = false;
        let first = self.queue.pop_front()?;
        self.removed += 1;
        Some((first, false))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.urgent.is_empty()
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
    use crate::config::PeerRole;
    use std::net::{Ipv4Addr, SocketAddr};

    #[test]
    fn a_fanout_leaves_in_the_order_of_slots_and_who_joins_later_comes_behind() {
        let mut queue = ReadyQueue::default();
        let join = |queue: &mut ReadyQueue, slot| {
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
            queue.join(&mut Connection::new(
                ConnectionId::new(slot, 0),
                peer,
                PeerRole::Client,
                (0, 0),
            ));
        };
        for slot in [2, 0, 3] {
            join(&mut queue, slot);
        }
        queue.note_fanout();
        join(&mut queue, 1);
        let mut left = Vec::new();
        while !queue.is_fanout_sent() {
            left.extend(queue.pop().map(|(id, _)| id.slot()));
        }
        assert_eq!(left, [0, 2, 3]);
        assert_eq!(queue.pop().map(|(id, _)| id.slot()), Some(1));
    }

    #[test]
    fn a_reply_goes_before_a_fanout_and_does_not_end_it() {
        let mut queue = ReadyQueue::default();
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let connection =
            |slot| Connection::new(ConnectionId::new(slot, 0), peer, PeerRole::Client, (0, 0));
        let mut all: Vec<_> = (0..3).map(connection).collect();
        all.iter_mut().for_each(|connection| queue.join(connection));
        queue.note_fanout();
        queue.join_urgently(&mut all[2]);
        queue.join_urgently(&mut all[2]);
        let order: Vec<_> = std::iter::from_fn(|| {
            let (id, is_urgent) = queue.pop()?;
            Some((id.slot(), is_urgent, queue.is_fanout_sent()))
        })
        .collect();
        let expected = [
            (2, true, false),
            (0, false, false),
            (1, false, false),
            (2, false, true),
        ];
        assert_eq!(order, expected);
    }
}

//! The connections that have bytes to send, first come first served.

use super::connection::Connection;
use crate::base::ConnectionId;
use std::collections::VecDeque;

/// The line of connections that wait for a send, and how far it had come at the last fan-out.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    line: VecDeque<ConnectionId>,
    /// Connections that ever left the line.
    left: u64,
    /// What `left` is when everyone who stood in line at the last fan-out has left it.
    fanout_end: u64,
}

impl ReadyQueue {
    /// Puts the connection in line, unless it stands there or a completion will put it there.
    pub(super) fn join(&mut self, connection: &mut Connection) {
        if !connection.is_queued && !connection.is_blocked && !connection.send_queue.is_sending() {
            connection.is_queued = true;
            self.line.push_back(connection.id);
        }
    }

    pub(super) fn pop(&mut self) -> Option<ConnectionId> {
        let first = self.line.pop_front()?;
        self.left += 1;
        Some(first)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Notes that a fan-out was just queued, and puts the line in the order of slots.
    ///
    /// Connections that were accepted one after the other lie side by side, in our memory and in the
    /// kernel's; a channel's subscriber groups come in any order, and its subscribers too when some have
    /// left. Nobody waits longer for it: until all who stand in line have left it, none is let in
    /// before them.
    pub(super) fn note_fanout(&mut self) {
        let line = self.line.make_contiguous();
        line.sort_unstable_by_key(|id| id.slot());
        self.fanout_end = self.left + self.line.len() as u64;
    }

    /// Whether everyone who stood in line at the last fan-out has had a turn.
    pub(super) fn is_fanout_sent(&self) -> bool {
        self.left >= self.fanout_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr};

    #[test]
    fn a_fanout_leaves_in_the_order_of_slots_and_who_joins_later_comes_behind() {
        let mut line = ReadyQueue::default();
        let join = |line: &mut ReadyQueue, slot| {
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
            line.join(&mut Connection::new(ConnectionId::new(slot, 0), peer, 0));
        };
        for slot in [2, 0, 3] {
            join(&mut line, slot);
        }
        line.note_fanout();
        join(&mut line, 1);
        let mut left = Vec::new();
        while !line.is_fanout_sent() {
            left.extend(line.pop().map(ConnectionId::slot));
        }
        assert_eq!(left, [0, 2, 3]);
        assert_eq!(line.pop().map(ConnectionId::slot), Some(1));
    }
}

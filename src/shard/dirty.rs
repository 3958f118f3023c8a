//! The connections that have bytes to send, first come first served.

use super::connection::Connection;
use crate::base::ConnectionId;
use std::collections::VecDeque;

/// The line of connections that wait for a send, and how far it had come at the last fan-out.
#[derive(Debug, Default)]
pub(super) struct DirtyLine {
    line: VecDeque<ConnectionId>,
    /// Connections that ever left the line.
    left: u64,
    /// What `left` is when everyone who stood in line at the last fan-out has left it.
    fanout_end: u64,
}

impl DirtyLine {
    /// Puts the connection in line, unless it stands there or a completion will put it there.
    pub(super) fn join(&mut self, connection: &mut Connection) {
        if !connection.is_dirty && !connection.is_blocked && !connection.outbox.is_sending() {
            connection.is_dirty = true;
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

    /// Notes that a fan-out was just queued.
    pub(super) fn note_fanout(&mut self) {
        self.fanout_end = self.left + self.line.len() as u64;
    }

    /// Whether everyone who stood in line at the last fan-out has had a turn.
    pub(super) fn is_fanout_sent(&self) -> bool {
        self.left >= self.fanout_end
    }
}

//! How many nodes there are.

use crate::base::limits::NODE_PEER_MS;

/// How many nodes there are, by those who have received the last canaries.
#[derive(Default)]
pub(super) struct Peers {
    /// How many received the last one, on this connection.
    pub(super) now: u64,
    /// How many there were before, and when that was, monotonic milliseconds.
    most: (u64, u64),
}

impl Peers {
    pub(super) fn note(&mut self, count: u64, now_ms: u64) {
        self.now = count;
        if count >= self.most.0 || now_ms >= self.most.1 + NODE_PEER_MS {
            self.most = (count, now_ms);
        }
    }

    /// Whether all that were there are there again.
    pub(super) fn are_complete(&self) -> bool {
        self.now >= self.most.0
    }
}

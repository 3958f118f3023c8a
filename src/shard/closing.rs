//! Closes connections that the server gives up: all at its end, and those for which publications are lost.

use super::connection::{CloseRequest, Phase};
use super::connection_table::ConnectionTable;
use crate::base::counters::CloseReason;
use crate::base::limits::CLOSE_TIMEOUT_MS;
use crate::base::{ConnectionId, Now};
use crate::ws::CloseCode;

impl ConnectionTable {
    /// Closes every connection because the server shuts down.
    pub(super) fn close_all_going_away(&mut self, now: Now) {
        let ids: Vec<_> = self.slab.ids().collect();
        for id in ids {
            match self.slab.get(id).map(|connection| &connection.phase) {
                Some(Phase::Open) => self.close_going_away(id, now),
                // An HTTP answer in progress has the same time as the answer to a close frame.
                Some(Phase::Http(peer)) if !peer.is_idle => {
                    self.set_timer(id, now.monotonic_ms + CLOSE_TIMEOUT_MS);
                }
                Some(Phase::Http(_)) => self.close_when_written(id, now),
                Some(Phase::Head(_)) => self.abort(id),
                _ => {}
            }
        }
    }

    /// Closes a session because the server shuts down (1001).
    pub(super) fn close_going_away(&mut self, id: ConnectionId, now: Now) {
        let close = CloseRequest::flushing(CloseCode::GOING_AWAY, CloseReason::Shutdown);
        self.end(id, close, now);
    }

    /// Closes a session because publications for it may be lost (1013).
    pub(super) fn close_lapped(&mut self, id: ConnectionId, now: Now) {
        let close = CloseRequest::flushing(CloseCode::TRY_AGAIN_LATER, CloseReason::Stalled);
        self.end(id, close, now);
    }

    /// The same of every session.
    pub(super) fn close_all_lapped(&mut self, now: Now) {
        for id in self.open_sessions() {
            self.close_lapped(id, now);
        }
    }
}

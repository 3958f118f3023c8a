//! What is counted about the connections of a shard.

use super::connection::Phase;
use super::connection_table::ConnectionTable;
use crate::base::counters::RejectReason;
use crate::base::{ConnectionId, FrameEncoding, Now};
use std::net::SocketAddr;

impl ConnectionTable {
    /// Counts a connection that does not become a session.
    pub(super) fn count_rejected(
        &mut self,
        id: Option<ConnectionId>,
        client: Option<SocketAddr>,
        reason: RejectReason,
        now: Now,
    ) {
        self.counters.connections_rejected.of(reason).add(1);
        self.log
            .connection_rejected((id, client, None), reason, now);
    }

    /// Counts a message of a client.
    pub(super) fn count_received(&mut self, id: ConnectionId) {
        self.counters.messages_received.add(1);
        if let Some(connection) = self.slab.get_mut(id) {
            connection.received_count = connection.received_count.wrapping_add(1);
        }
    }

    /// Whether messages of a client may be compressed.
    pub(super) fn has_compression(&self, id: ConnectionId) -> bool {
        let connection = self.slab.get(id);
        connection.is_some_and(|connection| connection.variant.encoding() != FrameEncoding::Plain)
    }

    /// The address of a client whose request is read, as far as it is known.
    pub(super) fn client_of(&self, id: ConnectionId) -> Option<SocketAddr> {
        match &self.slab.get(id)?.phase {
            Phase::Head(pending_request) => Some(pending_request.client),
            Phase::Http(peer) => Some(peer.origin.client),
            _ => None,
        }
    }

    pub(super) fn count_unauthenticated(&self) {
        let count = self.unauthenticated.count();
        self.counters.unauthenticated_connections.set(count as u64);
    }

    pub(super) fn count_connections(&self) {
        let count = self.slab.count() - self.leaving_count;
        self.counters.connections.set(count as u64);
    }
}

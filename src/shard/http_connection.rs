//! Connections that send HTTP requests: their bytes go to the HTTP API, and what it answers comes
//! back, until a request asks for an upgrade.

use super::client_log::HttpEvent;
use super::connection::{HttpPeer, PendingRequest, Phase};
use super::connection_table::ConnectionTable;
use super::send_queue::QueueLimits;
use super::{ConnectionAction, Shard};
use crate::base::limits::{HEAD_TIMEOUT_MS, HTTP_TIMEOUT_MS};
use crate::base::{ConnectionId, FrameRun, Now};

/// What the HTTP API has for a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum HttpOutput {
    /// Bytes of an answer.
    Bytes(Vec<u8>),
    /// Whoever sends the requests has shown a key.
    Authorized,
    /// More waits for the API than it takes for now.
    Pause,
    /// It takes more again.
    Resume,
    /// A request for an upgrade, as the bytes of its head and all that came behind it.
    Upgrade(Vec<u8>),
    /// Something that is logged of a request.
    Event(Box<HttpEvent>),
    /// All answers are given.
    End,
}

impl Shard {
    /// Output of the HTTP API for `id`.
    pub fn answer_http(&mut self, id: ConnectionId, output: HttpOutput, now: Now) {
        match output {
            HttpOutput::Bytes(bytes) => self.connections.send_http(id, &bytes, now),
            HttpOutput::Authorized => self.connections.leave_pool(id),
            HttpOutput::Pause => self.connections.pause_http(id),
            HttpOutput::Resume => self.connections.resume_http(id),
            HttpOutput::Upgrade(bytes) => {
                if let Some(peer) = self.connections.http_peer(id) {
                    peer.upgrade = Some(bytes);
                    self.begin_upgrade(id, now);
                }
            }
            HttpOutput::Event(event) => {
                let client = self.connections.client_of(id);
                self.connections.log.http(client, &event, now);
            }
            HttpOutput::End => self.connections.end_http(id, now),
        }
    }

    /// The kernel has taken all answers to `id`; see [`ConnectionAction::HttpWritten`].
    pub fn http_written(&mut self, id: ConnectionId, now: Now) {
        self.begin_upgrade(id, now);
    }

    /// Reads the head of a request for an upgrade, once all answers before it are written: the answer
    /// to an upgrade overtakes what is queued.
    fn begin_upgrade(&mut self, id: ConnectionId, now: Now) {
        if let Some(mut bytes) = self.connections.begin_head_again(id, now) {
            self.receive_head(id, &mut bytes, now);
            self.reap_ended(now);
        }
    }
}

impl ConnectionTable {
    /// Hands the connection over to the HTTP API, with the bytes of its request.
    pub(super) fn begin_http(&mut self, id: ConnectionId, bytes: &[u8], now: Now) {
        let Some(connection) = self.slab.get_mut(id) else {
            return;
        };
        let Phase::Head(pending_request) = &connection.phase else {
            return;
        };
        let PendingRequest {
            client,
            role,
            listener,
            accepted_nanos,
            ..
        } = **pending_request;
        connection.phase = Phase::Http(Box::new(HttpPeer {
            origin: PendingRequest {
                client,
                role,
                listener,
                accepted_nanos,
                head: Vec::new(),
            },
            is_idle: false,
            is_paused: false,
            upgrade: None,
        }));
        self.actions.push(ConnectionAction::HttpBegin(id, listener));
        self.actions
            .push(ConnectionAction::Http(id, bytes.to_vec()));
        self.set_timer(id, now.monotonic_ms + HTTP_TIMEOUT_MS);
    }

    pub(super) fn receive_http(&mut self, id: ConnectionId, bytes: &[u8], now: Now) {
        let Some(peer) = self.http_peer(id) else {
            return;
        };
        if let Some(upgrade) = &mut peer.upgrade {
            upgrade.extend_from_slice(bytes);
            return self.pause_http(id);
        }
        if std::mem::take(&mut peer.is_idle) {
            // One time for all of the request, so that nobody stays by sending it slowly.
            self.set_timer(id, now.monotonic_ms + HTTP_TIMEOUT_MS);
        }
        self.actions
            .push(ConnectionAction::Http(id, bytes.to_vec()));
    }

    /// Queues bytes of an HTTP answer. They have no limit here, because the API answers no further
    /// request while much of its answers waits.
    fn send_http(&mut self, id: ConnectionId, bytes: &[u8], now: Now) {
        let Some(peer) = self.http_peer(id) else {
            return;
        };
        peer.is_idle = true;
        self.set_timer(id, now.monotonic_ms + HTTP_TIMEOUT_MS);
        let Some(connection) = self.slab.get_mut(id) else {
            return;
        };
        let run = FrameRun::reply(bytes);
        let pushed = connection.send_queue.push(run, None, QueueLimits::NONE);
        assert!(pushed.is_ok(), "no answer reaches 4 GiB");
        self.ready_queue.join(connection);
    }

    /// Begins with another request, if one for an upgrade waits and its turn has come: the bytes.
    fn begin_head_again(&mut self, id: ConnectionId, now: Now) -> Option<Vec<u8>> {
        let connection = self.slab.get_mut(id)?;
        let Phase::Http(peer) = &mut connection.phase else {
            return None;
        };
        if !connection.send_queue.is_empty() {
            return None;
        }
        let bytes = peer.upgrade.take()?;
        let origin = PendingRequest {
            head: Vec::new(),
            accepted_nanos: self.stopwatch.nanos(),
            ..peer.origin
        };
        let (client, was_paused) = (origin.client, peer.is_paused);
        connection.phase = Phase::Head(Box::new(origin));
        if was_paused {
            self.actions.push(ConnectionAction::ResumeReceive(id));
        }
        self.enter_pool_again(id, client, now);
        self.set_timer(id, now.monotonic_ms + HEAD_TIMEOUT_MS);
        Some(bytes)
    }

    fn end_http(&mut self, id: ConnectionId, now: Now) {
        if self.http_peer(id).is_some() {
            self.close_when_written(id, now);
        }
    }

    fn pause_http(&mut self, id: ConnectionId) {
        if let Some(peer) = self.http_peer(id)
            && !std::mem::replace(&mut peer.is_paused, true)
        {
            self.actions.push(ConnectionAction::PauseReceive(id));
        }
    }

    fn resume_http(&mut self, id: ConnectionId) {
        if let Some(peer) = self.http_peer(id)
            && std::mem::take(&mut peer.is_paused)
        {
            self.actions.push(ConnectionAction::ResumeReceive(id));
        }
    }

    fn http_peer(&mut self, id: ConnectionId) -> Option<&mut HttpPeer> {
        match &mut self.slab.get_mut(id)?.phase {
            Phase::Http(peer) => Some(peer),
            _ => None,
        }
    }
}

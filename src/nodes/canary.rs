//! The message of a node to itself, which shows that messages come back and that Redis stores what it is given.

use super::connection::{Failure, failure, takes_nothing};
use super::deleting::deletions;
use super::run::{Event, Runner};
use crate::base::limits::{NODE_CANARY_MS, NODE_PEER_MS};
use crate::base::now::Stopwatch;
use redis::{RedisError, Value, cmd};

/// The message of the node to itself, on a channel that all nodes are subscribed to as the last one.
#[derive(Default)]
pub(super) struct Canary {
    /// Whether the node is about to subscribe to its channel, and whether it is subscribed.
    pub(super) is_asked: bool,
    pub(super) is_listening: bool,
    pub(super) number: u64,
    /// When the last one was sent, monotonic nanoseconds; `None` = it is back.
    pub(super) sent_ns: Option<u64>,
    pub(super) due_ms: u64,
    /// Whether one has come back on this connection.
    pub(super) has_returned: bool,
    /// Whether Redis has taken what the last one wrote.
    pub(super) is_written: bool,
}

impl Runner {
    pub(super) fn send_canary(&mut self, now_ms: u64) {
        let timeout_ms = u64::try_from(self.config.timeout.as_millis()).unwrap_or(u64::MAX);
        let Some(mut connection) = self.connection() else {
            return;
        };
        if let Some(sent_ns) = self.canary.sent_ns {
            if now_ms >= sent_ns / 1_000_000 + timeout_ms {
                self.lose("no message has come back in time", now_ms);
            }
            return;
        }
        if now_ms < self.canary.due_ms || !self.is_restored() {
            return;
        }
        if !self.canary.is_listening {
            if std::mem::replace(&mut self.canary.is_asked, true) {
                return;
            }
            let own = connection.names.node_channel(self.engine.link().node());
            let channels = [self.canary_channel.clone(), own];
            return self.spawn(async move {
                if let Err(error) = connection.subscribe(&channels).await {
                    return Event::Failed(error);
                }
                // Of those that come from now on, this node is told.
                match deletions(&mut connection).await {
                    Ok(count) => Event::Listening(count),
                    Err(error) if failure(&error) == Failure::Rejected => Event::Listening(None),
                    Err(error) => Event::Failed(error),
                }
            });
        }
        self.canary.number += 1;
        self.canary.due_ms = now_ms + NODE_CANARY_MS;
        self.canary.sent_ns = Some(Stopwatch::of(self.clock).nanos());
        let message = self.canary_message();
        let publish = connection.names.publish(&self.canary_channel, &message);
        let mut write = cmd("SET");
        write.arg(&self.canary_channel).arg(self.canary.number);
        write.arg("PX").arg(NODE_PEER_MS);
        self.spawn(async move {
            let mut answers = connection.run(vec![write, publish]).await;
            let published = answers.pop();
            let rejection = answers.pop().and_then(Result::err).filter(takes_nothing);
            match published {
                Some(Ok(Value::Int(count))) => {
                    Event::Heard(u64::try_from(count).unwrap_or(0), rejection)
                }
                Some(Err(error)) => Event::Failed(error),
                _ => Event::Heard(0, rejection),
            }
        });
    }

    /// So many nodes have received the canary; the error, if Redis has not taken what it wrote.
    pub(super) fn heard(&mut self, count: u64, rejection: Option<RedisError>, now_ms: u64) {
        self.peers.note(count, now_ms);
        self.canary.is_written = rejection.is_none();
        let counters = &self.engine.link().counters;
        if let Some(error) = rejection.filter(|_| counters.is_up()) {
            counters.set_up(false);
            tracing::error!(redis = %self.connector.address, %error, "Redis stores nothing now");
        }
    }

    fn canary_message(&self) -> Vec<u8> {
        let (node, number) = (self.engine.link().node(), self.canary.number);
        format!("{node:016x} {number}").into_bytes()
    }

    pub(super) fn canary_returned(&mut self, bytes: &[u8]) {
        if bytes != self.canary_message() {
            return;
        }
        if let Some(sent_ns) = self.canary.sent_ns.take() {
            self.canary.has_returned = true;
            let us = Stopwatch::of(self.clock).nanos().saturating_sub(sent_ns) / 1_000;
            self.engine.link().counters.round_trip_us.set(us);
        }
    }
}

//! What has come from Redis and is delivered on this node, in its order.
//!
//! ```text
//!   messages, own publications while Redis is away ─▶ deliveries ─▶ ring of this node
//!                                                        └─ wait while the ring has no room
//! ```

use crate::base::now::Clock;
use crate::base::{ChannelTag, Position, ProcessState};
use crate::shard::{PublishError, Publisher, Received, envelope};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a delivery costs beside its bytes.
const OVERHEAD_BYTES: usize = 128;

/// Something to be done in turn.
#[derive(Debug)]
pub(super) enum Delivery {
    /// Deliver a publication.
    Publication(Box<ReceivedMessage>),
    /// All before it is delivered: the history of the channel begins anew, behind a position.
    Anew(ChannelTag, Position),
    /// All before it is delivered: the channel is attached.
    Attached(ChannelTag),
}

/// A publication that is to be delivered.
#[derive(Debug)]
pub(super) struct ReceivedMessage {
    pub(super) channel: Arc<str>,
    pub(super) origin: (u64, u64),
    pub(super) position: Option<Position>,
    pub(super) is_quiet: bool,
    /// The message, and where in it the envelope begins.
    pub(super) bytes: Vec<u8>,
    pub(super) envelope_at: usize,
}

impl ReceivedMessage {
    fn cost_bytes(&self) -> usize {
        self.bytes.len() + OVERHEAD_BYTES
    }
}

/// The deliveries of this node.
pub(super) struct DeliveryQueue {
    publisher: Arc<Publisher>,
    process_state: Arc<ProcessState>,
    clock: Clock,
    waiting: VecDeque<Delivery>,
    waiting_bytes: usize,
}

impl DeliveryQueue {
    pub(super) fn new(
        publisher: Arc<Publisher>,
        process_state: Arc<ProcessState>,
        clock: Clock,
    ) -> Self {
        Self {
            publisher,
            process_state,
            clock,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Bytes that wait for room in the ring.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Does it when its turn comes.
    pub(super) fn add(&mut self, delivery: Delivery) {
        if !self.waiting.is_empty() || !self.try_do(&delivery) {
            if let Delivery::Publication(message) = &delivery {
                self.waiting_bytes += message.cost_bytes();
            }
            self.waiting.push_back(delivery);
        }
    }

    /// Goes on with what waits, as far as there is room.
    pub(super) fn retry(&mut self) {
        while let Some(next) = self.waiting.pop_front() {
            if !self.try_do(&next) {
                return self.waiting.push_front(next);
            }
            if let Delivery::Publication(message) = next {
                self.waiting_bytes -= message.cost_bytes();
            }
        }
    }

    /// Does it, unless the ring has no room.
    fn try_do(&self, delivery: &Delivery) -> bool {
        match delivery {
            Delivery::Publication(message) => self.deliver(message),
            Delivery::Anew(tag, after) => {
                self.process_state.history.begin_shared(*tag, *after);
                true
            }
            Delivery::Attached(tag) => {
                if let Some(link) = &self.process_state.link {
                    link.set_attached(*tag);
                }
                true
            }
        }
    }

    fn deliver(&self, message: &ReceivedMessage) -> bool {
        let Some(link) = &self.process_state.link else {
            return true;
        };
        let bytes = &message.bytes[message.envelope_at..];
        let Some(opened) = envelope::open(&message.channel, bytes) else {
            link.counters.malformed.add(1);
            return true;
        };
        let received = Received {
            origin: message.origin,
            unix_ms: opened.unix_ms,
            position: message.position,
            is_quiet: message.is_quiet,
        };
        match self
            .publisher
            .deliver(&opened.publication, received, self.clock.now())
        {
            Ok(()) => {
                link.counters.received.add(u64::from(!message.is_quiet));
                true
            }
            Err(PublishError::RingFull) => false,
            // It ends.
            Err(PublishError::Stopped) => true,
            Err(_) => {
                link.counters.malformed.add(1);
                true
            }
        }
    }
}

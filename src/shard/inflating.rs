//! Inflates compressed messages of clients, in a buffer of the shard.
//!
//! A few bytes may become thousands of times as many. So a message is inflated at once only up to the
//! length of a large message; a longer one waits for its share of a turn, as a large one does, and is
//! then inflated from its beginning, up to the limits. What takes more than one turn waits once more, behind
//! others of its kind, so that it does not hold up messages that are a little larger than others.

use super::Shard;
use super::decoding::{LargeMessages, Share, Stop};
use crate::base::counters::ProtocolError;
use crate::base::limits::{
    INPUT_COST_PER_TURN, LARGE_MESSAGE_BYTES, MESSAGE_COST, SCRATCH_BYTES_KEPT,
};
use crate::base::memory::Waiting;
use crate::base::{ConnectionId, Now};
use crate::ws::inflater::{Progress, inflated_bytes_max};
use crate::ws::{InflateError, Inflater, Opcode, decoder};

/// The decompressors of a shard.
#[derive(Debug, Default)]
pub(super) struct Inflaters {
    /// For what is inflated in one turn.
    at_once: Inflater,
    /// The large message that takes several turns, and whose it is. One at a time: its connection is the
    /// first of those with long messages.
    long: Option<(ConnectionId, Inflater)>,
    /// The memory of what it is by now.
    waiting: Waiting,
}

impl Inflaters {
    /// The connection is gone: what was inflated of its message takes memory for nothing.
    pub(super) fn release(&mut self, id: ConnectionId) {
        self.take_long(id);
    }

    fn take_long(&mut self, id: ConnectionId) -> Option<Inflater> {
        let (_, inflater) = self.long.take_if(|(of, _)| *of == id)?;
        self.waiting.set(0);
        Some(inflater)
    }

    fn set_long(&mut self, id: ConnectionId, inflater: Inflater) {
        self.waiting.set(inflater.capacity());
        let other = self.long.replace((id, inflater));
        debug_assert!(other.is_none(), "the other one would begin anew");
    }
}

/// What became of a compressed message.
#[derive(Debug)]
pub(super) enum Received {
    /// It is handled, as far as the input may go on.
    Handled(Option<Stop>),
    /// It is larger than may be inflated in this share, or not whole yet; nothing of it is handled.
    PutBack(Stop),
}

impl Shard {
    /// Inflates and handles a message, and adds to `cost` what that takes.
    ///
    /// # Errors
    /// The protocol error of the peer.
    pub(super) fn receive_compressed(
        &mut self,
        id: ConnectionId,
        (opcode, payload): (Opcode, &[u8]),
        share: Share,
        cost: &mut usize,
        now: Now,
    ) -> Result<Received, ProtocolError> {
        let message_bytes_max = self.message_limits(id).message_bytes_max;
        let bytes_max = inflated_bytes_max(payload.len()).min(message_bytes_max);
        if !share.has_large() && payload.len() > share.compressed_bytes_max {
            return Ok(Received::PutBack(
                match payload.len() > LARGE_MESSAGE_BYTES {
                    true => Stop::Large,
                    false => Stop::Cost,
                },
            ));
        }
        let bytes_now = match share.has_large() {
            true => bytes_max,
            false => bytes_max.min(LARGE_MESSAGE_BYTES),
        };
        // Taken out, because the message is in it while the shard is in use.
        let mut inflater = match self.inflaters.take_long(id) {
            Some(inflater) => inflater,
            None => {
                let mut inflater = std::mem::take(&mut self.inflaters.at_once);
                inflater.begin();
                inflater
            }
        };
        let before = inflater.cost();
        let progress = inflater.advance(payload, bytes_now, INPUT_COST_PER_TURN);
        // Blocks that inflate to nothing take time, too.
        *cost += inflater.cost() - before;
        let received = match progress {
            Ok(Progress::Done) => {
                *cost += MESSAGE_COST;
                self.count_inflated(payload, inflater.output());
                let message = decoder::message(opcode, inflater.output());
                message.map(|message| Received::Handled(self.handle_frame(id, message, now)))
            }
            Ok(Progress::Paused) if self.may_go_on(share) => {
                self.inflaters.set_long(id, inflater);
                return Ok(Received::PutBack(Stop::Inflation));
            }
            Ok(Progress::Paused) => Ok(Received::PutBack(Stop::Long)),
            Err(InflateError::TooLarge) if bytes_now < bytes_max => {
                Ok(Received::PutBack(Stop::Large))
            }
            Err(InflateError::TooLarge) if bytes_max < message_bytes_max => {
                Err(ProtocolError::DeflateRatio)
            }
            Err(InflateError::TooLarge) => Err(ProtocolError::TooLarge),
            Err(InflateError::Invalid) => Err(ProtocolError::Deflate),
        };
        inflater.shrink(SCRATCH_BYTES_KEPT);
        self.inflaters.at_once = inflater;
        received
    }

    /// Whether what is inflated may be kept for the next turn: not while others wait for that.
    fn may_go_on(&self, share: Share) -> bool {
        match share.large {
            LargeMessages::Any => true,
            LargeMessages::InOneTurn => !self.connections.input_queue.has_long(),
            // It costs less than a turn.
            LargeMessages::Wait => false,
        }
    }

    fn count_inflated(&self, payload: &[u8], inflated: &[u8]) {
        let counters = &self.connections.counters;
        counters.inflations.add(1);
        counters.inflation_input_bytes.add(payload.len() as u64);
        counters.inflation_output_bytes.add(inflated.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inflated_goes_with_its_connection_alone() {
        let (one, other) = (ConnectionId::new(1, 1), ConnectionId::new(1, 2));
        let mut inflaters = Inflaters {
            long: Some((one, Inflater::default())),
            ..Inflaters::default()
        };
        inflaters.release(other);
        assert!(inflaters.long.is_some());
        inflaters.release(one);
        assert!(inflaters.long.is_none());
    }
}

//! Bytes on their way out: per connection one send at a time, so that bytes never overtake each
//! other.
//!
//! ```text
//!            send            take_off           sent, all gone
//!  Resting ───────▶ Ready ───────────▶ Flying ─────────────────▶ Resting
//!                     ▲                   │ sent, more to go
//!                     └───────────────────┘
//! ```

use crate::tls::TlsSession;
use std::io;

/// What is to be sent, per slot.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    lanes: Vec<Lane>,
    /// The slots whose lane is `Ready`, each once.
    ready: Vec<u32>,
}

#[derive(Debug, Default)]
struct Lane {
    /// Bytes of the current send; neither moved nor changed while `Flying`.
    /// 0 <= flown <= flying.len(), and flown < flying.len() only from take_off to the last sent.
    flying: Vec<u8>,
    /// How many of them have left already.
    flown: usize,
    /// Not encrypted yet.
    waiting: Vec<u8>,
    tls: Option<TlsSession>,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Resting,
    Ready,
    Flying,
    /// The connection has ended; no send is in flight.
    Shut,
    /// The connection has ended; the last send has not completed.
    ShutFlying,
}

impl SendQueue {
    /// Queues bytes for a connection. Bytes for a connection that has ended are dropped: its end is
    /// reported anyway.
    pub(crate) fn send(&mut self, slot: u32, bytes: &[u8]) {
        self.send_with(slot, |waiting| waiting.extend_from_slice(bytes));
    }

    /// Queues bytes for a connection, written by `write` straight into its buffer.
    pub(crate) fn send_with(&mut self, slot: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let lane = &mut self.lanes[slot as usize];
        match lane.state {
            State::Shut | State::ShutFlying => return,
            State::Resting => {
                lane.state = State::Ready;
                self.ready.push(slot);
            }
            State::Ready | State::Flying => {}
        }
        write(&mut lane.waiting);
    }

    pub(super) fn lane_count(&self) -> u32 {
        u32::try_from(self.lanes.len()).expect("a ring's socket table is far below u32")
    }

    pub(super) fn add_lane(&mut self, tls: Option<TlsSession>) {
        self.lanes.push(Lane {
            tls,
            ..Lane::default()
        });
    }

    /// Replaces `plain` by what the bytes received on a connection contain; false if it has no TLS.
    pub(super) fn decrypt(
        &mut self,
        slot: u32,
        received: &[u8],
        plain: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let Some(tls) = &mut self.lanes[slot as usize].tls else {
            return Ok(false);
        };
        plain.clear();
        tls.decrypt(received, plain)?;
        Ok(true)
    }

    /// The next connection to send on and what to send: all that waits for it, in one piece. These
    /// bytes neither move nor change before [`SendQueue::sent`] is called for the slot.
    pub(super) fn take_off(&mut self) -> Option<(u32, &[u8])> {
        let slot = self.ready.pop()?;
        let lane = &mut self.lanes[slot as usize];
        assert_eq!(lane.state, State::Ready);
        if lane.flown == lane.flying.len() {
            lane.flying.clear();
            lane.flown = 0;
            match &mut lane.tls {
                None => std::mem::swap(&mut lane.flying, &mut lane.waiting),
                Some(tls) => {
                    tls.encrypt(&lane.waiting, &mut lane.flying);
                    lane.waiting.clear();
                }
            }
        }
        lane.state = State::Flying;
        Some((slot, &lane.flying[lane.flown..]))
    }

    /// A send has completed with this result.
    pub(super) fn sent(&mut self, slot: u32, result: i32) {
        let lane = &mut self.lanes[slot as usize];
        assert!(
            matches!(lane.state, State::Flying | State::ShutFlying),
            "no send was in flight"
        );
        lane.state = match (lane.state, usize::try_from(result)) {
            (State::Flying, Ok(count)) => {
                lane.flown += count;
                let is_done = lane.flown == lane.flying.len() && lane.waiting.is_empty();
                if is_done {
                    State::Resting
                } else {
                    State::Ready
                }
            }
            // The receive reports the connection's end; this side only stops.
            _ => State::Shut,
        };
        if lane.state == State::Ready {
            self.ready.push(slot);
        }
    }

    /// The connection has ended.
    pub(super) fn shut(&mut self, slot: u32) {
        let lane = &mut self.lanes[slot as usize];
        lane.state = match lane.state {
            State::Flying | State::ShutFlying => State::ShutFlying,
            State::Resting | State::Ready | State::Shut => State::Shut,
        };
        self.ready.retain(|&ready| ready != slot);
    }
}

impl Drop for SendQueue {
    fn drop(&mut self) {
        for lane in &mut self.lanes {
            if matches!(lane.state, State::Flying | State::ShutFlying) {
                // The kernel may still read these bytes while the ring is torn down in the
                // background.
                std::mem::forget(std::mem::take(&mut lane.flying));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_lanes() -> SendQueue {
        let mut send_queue = SendQueue::default();
        send_queue.add_lane(None);
        send_queue.add_lane(None);
        send_queue
    }

    #[test]
    fn what_waits_leaves_in_one_piece_and_only_one_at_a_time() {
        let mut send_queue = two_lanes();
        send_queue.send(1, b"ab");
        send_queue.send(1, b"cd");
        assert_eq!(send_queue.take_off(), Some((1, &b"abcd"[..])));
        send_queue.send(1, b"ef");
        assert_eq!(send_queue.take_off(), None);
        send_queue.sent(1, 4);
        assert_eq!(send_queue.take_off(), Some((1, &b"ef"[..])));
        send_queue.sent(1, 2);
        assert_eq!(send_queue.take_off(), None);
    }

    #[test]
    fn a_short_send_goes_on_where_it_stopped_whatever_is_added_meanwhile() {
        let mut send_queue = two_lanes();
        send_queue.send(0, b"abcdef");
        assert!(send_queue.take_off().is_some());
        send_queue.sent(0, 2);
        send_queue.send(0, b"gh");
        assert_eq!(send_queue.take_off(), Some((0, &b"cdef"[..])));
        assert_eq!(send_queue.take_off(), None, "the lane is in flight");
        send_queue.sent(0, 4);
        assert_eq!(send_queue.take_off(), Some((0, &b"gh"[..])));
    }

    #[test]
    fn an_ended_connection_takes_nothing_more() {
        let mut send_queue = two_lanes();
        send_queue.send(0, b"a");
        send_queue.shut(0);
        send_queue.send(0, b"b");
        send_queue.send(1, b"c");
        assert_eq!(send_queue.take_off(), Some((1, &b"c"[..])));
        send_queue.shut(1);
        send_queue.sent(1, 1);
        send_queue.send(1, b"d");
        assert_eq!(send_queue.take_off(), None);
    }
}

//! Bytes on their way out: per connection one send at a time, so that bytes never overtake each
//! other.

/// What is to be sent, per slot.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    lanes: Vec<Lane>,
    /// Slots with waiting bytes and no send in flight.
    ready: Vec<u32>,
}

#[derive(Debug, Default)]
struct Lane {
    /// Bytes the kernel reads now; not touched while `in_flight`.
    flying: Vec<u8>,
    /// How many of them have left already.
    flown: usize,
    waiting: Vec<u8>,
    in_flight: bool,
    shut: bool,
}

impl Outbox {
    /// Queues bytes for a connection. Bytes for a connection that has ended are dropped: its end is
    /// reported anyway.
    pub(crate) fn send(&mut self, slot: u32, bytes: &[u8]) {
        self.send_with(slot, |waiting| waiting.extend_from_slice(bytes));
    }

    /// Queues bytes for a connection, written by `write` straight into its buffer.
    pub(crate) fn send_with(&mut self, slot: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let lane = &mut self.lanes[slot as usize];
        if lane.shut {
            return;
        }
        if lane.waiting.is_empty() && !lane.in_flight {
            self.ready.push(slot);
        }
        write(&mut lane.waiting);
    }

    pub(super) fn lane_count(&self) -> u32 {
        u32::try_from(self.lanes.len()).expect("a ring's socket table is far below u32")
    }

    pub(super) fn add_lane(&mut self) {
        self.lanes.push(Lane::default());
    }

    /// The next connection to send on and what to send: all that waits for it, in one piece. These
    /// bytes neither move nor change before [`Outbox::sent`] is called for the slot.
    pub(super) fn take_off(&mut self) -> Option<(u32, &[u8])> {
        let slot = self.ready.pop()?;
        let lane = &mut self.lanes[slot as usize];
        if lane.flown == lane.flying.len() {
            lane.flying.clear();
            lane.flown = 0;
            std::mem::swap(&mut lane.flying, &mut lane.waiting);
        }
        lane.in_flight = true;
        Some((slot, &lane.flying[lane.flown..]))
    }

    /// A send has completed with this result.
    pub(super) fn sent(&mut self, slot: u32, result: i32) {
        let lane = &mut self.lanes[slot as usize];
        lane.in_flight = false;
        match usize::try_from(result) {
            Ok(count) => lane.flown += count,
            // The receive reports the connection's end; this side only stops.
            Err(_) => lane.shut = true,
        }
        if !lane.shut && (lane.flown < lane.flying.len() || !lane.waiting.is_empty()) {
            self.ready.push(slot);
        }
    }

    /// The connection has ended.
    pub(super) fn shut(&mut self, slot: u32) {
        self.lanes[slot as usize].shut = true;
        self.ready.retain(|&ready| ready != slot);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        for lane in &mut self.lanes {
            if lane.in_flight {
                // The kernel may still read these bytes while the ring is torn down in the
                // background.
                std::mem::forget(std::mem::take(&mut lane.flying));
            }
        }
    }
}

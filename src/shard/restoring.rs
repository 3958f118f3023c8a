//! Restores persistent subscriptions of clients that came back, over several turns of the event loop.

use super::Shard;
use super::effects;
use crate::base::Now;
use crate::base::limits::{RECOVERY_BYTES_WAITING, RESTORED_PER_TURN};

impl Shard {
    /// Whether `drain_ring` would restore more subscriptions.
    #[must_use]
    pub fn has_restoring(&self) -> bool {
        // Those that must read first wait for the next turn anyway.
        self.broker.restoration_count() > self.restorations_waiting
    }

    /// Restores subscriptions, as many as in one turn of the event loop; none for a client that has
    /// yet to read answers.
    pub(super) fn continue_restoring(&mut self, now: Now) {
        let Self {
            broker,
            connections,
            writer,
            restorations_waiting,
            ..
        } = self;
        *restorations_waiting = 0;
        let mut left = RESTORED_PER_TURN;
        while left > 0 && broker.restoration_count() > *restorations_waiting {
            let Some(id) = broker.next_restoration() else {
                return;
            };
            if connections.waiting_bytes(id) > RECOVERY_BYTES_WAITING {
                *restorations_waiting += 1;
                broker.defer_restoration();
                continue;
            }
            let count = broker.restore_some(now, &mut |effect| {
                effects::apply(connections, writer, id, effect, now);
            });
            left = left.saturating_sub(count.max(1));
        }
    }
}

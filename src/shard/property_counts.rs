//! Finds the properties of monitoring with the most subscriptions, a part of the table at a time, so
//! that a table of any size holds nobody up.

use crate::base::client_counters::ClientCounters;
use crate::broker::Broker;
use std::cmp::Reverse;

/// Properties that are listed.
const LISTED: usize = 200;
/// Slots of the table of channels that are looked at in one step.
const SLOTS_PER_STEP: u32 = 2_048;
/// Time between two steps, and between two passes, milliseconds.
const STEP_MS: u64 = 100;
const PASS_MS: u64 = 1_000;

/// A pass over the table of channels.
#[derive(Debug, Default)]
pub(super) struct PropertyCounts {
    /// The slot at which the pass goes on; 0 between two passes.
    next_slot: u32,
    found: Vec<(Box<str>, u64)>,
    total: u64,
    /// The changes of subscriptions that the last pass has seen.
    seen_changes: u64,
    /// When there may be another step, monotonic milliseconds.
    due_ms: u64,
}

impl PropertyCounts {
    /// When `step` has to be called next, monotonic milliseconds.
    pub(super) fn next_ms(&self, broker: &Broker) -> Option<u64> {
        let has_changed = self.seen_changes != broker.subscription_changes();
        (self.next_slot > 0 || has_changed).then_some(self.due_ms)
    }

    /// Goes on with the pass, or begins one if there are other subscriptions than at the last one.
    pub(super) fn step(&mut self, broker: &Broker, counters: &ClientCounters, now_ms: u64) {
        if self.next_ms(broker).is_none_or(|due_ms| now_ms < due_ms) {
            return;
        }
        if self.next_slot == 0 {
            self.seen_changes = broker.subscription_changes();
        }
        let slots = self.next_slot..self.next_slot.saturating_add(SLOTS_PER_STEP);
        for (property, count) in broker.properties_in(slots.clone()) {
            self.total += count;
            self.found.push((property.into(), count));
        }
        if self.found.len() > LISTED {
            let count = |(_, count): &(Box<str>, u64)| Reverse(*count);
            self.found.select_nth_unstable_by_key(LISTED, count);
            self.found.truncate(LISTED);
        }
        if slots.end < broker.channel_slots() {
            self.next_slot = slots.end;
            self.due_ms = now_ms + STEP_MS;
            return;
        }
        self.next_slot = 0;
        self.due_ms = now_ms + PASS_MS;
        let found = std::mem::take(&mut self.found);
        if !counters
            .properties
            .publish(found, std::mem::take(&mut self.total))
        {
            // Somebody reads the list: another pass.
            self.seen_changes = self.seen_changes.wrapping_sub(1);
        }
    }
}

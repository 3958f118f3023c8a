//! Which users are online and which channels are occupied, over all shards, and which changes of that a
//! webhook has yet to be told.
//!
//! What counts is the state. The receiver is told when a state differs from the one that it was told
//! last, so that it never learns twice in a row that a channel is occupied, and what changes and changes
//! back before it is told is not told at all.
//!
//! ```text
//!   enter, leave ─▶ count of each name ─ differs from what was told? ─▶ queue ─ delay ─▶ take
//!                                                                              still different?
//! ```

use super::channel_names::{name_for_clients, user_of};
use super::channel_set::ChannelSet;
use super::interest::is_mostly_empty;
use super::label::label;
use super::now::Now;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Names of the queue that one call takes out, while shards wait: a fraction of a millisecond.
const TAKEN_MAX: usize = 1_024;

label! {
    /// What a webhook is told.
    WebhookEvent {
        /// A user has the first session.
        UserOnline = "user_online",
        /// The last session of a user has ended.
        UserOffline = "user_offline",
        /// A channel has its first subscriber.
        ChannelOccupied = "channel_occupied",
        /// The last subscriber of a channel has left.
        ChannelVacated = "channel_vacated",
    }
}

/// Which changes are noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChangesConfig {
    /// Whether those of users are.
    pub has_users: bool,
    /// The channels of which they are.
    pub channels: Option<ChannelSet>,
    /// Changes that may wait; with more, no user and no channel is noted as new.
    pub queue_max: usize,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// What has changed.
    pub event: WebhookEvent,
    /// The name of the channel in the tables, or of the channel of the user.
    pub name: Arc<str>,
    /// When it was noted, milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
}

/// How much waits, and what was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateChangesStats {
    /// Changes that wait.
    pub waiting: u64,
    /// Changes that were not noted because too many waited.
    pub unnoted: u64,
}

/// The states of users and channels.
#[derive(Debug)]
pub struct StateChanges {
    config: StateChangesConfig,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    states: HashMap<Arc<str>, State>,
    queue: VecDeque<Queued>,
    now: Now,
    unnoted: u64,
    is_ended: bool,
}

/// The state of a name. None is kept that is 0, untold and not queued.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Sessions of a user, or shards with subscribers of a channel.
    count: u32,
    /// Whether the receiver was told that it is not 0.
    is_told: bool,
    is_queued: bool,
}

#[derive(Debug)]
struct Queued {
    name: Arc<str>,
    at: Now,
}

impl StateChanges {
    /// Nobody is online and no channel is occupied. Changes have this time until the first call of
    /// [`StateChanges::take`].
    #[must_use]
    pub fn new(config: StateChangesConfig, now: Now) -> Self {
        Self {
            config,
            table: Mutex::new(Table {
                states: HashMap::new(),
                queue: VecDeque::new(),
                now,
                unnoted: 0,
                is_ended: false,
            }),
        }
    }

    /// Whether changes of users are noted.
    #[must_use]
    pub fn has_users(&self) -> bool {
        self.config.has_users
    }

    /// Whether changes of a channel are noted, by its full name.
    #[must_use]
    pub fn has_channel(&self, name: &str) -> bool {
        let channels = self.config.channels.as_ref();
        channels.is_some_and(|channels| channels.contains(name_for_clients(name)))
    }

    /// A user, given by the name of its channel, has one session more, or a channel one shard with
    /// subscribers.
    pub fn enter(&self, name: &str) {
        let mut table = self.lock();
        if table.is_ended {
            return;
        }
        let is_new = match table.states.get_mut(name) {
            Some(state) => {
                state.count += 1;
                state.count == 1
            }
            None => {
                let count = 1;
                table.states.insert(
                    name.into(),
                    State {
                        count,
                        ..State::default()
                    },
                );
                true
            }
        };
        table.note(name, is_new, self.config.queue_max);
    }

    /// The opposite.
    pub fn leave(&self, name: &str) {
        let mut table = self.lock();
        let Some(state) = table.states.get_mut(name) else {
            return;
        };
        state.count = state.count.saturating_sub(1);
        table.note(name, false, self.config.queue_max);
    }

    /// The changes that were noted `delay_ms` ago or earlier and are still so, oldest first, at most
    /// `changes_max`; the receiver counts as told. Changes that are noted from now on have this time.
    /// `None` when nothing is due.
    #[must_use]
    pub fn take(&self, now: Now, delay_ms: u64, changes_max: usize) -> Option<Vec<StateChange>> {
        let mut table = self.lock();
        table.now = now;
        let mut changes = Vec::new();
        let mut taken = 0;
        while changes.len() < changes_max && taken < TAKEN_MAX {
            let next = table.queue.front();
            let is_due = |next: &Queued| next.at.monotonic_ms + delay_ms <= now.monotonic_ms;
            if !next.is_some_and(is_due) {
                break;
            }
            let Some(Queued { name, at }) = table.queue.pop_front() else {
                break;
            };
            taken += 1;
            if let Some(event) = table.tell(&name) {
                let unix_ms = at.unix_ms;
                changes.push(StateChange {
                    event,
                    name,
                    unix_ms,
                });
            }
        }
        if is_mostly_empty(table.states.len(), table.states.capacity()) {
            table.states.shrink_to_fit();
        }
        if is_mostly_empty(table.queue.len(), table.queue.capacity()) {
            table.queue.shrink_to_fit();
        }
        (taken > 0).then_some(changes)
    }

    /// The process ends: nobody is online and no channel is occupied any more.
    pub fn end(&self) {
        let mut table = self.lock();
        table.is_ended = true;
        let names: Vec<_> = table.states.keys().cloned().collect();
        for name in names {
            if let Some(state) = table.states.get_mut(&name) {
                state.count = 0;
            }
            table.note(&name, false, self.config.queue_max);
        }
    }

    /// How much waits, and what was lost.
    #[must_use]
    pub fn stats(&self) -> StateChangesStats {
        let table = self.lock();
        StateChangesStats {
            waiting: table.queue.len() as u64,
            unnoted: table.unnoted,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic of another thread leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Queues a name whose state differs from what was told. Where there is no room, a new one is left
    /// out, with what becomes of it; one that was told is known to the receiver and always has room, and
    /// there are no more of these than were there at once.
    fn note(&mut self, name: &str, is_new: bool, queue_max: usize) {
        let Some((name, state)) = self.states.get_key_value_mut(name) else {
            return;
        };
        let is_there = state.count > 0;
        if is_there != state.is_told && !state.is_queued {
            if !is_there || self.queue.len() < queue_max {
                state.is_queued = true;
                let (name, at) = (Arc::clone(name), self.now);
                self.queue.push_back(Queued { name, at });
            } else {
                self.unnoted += u64::from(is_new);
            }
        }
        if !is_there && !state.is_told && !state.is_queued {
            let name = Arc::clone(name);
            self.states.remove(&name);
        }
    }

    /// What the receiver is to be told of a name that was queued.
    fn tell(&mut self, name: &str) -> Option<WebhookEvent> {
        let state = self.states.get_mut(name)?;
        state.is_queued = false;
        let is_there = state.count > 0;
        let is_changed = state.is_told != is_there;
        state.is_told = is_there;
        if !is_there {
            self.states.remove(name);
        }
        is_changed.then(|| match (user_of(name).is_some(), is_there) {
            (true, true) => WebhookEvent::UserOnline,
            (true, false) => WebhookEvent::UserOffline,
            (false, true) => WebhookEvent::ChannelOccupied,
            (false, false) => WebhookEvent::ChannelVacated,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::WebhookEvent::{ChannelOccupied, ChannelVacated, UserOffline, UserOnline};
    use super::*;

    fn changes(queue_max: usize) -> StateChanges {
        let config = StateChangesConfig {
            has_users: true,
            channels: Some(ChannelSet::all()),
            queue_max,
        };
        StateChanges::new(config, Now::at(0, 0))
    }

    /// What is told at a time, with a delay of 10 ms.
    fn take(changes: &StateChanges, at_ms: u64) -> Vec<(WebhookEvent, String)> {
        let taken = changes.take(Now::at(at_ms, at_ms), 10, 100);
        let told = taken.unwrap_or_default().into_iter();
        told.map(|change| (change.event, change.name.to_string()))
            .collect()
    }

    fn of(event: WebhookEvent, name: &str) -> (WebhookEvent, String) {
        (event, name.to_owned())
    }

    #[test]
    fn the_first_and_the_last_are_told_and_nothing_between() {
        let changes = changes(100);
        for _ in 0..3 {
            changes.enter("user:ann");
        }
        changes.enter("news");
        assert_eq!(take(&changes, 9), [], "the delay is not over");
        let expected = [of(UserOnline, "user:ann"), of(ChannelOccupied, "news")];
        assert_eq!(take(&changes, 10), expected);
        changes.leave("user:ann");
        changes.leave("user:ann");
        assert_eq!(take(&changes, 30), []);
        changes.leave("user:ann");
        changes.leave("news");
        let expected = [of(UserOffline, "user:ann"), of(ChannelVacated, "news")];
        assert_eq!(take(&changes, 40), expected);
        assert!(changes.lock().states.is_empty());
    }

    #[test]
    fn what_changes_back_before_it_is_told_is_not_told() {
        let changes = changes(100);
        changes.enter("a");
        changes.leave("a");
        assert_eq!(take(&changes, 10), []);
        assert!(changes.lock().states.is_empty());
        changes.enter("a");
        assert_eq!(take(&changes, 20), [of(ChannelOccupied, "a")]);
        changes.leave("a");
        changes.enter("a");
        assert_eq!(take(&changes, 30), []);
        changes.leave("a");
        assert_eq!(take(&changes, 40), [of(ChannelVacated, "a")]);
    }

    #[test]
    fn a_full_queue_leaves_out_what_is_new_and_nothing_is_told_twice() {
        let changes = changes(2);
        for name in ["a", "b", "c"] {
            changes.enter(name);
        }
        let stats = StateChangesStats {
            waiting: 2,
            unnoted: 1,
        };
        assert_eq!(changes.stats(), stats);
        // Nobody was told of it, so nobody is told that it has ended.
        changes.leave("c");
        let expected = [of(ChannelOccupied, "a"), of(ChannelOccupied, "b")];
        assert_eq!(take(&changes, 10), expected);
        // What was told has room in any case.
        for name in ["x", "y"] {
            changes.enter(name);
        }
        changes.leave("a");
        changes.leave("b");
        changes.enter("z");
        let expected = [
            of(ChannelOccupied, "x"),
            of(ChannelOccupied, "y"),
            of(ChannelVacated, "a"),
            of(ChannelVacated, "b"),
        ];
        assert_eq!(take(&changes, 20), expected);
        // It is noted when the next one comes, if it is still there.
        changes.enter("z");
        assert_eq!(take(&changes, 30), [of(ChannelOccupied, "z")]);
        assert_eq!(changes.stats().unnoted, 2);
    }

    #[test]
    fn at_the_end_nobody_is_there_any_more() {
        let changes = changes(1);
        for (name, at_ms) in [("a", 10), ("user:ann", 20)] {
            changes.enter(name);
            assert_eq!(take(&changes, at_ms).len(), 1);
        }
        changes.enter("b");
        changes.end();
        changes.enter("c");
        let mut told = take(&changes, 30);
        told.sort_by(|a, b| a.1.cmp(&b.1));
        let expected = [of(ChannelVacated, "a"), of(UserOffline, "user:ann")];
        assert_eq!(told, expected);
    }

    /// A receiver that believes what it is told is right at the end, whatever happened, and is never told
    /// what it knows.
    #[test]
    fn a_receiver_has_the_state_after_any_changes() {
        for seed in 0..200_u64 {
            let changes = changes(4);
            let (mut counts, mut known) = ([0_u32; 8], [false; 8]);
            let mut random = seed * 2 + 1;
            let mut next = |bound: u64| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (random >> 33) % bound
            };
            let mut at_ms = 0;
            let hear = |changes: &StateChanges, at_ms: u64, known: &mut [bool; 8]| {
                for (event, name) in take(changes, at_ms) {
                    let index: usize = name.parse().unwrap();
                    let is_there = event == ChannelOccupied;
                    assert_ne!(known[index], is_there, "seed {seed}, {name}");
                    known[index] = is_there;
                }
            };
            for _ in 0..500 {
                let index = usize::try_from(next(8)).unwrap();
                let name = index.to_string();
                match next(5) {
                    0 | 1 => {
                        changes.enter(&name);
                        counts[index] += 1;
                    }
                    2 | 3 if counts[index] > 0 => {
                        changes.leave(&name);
                        counts[index] -= 1;
                    }
                    _ => {
                        at_ms += next(20);
                        hear(&changes, at_ms, &mut known);
                    }
                }
            }
            for (index, count) in counts.into_iter().enumerate() {
                (0..count).for_each(|_| changes.leave(&index.to_string()));
            }
            hear(&changes, at_ms + 100, &mut known);
            assert_eq!(known, [false; 8], "seed {seed}");
            assert!(changes.lock().states.is_empty(), "seed {seed}");
        }
    }
}

//! What becomes of sessions whose shard has not read records of the ring that are for them: those
//! that missed nothing, or only what the history has, go on.
//!
//! Records are lost for a shard that was stalled for too long (`heal`). And the beginning of a
//! publication in several records is passed while nobody on the shard wants its channel
//! (`recover_last`).

use super::channels::{Channel, ChannelIndex, Moved, SubscriptionRef};
use super::recoveries::RecoveryStart;
use super::state::Broker;
use crate::base::{ChannelTag, ConnectionId, History, Now};

/// What the subscribers of a channel have missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    Nothing,
    /// It is in the history.
    InHistory,
    Lost,
}

impl Broker {
    /// Lets the sessions recover that were sent everything up to an offset of the history. Returns
    /// those that missed what is not kept. The shard had read the beginnings of publications on the
    /// channels `begun`, and will not have them whole.
    pub fn heal(&mut self, after: u64, begun: &[ChannelTag], now: Now) -> Vec<ConnectionId> {
        let history = &self.process_state.history;
        let missed = |channel: &Channel| missed_on(history, channel, after, begun, now);
        let by_channel = self.channels.map_all(missed);
        let missed_at = |index: ChannelIndex| by_channel.get(&index.slot()).copied();
        let mut lost = Vec::new();
        for id in self.sessions.ids().collect::<Vec<_>>() {
            let Some(session) = self.sessions.get(id).filter(|session| !session.closing) else {
                continue;
            };
            let server_side = usize::from(session.server_side_count);
            let is_lost = |(at, it): (usize, &SubscriptionRef)| match missed_at(it.channel) {
                Some(Missed::Lost) => !self.is_recovering(*it),
                Some(Missed::InHistory) => at < server_side,
                _ => false,
            };
            if session.subscriptions.iter().enumerate().any(is_lost) {
                lost.push(id);
                continue;
            }
            let is_kept = |index| missed_at(index) == Some(Missed::InHistory);
            let count = self.recover_from(id, is_kept, after);
            self.counters.lapped_recovered.add(count);
        }
        lost
    }

    /// The shard has read the last record of a publication, at this offset of the history, and not
    /// its first. Who subscribed in between, and was shown a position before it, recovers it. On a
    /// channel without a history no position is shown, and nobody was subscribed at its first record.
    pub fn recover_last(&mut self, tag: ChannelTag, offset: u64) {
        for index in self.channels.all_tagged(tag) {
            let channel = self.channels.at(index);
            let history = &self.process_state.history;
            if history.limits_of(channel.name()).is_none() {
                continue;
            }
            let slots: Vec<_> = channel.subscribers().map(|(slot, ..)| slot).collect();
            for slot in slots {
                let id = self.sessions.id_at_slot(slot);
                // Nothing is left to do for a session that is met again.
                let Some(id) = id.filter(|id| self.is_going_on(*id)) else {
                    continue;
                };
                let count = self.recover_from(id, |other| other == index, offset - 1);
                self.counters.fragments_recovered.add(count);
            }
        }
    }

    fn is_going_on(&self, id: ConnectionId) -> bool {
        self.sessions
            .get(id)
            .is_some_and(|session| !session.closing)
    }

    fn is_recovering(&self, subscription: SubscriptionRef) -> bool {
        let channel = self.channels.at(subscription.channel);
        channel.group(subscription.group).key.recovery.is_some()
    }

    /// Makes the subscriptions that the client of a session has to channels `is_it` recover, but those
    /// that do so already; returns how many.
    fn recover_from(
        &mut self,
        id: ConnectionId,
        is_it: impl Fn(ChannelIndex) -> bool,
        after: u64,
    ) -> u64 {
        let (mut at, mut count) = (0, 0);
        // One by one, as each may move others of the session.
        while let Some(session) = self.sessions.get(id)
            && let Some(subscription) = session.client_side().get(at).copied()
        {
            at += 1;
            if !is_it(subscription.channel) || self.is_recovering(subscription) {
                continue;
            }
            let from = RecoveryStart {
                after,
                is_offline_queue: false,
            };
            self.recover_subscription(id, subscription, from);
            count += 1;
        }
        count
    }

    /// Makes a subscription of a session recover what follows an offset.
    pub(super) fn recover_subscription(
        &mut self,
        id: ConnectionId,
        subscription: SubscriptionRef,
        from: RecoveryStart,
    ) {
        let channel = self.channels.at(subscription.channel);
        if let Some(number) = channel.group(subscription.group).key.recovery {
            return self.recoveries.rewind(id, number, from.after);
        }
        let number = self.recoveries.next_number();
        let (recovering, moved) = self.channels.make_recovering(subscription, number);
        self.replace_subscription(id.slot(), subscription, recovering);
        if let Some(Moved { slot, from, to }) = moved {
            self.replace_subscription(slot, from, to);
        }
        self.recoveries.begin(id, recovering, number, from);
    }
}

fn missed_on(
    history: &History,
    channel: &Channel,
    after: u64,
    begun: &[ChannelTag],
    now: Now,
) -> Missed {
    let tag = channel.tag();
    let has_unkept = begun.contains(&tag) || history.newest_unkept(tag) > after;
    if history.limits_of(channel.name()).is_none() {
        return if has_unkept {
            Missed::Lost
        } else {
            Missed::Nothing
        };
    }
    // What has begun is in the history when its last record is read.
    let mut missed = if has_unkept {
        Missed::InHistory
    } else {
        Missed::Nothing
    };
    let read = history.read(tag, after, u64::MAX, now.monotonic_ms, |_, _| {
        missed = Missed::InHistory;
        false
    });
    read.map_or(Missed::Lost, |()| missed)
}

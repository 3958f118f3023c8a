//! What becomes of the sessions of a shard that was stalled for so long that records of the ring are
//! lost for it: those that missed nothing, or only what the history has, go on.

use super::channels::{Channel, ChannelIndex, Moved, SubscriptionRef};
use super::state::Broker;
use crate::base::{ConnectionId, History, Now};

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
    /// those that missed what is not kept.
    pub fn heal(&mut self, after: u64, now: Now) -> Vec<ConnectionId> {
        let history = &self.process_state.history;
        let missed = |channel: &Channel| missed_on(history, channel, after, now);
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
            let kept = session.client_side().iter();
            let kept = kept.filter(|it| missed_at(it.channel) == Some(Missed::InHistory));
            for subscription in kept.copied().collect::<Vec<_>>() {
                self.recover_from(id, subscription, after);
            }
        }
        lost
    }

    fn is_recovering(&self, subscription: SubscriptionRef) -> bool {
        let channel = self.channels.at(subscription.channel);
        channel.group(subscription.group).key.recovery.is_some()
    }

    /// Makes a live subscriber recover. One that recovers already goes on with that.
    fn recover_from(&mut self, id: ConnectionId, subscription: SubscriptionRef, after: u64) {
        if self.is_recovering(subscription) {
            return;
        }
        let number = self.recoveries.next_number();
        let (recovering, moved) = self.channels.make_recovering(subscription, number);
        self.replace_subscription(id.slot(), subscription, recovering);
        if let Some(Moved { slot, from, to }) = moved {
            self.replace_subscription(slot, from, to);
        }
        self.recoveries.begin(id, recovering, number, after);
        self.counters.lapped_recovered.add(1);
    }
}

fn missed_on(history: &History, channel: &Channel, after: u64, now: Now) -> Missed {
    let tag = channel.tag();
    if history.limits_of(channel.name()).is_none() {
        let is_lost = history.newest_unkept(tag) > after;
        return if is_lost {
            Missed::Lost
        } else {
            Missed::Nothing
        };
    }
    let mut missed = Missed::Nothing;
    let read = history.read(tag, after, u64::MAX, now.monotonic_ms, |_, _| {
        missed = Missed::InHistory;
        false
    });
    read.map_or(Missed::Lost, |()| missed)
}

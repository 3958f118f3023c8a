//! The channels that this node is subscribed to in Redis, and how far it has come on each.

use crate::base::{ChannelTag, HistoryLimits, Position};
use crate::dialect;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Nodes of which it is known on a channel how far they have come. Those that were heard longest ago are
/// given up first.
const ORIGINS_MAX: usize = 64;

/// A message as it came: its bytes.
pub(super) type Bytes = Vec<u8>;

/// How far a channel has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// It is not subscribed to.
    New,
    /// It is being subscribed to, and then its history read; what comes meanwhile waits.
    Loading(Vec<Bytes>),
    /// What comes is delivered.
    Live,
}

/// How far it is known who of other nodes is on a channel.
#[derive(Debug)]
pub(super) enum PresencePhase {
    /// It is being read; what nodes tell meanwhile waits. The history is read then.
    Loading(Vec<Bytes>),
    /// The same, on a channel that is live.
    LoadingAgain(Vec<Bytes>),
    /// What nodes tell is taken over.
    Following,
}

/// Somebody who waits until a channel is live and has come to a position.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) position: Option<Position>,
    /// Until when, monotonic milliseconds.
    pub(super) until_ms: u64,
    /// Told by being dropped.
    pub(super) _sender: oneshot::Sender<()>,
}

/// A channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: Arc<str>,
    pub(super) tag: ChannelTag,
    /// How much of it is kept, if it has a history.
    pub(super) history: Option<HistoryLimits>,
    pub(super) phase: Phase,
    /// Who of other nodes is there, if that is known of it.
    pub(super) presence: Option<PresencePhase>,
    /// Whether it may have retained values.
    pub(super) retains: bool,
    /// Whether it was live on a connection that is lost, and is not yet on this one.
    pub(super) is_restoring: bool,
    /// Up to where it has come, of a channel with a history.
    pub(super) position: Option<Position>,
    /// Whether it has never been live: what is read of its history is for those who recover.
    pub(super) is_first: bool,
    /// Whether what is being read of its history may have been deleted meanwhile.
    pub(super) is_stale: bool,
    /// Publications of this node that Redis has and that have not come back, by their numbers.
    awaited: VecDeque<(u64, Bytes)>,
    /// The number of the last publication of each node.
    origins: Vec<(u64, u64)>,
    /// Since when it has had subscribers here who miss what others publish, as Redis was away when the first
    /// one came, milliseconds since 1970-01-01 UTC.
    pub(super) missed_since_ms: Option<u64>,
    pub(super) waiters: Vec<Waiter>,
    /// Since when it has no subscribers here, monotonic milliseconds.
    pub(super) unwanted_ms: Option<u64>,
}

/// What a message is, by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The next one, or one without a position.
    Next,
    /// The first one of a new count.
    Anew,
    /// So many are missing before it.
    Gap(u64),
    /// It comes again, or Redis counts anew without saying so.
    Earlier,
}

impl Channel {
    fn new(
        tag: ChannelTag,
        name: &str,
        (history, has_presence): (Option<HistoryLimits>, bool),
    ) -> Self {
        Self {
            name: name.into(),
            tag,
            history,
            phase: Phase::New,
            retains: dialect::retains(name),
            presence: has_presence.then(|| PresencePhase::Loading(Vec::new())),
            is_restoring: false,
            position: None,
            is_first: true,
            is_stale: false,
            awaited: VecDeque::new(),
            origins: Vec::new(),
            missed_since_ms: None,
            waiters: Vec::new(),
            unwanted_ms: None,
        }
    }

    /// What a message at a position is.
    pub(super) fn order_of(&self, position: Option<Position>) -> Order {
        let Some(next) = position else {
            return Order::Next;
        };
        match self.position {
            Some(last) if last.epoch == next.epoch => match next.offset.checked_sub(last.offset) {
                None | Some(0) => Order::Earlier,
                Some(1) => Order::Next,
                Some(more) => Order::Gap(more - 1),
            },
            _ => Order::Anew,
        }
    }

    /// Whether subscribers here miss a publication of the history, by when it was accepted: its envelope
    /// begins with that.
    pub(super) fn misses(&self, envelope: &[u8]) -> bool {
        let text = envelope.split(|byte| *byte == b' ').next();
        let text = text.and_then(|text| std::str::from_utf8(text).ok());
        let accepted_ms: Option<u64> = text.and_then(|text| text.parse().ok());
        let since_ms = self.missed_since_ms;
        since_ms.is_some_and(|since| accepted_ms.is_some_and(|accepted| accepted >= since))
    }

    /// Whether a publication of a node was seen before.
    pub(super) fn has_seen(&self, (node, number): (u64, u64)) -> bool {
        let mut origins = self.origins.iter();
        origins.any(|(known, last)| *known == node && *last >= number)
    }

    /// Notes that Redis has a publication of this node, which is to come back.
    pub(super) fn await_return(&mut self, origin: (u64, u64), envelope: Bytes) {
        if !self.has_seen(origin) {
            self.awaited.push_back((origin.1, envelope));
        }
    }

    /// A publication of this node has come back.
    pub(super) fn note_return(&mut self, number: u64) {
        while self.awaited.front().is_some_and(|it| it.0 <= number) {
            self.awaited.pop_front();
        }
    }

    /// Takes the publications that have not come back.
    pub(super) fn take_awaited(&mut self) -> VecDeque<(u64, Bytes)> {
        std::mem::take(&mut self.awaited)
    }

    /// Notes that a publication was seen.
    pub(super) fn see(&mut self, (node, number): (u64, u64)) {
        let known = self.origins.iter().position(|(known, _)| *known == node);
        let last = known.map_or(0, |at| self.origins.remove(at).1);
        if self.origins.len() == ORIGINS_MAX {
            self.origins.remove(0);
        }
        self.origins.push((node, last.max(number)));
    }

    /// Takes those who need not wait any longer.
    pub(super) fn release_waiters(&mut self, now_ms: u64) {
        let is_live = matches!(self.phase, Phase::Live);
        let position = self.position;
        self.waiters.retain(|waiter| {
            let is_there = match (waiter.position, position) {
                (Some(wanted), Some(own)) if wanted.epoch == own.epoch => {
                    own.offset >= wanted.offset
                }
                // Of another count, which never comes here.
                _ => true,
            };
            now_ms < waiter.until_ms && !(is_live && is_there)
        });
    }
}

/// The channels of this node.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_tag: HashMap<ChannelTag, Channel>,
}

impl Channels {
    pub(super) fn get_mut(&mut self, tag: ChannelTag) -> Option<&mut Channel> {
        self.by_tag.get_mut(&tag)
    }

    /// A channel, which is in the table from now on; whether it was not before.
    pub(super) fn open(
        &mut self,
        tag: ChannelTag,
        name: &str,
        kept: impl FnOnce() -> (Option<HistoryLimits>, bool),
    ) -> (&mut Channel, bool) {
        let mut is_new = false;
        let channel = self.by_tag.entry(tag).or_insert_with(|| {
            is_new = true;
            Channel::new(tag, name, kept())
        });
        (channel, is_new)
    }

    pub(super) fn remove(&mut self, tag: ChannelTag) -> Option<Channel> {
        self.by_tag.remove(&tag)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Channel> {
        self.by_tag.values_mut()
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = ChannelTag> {
        self.by_tag.keys().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.by_tag.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Interests;

    fn channel() -> Channel {
        Channel::new(Interests::default().tag("news"), "news", (None, false))
    }

    fn at(epoch: u32, offset: u64) -> Option<Position> {
        Some(Position { epoch, offset })
    }

    #[test]
    fn a_message_is_the_next_one_or_shows_what_is_missing() {
        let mut channel = channel();
        assert_eq!(channel.order_of(None), Order::Next);
        assert_eq!(channel.order_of(at(7, 5)), Order::Anew);
        channel.position = at(7, 5);
        for (position, expected) in [
            (at(7, 6), Order::Next),
            (at(7, 9), Order::Gap(3)),
            (at(7, 5), Order::Earlier),
            (at(7, 1), Order::Earlier),
            (at(8, 6), Order::Anew),
            (None, Order::Next),
        ] {
            assert_eq!(channel.order_of(position), expected, "{position:?}");
        }
    }

    #[test]
    fn a_publication_is_seen_once_whichever_way_it_comes() {
        let mut channel = channel();
        channel.see((1, 5));
        channel.see((2, 1));
        channel.see((1, 4));
        assert!(channel.has_seen((1, 5)) && channel.has_seen((1, 3)) && channel.has_seen((2, 1)));
        assert!(!channel.has_seen((1, 6)) && !channel.has_seen((3, 1)));
        for node in 10..10 + ORIGINS_MAX as u64 - 1 {
            channel.see((node, 1));
        }
        assert!(channel.has_seen((1, 5)) && !channel.has_seen((2, 1)));
    }

    #[test]
    fn who_waits_for_a_position_waits_until_it_is_there_or_never_will_be() {
        let mut channel = channel();
        let wait = |channel: &mut Channel, position| {
            let (sender, receiver) = oneshot::channel();
            channel.waiters.push(Waiter {
                position,
                until_ms: 100,
                _sender: sender,
            });
            receiver
        };
        let mut receivers = [None, at(7, 5), at(7, 6), at(8, 1)].map(|it| wait(&mut channel, it));
        let mut are_told = |channel: &mut Channel, now_ms| {
            channel.release_waiters(now_ms);
            let is_told = |it: &mut oneshot::Receiver<()>| {
                it.try_recv() == Err(oneshot::error::TryRecvError::Closed)
            };
            receivers.each_mut().map(is_told)
        };
        assert_eq!(are_told(&mut channel, 0), [false; 4], "it is not live");
        channel.phase = Phase::Live;
        channel.position = at(7, 5);
        assert_eq!(are_told(&mut channel, 0), [true, true, false, true]);
        assert_eq!(are_told(&mut channel, 100), [true; 4]);
    }
}

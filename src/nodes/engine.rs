//! What this node knows and does, whether Redis is there or not. No connection: that is in `run`.
//!
//! ```text
//!   publications ─▶ Redis is there: sent, and delivered when they come back
//!                └▶ Redis is away:  delivered here, and kept to be sent later
//! ```
//!
//! A publication that was delivered here first comes back quietly: it enters the history with its position,
//! and nobody receives it twice. Each one has a number of its node, by which every node knows what it has
//! seen: what is sent again after a lost connection is delivered once.

use super::channels::{Channel, Channels, Order, Phase, PresencePhase, Waiter};
use super::delivery_queue::{Delivery, DeliveryQueue, ReceivedMessage};
use super::message;
use super::presence::Announce;
use super::told_presence;
use crate::base::limits::NODE_WAIT_MS;
use crate::base::{
    ChannelRequest, ChannelTag, NodeDrop, NodeLink, NodePresence, Now, Outgoing, Position,
    ProcessState,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// How often it is looked who has waited for long, milliseconds.
const LOOK_MS: u64 = 20;

/// A publication of this node and its number.
pub(super) type Numbered = (u64, Outgoing);

/// How a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By the subscription.
    Live,
    /// By the subscription, while the history was read that is in front of it.
    Delayed,
    /// From the history.
    Stored,
}

/// What is to be asked of Redis about a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) tag: ChannelTag,
    /// What is wanted comes after this; `None` = all.
    pub(super) after: Option<Position>,
}

/// The state of this node.
pub(super) struct Engine {
    pub(super) process_state: Arc<ProcessState>,
    pub(super) channels: Channels,
    pub(super) deliveries: DeliveryQueue,
    /// Publications that are to be sent when Redis is there, oldest first.
    backlog: VecDeque<Numbered>,
    backlog_bytes: usize,
    backlog_bytes_max: usize,
    /// Channels that are to be subscribed to.
    pub(super) to_subscribe: Vec<ChannelTag>,
    /// Channels of which something is missing.
    pub(super) missing: Vec<Missing>,
    /// Channels of which it is not known who of other nodes is there.
    pub(super) unread_presence: Vec<ChannelTag>,
    /// Channels of which the retained values are to be read.
    pub(super) unread_retained: Vec<ChannelTag>,
    announce: Announce,
    /// When it was last looked who waits, monotonic milliseconds.
    looked_ms: u64,
}

impl Engine {
    pub(super) fn new(
        process_state: Arc<ProcessState>,
        deliveries: DeliveryQueue,
        backlog_bytes_max: usize,
        announce: Announce,
    ) -> Self {
        Self {
            process_state,
            channels: Channels::default(),
            deliveries,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            backlog_bytes_max,
            to_subscribe: Vec::new(),
            missing: Vec::new(),
            unread_presence: Vec::new(),
            unread_retained: Vec::new(),
            announce,
            looked_ms: 0,
        }
    }

    pub(super) fn link(&self) -> &NodeLink {
        let link = self.process_state.link.as_ref();
        link.expect("the thread is started with it")
    }

    /// Notes that a channel is wanted.
    pub(super) fn want(&mut self, request: ChannelRequest, is_away: bool, now: Now) {
        let now_ms = now.monotonic_ms;
        let ChannelRequest {
            tag,
            channel: name,
            waiting,
        } = request;
        let state = &self.process_state;
        let kept = || {
            let history = state.history.limits_of(&name);
            (history, state.presence.is_shared(&name))
        };
        let (channel, is_new) = self.channels.open(tag, &name, kept);
        channel.unwanted_ms = None;
        if is_new {
            self.to_subscribe.push(tag);
            channel.missed_since_ms = is_away.then_some(now.unix_ms);
        }
        let Some((position, sender)) = waiting.filter(|_| !is_away) else {
            // While Redis is away, nobody waits for it.
            return;
        };
        channel.waiters.push(Waiter {
            position,
            until_ms: now_ms + NODE_WAIT_MS,
            _sender: sender,
        });
        if self.deliveries.is_empty() {
            channel.release_waiters(now_ms);
        }
    }

    /// Takes the channels that are to be subscribed to; what comes on them from now on waits until their
    /// history is read.
    pub(super) fn begin_subscribing(&mut self) -> Vec<(ChannelTag, Arc<str>)> {
        let tags = std::mem::take(&mut self.to_subscribe);
        let mut begun = Vec::with_capacity(tags.len());
        for tag in tags {
            if let Some(channel) = self.channels.get_mut(tag) {
                channel.phase = Phase::Loading(Vec::new());
                begun.push((tag, Arc::clone(&channel.name)));
            }
        }
        begun
    }

    /// The node is subscribed to a channel.
    pub(super) fn subscribed(&mut self, tag: ChannelTag, now_ms: u64) {
        match self.channels.get_mut(tag) {
            Some(channel) if channel.presence.is_some() => {
                channel.presence = Some(PresencePhase::Loading(Vec::new()));
                self.unread_presence.push(tag);
            }
            _ => self.read_history(tag, now_ms),
        }
    }

    fn read_history(&mut self, tag: ChannelTag, now_ms: u64) {
        match self.channels.get_mut(tag) {
            Some(channel) if channel.retains => self.unread_retained.push(tag),
            _ => self.read_messages(tag, now_ms),
        }
    }

    /// The retained values of a channel are here.
    pub(super) fn retained_read(
        &mut self,
        tag: ChannelTag,
        values: &[(String, String)],
        now_ms: u64,
    ) {
        if let Some(channel) = self.channels.get_mut(tag) {
            let retained = &self.process_state.retained;
            retained.replace(&channel.name, values);
        }
        self.read_messages(tag, now_ms);
    }

    fn read_messages(&mut self, tag: ChannelTag, now_ms: u64) {
        let Some(channel) = self.channels.get_mut(tag) else {
            return;
        };
        if channel.history.is_some() {
            let after = channel.position;
            self.missing.push(Missing { tag, after });
        } else {
            self.make_live(tag, now_ms);
        }
    }

    /// What was missing on a channel is here, from Redis: the epoch and the newest offset there, and the
    /// messages.
    pub(super) fn caught_up(
        &mut self,
        tag: ChannelTag,
        newest: Position,
        messages: Vec<Vec<u8>>,
        is_all: bool,
        now_ms: u64,
    ) {
        let Some(channel) = self.channels.get_mut(tag) else {
            return;
        };
        let known = channel.position;
        // At first, nobody here has missed anything, but who has subscribed while Redis was away: it is for
        // those who recover.
        let is_first = channel.is_first;
        let is_same = known.is_some_and(|known| known.epoch == newest.epoch);
        if !is_same {
            let first = messages.first().and_then(|bytes| message::read(bytes));
            let first = first.and_then(|first| first.position);
            let before = first.map_or(newest.offset, |first| first.offset - 1);
            self.count_anew(tag, newest.epoch, before);
        } else if let Some(known) = known {
            let first = messages.first().and_then(|bytes| message::read(bytes));
            let first = first.and_then(|first| first.position);
            let before = first.map_or(newest.offset, |first| first.offset - 1);
            let lost = before.saturating_sub(known.offset);
            self.link().counters.missed.add(lost);
        }
        let count = messages.len() as u64;
        for bytes in messages {
            self.apply(tag, bytes, is_first, Way::Stored);
        }
        if !is_first {
            self.link().counters.recovered.add(count);
        }
        if !is_all {
            let after = self
                .channels
                .get_mut(tag)
                .and_then(|channel| channel.position);
            return self.missing.push(Missing { tag, after });
        }
        // The newest ones may not be in the history any more.
        if let Some(channel) = self.channels.get_mut(tag)
            && let Some(position) = &mut channel.position
            && position.epoch == newest.epoch
        {
            position.offset = position.offset.max(newest.offset);
        }
        if let Some(channel) = self.channels.get_mut(tag)
            && std::mem::take(&mut channel.is_stale)
        {
            return self.read_channel_anew(tag);
        }
        self.make_live(tag, now_ms);
    }

    /// It is known who of other nodes is on a channel; returns the nodes that have told of it meanwhile.
    pub(super) fn presence_read(
        &mut self,
        tag: ChannelTag,
        nodes: &[(u64, NodePresence)],
        now_ms: u64,
    ) -> Vec<u64> {
        let Some(channel) = self.channels.get_mut(tag) else {
            return Vec::new();
        };
        // At first, they were there before.
        let is_first = channel.is_first;
        let name = Arc::clone(&channel.name);
        let following = Some(PresencePhase::Following);
        let before = std::mem::replace(&mut channel.presence, following);
        let shard = self.shard_of(tag);
        let table = &self.process_state.presence;
        if table.update_nodes((tag, &name), nodes, (!is_first).then_some(shard)) {
            (self.announce)(shard, tag, (&*name).into());
        }
        let (waiting, is_first_reading) = match before {
            Some(PresencePhase::Loading(waiting)) => (waiting, true),
            Some(PresencePhase::LoadingAgain(waiting)) => (waiting, false),
            _ => (Vec::new(), false),
        };
        let waiting = waiting.into_iter();
        let heard = waiting.filter_map(|text| self.hear_presence(tag, text));
        let heard = heard.collect();
        if is_first_reading {
            self.read_history(tag, now_ms);
        }
        heard
    }

    /// Reads again who of other nodes is on a channel, if that is known.
    pub(super) fn read_presence_again(&mut self, tag: ChannelTag) {
        if let Some(channel) = self.channels.get_mut(tag)
            && matches!(channel.presence, Some(PresencePhase::Following))
        {
            channel.presence = Some(PresencePhase::LoadingAgain(Vec::new()));
            self.unread_presence.push(tag);
        }
    }

    /// A node tells who is on a channel there; the node, if it is another one.
    pub(super) fn hear_presence(&mut self, tag: ChannelTag, text: Vec<u8>) -> Option<u64> {
        let channel = self.channels.get_mut(tag)?;
        match &mut channel.presence {
            Some(PresencePhase::Following) => {}
            Some(PresencePhase::Loading(waiting) | PresencePhase::LoadingAgain(waiting)) => {
                waiting.push(text);
                return None;
            }
            None => return None,
        }
        let name = Arc::clone(&channel.name);
        let Some((node, told, telling)) = told_presence::read(&text) else {
            self.link().counters.malformed.add(1);
            return None;
        };
        if node == self.link().node() {
            return None;
        }
        let shard = self.shard_of(tag);
        let table = &self.process_state.presence;
        if table.update_node((tag, &name), (node, &told, telling), shard) {
            (self.announce)(shard, tag, (&*name).into());
        }
        Some(node)
    }

    /// A node is not there any more.
    pub(super) fn remove_node(&mut self, node: u64) {
        let shard_of = |tag| self.shard_of(tag);
        let table = &self.process_state.presence;
        for (tag, name) in table.remove_node(node, shard_of) {
            (self.announce)(self.shard_of(tag), tag, name);
        }
    }

    /// The shard that announces what other nodes tell of a channel.
    fn shard_of(&self, tag: ChannelTag) -> u16 {
        let count = self.process_state.heartbeats.shard_count().max(1) as u64;
        u16::try_from(tag.bits() % count).unwrap_or(0)
    }

    pub(super) fn make_live(&mut self, tag: ChannelTag, now_ms: u64) {
        let Some(channel) = self.channels.get_mut(tag) else {
            return;
        };
        channel.is_restoring = false;
        channel.is_first = false;
        let phase = std::mem::replace(&mut channel.phase, Phase::Live);
        if let Phase::Loading(waiting) = phase {
            for bytes in waiting {
                self.apply(tag, bytes, false, Way::Delayed);
            }
        }
        self.deliveries.add(Delivery::Attached(tag));
        if self.deliveries.is_empty() {
            self.release_waiters(tag, now_ms);
        }
    }

    fn release_waiters(&mut self, tag: ChannelTag, now_ms: u64) {
        if let Some(channel) = self.channels.get_mut(tag) {
            channel.release_waiters(now_ms);
        }
    }

    /// A message has come on a channel.
    pub(super) fn take_message(&mut self, tag: ChannelTag, bytes: Vec<u8>) {
        let Some(channel) = self.channels.get_mut(tag) else {
            return;
        };
        if let Phase::Loading(waiting) = &mut channel.phase
            && (channel.history.is_some() || channel.retains)
        {
            return waiting.push(bytes);
        }
        self.apply(tag, bytes, false, Way::Live);
    }

    /// Delivers a message.
    fn apply(&mut self, tag: ChannelTag, bytes: Vec<u8>, is_quiet: bool, way: Way) {
        let Some(channel) = self.channels.get_mut(tag) else {
            return;
        };
        if let Some(position) = message::read_deletion(&bytes) {
            let is_known = channel.position.map(|it| it.epoch) == Some(position.epoch);
            if !is_known && channel.history.is_some() {
                self.count_anew(tag, position.epoch, position.offset);
            }
            return;
        }
        let Some(message) = message::read(&bytes) else {
            return self.link().counters.malformed.add(1);
        };
        let (origin, mut position) = (message.origin, message.position);
        let envelope_at = bytes.len() - message.envelope.len();
        let is_seen = channel.has_seen(origin);
        match channel.order_of(position) {
            Order::Next => {}
            Order::Anew => {
                if let Some(Position { epoch, offset }) = position {
                    self.count_anew(tag, epoch, offset - 1);
                }
            }
            // What is not in the history any more cannot be read there.
            Order::Gap(_) if way == Way::Stored => {}
            Order::Gap(count) if way == Way::Delayed => {
                let link = self.process_state.link.as_ref();
                if let Some(link) = link {
                    link.counters.missed.add(count);
                }
            }
            Order::Earlier if is_seen || way == Way::Stored => {
                return self.link().counters.duplicates.add(1);
            }
            Order::Gap(_) => {
                let after = channel.position;
                channel.phase = Phase::Loading(vec![bytes]);
                return self.missing.push(Missing { tag, after });
            }
            // Redis has lost some of what it had, and counts again. It is asked to count anew.
            Order::Earlier => {
                let after = channel.position;
                if way == Way::Live {
                    self.missing.push(Missing { tag, after });
                }
                position = None;
            }
        }
        let Some(channel) = self.channels.get_mut(tag) else {
            return;
        };
        if position.is_some() {
            channel.position = position;
        } else if is_seen {
            return self.link().counters.duplicates.add(1);
        }
        channel.see(origin);
        if Some(origin.0) == self.process_state.link.as_ref().map(NodeLink::node) {
            channel.note_return(origin.1);
        }
        let message = ReceivedMessage {
            channel: Arc::clone(&channel.name),
            origin,
            position,
            is_quiet: is_seen || is_quiet && !channel.misses(&bytes[envelope_at..]),
            bytes,
            envelope_at,
        };
        let has_waiters = !channel.waiters.is_empty();
        self.deliveries
            .add(Delivery::Publication(Box::new(message)));
        if has_waiters && self.deliveries.is_empty() {
            self.release_waiters(tag, 0);
        }
    }

    /// The positions of a channel begin anew.
    fn count_anew(&mut self, tag: ChannelTag, epoch: u32, offset: u64) {
        let position = Position { epoch, offset };
        if let Some(channel) = self.channels.get_mut(tag) {
            channel.position = Some(position);
        }
        self.deliveries.add(Delivery::Anew(tag, position));
    }

    /// Something in histories may have been deleted without this node: it reads all of them again.
    pub(super) fn read_anew(&mut self) {
        let tags: Vec<_> = self.channels.tags().collect();
        for tag in tags {
            let Some(channel) = self.channels.get_mut(tag) else {
                continue;
            };
            match channel.phase {
                _ if channel.history.is_none() => {}
                Phase::New => {}
                Phase::Loading(_) => channel.is_stale = true,
                Phase::Live => {
                    channel.phase = Phase::Loading(Vec::new());
                    self.read_channel_anew(tag);
                }
            }
        }
    }

    /// Reads the history of a channel again, for those who recover: what is missed is delivered.
    fn read_channel_anew(&mut self, tag: ChannelTag) {
        if let Some(channel) = self.channels.get_mut(tag) {
            channel.is_restoring = true;
            channel.is_first = true;
            channel.position = None;
            self.missing.push(Missing { tag, after: None });
        }
    }

    /// Whether all that has come is delivered, and nothing is to be read.
    pub(super) fn is_calm(&self) -> bool {
        self.deliveries.is_empty() && self.missing.is_empty()
    }

    /// Delivers a publication of this node on this node, and keeps it to be sent.
    pub(super) fn publish_alone(&mut self, (number, mut outgoing): Numbered) {
        let origin = (self.link().node(), number);
        self.deliver_here(origin, &outgoing);
        if let Some(sent) = outgoing.sent.take() {
            sent(true);
        }
        self.keep((number, outgoing));
    }

    /// Redis has a publication: it comes back, if its channel is subscribed to.
    pub(super) fn await_return(&mut self, (number, outgoing): Numbered) {
        let origin = (self.link().node(), number);
        if let Some(channel) = self.channels.get_mut(outgoing.tag) {
            channel.await_return(origin, outgoing.envelope);
        }
    }

    /// Delivers on this node what Redis has and what has not come back: the connection is lost on which it
    /// would have.
    fn deliver_awaited(&mut self) {
        let node = self.link().node();
        let tags: Vec<_> = self.channels.tags().collect();
        for tag in tags {
            let Some(channel) = self.channels.get_mut(tag) else {
                continue;
            };
            let name = Arc::clone(&channel.name);
            for (number, envelope) in channel.take_awaited() {
                self.deliver_alone((tag, Arc::clone(&name)), (node, number), envelope);
            }
        }
    }

    /// Delivers a publication of this node on this node, unless it has come back.
    fn deliver_here(&mut self, origin: (u64, u64), outgoing: &Outgoing) {
        let channel = (outgoing.tag, outgoing.channel.as_ref().into());
        self.deliver_alone(channel, origin, outgoing.envelope.clone());
    }

    fn deliver_alone(
        &mut self,
        (tag, name): (ChannelTag, Arc<str>),
        origin: (u64, u64),
        envelope: Vec<u8>,
    ) {
        if let Some(channel) = self.channels.get_mut(tag) {
            if channel.has_seen(origin) {
                return;
            }
            channel.see(origin);
        }
        self.link().counters.delivered_alone.add(1);
        let message = ReceivedMessage {
            channel: name,
            origin,
            position: None,
            is_quiet: false,
            bytes: envelope,
            envelope_at: 0,
        };
        self.deliveries
            .add(Delivery::Publication(Box::new(message)));
    }

    /// Delivers a publication here that Redis does not take.
    pub(super) fn deliver_rejected(&mut self, (number, mut outgoing): Numbered) {
        let origin = (self.link().node(), number);
        self.deliver_here(origin, &outgoing);
        if let Some(sent) = outgoing.sent.take() {
            sent(false);
        }
    }

    /// Keeps a publication to be sent, behind those that are kept already. Where there is no room, the
    /// oldest ones are dropped.
    pub(super) fn keep(&mut self, publication: Numbered) {
        self.backlog_bytes += publication.1.bytes();
        self.backlog.push_back(publication);
        while self.backlog_bytes > self.backlog_bytes_max
            && let Some((_, oldest)) = self.backlog.pop_front()
        {
            self.backlog_bytes -= oldest.bytes();
            self.link().counters.drop_one(NodeDrop::Backlog);
        }
        self.count_backlog();
    }

    /// What was on its way when the connection was lost: Redis may have it or not. It is delivered here,
    /// unless it has come back, and sent again before all others.
    pub(super) fn take_back(&mut self, in_flight: Vec<Numbered>) {
        self.deliver_awaited();
        let later = std::mem::take(&mut self.backlog);
        self.backlog_bytes = 0;
        in_flight
            .into_iter()
            .for_each(|publication| self.publish_alone(publication));
        later
            .into_iter()
            .for_each(|publication| self.keep(publication));
    }

    /// The oldest publications that are kept.
    pub(super) fn take_backlog(&mut self, count_max: usize) -> Vec<Numbered> {
        let count = self.backlog.len().min(count_max);
        let taken: Vec<_> = self.backlog.drain(..count).collect();
        self.backlog_bytes -= taken.iter().map(|(_, it)| it.bytes()).sum::<usize>();
        self.count_backlog();
        taken
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    fn count_backlog(&self) {
        let bytes = &self.link().counters.backlog_bytes;
        bytes.set(self.backlog_bytes as u64);
    }

    /// The server ends: what is kept is lost for the other nodes.
    pub(super) fn drop_backlog(&mut self) {
        for (_, mut outgoing) in std::mem::take(&mut self.backlog) {
            self.link().counters.drop_one(NodeDrop::Stopped);
            if let Some(sent) = outgoing.sent.take() {
                sent(false);
            }
        }
    }

    /// The connection is lost: all channels are to be subscribed to anew, and nobody waits for them.
    pub(super) fn disconnected(&mut self) {
        self.missing.clear();
        self.unread_presence.clear();
        self.unread_retained.clear();
        self.to_subscribe = self.channels.tags().collect();
        for channel in self.channels.iter_mut() {
            channel.phase = Phase::New;
            channel.is_restoring = true;
            channel.waiters.clear();
        }
    }

    /// Whether the channels of the connection before this one are live.
    pub(super) fn is_restored(&mut self) -> bool {
        let mut channels = self.channels.iter_mut();
        self.deliveries.is_empty() && !channels.any(|channel| channel.is_restoring)
    }

    /// Goes on with what waits for room, and lets go who has waited for long.
    pub(super) fn retry(&mut self, now_ms: u64) {
        self.deliveries.retry();
        let is_delivered = self.deliveries.is_empty();
        // Not in each turn, as there may be many channels.
        if now_ms < self.looked_ms + LOOK_MS {
            return;
        }
        self.looked_ms = now_ms;
        for channel in self.channels.iter_mut() {
            // Who has waited for long goes on, though what is here is not delivered.
            channel.waiters.retain(|waiter| now_ms < waiter.until_ms);
            if is_delivered && !channel.waiters.is_empty() {
                channel.release_waiters(now_ms);
            }
        }
    }

    /// Takes the channels out that have had no subscribers for long.
    pub(super) fn take_unwanted(&mut self, delay_ms: u64, now_ms: u64) -> Vec<Arc<str>> {
        let process_state = Arc::clone(&self.process_state);
        let Some(link) = &process_state.link else {
            return Vec::new();
        };
        let is_over = |channel: &mut Channel| {
            let has_sessions = channel.presence.is_some()
                && process_state
                    .presence
                    .has_sessions(channel.tag, &channel.name);
            let is_wanted = process_state.interests.variants(channel.tag) != 0
                || has_sessions
                || !channel.waiters.is_empty()
                || !matches!(channel.phase, Phase::Live);
            if is_wanted {
                channel.unwanted_ms = None;
                return false;
            }
            let since_ms = *channel.unwanted_ms.get_or_insert(now_ms);
            now_ms - since_ms >= delay_ms && link.detach(channel.tag, &process_state.interests)
        };
        let unwanted = self.channels.iter_mut();
        let unwanted = unwanted.filter_map(|channel| {
            let is_over = is_over(channel);
            is_over.then(|| (channel.tag, Arc::clone(&channel.name)))
        });
        let unwanted: Vec<_> = unwanted.collect();
        let names = unwanted.into_iter().map(|(tag, name)| {
            process_state.history.end_shared(tag);
            let channel = self.channels.remove(tag);
            if channel.is_some_and(|channel| channel.presence.is_some()) {
                process_state.presence.remove_nodes((tag, &name));
            }
            name
        });
        let names = names.collect();
        link.counters.channels.set(self.channels.len() as u64);
        names
    }
}

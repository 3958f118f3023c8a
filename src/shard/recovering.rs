//! Sends entries of the history: to subscribers that recover, and as answers to requests.

use super::Shard;
use super::batch::{self, Positions};
use super::effects;
use super::frame_encoder::FrameEncoder;
use super::history_page::{HistoryPage, PageRequest};
use super::record::{Frame, Record};
use crate::base::limits::{
    HISTORY_REPLY_MESSAGES, HISTORY_REPLY_MESSAGES_MAX, RECOVERIES_PER_TURN, RECOVERY_BYTES_KEPT,
    RECOVERY_BYTES_PER_BUSY_TURN, RECOVERY_BYTES_PER_TURN, RECOVERY_BYTES_WAITING,
    RECOVERY_STEP_BYTES, RECOVERY_STEP_ENTRIES,
};
use crate::base::{ChannelTag, ConnectionId, FrameRun, Now, Position, ShardCounters, Variant};
use crate::broker::{BroadcastTarget, Broker, Event, HistoryRequest, Recovery};
use std::collections::HashMap;

/// What the subscribers that recover share on a shard.
#[derive(Debug, Default)]
pub(super) struct Recovering {
    /// Frames that others may need too: a thousand clients that lost one server come back together.
    frames: HashMap<FrameKey, FrameRun>,
    frame_bytes: usize,
    /// Whether some subscriber could be sent more at once.
    is_ready: bool,
    /// Whether some subscriber waits for a publisher that has written the ring and not the history.
    is_unsettled: bool,
}

/// Which frame it is: its channel, offset and variant, and the width of its placeholder.
type FrameKey = (ChannelTag, u64, Variant, u16);

/// An entry to be sent.
enum Entry {
    Ready(FrameRun),
    Stored(Vec<u8>),
}

/// How far a subscriber has come in one step.
enum Outcome {
    /// All is sent, the last entry at this offset; it is to become live.
    Done(u64),
    /// More is there.
    More(u64),
    /// What it has received is not read here yet.
    Behind,
    /// It must read first.
    Waits,
    /// What it was to receive first is not kept any more; it begins after this offset instead.
    Overtaken(u64),
    /// Something is not kept any more.
    Lost,
    /// It recovers no more.
    Ended,
}

impl Recovering {
    fn keep(&mut self, key: FrameKey, run: &FrameRun) {
        self.frame_bytes += run.bytes().len();
        if self.frame_bytes > RECOVERY_BYTES_KEPT {
            self.frames.clear();
            self.frame_bytes = run.bytes().len();
        }
        self.frames.insert(key, run.clone());
    }
}

impl Shard {
    /// Whether `drain_ring` would send more to subscribers that recover.
    #[must_use]
    pub fn has_recovering(&self) -> bool {
        self.recovering.is_ready || self.connections.has_resumed()
    }

    /// Whether subscribers that recover wait for publishers, which takes a moment.
    #[must_use]
    pub fn awaits_history(&self) -> bool {
        self.recovering.is_unsettled
    }

    /// Sends to subscribers that recover, within what one turn of the event loop may send.
    pub(super) fn continue_recoveries(&mut self, now: Now) {
        self.recovering.is_ready = false;
        self.recovering.is_unsettled = false;
        for id in self.connections.take_resumed() {
            self.broker.resume_recoveries(id);
        }
        if !self.broker.has_next_recovery() {
            if self.recovering.frame_bytes > 0 && !self.broker.has_recoveries() {
                self.recovering = Recovering::default();
            }
            return;
        }
        let history = &self.process_state.history;
        if !history.is_settled(self.reader.next_position()) {
            self.recovering.is_unsettled = true;
            return;
        }
        let mut bytes_left = match self.connections.ready_queue.is_empty() {
            true => RECOVERY_BYTES_PER_TURN,
            false => RECOVERY_BYTES_PER_BUSY_TURN,
        };
        for _ in 0..RECOVERIES_PER_TURN {
            if bytes_left == 0 {
                break;
            }
            let Some(mut recovery) = self.broker.next_recovery() else {
                break;
            };
            self.connections.counters.recovery_turns.add(1);
            match self.send_entries(&recovery, &mut bytes_left, now) {
                Outcome::Done(sent) => self.broker.finish_recovery(recovery, sent),
                Outcome::Ended => self.broker.resume_recoveries(recovery.id),
                Outcome::Behind => self.broker.delay_recovery(recovery),
                Outcome::Waits => {
                    self.connections.suspend(recovery.id);
                    self.broker.suspend_recoveries(recovery);
                }
                Outcome::Overtaken(after) => {
                    recovery.after = after;
                    self.broker.continue_recovery(recovery);
                }
                Outcome::More(after) => {
                    recovery.after = after;
                    recovery.sent = after;
                    self.broker.continue_recovery(recovery);
                }
                Outcome::Lost => {
                    let Self {
                        broker,
                        connections,
                        writer,
                        ..
                    } = self;
                    broker.fail_recovery(recovery, now, &mut |effect| {
                        effects::apply(connections, writer, recovery.id, effect, now);
                    });
                }
            }
        }
        self.recovering.is_ready = self.broker.has_next_recovery();
    }

    /// Sends the next entries to a subscriber that recovers.
    fn send_entries(&mut self, recovery: &Recovery, bytes_left: &mut usize, now: Now) -> Outcome {
        let Self {
            broker,
            connections,
            recovering,
            process_state,
            ..
        } = self;
        let reached = broker.reached();
        if connections.waiting_bytes(recovery.id) > RECOVERY_BYTES_WAITING {
            return Outcome::Waits;
        }
        if recovery.after > reached {
            return Outcome::Behind;
        }
        let Some(key) = broker.recovering_group(recovery) else {
            return Outcome::Ended;
        };
        let (tag, _) = broker.recovering_channel(recovery);
        let frame_key = |offset| (tag, offset, key.variant, key.subscription_id_bytes);
        // In front of the first entry of all others may have been sent that are not kept any more.
        let is_shared =
            |is_first: bool| !key.variant.has_previous() || !is_first || recovery.sent > 0;
        let (mut entries, mut bytes, mut has_more) = (Vec::new(), 0, false);
        let read = process_state.history.read(
            tag,
            recovery.after,
            reached,
            now.monotonic_ms,
            |offset, content| {
                has_more = entries.len() == RECOVERY_STEP_ENTRIES || bytes > RECOVERY_STEP_BYTES;
                if has_more {
                    return false;
                }
                bytes += content.len();
                // What not all receive is looked at for each one.
                let is_shared = is_shared(entries.is_empty());
                let ready = recovering.frames.get(&frame_key(offset));
                let ready = ready.filter(|_| is_shared);
                entries.push((
                    offset,
                    match ready {
                        Some(run) => Entry::Ready(run.clone()),
                        None => Entry::Stored(content.to_vec()),
                    },
                ));
                true
            },
        );
        if read.is_err() {
            // With nothing sent, nobody has been promised what is gone.
            return match recovery.is_offline_queue && recovery.sent == 0 {
                true => {
                    Outcome::Overtaken(process_state.history.oldest_offset(tag, now.monotonic_ms))
                }
                false => Outcome::Lost,
            };
        }
        *bytes_left = bytes_left.saturating_sub(bytes);
        let mut after = recovery.after;
        for (offset, entry) in entries {
            let is_first = after == recovery.after;
            let previous_offset = if is_first { recovery.sent } else { after };
            after = offset;
            let run = match entry {
                Entry::Ready(run) => Some(run),
                Entry::Stored(content) => {
                    let positions = (broker.position(offset), previous_offset);
                    let mut encoder = connections.encoder.borrow_mut();
                    let counters = &connections.counters;
                    let found = render(
                        broker,
                        recovery,
                        &content,
                        (positions, &mut encoder),
                        counters,
                    );
                    encoder.count(counters);
                    drop(encoder);
                    found.map(|(run, is_for_all)| {
                        if is_for_all && is_shared(is_first) {
                            recovering.keep(frame_key(offset), &run);
                        }
                        run
                    })
                }
            };
            if let Some(run) = run {
                let subscription_id = broker.recovering_subscription_id(recovery);
                connections.deliver(recovery.id.slot(), &run, subscription_id, now);
                connections.counters.recovered.add(1);
            }
        }
        match has_more {
            true => Outcome::More(after),
            false if after == recovery.after => Outcome::Done(recovery.sent),
            false => Outcome::Done(after),
        }
    }

    /// Answers a request for what was published on a channel.
    pub(super) fn read_history(&mut self, id: ConnectionId, request: HistoryRequest<'_>, now: Now) {
        let Self {
            broker,
            connections,
            process_state,
            reader,
            ..
        } = self;
        let Some(name) = broker.full_name(id, request.channel) else {
            return;
        };
        let limit = request.limit.unwrap_or(HISTORY_REPLY_MESSAGES);
        let page = PageRequest {
            name: &name,
            after: request.after,
            limit: limit.min(HISTORY_REPLY_MESSAGES_MAX) as usize,
            ring_position: reader.next_position(),
        };
        let Some(page) = HistoryPage::read(process_state, page, now) else {
            return;
        };
        let messages = page.messages().filter_map(|(message, target, scope)| {
            let is_its = broker.is_for(id, target, scope);
            is_its.then_some(message)
        });
        let event = Event::History {
            channel: request.channel,
            messages: &messages.collect::<Vec<_>>(),
            position: page.position,
            is_complete: page.is_complete,
        };
        connections.reply(id, &event, now);
    }
}

/// The frame of an entry for a subscriber, and whether every subscriber of the group receives it;
/// nothing if this one does not.
fn render(
    broker: &mut Broker,
    recovery: &Recovery,
    content: &[u8],
    ((position, previous_offset), encoder): ((Position, u64), &mut FrameEncoder),
    counters: &ShardCounters,
) -> Option<(FrameRun, bool)> {
    let record = Record::read_kept(content)?;
    let positions = Positions::new(position, previous_offset, record.meta.shared);
    let (tag, name) = broker.recovering_channel(recovery);
    let (target, reach) = (record.target()?, record.reach()?);
    if record.channel != name.as_bytes() || !broker.is_for(recovery.id, target, reach) {
        return None;
    }
    let key = broker.recovering_group(recovery)?;
    if record.is_binary() {
        if !key.takes_binary {
            counters.binary_skipped.add(1);
            return None;
        }
    } else if !broker.passes_filter(recovery, record.data()?) {
        return None;
    }
    let mut bytes = Vec::new();
    let placeholders = record.encode(key.variant, encoder, &mut bytes);
    let frame = Frame {
        bytes: &bytes,
        placeholders,
    };
    let run = batch::single(
        tag,
        key.variant,
        key.subscription_id_bytes,
        positions,
        frame,
    );
    // Of a binary one, another subscriber with the same variant may receive nothing.
    let is_for_all =
        target == BroadcastTarget::All && key.filter().is_none() && !record.is_binary();
    Some((run, is_for_all))
}

//! The thread of Redis: connects, sends, receives, and connects again.
//!
//! ```text
//!   away ─▶ connecting ─▶ restoring: subscribes to all channels, reads what was missed ─▶ up
//!    ▲                        │                                                            │
//!    └───── connection lost ──┴──────── lost, or the canary does not come back ◀───────────┘
//! ```

use super::NodesConfig;
use super::channels::Bytes;
use super::connection::{Connection, Connector, Failure, Incoming, Receive, failure};
use super::engine::{Engine, Missing, Numbered};
use super::message::{self, OFFSETS_MAX};
use super::peers::Peers;
use super::script::CatchUp;
use crate::base::limits::{
    NODE_BATCH_MAX, NODE_CANARY_MS, NODE_CATCH_UP_MESSAGES, NODE_CATCH_UPS_AT_ONCE,
    NODE_DELIVERIES_BYTES_MAX, NODE_END_MS, NODE_PEERS_WAIT_MS, NODE_RETRY_MS, NODE_TASKS_PER_TURN,
};
use crate::base::now::{Clock, Stopwatch};
use crate::base::{ChannelTag, NodeDrop, Outgoing, Position, Task};
use redis::{Cmd, RedisError, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

/// How often it is looked at what waits for room or time.
const TICK: Duration = Duration::from_millis(20);
/// How soon, while something waits for room in the ring.
const RETRY_TICK: Duration = Duration::from_millis(1);
/// How often it is looked which channels have lost their subscribers.
const SWEEP_MS: u64 = 1_000;

/// What has happened on a connection.
enum Event {
    Connected(Box<Result<Connection, RedisError>>),
    Incoming(Incoming),
    Published(Vec<Result<Value, RedisError>>),
    Subscribed(Vec<ChannelTag>, Result<(), RedisError>),
    Unsubscribed(Result<(), RedisError>),
    CaughtUp(Vec<(ChannelTag, Result<Value, RedisError>)>),
    /// The node is subscribed to the channel of the canary.
    Listening,
    /// So many nodes have received the canary.
    Heard(u64),
    Failed(RedisError),
}

/// The connection, as far as it has come.
enum State {
    /// There is none until this time, monotonic milliseconds.
    Away(u64),
    Connecting,
    Restoring(Connection),
    Up(Connection),
}

/// The message of the node to itself, on a channel that all nodes are subscribed to as the last one.
#[derive(Default)]
struct Canary {
    /// Whether the node is about to subscribe to its channel, and whether it is subscribed.
    is_asked: bool,
    is_listening: bool,
    number: u64,
    /// When the last one was sent, monotonic nanoseconds; `None` = it is back.
    sent_ns: Option<u64>,
    due_ms: u64,
    /// Whether one has come back on this connection.
    has_returned: bool,
}

/// Publications on their way: those of each command, in the order of the commands.
#[derive(Default)]
struct InFlight {
    units: Vec<Vec<Numbered>>,
    /// Whether they take room in the queue of the link.
    is_counted: bool,
    /// Who is told when all are there.
    marks: Vec<oneshot::Sender<()>>,
}

/// How the first attempt to connect has ended.
pub(super) type First = oneshot::Sender<Result<(), RedisError>>;

pub(super) struct Runner {
    config: NodesConfig,
    connector: Connector,
    engine: Engine,
    clock: Clock,
    state: State,
    /// Of which connection events are.
    generation: u64,
    events: UnboundedSender<(u64, Event)>,
    received: UnboundedReceiver<(u64, Event)>,
    /// Bytes of messages that have come and are not handled yet.
    incoming_bytes: Arc<AtomicUsize>,
    in_flight: InFlight,
    attempts: u32,
    canary: Canary,
    canary_channel: String,
    peers: Peers,
    /// Whether channels are being subscribed to or left: one after the other, as else a channel that is
    /// wanted again might be left last.
    is_changing: bool,
    /// Whether histories are being read.
    is_reading: bool,
    /// Channels that are to be left.
    to_leave: Vec<Arc<str>>,
    /// When the connection was made, monotonic milliseconds.
    connected_ms: u64,
    swept_ms: u64,
    first: Option<First>,
}

impl Runner {
    pub(super) fn new(
        config: NodesConfig,
        connector: Connector,
        engine: Engine,
        clock: Clock,
        first: First,
    ) -> Self {
        let (events, received) = unbounded_channel();
        Self {
            canary_channel: format!("{}:{{nodes}}", config.prefix),
            peers: Peers::default(),
            is_changing: false,
            is_reading: false,
            to_leave: Vec::new(),
            connected_ms: 0,
            config,
            connector,
            engine,
            clock,
            state: State::Away(0),
            generation: 0,
            events,
            received,
            incoming_bytes: Arc::default(),
            in_flight: InFlight::default(),
            attempts: 0,
            canary: Canary::default(),
            swept_ms: 0,
            first: Some(first),
        }
    }

    /// Runs until the server ends, and sends what is left then.
    pub(super) async fn run(mut self, mut ending: watch::Receiver<bool>) {
        let process_state = Arc::clone(&self.engine.process_state);
        let Some(link) = &process_state.link else {
            return;
        };
        while !*ending.borrow() {
            let tick = match self.engine.deliveries.is_empty() {
                true => TICK,
                false => RETRY_TICK,
            };
            tokio::select! {
                event = self.received.recv() => {
                    if let Some((generation, event)) = event {
                        self.handle(generation, event);
                    }
                    // What has come together is handled together.
                    while let Ok((generation, event)) = self.received.try_recv() {
                        self.handle(generation, event);
                    }
                }
                () = link.wait() => {}
                _ = ending.changed() => {}
                () = tokio::time::sleep(tick) => {}
            }
            self.step();
        }
        self.end().await;
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().monotonic_ms
    }

    fn step(&mut self) {
        let now_ms = self.now_ms();
        self.engine.retry(now_ms);
        self.take_requests();
        self.connect_when_due(now_ms);
        self.subscribe_and_read();
        self.send_canary(now_ms);
        self.look_whether_up();
        self.publish();
        self.note_whether_up();
        if now_ms >= self.swept_ms + SWEEP_MS {
            self.swept_ms = now_ms;
            self.unsubscribe_unwanted(now_ms);
        }
    }

    fn take_requests(&mut self) {
        let is_away = !matches!(self.state, State::Restoring(_) | State::Up(_));
        let now = self.clock.now();
        for request in self.engine.link().take_requests() {
            self.engine.want(request, is_away, now);
        }
        let count = self.engine.channels.len() as u64;
        self.engine.link().counters.channels.set(count);
    }

    fn connection(&self) -> Option<Connection> {
        match &self.state {
            State::Restoring(connection) | State::Up(connection) => Some(connection.clone()),
            State::Away(_) | State::Connecting => None,
        }
    }

    /// Runs something on the connection, and handles what it returns.
    fn spawn(&self, task: impl Future<Output = Event> + Send + 'static) {
        let (events, generation) = (self.events.clone(), self.generation);
        tokio::spawn(async move {
            let event = task.await;
            // Fails when the thread ends.
            let _ = events.send((generation, event));
        });
    }

    fn connect_when_due(&mut self, now_ms: u64) {
        if !matches!(self.state, State::Away(due_ms) if now_ms >= due_ms) {
            return;
        }
        self.state = State::Connecting;
        self.generation += 1;
        self.incoming_bytes = Arc::default();
        let (events, generation) = (self.events.clone(), self.generation);
        let bytes = Arc::clone(&self.incoming_bytes);
        let receive: Receive = Arc::new(move |incoming| {
            if let Incoming::Message(_, message) = &incoming {
                // Relaxed: only the value itself counts.
                let before = bytes.fetch_add(message.len(), Ordering::Relaxed);
                if before > NODE_DELIVERIES_BYTES_MAX {
                    let _ = events.send((generation, Event::Incoming(Incoming::Lost)));
                    return;
                }
            }
            let _ = events.send((generation, Event::Incoming(incoming)));
        });
        let (connector, prefix) = (self.connector.clone(), self.config.prefix.clone());
        let timeout = self.config.timeout;
        self.spawn(async move {
            let connect = connector.connect(prefix, receive);
            let connected = tokio::time::timeout(2 * timeout, connect).await;
            let timed_out = || std::io::Error::from(std::io::ErrorKind::TimedOut).into();
            Event::Connected(Box::new(connected.unwrap_or_else(|_| Err(timed_out()))))
        });
    }

    fn handle(&mut self, generation: u64, event: Event) {
        if generation != self.generation {
            return;
        }
        let now_ms = self.now_ms();
        match event {
            Event::Connected(connected) => match *connected {
                Ok(connection) => self.connected(connection, now_ms),
                Err(error) => self.not_connected(error, now_ms),
            },
            Event::Incoming(Incoming::Message(channel, bytes)) => self.receive(&channel, bytes),
            Event::Incoming(Incoming::Lost) => self.lose("the connection was closed", now_ms),
            Event::Published(results) => self.published(results, now_ms),
            Event::Unsubscribed(Ok(())) => self.is_changing = false,
            Event::Subscribed(tags, Ok(())) => {
                self.is_changing = false;
                for tag in tags {
                    self.engine.subscribed(tag, now_ms);
                }
            }
            Event::CaughtUp(results) => self.caught_up(results, now_ms),
            Event::Listening => self.canary.is_listening = true,
            Event::Heard(count) => self.peers.note(count, now_ms),
            Event::Subscribed(_, Err(error))
            | Event::Unsubscribed(Err(error))
            | Event::Failed(error) => {
                self.lose(&error.to_string(), now_ms);
            }
        }
    }

    fn connected(&mut self, connection: Connection, now_ms: u64) {
        tracing::info!(redis = %self.connector.address, "connected to Redis");
        self.state = State::Restoring(connection);
        self.connected_ms = now_ms;
        self.peers.now = 0;
        self.canary = Canary {
            number: self.canary.number,
            due_ms: now_ms,
            ..Canary::default()
        };
        if let Some(first) = self.first.take() {
            let _ = first.send(Ok(()));
        }
    }

    fn not_connected(&mut self, error: RedisError, now_ms: u64) {
        // One line at first, and then one for each time that the wait is the longest.
        if self.attempts == 0 || self.retry_ms() >= NODE_RETRY_MS.1 {
            tracing::warn!(redis = %self.connector.address, %error, "cannot connect to Redis");
        }
        self.state = State::Away(now_ms + jittered(self.retry_ms()));
        self.attempts += 1;
        if let Some(first) = self.first.take() {
            let _ = first.send(Err(error));
        }
    }

    fn retry_ms(&self) -> u64 {
        let (shortest, longest) = NODE_RETRY_MS;
        (shortest << self.attempts.min(16)).min(longest)
    }

    /// The connection is lost: what is on its way is delivered here.
    fn lose(&mut self, reason: &str, now_ms: u64) {
        if matches!(self.state, State::Away(_)) {
            return;
        }
        tracing::warn!(
            redis = %self.connector.address, reason,
            "Redis is away: publications are delivered on this node only, and kept"
        );
        self.generation += 1;
        self.state = State::Away(now_ms + jittered(self.retry_ms()));
        self.attempts += 1;
        self.is_changing = false;
        self.is_reading = false;
        self.to_leave.clear();
        let link = self.engine.link();
        link.counters.set_up(false);
        link.counters.connections_lost.add(1);
        self.engine.disconnected();
        let InFlight {
            units,
            is_counted,
            marks,
        } = std::mem::take(&mut self.in_flight);
        let mut publications: Vec<_> = units.into_iter().flatten().collect();
        publications.sort_unstable_by_key(|(number, _)| *number);
        if is_counted {
            self.release(&publications);
        }
        self.engine.take_back(publications);
        // What is delivered here counts as done.
        drop(marks);
    }

    fn release(&self, publications: &[Numbered]) {
        let bytes = publications.iter().map(|(_, it)| it.bytes()).sum();
        self.engine.link().release(bytes);
    }

    fn receive(&mut self, channel: &[u8], bytes: Bytes) {
        self.incoming_bytes
            .fetch_sub(bytes.len(), Ordering::Relaxed);
        if self.engine.deliveries.waiting_bytes() > NODE_DELIVERIES_BYTES_MAX {
            let now_ms = self.now_ms();
            return self.lose("the shards are behind with deliveries", now_ms);
        }
        if channel == self.canary_channel.as_bytes() {
            return self.canary_returned(&bytes);
        }
        let Some(connection) = self.connection() else {
            return;
        };
        if let Some(name) = connection.names.name(channel) {
            let tag = self.engine.process_state.interests.tag(name);
            self.engine.take_message(tag, bytes);
        }
    }

    fn subscribe_and_read(&mut self) {
        let Some(connection) = self.connection() else {
            return;
        };
        self.change_subscriptions(&connection);
        // A little at a time, so that an answer is there in time and has room.
        let count = self.engine.missing.len().min(NODE_CATCH_UPS_AT_ONCE);
        if count > 0 && !self.is_reading && self.engine.deliveries.is_empty() {
            self.is_reading = true;
            let some: Vec<_> = self.engine.missing.drain(..count).collect();
            self.catch_up(&some, connection);
        }
    }

    /// Leaves the channels that are to be left, or subscribes to those that are wanted.
    fn change_subscriptions(&mut self, connection: &Connection) {
        if self.is_changing {
            return;
        }
        let to_leave = std::mem::take(&mut self.to_leave);
        if !to_leave.is_empty() {
            self.is_changing = true;
            let channels = to_leave.iter().map(|name| connection.names.channel(name));
            let channels: Vec<_> = channels.collect();
            let mut connection = connection.clone();
            return self.spawn(async move {
                Event::Unsubscribed(connection.unsubscribe(&channels).await)
            });
        }
        let begun = self.engine.begin_subscribing();
        if !begun.is_empty() {
            self.is_changing = true;
            let names = begun.iter().map(|(_, name)| connection.names.channel(name));
            let names: Vec<_> = names.collect();
            let tags = begun.into_iter().map(|(tag, _)| tag).collect();
            let mut connection = connection.clone();
            self.spawn(async move { Event::Subscribed(tags, connection.subscribe(&names).await) });
        }
    }

    fn catch_up(&mut self, missing: &[Missing], mut connection: Connection) {
        let ttl = self.config.history_ttl;
        let wanted: Vec<_> = missing
            .iter()
            .filter_map(|Missing { tag, after }| {
                let channel = self.engine.channels.get_mut(*tag)?;
                let after = after.map_or((0, 0), |after| (after.epoch, after.offset));
                let history = channel.history.map_or(0, |limits| limits.age_ms);
                Some((
                    *tag,
                    Arc::clone(&channel.name),
                    after,
                    lifetime_ms(history, ttl),
                ))
            })
            .collect();
        self.spawn(async move {
            let requests = wanted.iter().map(|(_, name, after, ttl_ms)| CatchUp {
                name,
                ttl_ms: *ttl_ms,
                after: *after,
                count_max: NODE_CATCH_UP_MESSAGES,
            });
            let requests: Vec<_> = requests.collect();
            let answers = connection.catch_up(&requests).await;
            let tags = wanted.iter().map(|(tag, ..)| *tag);
            Event::CaughtUp(tags.zip(answers).collect())
        });
    }

    fn caught_up(&mut self, results: Vec<(ChannelTag, Result<Value, RedisError>)>, now_ms: u64) {
        self.is_reading = false;
        for (tag, result) in results {
            let answer = match result.map(read_answer) {
                Ok(Some(answer)) => answer,
                Ok(None) => return self.lose("Redis gave an answer that is not one", now_ms),
                Err(error) if failure(&error) == Failure::Rejected => {
                    // Its publications come in, without what was before.
                    tracing::error!(%error, "Redis does not show the history of a channel");
                    self.engine.make_live(tag, now_ms);
                    continue;
                }
                Err(error) => return self.lose(&error.to_string(), now_ms),
            };
            let (newest, messages) = answer;
            let is_all = messages.len() < NODE_CATCH_UP_MESSAGES;
            self.engine.caught_up(tag, newest, messages, is_all, now_ms);
        }
    }

    fn send_canary(&mut self, now_ms: u64) {
        let timeout_ms = u64::try_from(self.config.timeout.as_millis()).unwrap_or(u64::MAX);
        let Some(mut connection) = self.connection() else {
            return;
        };
        if let Some(sent_ns) = self.canary.sent_ns {
            if now_ms >= sent_ns / 1_000_000 + timeout_ms {
                self.lose("no message has come back in time", now_ms);
            }
            return;
        }
        if now_ms < self.canary.due_ms || !self.is_restored() {
            return;
        }
        if !self.canary.is_listening {
            if std::mem::replace(&mut self.canary.is_asked, true) {
                return;
            }
            let channel = self.canary_channel.clone();
            return self.spawn(async move {
                match connection.subscribe(&[channel]).await {
                    Ok(()) => Event::Listening,
                    Err(error) => Event::Failed(error),
                }
            });
        }
        self.canary.number += 1;
        self.canary.due_ms = now_ms + NODE_CANARY_MS;
        self.canary.sent_ns = Some(Stopwatch::of(self.clock).nanos());
        let message = self.canary_message();
        let command = connection.names.publish(&self.canary_channel, &message);
        self.spawn(async move {
            match connection.run(vec![command]).await.pop() {
                Some(Ok(Value::Int(count))) => Event::Heard(u64::try_from(count).unwrap_or(0)),
                Some(Err(error)) => Event::Failed(error),
                _ => Event::Heard(0),
            }
        });
    }

    fn canary_message(&self) -> Vec<u8> {
        let (node, number) = (self.engine.link().node(), self.canary.number);
        format!("{node:016x} {number}").into_bytes()
    }

    fn canary_returned(&mut self, bytes: &[u8]) {
        if bytes != self.canary_message() {
            return;
        }
        if let Some(sent_ns) = self.canary.sent_ns.take() {
            self.canary.has_returned = true;
            let us = Stopwatch::of(self.clock).nanos().saturating_sub(sent_ns) / 1_000;
            self.engine.link().counters.round_trip_us.set(us);
        }
    }

    /// Whether the channels of the last connection are subscribed to, and what was missed on them is here.
    fn is_restored(&mut self) -> bool {
        matches!(self.state, State::Up(_)) || self.engine.is_restored()
    }

    fn look_whether_up(&mut self) {
        if !matches!(self.state, State::Restoring(_))
            || !self.canary.has_returned
            || !self.is_restored()
        {
            return;
        }
        // Nodes that are not back yet would miss what was kept for them on channels without a history.
        let is_long = self.now_ms() >= self.connected_ms + NODE_PEERS_WAIT_MS;
        if self.engine.has_backlog() && !self.peers.are_complete() && !is_long {
            return;
        }
        let state = std::mem::replace(&mut self.state, State::Connecting);
        if let State::Restoring(connection) = state {
            self.state = State::Up(connection);
        }
    }

    /// States that all is well, when what was kept is sent: only then the history has all that was
    /// delivered here.
    fn note_whether_up(&mut self) {
        let is_sent = !self.engine.has_backlog()
            && (self.in_flight.units.is_empty() || self.in_flight.is_counted);
        let counters = &self.engine.link().counters;
        if is_sent && !counters.is_up() && matches!(self.state, State::Up(_)) {
            counters.set_up(true);
            self.attempts = 0;
            tracing::info!(
                redis = %self.connector.address, channels = self.engine.channels.len(),
                "publications go to all nodes and come from them"
            );
        }
    }

    /// Sends the next publications, or delivers them here while Redis is away.
    fn publish(&mut self) {
        let State::Up(connection) = &self.state else {
            return self.publish_alone();
        };
        let mut connection = connection.clone();
        if !self.in_flight.units.is_empty() {
            return;
        }
        let is_counted = !self.engine.has_backlog();
        let mut marks = Vec::new();
        let publications = match is_counted {
            false => self.engine.take_backlog(NODE_BATCH_MAX),
            true => {
                let tasks = self.engine.link().take_tasks(NODE_BATCH_MAX);
                let of_task = |task| match task {
                    Task::Publish(number, outgoing) => Some((number, outgoing)),
                    Task::Mark(sender) => {
                        marks.push(sender);
                        None
                    }
                };
                tasks.into_iter().filter_map(of_task).collect()
            }
        };
        if publications.is_empty() {
            return;
        }
        let (commands, units) = self.commands(publications, &connection);
        self.in_flight = InFlight {
            units,
            is_counted,
            marks,
        };
        self.spawn(async move { Event::Published(connection.run(commands).await) });
    }

    /// The commands that send publications, and those of each.
    fn commands(
        &self,
        publications: Vec<Numbered>,
        connection: &Connection,
    ) -> (Vec<Cmd>, Vec<Vec<Numbered>>) {
        let node = self.engine.link().node();
        let mut units: Vec<Vec<Numbered>> = Vec::new();
        let mut by_tag = HashMap::new();
        for publication in publications {
            // One command for all of a channel.
            let at = *by_tag.entry(publication.1.tag).or_insert(units.len());
            if at == units.len() {
                units.push(Vec::new());
            }
            units[at].push(publication);
        }
        let commands = units.iter().map(|unit| {
            let (_, first) = &unit[0];
            let names = &connection.names;
            let Some(limits) = first.history else {
                let messages = unit
                    .iter()
                    .map(|(number, it)| message::without_position((node, *number), &it.envelope));
                let messages: Vec<_> = messages.collect();
                let scripts = &connection.scripts;
                return scripts.publish_only(names, &first.channel, &messages);
            };
            let tails = unit
                .iter()
                .map(|(number, it)| message::tail((node, *number), &it.envelope));
            let tails: Vec<_> = tails.collect();
            let ttl_ms = lifetime_ms(limits.age_ms, self.config.history_ttl);
            let scripts = &connection.scripts;
            scripts.publish(names, &first.channel, (limits, ttl_ms), &tails)
        });
        (commands.collect(), units)
    }

    fn published(&mut self, results: Vec<Result<Value, RedisError>>, now_ms: u64) {
        let InFlight {
            units,
            is_counted,
            marks,
        } = std::mem::take(&mut self.in_flight);
        let mut left = Vec::new();
        let mut reason = None;
        for (unit, result) in units.into_iter().zip(results) {
            match result {
                Ok(_) => self.sent(unit, is_counted),
                Err(error) if failure(&error) == Failure::Rejected => {
                    self.rejected(unit, is_counted, &error);
                }
                Err(error) => {
                    reason = Some(error);
                    left.push(unit);
                }
            }
        }
        drop(marks);
        if let Some(error) = reason {
            self.in_flight = InFlight {
                units: left,
                is_counted,
                marks: Vec::new(),
            };
            self.lose(&error.to_string(), now_ms);
        }
    }

    fn sent(&mut self, unit: Vec<Numbered>, is_counted: bool) {
        if is_counted {
            self.release(&unit);
        }
        let link = self.engine.link();
        link.counters.sent.add(unit.len() as u64);
        for (number, mut outgoing) in unit {
            if let Some(sent) = outgoing.sent.take() {
                sent(true);
            }
            self.engine.await_return((number, outgoing));
        }
    }

    /// Redis does not take some publications: they are delivered here.
    fn rejected(&mut self, unit: Vec<Numbered>, is_counted: bool, error: &RedisError) {
        if is_counted {
            self.release(&unit);
        }
        let link = self.engine.link();
        if link.counters.dropped(NodeDrop::Rejected) == 0 {
            tracing::error!(%error, "Redis rejects publications: they are delivered on this node only");
        }
        for _ in &unit {
            link.counters.drop_one(NodeDrop::Rejected);
        }
        for publication in unit {
            self.engine.deliver_rejected(publication);
        }
    }

    fn publish_alone(&mut self) {
        // What waits for room is bounded by the queue behind it.
        while self.engine.deliveries.is_empty() {
            let tasks = self.engine.link().take_tasks(NODE_TASKS_PER_TURN);
            if tasks.is_empty() {
                return;
            }
            for task in tasks {
                // Who waits for a mark is told by its end.
                if let Task::Publish(number, outgoing) = task {
                    self.engine.link().release(outgoing.bytes());
                    self.engine.publish_alone((number, outgoing));
                }
            }
        }
    }

    fn unsubscribe_unwanted(&mut self, now_ms: u64) {
        let delay_ms = u64::try_from(self.config.leave_delay.as_millis()).unwrap_or(u64::MAX);
        let names = self.engine.take_unwanted(delay_ms, now_ms);
        if self.connection().is_some() {
            self.to_leave.extend(names);
        }
    }

    /// Sends what is left, for some seconds at most.
    async fn end(mut self) {
        let until_ms = self.now_ms() + NODE_END_MS;
        while self.now_ms() < until_ms {
            let is_up = matches!(self.state, State::Up(_));
            let has_work = !self.in_flight.units.is_empty()
                || self.engine.has_backlog()
                || self.engine.link().bytes() > 0;
            if !is_up || !has_work {
                break;
            }
            self.publish();
            tokio::select! {
                event = self.received.recv() => {
                    if let Some((generation, event)) = event {
                        self.handle(generation, event);
                    }
                }
                () = tokio::time::sleep(TICK) => {}
            }
        }
        let in_flight = std::mem::take(&mut self.in_flight.units);
        let tasks = self.engine.link().close();
        let left = tasks.into_iter().filter_map(|task| match task {
            Task::Publish(number, outgoing) => Some((number, outgoing)),
            Task::Mark(_) => None,
        });
        let left: Vec<(u64, Outgoing)> = left.collect();
        for publication in in_flight.into_iter().flatten().chain(left) {
            self.engine.keep(publication);
        }
        self.engine.drop_backlog();
    }
}

/// How long Redis keeps a channel without publications, milliseconds.
fn lifetime_ms(age_ms: u64, ttl: Duration) -> u64 {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    age_ms.max(ttl_ms)
}

/// The answer of the script that reads a history: up to where it reaches, and the messages.
fn read_answer(value: Value) -> Option<(Position, Vec<Bytes>)> {
    let Value::Array(parts) = value else {
        return None;
    };
    let [
        Value::BulkString(epoch),
        Value::BulkString(newest),
        Value::Array(messages),
    ] = <[Value; 3]>::try_from(parts).ok()?
    else {
        return None;
    };
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u64>().ok();
    let messages = messages.into_iter().map(|message| match message {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    });
    let position = Position {
        epoch: u32::try_from(number(&epoch)?).ok()?,
        offset: number(&newest).filter(|offset| *offset < OFFSETS_MAX)?,
    };
    Some((position, messages.collect::<Option<_>>()?))
}

/// Half of it, and a random part of the other half: so nodes do not all come back at once.
fn jittered(ms: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    ms / 2 + RandomState::new().hash_one(0) % (ms / 2 + 1)
}

//! The thread of Redis: connects, sends, receives, and connects again.
//!
//! ```text
//!   away ─▶ connecting ─▶ restoring: subscribes to all channels, reads what was missed ─▶ up
//!    ▲                        │                                                            │
//!    └───── connection lost ──┴──────── lost, or the canary does not come back ◀───────────┘
//! ```

use super::canary::Canary;
use super::channels::Bytes;
use super::connection::{Connection, Connector, Incoming, Receive};
use super::engine::Engine;
use super::inquiries::Inquiries;
use super::peers::Peers;
use super::presence::{KeptPresence, Sharing};
use super::publishing::InFlight;
use super::told_presence;
use super::users::{Arrivals, NodesThere, UserSharing};
use super::{Answerer, NodesConfig};
use crate::base::limits::{NODE_DELIVERIES_BYTES_MAX, NODE_PEERS_WAIT_MS, NODE_RETRY_MS};
use crate::base::now::Clock;
use crate::base::{ChannelTag, PendingQuestion};
use crate::broker::Quotas;
use redis::{RedisError, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

/// How often it is looked at what waits for room or time.
pub(super) const TICK: Duration = Duration::from_millis(20);
/// How soon, while something waits for room in the ring.
const RETRY_TICK: Duration = Duration::from_millis(1);
/// How often it is looked which channels have lost their subscribers.
const SWEEP_MS: u64 = 1_000;

/// What has happened on a connection.
pub(super) enum Event {
    Connected(Box<Result<Connection, RedisError>>),
    Incoming(Incoming),
    Published(Vec<Result<Value, RedisError>>),
    Subscribed(Vec<ChannelTag>, Result<(), RedisError>),
    Unsubscribed(Result<(), RedisError>),
    CaughtUp(Vec<(ChannelTag, Result<Value, RedisError>)>),
    /// The lease of the node is renewed: the nodes that have one.
    Renewed(Option<Result<Value, RedisError>>),
    /// Who of other nodes is on channels, or why that is not known of some.
    PresenceRead(Result<KeptPresence, (Vec<ChannelTag>, RedisError)>),
    PresenceTold(Vec<Result<Value, RedisError>>),
    RetainedRead(Vec<(ChannelTag, Result<Value, RedisError>)>),
    /// What has changed of users is sent, and it is known who has arrived.
    UsersServed(Vec<Result<Value, RedisError>>, NodesThere, Arrivals),
    /// The node is subscribed to the channel of the nodes; there were so many deletions in all histories, `None` =
    /// what Redis has is no count.
    Listening(Option<u64>),
    /// What was to be deleted before a question is.
    Deleted(Box<PendingQuestion>, Result<u64, RedisError>),
    /// So many nodes have received the question with this number.
    Inquired(u64, u64),
    /// A question is answered, perhaps one with this number of a deletion; `None` = it is not.
    Answered(Option<u64>),
    /// A question says nothing.
    Unreadable,
    /// So many nodes have received the canary; the error, if Redis has not taken what it wrote.
    Heard(u64, Option<RedisError>),
    Failed(RedisError),
    /// A task has panicked, which would be waited for.
    Panicked,
}

/// Says so when a task panics.
struct TaskWatch(UnboundedSender<(u64, Event)>, u64);

impl Drop for TaskWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Fails when the thread ends.
            let _ = self.0.send((self.1, Event::Panicked));
        }
    }
}

/// The connection, as far as it has come.
pub(super) enum State {
    /// There is none until this time, monotonic milliseconds.
    Away(u64),
    Connecting,
    Restoring(Connection),
    Up(Connection),
}

/// How the first attempt to connect has ended.
pub(super) type First = oneshot::Sender<Result<(), RedisError>>;

pub(super) struct Runner {
    pub(super) config: NodesConfig,
    pub(super) connector: Connector,
    pub(super) engine: Engine,
    pub(super) clock: Clock,
    pub(super) state: State,
    /// Of which connection events are.
    pub(super) generation: u64,
    pub(super) events: UnboundedSender<(u64, Event)>,
    pub(super) received: UnboundedReceiver<(u64, Event)>,
    /// Bytes of messages that have come and are not handled yet.
    pub(super) incoming_bytes: Arc<AtomicUsize>,
    pub(super) in_flight: InFlight,
    pub(super) attempts: u32,
    pub(super) canary: Canary,
    pub(super) canary_channel: String,
    pub(super) peers: Peers,
    pub(super) sharing: Sharing,
    pub(super) users: UserSharing,
    pub(super) quotas: Arc<Quotas>,
    pub(super) inquiries: Inquiries,
    /// Whether channels are being subscribed to or left: one after the other, as else a channel that is
    /// wanted again might be left last.
    pub(super) is_changing: bool,
    /// Whether histories are being read.
    pub(super) is_reading: bool,
    /// Channels that are to be left.
    pub(super) to_leave: Vec<Arc<str>>,
    /// When the connection was made, monotonic milliseconds.
    pub(super) connected_ms: u64,
    pub(super) swept_ms: u64,
    pub(super) first: Option<First>,
}

impl Runner {
    pub(super) fn new(
        config: NodesConfig,
        connector: Connector,
        engine: Engine,
        (clock, quotas): (Clock, Arc<Quotas>),
        (first, answerer): (First, Answerer),
    ) -> Self {
        let (events, received) = unbounded_channel();
        Self {
            canary_channel: format!("{}:{{nodes}}", config.prefix),
            peers: Peers::default(),
            sharing: Sharing::default(),
            users: UserSharing::default(),
            quotas,
            inquiries: Inquiries::new(answerer),
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

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now().monotonic_ms
    }

    fn step(&mut self) {
        let now_ms = self.now_ms();
        self.engine.retry(now_ms);
        self.take_requests();
        self.connect_when_due(now_ms);
        self.subscribe_and_read();
        self.share_presence(now_ms);
        self.serve_users(now_ms);
        self.send_canary(now_ms);
        self.look_whether_up();
        self.ask_and_answer(now_ms);
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

    pub(super) fn connection(&self) -> Option<Connection> {
        match &self.state {
            State::Restoring(connection) | State::Up(connection) => Some(connection.clone()),
            State::Away(_) | State::Connecting => None,
        }
    }

    /// Runs something on the connection, and handles what it returns.
    pub(super) fn spawn(&self, task: impl Future<Output = Event> + Send + 'static) {
        let watch = TaskWatch(self.events.clone(), self.generation);
        tokio::spawn(async move {
            let event = task.await;
            // Fails when the thread ends.
            let _ = watch.0.send((watch.1, event));
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

    pub(super) fn handle(&mut self, generation: u64, event: Event) {
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
            Event::Renewed(result) => self.renewed(result, now_ms),
            Event::PresenceRead(result) => self.presence_read(result, now_ms),
            Event::PresenceTold(results) => self.presence_told(results, now_ms),
            Event::UsersServed(changed, nodes, arrived) => {
                self.users_served(changed, &nodes, arrived, now_ms);
            }
            Event::RetainedRead(results) => self.retained_read(results, now_ms),
            Event::CaughtUp(results) => self.caught_up(results, now_ms),
            Event::Listening(deletions) => self.listening(deletions),
            Event::Panicked => panic!("a task of the thread of Redis panicked"),
            Event::Deleted(pending, deleted) => self.deleted(*pending, deleted, now_ms),
            Event::Inquired(number, count) => self.inquired(number, count, now_ms),
            Event::Answered(deletions) => self.answered(deletions),
            Event::Unreadable => {
                self.engine.link().counters.malformed.add(1);
                self.answered(None);
            }
            Event::Heard(count, rejection) => self.heard(count, rejection, now_ms),
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
        self.sharing.connected(now_ms);
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
    pub(super) fn lose(&mut self, reason: &str, now_ms: u64) {
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
        self.canary.is_listening = false;
        self.end_questions();
        let link = self.engine.link();
        link.counters.set_up(false);
        link.counters.connections_lost.add(1);
        self.engine.disconnected();
        let untold = self.sharing.lost();
        self.engine.process_state.presence.put_back(&untold);
        let unsent = self.users.lost();
        self.engine.link().put_back_user_changes(unsent);
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

    fn receive(&mut self, channel: &[u8], bytes: Bytes) {
        self.incoming_bytes
            .fetch_sub(bytes.len(), Ordering::Relaxed);
        if self.engine.deliveries.waiting_bytes() > NODE_DELIVERIES_BYTES_MAX {
            let now_ms = self.now_ms();
            return self.lose("the shards are behind with deliveries", now_ms);
        }
        if channel == self.canary_channel.as_bytes() {
            let now_ms = self.now_ms();
            return self.take_notice(&bytes, now_ms);
        }
        let Some(connection) = self.connection() else {
            return;
        };
        if let Some(name) = connection.names.name(channel) {
            let tag = self.engine.process_state.interests.tag(name);
            match bytes.starts_with(told_presence::BEGIN) {
                true => self.hear_presence(tag, bytes),
                false => self.engine.take_message(tag, bytes),
            }
        }
    }

    /// Whether the channels of the last connection are subscribed to, and what was missed on them is here.
    pub(super) fn is_restored(&mut self) -> bool {
        matches!(self.state, State::Up(_)) || self.engine.is_restored()
    }

    fn look_whether_up(&mut self) {
        if !matches!(self.state, State::Restoring(_))
            || !self.canary.has_returned
            || !self.is_restored()
            || !self.sharing.is_settled()
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
        let is_sent = self.canary.is_written
            && !self.engine.has_backlog()
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
}

/// Half of it, and a random part of the other half: so nodes do not all come back at once.
fn jittered(ms: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    ms / 2 + RandomState::new().hash_one(0) % (ms / 2 + 1)
}

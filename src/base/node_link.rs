//! The way to the other nodes, as the shards see it: a bounded queue of publications that go out, and
//! the channels whose publications come in.
//!
//! ```text
//!   shards, other publishers ─▶ queue ─▶ thread of Redis ─▶ Redis ─▶ all nodes
//!   first subscriber of a channel ─▶ request ─▶ thread of Redis: subscribes there
//! ```
//!
//! One thread takes what is here. Nobody waits for it: a full queue is told at once.

use super::history::HistoryLimits;
use super::history_position::Position;
use super::interest::{ChannelTag, Interests, TagMap};
use super::limits::NODE_USER_CHANGES_MAX;
use super::node_counters::NodeCounters;
use super::node_questions::{Answers, NodeQuestions, PendingQuestion, Question};
use super::node_user::{CountedOwner, NodeUser, UserArrival, UserChange, WaitingUser};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::{Notify, oneshot};

/// What an outgoing publication costs beside its texts, bytes.
const OVERHEAD_BYTES: usize = 160;

/// Called, on any thread, when a publication is with the other nodes (true), or delivered on this one
/// only because it never will be.
pub type Sent = Box<dyn FnOnce(bool) + Send>;

/// A retained value that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedChange {
    /// Its key.
    pub key: Box<str>,
    /// Its new value; `None` = it is cleared.
    pub value: Option<Box<str>>,
}

/// A publication that goes out.
pub struct Outgoing {
    /// The tag of the channel.
    pub tag: ChannelTag,
    /// Its full name.
    pub channel: Box<str>,
    /// The publication as text.
    pub envelope: Vec<u8>,
    /// How much of the channel is kept, if it has a history.
    pub history: Option<HistoryLimits>,
    /// What it does to the retained values of the channel.
    pub retain: Option<Box<RetainedChange>>,
    /// Who waits for it.
    pub sent: Option<Sent>,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Outgoing {{ {} }}", self.channel)
    }
}

impl Outgoing {
    /// What it costs in the queue, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let retain = self.retain.as_ref();
        let retained = retain.and_then(|change| change.value.as_ref());
        let retained_bytes = retained.map_or(0, |value| value.len());
        self.envelope.capacity() + self.channel.len() + retained_bytes + OVERHEAD_BYTES
    }
}

/// What the thread of Redis takes.
#[derive(Debug)]
pub enum Task {
    /// A publication, and its number among those of this node, from 1.
    Publish(u64, Outgoing),
    /// All that was in the queue before is to be sent.
    Mark(oneshot::Sender<()>),
}

/// A channel whose publications are wanted here.
#[derive(Debug)]
pub struct ChannelRequest {
    /// Its tag.
    pub tag: ChannelTag,
    /// Its full name.
    pub channel: Box<str>,
    /// Who waits for it: until its publications up to this position are here, if there is one.
    pub waiting: Option<(Option<Position>, oneshot::Sender<()>)>,
}

#[derive(Debug, Default)]
struct Queue {
    tasks: VecDeque<Task>,
    bytes: usize,
    count: u64,
    /// Nobody takes anything any more.
    is_closed: bool,
}

/// Users who arrive, and what has changed of users.
#[derive(Debug, Default)]
struct Users {
    waiting: Vec<WaitingUser>,
    changes: VecDeque<(NodeUser, UserChange)>,
    /// How many changes of each user Redis does not have yet.
    changing: HashMap<NodeUser, u32>,
    /// Whose sessions are to be counted again.
    counts: HashSet<CountedOwner>,
}

/// The way to the other nodes.
#[derive(Debug)]
pub struct NodeLink {
    node: u64,
    queue: Mutex<Queue>,
    bytes_max: usize,
    requests: Mutex<Vec<ChannelRequest>>,
    /// The channels whose publications come in.
    attached: RwLock<TagMap<()>>,
    users: Mutex<Users>,
    wake: Notify,
    /// What the other nodes are asked.
    pub questions: NodeQuestions,
    /// What it has done.
    pub counters: NodeCounters,
}

impl NodeLink {
    /// A way for a node with this number, which no other one has, with a queue of so many bytes.
    #[must_use]
    pub fn new(node: u64, bytes_max: usize) -> Self {
        Self {
            node,
            queue: Mutex::default(),
            bytes_max,
            requests: Mutex::default(),
            attached: RwLock::default(),
            users: Mutex::default(),
            wake: Notify::new(),
            questions: NodeQuestions::default(),
            counters: NodeCounters::default(),
        }
    }

    /// The number of this node.
    #[must_use]
    pub const fn node(&self) -> u64 {
        self.node
    }

    /// The number of this node in the ids of its sessions; not 0.
    #[must_use]
    pub fn node_in_ids(&self) -> u32 {
        let upper = u32::try_from(self.node >> 32);
        upper.expect("32 bits are left").max(1)
    }

    /// Puts a publication in the queue.
    ///
    /// # Errors
    /// The publication, when there is no room for it.
    pub fn send(&self, publication: Outgoing) -> Result<(), Outgoing> {
        let bytes = publication.bytes();
        let mut queue = lock(&self.queue);
        // One that is larger than the whole queue goes alone.
        if queue.is_closed || (queue.bytes > 0 && queue.bytes + bytes > self.bytes_max) {
            return Err(publication);
        }
        queue.bytes += bytes;
        queue.count += 1;
        let number = queue.count;
        queue.tasks.push_back(Task::Publish(number, publication));
        self.wake_at_first(queue);
        Ok(())
    }

    /// Whether `send` would find room for a small publication.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let queue = lock(&self.queue);
        !queue.is_closed && queue.bytes < self.bytes_max
    }

    /// Ready when all that was in the queue before is with the other nodes, or delivered on this one.
    pub async fn flushed(&self) {
        let (sender, receiver) = oneshot::channel();
        self.mark(sender);
        // Fails when the thread ends.
        let _ = receiver.await;
    }

    fn mark(&self, sender: oneshot::Sender<()>) {
        let mut queue = lock(&self.queue);
        if !queue.is_closed {
            queue.tasks.push_back(Task::Mark(sender));
            self.wake_at_first(queue);
        }
    }

    fn wake_at_first(&self, queue: MutexGuard<'_, Queue>) {
        let is_first = queue.tasks.len() == 1;
        drop(queue);
        if is_first {
            self.wake.notify_one();
        }
    }

    /// Asks all other nodes, whether the answers are awaited or not; something is deleted only when all that
    /// was in the queue before is with them. Without Redis, or with too many questions, nobody answers.
    pub fn ask(&self, question: Question) -> impl Future<Output = Answers> + Send + use<> {
        let published = question.deletion.is_some().then(|| {
            let (sender, receiver) = oneshot::channel();
            self.mark(sender);
            receiver
        });
        let (sender, receiver) = oneshot::channel();
        let is_first = self.questions.add(PendingQuestion {
            question,
            published,
            sender,
        });
        if is_first {
            self.wake.notify_one();
        }
        async { receiver.await.unwrap_or_default() }
    }

    /// Whether the publications of a channel come in.
    #[must_use]
    pub fn is_attached(&self, tag: ChannelTag) -> bool {
        // A panic of another thread leaves the table whole, here and below.
        let attached = self.attached.read();
        let attached = attached.unwrap_or_else(PoisonError::into_inner);
        attached.contains_key(&tag)
    }

    /// Notes that a channel has a subscriber here.
    pub fn want(&self, tag: ChannelTag, channel: &str) {
        if !self.is_attached(tag) {
            self.request(tag, channel, None);
        }
    }

    /// Ready when the publications of a channel come in, from where a client stands if that is known, or
    /// do not for some time.
    pub fn attach(
        &self,
        tag: ChannelTag,
        channel: &str,
        position: Option<Position>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        self.request(tag, channel, Some((position, sender)));
        async {
            // Fails when the thread ends.
            let _ = receiver.await;
        }
    }

    fn request(
        &self,
        tag: ChannelTag,
        channel: &str,
        waiting: Option<(Option<Position>, oneshot::Sender<()>)>,
    ) {
        let request = ChannelRequest {
            tag,
            channel: channel.into(),
            waiting,
        };
        let mut requests = lock(&self.requests);
        requests.push(request);
        let is_first = requests.len() == 1;
        drop(requests);
        if is_first {
            self.wake.notify_one();
        }
    }

    /// States that the publications of a channel come in.
    pub fn set_attached(&self, tag: ChannelTag) {
        let attached = self.attached.write();
        let mut attached = attached.unwrap_or_else(PoisonError::into_inner);
        attached.insert(tag, ());
    }

    /// States that they do not any more, unless the channel has subscribers; whether that is so.
    pub fn detach(&self, tag: ChannelTag, interests: &Interests) -> bool {
        let attached = self.attached.write();
        let mut attached = attached.unwrap_or_else(PoisonError::into_inner);
        // A shard adds its subscriber before it looks whether the channel is attached.
        let is_unwanted = interests.variants(tag) == 0;
        if is_unwanted {
            attached.remove(&tag);
        }
        is_unwanted
    }

    /// Ready when all that other nodes know of a user is here, or may not be for some time: whether the user
    /// may have one session more. If it is true, the session counts in Redis from now on; `recount` sets it
    /// right.
    pub fn arrive(&self, arrival: UserArrival) -> impl Future<Output = bool> + Send + use<> {
        let (admit, answer) = oneshot::channel();
        let mut users = lock(&self.users);
        users.waiting.push(WaitingUser {
            arrival,
            is_counted: false,
            looks: 0,
            admit,
        });
        let is_first = users.waiting.len() == 1;
        drop(users);
        if is_first {
            self.wake.notify_one();
        }
        // Without an answer there are no limits but those of this node.
        async { answer.await.unwrap_or(true) }
    }

    /// Tells the other nodes what has changed of a user.
    pub fn change_user(&self, user: NodeUser, change: UserChange) {
        let mut users = lock(&self.users);
        if users.changes.len() >= NODE_USER_CHANGES_MAX {
            drop(users);
            return self.counters.user_changes_dropped.add(1);
        }
        *users.changing.entry(user.clone()).or_default() += 1;
        users.changes.push_back((user, change));
        let is_first = users.changes.len() == 1;
        drop(users);
        if is_first {
            self.wake.notify_one();
        }
    }

    /// States that Redis is told again what has not changed.
    pub fn begin_user_change(&self, user: &NodeUser) {
        *lock(&self.users).changing.entry(user.clone()).or_default() += 1;
    }

    /// States that the sessions of a user or a tenant here are to be counted again.
    pub fn recount(&self, owner: CountedOwner) {
        lock(&self.users).counts.insert(owner);
    }

    /// The users who have arrived.
    #[must_use]
    pub fn take_waiting_users(&self, count_max: usize) -> Vec<WaitingUser> {
        let mut users = lock(&self.users);
        let count = users.waiting.len().min(count_max);
        users.waiting.drain(..count).collect()
    }

    /// The next changes of users, oldest first.
    #[must_use]
    pub fn take_user_changes(&self, count_max: usize) -> Vec<(NodeUser, UserChange)> {
        let mut users = lock(&self.users);
        let count = users.changes.len().min(count_max);
        users.changes.drain(..count).collect()
    }

    /// States that Redis has changes, or never will.
    pub fn end_user_changes(&self, changes: &[(NodeUser, UserChange)]) {
        let mut users = lock(&self.users);
        for (user, _) in changes {
            let Some(count) = users.changing.get_mut(user) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                users.changing.remove(user);
            }
        }
    }

    /// Whether something has changed of a user that Redis does not have yet.
    #[must_use]
    pub fn is_changing(&self, user: &NodeUser) -> bool {
        lock(&self.users).changing.contains_key(user)
    }

    /// Whether there are some, or some are to be counted.
    #[must_use]
    pub fn has_user_changes(&self) -> bool {
        let users = lock(&self.users);
        !users.changes.is_empty() || !users.counts.is_empty()
    }

    /// Puts changes back that Redis may not have.
    pub fn put_back_user_changes(&self, changes: Vec<(NodeUser, UserChange)>) {
        let mut users = lock(&self.users);
        for change in changes.into_iter().rev() {
            users.changes.push_front(change);
        }
    }

    /// Whose sessions are to be counted again.
    #[must_use]
    pub fn take_counts(&self) -> HashSet<CountedOwner> {
        std::mem::take(&mut lock(&self.users).counts)
    }

    /// Ready when there may be something to take.
    pub async fn wait(&self) {
        self.wake.notified().await;
    }

    /// The channels that are wanted.
    #[must_use]
    pub fn take_requests(&self) -> Vec<ChannelRequest> {
        std::mem::take(&mut *lock(&self.requests))
    }

    /// The next tasks, oldest first, of about so many bytes; they stay counted until `release`.
    #[must_use]
    pub fn take_tasks(&self, count_max: usize) -> Vec<Task> {
        let mut queue = lock(&self.queue);
        let count = queue.tasks.len().min(count_max);
        queue.tasks.drain(..count).collect()
    }

    /// States that publications of so many bytes need no room any more.
    pub fn release(&self, bytes: usize) {
        lock(&self.queue).bytes -= bytes;
    }

    /// Bytes of what waits and what is on its way.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        lock(&self.queue).bytes as u64
    }

    /// Takes nothing any more; the tasks that are left.
    #[must_use]
    pub fn close(&self) -> Vec<Task> {
        self.questions.close();
        let mut queue = lock(&self.queue);
        queue.is_closed = true;
        queue.tasks.drain(..).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(bytes: usize) -> Outgoing {
        Outgoing {
            tag: ChannelTag::from_bits(1),
            channel: "news".into(),
            envelope: vec![b'1'; bytes],
            history: None,
            retain: None,
            sent: None,
        }
    }

    #[test]
    fn a_full_queue_gives_back_and_what_is_on_its_way_counts_until_it_is_released() {
        let link = NodeLink::new(1, 1_000);
        assert!(link.send(outgoing(5_000)).is_ok(), "one goes alone");
        assert!(link.send(outgoing(1)).is_err());
        assert!(!link.has_room());
        let tasks = link.take_tasks(10);
        let [Task::Publish(1, first)] = &tasks[..] else {
            panic!("{tasks:?}");
        };
        assert!(link.send(outgoing(1)).is_err());
        link.release(first.bytes());
        assert_eq!(link.bytes(), 0);
        assert!(link.send(outgoing(1)).is_ok());
        assert_eq!(link.close().len(), 1);
        assert!(link.send(outgoing(1)).is_err());
    }

    #[test]
    fn a_channel_with_subscribers_stays_attached() {
        let link = NodeLink::new(1, 1_000);
        let interests = Interests::default();
        let tag = interests.tag("news");
        link.want(tag, "news");
        assert_eq!(link.take_requests().len(), 1);
        link.set_attached(tag);
        link.want(tag, "news");
        assert_eq!(link.take_requests().len(), 0);
        interests.set(tag, 0, 1);
        assert!(!link.detach(tag, &interests) && link.is_attached(tag));
        interests.set(tag, 0, 0);
        assert!(link.detach(tag, &interests) && !link.is_attached(tag));
    }
}

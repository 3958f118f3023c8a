//! Acknowledgements of publications that wait: until the publication is in the durable store, or with
//! the other nodes.

use super::Shard;
use crate::base::counters::MessageError;
use crate::base::{ConnectionId, Now};
use crate::broker::{Event, Rejection};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The number of a publication whose publisher waits.
pub(super) type Ticket = u64;

/// What another thread tells a shard.
struct Answers {
    /// Tickets, and whether the publication is where it was to be.
    list: Mutex<Vec<(Ticket, bool)>>,
    /// Whether the list has any, to be read without the lock.
    has_any: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Answers {
    fn push(&self, ticket: Ticket, is_done: bool) {
        // A panic of another thread leaves the list whole, here and below.
        let list = self.list.lock();
        let mut list = list.unwrap_or_else(PoisonError::into_inner);
        list.push((ticket, is_done));
        let is_first = list.len() == 1;
        // Release: pairs with the acquire in `take`.
        self.has_any.store(true, Ordering::Release);
        drop(list);
        if is_first {
            (self.wake)();
        }
    }

    fn take(&self) -> Vec<(Ticket, bool)> {
        // Acquire: pairs with the release in `push`.
        if !self.has_any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let list = self.list.lock();
        let mut list = list.unwrap_or_else(PoisonError::into_inner);
        self.has_any.store(false, Ordering::Release);
        std::mem::take(&mut *list)
    }
}

/// Who waits for acknowledgements on a shard.
pub(super) struct Acknowledgements {
    answers: Arc<Answers>,
    /// Publications whose publishers wait.
    count: Ticket,
    /// The ticket of the last publication, until somebody waits for it.
    last: Option<Ticket>,
    /// Who waits, and the channel.
    waiting: BTreeMap<Ticket, (ConnectionId, Box<str>)>,
}

impl fmt::Debug for Acknowledgements {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.len();
        write!(formatter, "Acknowledgements {{ waiting: {waiting} }}")
    }
}

impl Acknowledgements {
    /// `wake` is called on another thread when publishers are to be answered.
    pub(super) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        let answers = Answers {
            list: Mutex::default(),
            has_any: AtomicBool::new(false),
            wake: Box::new(wake),
        };
        Self {
            answers: Arc::new(answers),
            count: 0,
            last: None,
            waiting: BTreeMap::new(),
        }
    }

    /// A ticket for the next publication, if it is acknowledged later.
    pub(super) fn begin(&mut self, is_later: bool) -> Option<Ticket> {
        self.last = is_later.then(|| {
            self.count += 1;
            self.count
        });
        self.last
    }

    /// What is to be called, on any thread, when a publication is where it was to be, or is not.
    pub(super) fn completion(&self, ticket: Ticket) -> impl FnOnce(bool) + Send + 'static {
        let answers = Arc::clone(&self.answers);
        move |is_done| answers.push(ticket, is_done)
    }

    /// Whether the acknowledgement of what session `id` has just published waits.
    pub(super) fn is_held_back(&mut self, id: ConnectionId, event: &Event<'_>) -> bool {
        let Event::Published { channel } = event else {
            return false;
        };
        let Some(ticket) = self.last.take() else {
            return false;
        };
        self.waiting.insert(ticket, (id, (*channel).into()));
        true
    }

    /// The answers so far, or that nobody is to wait any longer.
    fn take_answers(&mut self, is_failing: bool) -> Vec<(Ticket, bool)> {
        let mut answers = self.answers.take();
        if is_failing {
            // It may be stored later; nobody waits for that.
            let waiting = self.waiting.keys();
            answers.extend(waiting.map(|ticket| (*ticket, false)));
        }
        answers
    }
}

impl Shard {
    /// Acknowledges publications when they are stored, or with the other nodes. `wake` is called on
    /// another thread when publishers are to be answered.
    pub fn acknowledge_with(&mut self, wake: impl Fn() + Send + Sync + 'static) {
        self.writer.acknowledgements = Some(Acknowledgements::new(wake));
    }

    /// Answers the publishers of what is stored, or with the other nodes, or cannot be.
    pub fn acknowledge(&mut self, now: Now) {
        let is_failing = self.writer.is_log_failing();
        let Some(acknowledgements) = &mut self.writer.acknowledgements else {
            return;
        };
        for (ticket, is_done) in acknowledgements.take_answers(is_failing) {
            let Some((id, channel)) = acknowledgements.waiting.remove(&ticket) else {
                continue;
            };
            let channel = &*channel;
            let event = match is_done {
                true => Event::Published { channel },
                false => Event::Error {
                    rejection: Rejection::NotStored,
                },
            };
            if !is_done {
                let errors = &self.connections.counters.message_errors;
                errors.of(MessageError::NotStored).add(1);
            }
            self.connections.reply(id, &event, now);
        }
    }
}

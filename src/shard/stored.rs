//! Publications on their way to the durable store, and acknowledgements that wait for it.

use super::Shard;
use super::publication_writer::Pieces;
use super::record;
use crate::base::counters::MessageError;
use crate::base::{ConnectionId, Now};
use crate::broker::{Event, Rejection};
use crate::journal::PublicationLog;
use crate::store::Completion;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The number of a publication whose publisher waits until it is stored.
pub(super) type Ticket = u64;

/// What the thread of the store tells a shard.
struct Answers {
    /// Tickets, and whether the publication is stored.
    list: Mutex<Vec<(Ticket, bool)>>,
    /// Whether the list has any, to be read without the lock.
    has_any: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Answers {
    fn push(&self, ticket: Ticket, is_stored: bool) {
        // A panic of another thread leaves the list whole, here and below.
        let list = self.list.lock();
        let mut list = list.unwrap_or_else(PoisonError::into_inner);
        list.push((ticket, is_stored));
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

/// The log of a shard's publications, and who waits for it.
pub(super) struct StoredPublications {
    log: PublicationLog,
    answers: Arc<Answers>,
    /// Publications whose publishers wait.
    count: Ticket,
    /// The ticket of the last publication, until somebody waits for it.
    last: Option<Ticket>,
    /// Who waits, and the channel.
    waiting: BTreeMap<Ticket, (ConnectionId, Box<str>)>,
}

impl fmt::Debug for StoredPublications {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.len();
        write!(formatter, "StoredPublications {{ waiting: {waiting} }}")
    }
}

impl StoredPublications {
    fn new(log: PublicationLog, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let answers = Answers {
            list: Mutex::default(),
            has_any: AtomicBool::new(false),
            wake: Box::new(wake),
        };
        Self {
            log,
            answers: Arc::new(answers),
            count: 0,
            last: None,
            waiting: BTreeMap::new(),
        }
    }

    /// A ticket for a publication that is to be stored, if it is acknowledged only then.
    pub(super) fn begin(&mut self, is_kept: bool) -> Option<Ticket> {
        self.last = (is_kept && self.log.acknowledges_stored()).then(|| {
            self.count += 1;
            self.count
        });
        self.last
    }

    /// Appends a publication that is in the ring.
    pub(super) fn append(&mut self, pieces: &Pieces, ticket: Option<Ticket>, now: Now) {
        let completion = ticket.map(|ticket| self.completion(ticket));
        let is_stored = log(&mut self.log, pieces, completion, now);
        if let Some(ticket) = ticket.filter(|_| !is_stored) {
            self.answers.push(ticket, false);
        }
    }

    fn completion(&self, ticket: Ticket) -> Completion {
        let answers = Arc::clone(&self.answers);
        Box::new(move |stored| answers.push(ticket, stored.is_ok()))
    }

    /// Hands over what was appended.
    pub(super) fn flush(&mut self) {
        self.log.flush();
    }
}

/// Appends a publication that is in the ring to a log, if its channel has a history; false = it is not
/// stored.
pub(super) fn log(
    log: &mut PublicationLog,
    pieces: &Pieces,
    completion: Option<Completion>,
    now: Now,
) -> bool {
    let parts = record::without_frames(&pieces.record);
    match (pieces.offset, parts) {
        (Some(offset), Some(parts)) => log.append((pieces.tag, offset), &parts, now, completion),
        _ => true,
    }
}

/// Whether the acknowledgement of what session `id` has just published waits until that is stored.
pub(super) fn is_held_back(
    stored: &mut Option<StoredPublications>,
    id: ConnectionId,
    event: &Event<'_>,
) -> bool {
    let (Some(stored), Event::Published { channel }) = (stored, event) else {
        return false;
    };
    let Some(ticket) = stored.last.take() else {
        return false;
    };
    stored.waiting.insert(ticket, (id, (*channel).into()));
    true
}

impl Shard {
    /// Appends what this shard publishes on channels with a history to a log. `wake` is called on another
    /// thread when publishers are to be answered.
    pub fn store_publications(
        &mut self,
        log: PublicationLog,
        wake: impl Fn() + Send + Sync + 'static,
    ) {
        self.writer.stored = Some(StoredPublications::new(log, wake));
    }

    /// Answers the publishers of what is stored now, or cannot be.
    pub fn acknowledge_stored(&mut self, now: Now) {
        let Some(stored) = &mut self.writer.stored else {
            return;
        };
        let mut answers = stored.answers.take();
        if stored.log.is_failing() {
            // It may be stored later; nobody waits for that.
            let waiting = stored.waiting.keys();
            answers.extend(waiting.map(|ticket| (*ticket, false)));
        }
        for (ticket, is_stored) in answers {
            let Some((id, channel)) = stored.waiting.remove(&ticket) else {
                continue;
            };
            let channel = &*channel;
            let event = match is_stored {
                true => Event::Published { channel },
                false => Event::Error {
                    rejection: Rejection::NotStored,
                },
            };
            if !is_stored {
                let errors = &self.connections.counters.message_errors;
                errors.of(MessageError::NotStored).add(1);
            }
            self.connections.reply(id, &event, now);
        }
    }
}

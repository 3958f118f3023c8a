//! Questions to the other nodes, and answers to theirs.
//!
//! A question is for all who are subscribed to the channel of the nodes: Redis says how many receive it, and so
//! many answers are awaited, for `redis_timeout`.

use super::Answerer;
use super::connection::{Failure, failure};
use super::deleting::delete;
use super::inquiry::{self, Notice};
use super::run::{Event, Runner};
use crate::base::limits::{
    NODE_ANSWER_BYTES_MAX, NODE_ANSWER_WAIT_MS, NODE_ANSWERS_BYTES_MAX, NODE_QUESTIONS_MAX,
};
use crate::base::{Answers, PendingQuestion};
use redis::{RedisError, Value};
use std::collections::{HashMap, VecDeque};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A question of this node that waits for answers.
struct Open {
    is_one_enough: bool,
    sender: oneshot::Sender<Answers>,
    /// By the nodes that have answered.
    answers: HashMap<u64, Vec<u8>>,
    /// Whether this node answers, too: what was deleted in Redis may be on its way to it.
    is_own_awaited: bool,
    /// How many answers are awaited, if that is known.
    count: Option<u64>,
    /// Whether there was no room for an answer.
    is_cut: bool,
    /// Until when it waits, monotonic milliseconds.
    until_ms: u64,
}

impl Open {
    fn bytes(&self) -> usize {
        self.answers.values().map(Vec::len).sum()
    }

    fn is_over(&self) -> bool {
        let is_enough = self.is_one_enough && self.answers.values().any(|text| !text.is_empty());
        let answered = self.answers.len() as u64;
        is_enough || self.count.is_some_and(|count| answered >= count)
    }
}

/// A question of another node.
struct Received {
    from: (u64, u64),
    deletions: u64,
    text: Vec<u8>,
    /// When it came, monotonic milliseconds.
    received_ms: u64,
}

/// Questions and answers on their way.
pub(super) struct Inquiries {
    answerer: Answerer,
    /// How many questions this node has asked.
    count: u64,
    open: HashMap<u64, Open>,
    /// Bytes of the answers to those.
    bytes: usize,
    received: VecDeque<Received>,
    /// How many are being answered.
    answering: usize,
    /// How many deletions in all histories this node knows of.
    deletions: Option<u64>,
}

impl Inquiries {
    pub(super) fn new(answerer: Answerer) -> Self {
        Self {
            answerer,
            count: 0,
            open: HashMap::new(),
            bytes: 0,
            received: VecDeque::new(),
            answering: 0,
            deletions: None,
        }
    }

    /// A deletion is carried out on this node. If it is not the next one, this node may have missed one, and
    /// reads its histories anew when it connects again.
    fn note_deletion(&mut self, number: u64) {
        if let Some(known) = &mut self.deletions
            && known.checked_add(1) == Some(number)
        {
            *known = number;
        }
    }

    /// The node is subscribed, and there were so many deletions before; whether it knows of all of them.
    fn knows_deletions(&mut self, count: u64) -> bool {
        self.deletions.replace(count) == Some(count)
    }

    /// Takes an answer; whether its question is over.
    fn take(&mut self, number: u64, node: u64, text: &[u8]) -> bool {
        let Some(open) = self.open.get_mut(&number) else {
            // It comes late.
            return false;
        };
        if open.answers.contains_key(&node) {
            return false;
        }
        let has_room = text.len() <= NODE_ANSWER_BYTES_MAX
            && self.bytes + text.len() <= NODE_ANSWERS_BYTES_MAX;
        let text = if has_room { text } else { &[] };
        open.is_cut |= !has_room;
        self.bytes += text.len();
        open.answers.insert(node, text.to_vec());
        open.is_over()
    }

    /// Whether a question of this node is for this node, too.
    fn awaits_own(&self, number: u64) -> bool {
        let open = self.open.get(&number);
        open.is_some_and(|open| open.is_own_awaited)
    }

    fn remove(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        self.bytes -= open.bytes();
        Some(open)
    }
}

impl Runner {
    pub(super) fn ask_and_answer(&mut self, now_ms: u64) {
        for pending in self.engine.link().questions.take() {
            self.begin_question(pending, now_ms);
        }
        let open = self.inquiries.open.iter();
        let late = open.filter(|(_, open)| now_ms >= open.until_ms);
        let late: Vec<_> = late.map(|(number, _)| *number).collect();
        for number in late {
            self.end_question(number);
        }
        self.answer_questions(now_ms);
    }

    /// Nobody answers any more, and nobody waits for an answer of this node.
    pub(super) fn end_questions(&mut self) {
        let numbers: Vec<_> = self.inquiries.open.keys().copied().collect();
        for number in numbers {
            self.end_question(number);
        }
        self.inquiries.received.clear();
        self.inquiries.answering = 0;
    }

    /// The node is subscribed to the channel of the nodes.
    pub(super) fn listening(&mut self, deletions: Option<u64>) {
        self.canary.is_listening = true;
        let Some(count) = deletions else {
            self.engine.link().counters.malformed.add(1);
            tracing::error!("the count of deletions in Redis is damaged: histories are read anew");
            self.inquiries.deletions = None;
            return self.engine.read_anew();
        };
        if !self.inquiries.knows_deletions(count) {
            self.engine.read_anew();
        }
    }

    fn begin_question(&mut self, pending: PendingQuestion, now_ms: u64) {
        self.engine.link().counters.questions.add(1);
        let has_room = self.inquiries.open.len() < NODE_QUESTIONS_MAX;
        let connection = self.connection();
        let Some(mut connection) = connection.filter(|_| self.canary.is_listening && has_room)
        else {
            // Who waits is told by the end of the sender.
            return self.engine.link().counters.unanswered.add(1);
        };
        let Some(deletion) = pending.question.deletion.clone() else {
            return self.put_question(pending, 0, now_ms);
        };
        let (ttl, wait) = (self.config.history_ttl, self.config.timeout);
        self.spawn(async move {
            let mut pending = Box::new(pending);
            if let Some(published) = pending.published.take() {
                // It fails when that is over, too.
                let _ = timeout(wait, published).await;
            }
            let deleted = delete(&mut connection, &deletion, ttl).await;
            Event::Deleted(pending, deleted)
        });
    }

    /// What was to be deleted before a question is: its number among the deletions in all histories.
    pub(super) fn deleted(
        &mut self,
        pending: PendingQuestion,
        deleted: Result<u64, RedisError>,
        now_ms: u64,
    ) {
        match deleted {
            Ok(number) => {
                self.inquiries.note_deletion(number);
                self.put_question(pending, number, now_ms);
            }
            Err(error) => {
                self.engine.link().counters.unanswered.add(1);
                match failure(&error) {
                    Failure::Rejected => tracing::error!(%error, "Redis does not delete a history"),
                    Failure::Later => self.lose(&error.to_string(), now_ms),
                }
            }
        }
    }

    fn put_question(&mut self, pending: PendingQuestion, deletions: u64, now_ms: u64) {
        let Some(mut connection) = self.connection() else {
            return;
        };
        let PendingQuestion {
            question, sender, ..
        } = pending;
        self.inquiries.count += 1;
        let number = self.inquiries.count;
        let from = (self.engine.link().node(), number);
        let message = inquiry::question(from, deletions, &question.text);
        let open = Open {
            is_one_enough: question.is_one_enough,
            is_own_awaited: question.deletion.is_some(),
            sender,
            answers: HashMap::new(),
            count: None,
            is_cut: false,
            until_ms: now_ms + u64::try_from(self.config.timeout.as_millis()).unwrap_or(u64::MAX),
        };
        self.inquiries.open.insert(number, open);
        let command = connection.names.publish(&self.canary_channel, &message);
        self.spawn(async move {
            match connection.run(vec![command]).await.pop() {
                Some(Ok(Value::Int(count))) => {
                    Event::Inquired(number, u64::try_from(count).unwrap_or(0))
                }
                Some(Err(error)) => Event::Failed(error),
                _ => Event::Inquired(number, 0),
            }
        });
    }

    /// So many nodes, this one included, have received a question.
    pub(super) fn inquired(&mut self, number: u64, count: u64, now_ms: u64) {
        self.peers.note(count, now_ms);
        if let Some(open) = self.inquiries.open.get_mut(&number) {
            let others = count.saturating_sub(1);
            open.count = Some(if open.is_own_awaited { count } else { others });
            if open.is_over() {
                self.end_question(number);
            }
        }
    }

    fn end_question(&mut self, number: u64) {
        let Some(open) = self.inquiries.remove(number) else {
            return;
        };
        let answered = open.answers.len() as u64;
        let is_answered = open.count.is_some_and(|count| answered >= count);
        let is_complete = is_answered && !open.is_cut && self.peers.are_complete();
        let texts = open.answers.into_values();
        let answers = Answers {
            texts: texts.filter(|text| !text.is_empty()).collect(),
            is_complete,
        };
        let is_enough = open.is_one_enough && !answers.texts.is_empty();
        if !is_complete && !is_enough {
            self.engine.link().counters.unanswered.add(1);
        }
        // Fails when nobody waits any more.
        let _ = open.sender.send(answers);
    }

    /// A message has come on the channel of the nodes.
    pub(super) fn take_notice(&mut self, bytes: &[u8], now_ms: u64) {
        let own = self.engine.link().node();
        match inquiry::read(bytes) {
            Some(Notice::Canary) => self.canary_returned(bytes),
            Some(Notice::Question {
                node,
                number,
                deletions,
                text,
            }) if node != own || self.inquiries.awaits_own(number) => {
                let received = &mut self.inquiries.received;
                if received.len() < NODE_QUESTIONS_MAX {
                    received.push_back(Received {
                        from: (node, number),
                        deletions,
                        text: text.to_vec(),
                        received_ms: now_ms,
                    });
                }
            }
            Some(Notice::Answer {
                node,
                to: (asker, number),
                text,
            }) if asker == own => {
                if self.inquiries.take(number, node, text) {
                    self.end_question(number);
                }
            }
            // Of this node, or for another one.
            Some(_) => {}
            None => self.engine.link().counters.malformed.add(1),
        }
    }

    /// Answers questions, when what came before them is delivered or they have waited for long.
    fn answer_questions(&mut self, now_ms: u64) {
        let is_calm = self.engine.is_calm() && !self.is_reading;
        while let Some(first) = self.inquiries.received.front()
            && (is_calm || now_ms >= first.received_ms + NODE_ANSWER_WAIT_MS)
            && self.inquiries.answering < NODE_QUESTIONS_MAX
            && let Some(connection) = self.connection()
            && let Some(question) = self.inquiries.received.pop_front()
        {
            self.answer_question(question, connection);
        }
    }

    fn answer_question(
        &mut self,
        question: Received,
        mut connection: super::connection::Connection,
    ) {
        self.inquiries.answering += 1;
        let answer = (self.inquiries.answerer)(question.text);
        let (own, wait) = (self.engine.link().node(), self.config.timeout);
        let channel = self.canary_channel.clone();
        self.spawn(async move {
            let deletions = question.deletions;
            let text = match timeout(wait, answer).await {
                Ok(Some(text)) if text.len() <= NODE_ANSWER_BYTES_MAX => text,
                Ok(Some(_)) | Err(_) => return Event::Answered(None),
                Ok(None) => return Event::Unreadable,
            };
            let message = inquiry::answer(own, question.from, &text);
            let command = connection.names.publish(&channel, &message);
            match connection.run(vec![command]).await.pop() {
                Some(Err(error)) => Event::Failed(error),
                _ => Event::Answered(Some(deletions)),
            }
        });
    }

    /// A question of another node is answered, or not; one about deletions is carried out then.
    pub(super) fn answered(&mut self, deletions: Option<u64>) {
        self.inquiries.answering -= 1;
        if let Some(number) = deletions {
            self.inquiries.note_deletion(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inquiries(is_one_enough: bool, count: Option<u64>) -> Inquiries {
        let mut inquiries = Inquiries::new(Box::new(|_| Box::pin(async { None })));
        let open = Open {
            is_one_enough,
            is_own_awaited: false,
            sender: oneshot::channel().0,
            answers: HashMap::new(),
            count,
            is_cut: false,
            until_ms: 0,
        };
        inquiries.open.insert(7, open);
        inquiries
    }

    #[test]
    fn a_question_is_over_when_each_node_has_answered_once() {
        let mut all = inquiries(false, Some(2));
        assert!(!all.take(8, 1, b"x"), "of another question");
        assert!(!all.take(7, 1, b"x") && !all.take(7, 1, b"yy"));
        assert_eq!(all.bytes, 1);
        assert!(all.take(7, 2, b""));
        assert!(all.remove(7).is_some() && all.bytes == 0);
        assert!(!all.take(7, 3, b"late"));
        let mut one = inquiries(true, None);
        assert!(!one.take(7, 1, b"") && one.take(7, 2, b"x"));
    }

    #[test]
    fn answers_without_room_are_left_out() {
        let mut some = inquiries(false, Some(2));
        let long = vec![b'1'; NODE_ANSWER_BYTES_MAX + 1];
        assert!(!some.take(7, 1, &long));
        some.bytes = NODE_ANSWERS_BYTES_MAX;
        assert!(some.take(7, 2, b"x"));
        let open = &some.open[&7];
        assert!(open.is_cut && open.bytes() == 0);
    }

    #[test]
    fn a_node_knows_whether_it_has_missed_a_deletion() {
        let mut some = inquiries(false, None);
        assert!(!some.knows_deletions(4), "it knows of none yet");
        some.note_deletion(5);
        assert!(some.knows_deletions(5));
        some.note_deletion(7);
        assert!(!some.knows_deletions(7));
        assert!(!some.knows_deletions(0), "Redis has forgotten them");
        assert!(!some.knows_deletions(u64::MAX));
        some.note_deletion(0);
        assert!(some.knows_deletions(u64::MAX), "there is no next one");
    }
}

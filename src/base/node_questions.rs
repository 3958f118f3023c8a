//! What this node asks all others, and what is to be deleted in Redis before they are asked.
//!
//! What questions and answers say is known to those who ask and answer only; here they are texts.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

use super::limits::NODE_QUESTIONS_MAX;

/// Names publications by the full names of their channels and their envelopes.
pub type IsIt = Arc<dyn Fn(&str, &[u8]) -> bool + Send + Sync>;

/// What is to be deleted in Redis.
#[derive(Clone)]
pub enum NodeDeletion {
    /// The history of a channel, by its full name.
    Channel {
        /// The name.
        name: Box<str>,
        /// How long its publications are kept, milliseconds.
        age_ms: u64,
    },
    /// In all histories, the publications that it names.
    Where(IsIt),
}

impl fmt::Debug for NodeDeletion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel { name, .. } => write!(formatter, "Channel {{ {name} }}"),
            Self::Where(_) => formatter.write_str("Where"),
        }
    }
}

/// A question to all other nodes.
#[derive(Debug)]
pub struct Question {
    /// What is asked.
    pub text: Vec<u8>,
    /// What is deleted before.
    pub deletion: Option<NodeDeletion>,
    /// Whether one answer that says something is enough.
    pub is_one_enough: bool,
}

/// What the other nodes have answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// What each says; nodes that have nothing to say are left out.
    pub texts: Vec<Vec<u8>>,
    /// Whether all nodes have answered, and what was to be deleted is.
    pub is_complete: bool,
}

/// A question on its way.
#[derive(Debug)]
pub struct PendingQuestion {
    /// The question.
    pub question: Question,
    /// Ready when all that was published before is sent.
    pub published: Option<oneshot::Receiver<()>>,
    /// Who waits for the answers.
    pub sender: oneshot::Sender<Answers>,
}

/// The questions that the thread of Redis is to take: at most [`NODE_QUESTIONS_MAX`], more are answered at
/// once as if nobody else was there.
#[derive(Debug, Default)]
pub struct NodeQuestions(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    questions: Vec<PendingQuestion>,
    /// Nobody takes anything any more.
    is_closed: bool,
}

impl NodeQuestions {
    /// Adds a question; whether it is the only one. The sender of one that has no room is dropped.
    pub(super) fn add(&self, question: PendingQuestion) -> bool {
        let mut pending = self.lock();
        if pending.is_closed || pending.questions.len() >= NODE_QUESTIONS_MAX {
            return false;
        }
        pending.questions.push(question);
        pending.questions.len() == 1
    }

    /// Takes all.
    #[must_use]
    pub fn take(&self) -> Vec<PendingQuestion> {
        std::mem::take(&mut self.lock().questions)
    }

    /// Takes nothing any more.
    pub(super) fn close(&self) {
        let mut pending = self.lock();
        pending.is_closed = true;
        pending.questions.clear();
    }

    /// The list is whole after every operation.
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending() -> (PendingQuestion, oneshot::Receiver<Answers>) {
        let (sender, receiver) = oneshot::channel();
        let question = Question {
            text: Vec::new(),
            deletion: None,
            is_one_enough: false,
        };
        let pending = PendingQuestion {
            question,
            published: None,
            sender,
        };
        (pending, receiver)
    }

    #[test]
    fn questions_without_room_and_those_after_the_end_are_dropped() {
        let questions = NodeQuestions::default();
        let add = || {
            let (pending, mut receiver) = pending();
            questions.add(pending);
            receiver.try_recv() == Err(oneshot::error::TryRecvError::Closed)
        };
        assert!((0..NODE_QUESTIONS_MAX).all(|_| !add()));
        assert!(add(), "there is no room");
        assert_eq!(questions.take().len(), NODE_QUESTIONS_MAX);
        assert!(!add());
        questions.close();
        assert!(add() && questions.take().is_empty());
    }
}

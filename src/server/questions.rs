//! Questions of the embedding program about the sessions and channels of all shards.
//!
//! A shard answers from its event loop. While one of its handlers asks and waits, the shard answers
//! from that wait, so that handlers on several shards may ask each other at the same time.

use crate::base::Now;
use crate::base::now::Clock;
use crate::broker::{Broker, with_current};
use crossbeam_channel::{Receiver, Sender, after, select, unbounded};
use std::cell::RefCell;
use std::time::Duration;

/// How long a handler waits for the answers of other shards. A shard that is held up longer is left
/// out, or it would hold up the handler's shard too.
const HANDLER_WAIT: Duration = Duration::from_secs(1);

/// A question, with the channel for its answer.
pub(super) type Question = Box<dyn FnOnce(&Broker, Now) + Send>;

thread_local! {
    /// The questions for the shard of this thread.
    static OF_THIS_SHARD: RefCell<Option<Receiver<Question>>> = const { RefCell::new(None) };
}

/// Makes the calling thread the shard that answers these questions.
pub(super) fn become_shard(questions: Receiver<Question>) {
    OF_THIS_SHARD.set(Some(questions));
}

fn of_this_shard() -> Option<Receiver<Question>> {
    OF_THIS_SHARD.with_borrow(Clone::clone)
}

/// Whether the calling thread is a shard, which must not wait for a change that a shard makes.
pub(super) fn is_shard() -> bool {
    of_this_shard().is_some()
}

/// Answers the questions that have arrived for the shard of this thread.
pub(super) fn answer_all(broker: &Broker, now: Now) {
    if let Some(questions) = of_this_shard() {
        questions
            .try_iter()
            .for_each(|question| question(broker, now));
    }
}

/// Puts a question to the shards that `put` sends it to, and returns their answers in no particular
/// order; none from a shard that has stopped. On the thread of a shard it waits for at most
/// [`HANDLER_WAIT`].
pub(super) fn ask<T: Send + 'static>(
    clock: &Clock,
    ask: impl Fn(&Broker, Now) -> T + Clone + Send + 'static,
    put: impl FnOnce(&dyn Fn(&Sender<Question>)),
) -> Vec<T> {
    let (answer_sender, answers) = unbounded();
    put(&|questions| {
        let (ask, answer_sender) = (ask.clone(), answer_sender.clone());
        // Fails only when the shard has stopped, and the answer when nobody waits for it.
        let _ = questions.send(Box::new(move |broker, now| {
            let _ = answer_sender.send(ask(broker, now));
        }));
    });
    drop(answer_sender);
    match of_this_shard() {
        None => answers.iter().collect(),
        Some(questions) => wait_and_answer(clock, &answers, &questions),
    }
}

fn wait_and_answer<T>(
    clock: &Clock,
    answers: &Receiver<T>,
    questions: &Receiver<Question>,
) -> Vec<T> {
    let mut received = Vec::new();
    let deadline = after(HANDLER_WAIT);
    loop {
        select! {
            recv(answers) -> answer => match answer {
                Ok(answer) => received.push(answer),
                Err(_) => return received,
            },
            recv(questions) -> question => {
                let answered = question.ok().and_then(|question| {
                    with_current(|broker| question(broker, clock.now()))
                });
                if answered.is_none() {
                    tracing::warn!("a question about a shard was asked outside its handlers");
                }
            }
            recv(deadline) -> _ => {
                tracing::warn!("a handler's question was not answered by all shards in time");
                return received;
            }
        }
    }
}

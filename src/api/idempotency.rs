//! Answers to requests with an `Idempotency-Key`, for callers that do not know whether the first
//! attempt arrived (draft-ietf-httpapi-idempotency-key-header).

use super::answer::{Answer, Rejected, respond};
use crate::base::NameKey;
use crate::base::limits::{IDEMPOTENCY_BYTES_MAX, IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_MS};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The answers of the last ten minutes, over all shards.
#[derive(Debug, Default)]
pub struct Idempotency {
    /// Secret, so that nobody can choose keys that collide with those of others.
    name_key: NameKey,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<u64, Entry>,
    /// The keys by their age.
    order: VecDeque<(u64, u64)>,
    /// Of the bodies of answers.
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    body_hash: u64,
    /// `None` while the first request is being carried out.
    answer: Option<(StatusCode, Bytes)>,
    /// Monotonic milliseconds.
    began_ms: u64,
}

/// A request with a key.
#[derive(Debug)]
pub(super) enum Begun<'a> {
    First(Attempt<'a>),
    /// It has this answer already.
    Repeated(Answer),
}

/// The first request with a key. What is dropped without an answer counts as if it had not come.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    idempotency: &'a Idempotency,
    hash: u64,
}

impl Idempotency {
    /// Begins a request with this key; the caller and the path are part of it.
    ///
    /// # Errors
    /// When the first request is still being carried out (409), or had another body (422).
    pub(super) fn begin(&self, key: &str, body: &[u8], now_ms: u64) -> Result<Begun<'_>, Rejected> {
        let hash = self.name_key.hash(key);
        let body_hash = self.name_key.hash_bytes(body);
        let mut table = self.lock();
        table.remove_excess(now_ms);
        match table.entries.get(&hash) {
            Some(entry) if entry.body_hash != body_hash => Err(Rejected::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "the idempotency key was used with another body",
            )),
            Some(Entry {
                answer: Some((status, body)),
                ..
            }) => {
                let answer = respond(*status, "application/json", body.clone());
                Ok(Begun::Repeated(answer))
            }
            Some(_) => Err(Rejected::new(
                StatusCode::CONFLICT,
                "a request with this idempotency key is being carried out",
            )),
            None => {
                let entry = Entry {
                    body_hash,
                    answer: None,
                    began_ms: now_ms,
                };
                table.entries.insert(hash, entry);
                table.order.push_back((hash, now_ms));
                Ok(Begun::First(Attempt {
                    idempotency: self,
                    hash,
                }))
            }
        }
    }

    /// What is behind the lock is whole after every operation.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Removes what is too old, and the oldest while there are too many.
    fn remove_excess(&mut self, now_ms: u64) {
        while let Some((hash, began_ms)) = self.order.front().copied() {
            let is_old = now_ms.saturating_sub(began_ms) >= IDEMPOTENCY_MS;
            let is_over =
                self.order.len() > IDEMPOTENCY_KEYS_MAX || self.bytes > IDEMPOTENCY_BYTES_MAX;
            if !is_old && !is_over {
                return;
            }
            self.order.pop_front();
            // The key may have been used again after a failure.
            let is_its = |entry: &Entry| entry.began_ms == began_ms;
            if self.entries.get(&hash).is_some_and(is_its) {
                self.remove(hash);
            }
        }
    }

    fn remove(&mut self, hash: u64) {
        let removed = self.entries.remove(&hash);
        let body = removed.and_then(|entry| entry.answer);
        self.bytes -= body.map_or(0, |(_, body)| body.len());
    }
}

impl Attempt<'_> {
    /// Keeps the answer, unless a repetition may have another one.
    pub(super) async fn finish(self, answer: Answer) -> Answer {
        let status = answer.status();
        if status.is_server_error() {
            return answer;
        }
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        let body = body.unwrap_or_default();
        let mut table = self.idempotency.lock();
        if let Some(entry) = table.entries.get_mut(&self.hash) {
            entry.answer = Some((status, body.clone()));
            table.bytes += body.len();
        }
        drop(table);
        Answer::from_parts(head, body.into())
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut table = self.idempotency.lock();
        let entry = table.entries.get(&self.hash);
        if entry.is_some_and(|entry| entry.answer.is_none()) {
            table.remove(self.hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::json;
    use super::*;
    use futures_lite::future::block_on;

    fn first<'a>(idempotency: &'a Idempotency, key: &str, now_ms: u64) -> Attempt<'a> {
        match idempotency.begin(key, b"1", now_ms) {
            Ok(Begun::First(attempt)) => attempt,
            other => panic!("{other:?}"),
        }
    }

    /// The status of the answer to a further request; `None` if it would be carried out.
    fn status(idempotency: &Idempotency, body: &[u8], now_ms: u64) -> Option<u16> {
        match idempotency.begin("k", body, now_ms) {
            Ok(Begun::First(_)) => None,
            Ok(Begun::Repeated(answer)) => Some(answer.status().as_u16()),
            Err(rejected) => Some(rejected.status.as_u16()),
        }
    }

    #[test]
    fn a_request_is_carried_out_once_until_it_is_forgotten() {
        let idempotency = Idempotency::default();
        let attempt = first(&idempotency, "k", 0);
        assert_eq!(status(&idempotency, b"1", 0), Some(409));
        block_on(attempt.finish(json(&"done")));
        assert_eq!(status(&idempotency, b"1", 1), Some(200));
        assert_eq!(status(&idempotency, b"2", 1), Some(422));
        assert_eq!(idempotency.lock().bytes, 7);
        assert_eq!(status(&idempotency, b"2", IDEMPOTENCY_MS), None);
        assert_eq!(idempotency.lock().bytes, 0);
    }

    #[test]
    fn a_request_that_failed_or_was_given_up_is_carried_out_again() {
        let idempotency = Idempotency::default();
        drop(first(&idempotency, "k", 0));
        let attempt = first(&idempotency, "k", 1);
        let failed = Rejected::new(StatusCode::SERVICE_UNAVAILABLE, "full");
        block_on(attempt.finish(failed.answer()));
        drop(first(&idempotency, "k", 2));
        assert_eq!(idempotency.lock().entries.len(), 0);
    }

    #[test]
    fn many_keys_cost_a_bounded_memory() {
        let idempotency = Idempotency::default();
        for number in 0..IDEMPOTENCY_KEYS_MAX as u64 + 100 {
            let attempt = first(&idempotency, &number.to_string(), 1);
            block_on(attempt.finish(json(&"done")));
        }
        let table = idempotency.lock();
        assert!(table.entries.len() <= IDEMPOTENCY_KEYS_MAX + 1);
        assert!(!table.entries.contains_key(&idempotency.name_key.hash("0")));
    }
}

//! Asks the backend of the operator whose a token is.

use super::backend::{Backend, BackendConfig};
use crate::auth::{Identity, Name, Names, Revocations, attribute};
use crate::base::counters::TokenError;
use crate::shard::UnknownToken;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// Answers that are remembered.
const CACHE_ENTRIES_MAX: usize = 10_000;

/// The outcome of a question: an identity, a rejection, or nothing that can be relied on.
type Outcome = Result<Identity, TokenError>;
type Cell = Arc<OnceCell<Option<Outcome>>>;

/// Asks the callback, once for each token at a time, and remembers its answers.
#[derive(Debug)]
pub struct AuthCallback {
    backend: Backend,
    /// Time for which an answer is used again.
    cache_time: Duration,
    hashers: [RandomState; 2],
    /// After a revocation no earlier answer is used.
    revocations: Arc<Revocations>,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    /// The count of revocations when it was last empty.
    revocation_count: u64,
    /// By two keyed hashes of the token, so that no token stays in memory.
    entries: HashMap<[u64; 2], (Instant, Cell)>,
}

#[derive(Serialize)]
struct Body<'a> {
    token: &'a str,
    dialect: &'a str,
    address: String,
}

#[derive(Deserialize)]
struct Claims {
    user: Name,
    tenant: Option<Name>,
    roles: Option<Names>,
    permissions: Option<Names>,
    attributes: Option<BTreeMap<Box<str>, serde_json::Value>>,
    expires_at: Option<u64>,
}

impl AuthCallback {
    /// A callback that has not been asked yet, whose answers are used again for `cache_time`.
    ///
    /// # Errors
    /// When the URL is an https URL and the host has no certificates to trust.
    pub fn new(
        config: BackendConfig,
        cache_time: Duration,
        revocations: Arc<Revocations>,
    ) -> io::Result<Self> {
        Ok(Self {
            backend: Backend::new(config)?,
            cache_time,
            hashers: [RandomState::new(), RandomState::new()],
            revocations,
            cache: Mutex::default(),
        })
    }

    /// Whose the token is.
    ///
    /// # Errors
    /// [`TokenError::Callback`] when the callback rejects it, [`TokenError::Unanswered`] when it cannot
    /// be relied on.
    pub async fn ask(&self, token: UnknownToken) -> Result<Identity, TokenError> {
        let cell = self.cell(&token);
        let answered =
            cell.get_or_init(|| self.backend.ask(body(&token), token.trace, identity_of));
        let outcome = answered.await.clone();
        if outcome.is_none() {
            // The next one asks again.
            self.release(&token, &cell);
        }
        outcome.unwrap_or(Err(TokenError::Unanswered))
    }

    fn key(&self, token: &UnknownToken) -> [u64; 2] {
        // An answer may depend on all that the callback is told.
        let question = (&token.token, token.dialect.index(), token.peer.ip());
        self.hashers
            .each_ref()
            .map(|hasher| hasher.hash_one(question))
    }

    /// The question about this token that is asked already or answered, else a new one.
    fn cell(&self, token: &UnknownToken) -> Cell {
        let now = Instant::now();
        let key = self.key(token);
        let mut cache = self.cache();
        let revocation_count = self.revocations.count();
        if cache.revocation_count != revocation_count {
            cache.revocation_count = revocation_count;
            cache.entries.clear();
        }
        let is_fresh = |since: &Instant, cell: &Cell| {
            !cell.initialized() || now.duration_since(*since) < self.cache_time
        };
        if let Some((since, cell)) = cache.entries.get(&key)
            && is_fresh(since, cell)
        {
            return Arc::clone(cell);
        }
        if cache.entries.len() >= CACHE_ENTRIES_MAX {
            cache
                .entries
                .retain(|_, (since, cell)| is_fresh(since, cell));
        }
        let cell = Cell::default();
        if cache.entries.len() < CACHE_ENTRIES_MAX {
            cache.entries.insert(key, (now, Arc::clone(&cell)));
        }
        cell
    }

    fn release(&self, token: &UnknownToken, cell: &Cell) {
        let key = self.key(token);
        let mut cache = self.cache();
        if cache
            .entries
            .get(&key)
            .is_some_and(|(_, other)| Arc::ptr_eq(other, cell))
        {
            cache.entries.remove(&key);
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn body(token: &UnknownToken) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Body {
        token: &token.token,
        dialect: token.dialect.name(),
        address: token.peer.ip().to_canonical().to_string(),
    })
}

/// Whose a token is, by the answer about it.
fn identity_of(status: StatusCode, answer: &[u8]) -> Result<Outcome, String> {
    if status != StatusCode::OK {
        return Ok(Err(TokenError::Callback));
    }
    let claims: Claims = serde_json::from_slice(answer)
        .map_err(|error| format!("the answer is no identity: {error}"))?;
    let mut identity = Identity::new(&claims.user.into_text());
    identity.tenant = claims.tenant.map(Name::into_text);
    identity.roles = claims.roles.map(Names::into_vec).unwrap_or_default();
    identity.permissions = claims.permissions.map(Names::into_vec).unwrap_or_default();
    let attributes = claims.attributes.unwrap_or_default().into_iter();
    identity.attributes = attributes
        .filter_map(|(name, value)| Some((name, attribute(value)?)))
        .collect();
    identity.expires_unix_s = claims.expires_at.unwrap_or(u64::MAX);
    if !identity.is_valid() {
        return Err(
            "a name of the identity is empty, too long, or has control characters, or it has too \
             many attributes"
                .into(),
        );
    }
    Ok(Ok(identity))
}

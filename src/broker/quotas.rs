//! Quotas of sessions and messages per address, user or tenant, over all shards.

use super::rate::RateState;
use crate::base::interest::is_mostly_empty;
use crate::base::{DialectId, Now};
use crate::config::RateLimit;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks of the table: a shard holds one for some tens of nanoseconds, and contention is rare.
const STRIPES: usize = 64;
/// How long the rate limit state of a user without sessions is kept, milliseconds. Without it a
/// client could reset its rate limit by reconnecting.
const IDLE_RETENTION_MS: u64 = 300_000;

/// Whose sessions are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Ip,
    User,
    Tenant,
}

/// The counts of the process. A session is counted only where its dialect sets a limit, or
/// announces a user's first and last session.
#[derive(Debug)]
pub struct Quotas {
    stripes: [Mutex<Stripe>; STRIPES],
    hasher: RandomState,
}

type Stripe = HashMap<Box<str>, Usage>;

#[derive(Debug, Default)]
struct Usage {
    sessions: u32,
    rate: RateState,
    /// When the last session ended, monotonic milliseconds.
    left_ms: u64,
}

/// The limit of sessions is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QuotaFull;

impl Default for Quotas {
    fn default() -> Self {
        Self {
            stripes: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }
}

impl Quotas {
    fn stripe(&self, key: &str) -> MutexGuard<'_, Stripe> {
        let index = self.hasher.hash_one(key) % STRIPES as u64;
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of 64")]
        let stripe = &self.stripes[index as usize];
        // A shard that panics ends the process; the table is consistent all the same.
        stripe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a session and returns how many there are now; `sessions_max` 0 = no limit.
    pub(super) fn acquire(
        &self,
        (dialect, scope): (DialectId, Scope),
        name: &str,
        sessions_max: u32,
    ) -> Result<u32, QuotaFull> {
        let key = key(dialect, scope, name);
        let mut stripe = self.stripe(&key);
        let usage = stripe.entry(key.into()).or_default();
        if sessions_max != 0 && usage.sessions >= sessions_max {
            return Err(QuotaFull);
        }
        usage.sessions += 1;
        Ok(usage.sessions)
    }

    /// Removes a session from the count and returns how many are left.
    pub(super) fn release(
        &self,
        (dialect, scope): (DialectId, Scope),
        name: &str,
        now: Now,
    ) -> u32 {
        let key = key(dialect, scope, name);
        let mut stripe = self.stripe(&key);
        let Some(usage) = stripe.get_mut(&*key) else {
            return 0;
        };
        usage.sessions = usage.sessions.saturating_sub(1);
        usage.left_ms = now.monotonic_ms;
        let left = usage.sessions;
        if left == 0 && usage.rate.is_unused() {
            stripe.remove(&*key);
        }
        left
    }

    /// How many sessions are counted.
    pub(super) fn sessions(&self, (dialect, scope): (DialectId, Scope), name: &str) -> u32 {
        let key = key(dialect, scope, name);
        let stripe = self.stripe(&key);
        stripe.get(&*key).map_or(0, |usage| usage.sessions)
    }

    /// Counts a connection before authentication and returns how many its address has now.
    pub fn add_unauthenticated(&self, address: IpAddr) -> u32 {
        let key = unauthenticated_key(address);
        let mut stripe = self.stripe(&key);
        let usage = stripe.entry(key.into()).or_default();
        usage.sessions += 1;
        usage.sessions
    }

    /// Removes a connection before authentication from the count.
    pub fn remove_unauthenticated(&self, address: IpAddr) {
        let key = unauthenticated_key(address);
        let mut stripe = self.stripe(&key);
        if let Some(usage) = stripe.get_mut(&*key) {
            usage.sessions = usage.sessions.saturating_sub(1);
            if usage.sessions == 0 {
                stripe.remove(&*key);
            }
        }
    }

    /// Counts a message of a user; false when it exceeds the rate limit.
    pub(super) fn allows(
        &self,
        dialect: DialectId,
        user: &str,
        limit: RateLimit,
        now: Now,
    ) -> bool {
        let key = key(dialect, Scope::User, user);
        let mut stripe = self.stripe(&key);
        // A user without an entry, such as one whose entry was swept, gets a new one.
        let usage = stripe.entry(key.into()).or_default();
        usage.rate.allows(limit, now.monotonic_ms)
    }

    /// How many messages of its rate limit a user has used.
    pub(super) fn used(&self, dialect: DialectId, user: &str, limit: RateLimit, now: Now) -> u32 {
        let key = key(dialect, Scope::User, user);
        let stripe = self.stripe(&key);
        let usage = stripe.get(&*key);
        usage.map_or(0, |usage| usage.rate.used(limit, now.monotonic_ms))
    }

    /// Removes the entries of users that left long ago; returns how many entries remain.
    pub fn sweep(&self, now: Now) -> usize {
        let mut left = 0;
        for stripe in &self.stripes {
            let mut stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            stripe.retain(|_, usage| {
                usage.sessions > 0 || usage.left_ms + IDLE_RETENTION_MS > now.monotonic_ms
            });
            if is_mostly_empty(stripe.len(), stripe.capacity()) {
                stripe.shrink_to_fit();
            }
            left += stripe.len();
        }
        left
    }
}

fn key(dialect: DialectId, scope: Scope, name: &str) -> String {
    let scope = match scope {
        Scope::Ip => 'i',
        Scope::User => 'u',
        Scope::Tenant => 't',
    };
    format!("{}{scope}{name}", dialect.index())
}

/// The key of an address before a dialect is known.
fn unauthenticated_key(address: IpAddr) -> String {
    format!("-i{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: (DialectId, Scope) = (DialectId::Assist, Scope::User);

    #[test]
    fn places_are_limited_and_come_back() {
        let quotas = Quotas::default();
        assert_eq!(quotas.acquire(USER, "ann", 2), Ok(1));
        assert_eq!(quotas.acquire(USER, "ann", 2), Ok(2));
        assert_eq!(quotas.acquire(USER, "ann", 2), Err(QuotaFull));
        assert_eq!(
            quotas.acquire((DialectId::Assist, Scope::Tenant), "ann", 2),
            Ok(1)
        );
        assert_eq!(quotas.release(USER, "ann", Now::at(0, 0)), 1);
        assert_eq!(quotas.acquire(USER, "ann", 2), Ok(2));
    }

    #[test]
    fn a_new_connection_gives_no_new_allowance_until_the_user_was_away_for_long() {
        let quotas = Quotas::default();
        let limit = RateLimit::Window {
            messages: 1,
            window_ms: 3_600_000,
        };
        let allows = |at_ms| quotas.allows(DialectId::Assist, "ann", limit, Now::at(at_ms, 0));
        quotas.acquire(USER, "ann", 0).unwrap();
        assert!(allows(0) && !allows(1));
        quotas.release(USER, "ann", Now::at(2, 0));
        assert_eq!(quotas.sweep(Now::at(IDLE_RETENTION_MS, 0)), 1);
        assert!(!allows(IDLE_RETENTION_MS));
        assert_eq!(quotas.sweep(Now::at(IDLE_RETENTION_MS + 2, 0)), 0);
        assert!(allows(IDLE_RETENTION_MS + 3));
    }
}

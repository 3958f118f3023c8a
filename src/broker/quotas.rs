//! Quotas of sessions and messages per address, user or tenant, over all shards.
//!
//! A session holds a share of each quota that it counts in, from its admission to its end. Only then
//! is a table locked; a message counts through the share.

use super::known_tokens::KnownTokens;
use super::rate::SharedRateState;
use crate::base::interest::is_mostly_empty;
use crate::base::{CountedOwner, DialectId, NodeUser, Now};
use crate::config::RateLimit;
use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks of the table: a shard holds one for some tens of nanoseconds, and contention is rare.
const STRIPES: usize = 64;
/// How long the state of a rate limit without sessions is kept at most, milliseconds. Without it a
/// client could reset its rate limit by reconnecting.
const IDLE_RETENTION_MS: u64 = 300_000;

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// Sessions of a dialect from one address or network.
    Address(DialectId, IpAddr),
    /// Connections before authentication from one address or network.
    Unauthenticated(IpAddr),
    /// Handshakes from one address or network.
    Handshakes(IpAddr),
    /// Tokens from one address or network that prove nothing.
    AuthFailures(IpAddr),
    /// Sessions of a dialect of one user.
    User(DialectId, Box<str>),
    /// Sessions of a dialect of one tenant.
    Tenant(DialectId, Box<str>),
}

/// Whose sessions are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    /// As [`network_of`](crate::base::network_of) returns it.
    Address(IpAddr),
    User(&'a str),
    Tenant(&'a str),
}

/// The counts of the process. A session is counted only where its dialect sets a limit.
#[derive(Debug)]
pub struct Quotas {
    stripes: [Mutex<Stripe>; STRIPES],
    hasher: RandomState,
    known_tokens: KnownTokens,
}

type Stripe = HashMap<Key, Arc<Usage>>;

/// All accesses to its fields are relaxed: no other data is published through them.
#[derive(Debug, Default)]
struct Usage {
    /// Changed under the lock of the stripe only, so that no entry in use is removed.
    sessions: AtomicU32,
    rate: SharedRateState,
    /// Until when the entry is kept without sessions, monotonic milliseconds.
    keep_until_ms: AtomicU64,
}

/// The part of one session in the quota of its address, its user or its tenant. It is given back
/// with [`Quotas::release`].
#[derive(Debug)]
pub(super) struct Share {
    key: Key,
    usage: Arc<Usage>,
}

/// The limit of sessions is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QuotaFull;

impl Default for Quotas {
    fn default() -> Self {
        Self {
            stripes: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            known_tokens: KnownTokens::default(),
        }
    }
}

impl Key {
    fn of(dialect: DialectId, owner: Owner<'_>) -> Self {
        match owner {
            Owner::Address(address) => Self::Address(dialect, address),
            Owner::User(name) => Self::User(dialect, name.into()),
            Owner::Tenant(name) => Self::Tenant(dialect, name.into()),
        }
    }
}

impl Share {
    /// Whose it is, if the sessions of that are counted over all nodes.
    pub(super) fn counted_owner(&self) -> Option<CountedOwner> {
        match &self.key {
            Key::User(dialect, name) => {
                let (tenant, user) = split_quota_user(name);
                Some(CountedOwner::User(NodeUser {
                    dialect: *dialect,
                    tenant: tenant.map(Into::into),
                    user: user.into(),
                }))
            }
            Key::Tenant(dialect, name) => Some(CountedOwner::Tenant(*dialect, name.clone())),
            Key::Address(..)
            | Key::Unauthenticated(_)
            | Key::Handshakes(_)
            | Key::AuthFailures(_) => None,
        }
    }

    /// Counts a message; false when it exceeds the rate limit of all sessions of its owner.
    pub(super) fn allows(&self, limit: RateLimit, now: Now) -> bool {
        self.usage.rate.allows(limit, now.monotonic_ms)
    }

    /// How many messages of the rate limit its owner has used.
    pub(super) fn used(&self, limit: RateLimit, now: Now) -> u32 {
        self.usage.rate.used(limit, now.monotonic_ms)
    }
}

impl Usage {
    fn is_idle(&self, now: Now) -> bool {
        self.sessions.load(Ordering::Relaxed) == 0
            && self.keep_until_ms.load(Ordering::Relaxed) <= now.monotonic_ms
    }

    /// Counts one session less and returns how many are left; the stripe is locked.
    fn remove_session(&self) -> u32 {
        let left = self.sessions.load(Ordering::Relaxed).saturating_sub(1);
        self.sessions.store(left, Ordering::Relaxed);
        left
    }
}

impl Quotas {
    fn stripe(&self, key: &Key) -> MutexGuard<'_, Stripe> {
        let index = self.hasher.hash_one(key) % STRIPES as u64;
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of 64")]
        let stripe = &self.stripes[index as usize];
        // A shard that panics ends the process; the table is consistent all the same.
        stripe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a session, unless `sessions_max` are counted already; 0 = no limit. Returns its share
    /// and how many there are now.
    pub(super) fn acquire(
        &self,
        dialect: DialectId,
        owner: Owner<'_>,
        sessions_max: u32,
        now: Now,
    ) -> Result<(Share, u32), QuotaFull> {
        let key = Key::of(dialect, owner);
        let mut stripe = self.stripe(&key);
        let usage = entry(&mut stripe, &key, now);
        let sessions = usage.sessions.load(Ordering::Relaxed);
        if sessions_max != 0 && sessions >= sessions_max {
            return Err(QuotaFull);
        }
        usage.sessions.store(sessions + 1, Ordering::Relaxed);
        let usage = Arc::clone(usage);
        drop(stripe);
        Ok((Share { key, usage }, sessions + 1))
    }

    /// Removes a session from the count and returns how many are left. The state of the rate limit
    /// is kept as long as it matters.
    pub(super) fn release(&self, share: &Share, limit: RateLimit, now: Now) -> u32 {
        let mut stripe = self.stripe(&share.key);
        let left = share.usage.remove_session();
        let unused_from_ms = share.usage.rate.unused_from_ms(limit, now.monotonic_ms);
        let keep_until_ms = unused_from_ms.min(now.monotonic_ms + IDLE_RETENTION_MS);
        let kept = &share.usage.keep_until_ms;
        kept.store(keep_until_ms, Ordering::Relaxed);
        if share.usage.is_idle(now) {
            stripe.remove(&share.key);
        }
        left
    }

    /// How many sessions are counted.
    pub(super) fn sessions(&self, dialect: DialectId, owner: Owner<'_>) -> u32 {
        let key = Key::of(dialect, owner);
        let stripe = self.stripe(&key);
        let usage = stripe.get(&key);
        usage.map_or(0, |usage| usage.sessions.load(Ordering::Relaxed))
    }

    /// How many sessions of a user or a tenant are counted on this node.
    #[must_use]
    pub fn sessions_of(&self, owner: &CountedOwner) -> u32 {
        match owner {
            CountedOwner::User(user) => {
                let name = quota_user(user.tenant.as_deref(), &user.user);
                self.sessions(user.dialect, Owner::User(&name))
            }
            CountedOwner::Tenant(dialect, tenant) => self.sessions(*dialect, Owner::Tenant(tenant)),
        }
    }

    /// Counts a connection before authentication and returns how many its address has now.
    pub fn add_unauthenticated(&self, address: IpAddr, now: Now) -> u32 {
        let key = Key::Unauthenticated(address);
        let mut stripe = self.stripe(&key);
        let usage = entry(&mut stripe, &key, now);
        let sessions = usage.sessions.load(Ordering::Relaxed) + 1;
        usage.sessions.store(sessions, Ordering::Relaxed);
        sessions
    }

    /// Removes a connection before authentication from the count.
    pub fn remove_unauthenticated(&self, address: IpAddr) {
        let key = Key::Unauthenticated(address);
        let mut stripe = self.stripe(&key);
        let left = stripe.get(&key).map(|usage| usage.remove_session());
        if left == Some(0) {
            stripe.remove(&key);
        }
    }

    /// Counts a handshake of an address; false when it exceeds the limit.
    pub(super) fn allows_handshake(&self, address: IpAddr, limit: RateLimit, now: Now) -> bool {
        limit == RateLimit::Off || self.count(Key::Handshakes(address), limit, now)
    }

    /// Counts a token of an address that proves nothing.
    pub(super) fn count_failure(&self, address: IpAddr, limit: RateLimit, now: Now) {
        self.count(Key::AuthFailures(address), limit, now);
    }

    /// Takes back what `count_failure` counted: the token has proved something after all.
    pub(super) fn take_back_failure(&self, address: IpAddr, limit: RateLimit) {
        let key = Key::AuthFailures(address);
        if let Some(usage) = self.stripe(&key).get(&key) {
            usage.rate.take_back(limit);
        }
    }

    /// Whether one more failure of the address would exceed the limit.
    pub(super) fn has_failed_too_often(&self, address: IpAddr, limit: RateLimit, now: Now) -> bool {
        let key = Key::AuthFailures(address);
        let stripe = self.stripe(&key);
        let usage = stripe.get(&key);
        usage.is_some_and(|usage| !usage.rate.would_allow(limit, now.monotonic_ms))
    }

    /// The tokens that were valid before.
    pub(super) fn known_tokens(&self) -> &KnownTokens {
        &self.known_tokens
    }

    /// Counts something without a session, and keeps the entry as long as it matters.
    fn count(&self, key: Key, limit: RateLimit, now: Now) -> bool {
        let mut stripe = self.stripe(&key);
        let usage = entry(&mut stripe, &key, now);
        let is_within = usage.rate.allows(limit, now.monotonic_ms);
        let until_ms = usage.rate.unused_from_ms(limit, now.monotonic_ms);
        usage.keep_until_ms.store(until_ms, Ordering::Relaxed);
        is_within
    }

    /// How many messages of its rate limit a user has used, in all its sessions of a dialect, in a
    /// tenant if that is isolated.
    #[must_use]
    pub fn used_by_user(
        &self,
        dialect: DialectId,
        (isolated_tenant, user): (Option<&str>, &str),
        limit: RateLimit,
        now: Now,
    ) -> u32 {
        let user = quota_user(isolated_tenant, user);
        let key = Key::of(dialect, Owner::User(&user));
        let stripe = self.stripe(&key);
        let usage = stripe.get(&key);
        usage.map_or(0, |usage| usage.rate.used(limit, now.monotonic_ms))
    }

    /// Removes the entries without sessions that do not matter any more; returns how many remain.
    pub fn sweep(&self, now: Now) -> usize {
        let mut left = 0;
        for stripe in &self.stripes {
            let mut stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            sweep_stripe(&mut stripe, now);
            if is_mostly_empty(stripe.len(), stripe.capacity()) {
                stripe.shrink_to_fit();
            }
            left += stripe.len();
        }
        left
    }
}

/// The user as quotas count it, which in an isolated tenant is another one than outside.
#[must_use]
pub fn quota_user<'a>(isolated_tenant: Option<&str>, user: &'a str) -> Cow<'a, str> {
    match isolated_tenant {
        // No tenant has a control character.
        Some(tenant) => format!("{tenant}\0{user}").into(),
        None => user.into(),
    }
}

/// The tenant and the user that such a name is of.
fn split_quota_user(name: &str) -> (Option<&str>, &str) {
    match name.split_once('\0') {
        Some((tenant, user)) => (Some(tenant), user),
        None => (None, name),
    }
}

/// The entry of `key`, which may be new. A table that would have to grow first loses the entries
/// that do not matter any more, so that it is never much larger than those that do.
fn entry<'a>(stripe: &'a mut Stripe, key: &Key, now: Now) -> &'a Arc<Usage> {
    if stripe.len() == stripe.capacity() && !stripe.contains_key(key) {
        sweep_stripe(stripe, now);
    }
    stripe.entry(key.clone()).or_default()
}

fn sweep_stripe(stripe: &mut Stripe, now: Now) {
    stripe.retain(|_, usage| !usage.is_idle(now));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Owner<'_> = Owner::User("ann");

    fn acquire(quotas: &Quotas, owner: Owner<'_>, now: Now) -> Result<(Share, u32), QuotaFull> {
        quotas.acquire(DialectId::Assist, owner, 2, now)
    }

    #[test]
    fn places_are_limited_and_come_back() {
        let (quotas, now) = (Quotas::default(), Now::at(0, 0));
        let (share, count) = acquire(&quotas, ANN, now).unwrap();
        assert_eq!(count, 1);
        assert_eq!(acquire(&quotas, ANN, now).unwrap().1, 2);
        assert_eq!(acquire(&quotas, ANN, now).unwrap_err(), QuotaFull);
        assert_eq!(acquire(&quotas, Owner::Tenant("ann"), now).unwrap().1, 1);
        assert_eq!(quotas.release(&share, RateLimit::Off, now), 1);
        assert_eq!(acquire(&quotas, ANN, now).unwrap().1, 2);
    }

    #[test]
    fn a_new_connection_gives_no_new_allowance_until_the_user_was_away_for_long() {
        let quotas = Quotas::default();
        let limit = RateLimit::Window {
            messages: 1,
            window_ms: 3_600_000,
        };
        let at = |at_ms| Now::at(at_ms, 0);
        let (share, _) = acquire(&quotas, ANN, at(0)).unwrap();
        assert!(share.allows(limit, at(0)) && !share.allows(limit, at(1)));
        quotas.release(&share, limit, at(2));
        assert_eq!(quotas.sweep(at(IDLE_RETENTION_MS)), 1);
        let (share, _) = acquire(&quotas, ANN, at(IDLE_RETENTION_MS)).unwrap();
        assert!(!share.allows(limit, at(IDLE_RETENTION_MS)));
        quotas.release(&share, limit, at(IDLE_RETENTION_MS));
        assert_eq!(quotas.sweep(at(2 * IDLE_RETENTION_MS)), 0);
        let (share, _) = acquire(&quotas, ANN, at(2 * IDLE_RETENTION_MS)).unwrap();
        assert!(share.allows(limit, at(2 * IDLE_RETENTION_MS)));
    }

    #[test]
    fn a_million_addresses_that_came_and_went_leave_nothing_behind() {
        let quotas = Quotas::default();
        let limit = RateLimit::Bucket {
            per_minute: 120,
            burst: 20,
        };
        let mut entries_max = 0;
        for number in 0..1_000_000_u32 {
            // A thousand come per second; each has recovered half a second later.
            let now = Now::at(u64::from(number), 0);
            let owner = Owner::Address(IpAddr::from(number.to_be_bytes()));
            let (share, _) = acquire(&quotas, owner, now).unwrap();
            assert!(share.allows(limit, now));
            assert_eq!(quotas.release(&share, limit, now), 0);
            if number % 10_000 == 0 {
                let stripes = quotas.stripes.iter();
                let entries = stripes.map(|stripe| stripe.lock().unwrap().len()).sum();
                entries_max = entries_max.max(entries);
            }
        }
        assert!(entries_max < 4_000, "{entries_max} entries");
        assert_eq!(quotas.sweep(Now::at(1_001_000, 0)), 0);
        let stripes = quotas.stripes.iter();
        let capacity: usize = stripes.map(|it| it.lock().unwrap().capacity()).sum();
        assert!(capacity <= 64 * STRIPES * 2, "{capacity}");
    }
}

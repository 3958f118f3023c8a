//! Persistent subscriptions: which channels users want to be subscribed to again when they come back.
//!
//! A user is remembered from the first persistent subscription on, as long as a session of the user
//! holds it and for some time more. What it costs is bounded: subscriptions per user, users, and the
//! memory of all of them.

use super::id::DialectId;
use super::interest::is_mostly_empty;
use super::limits::{PERSISTENT_BYTES_PER_USER, PERSISTENT_CHANGED_MAX, PERSISTENT_SWEEP_MAX};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Independently locked parts of the table.
const STRIPES: usize = 64;
/// What a subscription costs beside the name of its channel, bytes.
const SUBSCRIPTION_BYTES: u64 = 48;

/// The parts of the table that are exported one after the other.
pub const PARTS: usize = STRIPES;

/// A user as subscriptions are remembered for it: users of two tenants are two, whatever their ids.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PersistentUser {
    /// The dialect.
    pub dialect: DialectId,
    /// The tenant, where tenants are isolated.
    pub tenant: Option<Box<str>>,
    /// The id.
    pub user: Box<str>,
}

impl PersistentUser {
    fn order(&self) -> (usize, Option<&str>, &str) {
        (self.dialect.index(), self.tenant.as_deref(), &self.user)
    }
}

impl Ord for PersistentUser {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for PersistentUser {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// How much is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PersistentLimits {
    /// Subscriptions of one user; 0 = nothing is remembered.
    pub per_user_max: u32,
    /// Users.
    pub users_max: u64,
    /// How long a user without a session is remembered, milliseconds.
    pub ttl_ms: u64,
}

/// What the table holds and has rejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PersistentStats {
    /// Users.
    pub users: u64,
    /// Subscriptions of all of them.
    pub subscriptions: u64,
    /// Subscriptions that were not remembered, because a limit was reached.
    pub rejected: u64,
    /// Users who were forgotten early, for others.
    pub evicted: u64,
}

/// What a durable store is told of a user: the channels, oldest first, and when the user is forgotten,
/// monotonic milliseconds; `u64::MAX` with a session. Without channels the user is forgotten.
pub type PersistentRecord = (Vec<Arc<str>>, u64);

/// The persistent subscriptions of all users.
#[derive(Debug)]
pub struct PersistentSubscriptions {
    limits: PersistentLimits,
    /// Whether a store wants to know who has changed.
    is_recorded: bool,
    hasher: RandomState,
    stripes: Box<[Stripe]>,
    users: AtomicU64,
    subscriptions: AtomicU64,
    bytes: AtomicU64,
    rejected: AtomicU64,
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(Mutex<Users>);

#[derive(Debug, Default)]
struct Users {
    by_name: HashMap<Arc<PersistentUser>, User>,
    /// Those without a session, with when to forget them.
    idle: BTreeSet<(u64, Arc<PersistentUser>)>,
    changed: HashSet<Arc<PersistentUser>>,
    has_unknown_changes: bool,
}

#[derive(Debug, Default)]
struct User {
    channels: Vec<Arc<str>>,
    /// Sessions that hold it.
    sessions: u32,
    /// Without one: when to forget it.
    expires_ms: u64,
}

impl Default for PersistentSubscriptions {
    fn default() -> Self {
        Self::new(PersistentLimits::default())
    }
}

impl PersistentSubscriptions {
    /// Nobody is remembered yet.
    #[must_use]
    pub fn new(limits: PersistentLimits) -> Self {
        let stripes = std::iter::repeat_with(Stripe::default);
        Self {
            limits,
            is_recorded: false,
            hasher: RandomState::new(),
            stripes: stripes.take(STRIPES).collect(),
            users: AtomicU64::new(0),
            subscriptions: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// Notes from now on who has changed, for [`take_changed`](Self::take_changed).
    pub fn record_changes(&mut self) {
        self.is_recorded = true;
    }

    /// How long a user without a session is remembered, milliseconds.
    #[must_use]
    pub const fn ttl_ms(&self) -> u64 {
        self.limits.ttl_ms
    }

    /// Whether anything is remembered at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.limits.per_user_max > 0
    }

    /// Remembers a subscription of a user; false when a limit is reached. If it is true and the
    /// session did not hold the user before, it does now, and gives it back by
    /// [`release`](Self::release).
    #[must_use]
    pub fn insert(&self, user: &PersistentUser, channel: &str, is_held: bool) -> bool {
        if !self.is_on() {
            return false;
        }
        let mut users = self.lock(user);
        let is_known = users.by_name.get(user).is_some_and(|known| {
            let mut channels = known.channels.iter();
            channels.any(|it| **it == *channel)
        });
        if !is_known && !self.make_room(&mut users, user, channel) {
            // Relaxed, here and below: counts that order nothing.
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let name = match users.by_name.get_key_value(user) {
            Some((name, _)) => Arc::clone(name),
            None => {
                self.users.fetch_add(1, Ordering::Relaxed);
                Arc::new(user.clone())
            }
        };
        let known = users.by_name.entry(Arc::clone(&name)).or_default();
        if !is_known {
            known.channels.push(channel.into());
            self.count(1, bytes_of(channel));
        }
        if !is_held {
            hold(&mut users, &name);
        }
        self.note_changed(&mut users, &name);
        true
    }

    /// Whether there is room for another subscription of a user; forgets users of this part of the
    /// table for it who are not there.
    fn make_room(&self, users: &mut Users, user: &PersistentUser, channel: &str) -> bool {
        let known = users.by_name.get(user);
        let count = known.map_or(0, |known| known.channels.len());
        if count >= self.limits.per_user_max as usize {
            return false;
        }
        let is_new = known.is_none();
        let bytes_max = self
            .limits
            .users_max
            .saturating_mul(PERSISTENT_BYTES_PER_USER);
        loop {
            let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let fits = load(&self.bytes) + bytes_of(channel) <= bytes_max;
            if fits && (!is_new || load(&self.users) < self.limits.users_max) {
                return true;
            }
            let mut idle = users.idle.iter();
            let Some((_, other)) = idle.find(|(_, other)| **other != *user).cloned() else {
                return false;
            };
            self.remove_user(users, &other);
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Forgets a subscription of a user.
    pub fn remove(&self, user: &PersistentUser, channel: &str) {
        let mut users = self.lock(user);
        let Some((name, known)) = users.by_name.get_key_value(user) else {
            return;
        };
        let name = Arc::clone(name);
        let mut channels = known.channels.iter();
        let Some(at) = channels.position(|it| **it == *channel) else {
            return;
        };
        if let Some(known) = users.by_name.get_mut(user) {
            known.channels.remove(at);
            self.uncount(1, bytes_of(channel));
            if known.channels.is_empty() && known.sessions == 0 {
                self.remove_user(&mut users, &name);
            }
        }
        self.note_changed(&mut users, &name);
    }

    /// The subscriptions of a user who has come back, oldest first. If there are any and the session
    /// did not hold the user before, it does now.
    #[must_use]
    pub fn restore(&self, user: &PersistentUser, is_held: bool, now_ms: u64) -> Vec<Arc<str>> {
        let mut users = self.lock(user);
        let Some((name, known)) = users.by_name.get_key_value(user) else {
            return Vec::new();
        };
        let name = Arc::clone(name);
        if known.sessions == 0 && known.expires_ms <= now_ms {
            self.remove_user(&mut users, &name);
            return Vec::new();
        }
        let channels = known.channels.clone();
        if !is_held && !channels.is_empty() {
            hold(&mut users, &name);
            self.note_changed(&mut users, &name);
        }
        channels
    }

    /// A session that held a user does not any more.
    pub fn release(&self, user: &PersistentUser, now_ms: u64) {
        let mut users = self.lock(user);
        let Some((name, _)) = users.by_name.get_key_value(user) else {
            return;
        };
        let name = Arc::clone(name);
        let Some(known) = users.by_name.get_mut(user) else {
            return;
        };
        known.sessions = known.sessions.saturating_sub(1);
        if known.sessions > 0 {
            return;
        }
        if known.channels.is_empty() {
            return self.remove_user(&mut users, &name);
        }
        known.expires_ms = now_ms.saturating_add(self.limits.ttl_ms);
        let expires_ms = known.expires_ms;
        users.idle.insert((expires_ms, Arc::clone(&name)));
        self.note_changed(&mut users, &name);
    }

    /// Forgets all subscriptions of a user.
    pub fn remove_all(&self, user: &PersistentUser) {
        let mut users = self.lock(user);
        let Some((name, known)) = users.by_name.get_key_value(user) else {
            return;
        };
        let (name, is_held) = (Arc::clone(name), known.sessions > 0);
        if !is_held {
            return self.remove_user(&mut users, &name);
        }
        if let Some(known) = users.by_name.get_mut(user) {
            let channels = std::mem::take(&mut known.channels);
            self.uncount_all(&channels);
        }
        self.note_changed(&mut users, &name);
    }

    /// Forgets who went too long ago, in one part of the table: call it with each number in turn. A
    /// part that a shard has locked is left out, as its thread may have lost its core.
    pub fn sweep(&self, turn: usize, now_ms: u64) {
        let Ok(mut users) = self.stripes[turn % STRIPES].0.try_lock() else {
            return;
        };
        for _ in 0..PERSISTENT_SWEEP_MAX {
            match users.idle.first().cloned() {
                Some((expires_ms, name)) if expires_ms <= now_ms => {
                    self.remove_user(&mut users, &name);
                }
                _ => break,
            }
        }
        if is_mostly_empty(users.by_name.len(), users.by_name.capacity()) {
            users.by_name.shrink_to_fit();
        }
    }

    /// Takes the users out of a part of the table who have changed since the last call, with what is
    /// known of them now; and whether there are more, of whom it is not known who they are.
    pub fn take_changed(
        &self,
        part: usize,
    ) -> (Vec<(Arc<PersistentUser>, PersistentRecord)>, bool) {
        let mut users = lock(&self.stripes[part].0);
        let changed = std::mem::take(&mut users.changed);
        let has_more = std::mem::take(&mut users.has_unknown_changes);
        let changed = changed.into_iter().map(|name| {
            let record = users.export(&name);
            (name, record)
        });
        (changed.collect(), has_more)
    }

    /// The users in one of [`PARTS`] parts of the table.
    #[must_use]
    pub fn users_of(&self, part: usize) -> Vec<Arc<PersistentUser>> {
        let users = lock(&self.stripes[part].0);
        users.by_name.keys().cloned().collect()
    }

    /// What is known of a user.
    #[must_use]
    pub fn export(&self, user: &PersistentUser) -> PersistentRecord {
        self.lock(user).export(user)
    }

    /// Replaces what is known of a user without a session by what an earlier process knew, as far as
    /// the limits allow.
    pub fn load(&self, user: &PersistentUser, channels: &[impl AsRef<str>], expires_ms: u64) {
        self.remove_all(user);
        let mut is_held = false;
        for channel in channels {
            is_held |= self.insert(user, channel.as_ref(), is_held);
        }
        if is_held {
            self.release(user, expires_ms.saturating_sub(self.limits.ttl_ms));
        }
    }

    /// What it holds and has rejected.
    #[must_use]
    pub fn stats(&self) -> PersistentStats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        PersistentStats {
            users: load(&self.users),
            subscriptions: load(&self.subscriptions),
            rejected: load(&self.rejected),
            evicted: load(&self.evicted),
        }
    }

    fn remove_user(&self, users: &mut Users, name: &Arc<PersistentUser>) {
        let Some(known) = users.by_name.remove(name) else {
            return;
        };
        users.idle.remove(&(known.expires_ms, Arc::clone(name)));
        self.users.fetch_sub(1, Ordering::Relaxed);
        self.uncount_all(&known.channels);
        self.note_changed(users, name);
    }

    fn note_changed(&self, users: &mut Users, name: &Arc<PersistentUser>) {
        if !self.is_recorded {
            return;
        }
        if users.changed.len() < PERSISTENT_CHANGED_MAX {
            users.changed.insert(Arc::clone(name));
        } else {
            users.has_unknown_changes = true;
        }
    }

    fn count(&self, subscriptions: u64, bytes: u64) {
        self.subscriptions
            .fetch_add(subscriptions, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn uncount(&self, subscriptions: u64, bytes: u64) {
        self.subscriptions
            .fetch_sub(subscriptions, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn uncount_all(&self, channels: &[Arc<str>]) {
        let bytes = channels.iter().map(|channel| bytes_of(channel)).sum();
        self.uncount(channels.len() as u64, bytes);
    }

    fn lock(&self, user: &PersistentUser) -> MutexGuard<'_, Users> {
        let stripe = usize::try_from(self.hasher.hash_one(user) >> 58).expect("six bits");
        lock(&self.stripes[stripe].0)
    }
}

impl Users {
    fn export(&self, user: &PersistentUser) -> PersistentRecord {
        let known = self.by_name.get(user);
        known.map_or((Vec::new(), 0), |known| {
            let is_held = known.sessions > 0;
            let expires_ms = if is_held { u64::MAX } else { known.expires_ms };
            (known.channels.clone(), expires_ms)
        })
    }
}

/// A session holds a user.
fn hold(users: &mut Users, name: &Arc<PersistentUser>) {
    if let Some(known) = users.by_name.get_mut(name) {
        known.sessions += 1;
        users.idle.remove(&(known.expires_ms, Arc::clone(name)));
    }
}

fn bytes_of(channel: &str) -> u64 {
    channel.len() as u64 + SUBSCRIPTION_BYTES
}

/// A panic of another thread leaves a stripe as it was.
fn lock(stripe: &Mutex<Users>) -> MutexGuard<'_, Users> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(per_user_max: u32, users_max: u64) -> PersistentSubscriptions {
        PersistentSubscriptions::new(PersistentLimits {
            per_user_max,
            users_max,
            ttl_ms: 100,
        })
    }

    fn user(tenant: Option<&str>, name: &str) -> PersistentUser {
        PersistentUser {
            dialect: DialectId::Gateway,
            tenant: tenant.map(Into::into),
            user: name.into(),
        }
    }

    fn names(channels: &[Arc<str>]) -> Vec<&str> {
        channels.iter().map(|channel| &**channel).collect()
    }

    fn check_empty(table: &PersistentSubscriptions) {
        let stats = table.stats();
        assert_eq!((stats.users, stats.subscriptions), (0, 0));
        assert_eq!(table.bytes.load(Ordering::Relaxed), 0);
        for Stripe(stripe) in &table.stripes {
            let users = lock(stripe);
            assert!(users.by_name.is_empty() && users.idle.is_empty());
        }
    }

    #[test]
    fn a_user_is_remembered_while_a_session_holds_it_and_for_a_time() {
        let table = table(10, 10);
        let ann = user(None, "ann");
        assert!(table.insert(&ann, "b", false));
        assert!(table.insert(&ann, "a", true));
        assert!(table.insert(&ann, "b", true), "it is remembered already");
        assert_eq!(table.stats().subscriptions, 2);
        // Another session holds her as well, long after the first one came.
        assert_eq!(names(&table.restore(&ann, false, 1_000)), ["b", "a"]);
        table.release(&ann, 1_000);
        (0..STRIPES).for_each(|turn| table.sweep(turn, 9_000));
        table.release(&ann, 9_000);
        (0..STRIPES).for_each(|turn| table.sweep(turn, 9_099));
        assert_eq!(names(&table.restore(&ann, false, 9_099)), ["b", "a"]);
        table.release(&ann, 9_099);
        assert!(
            table
                .restore(&user(Some("t"), "ann"), false, 9_099)
                .is_empty()
        );
        assert!(
            table.restore(&ann, false, 9_199).is_empty(),
            "it is too late"
        );
        check_empty(&table);
    }

    #[test]
    fn limits_hold_and_those_who_went_first_are_forgotten_for_others() {
        let table = table(2, 3);
        let ann = user(None, "ann");
        assert!(table.insert(&ann, "a", false) && table.insert(&ann, "b", true));
        assert!(!table.insert(&ann, "c", true), "too many of one user");
        for index in 0..1_000 {
            let other = user(None, &index.to_string());
            if table.insert(&other, "a", false) {
                table.release(&other, index);
            }
        }
        let stats = table.stats();
        assert_eq!(stats.users, 3);
        assert_eq!(stats.evicted + stats.rejected, 1 + 998);
        assert_eq!(names(&table.restore(&ann, true, 0)), ["a", "b"]);
        // The memory of all is bounded as well.
        let wide = self::table(1_000, 1);
        let inserted = (0..1_000).filter(|index| {
            let channel = format!("{index:0>200}");
            wide.insert(&ann, &channel, *index > 0)
        });
        let inserted = inserted.count() as u64;
        assert_eq!(
            inserted,
            PERSISTENT_BYTES_PER_USER / (200 + SUBSCRIPTION_BYTES)
        );
        wide.remove_all(&ann);
        wide.release(&ann, 0);
        check_empty(&wide);
        assert!(!self::table(0, 10).insert(&ann, "a", false), "it is off");
    }

    #[test]
    fn many_subscriptions_that_come_and_go_leave_nothing() {
        let table = table(10, 10);
        let ann = user(Some("t"), "ann");
        assert!(table.insert(&ann, "stays", false));
        for index in 0..10_000 {
            let channel = index.to_string();
            assert!(table.insert(&ann, &channel, true));
            table.remove(&ann, &channel);
            table.remove(&ann, &channel);
        }
        assert_eq!(names(&table.export(&ann).0), ["stays"]);
        table.remove(&ann, "stays");
        table.release(&ann, 0);
        check_empty(&table);
    }

    #[test]
    fn a_store_is_told_who_has_changed_and_loads_it_again() {
        let mut first = table(10, 10);
        first.record_changes();
        let (ann, bob) = (user(None, "ann"), user(Some("t"), "bob"));
        assert!(first.insert(&ann, "a", false) && first.insert(&bob, "b", false));
        first.release(&ann, 50);
        first.remove(&bob, "b");
        first.release(&bob, 60);
        let mut changed: Vec<_> = (0..PARTS)
            .flat_map(|part| first.take_changed(part).0)
            .collect();
        changed.sort();
        assert_eq!(changed[0], (Arc::new(ann.clone()), (vec!["a".into()], 150)));
        assert_eq!(changed[1], (Arc::new(bob), (Vec::new(), 0)));
        assert_eq!(changed.len(), 2);
        assert!((0..PARTS).all(|part| first.take_changed(part) == (Vec::new(), false)));
        let second = table(10, 10);
        let (channels, expires_ms) = first.export(&ann);
        second.load(&ann, &channels, expires_ms);
        assert_eq!(
            (0..PARTS)
                .map(|part| second.users_of(part).len())
                .sum::<usize>(),
            1
        );
        assert!(
            second.restore(&ann, false, 150).is_empty(),
            "it is too late"
        );
        second.load(&ann, &channels, expires_ms);
        assert_eq!(names(&second.restore(&ann, false, 149)), ["a"]);
    }
}

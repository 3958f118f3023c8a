//! Where users stopped: for each user and channel, the offset in the history up to which the last of
//! the user's subscribed sessions was sent everything. A user who comes back receives what follows.
//!
//! What it costs grows with users and channels, never with publications: those are in the history.

use super::id::DialectId;
use super::interest::{ChannelTag, TagMap, is_mostly_empty};
use super::limits::{OFFLINE_CHANGED_MAX, OFFLINE_CHANNELS_PER_USER_MAX, OFFLINE_SWEEP_MAX};
use super::name_hash::NameKey;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Independently locked parts of the table.
const STRIPES: usize = 64;

/// The parts of the table that are exported one after the other.
pub const PARTS: usize = STRIPES;

/// The offset of a channel that a session on another node is subscribed to; no history has it.
const ELSEWHERE: u64 = u64::MAX;

/// A user of a dialect, as a keyed hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserKey(u64);

impl UserKey {
    /// The key in a store.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The key with these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// All that is known of a user, for a durable store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfflineUser {
    /// When the user is forgotten, monotonic milliseconds; of no meaning with a subscription.
    pub expires_ms: u64,
    /// The channels, and the offset up to which everything was sent; `None` = a session of the user is
    /// subscribed. Without channels, the user is forgotten.
    pub channels: Vec<(ChannelTag, Option<u64>)>,
}

/// What is known of a user on a channel when one of the user's sessions subscribes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastSeen {
    /// Nothing: the user was not subscribed, or it is too long ago.
    Never,
    /// Another session of the user is subscribed.
    Now,
    /// A session of the user on another node is subscribed.
    Elsewhere,
    /// The user has been sent everything up to this offset of the history.
    At(u64),
}

/// The users of a process who are or were subscribed to channels with a history.
#[derive(Debug)]
pub struct OfflineUsers {
    key: NameKey,
    /// Whether a store wants to know who has changed.
    is_recorded: bool,
    stripes: Box<[Stripe]>,
    /// Users without a session that are remembered, and at most.
    remembered: AtomicU64,
    users_max: u64,
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(Mutex<Users>);

#[derive(Debug, Default)]
struct Users {
    by_key: HashMap<UserKey, User>,
    /// Users who went, each once, with when to look whether to forget them. A user who has come back
    /// keeps the place, and gets a new one when it is looked at.
    order: VecDeque<(UserKey, u64)>,
    /// Users who have changed since a store was told.
    changed: HashSet<UserKey>,
    /// Whether more have changed than are in the set.
    has_unknown_changes: bool,
}

#[derive(Debug, Default)]
struct User {
    channels: TagMap<Seen>,
    /// Subscriptions of the user's sessions.
    subscriptions: u32,
    /// Without a subscription: when the user is forgotten, monotonic milliseconds.
    expires_ms: u64,
    /// Whether the user is in the order of those who went; it is not removed while it is.
    is_in_order: bool,
}

#[derive(Debug, Default)]
struct Seen {
    /// Subscriptions of the user's sessions to the channel.
    subscriptions: u32,
    /// Without one: the offset up to which everything was sent.
    offset: u64,
}

impl Users {
    fn export(&self, user: UserKey) -> OfflineUser {
        let Some(known) = self.by_key.get(&user) else {
            return OfflineUser::default();
        };
        let channels = known.channels.iter();
        let channels = channels.map(|(tag, seen)| {
            let is_subscribed = seen.subscriptions > 0;
            (*tag, (!is_subscribed).then_some(seen.offset))
        });
        OfflineUser {
            expires_ms: known.expires_ms,
            channels: channels.collect(),
        }
    }

    fn enter_order(&mut self, user: UserKey) {
        if let Some(known) = self.by_key.get_mut(&user)
            && !known.is_in_order
        {
            known.is_in_order = true;
            self.order.push_back((user, known.expires_ms));
        }
    }

    /// Removes a user without channels, unless it is in the order.
    fn remove_empty(&mut self, user: UserKey) {
        let known = self.by_key.get(&user);
        if known.is_some_and(|known| !known.is_in_order) {
            self.by_key.remove(&user);
        }
    }
}

impl Default for OfflineUsers {
    fn default() -> Self {
        Self::new(0, NameKey::random())
    }
}

impl OfflineUsers {
    /// Nobody; at most `users_max` users without a session are remembered.
    #[must_use]
    pub fn new(users_max: u64, key: NameKey) -> Self {
        let stripes = std::iter::repeat_with(Stripe::default);
        Self {
            key,
            is_recorded: false,
            stripes: stripes.take(STRIPES).collect(),
            remembered: AtomicU64::new(0),
            users_max,
            evicted: AtomicU64::new(0),
        }
    }

    /// The same, and it is noted who changes.
    #[must_use]
    pub fn recorded(mut self) -> Self {
        self.is_recorded = true;
        self
    }

    /// Whether a store is told who changes.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.is_recorded
    }

    /// The key of the hashes of names.
    #[must_use]
    pub const fn name_key(&self) -> NameKey {
        self.key
    }

    /// The key of a user of a dialect.
    #[must_use]
    pub fn key(&self, dialect: DialectId, user: &str) -> UserKey {
        UserKey(self.key.hash_pair(dialect.name(), user))
    }

    /// Notes that a user has changed.
    fn note_changed(&self, users: &mut Users, user: UserKey) {
        if !self.is_recorded {
            return;
        }
        if users.changed.len() < OFFLINE_CHANGED_MAX {
            users.changed.insert(user);
        } else {
            users.has_unknown_changes = true;
        }
    }

    /// Takes the users out of a part of the table who have changed since the last call, with what is
    /// known of them now; and whether there are more, of whom it is not known who they are.
    pub fn take_changed(&self, part: usize) -> (Vec<(UserKey, OfflineUser)>, bool) {
        let mut users = lock(&self.stripes[part].0);
        let changed = std::mem::take(&mut users.changed);
        let has_more = std::mem::take(&mut users.has_unknown_changes);
        let export = |user: &UserKey| (*user, users.export(*user));
        (changed.iter().map(export).collect(), has_more)
    }

    /// The users in one of [`PARTS`] parts of the table.
    #[must_use]
    pub fn users_of(&self, part: usize) -> Vec<UserKey> {
        let users = lock(&self.stripes[part].0);
        users.by_key.keys().copied().collect()
    }

    /// What is known of a user.
    #[must_use]
    pub fn export(&self, user: UserKey) -> OfflineUser {
        self.lock(user).export(user)
    }

    /// Remembers a user as an earlier process did. Of channels to which a session was subscribed then,
    /// everything up to `reached` was sent. With `is_changed` the store is told.
    pub fn restore(&self, user: UserKey, known: &OfflineUser, reached: u64, is_changed: bool) {
        if known.channels.is_empty() {
            return;
        }
        let mut users = self.lock(user);
        if is_changed {
            self.note_changed(&mut users, user);
        }
        let restored = users.by_key.entry(user).or_default();
        restored.expires_ms = known.expires_ms;
        restored
            .channels
            .extend(known.channels.iter().map(|(tag, offset)| {
                let seen = Seen {
                    subscriptions: 0,
                    offset: offset.unwrap_or(reached),
                };
                (*tag, seen)
            }));
        self.remember(&mut users, user);
    }

    /// Takes over what all nodes know of a user, until a time: the channels, and the offset up to which
    /// everything was sent; `None` = a session on another node is subscribed. What this node knows counts
    /// only of channels that a session here is subscribed to.
    pub fn replace(&self, user: UserKey, channels: &[(ChannelTag, Option<u64>)], expires_ms: u64) {
        self.remove(user);
        if channels.is_empty() {
            return;
        }
        let mut users = self.lock(user);
        let known = users.by_key.entry(user).or_default();
        for (tag, offset) in channels {
            let seen = known.channels.entry(*tag).or_default();
            if seen.subscriptions == 0 {
                seen.offset = offset.unwrap_or(ELSEWHERE);
            }
        }
        if known.subscriptions == 0 {
            known.expires_ms = expires_ms;
            self.remember(&mut users, user);
        }
    }

    /// Whether a session of a user is subscribed to a channel.
    #[must_use]
    pub fn is_subscribed(&self, user: UserKey, tag: ChannelTag) -> bool {
        let users = self.lock(user);
        let known = users.by_key.get(&user);
        let seen = known.and_then(|known| known.channels.get(&tag));
        seen.is_some_and(|seen| seen.subscriptions > 0)
    }

    /// Whether it is remembered where a user stopped on a channel: no session of the user is subscribed.
    #[must_use]
    pub fn is_remembered(&self, user: UserKey, tag: ChannelTag) -> bool {
        let users = self.lock(user);
        let known = users.by_key.get(&user);
        let seen = known.and_then(|known| known.channels.get(&tag));
        seen.is_some_and(|seen| seen.subscriptions == 0)
    }

    /// A session of a user has subscribed to a channel.
    #[must_use]
    pub fn subscribe(&self, user: UserKey, tag: ChannelTag, now_ms: u64) -> LastSeen {
        let mut users = self.lock(user);
        self.note_changed(&mut users, user);
        let known = users.by_key.entry(user).or_default();
        let was_remembered = known.subscriptions == 0 && !known.channels.is_empty();
        if was_remembered {
            // Relaxed, here and below: a count.
            self.remembered.fetch_sub(1, Ordering::Relaxed);
            if known.expires_ms <= now_ms {
                known.channels.clear();
            }
        }
        known.subscriptions += 1;
        let is_known = known.channels.contains_key(&tag);
        let seen = known.channels.entry(tag).or_default();
        seen.subscriptions += 1;
        match (is_known, seen.subscriptions) {
            (false, _) => LastSeen::Never,
            (true, 1) if seen.offset == ELSEWHERE => LastSeen::Elsewhere,
            (true, 1) => LastSeen::At(seen.offset),
            (true, _) => LastSeen::Now,
        }
    }

    /// A session has unsubscribed: the user wants no more of the channel, unless another one is
    /// subscribed.
    pub fn unsubscribe(&self, user: UserKey, tag: ChannelTag) {
        let mut users = self.lock(user);
        self.note_changed(&mut users, user);
        let Some(known) = users.by_key.get_mut(&user) else {
            return;
        };
        let was_subscribed = known.subscriptions > 0;
        if let Some(seen) = known.channels.get_mut(&tag)
            && seen.subscriptions > 0
        {
            seen.subscriptions -= 1;
            known.subscriptions -= 1;
            if seen.subscriptions == 0 {
                known.channels.remove(&tag);
            }
        }
        if known.channels.is_empty() {
            users.remove_empty(user);
        } else if was_subscribed && known.subscriptions == 0 {
            // What is left are channels of sessions that are gone.
            self.remember(&mut users, user);
        }
    }

    /// A session has ended that was subscribed to these channels, and was sent everything on each up
    /// to an offset.
    pub fn disconnect(
        &self,
        user: UserKey,
        channels: impl Iterator<Item = (ChannelTag, u64)>,
        expires_ms: u64,
    ) {
        let mut users = self.lock(user);
        self.note_changed(&mut users, user);
        let Some(known) = users.by_key.get_mut(&user) else {
            return;
        };
        let before = known.subscriptions;
        for (tag, offset) in channels {
            let Some(seen) = known.channels.get_mut(&tag) else {
                continue;
            };
            if seen.subscriptions == 0 {
                continue;
            }
            seen.subscriptions -= 1;
            known.subscriptions -= 1;
            seen.offset = offset;
            if seen.subscriptions == 0 && known.channels.len() > OFFLINE_CHANNELS_PER_USER_MAX {
                known.channels.remove(&tag);
            }
        }
        // A session that was subscribed to none of them changes nothing.
        if before > known.subscriptions {
            known.expires_ms = expires_ms;
            if known.subscriptions == 0 {
                self.remember(&mut users, user);
            }
        }
    }

    /// The user has no session that is subscribed any more.
    fn remember(&self, users: &mut Users, user: UserKey) {
        users.enter_order(user);
        if self.remembered.fetch_add(1, Ordering::Relaxed) >= self.users_max {
            self.evict(users);
        }
    }

    /// Forgets where a user stopped, on all channels.
    pub fn remove(&self, user: UserKey) {
        let mut users = self.lock(user);
        self.note_changed(&mut users, user);
        let Some(known) = users.by_key.get_mut(&user) else {
            return;
        };
        let was_remembered = known.subscriptions == 0 && !known.channels.is_empty();
        known.channels.retain(|_, seen| seen.subscriptions > 0);
        if known.channels.is_empty() {
            if was_remembered {
                self.remembered.fetch_sub(1, Ordering::Relaxed);
            }
            users.remove_empty(user);
        }
    }

    /// Forgets the users who went first, in one part of the table, until there is room for one more.
    #[cold]
    fn evict(&self, users: &mut Users) {
        while self.remembered.load(Ordering::Relaxed) > self.users_max {
            let Some((user, expires_ms)) = users.order.pop_front() else {
                return;
            };
            // Who has come back and gone again went later than this.
            if self.look_at(users, user, |known| known.expires_ms == expires_ms) {
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Looks at a user who was first in the order: forgets it if it has no session and `is_due`, and
    /// gives it a new place if it is not due; whether it was forgotten.
    fn look_at(&self, users: &mut Users, user: UserKey, is_due: impl Fn(&User) -> bool) -> bool {
        let Some(known) = users.by_key.get_mut(&user) else {
            return false;
        };
        known.is_in_order = false;
        if known.channels.is_empty() {
            users.by_key.remove(&user);
            return false;
        }
        if known.subscriptions > 0 {
            return false;
        }
        let is_due = is_due(known);
        if is_due {
            users.by_key.remove(&user);
            self.note_changed(users, user);
            self.remembered.fetch_sub(1, Ordering::Relaxed);
        } else {
            users.enter_order(user);
        }
        is_due
    }

    /// Forgets who went too long ago, in one part of the table: call it with each number in turn. A
    /// part that a shard has locked is left out, as its thread may have lost its core.
    pub fn sweep(&self, turn: usize, now_ms: u64) {
        let Ok(mut users) = self.stripes[turn % STRIPES].0.try_lock() else {
            return;
        };
        for _ in 0..OFFLINE_SWEEP_MAX {
            match users.order.front().copied() {
                Some((user, expires_ms)) if expires_ms <= now_ms => {
                    users.order.pop_front();
                    self.look_at(&mut users, user, |known| known.expires_ms <= now_ms);
                }
                _ => break,
            }
        }
        if is_mostly_empty(users.by_key.len(), users.by_key.capacity()) {
            users.by_key.shrink_to_fit();
            users.order.shrink_to_fit();
        }
    }

    /// Users without a session that are remembered, and those that were forgotten early for others.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.remembered), load(&self.evicted))
    }

    fn lock(&self, user: UserKey) -> MutexGuard<'_, Users> {
        let stripe = (user.0 >> 58) as usize;
        lock(&self.stripes[stripe].0)
    }
}

/// A panic of another thread leaves a stripe as it was.
fn lock(stripe: &Mutex<Users>) -> MutexGuard<'_, Users> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ChannelTag = ChannelTag::from_bits(1);
    const B: ChannelTag = ChannelTag::from_bits(2);

    #[test]
    fn the_last_session_of_a_user_says_where_the_user_stopped() {
        let users = OfflineUsers::new(10, NameKey::random());
        let ann = users.key(DialectId::Monitoring, "ann");
        assert_eq!(users.subscribe(ann, A, 0), LastSeen::Never);
        assert_eq!(users.subscribe(ann, A, 0), LastSeen::Now);
        assert_eq!(users.subscribe(ann, B, 0), LastSeen::Never);
        users.disconnect(ann, [(A, 5)].into_iter(), 100);
        assert_eq!(users.counts(), (0, 0), "she has other sessions");
        users.disconnect(ann, [(A, 5), (B, 7)].into_iter(), 100);
        assert_eq!(users.counts(), (1, 0));
        assert_eq!(users.subscribe(ann, A, 99), LastSeen::At(5));
        assert_eq!(users.counts(), (0, 0));
        assert_eq!(users.subscribe(ann, B, 99), LastSeen::At(7));
        users.unsubscribe(ann, A);
        assert_eq!(users.subscribe(ann, A, 99), LastSeen::Never);
    }

    #[test]
    fn a_channel_that_another_session_is_subscribed_to_is_not_missed() {
        let users = OfflineUsers::new(10, NameKey::random());
        let ann = users.key(DialectId::Monitoring, "ann");
        assert_eq!(users.subscribe(ann, A, 0), LastSeen::Never);
        assert_eq!(users.subscribe(ann, B, 0), LastSeen::Never);
        // The session on A goes; the one on B stays.
        users.disconnect(ann, [(A, 3)].into_iter(), 100);
        assert_eq!(users.subscribe(ann, A, 1_000), LastSeen::At(3));
    }

    #[test]
    fn users_are_forgotten_in_time_and_when_there_are_too_many() {
        let users = OfflineUsers::new(3, NameKey::random());
        let go = |name: &str, expires_ms| {
            let user = users.key(DialectId::Monitoring, name);
            assert_eq!(users.subscribe(user, A, 0), LastSeen::Never, "{name}");
            users.disconnect(user, [(A, 1)].into_iter(), expires_ms);
            user
        };
        let names: Vec<_> = (0..200).map(|index| index.to_string()).collect();
        for name in &names {
            go(name, 50);
        }
        let (remembered, evicted) = users.counts();
        // Each part of the table forgets its own users only.
        assert!(remembered <= 3 + STRIPES as u64, "{remembered}");
        assert_eq!(remembered + evicted, 200);
        (0..STRIPES).for_each(|turn| users.sweep(turn, 50));
        assert_eq!(users.counts().0, 0);
        check_empty(&users);
        let late = go("late", 60);
        assert_eq!(users.subscribe(late, A, 60), LastSeen::Never, "too late");
    }

    #[test]
    fn a_user_can_be_forgotten() {
        let users = OfflineUsers::new(3, NameKey::random());
        let ann = users.key(DialectId::Monitoring, "ann");
        assert_eq!(users.subscribe(ann, A, 0), LastSeen::Never);
        users.disconnect(ann, [(A, 1)].into_iter(), 50);
        users.remove(ann);
        assert_eq!(users.counts(), (0, 0));
        assert_eq!(users.subscribe(ann, A, 0), LastSeen::Never);
        users.remove(ann);
        assert_eq!(users.subscribe(ann, A, 0), LastSeen::Now);
    }

    #[test]
    fn a_session_without_subscriptions_does_not_change_when_its_user_is_forgotten() {
        let users = OfflineUsers::new(10, NameKey::random());
        let ann = users.key(DialectId::Monitoring, "ann");
        assert_eq!(users.subscribe(ann, A, 0), LastSeen::Never);
        users.disconnect(ann, [(A, 1)].into_iter(), 50);
        // Another session of hers, which was subscribed to nothing.
        users.disconnect(ann, std::iter::empty(), 90);
        (0..STRIPES).for_each(|turn| users.sweep(turn, 50));
        assert_eq!(users.counts(), (0, 0));
        check_empty(&users);
    }

    #[test]
    fn users_who_come_and_go_take_one_place_each() {
        let users = OfflineUsers::new(10, NameKey::random());
        let ann = users.key(DialectId::Monitoring, "ann");
        let places = || lock(&users.stripes[(ann.0 >> 58) as usize].0).order.len();
        assert_eq!(users.subscribe(ann, A, 0), LastSeen::Never);
        users.disconnect(ann, [(A, 1)].into_iter(), 50);
        for round in 0..100 {
            // Of what another session left, A stays.
            assert_eq!(users.subscribe(ann, B, 0), LastSeen::Never);
            users.unsubscribe(ann, B);
            assert_eq!(users.subscribe(ann, A, 0), LastSeen::At(1));
            users.disconnect(ann, [(A, 1)].into_iter(), 51 + round);
            assert_eq!((users.counts(), places()), ((1, 0), 1));
        }
        // Looked at when she was to be forgotten first, and again at the right time.
        (0..STRIPES).for_each(|turn| users.sweep(turn, 149));
        assert_eq!((users.counts(), places()), ((1, 0), 1));
        for _ in 0..100 {
            assert_eq!(users.subscribe(ann, A, 0), LastSeen::At(1));
            users.unsubscribe(ann, A);
            assert_eq!(users.subscribe(ann, A, 0), LastSeen::Never);
            users.disconnect(ann, [(A, 1)].into_iter(), 150);
            assert_eq!((users.counts(), places()), ((1, 0), 1));
        }
        (0..STRIPES).for_each(|turn| users.sweep(turn, 150));
        assert_eq!(users.counts(), (0, 0));
        check_empty(&users);
    }

    #[test]
    fn what_all_nodes_know_replaces_what_this_one_knew_without_a_session() {
        let users = OfflineUsers::new(10, NameKey::random());
        let ann = users.key(DialectId::Monitoring, "ann");
        assert_eq!(users.subscribe(ann, A, 0), LastSeen::Never);
        users.disconnect(ann, [(A, 1)].into_iter(), 50);
        users.replace(ann, &[(B, Some(7))], 60);
        assert_eq!(users.counts(), (1, 0));
        assert_eq!(users.subscribe(ann, A, 0), LastSeen::Never);
        users.replace(ann, &[(A, Some(3)), (B, None)], 60);
        assert!(users.is_subscribed(ann, A) && !users.is_subscribed(ann, B));
        assert_eq!(users.subscribe(ann, A, 0), LastSeen::Now);
        assert_eq!(users.subscribe(ann, B, 0), LastSeen::Elsewhere);
        users.disconnect(ann, [(A, 4), (B, 8)].into_iter(), 60);
        users.disconnect(ann, [(A, 4)].into_iter(), 60);
        assert_eq!(users.counts(), (1, 0));
        users.replace(ann, &[], 60);
        assert_eq!(users.counts(), (0, 0));
        (0..STRIPES).for_each(|turn| users.sweep(turn, 60));
        check_empty(&users);
    }

    fn check_empty(users: &OfflineUsers) {
        for Stripe(stripe) in &users.stripes {
            let users = lock(stripe);
            assert!(users.by_key.is_empty() && users.order.is_empty());
        }
    }
}

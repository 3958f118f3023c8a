//! Who is on which channel, over all shards, and the changes that are to be announced.
//!
//! The process has one table, which a shard changes when a session subscribes to a channel or leaves
//! it. So a shard that is asked who is there asks no other shard.
//!
//! Changes are announced in *bursts*. The shard that sees the first change of a quiet channel
//! announces it at once and is the only one to announce until the channel is quiet again: the
//! changes that all shards see meanwhile are gathered here, and it takes them once per interval. So
//! no two shards announce the same change, and none is announced before an earlier one.
//!
//! ```text
//!   quiet ──change: the shard announces it──▶ burst ──interval without a change──▶ quiet
//!                                              │  ▲
//!                                              └──┘ interval with changes: announced together
//! ```

use super::channel_names::{dialect_of, name_for_clients};
use super::interest::{ChannelTag, is_mostly_empty};
use super::presence_channel::ChannelPresence;
use hashbrown::HashTable;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Independently locked parts of the table.
pub(super) const STRIPES: usize = 64;

/// What is kept of who is on a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PresenceMode {
    /// Nothing.
    #[default]
    Off,
    /// Who is there.
    Members,
    /// The same, and changes are announced to the subscribers.
    Events,
}

/// Of which channels it is kept who is there: one, or all whose names begin with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceRule {
    /// The name, or what names begin with.
    pub literal: Box<str>,
    /// Whether any rest may follow.
    pub is_prefix: bool,
    /// What is kept.
    pub mode: PresenceMode,
}

impl PresenceRule {
    fn matches(&self, channel: &str) -> bool {
        match self.is_prefix {
            true => channel.starts_with(&*self.literal),
            false => *channel == *self.literal,
        }
    }
}

/// A channel in the table.
#[derive(Clone, Copy, Debug)]
pub struct PresencePlace<'a> {
    /// The tag of its full name.
    pub tag: ChannelTag,
    /// Its full name.
    pub name: &'a str,
    /// Whether changes are announced.
    pub has_events: bool,
}

/// How many are on a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceCounts {
    /// Different users.
    pub users: u64,
    /// Sessions, those without a user included.
    pub sessions: u64,
}

/// What is to be done about a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresenceNews {
    /// Nothing: the user has other sessions there, or it is announced later.
    None,
    /// This shard announces that the user has joined or left, and announces what changes next until
    /// [`PresenceTable::take_changes`] says that the channel is quiet.
    Now(Arc<str>, PresenceCounts),
}

/// What has changed on a channel since it was last announced.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PresenceChanges {
    /// Users who have joined and are still there.
    pub joined: BTreeSet<Arc<str>>,
    /// Users who have left and not come back.
    pub left: BTreeSet<Arc<str>>,
    /// How many are there now.
    pub counts: PresenceCounts,
}

/// A part of the members of a channel, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresencePage {
    /// Users, each with the count of its sessions there.
    pub members: Vec<(Arc<str>, u32)>,
    /// How many there are in all.
    pub counts: PresenceCounts,
    /// Whether no members follow.
    pub is_complete: bool,
}

/// What the table holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceStats {
    /// Channels.
    pub channels: u64,
    /// Users, once for each of their channels.
    pub members: u64,
    /// Sessions of users for whom there was no room among the members.
    pub unlisted: u64,
    /// Announcements.
    pub announced: u64,
    /// Changes that were not announced at once but gathered.
    pub gathered: u64,
}

/// Who is on which channel.
#[derive(Debug)]
pub struct PresenceTable {
    rules: Vec<PresenceRule>,
    stripes: Box<[Stripe]>,
    members_max: u64,
    interval_ms: u64,
    /// Whether other nodes are told of the sessions of this one.
    is_shared: bool,
    /// Parts with channels of which they are to be told something, as a mask.
    pub(super) unsent_parts: AtomicU64,
    channels: AtomicU64,
    pub(super) members: AtomicU64,
    unlisted: AtomicU64,
    announced: AtomicU64,
    pub(super) gathered: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(Mutex<Part>);

#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) channels: HashTable<ChannelPresence>,
    /// Channels of which other nodes are to be told something.
    pub(super) unsent: Vec<ChannelTag>,
}

impl Default for PresenceTable {
    fn default() -> Self {
        Self::new(Vec::new(), u64::MAX, 1_000)
    }
}

impl PresenceTable {
    /// An empty table of at most `members_max` members in all, whose changes are announced once per
    /// `interval_ms`. The first rule that matches a channel counts.
    #[must_use]
    pub fn new(rules: Vec<PresenceRule>, members_max: u64, interval_ms: u64) -> Self {
        let stripes = std::iter::repeat_with(Stripe::default);
        Self {
            rules,
            stripes: stripes.take(STRIPES).collect(),
            members_max,
            interval_ms,
            is_shared: false,
            unsent_parts: AtomicU64::new(0),
            channels: AtomicU64::new(0),
            members: AtomicU64::new(0),
            unlisted: AtomicU64::new(0),
            announced: AtomicU64::new(0),
            gathered: AtomicU64::new(0),
        }
    }

    /// What is kept of a channel, by its full name.
    #[must_use]
    pub fn mode_of(&self, channel: &str) -> PresenceMode {
        if self.rules.is_empty() {
            return PresenceMode::Off;
        }
        let channel = name_for_clients(channel);
        let mut rules = self.rules.iter();
        let rule = rules.find(|rule| rule.matches(channel));
        rule.map_or(PresenceMode::Off, |rule| rule.mode)
    }

    /// The same, of which other nodes are told.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.is_shared = true;
        self
    }

    /// Whether it is known of a channel, by its full name, who of all nodes is there.
    #[must_use]
    pub fn is_shared(&self, channel: &str) -> bool {
        self.is_shared
            && (self.mode_of(channel) != PresenceMode::Off || is_of_online_users(channel))
    }

    /// Whether it is announced who comes to a channel, by its full name, and who leaves.
    pub(super) fn has_events(&self, channel: &str) -> bool {
        self.mode_of(channel) == PresenceMode::Events || is_of_online_users(channel)
    }

    /// Time between two announcements of a channel, milliseconds.
    #[must_use]
    pub fn interval_ms(&self) -> u64 {
        self.interval_ms
    }

    /// A session of `user`, or without one, has subscribed to a channel. Returns also whether the
    /// session is one of a member: it is to leave as what it joined.
    #[must_use]
    pub fn join(
        &self,
        place: PresencePlace<'_>,
        user: Option<&str>,
        shard: u16,
    ) -> (bool, PresenceNews) {
        let mut part = self.lock(place.tag);
        let Part { channels, unsent } = &mut *part;
        let channel = self.open(channels, (place.tag, place.name));
        channel.sessions += 1;
        let Some(user) = user else {
            self.note_unsent(channel, unsent, None);
            return (false, PresenceNews::None);
        };
        if let Some((user, _)) = channel.members.get_key_value(user) {
            let user = Arc::clone(user);
            if let Some(sessions) = channel.members.get_mut(&user) {
                sessions.here += 1;
            }
            self.note_unsent(channel, unsent, Some(&user));
            return (true, PresenceNews::None);
        }
        if !self.admit_member() {
            self.note_unsent(channel, unsent, None);
            return (false, PresenceNews::None);
        }
        let user: Arc<str> = user.into();
        channel.members.entry(Arc::clone(&user)).or_default().here = 1;
        self.note_unsent(channel, unsent, Some(&user));
        (true, self.news(channel, place, user, true, shard))
    }

    /// Whether there is room for one member more, who is counted then.
    pub(super) fn admit_member(&self) -> bool {
        // Relaxed, here and below: counts that order nothing.
        let has_room = self.members.fetch_add(1, Ordering::Relaxed) < self.members_max;
        if !has_room {
            self.members.fetch_sub(1, Ordering::Relaxed);
            self.unlisted.fetch_add(1, Ordering::Relaxed);
        }
        has_room
    }

    /// The channel of the table, which it is in from now on.
    pub(super) fn open<'a>(
        &self,
        channels: &'a mut HashTable<ChannelPresence>,
        (tag, name): (ChannelTag, &str),
    ) -> &'a mut ChannelPresence {
        let is_it = |it: &ChannelPresence| *it.name == *name;
        let entry = channels.entry(tag.bits(), is_it, |it| it.tag.bits());
        let channel = entry.or_insert_with(|| {
            self.channels.fetch_add(1, Ordering::Relaxed);
            ChannelPresence::new(tag, name)
        });
        channel.into_mut()
    }

    /// Notes that other nodes are to be told of a user, or of the count of sessions.
    pub(super) fn note_unsent(
        &self,
        channel: &mut ChannelPresence,
        unsent: &mut Vec<ChannelTag>,
        user: Option<&Arc<str>>,
    ) {
        if self.is_shared && channel.note_unsent(user) {
            unsent.push(channel.tag);
            let bit = 1 << channel.tag.stripe();
            self.unsent_parts.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// A session has left a channel; `user` is its user if the session was one of a member.
    #[must_use]
    pub fn leave(&self, place: PresencePlace<'_>, user: Option<&str>, shard: u16) -> PresenceNews {
        let mut part = self.lock(place.tag);
        let Part { channels, unsent } = &mut *part;
        let Some(channel) = find(channels, (place.tag, place.name)) else {
            return PresenceNews::None;
        };
        channel.sessions = channel.sessions.saturating_sub(1);
        let mut news = PresenceNews::None;
        let known = user.and_then(|user| channel.members.get_key_value(user));
        let user = known.map(|(user, _)| Arc::clone(user));
        self.note_unsent(channel, unsent, user.as_ref());
        if let Some(user) = user
            && let Some(sessions) = channel.members.get_mut(&user)
        {
            sessions.here = sessions.here.saturating_sub(1);
            if sessions.sum() == 0 {
                channel.members.remove(&user);
                self.members.fetch_sub(1, Ordering::Relaxed);
                news = self.news(channel, place, user, false, shard);
            }
        }
        if channel.is_over() {
            self.remove(channels, (place.tag, place.name));
        }
        news
    }

    fn news(
        &self,
        channel: &mut ChannelPresence,
        place: PresencePlace<'_>,
        user: Arc<str>,
        has_joined: bool,
        shard: u16,
    ) -> PresenceNews {
        if !place.has_events {
            return PresenceNews::None;
        }
        if channel.note(&user, has_joined, shard) {
            self.announced.fetch_add(1, Ordering::Relaxed);
            return PresenceNews::Now(user, channel.counts());
        }
        self.gathered.fetch_add(1, Ordering::Relaxed);
        PresenceNews::None
    }

    /// What has changed since the shard has last announced a change of the channel. `None` when
    /// nothing has: the channel is quiet from now on, and the shard does not announce its next
    /// change any more. All that the shard has announced must be in the ring by then.
    #[must_use]
    pub fn take_changes(&self, place: PresencePlace<'_>, shard: u16) -> Option<PresenceChanges> {
        let channels = &mut self.lock(place.tag).channels;
        let channel = find(channels, (place.tag, place.name))?;
        let counts = channel.counts();
        let burst = channel.burst.as_mut().filter(|it| it.shard == shard)?;
        if burst.joined.is_empty() && burst.left.is_empty() {
            channel.burst = None;
            if channel.is_over() {
                self.remove(channels, (place.tag, place.name));
            }
            return None;
        }
        self.announced.fetch_add(1, Ordering::Relaxed);
        Some(PresenceChanges {
            joined: std::mem::take(&mut burst.joined),
            left: std::mem::take(&mut burst.left),
            counts,
        })
    }

    /// At most `limit` members of a channel, whose ids have about `bytes_max` bytes together: the
    /// first ones, or those after a user.
    #[must_use]
    pub fn page(
        &self,
        (tag, name): (ChannelTag, &str),
        after: Option<&str>,
        (limit, bytes_max): (usize, usize),
    ) -> PresencePage {
        let channels = &mut self.lock(tag).channels;
        let Some(channel) = find(channels, (tag, name)) else {
            return PresencePage {
                is_complete: true,
                ..PresencePage::default()
            };
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = channel.members.range::<str, _>((from, Bound::Unbounded));
        let mut members = Vec::new();
        let mut bytes = 0;
        while members.len() < limit && bytes < bytes_max {
            let Some((user, sessions)) = rest.next() else {
                break;
            };
            bytes += user.len();
            members.push((Arc::clone(user), sessions.sum()));
        }
        PresencePage {
            is_complete: rest.next().is_none(),
            members,
            counts: channel.counts(),
        }
    }

    /// What it holds and has done.
    #[must_use]
    pub fn stats(&self) -> PresenceStats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        PresenceStats {
            channels: load(&self.channels),
            members: load(&self.members),
            unlisted: load(&self.unlisted),
            announced: load(&self.announced),
            gathered: load(&self.gathered),
        }
    }

    pub(super) fn remove(
        &self,
        channels: &mut HashTable<ChannelPresence>,
        (tag, name): (ChannelTag, &str),
    ) {
        let is_it = |it: &ChannelPresence| *it.name == *name;
        if let Ok(entry) = channels.find_entry(tag.bits(), is_it) {
            entry.remove();
            self.channels.fetch_sub(1, Ordering::Relaxed);
        }
        if is_mostly_empty(channels.len(), channels.capacity()) {
            channels.shrink_to_fit(|it| it.tag.bits());
        }
    }

    pub(super) fn lock(&self, tag: ChannelTag) -> MutexGuard<'_, Part> {
        self.lock_part(tag.stripe())
    }

    pub(super) fn lock_part(&self, part: usize) -> MutexGuard<'_, Part> {
        let Stripe(part) = &self.stripes[part];
        // A panic of another thread leaves a part as it was.
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_of_online_users(channel: &str) -> bool {
    dialect_of(name_for_clients(channel)).is_some()
}

fn find<'a>(
    channels: &'a mut HashTable<ChannelPresence>,
    (tag, name): (ChannelTag, &str),
) -> Option<&'a mut ChannelPresence> {
    channels.find_mut(tag.bits(), |it| *it.name == *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWS: PresencePlace<'_> = PresencePlace {
        tag: ChannelTag::from_bits(7),
        name: "news",
        has_events: true,
    };

    fn table(members_max: u64) -> PresenceTable {
        PresenceTable::new(Vec::new(), members_max, 1_000)
    }

    fn names(users: &BTreeSet<Arc<str>>) -> Vec<&str> {
        users.iter().map(|user| &**user).collect()
    }

    fn now(user: &str, users: u64, sessions: u64) -> PresenceNews {
        PresenceNews::Now(user.into(), PresenceCounts { users, sessions })
    }

    #[test]
    fn a_user_is_there_from_the_first_session_to_the_last_on_whatever_shard() {
        let table = table(10);
        assert_eq!(table.join(NEWS, Some("ann"), 0), (true, now("ann", 1, 1)));
        assert_eq!(table.take_changes(NEWS, 0), None);
        assert_eq!(table.join(NEWS, Some("ann"), 1), (true, PresenceNews::None));
        assert_eq!(table.join(NEWS, None, 2), (false, PresenceNews::None));
        let page = table.page((NEWS.tag, NEWS.name), None, (10, 1_000));
        assert_eq!(page.members, [("ann".into(), 2)]);
        let counts = PresenceCounts {
            users: 1,
            sessions: 3,
        };
        assert_eq!((page.counts, page.is_complete), (counts, true));
        assert_eq!(table.leave(NEWS, Some("ann"), 0), PresenceNews::None);
        assert_eq!(table.leave(NEWS, None, 2), PresenceNews::None);
        assert_eq!(table.leave(NEWS, Some("ann"), 1), now("ann", 0, 0));
        assert_eq!(table.take_changes(NEWS, 1), None);
        assert_eq!(table.stats().channels, 0);
    }

    #[test]
    fn one_shard_announces_what_all_see_until_the_channel_is_quiet() {
        let table = table(10);
        assert_eq!(table.join(NEWS, Some("ann"), 0), (true, now("ann", 1, 1)));
        for user in ["bob", "cem"] {
            assert_eq!(table.join(NEWS, Some(user), 1), (true, PresenceNews::None));
        }
        assert_eq!(table.leave(NEWS, Some("cem"), 2), PresenceNews::None);
        assert_eq!(table.leave(NEWS, Some("ann"), 2), PresenceNews::None);
        assert_eq!(table.take_changes(NEWS, 1), None, "shard 0 announces");
        let changes = table.take_changes(NEWS, 0).unwrap();
        assert_eq!(names(&changes.joined), ["bob"]);
        assert_eq!(names(&changes.left), ["ann"]);
        assert_eq!(changes.counts.users, 1);
        // Still a burst, and nobody comes to stay.
        assert_eq!(table.join(NEWS, Some("ann"), 1), (true, PresenceNews::None));
        assert_eq!(table.leave(NEWS, Some("ann"), 1), PresenceNews::None);
        assert_eq!(table.take_changes(NEWS, 0), None);
        // Quiet, so that any shard may be the next.
        assert_eq!(table.leave(NEWS, Some("bob"), 2), now("bob", 0, 0));
        assert_eq!((table.stats().announced, table.stats().gathered), (3, 6));
    }

    #[test]
    fn members_are_read_in_pages_and_bounded_over_all_channels() {
        let table = table(5);
        let joined = (0..7).map(|index| table.join(NEWS, Some(&format!("u{index}")), 0).0);
        assert_eq!(joined.filter(|is_listed| *is_listed).count(), 5);
        let read = |after, limit, bytes_max| {
            let page = table.page((NEWS.tag, NEWS.name), after, (limit, bytes_max));
            let members = page.members.iter().map(|(user, _)| user.to_string());
            (members.collect::<Vec<_>>().concat(), page.is_complete)
        };
        assert_eq!(read(None, 3, 100), ("u0u1u2".into(), false));
        assert_eq!(read(Some("u2"), 3, 100), ("u3u4".into(), true));
        assert_eq!(read(None, 5, 100), ("u0u1u2u3u4".into(), true));
        assert_eq!(read(Some("u"), 5, 3), ("u0u1".into(), false));
        assert_eq!(read(Some("u9"), 5, 3), (String::new(), true));
        assert_eq!(table.stats().unlisted, 2);
        let counts = table.page((NEWS.tag, NEWS.name), None, (0, 0)).counts;
        assert_eq!((counts.users, counts.sessions), (5, 7));
        // Those for whom there was no room leave as what they came.
        (0..2).for_each(|_| assert_eq!(table.leave(NEWS, None, 0), PresenceNews::None));
        for index in 0..5 {
            assert_eq!(
                table.leave(NEWS, Some(&format!("u{index}")), 0),
                PresenceNews::None
            );
        }
        assert_eq!(table.stats().members, 0);
    }

    #[test]
    fn a_channel_without_events_announces_nothing() {
        let table = table(5);
        let quiet = PresencePlace {
            has_events: false,
            ..NEWS
        };
        assert_eq!(
            table.join(quiet, Some("ann"), 0),
            (true, PresenceNews::None)
        );
        assert_eq!(table.leave(quiet, Some("ann"), 0), PresenceNews::None);
        assert_eq!(table.stats(), PresenceStats::default());
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rule = |literal: &str, is_prefix, mode| PresenceRule {
            literal: literal.into(),
            is_prefix,
            mode,
        };
        let rules = vec![
            rule("room:x", false, PresenceMode::Off),
            rule("room:", true, PresenceMode::Events),
        ];
        let table = PresenceTable::new(rules, 1, 1_000);
        assert_eq!(table.mode_of("room:x"), PresenceMode::Off);
        assert_eq!(table.mode_of("tenant:t:room:xy"), PresenceMode::Events);
        assert_eq!(table.mode_of("news"), PresenceMode::Off);
    }
}

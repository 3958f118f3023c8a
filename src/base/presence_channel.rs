//! Who is on one channel: the sessions of this node, and what other nodes have told of theirs.

use super::interest::ChannelTag;
use super::presence::PresenceCounts;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Who of one node is on a channel, or what has changed of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePresence {
    /// Sessions, those without a user included.
    pub sessions: u64,
    /// Users with the counts of their sessions; 0 = the user has left.
    pub users: Vec<(Arc<str>, u32)>,
}

/// Sessions of a member.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MemberSessions {
    pub(super) here: u32,
    elsewhere: u32,
}

impl MemberSessions {
    pub(super) fn sum(self) -> u32 {
        self.here.saturating_add(self.elsewhere)
    }
}

/// A channel in the table.
#[derive(Debug)]
pub(super) struct ChannelPresence {
    pub(super) tag: ChannelTag,
    pub(super) name: Box<str>,
    /// Users with the counts of their sessions, which are not 0.
    pub(super) members: BTreeMap<Arc<str>, MemberSessions>,
    /// Sessions on this node, of the members and of others.
    pub(super) sessions: u64,
    pub(super) burst: Option<Box<Burst>>,
    others: Option<Box<OtherNodes>>,
    /// Users whose sessions here have changed since the other nodes were told.
    unsent: Option<BTreeSet<Arc<str>>>,
}

/// Changes that are announced together.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// The shard that announces.
    pub(super) shard: u16,
    pub(super) joined: BTreeSet<Arc<str>>,
    pub(super) left: BTreeSet<Arc<str>>,
}

/// What other nodes have told.
#[derive(Debug, Default)]
struct OtherNodes {
    sessions: u64,
    by_node: HashMap<u64, OtherNode>,
}

#[derive(Debug, Default)]
struct OtherNode {
    sessions: u64,
    users: HashMap<Arc<str>, u32>,
}

/// A user who has joined (true) or left.
pub(super) type MemberChange = (Arc<str>, bool);

impl ChannelPresence {
    pub(super) fn new(tag: ChannelTag, name: &str) -> Self {
        Self {
            tag,
            name: name.into(),
            members: BTreeMap::new(),
            sessions: 0,
            burst: None,
            others: None,
            unsent: None,
        }
    }

    pub(super) fn counts(&self) -> PresenceCounts {
        let elsewhere = self.others.as_ref().map_or(0, |others| others.sessions);
        PresenceCounts {
            users: self.members.len() as u64,
            sessions: self.sessions.saturating_add(elsewhere),
        }
    }

    /// Whether nothing of it need be known any more.
    pub(super) fn is_over(&self) -> bool {
        self.sessions == 0 && self.burst.is_none() && self.others.is_none() && self.unsent.is_none()
    }

    /// Notes that a user has joined or left; whether that is to be announced at once.
    pub(super) fn note(&mut self, user: &Arc<str>, has_joined: bool, shard: u16) -> bool {
        let Some(burst) = &mut self.burst else {
            let burst = Burst {
                shard,
                ..Burst::default()
            };
            self.burst = Some(Box::new(burst));
            return true;
        };
        burst.add(user, has_joined);
        false
    }

    /// Notes what has changed on other nodes, for the next announcement; whether the shard is to begin to
    /// announce.
    pub(super) fn note_elsewhere(&mut self, changes: &[MemberChange], shard: u16) -> bool {
        if changes.is_empty() {
            return false;
        }
        let is_new = self.burst.is_none();
        let burst = self.burst.get_or_insert_default();
        if is_new {
            burst.shard = shard;
        }
        for (user, has_joined) in changes {
            burst.add(user, *has_joined);
        }
        is_new
    }

    /// Notes that other nodes are to be told of a user, or of the count of sessions; whether they were to be
    /// told of nothing before.
    pub(super) fn note_unsent(&mut self, user: Option<&Arc<str>>) -> bool {
        let is_first = self.unsent.is_none();
        let unsent = self.unsent.get_or_insert_default();
        unsent.extend(user.cloned());
        is_first
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.unsent.is_some()
    }

    /// What other nodes are to be told, if there is something.
    pub(super) fn take_unsent(&mut self) -> Option<NodePresence> {
        let unsent = self.unsent.take()?;
        let here = |user: &Arc<str>| self.members.get(user).map_or(0, |sessions| sessions.here);
        let users = unsent.iter().map(|user| (Arc::clone(user), here(user)));
        Some(NodePresence {
            sessions: self.sessions,
            users: users.collect(),
        })
    }

    /// The sessions of this node.
    pub(super) fn here(&self) -> NodePresence {
        let members = self.members.iter();
        let members = members.filter(|(_, sessions)| sessions.here > 0);
        let users = members.map(|(user, sessions)| (Arc::clone(user), sessions.here));
        NodePresence {
            sessions: self.sessions,
            users: users.collect(),
        }
    }

    /// Takes over what a node tells: with `is_all` all of its users, else those that have changed. A user
    /// who would be new is counted in only if `admit` says so.
    pub(super) fn update_node(
        &mut self,
        node: u64,
        told: &NodePresence,
        is_all: bool,
        admit: impl Fn() -> bool,
    ) -> Vec<MemberChange> {
        let others = self.others.get_or_insert_default();
        let known = others.by_node.entry(node).or_default();
        // What another node tells may be anything.
        let others_sessions = others.sessions.saturating_sub(known.sessions);
        others.sessions = others_sessions.saturating_add(told.sessions);
        known.sessions = told.sessions;
        let mut changes = Vec::new();
        let gone: Vec<_> = match is_all {
            false => Vec::new(),
            true => {
                let told: BTreeSet<&str> = told.users.iter().map(|(user, _)| &**user).collect();
                let users = known.users.keys();
                users.filter(|it| !told.contains(&***it)).cloned().collect()
            }
        };
        let gone = gone.iter().map(|user| (user, 0));
        let told = told.users.iter().map(|(user, count)| (user, *count));
        for (user, count) in gone.chain(told) {
            let before = known.users.get(user).copied().unwrap_or(0);
            let member = match self.members.get_mut(user) {
                Some(member) => member,
                None if count == 0 || !admit() => continue,
                None => {
                    changes.push((Arc::clone(user), true));
                    self.members.entry(Arc::clone(user)).or_default()
                }
            };
            member.elsewhere = member
                .elsewhere
                .saturating_sub(before)
                .saturating_add(count);
            if member.sum() == 0 {
                self.members.remove(user);
                changes.push((Arc::clone(user), false));
            }
            match count {
                0 => known.users.remove(user),
                count => known.users.insert(Arc::clone(user), count),
            };
        }
        if known.sessions == 0 && known.users.is_empty() {
            others.by_node.remove(&node);
        }
        if others.by_node.is_empty() {
            self.others = None;
        }
        changes
    }

    /// The other nodes with sessions on it.
    pub(super) fn nodes(&self) -> Vec<u64> {
        let others = self.others.iter();
        let nodes = others.flat_map(|others| others.by_node.keys().copied());
        nodes.collect()
    }

    /// A node is not there any more.
    pub(super) fn remove_node(&mut self, node: u64) -> Vec<MemberChange> {
        self.update_node(node, &NodePresence::default(), true, || false)
    }
}

impl Burst {
    fn add(&mut self, user: &Arc<str>, has_joined: bool) {
        let (same, opposite) = match has_joined {
            true => (&mut self.joined, &mut self.left),
            false => (&mut self.left, &mut self.joined),
        };
        if !opposite.remove(user) {
            same.insert(Arc::clone(user));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> ChannelPresence {
        ChannelPresence::new(ChannelTag::from_bits(1), "news")
    }

    fn told(sessions: u64, users: &[(&str, u32)]) -> NodePresence {
        let users = users.iter().map(|(user, count)| ((*user).into(), *count));
        NodePresence {
            sessions,
            users: users.collect(),
        }
    }

    fn changes(changes: &[MemberChange]) -> Vec<(&str, bool)> {
        let changes = changes.iter();
        changes.map(|(user, joined)| (&**user, *joined)).collect()
    }

    #[test]
    fn a_user_of_two_nodes_joins_once_and_leaves_with_the_last_session() {
        let mut channel = channel();
        let ann = told(1, &[("ann", 1)]);
        let joined = channel.update_node(7, &ann, false, || true);
        assert_eq!(changes(&joined), [("ann", true)]);
        assert_eq!(channel.update_node(8, &ann, false, || true), []);
        assert_eq!(channel.counts().users, 1);
        assert_eq!(channel.counts().sessions, 2);
        assert_eq!(channel.nodes().len(), 2);
        assert_eq!(
            channel.update_node(7, &told(0, &[("ann", 0)]), false, || true),
            []
        );
        let left = channel.remove_node(8);
        assert_eq!(changes(&left), [("ann", false)]);
        assert!(channel.is_over() && channel.members.is_empty());
    }

    #[test]
    fn what_a_node_tells_in_whole_replaces_what_it_has_told() {
        let mut channel = channel();
        let first = told(4, &[("ann", 1), ("bob", 2)]);
        channel.update_node(7, &first, true, || true);
        let second = told(3, &[("bob", 1), ("cem", 2)]);
        let changed = channel.update_node(7, &second, true, || true);
        assert_eq!(changes(&changed), [("ann", false), ("cem", true)]);
        assert_eq!(channel.counts().sessions, 3);
        assert_eq!(channel.update_node(7, &second, true, || true), [], "again");
        assert_eq!(channel.members["bob"].sum(), 1);
    }

    #[test]
    fn who_has_no_room_is_not_listed_and_leaves_nothing_behind() {
        let mut channel = channel();
        let ann = told(1, &[("ann", 1)]);
        assert_eq!(channel.update_node(7, &ann, false, || false), []);
        assert_eq!((channel.counts().users, channel.counts().sessions), (0, 1));
        assert_eq!(
            channel.update_node(7, &told(0, &[("ann", 0)]), false, || true),
            []
        );
        assert!(channel.is_over());
    }

    #[test]
    fn counts_that_are_too_large_stay_as_large_as_can_be() {
        let mut channel = channel();
        channel.sessions = 1;
        let huge = told(u64::MAX, &[("eve", u32::MAX)]);
        channel.update_node(7, &huge, false, || true);
        channel.update_node(8, &huge, false, || true);
        assert_eq!(channel.counts().sessions, u64::MAX);
        assert_eq!(channel.members["eve"].sum(), u32::MAX);
        channel.remove_node(7);
        channel.remove_node(8);
        assert_eq!(channel.counts().sessions, 1);
    }

    #[test]
    fn other_nodes_are_told_of_the_last_state_only() {
        let mut channel = channel();
        let ann: Arc<str> = "ann".into();
        let sessions = MemberSessions {
            here: 2,
            elsewhere: 5,
        };
        channel.members.insert(Arc::clone(&ann), sessions);
        channel.sessions = 3;
        assert!(channel.note_unsent(Some(&ann)) && !channel.note_unsent(None));
        assert!(!channel.note_unsent(Some(&"bob".into())));
        let unsent = channel.take_unsent().unwrap();
        assert_eq!(unsent, told(3, &[("ann", 2), ("bob", 0)]));
        assert_eq!(channel.take_unsent(), None);
        assert_eq!(channel.here(), told(3, &[("ann", 2)]));
    }
}

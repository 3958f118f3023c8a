//! What the table of presence tells other nodes, and what it takes over from them.

use super::interest::ChannelTag;
use super::presence::{Part, PresenceTable};
use super::presence_channel::{ChannelPresence, MemberChange, NodePresence};
use std::sync::atomic::Ordering;

/// The sessions of this node on a channel, or what has changed of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPresence {
    /// The tag of the channel.
    pub tag: ChannelTag,
    /// Its full name.
    pub name: Box<str>,
    /// Its sessions.
    pub presence: NodePresence,
}

/// What a node tells of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// What has changed.
    Changes,
    /// All.
    All,
}

impl PresenceTable {
    /// Parts of the table.
    pub const PARTS: usize = super::presence::STRIPES;

    /// Takes what other nodes are to be told.
    #[must_use]
    pub fn take_unsent(&self) -> Vec<LocalPresence> {
        // Relaxed: a bit that comes late is seen the next time.
        let parts = self.unsent_parts.swap(0, Ordering::Relaxed);
        let mut taken = Vec::new();
        for part in (0..Self::PARTS).filter(|part| parts & 1 << part != 0) {
            let mut part = self.lock_part(part);
            for tag in std::mem::take(&mut part.unsent) {
                let is_it = |it: &ChannelPresence| it.tag == tag && it.has_unsent();
                let Some(channel) = part.channels.find_mut(tag.bits(), is_it) else {
                    continue;
                };
                let name = channel.name.clone();
                let presence = channel.take_unsent().unwrap_or_default();
                if channel.is_over() {
                    self.remove(&mut part.channels, (tag, &name));
                }
                taken.push(LocalPresence {
                    tag,
                    name,
                    presence,
                });
            }
        }
        taken
    }

    /// Puts back what other nodes may not have been told.
    pub fn put_back(&self, told: &[LocalPresence]) {
        for LocalPresence {
            tag,
            name,
            presence,
        } in told
        {
            let mut part = self.lock(*tag);
            let Part { channels, unsent } = &mut *part;
            let channel = self.open(channels, (*tag, name));
            self.note_unsent(channel, unsent, None);
            for (user, _) in &presence.users {
                self.note_unsent(channel, unsent, Some(user));
            }
        }
    }

    /// All sessions of this node on the channels of one part of the table.
    #[must_use]
    pub fn here(&self, part: usize) -> Vec<LocalPresence> {
        let part = self.lock_part(part);
        let channels = part.channels.iter();
        let channels = channels.filter(|channel| channel.sessions > 0);
        let here = channels.map(|channel| LocalPresence {
            tag: channel.tag,
            name: channel.name.clone(),
            presence: channel.here(),
        });
        here.collect()
    }

    /// Whether sessions of this node are on a channel.
    #[must_use]
    pub fn has_sessions(&self, tag: ChannelTag, name: &str) -> bool {
        let part = self.lock(tag);
        let is_it = |it: &ChannelPresence| *it.name == *name;
        let channel = part.channels.find(tag.bits(), is_it);
        channel.is_some_and(|channel| channel.sessions > 0)
    }

    /// Takes over what a node tells of a channel. Whether `shard` is to announce what has changed, and what
    /// changes next.
    #[must_use]
    pub fn update_node(
        &self,
        channel: (ChannelTag, &str),
        (node, told, telling): (u64, &NodePresence, Telling),
        shard: u16,
    ) -> bool {
        let has_events = self.has_events(channel.1);
        self.change(channel, |known| {
            let changes =
                known.update_node(node, told, telling == Telling::All, || self.admit_member());
            self.note_changes(known, &changes, has_events.then_some(shard))
        })
    }

    /// Takes over what nodes have on a channel, each in whole. Without `shard`, nothing of it is announced: it
    /// was so before. Returns the same.
    #[must_use]
    pub fn update_nodes(
        &self,
        channel: (ChannelTag, &str),
        nodes: &[(u64, NodePresence)],
        shard: Option<u16>,
    ) -> bool {
        let shard = shard.filter(|_| self.has_events(channel.1));
        self.change(channel, |known| {
            let mut changes = Vec::new();
            for (node, told) in nodes {
                changes.extend(known.update_node(*node, told, true, || self.admit_member()));
            }
            self.note_changes(known, &changes, shard)
        })
    }

    /// Knows nothing of other nodes on a channel any more.
    pub fn remove_nodes(&self, channel: (ChannelTag, &str)) {
        let _ = self.change(channel, |known| {
            let nodes = known.nodes().into_iter();
            let changes: Vec<_> = nodes.flat_map(|node| known.remove_node(node)).collect();
            self.note_changes(known, &changes, None)
        });
    }

    /// A node is not there any more, on all channels. Returns those on which `shard_of` is to announce.
    #[must_use]
    pub fn remove_node(
        &self,
        node: u64,
        shard_of: impl Fn(ChannelTag) -> u16,
    ) -> Vec<(ChannelTag, Box<str>)> {
        let mut to_announce = Vec::new();
        for part in 0..Self::PARTS {
            let mut part = self.lock_part(part);
            let mut over = Vec::new();
            for channel in &mut part.channels {
                if !channel.nodes().contains(&node) {
                    continue;
                }
                let changes = channel.remove_node(node);
                let shard = shard_of(channel.tag);
                let shard = self.has_events(&channel.name).then_some(shard);
                if self.note_changes(channel, &changes, shard) {
                    to_announce.push((channel.tag, channel.name.clone()));
                }
                if channel.is_over() {
                    over.push((channel.tag, channel.name.clone()));
                }
            }
            for (tag, name) in over {
                self.remove(&mut part.channels, (tag, &name));
            }
        }
        to_announce
    }

    fn change(
        &self,
        (tag, name): (ChannelTag, &str),
        change: impl FnOnce(&mut ChannelPresence) -> bool,
    ) -> bool {
        let channels = &mut self.lock(tag).channels;
        let channel = self.open(channels, (tag, name));
        let begins = change(channel);
        if channel.is_over() {
            self.remove(channels, (tag, name));
        }
        begins
    }

    /// Counts members who have left, and notes what is to be announced.
    fn note_changes(
        &self,
        channel: &mut ChannelPresence,
        changes: &[MemberChange],
        shard: Option<u16>,
    ) -> bool {
        let left = changes.iter().filter(|(_, has_joined)| !has_joined).count();
        self.members.fetch_sub(left as u64, Ordering::Relaxed);
        let Some(shard) = shard else {
            return false;
        };
        let gathered = changes.len() as u64;
        self.gathered.fetch_add(gathered, Ordering::Relaxed);
        channel.note_elsewhere(changes, shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::presence::{PresenceNews, PresencePlace};

    const TAG: ChannelTag = ChannelTag::from_bits(7);
    const ROOM: (ChannelTag, &str) = (TAG, "dialect:assist");
    const PLACE: PresencePlace<'_> = PresencePlace {
        tag: TAG,
        name: ROOM.1,
        has_events: true,
    };

    fn told(sessions: u64, users: &[(&str, u32)]) -> NodePresence {
        let users = users.iter().map(|(user, count)| ((*user).into(), *count));
        NodePresence {
            sessions,
            users: users.collect(),
        }
    }

    fn table() -> PresenceTable {
        PresenceTable::new(Vec::new(), 10, 1_000).shared()
    }

    #[test]
    fn what_changes_here_is_told_once_and_again_only_in_whole() {
        let table = table();
        let _ = table.join(PLACE, Some("ann"), 0);
        let _ = table.join(PLACE, Some("ann"), 1);
        let _ = table.join(PLACE, None, 1);
        let expected = [LocalPresence {
            tag: TAG,
            name: ROOM.1.into(),
            presence: told(3, &[("ann", 2)]),
        }];
        assert_eq!(table.take_unsent(), expected);
        assert_eq!(table.take_unsent(), []);
        assert_eq!(table.here(TAG.stripe()), expected);
        for user in [Some("ann"), Some("ann"), None] {
            let _ = table.leave(PLACE, user, 0);
        }
        assert_eq!(table.take_changes(PLACE, 0).unwrap().left.len(), 1);
        assert_eq!(table.take_changes(PLACE, 0), None);
        assert_eq!(table.take_unsent()[0].presence, told(0, &[("ann", 0)]));
        assert_eq!(table.here(TAG.stripe()), []);
        assert_eq!(table.stats().channels, 0);
    }

    #[test]
    fn what_was_not_told_is_told_again_as_it_is_then() {
        let table = table();
        let _ = table.join(PLACE, Some("ann"), 0);
        let _ = table.take_unsent();
        let _ = table.leave(PLACE, Some("ann"), 0);
        let _ = table.take_changes(PLACE, 0);
        assert_eq!(table.take_changes(PLACE, 0), None);
        let untold = table.take_unsent();
        assert_eq!(table.stats().channels, 0);
        table.put_back(&untold);
        assert_eq!(table.take_unsent(), untold, "that nobody is there any more");
        table.put_back(&untold);
        let _ = table.join(PLACE, Some("ann"), 0);
        assert_eq!(table.take_unsent()[0].presence, told(1, &[("ann", 1)]));
    }

    #[test]
    fn changes_elsewhere_are_announced_by_one_shard_with_those_of_this_node() {
        let table = table();
        let ann = told(1, &[("ann", 1)]);
        assert!(table.update_node(ROOM, (5, &ann, Telling::Changes), 1));
        assert_eq!(table.join(PLACE, Some("bob"), 0).1, PresenceNews::None);
        assert_eq!(table.join(PLACE, Some("ann"), 0).1, PresenceNews::None);
        assert!(!table.update_node(ROOM, (6, &told(1, &[("cem", 1)]), Telling::Changes), 1));
        let changes = table.take_changes(PLACE, 1).unwrap();
        assert_eq!(changes.joined.len(), 3);
        assert_eq!((changes.counts.users, changes.counts.sessions), (3, 4));
        // The node is gone; ann is also here, and cem was there only.
        assert_eq!(table.remove_node(5, |_| 1), []);
        assert_eq!(table.remove_node(6, |_| 1), []);
        let changes = table.take_changes(PLACE, 1).unwrap();
        assert_eq!(
            changes.left.iter().map(|it| &**it).collect::<Vec<_>>(),
            ["cem"]
        );
        assert_eq!(table.take_changes(PLACE, 1), None);
        assert_eq!(table.stats().members, 2);
    }

    #[test]
    fn a_first_reading_announces_nothing_and_a_later_one_what_was_missed() {
        let table = table();
        let _ = table.join(PLACE, Some("me"), 0);
        assert_eq!(table.take_changes(PLACE, 0), None);
        let nodes = [(5, told(1, &[("ann", 1)])), (6, told(1, &[("bob", 1)]))];
        assert!(!table.update_nodes(ROOM, &nodes, None));
        assert_eq!(table.page(ROOM, None, (10, 100)).counts.users, 3);
        let nodes = [(5, told(0, &[])), (6, told(1, &[("cem", 1)]))];
        assert!(table.update_nodes(ROOM, &nodes, Some(1)));
        let changes = table.take_changes(PLACE, 1).unwrap();
        assert_eq!((changes.joined.len(), changes.left.len()), (1, 2));
        assert!(table.take_changes(PLACE, 1).is_none());
        table.remove_nodes(ROOM);
        assert_eq!(table.page(ROOM, None, (10, 100)).counts.users, 1);
        let _ = table.take_unsent();
        let _ = table.leave(PLACE, Some("me"), 0);
        let _ = (table.take_unsent(), table.take_changes(PLACE, 0));
        assert_eq!(table.stats().channels, 0);
        assert_eq!(table.stats().members, 0);
    }

    #[test]
    fn members_elsewhere_count_against_the_limit() {
        let table = PresenceTable::new(Vec::new(), 2, 1_000).shared();
        let many = told(3, &[("ann", 1), ("bob", 1), ("cem", 1)]);
        let _ = table.update_node(ROOM, (5, &many, Telling::All), 0);
        assert_eq!((table.stats().members, table.stats().unlisted), (2, 1));
        let _ = table.remove_node(5, |_| 0);
        assert_eq!(table.stats().members, 0);
    }
}

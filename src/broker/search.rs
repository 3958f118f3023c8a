//! Searches for sessions and channels, in parts that each take a shard a short time.

use super::channels::ChannelIndex;
use super::state::Broker;
use crate::base::channel_names::{tenant_channel, user_channel};
use crate::base::{ConnectionId, DialectId};
use std::net::IpAddr;

/// Slots of sessions or channels that are looked at in one part.
const SLOTS_PER_PART: u32 = 4_096;

/// Which sessions are searched for: those that match all that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionSearch {
    /// The id of the user.
    pub user: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// The dialect.
    pub dialect: Option<DialectId>,
    /// The full name of a channel that it is subscribed to.
    pub channel: Option<String>,
    /// The address of the client.
    pub address: Option<IpAddr>,
}

/// A part of what a search finds.
#[derive(Debug)]
pub struct Found<T> {
    /// In the order of their slots.
    pub items: Vec<T>,
    /// The slot with which the next part begins; `None` = there is none.
    pub next: Option<u32>,
}

impl Broker {
    /// At most `limit` sessions that match, from a slot on.
    #[must_use]
    pub fn search(&self, search: &SessionSearch, from: u32, limit: usize) -> Found<ConnectionId> {
        let index = match search {
            SessionSearch {
                user: Some(user), ..
            } => Some(user_channel(user)),
            SessionSearch {
                channel: Some(channel),
                ..
            } => Some(channel.clone()),
            SessionSearch {
                tenant: Some(tenant),
                ..
            } => Some(tenant_channel(tenant)),
            _ => None,
        };
        let (slots, end) = match index {
            Some(channel) => {
                let channel = self.channels.find(&channel);
                let subscribers = channel.map(|index| self.channels.at(index).subscribers());
                let slots = subscribers.into_iter().flatten().map(|(slot, ..)| slot);
                let mut slots: Vec<u32> = slots.filter(|slot| *slot >= from).collect();
                slots.sort_unstable();
                slots.dedup();
                (slots, None)
            }
            None => {
                let all = self.sessions.slot_count();
                let end = all.min(from.saturating_add(SLOTS_PER_PART));
                ((from..end).collect(), (end < all).then_some(end))
            }
        };
        let wanted = search.channel.as_deref();
        let wanted = wanted.map(|channel| self.channels.find(channel));
        let mut items = Vec::new();
        for slot in slots {
            let Some(id) = self.sessions.id_at_slot(slot) else {
                continue;
            };
            if !self.matches(search, wanted, id) {
                continue;
            }
            if items.len() == limit {
                return Found {
                    items,
                    next: Some(slot),
                };
            }
            items.push(id);
        }
        Found { items, next: end }
    }

    fn matches(
        &self,
        search: &SessionSearch,
        channel: Option<Option<ChannelIndex>>,
        id: ConnectionId,
    ) -> bool {
        let Some(session) = self.sessions.get(id).filter(|session| !session.is_gone) else {
            return false;
        };
        let user = session.identity.as_ref().map(|identity| &*identity.user);
        let is_user = |wanted: &String| user == Some(&**wanted);
        search.user.as_ref().is_none_or(is_user)
            && search
                .tenant
                .as_deref()
                .is_none_or(|tenant| session.tenant() == Some(tenant))
            && search
                .dialect
                .is_none_or(|dialect| session.dialect == dialect)
            && search
                .address
                .is_none_or(|address| session.peer.ip() == address)
            && channel.is_none_or(|channel| session.subscription(channel).is_some())
    }

    /// The full names, and the numbers of subscribers, of channels that clients have subscribed to and
    /// that `is_wanted` accepts, from a slot on.
    #[must_use]
    pub fn channels_from(
        &self,
        from: u32,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Found<(String, usize)> {
        let all = self.channels.slot_count();
        let end = all.min(from.saturating_add(SLOTS_PER_PART));
        let channels = (from..end).filter_map(|slot| self.channels.client_side_at(slot));
        let channels = channels.filter(|channel| is_wanted(channel.name()));
        let items = channels.map(|channel| (channel.name().to_owned(), channel.subscriber_count()));
        Found {
            items: items.collect(),
            next: (end < all).then_some(end),
        }
    }

    /// How many subscribers a channel has on this shard, by its full name.
    #[must_use]
    pub fn subscriber_count(&self, channel: &str) -> usize {
        let channel = self.channels.find(channel);
        channel.map_or(0, |index| self.channels.at(index).subscriber_count())
    }
}

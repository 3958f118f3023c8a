//! Which users have sessions on this node that are subscribed: what Redis is told again, when it may have lost it.

use crate::base::{NodeUser, UserChange};
use std::collections::{HashMap, VecDeque};

/// The users and their channels, each with its newest offset when the first session here subscribed.
#[derive(Debug, Default)]
pub(super) struct LiveUsers {
    channels: HashMap<NodeUser, HashMap<Box<str>, u64>>,
    /// What is to be told again.
    untold: VecDeque<(NodeUser, Box<str>)>,
}

impl LiveUsers {
    /// Notes what Redis is being told.
    pub(super) fn note(&mut self, user: &NodeUser, change: &UserChange) {
        match change {
            UserChange::Subscribed { channel, offset } => {
                let channels = self.channels.entry(user.clone()).or_default();
                channels.insert(channel.clone(), *offset);
            }
            UserChange::Stopped { channels, .. } => {
                let left = channels.iter().filter(|(.., is_last)| *is_last);
                self.remove(user, left.map(|(channel, ..)| &**channel));
            }
            UserChange::Unsubscribed { channel } => self.remove(user, [&**channel]),
            _ => {}
        }
    }

    fn remove<'a>(&mut self, user: &NodeUser, channels: impl IntoIterator<Item = &'a str>) {
        let Some(known) = self.channels.get_mut(user) else {
            return;
        };
        for channel in channels {
            known.remove(channel);
        }
        if known.is_empty() {
            self.channels.remove(user);
        }
    }

    /// All are to be told again.
    pub(super) fn tell_again(&mut self) {
        let all = self.channels.iter();
        let all = all.flat_map(|(user, channels)| {
            channels
                .keys()
                .map(|channel| (user.clone(), channel.clone()))
        });
        self.untold = all.collect();
    }

    /// The next changes that tell something again, as far as it still holds.
    pub(super) fn take_untold(&mut self, count_max: usize) -> Vec<(NodeUser, UserChange)> {
        let count = self.untold.len().min(count_max);
        let some = self.untold.drain(..count);
        let some = some.filter_map(|(user, channel)| {
            let offset = *self.channels.get(&user)?.get(&channel)?;
            Some((user, UserChange::Subscribed { channel, offset }))
        });
        some.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DialectId;

    #[test]
    fn what_still_holds_is_told_again() {
        let user = |name: &str| NodeUser {
            dialect: DialectId::Gateway,
            tenant: None,
            user: name.into(),
        };
        let subscribed = |channel: &str, offset| UserChange::Subscribed {
            channel: channel.into(),
            offset,
        };
        let mut live = LiveUsers::default();
        live.note(&user("ann"), &subscribed("a", 1));
        live.note(&user("ann"), &subscribed("b", 2));
        live.note(&user("ben"), &subscribed("a", 3));
        live.note(&user("cat"), &subscribed("a", 4));
        let stopped = |is_last| UserChange::Stopped {
            channels: vec![("a".into(), 9, is_last)],
            ttl_ms: 5,
        };
        live.note(&user("ann"), &stopped(false));
        live.note(&user("cat"), &stopped(true));
        live.tell_again();
        let channel = "a".into();
        live.note(&user("ben"), &UserChange::Unsubscribed { channel });
        let mut told = live.take_untold(2);
        told.extend(live.take_untold(2));
        assert_eq!(live.take_untold(2), []);
        told.sort_by_key(|(_, change)| format!("{change:?}"));
        let expected = [subscribed("a", 1), subscribed("b", 2)];
        assert_eq!(told, expected.map(|change| (user("ann"), change)));
        assert_eq!(live.channels.len(), 1);
    }
}

//! What is told of users who come and go: `room_event` in their rooms, `user_activity` to the admins.

use super::encode::room;
use super::{notices, rooms};
use crate::broker::{Presence, PresenceOn, Publication};
use serde_json::{Map, Value};
use std::sync::Arc;

/// So many users who joined or left together are told of one by one, as clients of the assistant
/// server know it; more in one message for all who joined, and one for all who left.
const SINGLE_MAX: usize = 10;

/// Publishes who left, then who joined.
pub(super) fn publish(presence: &Presence<'_>, publish: &mut dyn FnMut(Publication<'_>)) {
    let is_single = presence.left_count + presence.joined_count <= SINGLE_MAX;
    let (channel, kind, events) = match presence.on {
        PresenceOn::Channel(channel) => (channel, notices::ROOM_EVENT, ["leave", "join"]),
        PresenceOn::Dialect(_) => {
            let events = ["disconnected", "connected"];
            (rooms::ADMIN, notices::USER_ACTIVITY, events)
        }
    };
    let mut tell = |event: &str, users: Users<'_>| {
        let mut data = Map::new();
        data.insert("event".into(), event.into());
        if let PresenceOn::Channel(channel) = presence.on {
            data.insert("room".into(), room(channel).into());
        }
        match users {
            Users::One(user) => {
                data.insert("user_id".into(), (**user).into());
            }
            Users::Many(users, count) => {
                data.insert("user_id".into(), Value::Null);
                let users: Vec<&str> = users.iter().map(|user| &**user).collect();
                data.insert("user_ids".into(), users.into());
                data.insert("count".into(), count.into());
            }
        }
        publish(Publication::new(
            channel,
            kind,
            &Value::from(data).to_string(),
        ));
    };
    let left = (presence.left, presence.left_count);
    let joined = (presence.joined, presence.joined_count);
    for (event, (users, count)) in events.into_iter().zip([left, joined]) {
        if is_single {
            users.iter().for_each(|user| tell(event, Users::One(user)));
        } else if count > 0 {
            tell(event, Users::Many(users, count));
        }
    }
}

/// Of whom one message tells.
enum Users<'a> {
    One(&'a Arc<str>),
    /// Of so many; the first ones are named.
    Many(&'a [Arc<str>], usize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DialectId, PresenceCounts};

    fn check(on: PresenceOn<'_>, joined: &[&str], left: &[&str], expected: &[(&str, &str)]) {
        let shared = |users: &[&str]| -> Vec<Arc<str>> {
            users.iter().take(2).map(|user| (*user).into()).collect()
        };
        let (named_joined, named_left) = (shared(joined), shared(left));
        let few = joined.len() + left.len() <= 2;
        let presence = Presence {
            on,
            tenant: None,
            joined: &named_joined,
            joined_count: if few { joined.len() } else { 10 + joined.len() },
            left: &named_left,
            left_count: left.len(),
            counts: PresenceCounts::default(),
        };
        let mut published = Vec::new();
        publish(&presence, &mut |it| {
            published.push((it.channel.to_owned(), it.data.to_json().into_owned()));
        });
        let expected: Vec<_> = expected
            .iter()
            .map(|(channel, data)| ((*channel).to_owned(), (*data).to_owned()))
            .collect();
        assert_eq!(published, expected);
    }

    #[test]
    fn few_are_told_of_one_by_one_and_many_at_once() {
        check(
            PresenceOn::Channel("room:chat"),
            &["bob"],
            &["ann"],
            &[
                (
                    "room:chat",
                    r#"{"event":"leave","room":"chat","user_id":"ann"}"#,
                ),
                (
                    "room:chat",
                    r#"{"event":"join","room":"chat","user_id":"bob"}"#,
                ),
            ],
        );
        check(
            PresenceOn::Channel("room:chat"),
            &["bob", "cem", "dan"],
            &["ann"],
            &[
                (
                    "room:chat",
                    r#"{"count":1,"event":"leave","room":"chat","user_id":null,"user_ids":["ann"]}"#,
                ),
                (
                    "room:chat",
                    r#"{"count":13,"event":"join","room":"chat","user_id":null,"user_ids":["bob","cem"]}"#,
                ),
            ],
        );
        check(
            PresenceOn::Dialect(DialectId::Assist),
            &["ann"],
            &[],
            &[(rooms::ADMIN, r#"{"event":"connected","user_id":"ann"}"#)],
        );
    }
}

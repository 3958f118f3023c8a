//! The event that tells the subscribers of a channel who came and went, where its dialect has no other
//! form for that.

use crate::broker::{Presence, PresenceOn, Publication};
use serde_json::{Value, json};
use std::sync::Arc;

/// The type of the event.
const PRESENCE_EVENT: &str = "presence_event";

/// Publishes one event on the channel. Who is online in a dialect is told to nobody.
pub(super) fn publish(presence: &Presence<'_>, publish: &mut dyn FnMut(Publication<'_>)) {
    let PresenceOn::Channel(channel) = presence.on else {
        return;
    };
    let names = |users: &[Arc<str>]| -> Value { users.iter().map(|user| &**user).collect() };
    let data = json!({
        "joined": names(presence.joined),
        "joined_count": presence.joined_count,
        "left": names(presence.left),
        "left_count": presence.left_count,
        "users": presence.counts.users,
        "sessions": presence.counts.sessions,
    });
    publish(Publication::new(channel, PRESENCE_EVENT, &data.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PresenceCounts;

    #[test]
    fn an_event_names_who_came_and_went_and_says_how_many_there_are() {
        let presence = Presence {
            on: PresenceOn::Channel("news"),
            tenant: None,
            joined: &["ann".into(), "b\"b".into()],
            joined_count: 200,
            left: &[],
            left_count: 0,
            counts: PresenceCounts {
                users: 201,
                sessions: 300,
            },
        };
        let mut published = Vec::new();
        publish(&presence, &mut |it| {
            published.push((
                it.channel.to_owned(),
                it.kind.to_owned(),
                it.data.to_json().into_owned(),
            ));
        });
        let data = concat!(
            r#"{"joined":["ann","b\"b"],"joined_count":200,"left":[],"left_count":0,"#,
            r#""sessions":300,"users":201}"#
        );
        assert_eq!(
            published,
            [("news".into(), "presence_event".into(), data.into())]
        );
        let on = PresenceOn::Dialect(crate::base::DialectId::Gateway);
        publish(&Presence { on, ..presence }, &mut |it| panic!("{it:?}"));
    }
}

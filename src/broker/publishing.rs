//! Publishing, and the values kept for those who ask later.

use super::command::{BroadcastTarget, Publication, Retain};
use super::effect::Effect;
use super::event::{Event, Rejection};
use super::names::{check_channel, is_name};
use super::step::{Broker, Emit};
use crate::auth::Identity;
use crate::base::limits::{KIND_BYTES_MAX, RETAINED_PER_CHANNEL_MAX};
use crate::base::{ConnectionId, Now};
use crate::config::DialectPolicy;
use std::collections::{BTreeMap, HashMap};

/// The permission that a token must carry to publish.
const PUBLISH_PERMISSION: &str = "publish";

/// The values kept for channels, by key. All shards hear the same records, so each has them all.
#[derive(Debug, Default)]
pub(super) struct RetainedValues(HashMap<Box<str>, BTreeMap<Box<str>, Box<str>>>);

impl RetainedValues {
    /// Does what a publication says; false when there is no room for its value.
    fn apply(&mut self, publication: &Publication<'_>) -> bool {
        match publication.retain {
            Retain::None => {}
            Retain::Value(key) => {
                let values = self.0.entry(publication.channel.into()).or_default();
                if values.len() >= RETAINED_PER_CHANNEL_MAX && !values.contains_key(key) {
                    return false;
                }
                values.insert(key.into(), publication.data.into());
            }
            Retain::Clear(key) => {
                if let Some(values) = self.0.get_mut(publication.channel) {
                    values.remove(key);
                }
            }
        }
        true
    }

    fn of(&self, channel: &str) -> Vec<&str> {
        let values = self.0.get(channel).into_iter().flat_map(BTreeMap::values);
        values.map(|value| &**value).collect()
    }
}

impl Broker {
    pub(super) fn publish(
        &mut self,
        id: ConnectionId,
        policy: &DialectPolicy,
        publication: Publication<'_>,
        emit: &mut Emit<'_>,
    ) {
        let identity = self.identity(id);
        let may = identity.is_some_and(|identity| identity.may(PUBLISH_PERMISSION));
        if !may && !policy.anonymous_publish {
            return self.reject(Rejection::PermissionDenied, emit);
        }
        if let Err(rejection) = check_channel(publication.channel) {
            return self.reject(rejection, emit);
        }
        if !is_name(publication.kind, KIND_BYTES_MAX) {
            return self.reject(Rejection::InvalidField("type"), emit);
        }
        self.issue(publication, emit);
    }

    /// Publishes by the right of a role, on a channel that the dialect chose.
    pub(super) fn publish_with_role(
        &mut self,
        id: ConnectionId,
        role: &str,
        publication: Publication<'_>,
        emit: &mut Emit<'_>,
    ) {
        let identity = self.identity(id);
        if !identity.is_some_and(|identity| identity.has_role(role)) {
            return self.reject(Rejection::PermissionDenied, emit);
        }
        self.issue(publication, emit);
    }

    fn issue(&mut self, publication: Publication<'_>, emit: &mut Emit<'_>) {
        self.counters.publications.add(1);
        emit(Effect::Publish(publication));
        let channel = publication.channel;
        emit(Effect::Reply(Event::Published { channel }));
    }

    fn identity(&self, id: ConnectionId) -> Option<&Identity> {
        self.sessions.get(id)?.identity.as_deref()
    }

    /// Keeps what a publication that went through the ring says to keep.
    pub fn retain(&mut self, publication: &Publication<'_>) {
        if !self.retained.apply(publication) {
            self.counters.retained_rejected.add(1);
        }
    }

    pub(super) fn get_retained(
        &mut self,
        id: ConnectionId,
        channel: &str,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        if let Err(rejection) = self.check_access(id, channel) {
            return self.reject(rejection, emit);
        }
        let values = self.retained.of(channel);
        emit(Effect::Reply(Event::Retained {
            channel,
            values,
            now,
        }));
    }

    /// Whether the session in `slot` is among those that a publication is for.
    #[must_use]
    pub fn matches_target(&self, slot: u32, target: BroadcastTarget<'_>) -> bool {
        let Some(session) = self.sessions.at_slot(slot) else {
            return false;
        };
        let identity = session.identity.as_deref();
        match target {
            BroadcastTarget::All => true,
            BroadcastTarget::User(user) => session.user() == Some(user),
            BroadcastTarget::Role(role) => identity.is_some_and(|identity| identity.has_role(role)),
            BroadcastTarget::Permission(permission) => {
                identity.is_some_and(|identity| identity.may(permission))
            }
            BroadcastTarget::Tenant(tenant) => session.tenant() == Some(tenant),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_until_they_are_gone() {
        let mut retained = RetainedValues::default();
        let publication = |retain, data| Publication {
            retain,
            ..Publication::new("jobs", "m", data)
        };
        assert!(retained.apply(&publication(Retain::Value("b"), "1")));
        assert!(retained.apply(&publication(Retain::Value("a"), "2")));
        assert!(retained.apply(&publication(Retain::Value("b"), "3")));
        assert_eq!(retained.of("jobs"), ["2", "3"]);
        assert!(retained.apply(&publication(Retain::Clear("a"), "4")));
        assert_eq!(retained.of("jobs"), ["3"]);
        assert!(retained.of("other").is_empty());
    }

    #[test]
    fn a_full_table_takes_no_new_key() {
        let mut retained = RetainedValues::default();
        for index in 0..RETAINED_PER_CHANNEL_MAX {
            let key = index.to_string();
            let publication = Publication {
                retain: Retain::Value(&key),
                ..Publication::new("jobs", "m", "1")
            };
            assert!(retained.apply(&publication));
        }
        let publication = |key| Publication {
            retain: Retain::Value(key),
            ..Publication::new("jobs", "m", "2")
        };
        assert!(!retained.apply(&publication("new")));
        assert!(retained.apply(&publication("7")));
    }
}

//! Publishing, and the values kept for those who ask later.

use super::command::{Keep, Only, Publication};
use super::effect::Effect;
use super::event::{Event, Refusal};
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
pub(super) struct KeptValues(HashMap<Box<str>, BTreeMap<Box<str>, Box<str>>>);

impl KeptValues {
    /// Does what a publication says; false when there is no room for its value.
    fn apply(&mut self, publication: &Publication<'_>) -> bool {
        match publication.keep {
            Keep::Nothing => {}
            Keep::Value(key) => {
                let values = self.0.entry(publication.channel.into()).or_default();
                if values.len() >= RETAINED_PER_CHANNEL_MAX && !values.contains_key(key) {
                    return false;
                }
                values.insert(key.into(), publication.data.into());
            }
            Keep::Gone(key) => {
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
            return self.refuse(Refusal::PermissionDenied, emit);
        }
        if let Err(refusal) = check_channel(publication.channel) {
            return self.refuse(refusal, emit);
        }
        if !is_name(publication.kind, KIND_BYTES_MAX) {
            return self.refuse(Refusal::InvalidField("type"), emit);
        }
        self.issue(publication, emit);
    }

    /// Publishes by the right of a role, on a channel that the dialect chose.
    pub(super) fn publish_as(
        &mut self,
        id: ConnectionId,
        role: &str,
        publication: Publication<'_>,
        emit: &mut Emit<'_>,
    ) {
        let identity = self.identity(id);
        if !identity.is_some_and(|identity| identity.has_role(role)) {
            return self.refuse(Refusal::PermissionDenied, emit);
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
    pub fn keep(&mut self, publication: &Publication<'_>) {
        if !self.kept.apply(publication) {
            self.counters.retained_rejected.add(1);
        }
    }

    pub(super) fn recall(
        &mut self,
        id: ConnectionId,
        channel: &str,
        now: Now,
        emit: &mut Emit<'_>,
    ) {
        if let Err(refusal) = self.check_access(id, channel) {
            return self.refuse(refusal, emit);
        }
        let values = self.kept.of(channel);
        emit(Effect::Reply(Event::Kept {
            channel,
            values,
            now,
        }));
    }

    /// Whether the session in `slot` is among those that a publication is for.
    #[must_use]
    pub fn is_meant(&self, slot: u32, only: Only<'_>) -> bool {
        let Some(session) = self.sessions.at_slot(slot) else {
            return false;
        };
        let identity = session.identity.as_deref();
        match only {
            Only::All => true,
            Only::User(user) => session.user() == Some(user),
            Only::Role(role) => identity.is_some_and(|identity| identity.has_role(role)),
            Only::Permission(permission) => {
                identity.is_some_and(|identity| identity.may(permission))
            }
            Only::Tenant(tenant) => session.tenant() == Some(tenant),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_until_they_are_gone() {
        let mut kept = KeptValues::default();
        let publication = |keep, data| Publication {
            keep,
            ..Publication::new("jobs", "m", data)
        };
        assert!(kept.apply(&publication(Keep::Value("b"), "1")));
        assert!(kept.apply(&publication(Keep::Value("a"), "2")));
        assert!(kept.apply(&publication(Keep::Value("b"), "3")));
        assert_eq!(kept.of("jobs"), ["2", "3"]);
        assert!(kept.apply(&publication(Keep::Gone("a"), "4")));
        assert_eq!(kept.of("jobs"), ["3"]);
        assert!(kept.of("other").is_empty());
    }

    #[test]
    fn a_full_table_takes_no_new_key() {
        let mut kept = KeptValues::default();
        for index in 0..RETAINED_PER_CHANNEL_MAX {
            let key = index.to_string();
            let publication = Publication {
                keep: Keep::Value(&key),
                ..Publication::new("jobs", "m", "1")
            };
            assert!(kept.apply(&publication));
        }
        let publication = |key| Publication {
            keep: Keep::Value(key),
            ..Publication::new("jobs", "m", "2")
        };
        assert!(!kept.apply(&publication("new")));
        assert!(kept.apply(&publication("7")));
    }
}

//! Who may hear which channels, beyond those that are everyone's.

use crate::auth::Identity;
use crate::base::DialectId;
use std::borrow::Cow;

/// The channels that a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelPattern {
    /// One channel.
    Exact(Cow<'static, str>),
    /// All channels whose names begin so.
    Prefix(Cow<'static, str>),
}

/// What a session must show to hear a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// This role.
    Role(Cow<'static, str>),
    /// This permission.
    Permission(Cow<'static, str>),
    /// The user whose id is the rest of the channel's name behind the prefix.
    OwnUser,
    /// A session of the dialect that owns the channel; no client asks for it.
    Dialect,
}

/// A rule; where several speak of a channel, all must be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// The channels.
    pub channels: ChannelPattern,
    /// What they ask for.
    pub need: Need,
    /// Sessions of this dialect that fulfil the rule hear the channel without asking.
    pub joins: Option<DialectId>,
}

impl ChannelPattern {
    /// What stands behind the pattern in `channel`, if the pattern speaks of it.
    #[must_use]
    pub fn rest<'a>(&self, channel: &'a str) -> Option<&'a str> {
        match self {
            Self::Exact(name) => (channel == name).then_some(""),
            Self::Prefix(prefix) => channel.strip_prefix(&**prefix),
        }
    }

    /// The name of the channel, if the pattern names just one.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        match self {
            Self::Exact(name) => Some(name),
            Self::Prefix(_) => None,
        }
    }
}

impl Need {
    /// Whether `identity` may hear a channel whose name ends in `rest` behind the rule's pattern.
    #[must_use]
    pub fn is_met(&self, identity: &Identity, rest: &str) -> bool {
        match self {
            Self::Role(role) => identity.has_role(role),
            Self::Permission(permission) => identity.may(permission),
            Self::OwnUser => *identity.user == *rest,
            Self::Dialect => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_met_by_what_it_names() {
        let ann = Identity {
            user: "ann".into(),
            roles: vec!["admin".into()],
            permissions: vec!["read".into()],
            ..Identity::default()
        };
        let own = ChannelPattern::Prefix("docs_".into());
        assert_eq!(own.rest("docs_ann"), Some("ann"));
        assert_eq!(own.rest("doc_ann"), None);
        for (need, rest, expected) in [
            (Need::OwnUser, "ann", true),
            (Need::OwnUser, "anna", false),
            (Need::Role("admin".into()), "", true),
            (Need::Role("read".into()), "", false),
            (Need::Permission("read".into()), "", true),
            (Need::Dialect, "", false),
        ] {
            assert_eq!(need.is_met(&ann, rest), expected, "{need:?} {rest}");
        }
    }
}

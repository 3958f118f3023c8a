//! Who may subscribe to which channels, and who may publish there.

use crate::auth::Identity;
use crate::base::DialectId;
use crate::base::channel_names::{PROPERTY, ROOM, STREAM};
use std::borrow::Cow;

/// The channels that a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelPattern {
    /// One channel.
    Exact(Cow<'static, str>),
    /// All channels whose names begin with this prefix.
    Prefix(Cow<'static, str>),
}

/// What a session must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// This role.
    Role(Cow<'static, str>),
    /// This permission.
    Permission(Cow<'static, str>),
    /// The user whose id follows the prefix in the channel's name.
    OwnUser,
    /// Nothing.
    Anyone,
}

/// A rule for subscribing or for publishing; if several match a channel, all must be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// The channels.
    pub channels: ChannelPattern,
    /// What they require.
    pub requirement: Requirement,
    /// The server subscribes sessions of this dialect that meet the rule.
    pub auto_subscribe: Option<DialectId>,
}

impl AccessRule {
    /// Rules that let every session that may publish at all publish on the channels of all
    /// dialects.
    #[must_use]
    pub fn open_dialect_channels() -> Vec<Self> {
        let open = |prefix: &'static str| Self {
            channels: ChannelPattern::Prefix(prefix.into()),
            requirement: Requirement::Anyone,
            auto_subscribe: None,
        };
        [PROPERTY, STREAM, ROOM].map(open).to_vec()
    }

    /// Parses a rule from the settings: `CHANNEL role=R`, `CHANNEL permission=P`,
    /// `CHANNEL anyone`, `PREFIX* user`; `*` at the end of a channel's name stands for any suffix.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (channel, requirement) = text.trim().rsplit_once(' ')?;
        let channel = channel.trim();
        let channels = match channel.strip_suffix('*') {
            Some(prefix) => ChannelPattern::Prefix(prefix.to_owned().into()),
            None => ChannelPattern::Exact(channel.to_owned().into()),
        };
        let named = |name: &str| (!name.is_empty()).then(|| Cow::Owned(name.to_owned()));
        let requirement = match (requirement.split_once('='), requirement) {
            (Some(("role", role)), _) => Requirement::Role(named(role)?),
            (Some(("permission", permission)), _) => Requirement::Permission(named(permission)?),
            (None, "user") if channels.exact().is_none() => Requirement::OwnUser,
            (None, "anyone") => Requirement::Anyone,
            _ => return None,
        };
        (!channel.is_empty()).then_some(Self {
            channels,
            requirement,
            auto_subscribe: None,
        })
    }
}

impl std::fmt::Display for AccessRule {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.channels {
            ChannelPattern::Exact(name) => write!(formatter, "{name} ")?,
            ChannelPattern::Prefix(prefix) => write!(formatter, "{prefix}* ")?,
        }
        match &self.requirement {
            Requirement::Role(role) => write!(formatter, "role={role}"),
            Requirement::Permission(permission) => write!(formatter, "permission={permission}"),
            Requirement::OwnUser => formatter.write_str("user"),
            Requirement::Anyone => formatter.write_str("anyone"),
        }
    }
}

impl ChannelPattern {
    /// What follows the prefix in `channel`, if the pattern matches.
    #[must_use]
    pub fn suffix<'a>(&self, channel: &'a str) -> Option<&'a str> {
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

impl Requirement {
    /// Whether a session meets it for a channel whose name has `suffix` after the rule's prefix. A
    /// session without an identity has nothing that a rule could require.
    #[must_use]
    pub fn is_met(&self, identity: Option<&Identity>, suffix: &str) -> bool {
        match (self, identity) {
            (Self::Anyone, _) => true,
            (_, None) => false,
            (Self::Role(role), Some(identity)) => identity.has_role(role),
            (Self::Permission(permission), Some(identity)) => identity.may(permission),
            (Self::OwnUser, Some(identity)) => *identity.user == *suffix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_as_it_is_written() {
        for text in [
            "room:vip* role=vip",
            "news permission=read news",
            "mine:* user",
            "stream:* anyone",
        ] {
            let rule = AccessRule::parse(text).map(|rule| rule.to_string());
            let expected = (!text.contains("read news")).then(|| text.to_owned());
            assert_eq!(rule, expected);
        }
        for text in ["", "x", "x role=", "x owner=a", "exact user", " role=a"] {
            assert_eq!(AccessRule::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_rule_is_met_by_what_it_names() {
        let ann = Identity {
            user: "ann".into(),
            roles: vec!["admin".into()],
            permissions: vec!["read".into()],
            ..Identity::default()
        };
        let own = ChannelPattern::Prefix("docs_".into());
        assert_eq!(own.suffix("docs_ann"), Some("ann"));
        assert_eq!(own.suffix("doc_ann"), None);
        for (requirement, suffix, expected) in [
            (Requirement::OwnUser, "ann", true),
            (Requirement::OwnUser, "anna", false),
            (Requirement::Role("admin".into()), "", true),
            (Requirement::Role("read".into()), "", false),
            (Requirement::Permission("read".into()), "", true),
            (Requirement::Anyone, "", true),
        ] {
            assert_eq!(
                requirement.is_met(Some(&ann), suffix),
                expected,
                "{requirement:?} {suffix}"
            );
            let is_open = requirement == Requirement::Anyone;
            assert_eq!(requirement.is_met(None, suffix), is_open, "{requirement:?}");
        }
    }
}

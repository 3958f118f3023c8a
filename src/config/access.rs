//! The language of the rules: which channels a rule is about, and what it requires of a session.
//!
//! ```text
//!   tenant-{tenant}:orders:{user}:*   role=clerk
//!   └──────────── pattern ─────────┘   └ requirement
//! ```

use crate::auth::Identity;
use crate::base::DialectId;
use crate::base::channel_names::{PROPERTY, ROOM, STREAM};
use crate::base::label::{Label, label};
use crate::base::limits::IDENTITY_NAME_BYTES_MAX;
use std::borrow::Cow;

label! {
    /// What rules govern.
    ///
    /// ```
    /// use fanwire::AccessAction;
    ///
    /// assert_eq!("publish".parse(), Ok(AccessAction::Publish));
    /// ```
    Action {
        /// Subscribing to a channel.
        Subscribe = "subscribe",
        /// Publishing on a channel.
        Publish = "publish",
        /// Seeing who is on a channel.
        Presence = "presence",
        /// Requesting what was published on a channel, such as its retained values.
        History = "history",
    }
}

label! {
    /// What holds for a channel that no rule matches.
    DefaultAccess {
        /// Every session that may subscribe or publish at all may do so there.
        Allow = "allow",
        /// Nobody may.
        Deny = "deny",
    }
}

impl std::str::FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.iter().copied();
        let found = all.find(|action| action.name() == text);
        found.ok_or_else(|| "expected subscribe, publish, presence or history".to_owned())
    }
}

/// What a variable in a pattern stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    User,
    Tenant,
    Attribute(Box<str>),
}

/// What the names of attributes begin with in rules.
const ATTRIBUTE_PREFIX: &str = "attribute.";

/// The channels that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelPattern {
    /// What their names begin with, up to the first variable or `*`.
    literal: Box<str>,
    /// The variables, each with the text between it and the next one. The text is empty only after
    /// a variable at the end.
    variables: Vec<(Variable, Box<str>)>,
    /// Whether `*` follows.
    is_open: bool,
}

/// What a session must have, beside being named by the variables of the pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// This role.
    Role(Cow<'static, str>),
    /// This permission.
    Permission(Cow<'static, str>),
    /// This user.
    User(Cow<'static, str>),
    /// This tenant.
    Tenant(Cow<'static, str>),
    /// An attribute, by name and value.
    Attribute(Box<str>, Box<str>),
    /// The user whose id the `*` of the pattern stands for.
    OwnUser,
    /// An identity.
    Authenticated,
    /// Nothing.
    Anyone,
    /// What no session has.
    Nobody,
}

/// A rule for one action; if several match a channel, all must be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// The channels.
    pub channels: ChannelPattern,
    /// What they require.
    pub requirement: Requirement,
    /// The server subscribes sessions of this dialect that meet the rule.
    pub auto_subscribe: Option<DialectId>,
}

/// Whom a rule is checked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The identity; `None` = it has none and meets no requirement but `anyone`.
    pub identity: Option<&'a Identity>,
    /// The tenant of the session.
    pub tenant: Option<&'a str>,
}

impl Subject<'_> {
    /// Whether the variable stands for this text.
    fn is(&self, variable: &Variable, text: &str) -> bool {
        self.identity.is_some_and(|identity| match variable {
            Variable::User => *identity.user == *text,
            Variable::Tenant => self.tenant == Some(text),
            Variable::Attribute(name) => identity.attribute(name) == Some(text),
        })
    }
}

impl AccessRule {
    /// Rules that let every session that may publish at all publish on the channels of all
    /// dialects.
    #[must_use]
    pub fn open_dialect_channels() -> Vec<Self> {
        let open = |prefix: &str| Self {
            channels: ChannelPattern::prefix(prefix),
            requirement: Requirement::Anyone,
            auto_subscribe: None,
        };
        [PROPERTY, STREAM, ROOM].map(open).to_vec()
    }

    /// Parses a rule from the settings: a pattern, a space and a requirement, which may be left out
    /// after a pattern with variables.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (channels, requirement) = match text.rsplit_once(' ') {
            Some((pattern, requirement)) => {
                let channels = ChannelPattern::parse(pattern.trim())?;
                (channels, Requirement::parse(requirement)?)
            }
            None => {
                let channels = ChannelPattern::parse(text)?;
                if channels.variables.is_empty() {
                    return None;
                }
                (channels, Requirement::Authenticated)
            }
        };
        let is_complete = requirement != Requirement::OwnUser || channels.is_open;
        is_complete.then_some(Self {
            channels,
            requirement,
            auto_subscribe: None,
        })
    }

    /// Whether `subject` meets the rule; `None` if the rule is not about the channel.
    #[must_use]
    pub fn is_met(&self, subject: Subject<'_>, channel: &str) -> Option<bool> {
        let mut is_named = true;
        let suffix = self.channels.suffix(channel, |variable, text| {
            is_named &= subject.is(variable, text);
        })?;
        Some(is_named && self.requirement.is_met(subject, suffix))
    }
}

impl std::fmt::Display for AccessRule {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.channels, self.requirement)
    }
}

impl ChannelPattern {
    /// One channel.
    #[must_use]
    pub fn exact(name: &str) -> Self {
        Self {
            literal: name.into(),
            variables: Vec::new(),
            is_open: false,
        }
    }

    /// All channels whose names begin with this prefix.
    #[must_use]
    pub fn prefix(prefix: &str) -> Self {
        Self {
            is_open: true,
            ..Self::exact(prefix)
        }
    }

    /// A channel's name, in which `{user}` and `{tenant}` are variables and `*` at the end stands
    /// for any rest. Between two variables, and between a variable and `*`, there must be a text, or
    /// nobody could say where the first one ends.
    fn parse(text: &str) -> Option<Self> {
        let (mut rest, is_open) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        let mut texts = Vec::new();
        let mut variables = Vec::new();
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}')?;
            texts.push(before);
            variables.push(match name {
                "user" => Variable::User,
                "tenant" => Variable::Tenant,
                _ => Variable::Attribute(attribute_name(name)?.into()),
            });
            rest = after;
        }
        texts.push(rest);
        let (literal, texts) = texts.split_first()?;
        let ambiguous = texts.len() - usize::from(!is_open && !texts.is_empty());
        let is_clear = !texts[..ambiguous].contains(&"");
        let variables = variables.into_iter().zip(texts.iter().copied());
        (is_clear && !text.is_empty()).then(|| Self {
            literal: (*literal).into(),
            variables: variables.map(|(it, text)| (it, text.into())).collect(),
            is_open,
        })
    }

    /// The beginning of the names, up to the first variable or `*`.
    pub(super) fn literal(&self) -> &str {
        &self.literal
    }

    /// The name of the channel, if the pattern names just one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        (self.variables.is_empty() && !self.is_open).then_some(&self.literal)
    }

    /// What `*` stands for in `channel`, if the pattern matches; `bind` is called with what each
    /// variable stands for. A variable ends where the text after it first occurs.
    fn suffix<'a>(
        &self,
        channel: &'a str,
        mut bind: impl FnMut(&Variable, &str),
    ) -> Option<&'a str> {
        let mut rest = channel.strip_prefix(&*self.literal)?;
        for (index, (variable, text)) in self.variables.iter().enumerate() {
            let is_end = index + 1 == self.variables.len() && !self.is_open;
            let (value, after) = match is_end {
                true => (rest.strip_suffix(&**text)?, ""),
                false => rest.split_once(&**text)?,
            };
            bind(variable, value);
            rest = after;
        }
        (self.is_open || rest.is_empty()).then_some(rest)
    }
}

impl std::fmt::Display for ChannelPattern {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.literal)?;
        for (variable, text) in &self.variables {
            match variable {
                Variable::User => formatter.write_str("{user}")?,
                Variable::Tenant => formatter.write_str("{tenant}")?,
                Variable::Attribute(name) => write!(formatter, "{{{ATTRIBUTE_PREFIX}{name}}}")?,
            }
            formatter.write_str(text)?;
        }
        formatter.write_str(if self.is_open { "*" } else { "" })
    }
}

/// Whether rules can name an attribute of this name.
pub(super) fn is_attribute(name: &str) -> bool {
    let is_apart = |character: char| character.is_whitespace() || character.is_control();
    let is_part = |character| !is_apart(character) && !matches!(character, '=' | '{' | '}');
    (1..=IDENTITY_NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_part)
}

fn attribute_name(text: &str) -> Option<&str> {
    let name = text.strip_prefix(ATTRIBUTE_PREFIX)?;
    is_attribute(name).then_some(name)
}

impl Requirement {
    fn parse(text: &str) -> Option<Self> {
        let Some((key, name)) = text.split_once('=') else {
            return Some(match text {
                "user" => Self::OwnUser,
                "authenticated" => Self::Authenticated,
                "anyone" => Self::Anyone,
                "nobody" => Self::Nobody,
                _ => return None,
            });
        };
        let owned = || Cow::Owned(name.to_owned());
        let requirement = match key {
            "role" => Self::Role(owned()),
            "permission" => Self::Permission(owned()),
            "user" => Self::User(owned()),
            "tenant" => Self::Tenant(owned()),
            _ => Self::Attribute(attribute_name(key)?.into(), name.into()),
        };
        (!text.ends_with('=')).then_some(requirement)
    }

    /// Whether `subject` meets it for a channel in whose name `*` stands for `suffix`.
    fn is_met(&self, subject: Subject<'_>, suffix: &str) -> bool {
        match (self, subject.identity) {
            (Self::Anyone, _) => true,
            (Self::Nobody, _) | (_, None) => false,
            (Self::Authenticated, Some(_)) => true,
            (Self::Role(role), Some(identity)) => identity.has_role(role),
            (Self::Permission(permission), Some(identity)) => identity.may(permission),
            (Self::User(user), Some(identity)) => *identity.user == **user,
            (Self::Tenant(tenant), Some(_)) => subject.tenant == Some(tenant),
            (Self::Attribute(name, value), Some(identity)) => {
                identity.attribute(name) == Some(value)
            }
            (Self::OwnUser, Some(identity)) => *identity.user == *suffix,
        }
    }
}

impl std::fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Role(role) => write!(formatter, "role={role}"),
            Self::Permission(permission) => write!(formatter, "permission={permission}"),
            Self::User(user) => write!(formatter, "user={user}"),
            Self::Tenant(tenant) => write!(formatter, "tenant={tenant}"),
            Self::Attribute(name, value) => write!(formatter, "{ATTRIBUTE_PREFIX}{name}={value}"),
            Self::OwnUser => formatter.write_str("user"),
            Self::Authenticated => formatter.write_str("authenticated"),
            Self::Anyone => formatter.write_str("anyone"),
            Self::Nobody => formatter.write_str("nobody"),
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
            "mine:* user",
            "stream:* anyone",
            "a b permission=read",
            "tenant-{tenant}:* role=clerk",
            "{tenant}-{user} authenticated",
            "orders:{user}:{tenant}:* user",
            "secret nobody",
            "* user=root",
            "x tenant=acme",
            "x attribute.region=north",
            "news-{attribute.region}:* attribute.level=7",
        ] {
            let rule = AccessRule::parse(text).map(|rule| rule.to_string());
            assert_eq!(rule.as_deref(), Some(text));
        }
        let short = AccessRule::parse("orders:{user}").map(|rule| rule.to_string());
        assert_eq!(short.as_deref(), Some("orders:{user} authenticated"));
        for text in [
            "",
            "x",
            "x role=",
            "x owner=a",
            "exact user",
            " role=a",
            "news permission=read news",
            "a{user}{tenant} anyone",
            "a{user}* anyone",
            "a{name} anyone",
            "a{attribute.} anyone",
            "a{attribute.a=b} anyone",
            "a attribute.=b",
            "a attribute.b=",
            "a attribute=b",
            "a{user anyone",
        ] {
            assert_eq!(AccessRule::parse(text), None, "{text}");
        }
    }

    fn ann() -> Identity {
        Identity {
            user: "ann".into(),
            roles: vec!["admin".into()],
            permissions: vec!["read".into()],
            ..Identity::default()
        }
        .with_attribute("region", "north")
    }

    /// Whether ann of the tenant acme, and a session without an identity, meet a rule.
    fn check(rule: &str, channel: &str, expected: Option<bool>, without: Option<bool>) {
        let identity = ann();
        let subject = Subject {
            identity: Some(&identity),
            tenant: Some("acme"),
        };
        let nobody = Subject {
            identity: None,
            ..subject
        };
        let parsed = AccessRule::parse(rule).unwrap();
        assert_eq!(
            parsed.is_met(subject, channel),
            expected,
            "{rule}: {channel}"
        );
        assert_eq!(parsed.is_met(nobody, channel), without, "{rule}: {channel}");
    }

    #[test]
    fn a_rule_is_met_by_what_it_names() {
        for (rule, expected) in [
            ("c role=admin", true),
            ("c role=read", false),
            ("c permission=read", true),
            ("c permission=admin", false),
            ("c user=ann", true),
            ("c user=anna", false),
            ("c tenant=acme", true),
            ("c tenant=acm", false),
            ("c attribute.region=north", true),
            ("c attribute.region=nort", false),
            ("c attribute.level=north", false),
            ("c authenticated", true),
            ("c nobody", false),
        ] {
            check(rule, "c", Some(expected), Some(false));
        }
        check("c anyone", "c", Some(true), Some(true));
        check("c anyone", "cc", None, None);
    }

    #[test]
    fn variables_and_the_rest_are_the_session_s_own() {
        let own = Some(true);
        let other = Some(false);
        for (rule, channel, expected) in [
            ("docs_* user", "docs_ann", own),
            ("docs_* user", "docs_anna", other),
            ("docs_* user", "docs_", other),
            ("docs_* user", "doc_ann", None),
            ("docs_{user}", "docs_ann", own),
            ("docs_{user}", "docs_an", other),
            ("docs_{user}", "docs_", other),
            ("t-{tenant}:*", "t-acme:", own),
            ("t-{tenant}:*", "t-acme:a:b", own),
            ("t-{tenant}:*", "t-evil:acme:", other),
            ("t-{tenant}:*", "t-acme", None),
            ("t-{tenant}:* role=admin", "t-acme:x", own),
            ("t-{tenant}:* role=clerk", "t-acme:x", other),
            ("{tenant}/{user}", "acme/ann", own),
            ("{tenant}/{user}", "acme/x/ann", other),
            ("{tenant}/{user}.log", "acme/ann.log", own),
            ("{tenant}/{user}.log", "acme/ann.log.log", other),
            ("{tenant}/{user}.log", "acme/ann.txt", None),
            ("{user}-{user}", "ann-ann", own),
            ("{user}-{user}", "ann-bob", other),
            ("{user}-{user}", "bob-ann", other),
            ("{tenant}:* user", "acme:ann", own),
            ("news-{attribute.region}", "news-north", own),
            ("news-{attribute.region}", "news-south", other),
            ("news-{attribute.level}", "news-", other),
            ("{tenant}:* user", "evil:ann", other),
        ] {
            check(rule, channel, expected, expected.map(|_| false));
        }
        check("{user}:* anyone", "ann:", Some(true), Some(false));
    }
}

//! Who may do what on which channel: the rules of the operator and of the dialects, and what holds
//! where none matches.

use super::event::Rejection;
use super::names::check_channel;
use super::state::Broker;
use crate::base::channel_names::owner;
use crate::base::{ConnectionId, DialectId};
use crate::config::{AccessRule, Action, DefaultAccess, Policy, RuleTable, Subject};

/// The permission that a token must have to publish.
const PUBLISH_PERMISSION: &str = "publish";

/// Whether a session may do something on a channel, and what decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling<'a> {
    /// Whether it may.
    pub is_allowed: bool,
    /// What decides it.
    pub grounds: Grounds<'a>,
}

/// What decides what a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grounds<'a> {
    /// A rule about this action: the first one that the session does not meet, or, if it meets all
    /// of them, the last one.
    Rule(Action, &'a AccessRule),
    /// No rule matches, and the channel belongs to this dialect.
    Owner(DialectId),
    /// No rule matches, so that `default_access` decides.
    Default(DefaultAccess),
    /// The channel, whatever the session is.
    Channel(Rejection),
    /// The session must authenticate before it does anything.
    Unauthenticated,
    /// The session may not publish at all.
    NoPublisher,
}

impl<'a> Ruling<'a> {
    const fn denied(grounds: Grounds<'a>) -> Self {
        Self {
            is_allowed: false,
            grounds,
        }
    }

    /// The answer to the client.
    ///
    /// # Errors
    /// Why it may not.
    pub fn result(self) -> Result<(), Rejection> {
        match self {
            Self {
                is_allowed: true, ..
            } => Ok(()),
            Self {
                grounds: Grounds::Channel(rejection),
                ..
            } => Err(rejection),
            Self {
                grounds: Grounds::Unauthenticated,
                ..
            } => Err(Rejection::AuthenticationRequired),
            _ => Err(Rejection::PermissionDenied),
        }
    }
}

/// Whether a session of `dialect` may do something at all, on whatever channel.
#[must_use]
pub fn rule_on_session<'a>(
    policy: &Policy,
    dialect: DialectId,
    subject: Subject<'a>,
    action: Action,
) -> Option<Ruling<'a>> {
    let policy = policy.dialect(dialect);
    let Some(identity) = subject.identity else {
        return if policy.auth_required {
            Some(Ruling::denied(Grounds::Unauthenticated))
        } else {
            let may = action != Action::Publish || policy.anonymous_publish;
            (!may).then_some(Ruling::denied(Grounds::NoPublisher))
        };
    };
    let may = action != Action::Publish || identity.may(PUBLISH_PERMISSION);
    (!may).then_some(Ruling::denied(Grounds::NoPublisher))
}

/// Whether a session of `dialect` may do something on a channel, if it may do it at all.
///
/// Seeing who is on a channel, and requesting its history, requires to be allowed to subscribe too.
#[must_use]
pub fn rule_on_channel<'a>(
    policy: &'a Policy,
    dialect: DialectId,
    subject: Subject<'a>,
    action: Action,
    channel: &'a str,
) -> Ruling<'a> {
    if let Err(rejection) = check_channel(channel) {
        return Ruling::denied(Grounds::Channel(rejection));
    }
    let by = |action, rules: &'a RuleTable| {
        let mut last = None;
        for (rule, is_allowed) in rules.matching(subject, channel) {
            let grounds = Grounds::Rule(action, rule);
            last = Some(Ruling {
                is_allowed,
                grounds,
            });
            if !is_allowed {
                break;
            }
        }
        last
    };
    let default = || {
        let is_allowed = policy.default_access == DefaultAccess::Allow;
        Ruling {
            is_allowed,
            grounds: Grounds::Default(policy.default_access),
        }
    };
    let subscribing = || by(Action::Subscribe, &policy.access_rules).unwrap_or_else(default);
    let and_subscribing = |rules| {
        let subscribing = subscribing();
        match by(action, rules) {
            Some(ruling) if subscribing.is_allowed => ruling,
            _ => subscribing,
        }
    };
    match action {
        Action::Subscribe => subscribing(),
        Action::Presence => and_subscribing(&policy.presence_rules),
        Action::History => and_subscribing(&policy.history_rules),
        Action::Publish => by(action, &policy.publish_rules).unwrap_or_else(|| {
            match owner(channel) {
                // Without its dialect, a name with this prefix is one like any other.
                Some(owner) if owner != dialect && policy.serves(owner) => {
                    Ruling::denied(Grounds::Owner(owner))
                }
                _ => default(),
            }
        }),
    }
}

impl Broker {
    /// Whether the session may do something on a channel, if it may do it at all.
    pub(super) fn check_access(
        &self,
        id: ConnectionId,
        action: Action,
        channel: &str,
    ) -> Result<(), Rejection> {
        let Some(session) = self.sessions.get(id) else {
            return check_channel(channel);
        };
        let subject = session.subject();
        rule_on_channel(&self.policy, session.dialect, subject, action, channel).result()
    }

    /// The same for what a client reads without a subscription: where a callback decides who may
    /// subscribe, only subscribers may, because it is not asked about this.
    pub(super) fn check_reading(
        &self,
        id: ConnectionId,
        action: Action,
        channel: &str,
    ) -> Result<(), Rejection> {
        self.check_access(id, action, channel)?;
        let Some(session) = self.sessions.get(id) else {
            return Ok(());
        };
        let is_subscribed = || {
            let name = session.full_name(channel);
            session.subscription(self.channels.find(&name)).is_some()
        };
        match self.policy.asks_about(channel) && !is_subscribed() {
            true => Err(Rejection::PermissionDenied),
            false => Ok(()),
        }
    }
}

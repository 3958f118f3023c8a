//! Explains who may do what, and which rule decides it, without starting a server.

use super::boot::policy;
use super::builder::Configured;
use super::error::StartError;
use super::integration;
use super::tokens;
use crate::auth::Identity;
use crate::base::DialectId;
use crate::base::label::Label;
use crate::base::now::Clock;
use crate::broker::{Grounds, Ruling, rule_on_channel, rule_on_session};
use crate::config::{Action, Subject, TenantSource};
use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

/// The last second that RFC 3339 can write.
const YEAR_9999_UNIX_S: u64 = 253_402_300_799;

/// What a client wants to do, and who it is.
///
/// ```
/// use fanwire::{AccessAction, AccessQuestion, DialectId};
///
/// let question = AccessQuestion::new(AccessAction::Publish, "news")
///     .with_token("eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl")
///     .in_dialect(DialectId::Gateway)
///     .naming_tenant("acme");
/// assert_eq!(question.channel, "news");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessQuestion<'a> {
    /// What it wants to do.
    pub action: Action,
    /// Where.
    pub channel: &'a str,
    /// Its token, if it has one.
    pub token: Option<&'a str>,
    /// Its protocol; by default the first one in use.
    pub dialect: Option<DialectId>,
    /// The tenant that its request names, if it does.
    pub tenant: Option<&'a str>,
}

impl<'a> AccessQuestion<'a> {
    /// About a client without a token.
    #[must_use]
    pub const fn new(action: Action, channel: &'a str) -> Self {
        Self {
            action,
            channel,
            token: None,
            dialect: None,
            tenant: None,
        }
    }

    /// The same, with this token.
    #[must_use]
    pub const fn with_token(self, token: &'a str) -> Self {
        Self {
            token: Some(token),
            ..self
        }
    }

    /// The same, in this protocol.
    #[must_use]
    pub const fn in_dialect(self, dialect: DialectId) -> Self {
        Self {
            dialect: Some(dialect),
            ..self
        }
    }

    /// The same, by a request that names this tenant: in its path, header, query or host, and for
    /// `tenant_source = "proxy"` in the header of a trusted proxy.
    #[must_use]
    pub const fn naming_tenant(self, tenant: &'a str) -> Self {
        Self {
            tenant: Some(tenant),
            ..self
        }
    }
}

/// Whether a client may do something on a channel, and why. Its text says both.
///
/// ```
/// use fanwire::{AccessAction, AccessQuestion, Server};
///
/// let configured = Server::builder().dev().configure()?;
/// let answer = configured.explain(&AccessQuestion::new(AccessAction::Subscribe, "news"))?;
/// assert!(answer.is_allowed());
/// println!("{answer}");
/// # Ok::<(), fanwire::StartError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    is_allowed: bool,
    text: String,
}

impl Explanation {
    /// Whether the client may.
    ///
    /// ```
    /// # use fanwire::{AccessAction, AccessQuestion, Server};
    /// # let configured = Server::builder().dev().configure()?;
    /// let question = AccessQuestion::new(AccessAction::Publish, "all");
    /// assert!(!configured.explain(&question)?.is_allowed());
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.is_allowed
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Configured {
    /// Whether a client may do something on a channel, and which rule decides it. Fetches the JWK set
    /// if there is one; the authentication callback is not asked.
    ///
    /// # Errors
    /// When a file with keys cannot be read, or the JWK set cannot be fetched.
    ///
    /// ```
    /// use fanwire::{AccessAction, AccessQuestion, Server};
    ///
    /// let settings = Server::builder().dev().set("access_rules", vec!["orders:{user}"]);
    /// let configured = settings.configure()?;
    /// let question = AccessQuestion::new(AccessAction::Subscribe, "orders:ann");
    /// assert!(!configured.explain(&question)?.is_allowed());
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn explain(&self, question: &AccessQuestion<'_>) -> Result<Explanation, StartError> {
        let policy = policy(&self.settings);
        let in_use = self.settings.dialects_in_use();
        let dialect = question.dialect.or(in_use.first().copied());
        let dialect = dialect.unwrap_or(DialectId::Gateway);
        let now = Clock::start().now();
        let claim = policy.dialect(dialect).user_claim;
        let verifier = tokens::verifier(&self.settings.tokens, now.unix_s())?;
        let verifier = integration::with_keys_fetched_now(&self.settings.tokens, verifier)?;
        let verifier = self.program.checking(verifier);
        let identity = question
            .token
            .map(|token| verifier.verify(token, claim, now));
        let (action, channel) = (question.action, question.channel);
        let asked_for = format!("{} {channel} ({})", action.name(), dialect.name());
        let denied = |why: &str, identity| Ok(explanation(false, &asked_for, why, identity));
        let identity = match identity.transpose() {
            Ok(identity) => identity,
            Err(error) => {
                let asks = self.settings.tokens.auth_callback_url.is_some();
                let hint = if asks {
                    "; the server would ask the authentication callback, which this does not"
                } else {
                    ""
                };
                let why = format!("the token is rejected: {}{hint}", error.name());
                return denied(&why, None);
            }
        };
        let proven = identity.as_ref().and_then(|it| it.tenant.as_deref());
        let is_trusted = policy.dialect(dialect).tenant_source != TenantSource::Token;
        let tenant = proven.or(question.tenant.filter(|_| is_trusted));
        if question.tenant.is_some() && question.tenant != tenant {
            let why = "the request names a tenant that is not the token's: 1008 tenant \
                (tenant_source)";
            return denied(why, identity.as_ref());
        }
        let subject = Subject {
            identity: identity.as_ref(),
            tenant,
        };
        let ruling = rule_on_session(&policy, dialect, subject, action);
        let ruling =
            ruling.unwrap_or_else(|| rule_on_channel(&policy, dialect, subject, action, channel));
        let mut why = reason(ruling);
        if ruling.is_allowed && action == Action::Subscribe && policy.asks_about(channel) {
            why += "; the server would ask the callback about subscriptions, which this does not";
        }
        Ok(explanation(
            ruling.is_allowed,
            &asked_for,
            &why,
            subject.identity,
        ))
    }
}

fn explanation(
    is_allowed: bool,
    question: &str,
    why: &str,
    identity: Option<&Identity>,
) -> Explanation {
    let word = if is_allowed { "allowed" } else { "denied" };
    let mut text = format!("{word}: {question}\n  because      {why}\n");
    match identity {
        Some(identity) => describe(identity, &mut text),
        None => text += "  user         none\n",
    }
    Explanation { is_allowed, text }
}

fn describe(identity: &Identity, text: &mut String) {
    let list = |names: &[Box<str>]| match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let expires = match identity.expires_unix_s {
        at if at > YEAR_9999_UNIX_S => "never".to_owned(),
        at => {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
            humantime::format_rfc3339_seconds(at).to_string()
        }
    };
    let attributes: Vec<Box<str>> = identity
        .attributes
        .iter()
        .map(|(name, value)| format!("{name}={value}").into())
        .collect();
    let tenant = identity.tenant.as_deref().unwrap_or("none");
    for (name, value) in [
        ("user", &*identity.user),
        ("tenant", tenant),
        ("roles", &list(&identity.roles)),
        ("permissions", &list(&identity.permissions)),
        ("attributes", &list(&attributes)),
        ("expires", &expires),
    ] {
        // Claims come from whoever signed the token, and the terminal is the operator's.
        let value = value.replace(char::is_control, " ");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<12} {value}");
    }
}

fn reason(ruling: Ruling<'_>) -> String {
    let is_met = if ruling.is_allowed { "is" } else { "is not" };
    match ruling.grounds {
        Grounds::Rule(action, rule) => {
            let setting = match action {
                Action::Subscribe => "access_rules",
                Action::Publish => "publish_rules",
                Action::Presence => "presence_rules",
                Action::History => "history_rules",
            };
            format!("rule \"{rule}\" {is_met} met ({setting})")
        }
        Grounds::Owner(owner) => format!(
            "no rule matches (publish_rules), and the channel is one of {}",
            owner.name()
        ),
        Grounds::Default(default) => {
            format!("no rule matches, and default_access is {}", default.name())
        }
        Grounds::Channel(rejection) => rejection.text(),
        Grounds::Unauthenticated => "clients must authenticate (auth_required)".to_owned(),
        Grounds::NoPublisher => {
            "only clients whose token has the permission publish may publish, and those without a \
             token where anonymous_publish is on"
                .to_owned()
        }
    }
}

//! The tables of the dialects: what a document leaves to the operator.

use super::error::SettingsError;
use super::policy::{DialectPolicy, RateLimit};
use super::reader::{DefaultValue, Reader};
use super::setting::{Bytes, Setting};
use crate::base::DialectId;
use figment::value::{Dict, Value};
use std::time::Duration;

/// Shortest limit of a message, bytes: a token and its envelope.
const MESSAGE_BYTES_MIN: u64 = 1_024;
/// Longest, bytes. A message is in memory as a whole.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;
/// What a rate limit is.
const RATE_LIMIT_RULE: &str = "\"off\", \"on\", { messages = N, window = \"60s\" } or \
     { per_minute = N, burst = N }, each N 1 or more";
/// The window of the documents that say a number of messages and no window.
const WINDOW_MS: u32 = 60_000;
/// The burst of the gateway's document.
const BURST: u32 = 20;

/// Reads the table of one dialect.
pub(super) struct Table<'a> {
    pub(super) reader: &'a mut Reader,
    pub(super) dialect: DialectId,
    pub(super) is_profile: bool,
    pub(super) is_dev: bool,
}

impl Table<'_> {
    /// The dialect's policy.
    ///
    /// # Errors
    /// When a value is none, or breaks a rule.
    pub(super) fn policy(&mut self) -> Result<DialectPolicy, SettingsError> {
        let auth_required = self.read("auth_required", |policy| policy.auth_required)?;
        let anonymous_publish =
            self.read("anonymous_publish", |policy| policy.anonymous_publish)?;
        let auth_attempts_max =
            self.read("auth_attempts_max", |policy| policy.auth_attempts_max)?;
        let is_allowed = (1..=u32::from(u8::MAX)).contains(&auth_attempts_max);
        self.ensure("auth_attempts_max", is_allowed, "1 to 255")?;
        let auth_timeout_ms = self.read_ms("auth_timeout", |policy| policy.auth_timeout_ms)?;
        let ping_interval_ms = self.read_ms("ping_interval", |policy| policy.ping_interval_ms)?;
        let pong_timeout_ms = self.read_ms("pong_timeout", |policy| policy.pong_timeout_ms)?;
        self.ensure("pong_timeout", pong_timeout_ms > 0, "a time over 0")?;
        let close_timeout_ms = self.read_ms("close_timeout", |policy| policy.close_timeout_ms)?;
        self.ensure("close_timeout", close_timeout_ms > 0, "a time over 0")?;
        let rate_limit = self.rate_limit()?;
        let rate_scope = self.read("rate_scope", |policy| policy.rate_scope)?;
        let rate_violations_max =
            self.read("rate_violations_max", |policy| policy.rate_violations_max)?;
        let message_bytes_max = self.message_bytes_max()?;
        Ok(DialectPolicy {
            auth_required,
            anonymous_publish,
            auth_attempts_max,
            auth_timeout_ms,
            ping_interval_ms,
            pong_timeout_ms,
            rate_limit,
            rate_scope,
            rate_violations_max,
            message_bytes_max,
            sessions_max: self.read("sessions_max", |policy| policy.sessions_max)?,
            sessions_per_ip_max: self
                .read("sessions_per_ip_max", |policy| policy.sessions_per_ip_max)?,
            sessions_per_user_max: self.read("sessions_per_user_max", |policy| {
                policy.sessions_per_user_max
            })?,
            sessions_per_tenant_max: self.read("sessions_per_tenant_max", |policy| {
                policy.sessions_per_tenant_max
            })?,
            close_timeout_ms,
            token_expiry_action: self
                .read("token_expiry_action", |policy| policy.token_expiry_action)?,
            announces_users: DialectPolicy::of(self.dialect).announces_users,
            user_claim: self.read("user_claim", |policy| policy.user_claim)?,
        })
    }

    /// The value of a setting that the policy does not hold.
    ///
    /// # Errors
    /// When what was said is no value of this form.
    pub(super) fn extra<T: Setting>(&mut self, name: &str, value: T) -> Result<T, SettingsError> {
        let default = DefaultValue(value, self.origin());
        self.reader.read(&self.key(name), default)
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.dialect.name())
    }

    /// Where a value comes from that nobody said.
    fn origin(&self) -> String {
        if self.is_profile {
            format!("{} profile", self.dialect.name())
        } else {
            "default".into()
        }
    }

    /// What is in force when nobody says anything.
    fn default<T: PartialEq>(&self, of: impl Fn(&DialectPolicy) -> T) -> DefaultValue<T> {
        let document = DialectPolicy::of(self.dialect);
        let (said, permissive) = (of(&document), of(&document.permissive()));
        if self.is_dev && said != permissive {
            DefaultValue(permissive, "--dev".into())
        } else {
            DefaultValue(said, self.origin())
        }
    }

    fn read<T: Setting>(
        &mut self,
        name: &str,
        of: impl Fn(&DialectPolicy) -> T,
    ) -> Result<T, SettingsError> {
        let default = self.default(of);
        self.reader.read(&self.key(name), default)
    }

    fn read_ms(
        &mut self,
        name: &str,
        of: impl Fn(&DialectPolicy) -> u64,
    ) -> Result<u64, SettingsError> {
        let time = self.read(name, |policy| Duration::from_millis(of(policy)))?;
        let time_ms = u64::try_from(time.as_millis()).expect("parsed times are under a century");
        self.ensure(
            name,
            time.is_zero() || time_ms > 0,
            "whole milliseconds, or 0s",
        )?;
        Ok(time_ms)
    }

    fn ensure(&self, name: &str, holds: bool, rule: &str) -> Result<(), SettingsError> {
        self.reader.ensure(&self.key(name), holds, rule)
    }

    fn message_bytes_max(&mut self) -> Result<usize, SettingsError> {
        let name = "message_bytes_max";
        let bytes = self.read(name, |policy| Bytes(policy.message_bytes_max as u64))?;
        let is_allowed = (MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&bytes.0);
        self.ensure(name, is_allowed, "1 KiB to 1 GiB")?;
        Ok(usize::try_from(bytes.0).expect("at most 1 GiB"))
    }

    fn rate_limit(&mut self) -> Result<RateLimit, SettingsError> {
        let key = self.key("rate_limit");
        let document = DialectPolicy::of(self.dialect).rate_limit;
        let (limit, source) = match self.reader.layers.find(&key) {
            None => {
                let default = self.default(|policy| policy.rate_limit);
                (Some(default.0), default.1)
            }
            Some(entry) => {
                let limit = match &entry.value {
                    Value::Dict(_, parts) => limit_of_parts(parts, document),
                    value => match value.as_str().map(str::to_ascii_lowercase).as_deref() {
                        Some("off") => Some(RateLimit::Off),
                        Some("on") => Some(document),
                        _ => None,
                    },
                };
                (limit, entry.source)
            }
        };
        let Some(limit) = limit else {
            self.ensure("rate_limit", false, RATE_LIMIT_RULE)?;
            return Ok(document);
        };
        self.reader.note(&key, Some(show(limit)), &source);
        Ok(limit)
    }
}

/// A limit of which some parts were said; the rest is the document's.
fn limit_of_parts(parts: &Dict, document: RateLimit) -> Option<RateLimit> {
    let count = |name: &str| match parts.get(name) {
        Some(value) => u32::parse(value).filter(|count| *count > 0).map(Some),
        None => Some(None),
    };
    if parts.contains_key("per_minute") || parts.contains_key("burst") {
        let (per_minute, burst) = match document {
            RateLimit::Bucket { per_minute, burst } => (Some(per_minute), burst),
            _ => (None, BURST),
        };
        return Some(RateLimit::Bucket {
            per_minute: count("per_minute")?.or(per_minute)?,
            burst: count("burst")?.unwrap_or(burst),
        });
    }
    let (messages, window_ms) = match document {
        RateLimit::Window {
            messages,
            window_ms,
        } => (Some(messages), window_ms),
        _ => (None, WINDOW_MS),
    };
    let window_ms = match parts.get("window") {
        None => window_ms,
        Some(value) => {
            let window_ms = u32::try_from(Duration::parse(value)?.as_millis()).ok()?;
            (window_ms > 0).then_some(window_ms)?
        }
    };
    Some(RateLimit::Window {
        messages: count("messages")?.or(messages)?,
        window_ms,
    })
}

fn show(limit: RateLimit) -> String {
    match limit {
        RateLimit::Off => "\"off\"".into(),
        RateLimit::Window {
            messages,
            window_ms,
        } => {
            let window = Duration::from_millis(window_ms.into());
            let window = humantime::format_duration(window);
            format!("{{ messages = {messages}, window = \"{window}\" }}")
        }
        RateLimit::Bucket { per_minute, burst } => {
            format!("{{ per_minute = {per_minute}, burst = {burst} }}")
        }
    }
}

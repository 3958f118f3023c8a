//! A rate limit, as a setting: a word, or a table of parts.

use super::value::{SettingType, SettingValue};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// The parts of a limit, which may be set one by one.
pub(super) const PARTS: [&str; 4] = ["messages", "window", "per_minute", "burst"];
/// The parts of each kind of limit; they do not mix.
pub(super) const KINDS: [[&str; 2]; 2] = [["messages", "window"], ["per_minute", "burst"]];

/// Highest rate of a token bucket: one message per microsecond, the resolution of its clock.
const PER_MINUTE_MAX: u32 = 60_000_000;

/// Most messages of a window: the state of a limit counts them in 20 bits.
pub const WINDOW_MESSAGES_MAX: u32 = 1_000_000;

/// The rate limit of a session, or of the sessions of a user, a tenant or an address together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RateLimit {
    /// Any number.
    Off,
    /// About `messages` in any `window_ms`, exactly as many in the first window.
    Window {
        /// Messages per window.
        messages: u32,
        /// Length of the window, milliseconds.
        window_ms: u32,
    },
    /// A token bucket: `burst` messages at once, refilled at `per_minute`.
    Bucket {
        /// Messages per minute in the long run.
        per_minute: u32,
        /// Messages at once after a pause.
        burst: u32,
    },
}

impl RateLimit {
    /// Messages per window or burst; `None` = any number.
    #[must_use]
    pub const fn messages_max(self) -> Option<u32> {
        match self {
            Self::Off => None,
            Self::Window { messages, .. } => Some(messages),
            Self::Bucket { burst, .. } => Some(burst),
        }
    }
}

fn from_parts(parts: &BTreeMap<String, SettingValue>, default: RateLimit) -> Option<RateLimit> {
    const WINDOW_MS: u32 = 60_000;
    const BURST: u32 = 20;
    if parts.keys().any(|name| !PARTS.contains(&&**name)) {
        return None;
    }
    let count = |name: &str| match parts.get(name) {
        Some(value) => u32::parse(value).filter(|count| *count > 0).map(Some),
        None => Some(None),
    };
    if KINDS[1].iter().any(|part| parts.contains_key(*part)) {
        let (per_minute, burst) = match default {
            RateLimit::Bucket { per_minute, burst } => (Some(per_minute), burst),
            _ => (None, BURST),
        };
        return Some(RateLimit::Bucket {
            per_minute: count("per_minute")?
                .or(per_minute)
                .filter(|per_minute| *per_minute <= PER_MINUTE_MAX)?,
            burst: count("burst")?.unwrap_or(burst),
        });
    }
    let (messages, window_ms) = match default {
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
        messages: count("messages")?
            .or(messages)
            .filter(|messages| *messages <= WINDOW_MESSAGES_MAX)?,
        window_ms,
    })
}

impl SettingType for RateLimit {
    fn rule() -> Cow<'static, str> {
        "\"off\", \"on\", { messages = N, window = \"60s\" } or { per_minute = N, burst = N }, each \
         N 1 or more, messages at most 1000000, per_minute at most 60000000, window at most 49 days"
            .into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        Self::parse_over(value, &Self::Off)
    }

    fn parse_over(value: &SettingValue, default: &Self) -> Option<Self> {
        match value {
            SettingValue::Table(parts) => from_parts(parts, *default),
            value => match &*value.as_str()?.trim().to_ascii_lowercase() {
                "off" => Some(Self::Off),
                "on" => Some(*default),
                _ => None,
            },
        }
    }

    fn show(&self) -> Option<String> {
        Some(match *self {
            Self::Off => "\"off\"".into(),
            Self::Window {
                messages,
                window_ms,
            } => {
                let window = Duration::from_millis(window_ms.into()).show()?;
                format!("{{ messages = {messages}, window = {window} }}")
            }
            Self::Bucket { per_minute, burst } => {
                format!("{{ per_minute = {per_minute}, burst = {burst} }}")
            }
        })
    }
}

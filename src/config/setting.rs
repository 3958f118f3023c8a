//! The forms of values: what a text or a number of a source means, and how a value is printed.

use super::access::AccessRule;
use super::log::{LogFormat, LogLevel};
use super::policy::{RateScope, RejectionMode, TokenExpiryAction};
use super::secret::Secret;
use crate::auth::StaticToken;
use crate::auth::UserClaim;
use crate::base::DialectId;
use crate::base::limits::SHARDS_MAX;
use figment::value::Value;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Longest time that may be set.
const DURATION_MAX: Duration = Duration::from_hours(24 * 365 * 100);

/// A form of values.
pub(super) trait Setting: Sized + Clone + PartialEq {
    /// What is right, to follow "expected".
    const RULE: &'static str;

    /// The value, or `None` if it is none of this form. Values of variables are always texts.
    fn parse(value: &Value) -> Option<Self>;

    /// As TOML; `None` when there is nothing.
    fn show(&self) -> Option<String>;
}

/// A size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

/// A number of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardCount {
    /// One per allowed core.
    Auto,
    /// Just so many.
    Fixed(u16),
}

impl Setting for bool {
    const RULE: &'static str = "true or false";

    fn parse(value: &Value) -> Option<Self> {
        if let Value::Bool(_, value) = value {
            return Some(*value);
        }
        match &*value.as_str()?.trim().to_ascii_lowercase() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Num(_, number) => u64::try_from(number.to_i128().map_or_else(
            || {
                number
                    .to_u128()
                    .and_then(|number| i128::try_from(number).ok())
            },
            Some,
        )?)
        .ok(),
        value => value.as_str()?.trim().parse().ok(),
    }
}

impl Setting for u64 {
    const RULE: &'static str = "a number, 0 or more";

    fn parse(value: &Value) -> Option<Self> {
        // What no TOML can hold could not be printed either.
        number(value).filter(|number| i64::try_from(*number).is_ok())
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for u32 {
    const RULE: &'static str = "a number from 0 to 4294967295";

    fn parse(value: &Value) -> Option<Self> {
        number(value)?.try_into().ok()
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for u16 {
    const RULE: &'static str = "a port from 0 to 65535";

    fn parse(value: &Value) -> Option<Self> {
        number(value)?.try_into().ok()
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for ShardCount {
    const RULE: &'static str = "`auto` or a number from 1 to 512";

    fn parse(value: &Value) -> Option<Self> {
        if value.as_str() == Some("auto") {
            return Some(Self::Auto);
        }
        let count = u16::try_from(number(value)?).ok()?;
        let is_allowed = (1..=SHARDS_MAX).contains(&usize::from(count));
        is_allowed.then_some(Self::Fixed(count))
    }

    fn show(&self) -> Option<String> {
        Some(match self {
            Self::Auto => quoted("auto"),
            Self::Fixed(count) => count.to_string(),
        })
    }
}

const _: () = assert!(SHARDS_MAX == 512, "the rule above names it");

impl std::str::FromStr for ShardCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(&Value::from(text)).ok_or_else(|| format!("expected {}", Self::RULE))
    }
}

impl Setting for Bytes {
    const RULE: &'static str =
        "a number of bytes, or a text with a unit such as \"64 KiB\" or \"100 MB\"";

    fn parse(value: &Value) -> Option<Self> {
        if let Some(bytes) = number(value) {
            return Some(Self(bytes));
        }
        let text = value.as_str()?.trim();
        let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (count, unit) = text.split_at(unit_at);
        let (whole, part) = count.split_once('.').unwrap_or((count, "0"));
        let scale: u64 = match &*unit.trim().to_ascii_lowercase() {
            "b" => 1,
            "k" | "kb" => 1_000,
            "m" | "mb" => 1_000_000,
            "g" | "gb" => 1_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            _ => return None,
        };
        // Tenths and hundredths of a unit, without the rounding of floats.
        let digits = u32::try_from(part.len())
            .ok()
            .filter(|digits| *digits <= 6)?;
        let part: u64 = part.parse().ok()?;
        let bytes = whole.parse::<u64>().ok()?.checked_mul(scale)?;
        bytes
            .checked_add(part * scale / 10_u64.pow(digits))
            .map(Self)
    }

    fn show(&self) -> Option<String> {
        let units = [
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
            ("GB", 1_000_000_000),
            ("MB", 1_000_000),
        ];
        let whole = units
            .into_iter()
            .find(|(_, scale)| self.0 > 0 && self.0.is_multiple_of(*scale));
        Some(match whole {
            Some((unit, scale)) => quoted(&format!("{} {unit}", self.0 / scale)),
            None => self.0.to_string(),
        })
    }
}

impl Setting for Duration {
    const RULE: &'static str =
        "a time with its unit, such as \"30s\", \"250ms\", \"10m\" or \"30 days\"";

    fn parse(value: &Value) -> Option<Self> {
        let text = value.as_str()?.trim();
        // humantime takes a bare 0 as well; one rule is easier to remember than two.
        let has_unit = text.contains(|c: char| c.is_ascii_alphabetic());
        let time = has_unit.then(|| humantime::parse_duration(text).ok())??;
        // So that no sum of times overflows.
        (time <= DURATION_MAX).then_some(time)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&humantime::format_duration(*self).to_string()))
    }
}

impl Setting for String {
    const RULE: &'static str = "a text";

    fn parse(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

/// An empty text is nothing.
impl Setting for Option<String> {
    const RULE: &'static str = "a text";

    fn parse(value: &Value) -> Option<Self> {
        let text = value.as_str()?.trim();
        Some((!text.is_empty()).then(|| text.to_owned()))
    }

    fn show(&self) -> Option<String> {
        self.as_deref().map(quoted)
    }
}

/// An empty text is nothing.
impl Setting for Option<PathBuf> {
    const RULE: &'static str = "the path of a file";

    fn parse(value: &Value) -> Option<Self> {
        Some(Option::<String>::parse(value)?.map(PathBuf::from))
    }

    fn show(&self) -> Option<String> {
        let path = self.as_ref()?;
        Some(quoted(&path.to_string_lossy()))
    }
}

/// Taken as it is, spaces and quotes included.
impl Setting for Option<Secret> {
    const RULE: &'static str = "a text";

    fn parse(value: &Value) -> Option<Self> {
        value.as_str().map(|text| Some(Secret(text.to_owned())))
    }

    fn show(&self) -> Option<String> {
        self.as_ref().map(|_| quoted("(secret)"))
    }
}

/// In variables an array of JSON, or texts with commas between.
impl Setting for Vec<String> {
    const RULE: &'static str = "a list of texts";

    fn parse(value: &Value) -> Option<Self> {
        if let Some(values) = value.as_array() {
            let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
            return texts.collect();
        }
        let text = value.as_str()?.trim();
        if text.starts_with('[') {
            return serde_json::from_str(text).ok();
        }
        let texts = text.split(',').map(str::trim);
        Some(
            texts
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .collect(),
        )
    }

    fn show(&self) -> Option<String> {
        let texts: Vec<_> = self.iter().map(|text| quoted(text)).collect();
        Some(format!("[{}]", texts.join(", ")))
    }
}

/// Each a user, `=`, a token.
impl Setting for Vec<StaticToken> {
    const RULE: &'static str = "a list of texts \"USER=TOKEN\"";

    fn parse(value: &Value) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        let tokens = texts.iter().map(|text| {
            let (user, token) = text.split_once('=')?;
            let is_whole = !user.is_empty() && !token.is_empty();
            is_whole.then(|| StaticToken {
                user: user.into(),
                token: token.into(),
            })
        });
        tokens.collect()
    }

    fn show(&self) -> Option<String> {
        let users = self
            .iter()
            .map(|token| quoted(&format!("{}=(secret)", token.user)));
        Some(format!("[{}]", users.collect::<Vec<_>>().join(", ")))
    }
}

/// Each a channel, or the start of its name and `*`, a space, and what it asks for.
impl Setting for Vec<AccessRule> {
    const RULE: &'static str = "a list of texts \"CHANNEL role=ROLE\", \"CHANNEL permission=PERMISSION\" or \"PREFIX* user\"";

    fn parse(value: &Value) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        texts.iter().map(|text| AccessRule::parse(text)).collect()
    }

    fn show(&self) -> Option<String> {
        let rules: Vec<_> = self.iter().map(|rule| quoted(&rule.to_string())).collect();
        Some(format!("[{}]", rules.join(", ")))
    }
}

impl Setting for IpAddr {
    const RULE: &'static str = "an address such as 0.0.0.0, ::1 or localhost";

    fn parse(value: &Value) -> Option<Self> {
        match value.as_str()?.trim() {
            "localhost" => Some([127, 0, 0, 1].into()),
            text => text.trim_matches(['[', ']']).parse().ok(),
        }
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

/// A value out of a few that have names.
trait Named: Copy + PartialEq + 'static {
    const RULE: &'static str;
    /// The first name of a value is the one that is printed.
    const NAMES: &'static [(&'static str, Self)];
}

impl<T: Named> Setting for T {
    const RULE: &'static str = T::RULE;

    fn parse(value: &Value) -> Option<Self> {
        let text = value.as_str()?.trim();
        let mut names = T::NAMES.iter();
        names
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|(_, value)| *value)
    }

    fn show(&self) -> Option<String> {
        let mut names = T::NAMES.iter();
        names
            .find(|(_, value)| value == self)
            .map(|(name, _)| quoted(name))
    }
}

impl Named for LogLevel {
    const RULE: &'static str = "one of trace, debug, info, warn, error, critical";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("trace", Self::Trace),
        ("debug", Self::Debug),
        ("info", Self::Info),
        ("warn", Self::Warn),
        ("warning", Self::Warn),
        ("error", Self::Error),
        ("critical", Self::Error),
    ];
}

impl Named for LogFormat {
    const RULE: &'static str = "text or json";
    const NAMES: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Named for RejectionMode {
    const RULE: &'static str = "close or http";
    const NAMES: &'static [(&'static str, Self)] = &[("close", Self::Close), ("http", Self::Http)];
}

impl Named for RateScope {
    const RULE: &'static str = "connection or user";
    const NAMES: &'static [(&'static str, Self)] =
        &[("connection", Self::Connection), ("user", Self::User)];
}

impl Named for TokenExpiryAction {
    const RULE: &'static str = "close or ignore";
    const NAMES: &'static [(&'static str, Self)] =
        &[("close", Self::Close), ("ignore", Self::Ignore)];
}

impl Named for DialectId {
    const RULE: &'static str = "one of gateway, monitoring, analytics, assist, notifications";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("gateway", Self::Gateway),
        ("monitoring", Self::Monitoring),
        ("analytics", Self::Analytics),
        ("assist", Self::Assist),
        ("notifications", Self::Notifications),
    ];
}

impl Named for UserClaim {
    const RULE: &'static str = "sub or user_id";
    const NAMES: &'static [(&'static str, Self)] = &[("sub", Self::Sub), ("user_id", Self::UserId)];
}

/// A basic string of TOML; those of JSON are some of them.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Setting + std::fmt::Debug>(text: &str, expected: Option<T>) {
        assert_eq!(T::parse(&Value::from(text)), expected, "{text}");
    }

    #[test]
    fn times_need_a_unit() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        check("30s", seconds(30));
        check("250ms", Some(Duration::from_millis(250)));
        check("10m", seconds(600));
        check("1h 30m", seconds(5_400));
        check("30 days", seconds(30 * 86_400));
        check("1 week", seconds(7 * 86_400));
        check("0s", seconds(0));
        for text in ["30", "0", "", "-1s", "30 apples"] {
            check::<Duration>(text, None);
        }
        assert_eq!(Duration::parse(&Value::from(30)), None);
    }

    #[test]
    fn sizes_are_numbers_or_texts_with_a_unit() {
        check("4096", Some(Bytes(4_096)));
        check("1 MiB", Some(Bytes(1 << 20)));
        check("100 MB", Some(Bytes(100_000_000)));
        check("64kib", Some(Bytes(65_536)));
        check("0.5 GB", Some(Bytes(500_000_000)));
        for text in [
            "MB",
            "1 MBit",
            "-1 MB",
            "1.2.3 MB",
            "99999999999 GB",
            "1 day",
        ] {
            check::<Bytes>(text, None);
        }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        let again = |value: Bytes| {
            let text = value.show().unwrap();
            Bytes::parse(&Value::from(text.trim_matches('"'))).unwrap()
        };
        for bytes in [0, 1, 1_000, 65_536, 1 << 20, 10_000_000, 1_234_567] {
            assert_eq!(again(Bytes(bytes)).0, bytes);
        }
    }

    #[test]
    fn names_and_lists_are_read_as_operators_write_them() {
        check("WARNING", Some(LogLevel::Warn));
        check("Critical", Some(LogLevel::Error));
        check("DEBUG", Some(LogLevel::Debug));
        check::<LogLevel>("loud", None);
        let origins = vec!["https://a".to_owned(), "https://b".to_owned()];
        check("https://a, https://b", Some(origins.clone()));
        check(r#"["https://a", "https://b"]"#, Some(origins));
        check("yes", Some(true));
        check::<bool>("2", None);
        check("localhost", Some(IpAddr::from([127, 0, 0, 1])));
        check::<ShardCount>("0", None);
        check("auto", Some(ShardCount::Auto));
    }
}

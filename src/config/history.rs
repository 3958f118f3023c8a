//! The setting that says of which channels a history is kept, and how much.

use super::value::{ByteSize, Millis, SettingType, SettingValue};
use crate::base::{HistoryLimits, HistoryRule};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// What is kept of a channel if the rule does not say how many bytes.
const BYTES_MAX: ByteSize = ByteSize(1 << 20);

/// A rule in the settings: a pattern of channels, then limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistorySetting(pub HistoryRule);

impl HistorySetting {
    /// All channels whose names begin with this prefix: so many publications for so long.
    #[must_use]
    pub fn of_prefix(prefix: &str, messages_max: u32, age: Duration) -> Self {
        Self(HistoryRule {
            literal: prefix.into(),
            is_prefix: true,
            limits: HistoryLimits {
                messages_max,
                bytes_max: BYTES_MAX.0,
                age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            },
        })
    }

    /// `CHANNEL messages=N`, and optionally `age=TIME` and `bytes=SIZE`.
    fn parse(text: &str) -> Option<Self> {
        let mut limits = HistoryLimits {
            messages_max: 0,
            bytes_max: BYTES_MAX.0,
            age_ms: 0,
        };
        let mut has_messages = false;
        // The names of channels may have spaces.
        let mut pattern = text.trim();
        while let Some((before, word)) = pattern.rsplit_once(char::is_whitespace)
            && let Some((name, limit)) = word.split_once('=')
        {
            let value = SettingValue::from(limit);
            match name {
                "messages" => {
                    limits.messages_max = limit.parse().ok()?;
                    has_messages = true;
                }
                "bytes" => limits.bytes_max = ByteSize::parse(&value)?.0,
                "age" => limits.age_ms = Millis::parse(&value)?.0,
                _ => return None,
            }
            pattern = before.trim_end();
        }
        let (literal, is_prefix) = match pattern.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (pattern, false),
        };
        has_messages.then(|| {
            Self(HistoryRule {
                literal: literal.into(),
                is_prefix,
                limits,
            })
        })
    }
}

impl fmt::Display for HistorySetting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HistoryRule {
            literal,
            is_prefix,
            limits,
        } = &self.0;
        let open = if *is_prefix { "*" } else { "" };
        write!(
            formatter,
            "{literal}{open} messages={}",
            limits.messages_max
        )?;
        if limits.age_ms > 0 {
            let age = humantime::format_duration(Duration::from_millis(limits.age_ms));
            write!(formatter, " age={}", age.to_string().replace(' ', ""))?;
        }
        if limits.bytes_max != BYTES_MAX.0 {
            let bytes = ByteSize(limits.bytes_max).show().unwrap_or_default();
            write!(formatter, " bytes={}", bytes.replace(['"', ' '], ""))?;
        }
        Ok(())
    }
}

/// Each is a pattern of channels, a space, and limits.
impl SettingType for Vec<HistorySetting> {
    fn rule() -> Cow<'static, str> {
        "a list of strings \"CHANNEL messages=N\", with age=TIME and bytes=SIZE if wanted; `*` at the \
         end of a channel stands for any rest"
            .into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        texts
            .iter()
            .map(|text| HistorySetting::parse(text))
            .collect()
    }

    fn show(&self) -> Option<String> {
        let rules: Vec<_> = self.iter().map(ToString::to_string).collect();
        rules.show()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: (&str, bool, u32, u64, u64)) {
        let HistorySetting(rule) = HistorySetting::parse(text).unwrap();
        let limits = rule.limits;
        let (bytes, age) = (limits.bytes_max, limits.age_ms);
        let found = (
            &*rule.literal,
            rule.is_prefix,
            limits.messages_max,
            bytes,
            age,
        );
        assert_eq!(found, expected, "{text}");
        let again = HistorySetting(rule).to_string();
        assert_eq!(HistorySetting::parse(&again).unwrap().to_string(), again);
    }

    #[test]
    fn a_rule_names_channels_and_limits() {
        check("news messages=10", ("news", false, 10, 1 << 20, 0));
        check("news:* messages=10", ("news:", true, 10, 1 << 20, 0));
        check("* messages=0", ("", true, 0, 1 << 20, 0));
        check(
            "a b* age=1h30m messages=5 bytes=2MiB",
            ("a b", true, 5, 2 << 20, 5_400_000),
        );
        check(
            "news: age=500ms messages=1",
            ("news:", false, 1, 1 << 20, 500),
        );
    }

    #[test]
    fn other_texts_are_no_rules() {
        for text in [
            "",
            "news",
            "messages=1",
            "news age=1h",
            "news messages=-1",
            "news messages=1 age=x",
            "news messages=1 size=1",
            "news messages=1 more",
        ] {
            assert_eq!(HistorySetting::parse(text), None, "{text}");
        }
    }
}

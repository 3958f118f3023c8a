//! The setting that says of which channels it is kept who is there, and whether changes are announced.

use super::value::{SettingType, SettingValue};
use crate::base::{PresenceMode, PresenceRule};
use std::borrow::Cow;
use std::fmt;

const MODES: [(&str, PresenceMode); 3] = [
    ("off", PresenceMode::Off),
    ("members", PresenceMode::Members),
    ("events", PresenceMode::Events),
];

/// A rule in the settings: a pattern of channels, then what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceSetting(pub PresenceRule);

impl PresenceSetting {
    /// On all channels whose names begin with this prefix, changes are announced.
    #[must_use]
    pub fn events_of_prefix(prefix: &str) -> Self {
        Self(PresenceRule {
            literal: prefix.into(),
            is_prefix: true,
            mode: PresenceMode::Events,
        })
    }

    /// `CHANNEL MODE`. The names of channels may have spaces.
    fn parse(text: &str) -> Option<Self> {
        let (pattern, mode) = text.trim().rsplit_once(char::is_whitespace)?;
        let mut modes = MODES.into_iter();
        let (_, mode) = modes.find(|(name, _)| *name == mode)?;
        let pattern = pattern.trim_end();
        let (literal, is_prefix) = match pattern.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (pattern, false),
        };
        Some(Self(PresenceRule {
            literal: literal.into(),
            is_prefix,
            mode,
        }))
    }
}

impl fmt::Display for PresenceSetting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PresenceRule {
            literal,
            is_prefix,
            mode,
        } = &self.0;
        let open = if *is_prefix { "*" } else { "" };
        let mut modes = MODES.into_iter();
        let name = modes.find(|(_, other)| other == mode);
        let name = name.map_or("", |(name, _)| name);
        write!(formatter, "{literal}{open} {name}")
    }
}

/// Each is a pattern of channels, a space, and what is kept.
impl SettingType for Vec<PresenceSetting> {
    fn rule() -> Cow<'static, str> {
        "a list of strings \"CHANNEL members\", \"CHANNEL events\" or \"CHANNEL off\"; `*` at the end \
         of a channel stands for any rest"
            .into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        let settings = texts.iter().map(|text| PresenceSetting::parse(text));
        settings.collect()
    }

    fn show(&self) -> Option<String> {
        let rules: Vec<_> = self.iter().map(ToString::to_string).collect();
        rules.show()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_channels_and_what_is_kept() {
        for (text, expected) in [
            ("news members", ("news", false, PresenceMode::Members)),
            ("room:* events", ("room:", true, PresenceMode::Events)),
            (" a b *  off ", ("a b ", true, PresenceMode::Off)),
            ("* events", ("", true, PresenceMode::Events)),
        ] {
            let PresenceSetting(rule) = PresenceSetting::parse(text).unwrap();
            assert_eq!((&*rule.literal, rule.is_prefix, rule.mode), expected);
            let again = PresenceSetting(rule.clone()).to_string();
            assert_eq!(PresenceSetting::parse(&again).unwrap().0, rule);
        }
        for text in ["", "news", "events", "news all", "news=events"] {
            assert_eq!(PresenceSetting::parse(text), None, "{text}");
        }
    }
}

//! A set of channels by their names.

use std::fmt;

/// Channels, each by its name for clients or by what names begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelSet(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    literal: Box<str>,
    /// Whether any rest may follow.
    is_prefix: bool,
}

impl ChannelSet {
    /// The channels that match one of these: a name, or what names begin with and `*`. `None` when one
    /// of them is empty.
    #[must_use]
    pub fn of(patterns: &[String]) -> Option<Self> {
        let patterns = patterns.iter().map(|text| {
            let pattern = match text.strip_suffix('*') {
                Some(prefix) => (prefix, true),
                None => (&**text, false),
            };
            let (literal, is_prefix) = pattern;
            let literal = literal.into();
            (!text.is_empty()).then_some(Pattern { literal, is_prefix })
        });
        patterns.collect::<Option<_>>().map(Self)
    }

    /// All channels.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![Pattern {
            literal: "".into(),
            is_prefix: true,
        }])
    }

    /// Whether a channel is one of them, by its name for clients.
    #[must_use]
    pub fn contains(&self, channel: &str) -> bool {
        let mut patterns = self.0.iter();
        patterns.any(|pattern| match pattern.is_prefix {
            true => channel.starts_with(&*pattern.literal),
            false => *channel == *pattern.literal,
        })
    }

    /// Its patterns, as they are written.
    #[must_use]
    pub fn patterns(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = if self.is_prefix { "*" } else { "" };
        write!(formatter, "{}{open}", self.literal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_what_names_begin_with() {
        let texts = ["orders:*", "news"].map(str::to_owned);
        let set = ChannelSet::of(&texts).unwrap();
        for (channel, expected) in [
            ("orders:", true),
            ("orders:7", true),
            ("orders", false),
            ("news", true),
            ("news:1", false),
            ("", false),
        ] {
            assert_eq!(set.contains(channel), expected, "{channel}");
        }
        assert_eq!(set.patterns(), texts);
        assert!(ChannelSet::all().contains("anything"));
        assert!(!ChannelSet::of(&[]).unwrap().contains("anything"));
        assert_eq!(ChannelSet::of(&[String::new()]), None);
    }
}

//! The setting that says when what is stored must be on the disk.

use super::value::{Millis, SettingType, SettingValue};
use std::borrow::Cow;
use std::time::Duration;

/// When what is stored must be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreSync {
    /// Before it is acknowledged.
    Always,
    /// So often, and not 0.
    Every(Duration),
    /// When the operating system writes it.
    Never,
}

impl SettingType for StoreSync {
    fn rule() -> Cow<'static, str> {
        "`always`, `never`, or a time of 1ms or more, such as \"1s\"".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        match value.as_str()?.trim() {
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            _ => match Millis::parse(value)?.0 {
                0 => None,
                time_ms => Some(Self::Every(Duration::from_millis(time_ms))),
            },
        }
    }

    fn show(&self) -> Option<String> {
        match self {
            Self::Always => SettingType::show(&"always".to_owned()),
            Self::Never => SettingType::show(&"never".to_owned()),
            Self::Every(time) => time.show(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_reads_as_it_is_shown() {
        for (text, expected) in [
            ("always", Some(StoreSync::Always)),
            ("never", Some(StoreSync::Never)),
            ("1s", Some(StoreSync::Every(Duration::from_secs(1)))),
            ("250ms", Some(StoreSync::Every(Duration::from_millis(250)))),
            ("0s", None),
            ("1", None),
            ("sometimes", None),
        ] {
            assert_eq!(
                StoreSync::parse(&SettingValue::from(text)),
                expected,
                "{text}"
            );
            let shown = expected.and_then(|sync| sync.show());
            let again = shown.map(|shown| SettingValue::from(shown.trim_matches('"')));
            assert_eq!(again.and_then(|shown| StoreSync::parse(&shown)), expected);
        }
    }
}

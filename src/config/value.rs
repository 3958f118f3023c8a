//! Values of settings: parsing of strings, numbers and lists, and printing.

use super::access::AccessRule;
use super::secret::{MASK, Secret};
use crate::auth::{StaticToken, TokenAlgorithm};
use crate::base::label::Label;
use crate::base::limits::SHARDS_MAX;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Longest time that may be set.
const DURATION_MAX: Duration = Duration::from_hours(24 * 365 * 100);

/// A value as in its source. Values of variables and flags are always strings.
///
/// ```
/// use fanwire::SettingValue;
/// use std::time::Duration;
///
/// assert_eq!(SettingValue::from(Duration::from_secs(30)), SettingValue::from("30s"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingValue {
    /// A string.
    Text(String),
    /// A whole number.
    Integer(i128),
    /// `true` or `false`.
    Bool(bool),
    /// A list.
    List(Vec<SettingValue>),
    /// A table with named parts.
    Table(BTreeMap<String, SettingValue>),
    /// A value of a type that no setting has, such as a date, as written in the file.
    Unsupported(String),
}

impl SettingValue {
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn integer(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            value => value.as_str()?.trim().parse().ok(),
        }
    }
}

impl std::fmt::Display for SettingValue {
    /// The value as TOML.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => formatter.write_str(&quoted(text)),
            Self::Integer(number) => write!(formatter, "{number}"),
            Self::Bool(value) => write!(formatter, "{value}"),
            Self::List(values) => {
                let values: Vec<_> = values.iter().map(ToString::to_string).collect();
                write!(formatter, "[{}]", values.join(", "))
            }
            Self::Table(parts) => {
                let parts = parts.iter().map(|(name, part)| format!("{name} = {part}"));
                let parts: Vec<_> = parts.collect();
                write!(formatter, "{{ {} }}", parts.join(", "))
            }
            Self::Unsupported(text) => formatter.write_str(text),
        }
    }
}

impl From<&str> for SettingValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for SettingValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for SettingValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for SettingValue {
    fn from(number: i32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<u64> for SettingValue {
    fn from(number: u64) -> Self {
        Self::Integer(number.into())
    }
}

impl From<Duration> for SettingValue {
    fn from(time: Duration) -> Self {
        Self::Text(humantime::format_duration(time).to_string())
    }
}

impl<T: Into<SettingValue>> From<Vec<T>> for SettingValue {
    fn from(values: Vec<T>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}

/// A type of values.
pub(super) trait SettingType: Sized + Clone + PartialEq {
    /// What is allowed, to follow "expected".
    fn rule() -> Cow<'static, str>;

    /// The value; `None` if it is not of this type.
    fn parse(value: &SettingValue) -> Option<Self>;

    /// The same; parts that the value does not set are taken from `default`.
    fn parse_over(value: &SettingValue, _default: &Self) -> Option<Self> {
        Self::parse(value)
    }

    /// As TOML; `None` when nothing is set.
    fn show(&self) -> Option<String>;
}

/// A size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A time in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

/// A number of shards.
///
/// ```
/// use fanwire::{Server, ShardCount};
///
/// let builder = Server::builder().shards(ShardCount::Fixed(2));
/// # drop(builder);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardCount {
    /// One per allowed core.
    Auto,
    /// Exactly this many, 1 to 512.
    Fixed(u16),
}

impl ByteSize {
    /// The size for fields of 32 bits.
    ///
    /// # Panics
    /// From 4 GiB on, which the rules of the settings that use it exclude.
    #[must_use]
    pub(crate) fn as_u32(self) -> u32 {
        u32::try_from(self.0).expect("the setting's rule allows less than 4 GiB")
    }

    /// The size as a length in memory.
    #[must_use]
    pub(crate) fn as_usize(self) -> usize {
        usize::try_from(self.0).expect("sizes of 64 bits fit the address space of 64 bits")
    }
}

impl SettingType for bool {
    fn rule() -> Cow<'static, str> {
        "true or false".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        if let SettingValue::Bool(value) = value {
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

impl SettingType for u64 {
    fn rule() -> Cow<'static, str> {
        "a whole number, 0 or more".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        // Integers of TOML have 63 bits, and larger ones could not be printed.
        let number = value.integer();
        number.filter(|number| i64::try_from(*number).is_ok())
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl SettingType for u32 {
    fn rule() -> Cow<'static, str> {
        "a whole number from 0 to 4294967295".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        value.integer()?.try_into().ok()
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl SettingType for u16 {
    fn rule() -> Cow<'static, str> {
        "a port from 0 to 65535".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        value.integer()?.try_into().ok()
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl SettingType for ShardCount {
    fn rule() -> Cow<'static, str> {
        format!("`auto` or a whole number from 1 to {SHARDS_MAX}").into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        if value.as_str() == Some("auto") {
            return Some(Self::Auto);
        }
        let count = u16::try_from(value.integer()?).ok()?;
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

impl SettingType for ByteSize {
    fn rule() -> Cow<'static, str> {
        "a number of bytes, or a string with a unit such as \"64 KiB\" or \"100 MB\"".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        if let Some(bytes) = value.integer() {
            return Some(Self(bytes));
        }
        let text = value.as_str()?.trim();
        let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (count, unit) = text.split_at(unit_at);
        let (whole, decimals) = count.split_once('.').unwrap_or((count, "0"));
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
        // Computed in decimal, without the rounding of floats.
        let digits = u32::try_from(decimals.len())
            .ok()
            .filter(|digits| *digits <= 6)?;
        let decimals: u64 = decimals.parse().ok()?;
        let bytes = whole.parse::<u64>().ok()?.checked_mul(scale)?;
        bytes
            .checked_add(decimals * scale / 10_u64.pow(digits))
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

impl SettingType for Duration {
    fn rule() -> Cow<'static, str> {
        "a time with its unit, such as \"30s\", \"250ms\", \"10m\" or \"30 days\"".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let text = value.as_str()?.trim();
        // humantime also accepts a 0 without a unit; here every time needs one.
        let has_unit = text.contains(|c: char| c.is_ascii_alphabetic());
        let time = has_unit.then(|| humantime::parse_duration(text).ok())??;
        // This limit ensures that no sum of times overflows.
        (time <= DURATION_MAX).then_some(time)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&humantime::format_duration(*self).to_string()))
    }
}

impl SettingType for Millis {
    fn rule() -> Cow<'static, str> {
        "a time with its unit, such as \"30s\", \"250ms\" or \"10m\", 1ms or more, or \"0s\"".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let time = Duration::parse(value)?;
        let time_ms = u64::try_from(time.as_millis()).ok()?;
        (time.is_zero() || time_ms > 0).then_some(Self(time_ms))
    }

    fn show(&self) -> Option<String> {
        Duration::from_millis(self.0).show()
    }
}

impl SettingType for String {
    fn rule() -> Cow<'static, str> {
        "a text".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

/// An empty string means that nothing is set.
impl SettingType for Option<String> {
    fn rule() -> Cow<'static, str> {
        "a text".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let text = value.as_str()?.trim();
        Some((!text.is_empty()).then(|| text.to_owned()))
    }

    fn show(&self) -> Option<String> {
        self.as_deref().map(quoted)
    }
}

/// An empty string means that nothing is set.
impl SettingType for Option<PathBuf> {
    fn rule() -> Cow<'static, str> {
        "the path of a file".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        Some(Option::<String>::parse(value)?.map(PathBuf::from))
    }

    fn show(&self) -> Option<String> {
        let path = self.as_ref()?;
        Some(quoted(&path.to_string_lossy()))
    }
}

/// Used unchanged, including spaces and quotes.
impl SettingType for Option<Secret> {
    fn rule() -> Cow<'static, str> {
        "a text".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        value.as_str().map(|text| Some(Secret(text.to_owned())))
    }

    fn show(&self) -> Option<String> {
        self.as_ref().map(|_| quoted(super::secret::MASK))
    }
}

/// In variables and flags a JSON array, or strings separated by commas.
impl SettingType for Vec<String> {
    fn rule() -> Cow<'static, str> {
        "a list of strings".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        if let SettingValue::List(values) = value {
            let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
            return texts.collect();
        }
        let text = value.as_str()?.trim();
        if text.starts_with('[') {
            return serde_json::from_str(text).ok();
        }
        let texts = text.split(',').map(str::trim);
        let texts = texts.filter(|text| !text.is_empty());
        Some(texts.map(str::to_owned).collect())
    }

    fn show(&self) -> Option<String> {
        let texts: Vec<_> = self.iter().map(|text| quoted(text)).collect();
        Some(format!("[{}]", texts.join(", ")))
    }
}

impl SettingType for Vec<Secret> {
    fn rule() -> Cow<'static, str> {
        "a list of strings".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        Some(texts.into_iter().map(Secret).collect())
    }

    fn show(&self) -> Option<String> {
        let masks = self.iter().map(|_| MASK.to_owned());
        masks.collect::<Vec<_>>().show()
    }
}

impl SettingType for Vec<TokenAlgorithm> {
    fn rule() -> Cow<'static, str> {
        let names: Vec<_> = TokenAlgorithm::ALL.iter().map(|it| it.name()).collect();
        format!("a list of {}", names.join(", ")).into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        texts
            .iter()
            .map(|text| TokenAlgorithm::named(text))
            .collect()
    }

    fn show(&self) -> Option<String> {
        let names = self.iter().map(|algorithm| algorithm.name().to_owned());
        names.collect::<Vec<_>>().show()
    }
}

/// Each is a user, `=`, and a token.
impl SettingType for Vec<StaticToken> {
    fn rule() -> Cow<'static, str> {
        "a list of strings \"USER=TOKEN\"".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
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
        let users = self.iter().map(|token| format!("{}=(secret)", token.user));
        users.collect::<Vec<_>>().show()
    }
}

/// Each is a pattern of channels, a space, and a requirement.
impl SettingType for Vec<AccessRule> {
    fn rule() -> Cow<'static, str> {
        "a list of strings \"CHANNEL REQUIREMENT\": in a channel `*` at the end, {user}, {tenant} and \
         {attribute.NAME}; a requirement role=ROLE, permission=PERMISSION, user=USER, \
         tenant=TENANT, attribute.NAME=VALUE, user (after `*`), authenticated, anyone or nobody"
            .into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        texts.iter().map(|text| AccessRule::parse(text)).collect()
    }

    fn show(&self) -> Option<String> {
        let rules: Vec<_> = self.iter().map(ToString::to_string).collect();
        rules.show()
    }
}

impl SettingType for IpAddr {
    fn rule() -> Cow<'static, str> {
        "an address such as 0.0.0.0, ::1 or localhost".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        match value.as_str()?.trim() {
            "localhost" => Some([127, 0, 0, 1].into()),
            text => text.trim_matches(['[', ']']).parse().ok(),
        }
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

/// A label is written as its name, in any case.
impl<T: Label + PartialEq> SettingType for T {
    fn rule() -> Cow<'static, str> {
        let names: Vec<_> = T::ALL.iter().map(|value| value.name()).collect();
        match &names[..] {
            [one, two] => format!("{one} or {two}").into(),
            names => format!("one of {}", names.join(", ")).into(),
        }
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let text = value.as_str()?.trim();
        let names = T::ALL.iter().map(|value| (value.name(), *value));
        let mut names = names.chain(T::ALIASES.iter().copied());
        names
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|(_, value)| value)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self.name()))
    }
}

/// A basic string of TOML; JSON strings are a subset.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogLevel;

    fn check<T: SettingType + std::fmt::Debug>(text: &str, expected: Option<T>) {
        assert_eq!(T::parse(&text.into()), expected, "{text}");
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
        assert_eq!(Duration::parse(&30.into()), None);
        check("0s", Some(Millis(0)));
        check::<Millis>("5us", None);
    }

    #[test]
    fn sizes_are_numbers_or_texts_with_a_unit() {
        check("4096", Some(ByteSize(4_096)));
        check("1 MiB", Some(ByteSize(1 << 20)));
        check("1MiB", Some(ByteSize(1 << 20)));
        check("100 MB", Some(ByteSize(100_000_000)));
        check("64kib", Some(ByteSize(65_536)));
        check("0.5 GB", Some(ByteSize(500_000_000)));
        for text in [
            "MB",
            "1 MBit",
            "-1 MB",
            "1.2.3 MB",
            "99999999999 GB",
            "1 day",
        ] {
            check::<ByteSize>(text, None);
        }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        let again = |value: ByteSize| {
            let text = value.show().unwrap();
            ByteSize::parse(&text.trim_matches('"').into()).unwrap()
        };
        for bytes in [0, 1, 1_000, 65_536, 1 << 20, 10_000_000, 1_234_567] {
            assert_eq!(again(ByteSize(bytes)).0, bytes);
        }
    }

    #[test]
    fn names_and_lists_are_read_as_operators_write_them() {
        check("WARNING", Some(LogLevel::Warn));
        check("Critical", Some(LogLevel::Error));
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

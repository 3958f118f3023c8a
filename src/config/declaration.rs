//! Everything about a setting, declared once: its field, its name, its type, its default, its rule,
//! its flag and its help.
//!
//! ```text
//!  settings! { /// help   name: Type = default, flag = …, rule = …; }
//!     ├─▶ the field of a struct, and its default
//!     └─▶ a `Declaration` in a table: the key in files, the variable, the flag, `fanwire config`,
//!         and what `docs/CONFIGURATION.md` is checked against
//! ```

use super::error::SettingsError;
use super::layer::Entry;
use super::secret::MASK;
use super::value::{SettingType, quoted};

/// The prefix of the variables of fanwire.
pub(super) const PREFIX: &str = "FANWIRE_";

/// A condition on a value beyond its type, and its text in errors.
pub(super) type Rule<T> = (fn(&T) -> bool, &'static str);

/// Options that most settings leave at their defaults.
pub(super) struct Options<T: 'static> {
    /// Name of the flag's value; an empty name makes the flag a switch. `None`: no flag.
    pub(super) flag: Option<&'static str>,
    /// Further names of the same setting.
    pub(super) aliases: &'static [&'static str],
    /// Whether the value is masked wherever it is shown.
    pub(super) is_secret: bool,
    /// The condition beyond the type.
    pub(super) rule: Option<Rule<T>>,
}

impl<T> Options<T> {
    /// No flag, no rule.
    pub(super) const NONE: Self = Self {
        flag: None,
        aliases: &[],
        is_secret: false,
        rule: None,
    };

    /// What may be shown of a value that is shown so.
    pub(super) fn masked(&self, shown: String) -> String {
        // Lists mask their parts by themselves.
        match self.is_secret && shown.starts_with('"') {
            true => quoted(MASK),
            false => shown,
        }
    }

    /// What is allowed.
    pub(super) fn rule_text(&self) -> String
    where
        T: SettingType,
    {
        match self.rule {
            Some((_, rule)) => format!("{}; {rule}", T::rule()),
            None => T::rule().into_owned(),
        }
    }

    /// The value of `entry`; parts that it does not set are taken from `default`.
    ///
    /// # Errors
    /// When the value is not of the type, or violates the rule.
    pub(super) fn parse(&self, entry: &Entry, default: &T) -> Result<T, SettingsError>
    where
        T: SettingType,
    {
        let expected = |rule: &str| match self.is_secret {
            true => entry.masked().expected(rule),
            false => entry.expected(rule),
        };
        let value = T::parse_over(&entry.value, default);
        let value = value.ok_or_else(|| expected(&T::rule()))?;
        match self.rule {
            Some((holds, rule)) if !holds(&value) => Err(expected(rule)),
            _ => Ok(value),
        }
    }
}

/// Description of a setting, for command lines and documentation.
///
/// ```
/// for setting in fanwire::settings() {
///     println!("{}: {}", setting.key, setting.help);
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettingInfo {
    /// The key, with the name of its table before it: `shards`, `gateway.ping_interval`.
    pub key: String,
    /// One or two sentences.
    pub help: String,
    /// The flag, without `--`.
    pub flag: Option<String>,
    /// The name of the flag's value; `None`: the flag is a switch.
    pub value_name: Option<&'static str>,
    /// The variable.
    pub variable: String,
    /// The default without profile and mode, as TOML; `None`: not set.
    pub default: Option<String>,
    /// What is allowed.
    pub rule: String,
    /// Whether the value is masked wherever it is shown.
    pub is_secret: bool,
}

/// One setting of the group `G`.
pub(super) struct Declaration<G: 'static> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) flag: Option<&'static str>,
    pub(super) aliases: &'static [&'static str],
    pub(super) is_secret: bool,
    pub(super) rule: fn() -> String,
    pub(super) read: fn(&mut G, &Entry) -> Result<(), SettingsError>,
    pub(super) show: fn(&G) -> Option<String>,
    pub(super) copy: fn(&mut G, &G),
}

impl<G> Declaration<G> {
    /// The setting and its aliases; `table` is empty for settings of the process.
    pub(super) fn infos(&self, table: &str, defaults: &G) -> impl Iterator<Item = SettingInfo> {
        let default = (self.show)(defaults);
        let names = std::iter::once(&self.name).chain(self.aliases);
        names.map(move |name| {
            let key = if table.is_empty() {
                (*name).to_owned()
            } else {
                format!("{table}.{name}")
            };
            let is_alias = *name != self.name;
            SettingInfo {
                help: if is_alias {
                    format!("Same as {}", self.name)
                } else {
                    self.help.trim().trim_end_matches('.').to_owned()
                },
                flag: self.flag.map(|_| key.replace('_', "-")),
                value_name: self.flag.filter(|name| !name.is_empty()),
                variable: variable(&key),
                default: default.clone(),
                rule: (self.rule)(),
                is_secret: self.is_secret,
                key,
            }
        })
    }
}

/// The variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// Declares a group of settings: a struct with a field for each, and the table of their
/// declarations.
macro_rules! settings {
    ($(#[$outer:meta])* $visibility:vis struct $Group:ident {
        $($(#[doc = $help:literal])+ $name:ident: $Type:ty = $default:expr
            $(, $option:ident = $value:expr)*;)+
    }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $visibility struct $Group {
            $($(#[doc = $help])+ $visibility $name: $Type,)+
        }

        impl Default for $Group {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl $Group {
            /// Every setting of the group, in the order of their declarations.
            pub(in crate::config) const DECLARATIONS:
                &'static [$crate::config::declaration::Declaration<Self>] = &[
                $({
                    use $crate::config::declaration::{Declaration, Options};
                    const OPTIONS: Options<$Type> = Options {
                        $($option: $value,)*
                        ..Options::NONE
                    };
                    Declaration {
                        name: stringify!($name),
                        help: concat!($($help),+),
                        flag: OPTIONS.flag,
                        aliases: OPTIONS.aliases,
                        is_secret: OPTIONS.is_secret,
                        rule: || OPTIONS.rule_text(),
                        read: |group, entry| {
                            group.$name = OPTIONS.parse(entry, &group.$name)?;
                            Ok(())
                        },
                        copy: |group, other| group.$name = other.$name.clone(),
                        show: |group| {
                            let shown = $crate::config::value::SettingType::show(&group.$name);
                            shown.map(|text| OPTIONS.masked(text))
                        },
                    }
                }),+
            ];
        }
    };
}
pub(super) use settings;

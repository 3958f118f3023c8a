//! Which origins (RFC 6454) may connect: patterns, and what a browser sends.

use super::value::{SettingType, SettingValue};
use std::borrow::Cow;

/// A pattern of `allowed_origins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPattern {
    /// As the operator wrote it.
    text: String,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// `*`
    Any,
    /// `null`: sandboxed frames, local files, some redirects.
    Null,
    /// An origin, or all of a domain.
    Pattern {
        /// `None`: any.
        scheme: Option<String>,
        host: HostPattern,
        /// `None`: the default of the scheme.
        port: Option<u16>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    Exact(String),
    /// The domain with the dot before it: its subdomains of any depth, not the domain itself.
    Below(String),
}

/// Scheme, host and port of an origin, in lower case.
struct Parts {
    scheme: Option<String>,
    host: String,
    port: Option<u16>,
}

impl Parts {
    /// Splits `scheme://host:port`; scheme and port may be missing. `None` if there is anything else.
    fn of(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, &*text),
        };
        // The colons of an IPv6 address are inside brackets.
        let host_end = authority.rfind(']').map_or(0, |index| index + 1);
        let (host, port) = match authority[host_end..].split_once(':') {
            Some((rest, port)) => (&authority[..host_end + rest.len()], Some(port)),
            None => (authority, None),
        };
        let is_scheme = |scheme: &str| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        };
        let is_host = !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._*[]:".contains(&byte));
        let is_digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        let port = match port {
            None => None,
            Some(port) => Some(port.parse().ok().filter(|_| is_digits(port))?),
        };
        (is_host && scheme.is_none_or(is_scheme)).then(|| Self {
            scheme: scheme.map(str::to_owned),
            host: host.to_owned(),
            port,
        })
    }
}

/// Whether the text is a label of a host name; browsers write what is not ASCII as Punycode.
fn is_label(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

/// The port that an origin does not name (RFC 6454 4).
fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "https" | "wss" => Some(443),
        "http" | "ws" => Some(80),
        _ => None,
    }
}

impl OriginPattern {
    /// Allows every origin.
    #[must_use]
    pub fn any() -> Self {
        Self {
            text: "*".into(),
            form: Form::Any,
        }
    }

    /// The pattern; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let form = match text {
            "*" => Form::Any,
            text if text.eq_ignore_ascii_case("null") => Form::Null,
            text => {
                let Parts { scheme, host, port } = Parts::of(text)?;
                let host = match host.strip_prefix('*') {
                    Some(domain) => HostPattern::Below(domain.to_owned()),
                    None => HostPattern::Exact(host),
                };
                let is_valid = match &host {
                    HostPattern::Exact(host) => !host.contains('*'),
                    HostPattern::Below(domain) => {
                        domain.len() > 1 && domain.starts_with('.') && !domain.contains('*')
                    }
                };
                is_valid.then_some(Form::Pattern { scheme, host, port })?
            }
        };
        Some(Self {
            text: text.to_owned(),
            form,
        })
    }

    /// Whether a page of `origin` may connect.
    #[must_use]
    pub fn allows(&self, origin: &str) -> bool {
        let Form::Pattern { scheme, host, port } = &self.form else {
            return self.form == Form::Any || origin == "null";
        };
        let Some(Parts {
            scheme: Some(of_scheme),
            host: of_host,
            port: of_port,
        }) = Parts::of(origin)
        else {
            return false;
        };
        let default = default_port(&of_scheme);
        scheme.as_ref().is_none_or(|scheme| *scheme == of_scheme)
            && port.or(default) == of_port.or(default)
            && match host {
                HostPattern::Exact(host) => *host == of_host,
                HostPattern::Below(domain) => of_host
                    .strip_suffix(domain.as_str())
                    .is_some_and(|name| name.split('.').all(is_label)),
            }
    }
}

/// In variables and flags a JSON array, or strings separated by commas.
impl SettingType for Vec<OriginPattern> {
    fn rule() -> Cow<'static, str> {
        "a list of origins without a path: \"https://example.org\", \"https://example.org:8443\", \
         \"https://*.example.org\", \"*.example.org\" for any scheme, \"null\", or \"*\" for all"
            .into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        let patterns = texts.iter().map(|text| OriginPattern::parse(text));
        patterns.collect()
    }

    fn show(&self) -> Option<String> {
        let texts: Vec<_> = self.iter().map(|pattern| pattern.text.clone()).collect();
        texts.show()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, allowed: &[&str], others: &[&str]) {
        let parsed = OriginPattern::parse(pattern).unwrap();
        for origin in allowed {
            assert!(parsed.allows(origin), "{pattern} {origin}");
        }
        for origin in others {
            assert!(!parsed.allows(origin), "{pattern} {origin}");
        }
    }

    #[test]
    fn scheme_host_and_port_are_compared() {
        check(
            "https://Example.org",
            &["https://example.org", "https://EXAMPLE.org:443"],
            &[
                "http://example.org",
                "https://example.org:8443",
                "https://example.org.evil",
                "https://www.example.org",
                "https://example.org/",
                "example.org",
                "null",
                "",
            ],
        );
        check(
            "http://[::1]:3000",
            &["http://[::1]:3000"],
            &["http://[::1]", "http://[::2]:3000"],
        );
        check("app://local", &["app://local"], &["app://local:1"]);
    }

    #[test]
    fn a_wildcard_stands_for_subdomains() {
        check(
            "https://*.example.org",
            &[
                "https://a.example.org",
                "https://a.b.Example.org",
                "https://a_1-b.xn--bcher-kva.example.org",
            ],
            &[
                "https://evil]x.example.org",
                "https://[::1].example.org",
                "https://a..example.org",
                "https://a*.example.org",
                "https://example.org",
                "https://.example.org",
                "https://evilexample.org",
                "http://a.example.org",
                "https://a.example.org:8443",
                "https://a.example.org.evil",
                "https://evil/.example.org",
                "https://evil@a.example.org",
            ],
        );
        check(
            "*.example.org",
            &["https://a.example.org", "http://a.example.org"],
            &["https://a.example.org:444", "https://example.org", "null"],
        );
        check(
            "*.example.org:8080",
            &["http://a.example.org:8080"],
            &["http://a.example.org"],
        );
        check("*", &["https://a", "null", "", "x y"], &[]);
        check("null", &["null"], &["https://null", ""]);
    }

    #[test]
    fn what_can_match_nothing_is_an_error() {
        for pattern in [
            "",
            "https://",
            "https://example.org/",
            "https://example.org/path",
            "https://*",
            "https://*.",
            "https://*example.org",
            "https://a.*.org",
            "https://example.*",
            "https://user@example.org",
            "https://example.org:port",
            "https://example.org:99999",
            "https://example.org:+1",
            "https//example.org",
            "**",
        ] {
            assert_eq!(OriginPattern::parse(pattern), None, "{pattern}");
        }
    }
}

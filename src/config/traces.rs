//! Settings of traces: where spans go, and what is traced.

use super::declaration::settings;
use super::secret::{MASK, Secret};
use super::value::{SettingType, SettingValue};
use crate::base::label::label;
use crate::base::trace::ParentTrust;
use std::borrow::Cow;

/// The path of traces below an endpoint (OTLP 1.x, "OTLP/HTTP Request").
const TRACES_PATH: &str = "/v1/traces";
/// A whole of a ratio.
const MILLION: u32 = 1_000_000;

label! {
    /// Whose wish to be traced counts: the flag `sampled` of `traceparent`.
    TraceParentTrust {
        /// Nobody's.
        None = "none",
        /// That of callers of the HTTP API with a key.
        Keys = "keys",
        /// Everybody's.
        All = "all",
    }
}

/// A share from 0 to 1, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio(pub u32);

/// A header that is sent to the collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Secret,
}

settings! {
    /// Settings of traces.
    pub struct TraceSettings {
        /// Address of an OpenTelemetry collector (OTLP over HTTP), such as `http://127.0.0.1:4318`; `/v1/traces`
        /// is appended unless it ends so. Without it, nothing is traced.
        otlp_endpoint: Option<String> = None,
            rule = Some((|url| url.as_deref().is_none_or(is_endpoint),
                "an address with http:// or https://, without a user, a password or a query"));
        /// Headers that are sent to the collector, each `NAME=VALUE`, such as a key.
        otlp_headers: Vec<OtlpHeader> = Vec::new(), is_secret = true;
        /// Name of this server in traces.
        otlp_service_name: String = "fanwire".to_owned(),
            rule = Some((|name| !name.trim().is_empty(), "not empty"));
        /// Share of the connections, of the publications of others, and of the requests to the HTTP API that
        /// is traced without anybody asking for it, from 0 to 1.
        trace_sample_ratio: Ratio = Ratio(10_000);
        /// Whose wish to be traced counts (the flag `sampled` of `traceparent`): `none`, `keys` for callers of
        /// the HTTP API with a key, and in development mode for those on the host, or `all`.
        trace_parent_trust: TraceParentTrust = TraceParentTrust::Keys;
    }
}

impl TraceSettings {
    /// Where spans are sent.
    #[must_use]
    pub fn traces_url(&self) -> Option<String> {
        let endpoint = self.otlp_endpoint.as_deref()?.trim_end_matches('/');
        let path = match endpoint.ends_with(TRACES_PATH) {
            true => "",
            false => TRACES_PATH,
        };
        Some(format!("{endpoint}{path}"))
    }

    /// Whose wish to be traced counts.
    #[must_use]
    pub const fn trust(&self) -> ParentTrust {
        match self.trace_parent_trust {
            TraceParentTrust::None => ParentTrust::None,
            TraceParentTrust::Keys => ParentTrust::Keys,
            TraceParentTrust::All => ParentTrust::All,
        }
    }
}

fn is_endpoint(url: &str) -> bool {
    let Ok(url) = url.parse::<http::Uri>() else {
        return false;
    };
    let has_user = url.authority().is_some_and(|it| it.as_str().contains('@'));
    let is_http = matches!(url.scheme_str(), Some("http" | "https"));
    let has_host = url.host().is_some_and(|host| !host.is_empty());
    is_http && has_host && !has_user && url.query().is_none()
}

impl SettingType for Ratio {
    fn rule() -> Cow<'static, str> {
        "a number from 0 to 1 with at most six decimals, such as 0.01".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        // A number with decimals comes from the file as it is written there.
        let text = match value {
            SettingValue::Text(text) | SettingValue::Unsupported(text) => text.trim().to_owned(),
            SettingValue::Integer(number) => number.to_string(),
            _ => return None,
        };
        let (whole, decimals) = text.split_once('.').unwrap_or((&text, "0"));
        let is_number = |digits: &str| {
            (1..=6).contains(&digits.len()) && digits.bytes().all(|it| it.is_ascii_digit())
        };
        if !is_number(whole) || !is_number(decimals) {
            return None;
        }
        let whole: u32 = whole.parse().ok()?;
        let millionths: u32 = format!("{decimals:0<6}").parse().ok()?;
        let ratio = whole.checked_mul(MILLION)?.checked_add(millionths)?;
        (ratio <= MILLION).then_some(Self(ratio))
    }

    fn show(&self) -> Option<String> {
        let (whole, millionths) = (self.0 / MILLION, self.0 % MILLION);
        let decimals = format!("{millionths:06}");
        let decimals = decimals.trim_end_matches('0');
        Some(format!(
            "{whole}.{}",
            if decimals.is_empty() { "0" } else { decimals }
        ))
    }
}

/// Each is a name, `=` and a value.
impl SettingType for Vec<OtlpHeader> {
    fn rule() -> Cow<'static, str> {
        "a list of strings \"NAME=VALUE\", each a header of HTTP".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        let headers = texts.iter().map(|text| {
            let (name, value) = text.split_once('=')?;
            let (name, value) = (name.trim(), value.trim());
            http::HeaderName::from_bytes(name.as_bytes()).ok()?;
            http::HeaderValue::from_str(value).ok()?;
            Some(OtlpHeader {
                name: name.to_owned(),
                value: Secret(value.to_owned()),
            })
        });
        headers.collect()
    }

    fn show(&self) -> Option<String> {
        let headers = self.iter().map(|header| format!("{}={MASK}", header.name));
        headers.collect::<Vec<_>>().show()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_from_0_to_1() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1", Some(1_000_000)),
            ("1.0", Some(1_000_000)),
            ("0.01", Some(10_000)),
            ("0.000001", Some(1)),
            ("0.0000001", None),
            ("1.1", None),
            ("2", None),
            ("-1", None),
            ("+1", None),
            ("1e-3", None),
            (".5", None),
            ("nan", None),
            ("", None),
        ] {
            let ratio = Ratio::parse(&text.into());
            assert_eq!(ratio, expected.map(Ratio), "{text}");
            if let Some(ratio) = ratio {
                let shown = ratio.show().unwrap();
                assert_eq!(Ratio::parse(&shown.as_str().into()), Some(ratio));
            }
        }
        assert_eq!(Ratio(10_000).show().unwrap(), "0.01");
    }

    #[test]
    fn spans_go_to_the_path_of_traces() {
        for (endpoint, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            (
                "https://o.example/otlp/",
                "https://o.example/otlp/v1/traces",
            ),
            ("https://o.example/v1/traces", "https://o.example/v1/traces"),
        ] {
            assert!(is_endpoint(endpoint));
            let settings = TraceSettings {
                otlp_endpoint: Some(endpoint.to_owned()),
                ..TraceSettings::default()
            };
            assert_eq!(settings.traces_url().as_deref(), Some(expected));
        }
        for endpoint in [
            "",
            "127.0.0.1:4318",
            "http://",
            "grpc://a",
            "http://a:b@c",
            "http://a/?b",
        ] {
            assert!(!is_endpoint(endpoint), "{endpoint}");
        }
    }
}

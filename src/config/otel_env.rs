//! Translates the variables that OpenTelemetry has for all programs to settings
//! (OpenTelemetry specification, "Environment Variable Specification" and "OTLP Exporter
//! Configuration").

use super::dotenv::Environment;
use super::error::SettingsError;
use super::layer::Entry;
use super::value::SettingValue;
use std::fmt::Write as _;

const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_RATIO: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The entries of these variables. `origin` is the prefix of the names in sources.
///
/// # Errors
/// When a value is none that the standard or this program has.
pub(super) fn entries(
    environment: &Environment,
    origin: &str,
    notices: &mut Vec<String>,
) -> Result<Vec<Entry>, SettingsError> {
    // An empty variable counts as unset.
    let of = |name: &'static str| {
        let text = environment.get(name)?.trim();
        let entry = Entry::new(name, text, format!("{origin} {name}"));
        (!text.is_empty()).then_some((entry, text))
    };
    // The one for traces comes before the one for all signals.
    let first = |names: [&'static str; 2]| names.into_iter().find_map(of);
    let set =
        |key: &str, value: SettingValue, entry: &Entry| Entry::new(key, value, &*entry.source);
    let mut entries = Vec::new();
    if let Some((entry, text)) = of("OTEL_SDK_DISABLED")
        && text.eq_ignore_ascii_case("true")
    {
        notices.push(format!(
            "{} keeps the others of its kind from being read",
            entry.source
        ));
        return Ok(entries);
    }
    if let Some((entry, text)) = first([TRACES_ENDPOINT, "OTEL_EXPORTER_OTLP_ENDPOINT"]) {
        if entry.key == TRACES_ENDPOINT && !text.ends_with("/v1/traces") {
            return Err(entry.expected("an address that ends with /v1/traces"));
        }
        entries.push(set("otlp_endpoint", text.into(), &entry));
    }
    let names = [
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "OTEL_EXPORTER_OTLP_HEADERS",
    ];
    if let Some((entry, text)) = first(names) {
        let headers = text
            .split(',')
            .map(|header| SettingValue::Text(decoded(header)));
        let headers = SettingValue::List(headers.collect());
        entries.push(set("otlp_headers", headers, &entry));
    }
    if let Some((entry, text)) = of("OTEL_SERVICE_NAME") {
        entries.push(set("otlp_service_name", text.into(), &entry));
    }
    if let Some((entry, text)) = of(SAMPLER) {
        let sampler = text.strip_prefix("parentbased_").unwrap_or(text);
        let ratio = match sampler {
            "always_on" => "1".to_owned(),
            "always_off" => "0".to_owned(),
            "traceidratio" => {
                of(SAMPLER_RATIO).map_or("1".to_owned(), |(_, ratio)| ratio.to_owned())
            }
            _ => {
                let rule =
                    "always_on, always_off or traceidratio, with or without parentbased_ before it";
                return Err(entry.expected(rule));
            }
        };
        entries.push(set("trace_sample_ratio", ratio.into(), &entry));
    }
    let names = [
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ];
    if let Some((entry, text)) = first(names)
        && text != "http/protobuf"
    {
        notices.push(format!(
            "{} has no effect: spans go as http/protobuf",
            entry.source
        ));
    }
    Ok(entries)
}

/// Values of headers are percent-encoded there (W3C Baggage).
fn decoded(header: &str) -> String {
    let Some((name, value)) = header.split_once('=') else {
        return header.to_owned();
    };
    let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8_lossy();
    let mut text = name.trim().to_owned();
    // Writing to a string never fails.
    let _ = write!(text, "={value}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Vec<(String, String)>, SettingsError> {
        let environment = variables.iter();
        let environment = environment.map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let entries = entries(&environment.collect(), "variable", &mut Vec::new())?;
        let entries = entries.into_iter();
        Ok(entries.map(|it| (it.key, it.value.to_string())).collect())
    }

    fn check(variables: &[(&str, &str)], expected: &[(&str, &str)]) {
        let expected = expected.iter();
        let expected: Vec<_> = expected
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect();
        assert_eq!(read(variables).unwrap(), expected, "{variables:?}");
    }

    #[test]
    fn the_variables_of_the_standard_become_settings() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318");
        check(&[all], &[("otlp_endpoint", "\"http://a:4318\"")]);
        check(&[all, ("OTEL_SDK_DISABLED", "True")], &[]);
        check(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")], &[]);
        let traces = (TRACES_ENDPOINT, "http://b/v1/traces");
        check(
            &[all, traces],
            &[("otlp_endpoint", "\"http://b/v1/traces\"")],
        );
        assert!(read(&[(TRACES_ENDPOINT, "http://b/")]).is_err());
        check(
            &[("OTEL_SERVICE_NAME", "chat")],
            &[("otlp_service_name", "\"chat\"")],
        );
        let ratio = |text| [("trace_sample_ratio", text)];
        check(&[(SAMPLER, "always_off")], &ratio("\"0\""));
        check(&[(SAMPLER, "parentbased_always_on")], &ratio("\"1\""));
        let by_ratio = [
            (SAMPLER, "parentbased_traceidratio"),
            (SAMPLER_RATIO, "0.25"),
        ];
        check(&by_ratio, &ratio("\"0.25\""));
        check(&[(SAMPLER_RATIO, "0.25")], &[]);
        assert!(read(&[(SAMPLER, "jaeger_remote")]).is_err());
    }

    #[test]
    fn values_of_headers_are_decoded() {
        assert_eq!(
            decoded("authorization=Bearer%20a%2Cb"),
            "authorization=Bearer a,b"
        );
        assert_eq!(decoded(" a = b "), "a=b");
        assert_eq!(decoded("a"), "a");
    }
}

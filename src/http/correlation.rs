//! By which other programs know a request.

use crate::base::trace::TraceParent;
use std::ops::Range;

/// Longest correlation id, bytes: a trace context has 55, a UUID 36.
const BYTES_MAX: usize = 64;
/// Where the trace id is in a `traceparent`.
const TRACE_ID: Range<usize> = 3..35;

/// The headers that name a request, as far as they are well-formed.
#[derive(Debug, Default)]
pub struct Correlation<'a> {
    request_id: Option<&'a str>,
    correlation_id: Option<&'a str>,
    trace_id: Option<&'a str>,
    trace_parent: Option<TraceParent>,
    has_trace_parent: bool,
}

impl<'a> Correlation<'a> {
    /// Notes a header, if it is one of these.
    pub fn note(&mut self, name: &str, value: &'a str) {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("x-request-id") {
            self.request_id = well_formed(value);
        } else if is("x-correlation-id") {
            self.correlation_id = well_formed(value);
        } else if is("traceparent") {
            // Of several, none counts (W3C Trace Context 3.2).
            let is_first = !std::mem::replace(&mut self.has_trace_parent, true);
            self.trace_parent = TraceParent::parse(value).filter(|_| is_first);
            self.trace_id = self.trace_parent.and_then(|_| value.get(TRACE_ID));
        }
    }

    /// The first there is of: `X-Request-Id`, `X-Correlation-Id`, the trace id of `traceparent`.
    #[must_use]
    pub fn id(&self) -> Option<&'a str> {
        self.request_id.or(self.correlation_id).or(self.trace_id)
    }

    /// `traceparent`.
    #[must_use]
    pub const fn trace_parent(&self) -> Option<TraceParent> {
        self.trace_parent
    }
}

/// A short id of characters that mean nothing in a log.
fn well_formed(value: &str) -> Option<&str> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(&byte);
    let is_id = (1..=BYTES_MAX).contains(&value.len()) && value.bytes().all(is_allowed);
    is_id.then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[(&str, &str)], expected: Option<&str>) {
        let mut correlation = Correlation::default();
        for (name, value) in lines {
            correlation.note(name, value);
        }
        assert_eq!(correlation.id(), expected, "{lines:?}");
    }

    #[test]
    fn the_first_header_that_is_well_formed_names_the_request() {
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = ("traceparent", traceparent);
        let trace_id = Some("4bf92f3577b34da6a3ce929d0e0e4736");
        check(&[], None);
        check(&[trace], trace_id);
        check(&[trace, ("X-Correlation-ID", "c-1")], Some("c-1"));
        check(
            &[("x-request-id", "r:1"), ("x-correlation-id", "c"), trace],
            Some("r:1"),
        );
        let long = "a".repeat(65);
        for value in ["", "a b", "a\"b", "a\u{9b}", "<a>", "a?token=b", &long] {
            check(&[("x-request-id", value), trace], trace_id);
        }
        for value in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            check(&[("traceparent", value)], None);
        }
        check(&[trace, trace], None);
        check(&[trace, trace, trace], None);
    }
}

//! Finished spans in the form of OTLP 1.x: the messages of `opentelemetry/proto/trace/v1/trace.proto`
//! and of those that it needs, as far as they are used here, with their field numbers.
//!
//! The crates of OpenTelemetry bring a second pipeline of threads and random numbers of their own, of
//! which nothing would be used; `tests/otlp` has the schema checked by the official decoder.

use crate::base::trace::{SpanDetails, SpanRecord};
use prost::{Enumeration, Message, Oneof};

/// The version of the names of attributes.
const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.37.0";
/// W3C Trace Context 3.2.2.5.1.
const FLAG_SAMPLED: u32 = 1;
/// The methods of RFC 9110 9.1, RFC 5789 and no others: each value is a series of its own somewhere.
const METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

/// What sends the spans.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(enumeration = "SpanKind", tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(enumeration = "StatusCode", tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 2, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Integer(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
enum SpanKind {
    Unspecified = 0,
    Internal = 1,
    Server = 2,
    Producer = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
enum StatusCode {
    Unset = 0,
    Error = 2,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub(super) rejected_spans: i64,
}

impl Resource {
    /// This process, with the name that the operator gives it.
    pub(super) fn new(service_name: &str, instance: &str) -> Self {
        Self {
            attributes: vec![
                text("service.name", service_name),
                text("service.version", env!("CARGO_PKG_VERSION")),
                text("service.instance.id", instance),
                whole("process.pid", std::process::id()),
            ],
        }
    }
}

/// A request with these spans. `started_unix_nanos` is when their stopwatch was at zero.
pub(super) fn request(
    resource: &Resource,
    records: &[SpanRecord],
    started_unix_nanos: u64,
) -> ExportRequest {
    let spans = records.iter().map(|it| span(it, started_unix_nanos));
    let scope = Scope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    ExportRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: spans.collect(),
                schema_url: SCHEMA_URL.to_owned(),
            }],
            schema_url: SCHEMA_URL.to_owned(),
        }],
    }
}

fn span(record: &SpanRecord, started_unix_nanos: u64) -> Span {
    let (name, kind, is_failed, attributes) = described(&record.details);
    let status = is_failed.then_some(Status {
        code: StatusCode::Error.into(),
    });
    Span {
        trace_id: record.context.trace_id.to_vec(),
        span_id: record.context.span_id.to_vec(),
        parent_span_id: record.parent.map_or(Vec::new(), |parent| parent.to_vec()),
        name,
        kind: kind.into(),
        start_time_unix_nano: started_unix_nanos + record.began_nanos,
        end_time_unix_nano: started_unix_nanos + record.ended_nanos.max(record.began_nanos),
        attributes,
        status,
        flags: FLAG_SAMPLED,
    }
}

/// Name, kind, whether it failed by the server's fault, and attributes: after the OpenTelemetry
/// semantic conventions for HTTP and for messaging where they have a name.
fn described(details: &SpanDetails) -> (String, SpanKind, bool, Vec<KeyValue>) {
    match details {
        SpanDetails::Request {
            method,
            route,
            status,
            correlation_id,
        } => {
            // "HTTP server": the name is the method and the route; `_OTHER` stands for a method that
            // is not known, and `HTTP` for it in the name.
            let is_known = METHODS.contains(&method.as_str());
            let (shown, method) = match is_known {
                true => (method.as_str(), method.as_str()),
                false => ("HTTP", "_OTHER"),
            };
            let mut attributes = of_http(method, *status);
            attributes.push(text("fanwire.correlation_id", correlation_id));
            let name = match route.is_empty() {
                true => shown.to_owned(),
                false => {
                    attributes.push(text("http.route", &format!("/{route}")));
                    format!("{shown} /{route}")
                }
            };
            (name, SpanKind::Server, *status >= 500, attributes)
        }
        SpanDetails::Connection {
            route,
            dialect,
            listener,
            rejection,
            status,
        } => {
            let mut attributes = of_http("GET", *status);
            attributes.push(text("network.protocol.name", "websocket"));
            attributes.push(whole("fanwire.listener", *listener));
            attributes.extend(dialect.map(|it| text("fanwire.dialect", it.name())));
            attributes.extend(rejection.map(|it| text("error.type", it)));
            let name = match route.is_empty() {
                true => "GET".to_owned(),
                false => {
                    attributes.push(text("http.route", route));
                    format!("GET {route}")
                }
            };
            (name, SpanKind::Server, *status >= 500, attributes)
        }
        SpanDetails::Authentication { dialect, error } => {
            let mut attributes = vec![text("fanwire.dialect", dialect.name())];
            attributes.extend(error.map(|it| text("error.type", it)));
            let name = "authenticate".to_owned();
            (name, SpanKind::Internal, error.is_some(), attributes)
        }
        SpanDetails::Publish {
            channel,
            data_bytes,
            error,
        } => {
            let data_bytes = u32::try_from(*data_bytes).unwrap_or(u32::MAX);
            let mut attributes = of_messaging("publish");
            attributes.push(text("messaging.operation.type", "send"));
            attributes.push(text("messaging.destination.name", channel));
            attributes.push(whole("messaging.message.body.size", data_bytes));
            attributes.extend(error.map(|it| text("error.type", it)));
            // "Messaging spans": a destination is part of the name only if there are few.
            let name = "publish".to_owned();
            (name, SpanKind::Producer, error.is_some(), attributes)
        }
        SpanDetails::FanOut { shard, is_sent } => {
            let mut attributes = of_messaging("fan_out");
            attributes.push(whole("fanwire.shard", *shard));
            attributes.push(attribute("fanwire.fan_out.sent", Value::Bool(*is_sent)));
            ("fan_out".to_owned(), SpanKind::Internal, false, attributes)
        }
    }
}

fn of_http(method: &str, status: u16) -> Vec<KeyValue> {
    vec![
        text("http.request.method", method),
        whole("http.response.status_code", status),
        text("url.scheme", "http"),
    ]
}

fn of_messaging(operation: &str) -> Vec<KeyValue> {
    vec![
        text("messaging.system", "fanwire"),
        text("messaging.operation.name", operation),
    ]
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::Text(value.to_owned()))
}

fn whole(key: &str, value: impl Into<i64>) -> KeyValue {
    attribute(key, Value::Integer(value.into()))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

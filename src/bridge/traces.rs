//! Sends finished spans to an OpenTelemetry collector (OTLP over HTTP, protobuf).
//!
//! One request at a time: while the collector is slow, spans wait in their bounded queue, and further
//! ones are dropped and counted there.

use super::http_client::HttpClient;
use super::otlp::{self, ExportResponse, Resource};
use crate::base::now::Clock;
use crate::base::trace::{SpanRecord, Spans};
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Request, StatusCode};
use http_body_util::Full;
use prost::Message;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

/// Longest time that a span waits while the collector answers.
const TICK: Duration = Duration::from_millis(500);
/// Spans of one request; the collector has a limit of bytes, 4 MiB or more by default.
const BATCH_SPANS_MAX: usize = 512;
/// Time for an answer; the default of `OTEL_EXPORTER_OTLP_TIMEOUT`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts for a request that may succeed later, and the time before the second one, which doubles.
const ATTEMPTS: u32 = 3;
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Shortest time between two log lines about failures.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// How much the host's clock has to differ from when the spans of a trace get other times: less would
/// put children before their parents.
const CLOCK_STEP_NANOS: u64 = 1_000_000;

/// Where spans go.
#[derive(Clone, Debug)]
pub struct TraceConfig {
    /// The address.
    pub url: String,
    /// Further headers.
    pub headers: HeaderMap,
    /// The name of this server.
    pub service_name: String,
    /// The clock by which the spans are measured.
    pub clock: Clock,
}

/// Asks that all spans so far are sent, once.
pub(super) type Flush = std::sync::mpsc::Sender<()>;

struct Exporter {
    config: TraceConfig,
    client: HttpClient,
    resource: Resource,
    spans: Spans,
    started_unix_nanos: u64,
    logged: Option<Instant>,
}

/// Why a request failed.
struct Failure {
    reason: String,
    /// Whether the same request may succeed later.
    is_passing: bool,
}

/// Sends spans for as long as the process runs, or until nobody can ask for a flush any more.
pub(super) async fn export(
    config: TraceConfig,
    spans: Spans,
    mut flushes: UnboundedReceiver<Flush>,
    client: HttpClient,
) {
    let instance = RandomState::new().hash_one(std::process::id());
    let mut exporter = Exporter {
        resource: Resource::new(&config.service_name, &format!("{instance:016x}")),
        started_unix_nanos: config.clock.started_unix_nanos(),
        config,
        client,
        spans,
        logged: None,
    };
    loop {
        let flush = tokio::time::timeout(TICK, flushes.recv()).await;
        let is_flush = flush.is_ok();
        loop {
            let batch = exporter.spans.take(BATCH_SPANS_MAX);
            if batch.is_empty() {
                break;
            }
            let attempts = if is_flush { 1 } else { ATTEMPTS };
            exporter.send(&batch, attempts).await;
        }
        match flush {
            Err(_) => {}
            // Fails when nobody waits for it any more.
            Ok(Some(done)) => drop(done.send(())),
            Ok(None) => return,
        }
    }
}

impl Exporter {
    async fn send(&mut self, batch: &[SpanRecord], attempts: u32) {
        let started = self.config.clock.started_unix_nanos();
        if started.abs_diff(self.started_unix_nanos) > CLOCK_STEP_NANOS {
            self.started_unix_nanos = started;
        }
        let count = batch.len() as u64;
        let body = otlp::request(&self.resource, batch, self.started_unix_nanos);
        let body = body.encode_to_vec();
        let mut wait = RETRY_MIN;
        for attempt in 1..=attempts {
            match self.request(body.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.spans.count(count - rejected, rejected);
                    if rejected > 0 {
                        self.log(&format!("it rejected {rejected} of {count} spans"));
                    } else if self.logged.take().is_some() {
                        tracing::info!("the collector takes spans again");
                    }
                    return;
                }
                Err(failure) => {
                    self.log(&failure.reason);
                    if !failure.is_passing || attempt == attempts {
                        break;
                    }
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
            }
        }
        self.spans.count(0, count);
    }

    /// Sends a request; how many of its spans the collector rejected.
    async fn request(&self, body: Vec<u8>) -> Result<u64, Failure> {
        let passing = |reason: String| Failure {
            reason,
            is_passing: true,
        };
        let lasting = |reason: String| Failure {
            reason,
            is_passing: false,
        };
        let mut request = Request::post(&self.config.url)
            .body(Full::from(body))
            .map_err(|error| lasting(error.to_string()))?;
        *request.headers_mut() = self.config.headers.clone();
        let content_type = http::HeaderValue::from_static("application/x-protobuf");
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        let sent = self.client.send(request, ANSWER_BYTES_MAX);
        let sent = tokio::time::timeout(REQUEST_TIMEOUT, sent).await;
        let (status, answer) = sent
            .map_err(|_| passing("no answer in 10 s".to_owned()))?
            .map_err(passing)?;
        // OTLP 1.x, "Failures": these four may be tried again.
        let is_passing = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ]
        .contains(&status);
        if !status.is_success() {
            return Err(Failure {
                reason: format!("the answer is {status}"),
                is_passing,
            });
        }
        // Some answer with a text; the spans are accepted then.
        let answer = ExportResponse::decode(answer).unwrap_or_default();
        let rejected = answer.partial_success.map_or(0, |it| it.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or_default())
    }

    fn log(&mut self, error: &str) {
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            tracing::warn!(error, "cannot send spans to the collector");
        }
    }
}

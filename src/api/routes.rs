//! What the HTTP API answers.

use super::notify::{self, NotifyAccess};
use crate::base::{Now, ProcessCounts, ShardCounters};
use crate::observe::{Metrics, metrics};
use crate::shard::Publisher;
use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Request, Response, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the API shows.
#[derive(Debug)]
pub struct ApiContext {
    /// All counters.
    pub metrics: Metrics,
    /// The counters of all shards, and of what is published from outside of them.
    pub counters: Vec<Arc<ShardCounters>>,
    /// Publishes from outside of the shards.
    pub publisher: Arc<Publisher>,
    /// Who may call `POST /notify`.
    pub notify: NotifyAccess,
    /// Counts shared by all shards.
    pub process_counts: Arc<ProcessCounts>,
    /// How many shards run.
    pub shard_count: usize,
    /// Whether the server is going away.
    pub is_draining: AtomicBool,
    /// Whether metrics are shown.
    pub metrics_enabled: bool,
    /// Whether `/health` answers.
    pub health_enabled: bool,
    /// When the server began.
    pub began: Now,
    /// Reads the time.
    pub clock: crate::base::now::Clock,
}

pub(super) type Answer = Response<Full<Bytes>>;

/// The answer to a request.
pub(super) async fn answer<B>(context: &ApiContext, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let (allowed, is_known) = match request.uri().path() {
        "/health" => ("GET, HEAD", context.health_enabled),
        "/metrics/prometheus" => ("GET, HEAD", context.metrics_enabled),
        "/notify" => ("POST", context.notify != NotifyAccess::Nobody),
        _ => ("", false),
    };
    if !is_known {
        return text(
            StatusCode::NOT_FOUND,
            "Not here. HTTP: /health, /metrics/prometheus, /notify. WebSocket: see docs/PROTOCOLS.md.\n"
                .into(),
        );
    }
    if !allowed.split(", ").any(|method| request.method() == method) {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let mut rejection = text(status, format!("Only {allowed}.\n"));
        let allowed = hyper::header::HeaderValue::from_static(allowed);
        rejection.headers_mut().insert(ALLOW, allowed);
        return rejection;
    }
    match request.uri().path() {
        "/health" => health(context),
        "/notify" => notify::answer(context, request).await,
        _ => prometheus(context, &request),
    }
}

impl ApiContext {
    /// The health of the server and of its parts: `healthy`, or `draining`.
    #[must_use]
    pub fn health(&self) -> serde_json::Value {
        let word = if self.is_draining.load(Ordering::Relaxed) {
            "draining"
        } else {
            "healthy"
        };
        let sessions = self.process_counts.sessions_total();
        let uptime_ms = self.clock.now().monotonic_ms - self.began.monotonic_ms;
        serde_json::json!({
            "status": word,
            "components": {
                "server": {"status": word, "shards": self.shard_count},
                "sessions": {"status": "healthy", "total_sessions": sessions},
                "scaling_backend": {"status": "healthy", "type": "local"},
            },
            "shards": self.shard_count,
            "sessions": sessions,
            "uptime_seconds": uptime_ms / 1_000,
            "version": env!("CARGO_PKG_VERSION"),
        })
    }
}

fn health(context: &ApiContext) -> Answer {
    let status = if context.is_draining.load(Ordering::Relaxed) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    let body = context.health().to_string() + "\n";
    respond(status, "application/json", body)
}

fn prometheus<B>(context: &ApiContext, request: &Request<B>) -> Answer {
    let accept = request.headers().get(ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    let wants_openmetrics = accept.is_some_and(|accept| accept.contains("openmetrics-text"));
    let (content_type, text_of_all) = if wants_openmetrics {
        (metrics::OPENMETRICS, context.metrics.openmetrics())
    } else {
        (metrics::TEXT, context.metrics.text())
    };
    match text_of_all {
        Ok(body) => respond(StatusCode::OK, content_type, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

pub(super) fn text(status: StatusCode, body: String) -> Answer {
    respond(status, "text/plain; charset=utf-8", body)
}

pub(super) fn respond(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type)
        .header(CACHE_CONTROL, "no-store")
        .body(Full::new(Bytes::from(body)))
        .expect("fixed header values are valid")
}

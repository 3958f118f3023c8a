//! The routes of the HTTP API.

use super::answer::{Answer, respond, text};
use super::context::{ApiContext, NotifyAccess};
use super::notify;
use crate::observe::metrics;
use hyper::body::{Body, Bytes};
use hyper::header::{ACCEPT, ALLOW};
use hyper::{Request, StatusCode};

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
            "Not found. HTTP: /health, /metrics/prometheus, /notify. WebSocket: see docs/PROTOCOLS.md.\n"
                .into(),
        );
    }
    if !allowed.split(", ").any(|method| request.method() == method) {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let mut rejection = text(status, format!("Method not allowed; allowed: {allowed}.\n"));
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

fn health(context: &ApiContext) -> Answer {
    let status = if context.is_serving() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
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

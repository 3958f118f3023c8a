//! How the server is: health, metrics and status.

use super::answer::{Answer, json, respond};
use super::caller::Caller;
use super::context::ApiContext;
use crate::base::{DialectId, ShardCounters};
use crate::observe::metrics::{OPENMETRICS, TEXT};
use hyper::header::ACCEPT;
use hyper::{HeaderMap, StatusCode};
use serde_json::json;

/// The health of the server and its components; 503 when a shard has failed, and while the server
/// drains.
#[utoipa::path(get, path = "/health", tag = "status", security(()),
    responses((status = 200, body = serde_json::Value), (status = 503, body = serde_json::Value)))]
pub(super) fn health(context: &ApiContext) -> Answer {
    let status = match context.is_serving() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = context.health().to_string() + "\n";
    respond(status, "application/json", body)
}

/// That the process answers, also while it drains.
#[utoipa::path(get, path = "/health/live", tag = "status", security(()),
    responses((status = 200, body = serde_json::Value)))]
pub(super) fn live() -> Answer {
    json(&json!({"status": "alive"}))
}

/// The most important numbers as JSON, or all metrics in the Prometheus text format if that is
/// accepted.
#[utoipa::path(get, path = "/metrics", tag = "status", security(()),
    responses((status = 200, description = "JSON or text", content((serde_json::Value = "application/json"), (String = "text/plain")))))]
pub(super) fn metrics(caller: &Caller, headers: &HeaderMap) -> Answer {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let accept = accept.unwrap_or_default();
    let wants_text = accept.contains("text/plain") || accept.contains("openmetrics-text");
    let wants_json = accept.contains("application/json");
    // The notification server has JSON here, all others the text.
    let is_json = caller.context.dialect_of(caller.listener) == Some(DialectId::Notifications);
    if wants_text || !(wants_json || is_json) {
        return prometheus(&caller.context, headers);
    }
    json(&numbers(&caller.context))
}

/// All metrics in the Prometheus text format 0.0.4, or in OpenMetrics 1.0 if that is accepted.
#[utoipa::path(get, path = "/metrics/prometheus", tag = "status", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) fn prometheus(context: &ApiContext, headers: &HeaderMap) -> Answer {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let wants_openmetrics = accept.is_some_and(|accept| accept.contains("openmetrics-text"));
    let (content_type, text) = match wants_openmetrics {
        true => (OPENMETRICS, context.metrics.openmetrics()),
        false => (TEXT, context.metrics.text()),
    };
    match text {
        Ok(body) => respond(StatusCode::OK, content_type, body),
        Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
    }
}

/// Version, health and the most important numbers.
#[utoipa::path(get, path = "/status", tag = "status", security(()),
    responses((status = 200, body = serde_json::Value)))]
pub(super) fn status(context: &ApiContext) -> Answer {
    let health = context.health();
    json(&json!({
        "status": health["status"],
        "version": env!("CARGO_PKG_VERSION"),
        "shards": context.shard_count,
        "components": health["components"],
        "metrics": numbers(context),
    }))
}

fn numbers(context: &ApiContext) -> serde_json::Value {
    let counters = &context.counters;
    let sum =
        |pick: fn(&ShardCounters) -> u64| -> u64 { counters.iter().map(|shard| pick(shard)).sum() };
    let state = &context.process_state;
    let sessions = DialectId::ALL.map(|dialect| (dialect.name(), state.sessions(dialect)));
    let uptime_ms = context.clock.now().monotonic_ms - context.began.monotonic_ms;
    json!({
        "active_connections": state.sessions_total(),
        "total_connections": state.sessions_opened(),
        "authenticated_connections": sum(|shard| shard.authenticated_sessions.value()),
        "connections_by_dialect": sessions.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        "subscriptions": sum(|shard| shard.subscriptions.value()),
        "messages_received": sum(|shard| shard.messages_received.value()),
        "messages_sent": sum(|shard| shard.deliveries.value()),
        "publications": sum(|shard| shard.publications.value()),
        "uptime_seconds": uptime_ms / 1_000,
    })
}

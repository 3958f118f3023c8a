//! The notifications of the assist server over HTTP: jobs, documents and alerts.

use super::access::authorize;
use super::answer::Outcome;
use super::caller::Caller;
use super::{body, publish};
use crate::base::DialectId;
use crate::base::channel_names::dialect_channel;
use crate::broker::Publication;
use crate::config::ApiScope;
use crate::dialect::assist::{notices, rooms};
use hyper::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

/// The status of a job.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JobRequest {
    /// The job is active until this is `completed`, `failed` or `cancelled`.
    #[schema(example = "running")]
    status: String,
    /// Per cent.
    #[serde(default)]
    progress: f64,
}

/// The processing of a document.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DocumentRequest {
    /// Whose document it is.
    user_id: String,
    /// Its name.
    filename: String,
    /// Whether the processing has ended well; without it, it has begun.
    success: Option<bool>,
}

/// An alert for all clients of the assist dialect.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AlertRequest {
    #[schema(example = "disk_space")]
    alert_type: String,
    #[schema(example = "critical")]
    severity: String,
    /// For people.
    message: String,
    /// Any JSON.
    #[serde(default)]
    #[schema(value_type = Option<serde_json::Value>)]
    details: Value,
}

/// Publishes the status of a job to the subscribers of jobs.
#[utoipa::path(post, path = "/api/jobs/{id}", tag = "assist",
    params(("id" = String, Path, description = "The job")),
    request_body = JobRequest,
    responses((status = 200, body = publish::Published)))]
pub(super) async fn job(caller: &Caller, headers: &HeaderMap, body: &[u8], id: &str) -> Outcome {
    authorize(caller, headers, ApiScope::Publish)?.for_all_tenants()?;
    let request: JobRequest = body::parse(body)?;
    let data = notices::job(id, &request.status, request.progress);
    let kind = notices::JOB_UPDATES;
    publish::published(
        caller,
        &Publication::new(rooms::BACKGROUND_JOBS, kind, &data),
    )
    .await
}

/// Tells a user, and the admins who subscribed to all documents, of the processing of a document.
#[utoipa::path(post, path = "/api/documents/{id}", tag = "assist",
    params(("id" = String, Path, description = "The document")),
    request_body = DocumentRequest,
    responses((status = 200, body = publish::Published)))]
pub(super) async fn document(
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
    id: &str,
) -> Outcome {
    authorize(caller, headers, ApiScope::Publish)?.for_all_tenants()?;
    let request: DocumentRequest = body::parse(body)?;
    let DocumentRequest {
        user_id,
        filename,
        success,
    } = &request;
    let data = notices::document(user_id, id, filename, *success);
    let kind = match success {
        None => notices::DOCUMENT_START,
        Some(_) => notices::DOCUMENT_COMPLETE,
    };
    let own = format!("{}{user_id}", rooms::DOCUMENT_UPDATES_PREFIX);
    let put = publish::put(caller, &Publication::new(&own, kind, &data)).await;
    put.map_err(|error| publish::failed(&error))?;
    let all = Publication::new(rooms::ALL_DOCUMENT_UPDATES, kind, &data);
    publish::published(caller, &all).await
}

/// Sends an alert to all clients of the assist dialect.
#[utoipa::path(post, path = "/api/alerts", tag = "assist",
    request_body = AlertRequest,
    responses((status = 200, body = publish::Published)))]
pub(super) async fn alert(caller: &Caller, headers: &HeaderMap, body: &[u8]) -> Outcome {
    authorize(caller, headers, ApiScope::Publish)?.for_all_tenants()?;
    let request: AlertRequest = body::parse(body)?;
    let AlertRequest {
        alert_type,
        severity,
        message,
        details,
    } = &request;
    let data = notices::alert(alert_type, severity, message, details);
    let channel = dialect_channel(DialectId::Assist);
    let publication = Publication::new(&channel, notices::SYSTEM_ALERT, &data);
    publish::published(caller, &publication).await
}

//! `POST /notify`: a notification to all clients.

use super::answer::{Answer, respond};
use super::context::{ApiContext, NotifyAccess};
use crate::auth::is_same_secret;
use crate::base::channel_names::EVERYONE;
use crate::base::limits::NOTIFY_BYTES_MAX;
use crate::broker::{Publication, TenantScope};
use crate::config::Secret;
use crate::dialect::notifications::{DEFAULT_KIND, notification};
use crate::shard::PublishError;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Request, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::atomic::Ordering;

#[derive(Deserialize)]
struct NotifyRequest<'a> {
    message: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    /// The tenant whose sessions receive it; without one, the sessions without a tenant.
    tenant: Option<String>,
    /// All sessions of whatever tenant.
    #[serde(default)]
    all_tenants: bool,
}

pub(super) async fn answer<B>(context: &ApiContext, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    if let NotifyAccess::Key(key) = &context.notify
        && !shows(request.headers(), key)
    {
        return reject(StatusCode::UNAUTHORIZED, "the key is missing or wrong");
    }
    if context.is_draining.load(Ordering::Relaxed) {
        return reject(
            StatusCode::SERVICE_UNAVAILABLE,
            "the server is shutting down",
        );
    }
    let too_large = || reject(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 128 KiB");
    // The head contains the length: a body that is too long need not be read.
    if request.body().size_hint().lower() > NOTIFY_BYTES_MAX as u64 {
        return too_large();
    }
    let body = match Limited::new(request.into_body(), NOTIFY_BYTES_MAX)
        .collect()
        .await
    {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return too_large(),
        Err(_) => return reject(StatusCode::BAD_REQUEST, "the request body is incomplete"),
    };
    let notify: NotifyRequest<'_> = match serde_json::from_slice(&body) {
        Ok(notify) => notify,
        Err(error) if error.is_data() => {
            return reject(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string());
        }
        Err(error) => return reject(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let scope = match (&notify.tenant, notify.all_tenants) {
        (Some(_), true) => {
            let reason = "`tenant` and `all_tenants` are mutually exclusive";
            return reject(StatusCode::UNPROCESSABLE_ENTITY, reason);
        }
        (None, true) if !matches!(context.notify, NotifyAccess::Key(_)) => {
            return reject(StatusCode::FORBIDDEN, "`all_tenants` requires a key");
        }
        (None, true) => TenantScope::All,
        (tenant, false) => tenant.as_deref().into(),
    };
    publish(context, &notify, scope)
}

fn publish(context: &ApiContext, notify: &NotifyRequest<'_>, scope: TenantScope<'_>) -> Answer {
    let data = notification(&notify.message, notify.data.map(RawValue::get));
    let kind = notify.kind.as_deref().unwrap_or(DEFAULT_KIND);
    let publication = Publication::new(EVERYONE, kind, &data).in_scope(scope);
    match context.publisher.publish(&publication, context.clock.now()) {
        Ok(()) => {
            let mut body = serde_json::json!({"status": "sent", "type": kind});
            let process_state = &context.process_state;
            match scope {
                TenantScope::Without => {
                    body["clients"] = process_state.sessions_without_tenant().into();
                }
                TenantScope::All => body["clients"] = process_state.sessions_total().into(),
                TenantScope::Of(_) => {}
            }
            respond(StatusCode::OK, "application/json", body.to_string() + "\n")
        }
        Err(error @ (PublishError::RingFull | PublishError::Stopped)) => {
            reject(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
        }
        Err(error @ PublishError::Tenant) => {
            reject(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string())
        }
        Err(_) => reject(
            StatusCode::UNPROCESSABLE_ENTITY,
            "`type` must have 1 to 128 bytes",
        ),
    }
}

fn reject(status: StatusCode, reason: &str) -> Answer {
    let body = serde_json::json!({"error": reason});
    respond(status, "application/json", body.to_string() + "\n")
}

fn shows(headers: &HeaderMap, key: &Secret) -> bool {
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let bearer = bearer
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::as_bytes);
    let shown = headers
        .get("x-api-key")
        .map(|value| value.as_bytes())
        .or(bearer);
    shown.is_some_and(|shown| is_same_secret(shown, key.0.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_is_the_key() {
        let mut headers = HeaderMap::new();
        let key = Secret("k1".into());
        assert!(!shows(&headers, &key));
        for (name, value, expected) in [
            ("x-api-key", "k1", true),
            ("x-api-key", "k", false),
            ("x-api-key", "k12", false),
            ("authorization", "Bearer k1", true),
            ("authorization", "k1", false),
        ] {
            headers.clear();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(shows(&headers, &key), expected, "{name}: {value}");
        }
    }
}

//! `POST /notify`: a notification to all clients of a dialect, or of all.

use super::access::authorize_notify;
use super::answer::{Outcome, Rejected, json};
use super::caller::Caller;
use super::{body, publish};
use crate::base::DialectId;
use crate::base::channel_names::{EVERYONE, dialect_channel};
use crate::broker::{Publication, TenantScope};
use crate::dialect::notifications::{DEFAULT_KIND, notification};
use hyper::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use utoipa::ToSchema;

/// The name of all dialects together.
const ALL: &str = "all";

/// A notification. Unknown fields are ignored, as on the notification server.
#[derive(Deserialize, ToSchema)]
pub(super) struct NotifyRequest<'a> {
    /// For people.
    #[serde(borrow)]
    message: Cow<'a, str>,
    /// The type of the message: 1 to 128 bytes.
    #[serde(borrow, rename = "type")]
    #[schema(
        default = "notification",
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$"
    )]
    kind: Option<Cow<'a, str>>,
    /// Any JSON.
    #[serde(borrow)]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<&'a RawValue>,
    /// Whose clients receive it: the name of a dialect, or `all`. By default those of the listener's
    /// dialect; all, if it has none of its own.
    #[serde(borrow)]
    #[schema(pattern = r"^(all|gateway|monitoring|analytics|assist|notifications)$")]
    dialect: Option<Cow<'a, str>>,
    /// The tenant whose sessions receive it; without one, the sessions without a tenant.
    #[serde(borrow)]
    #[schema(
        min_length = 1,
        max_length = 128,
        pattern = r"^[^:\x00-\x1f\x7f-\x9f]*$"
    )]
    tenant: Option<Cow<'a, str>>,
    /// All sessions of whatever tenant.
    #[serde(default)]
    all_tenants: bool,
}

/// Who receives a notification.
#[derive(Serialize, ToSchema)]
pub(super) struct Notified<'a> {
    /// Always `sent`.
    #[schema(example = "sent")]
    status: &'static str,
    /// The type of the message.
    #[serde(rename = "type")]
    kind: &'a str,
    /// How many sessions, where that is counted: not those of one tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<u64>,
}

/// Sends a notification to all clients.
#[utoipa::path(post, path = "/notify", tag = "publish",
    request_body = NotifyRequest,
    responses((status = 200, body = Notified)))]
pub(super) async fn notify(caller: &Caller, headers: &HeaderMap, body: &[u8]) -> Outcome {
    let access = authorize_notify(caller, headers)?;
    let request: NotifyRequest<'_> = body::parse(body)?;
    let dialect = match request.dialect.as_deref() {
        None => caller.context.dialect_of(caller.listener),
        Some(ALL) => None,
        Some(name) => match DialectId::named(name) {
            Some(dialect) => Some(dialect),
            None => {
                let reason = "`dialect` is none of this server";
                return Err(Rejected::invalid(reason));
            }
        },
    };
    let scope = access.scope(request.tenant.as_deref(), request.all_tenants)?;
    let data = notification(&request.message, request.data.map(RawValue::get));
    let kind = request.kind.as_deref().unwrap_or(DEFAULT_KIND);
    let channel = dialect.map_or_else(|| EVERYONE.to_owned(), dialect_channel);
    let publication = Publication::new(&channel, kind, &data).in_scope(scope);
    let put = publish::put(caller, &publication).await;
    let accepted = put.map_err(|error| publish::failed(&error))?;
    publish::await_stored(caller, accepted.sent).await?;
    let state = &caller.context.process_state;
    let clients = match (scope, dialect) {
        (TenantScope::Without, None) => Some(state.sessions_without_tenant()),
        (TenantScope::Without, Some(dialect)) => Some(state.sessions_of_no_tenant(dialect)),
        (TenantScope::All, None) => Some(state.sessions_total()),
        (TenantScope::All, Some(dialect)) => Some(state.sessions(dialect)),
        (TenantScope::Of(_), _) => None,
    };
    Ok(json(&Notified {
        status: "sent",
        kind,
        clients,
    }))
}

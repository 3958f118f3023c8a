//! Sessions over HTTP: who is there, and changes to them.

use super::access::{Access, authorize};
use super::answer::{Outcome, Rejected, json};
use super::body;
use super::caller::Caller;
use super::info::ConnectionInfo;
use super::publish::MessageRequest;
use super::question::{Count, SessionAction, SessionAnswer};
use super::sessions::{ConnectionPage, Unreached};
use super::shards::WhileStalled;
use crate::base::DialectId;
use crate::base::channel_names::{channel_of_tenant, is_reserved};
use crate::base::limits::{API_PAGE_DEFAULT, API_PAGE_MAX, CHANNEL_BYTES_MAX};
use crate::broker::{SessionId, SessionSearch};
use crate::config::ApiScope;
use hyper::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const NOT_FOUND: Rejected = Rejected::new(StatusCode::NOT_FOUND, "there is no such session");

/// How many sessions something was done to.
#[derive(Serialize, ToSchema)]
pub(super) struct Disconnected {
    disconnected: usize,
    /// False while a shard is stalled or a node does not answer: then its sessions may be left.
    is_complete: bool,
}

/// What was done to a session.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    status: &'static str,
}

/// A channel for a session.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscriptionRequest {
    /// Its name, as the clients of the session's tenant know it.
    #[schema(
        min_length = 1,
        max_length = 256,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$"
    )]
    channel: String,
}

/// Lists sessions.
#[utoipa::path(get, path = "/api/connections", tag = "connections",
    params(
        ("user" = Option<String>, Query, description = "Only sessions of this user"),
        ("tenant" = Option<String>, Query, description = "Only sessions of this tenant"),
        ("dialect" = Option<String>, Query, description = "Only sessions of this dialect"),
        ("channel" = Option<String>, Query, description = "Only subscribers of this channel, of `tenant` if that is named"),
        ("address" = Option<String>, Query, description = "Only clients of this IP address"),
        ("after" = Option<String>, Query, description = "The `next` of the page before"),
        ("limit" = Option<u32>, Query, description = "At most so many, 1 to 1,000; 100 by default", minimum = 1, maximum = 1000),
    ),
    responses((status = 200, body = ConnectionPage)))]
pub(super) async fn list(caller: &Caller, headers: &HeaderMap, query: Option<&str>) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Read)?;
    let names = [
        "user", "tenant", "dialect", "channel", "address", "after", "limit",
    ];
    let [user, tenant, dialect, channel, address, after, limit] = body::query(query, names)?;
    let invalid = |reason| Rejected::invalid(reason);
    let limit = body::number("limit", limit.as_deref(), (API_PAGE_DEFAULT, API_PAGE_MAX))?;
    let dialect = match dialect {
        Some(name) => {
            let dialect = DialectId::named(&name);
            Some(dialect.ok_or_else(|| invalid("`dialect` is none of this server"))?)
        }
        None => None,
    };
    let address = match address {
        Some(text) => {
            let address = text.parse().ok();
            Some(address.ok_or_else(|| invalid("`address` is no IP address"))?)
        }
        None => None,
    };
    let after = match after {
        Some(text) => {
            let after: Option<SessionId> = text.parse().ok();
            Some(after.ok_or_else(|| invalid("`after` is not the `next` of a page"))?)
        }
        None => None,
    };
    access.scope(tenant.as_deref(), false)?;
    let tenant = access.tenant().map(str::to_owned).or(tenant);
    let channel = channel.map(|name| full_name(tenant.as_deref(), &name));
    let search = SessionSearch {
        user,
        tenant,
        dialect,
        channel,
        address,
    };
    let skip = WhileStalled::Skip;
    let page = caller.context.connection_page(skip, &search, after, limit);
    Ok(json(&page.await))
}

/// Shows a session.
#[utoipa::path(get, path = "/admin/connections/{id}", tag = "connections",
    params(("id" = String, Path, description = "The session's id, or its connection id of the monitoring dialect")),
    responses((status = 200, body = ConnectionInfo)))]
pub(super) async fn show(caller: &Caller, headers: &HeaderMap, id: &str) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Read)?;
    match on_session(caller, access, id, SessionAction::Show).await? {
        SessionAnswer::Info(info) => Ok(json(&info)),
        _ => Err(NOT_FOUND),
    }
}

/// Closes a session (1000).
#[utoipa::path(delete, path = "/admin/connections/{id}", tag = "connections",
    params(("id" = String, Path, description = "The session's id, or its connection id of the monitoring dialect")),
    responses((status = 200, body = Done)))]
pub(super) async fn disconnect(caller: &Caller, headers: &HeaderMap, id: &str) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Admin)?;
    let answer = on_session(caller, access, id, SessionAction::Disconnect).await?;
    done(&answer, "disconnected")
}

/// Closes all sessions of a user (1000), of one tenant if that is named.
#[utoipa::path(delete, path = "/admin/users/{user}/connections", tag = "connections",
    params(("user" = String, Path, description = "The user's id"),
        ("tenant" = Option<String>, Query, description = "Only sessions of this tenant")),
    responses((status = 200, body = Disconnected)))]
pub(super) async fn disconnect_user(
    caller: &Caller,
    headers: &HeaderMap,
    user: &str,
    query: Option<&str>,
) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Admin)?;
    let [tenant] = body::query(query, ["tenant"])?;
    access.scope(tenant.as_deref(), false)?;
    let tenant = access.tenant().map(str::to_owned).or(tenant);
    caller.request.note_tenant(tenant.as_deref());
    let closed = caller.context.disconnect_user(user, tenant.as_deref());
    let Count { count, is_complete } = closed.await;
    Ok(json(&Disconnected {
        disconnected: count,
        is_complete,
    }))
}

/// Sends a message to one session.
#[utoipa::path(post, path = "/api/connections/{id}/messages", tag = "publish",
    params(("id" = String, Path, description = "The session's id, or its connection id of the monitoring dialect")),
    request_body = MessageRequest,
    responses((status = 200, body = Done)))]
pub(super) async fn send(caller: &Caller, headers: &HeaderMap, body: &[u8], id: &str) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Publish)?;
    let request: MessageRequest<'_> = body::parse(body)?;
    let (kind, data) = (request.kind().to_owned(), request.data().to_owned());
    let send = SessionAction::Send { kind, data };
    done(&on_session(caller, access, id, send).await?, "sent")
}

/// Subscribes a session to a channel, without an answer to its client and without the access rules.
#[utoipa::path(post, path = "/admin/connections/{id}/subscriptions", tag = "connections",
    params(("id" = String, Path, description = "The session's id, or its connection id of the monitoring dialect")),
    request_body = SubscriptionRequest,
    responses((status = 200, body = Done)))]
pub(super) async fn subscribe(
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
    id: &str,
) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Admin)?;
    let SubscriptionRequest { channel } = body::parse(body)?;
    let is_name = (1..=CHANNEL_BYTES_MAX).contains(&channel.len())
        && !channel.contains(char::is_control)
        && !is_reserved(&channel);
    if !is_name {
        let reason = "`channel` is not the name of a channel that clients subscribe to";
        return Err(Rejected::invalid(reason));
    }
    caller.request.note_target(&channel);
    let is_of_tenant = access.tenant().is_some();
    let subscribe = SessionAction::Subscribe {
        channel,
        is_of_tenant,
    };
    let answer = on_session(caller, access, id, subscribe).await?;
    if answer == SessionAnswer::NotIsolated {
        return Err(Rejected::new(
            StatusCode::FORBIDDEN,
            "the key is for one tenant, and the session's channels are not",
        ));
    }
    done(&answer, "subscribed")
}

/// Ends a subscription of a session, without an answer to its client.
#[utoipa::path(delete, path = "/admin/connections/{id}/subscriptions/{channel}", tag = "connections",
    params(("id" = String, Path, description = "The session's id, or its connection id of the monitoring dialect"),
        ("channel" = String, Path, description = "The channel")),
    responses((status = 200, body = Done)))]
pub(super) async fn unsubscribe(
    caller: &Caller,
    headers: &HeaderMap,
    id: &str,
    channel: &str,
) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Admin)?;
    let channel = channel.to_owned();
    let unsubscribe = SessionAction::Unsubscribe { channel };
    let answer = on_session(caller, access, id, unsubscribe).await?;
    done(&answer, "unsubscribed")
}

fn done(answer: &SessionAnswer, status: &'static str) -> Outcome {
    match answer {
        SessionAnswer::Done => Ok(json(&Done { status })),
        _ => Err(NOT_FOUND),
    }
}

/// Does something with a session, if there is one of this id that the caller may see.
async fn on_session(
    caller: &Caller,
    access: Access<'_>,
    id: &str,
    action: SessionAction,
) -> Result<SessionAnswer, Rejected> {
    let (context, skip) = (&caller.context, WhileStalled::Skip);
    let answer = context.act_on_session(id, access.tenant(), skip, action);
    let unavailable = |reason| Rejected::new(StatusCode::SERVICE_UNAVAILABLE, reason);
    answer.await.map_err(|unreached| match unreached {
        Unreached::Unknown => NOT_FOUND,
        Unreached::Stalled => unavailable("the shard of the session is stalled"),
        Unreached::Unanswered => unavailable("the node of the session does not answer"),
    })
}

/// The name in the tables of a channel of a tenant, or without one.
pub(super) fn full_name(tenant: Option<&str>, channel: &str) -> String {
    match tenant {
        Some(tenant) if !is_reserved(channel) => channel_of_tenant(tenant, channel),
        _ => channel.to_owned(),
    }
}

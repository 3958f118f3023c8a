//! Channels over HTTP: who has subscribed, who is there, and what was published.

use super::access::{Access, authorize};
use super::answer::{Outcome, Rejected, json};
use super::caller::Caller;
use super::channel_page::ChannelSearch;
use super::connections::full_name;
use super::question::Count;
use super::{body, publish};
use crate::base::ProcessState;
use crate::base::channel_names::{is_reserved, split_tenant};
use crate::base::limits::{
    API_PAGE_DEFAULT, API_PAGE_MAX, HISTORY_REPLY_MESSAGES_MAX, PRESENCE_REPLY_BYTES_MAX,
    PRESENCE_REPLY_USERS_MAX,
};
use crate::base::{Position, PresenceMode};
use crate::config::ApiScope;
use crate::shard::{HistoryPage, PageRequest};
use hyper::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

const NO_HISTORY: Rejected = Rejected::new(StatusCode::NOT_FOUND, "the channel has no history");
const NO_PRESENCE: Rejected =
    Rejected::new(StatusCode::NOT_FOUND, "who is on the channel is not kept");

/// Channels that clients have subscribed to.
#[derive(Serialize, ToSchema)]
pub(super) struct Channels {
    /// In the order of their tenants and names.
    channels: Vec<ChannelSummary>,
    /// What to send as `after` for the next page; absent if this is the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// False while a shard is stalled or a node does not answer: then its subscribers are missing.
    is_complete: bool,
}

/// A channel.
#[derive(Serialize, ToSchema)]
pub(super) struct ChannelSummary {
    /// As clients know it.
    name: String,
    /// Whose channel it is, where tenants are isolated.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// Sessions that have subscribed to it.
    subscribers: usize,
}

/// What is known of a channel.
#[derive(Serialize, ToSchema)]
pub(super) struct ChannelDetails {
    #[serde(flatten)]
    summary: ChannelSummary,
    /// Absent if it is not kept who is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    presence: Option<PresenceCounts>,
    /// Absent if the channel has no history.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<HistoryRange>,
    /// False while a shard is stalled or a node does not answer: then its subscribers are missing.
    is_complete: bool,
}

/// How many are on a channel.
#[derive(Serialize, ToSchema)]
pub(super) struct PresenceCounts {
    /// Different users.
    users: u64,
    /// Sessions, those without a user included.
    sessions: u64,
}

/// Up to where the history of a channel reaches.
#[derive(Serialize, ToSchema)]
pub(super) struct HistoryRange {
    /// After this position nothing was published.
    position: String,
}

/// Who is on a channel.
#[derive(Serialize, ToSchema)]
pub(super) struct Presence {
    #[serde(flatten)]
    counts: PresenceCounts,
    /// In the order of their ids.
    members: Vec<Member>,
    /// Whether no members follow.
    is_complete: bool,
}

/// A user with sessions on a channel.
#[derive(Serialize, ToSchema)]
pub(super) struct Member {
    user: String,
    /// How many of the user's sessions are there.
    sessions: u32,
}

/// What was published on a channel.
#[derive(Serialize, ToSchema)]
pub(super) struct History {
    /// Oldest first.
    publications: Vec<Publication>,
    /// Up to where they reach: what to send as `after` for those that follow.
    position: String,
    /// Whether nothing is missing: no publication after them and, with `after`, none between it and them.
    is_complete: bool,
}

/// A publication that is kept.
#[derive(Serialize, ToSchema)]
pub(super) struct Publication {
    position: String,
    /// The type of the message.
    #[serde(rename = "type")]
    kind: String,
    /// `base64` if it is a binary message; its data are a text then.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    /// As it was published.
    #[schema(value_type = serde_json::Value)]
    data: Box<RawValue>,
    /// When it was published, milliseconds since 1970-01-01 UTC.
    timestamp: u64,
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
pub(super) struct Deleted {
    status: &'static str,
    /// False while a node does not answer or Redis is away: then it may not be deleted everywhere.
    is_complete: bool,
}

/// Lists the channels that clients have subscribed to.
#[utoipa::path(get, path = "/api/channels", tag = "channels",
    params(
        ("prefix" = Option<String>, Query, description = "Only names that begin with this"),
        ("tenant" = Option<String>, Query, description = "Only channels of this tenant"),
        ("after" = Option<String>, Query, description = "The `next` of the page before"),
        ("limit" = Option<u32>, Query, description = "At most so many, 1 to 1,000; 100 by default", minimum = 1, maximum = 1000),
    ),
    responses((status = 200, body = Channels)))]
pub(super) async fn list(caller: &Caller, headers: &HeaderMap, query: Option<&str>) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Read)?;
    let [prefix, tenant, after, limit] =
        body::query(query, ["prefix", "tenant", "after", "limit"])?;
    let limit = body::number("limit", limit.as_deref(), (API_PAGE_DEFAULT, API_PAGE_MAX))?;
    access.scope(tenant.as_deref(), false)?;
    let tenant = access.tenant().map(str::to_owned).or(tenant);
    let search = ChannelSearch {
        prefix,
        tenant,
        after: after.unwrap_or_default(),
    };
    let page = caller.context.channel_page(search, limit).await;
    let next = page.channels.last_key_value().map(|(name, _)| name.clone());
    let channels = page.channels.into_iter();
    let channels = channels.map(|(name, count)| summary(&name, count));
    Ok(json(&Channels {
        channels: channels.collect(),
        next: next.filter(|_| page.has_more),
        is_complete: page.is_complete,
    }))
}

/// The name in the tables of a channel that the caller may see. A key of one tenant opens none of the
/// server's own channels, which have subscribers and history of all tenants.
fn name_for(access: Access<'_>, tenant: Option<&str>, name: &str) -> Result<String, Rejected> {
    if access.tenant().is_some() && is_reserved(name) {
        return Err(Rejected::new(
            StatusCode::FORBIDDEN,
            "the key is for one tenant",
        ));
    }
    Ok(full_name(access.tenant().or(tenant), name))
}

fn summary(full_name: &str, subscribers: usize) -> ChannelSummary {
    let (tenant, name) = split_tenant(full_name);
    ChannelSummary {
        name: name.to_owned(),
        tenant: tenant.map(str::to_owned),
        subscribers,
    }
}

/// Shows a channel, which need not have subscribers.
#[utoipa::path(get, path = "/api/channels/{name}", tag = "channels",
    params(("name" = String, Path, description = "The channel"),
        ("tenant" = Option<String>, Query, description = "The tenant whose channel it is")),
    responses((status = 200, body = ChannelDetails)))]
pub(super) async fn show(
    caller: &Caller,
    headers: &HeaderMap,
    name: &str,
    query: Option<&str>,
) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Read)?;
    let [tenant] = body::query(query, ["tenant"])?;
    access.scope(tenant.as_deref(), false)?;
    let full_name = name_for(access, tenant.as_deref(), name)?;
    let Count { count, is_complete } = caller.context.subscribers(&full_name).await;
    let context = &caller.context;
    let state = &context.process_state;
    let tag = state.interests.tag(&full_name);
    let is_present = state.presence.mode_of(&full_name) != PresenceMode::Off;
    if is_present {
        await_channel(state, &full_name, None).await;
    }
    let presence = is_present.then(|| {
        let page = state.presence.page((tag, &full_name), None, (0, 0));
        PresenceCounts {
            users: page.counts.users,
            sessions: page.counts.sessions,
        }
    });
    let history = state.history.limits_of(&full_name).map(|_| {
        let reached = state
            .history
            .offset_before(context.publisher.ring_position());
        HistoryRange {
            position: state.history.position_on(tag, reached).to_string(),
        }
    });
    Ok(json(&ChannelDetails {
        summary: summary(&full_name, count),
        presence,
        history,
        is_complete,
    }))
}

/// Lists who is on a channel.
#[utoipa::path(get, path = "/api/channels/{name}/presence", tag = "channels",
    params(("name" = String, Path, description = "The channel"),
        ("tenant" = Option<String>, Query, description = "The tenant whose channel it is"),
        ("after" = Option<String>, Query, description = "The last user of the page before"),
        ("limit" = Option<u32>, Query, description = "At most so many, 1 to 1,000; 100 by default", minimum = 1, maximum = 1000)),
    responses((status = 200, body = Presence)))]
pub(super) async fn presence(
    caller: &Caller,
    headers: &HeaderMap,
    name: &str,
    query: Option<&str>,
) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Read)?;
    let [tenant, after, limit] = body::query(query, ["tenant", "after", "limit"])?;
    let max = PRESENCE_REPLY_USERS_MAX as usize;
    let limit = body::number("limit", limit.as_deref(), (API_PAGE_DEFAULT, max))?;
    access.scope(tenant.as_deref(), false)?;
    let full_name = name_for(access, tenant.as_deref(), name)?;
    let state = &caller.context.process_state;
    if state.presence.mode_of(&full_name) == PresenceMode::Off {
        return Err(NO_PRESENCE);
    }
    await_channel(state, &full_name, None).await;
    let tag = state.interests.tag(&full_name);
    let size = (limit, PRESENCE_REPLY_BYTES_MAX);
    let page = state
        .presence
        .page((tag, &full_name), after.as_deref(), size);
    let members = page.members.iter().map(|(user, sessions)| Member {
        user: user.to_string(),
        sessions: *sessions,
    });
    Ok(json(&Presence {
        counts: PresenceCounts {
            users: page.counts.users,
            sessions: page.counts.sessions,
        },
        members: members.collect(),
        is_complete: page.is_complete,
    }))
}

/// Lists what was published on a channel with a history: what follows `after`, or the newest.
#[utoipa::path(get, path = "/api/channels/{name}/history", tag = "channels",
    params(("name" = String, Path, description = "The channel"),
        ("tenant" = Option<String>, Query, description = "The tenant whose channel it is"),
        ("after" = Option<String>, Query, description = "A position"),
        ("limit" = Option<u32>, Query, description = "At most so many, 1 to 1,000; 100 by default", minimum = 1, maximum = 1000)),
    responses((status = 200, body = History)))]
pub(super) async fn history(
    caller: &Caller,
    headers: &HeaderMap,
    name: &str,
    query: Option<&str>,
) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Read)?;
    let [tenant, after, limit] = body::query(query, ["tenant", "after", "limit"])?;
    let max = HISTORY_REPLY_MESSAGES_MAX as usize;
    let limit = body::number("limit", limit.as_deref(), (API_PAGE_DEFAULT, max))?;
    let after = match after {
        Some(text) => {
            let reason = "`after` is no position";
            let position = Position::parse(&text);
            Some(position.ok_or_else(|| Rejected::invalid(reason))?)
        }
        None => None,
    };
    access.scope(tenant.as_deref(), false)?;
    let context = &caller.context;
    let name = name_for(access, tenant.as_deref(), name)?;
    await_channel(&context.process_state, &name, after).await;
    let request = PageRequest {
        name: &name,
        after,
        limit,
        ring_position: context.publisher.ring_position(),
    };
    let page = HistoryPage::read(&context.process_state, request, context.clock.now());
    let page = page.ok_or(NO_HISTORY)?;
    let publications = page.messages().filter_map(|(message, ..)| {
        Some(Publication {
            position: message.position.to_string(),
            kind: message.kind.to_owned(),
            encoding: message.data.is_binary().then_some("base64"),
            data: RawValue::from_string(message.data.to_json().into_owned()).ok()?,
            timestamp: message.unix_ms,
        })
    });
    Ok(json(&History {
        publications: publications.collect(),
        position: page.position.to_string(),
        is_complete: page.is_complete,
    }))
}

/// Where there are several nodes: waits until what they have published on a channel is here, or may not be
/// for long.
async fn await_channel(state: &ProcessState, full_name: &str, after: Option<Position>) {
    if let Some(link) = &state.link {
        let tag = state.interests.tag(full_name);
        link.attach(tag, full_name, after).await;
    }
}

/// Deletes the history of a channel.
#[utoipa::path(delete, path = "/api/channels/{name}/history", tag = "channels",
    params(("name" = String, Path, description = "The channel"),
        ("tenant" = Option<String>, Query, description = "The tenant whose channel it is")),
    responses((status = 200, body = Deleted)))]
pub(super) async fn delete_history(
    caller: &Caller,
    headers: &HeaderMap,
    name: &str,
    query: Option<&str>,
) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Admin)?;
    let [tenant] = body::query(query, ["tenant"])?;
    access.scope(tenant.as_deref(), false)?;
    let full_name = name_for(access, tenant.as_deref(), name)?;
    caller
        .request
        .note_tenant(access.tenant().or(tenant.as_deref()));
    if caller
        .context
        .process_state
        .history
        .limits_of(&full_name)
        .is_none()
    {
        return Err(NO_HISTORY);
    }
    deleted(caller, caller.context.delete_history_everywhere(&full_name)).await
}

/// Deletes what was published for a user only, and where the user stopped.
#[utoipa::path(delete, path = "/admin/users/{user}/history", tag = "channels",
    params(("user" = String, Path, description = "The user's id"),
        ("tenant" = Option<String>, Query, description = "The user's tenant")),
    responses((status = 200, body = Deleted)))]
pub(super) async fn delete_user_history(
    caller: &Caller,
    headers: &HeaderMap,
    user: &str,
    query: Option<&str>,
) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Admin)?;
    let [tenant] = body::query(query, ["tenant"])?;
    access.scope(tenant.as_deref(), false)?;
    let tenant = access.tenant().or(tenant.as_deref());
    caller.request.note_tenant(tenant);
    let context = &caller.context;
    deleted(caller, context.delete_user_history_everywhere(tenant, user)).await
}

async fn deleted(caller: &Caller, deleting: impl Future<Output = bool>) -> Outcome {
    let is_complete = deleting.await;
    publish::await_stored(caller, None).await?;
    Ok(json(&Deleted {
        status: "deleted",
        is_complete,
    }))
}

//! Publishing over HTTP.

use super::access::{Access, authorize};
use super::answer::{Outcome, Rejected, json};
use super::body::{self, Object};
use super::caller::Caller;
use crate::base::channel_names::{
    ROOM, permission_channel, role_channel, tenant_channel, user_channel,
};
use crate::base::limits::{API_PUBLICATIONS_MAX, API_ROOM_TIMEOUT_MS};
use crate::base::{Position, Sent};
use crate::broker::{BroadcastTarget, Publication, SessionId};
use crate::config::ApiScope;
use crate::shard::{PublishError, published as published_details};
use hyper::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::task::Poll;
use tokio::sync::oneshot;
use utoipa::ToSchema;

/// The type of a message that names none.
const DEFAULT_KIND: &str = "message";
/// The data of a message that has none.
const NO_DATA: &str = "null";

/// A publication on one channel.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishRequest<'a> {
    /// The channel: 1 to 256 bytes without control characters.
    #[serde(borrow)]
    #[schema(
        min_length = 1,
        max_length = 256,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$"
    )]
    channel: Cow<'a, str>,
    /// The type of the message: 1 to 128 bytes.
    #[serde(borrow, rename = "type")]
    #[schema(
        default = "message",
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$"
    )]
    kind: Option<Cow<'a, str>>,
    /// Any JSON.
    #[serde(borrow)]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<&'a RawValue>,
    /// The tenant whose channel it is.
    #[serde(borrow)]
    #[schema(
        min_length = 1,
        max_length = 128,
        pattern = r"^[^:\x00-\x1f\x7f-\x9f]*$"
    )]
    tenant: Option<Cow<'a, str>>,
    /// All sessions of whatever tenant; only for channels of the server, such as `all` or `user:ann`.
    #[serde(default)]
    all_tenants: bool,
    /// Only subscribers that are sessions of this user.
    #[serde(borrow)]
    user: Option<Cow<'a, str>>,
    /// Only subscribers with this role.
    #[serde(borrow)]
    role: Option<Cow<'a, str>>,
    /// Only subscribers with this permission.
    #[serde(borrow)]
    permission: Option<Cow<'a, str>>,
    /// All subscribers but this session, such as the one on whose behalf it is published.
    #[serde(borrow)]
    #[schema(pattern = r"^[0-9a-f]{16}$")]
    exclude_session: Option<Cow<'a, str>>,
}

/// The same publication on several channels.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BroadcastRequest<'a> {
    /// The channels, at most 1,000.
    #[serde(borrow)]
    #[schema(min_items = 1, max_items = 1000)]
    channels: Vec<Cow<'a, str>>,
    /// The type of the message: 1 to 128 bytes.
    #[serde(borrow, rename = "type")]
    #[schema(
        default = "message",
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$"
    )]
    kind: Option<Cow<'a, str>>,
    /// Any JSON.
    #[serde(borrow)]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<&'a RawValue>,
    /// The tenant whose channels they are.
    #[serde(borrow)]
    #[schema(
        min_length = 1,
        max_length = 128,
        pattern = r"^[^:\x00-\x1f\x7f-\x9f]*$"
    )]
    tenant: Option<Cow<'a, str>>,
    /// All sessions of whatever tenant; only for channels of the server.
    #[serde(default)]
    all_tenants: bool,
}

/// Several publications, carried out in their order.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchRequest<'a> {
    /// At most 1,000.
    #[serde(borrow)]
    #[schema(max_items = 1000, value_type = Vec<PublishRequest>)]
    publications: Vec<Object<PublishRequest<'a>>>,
}

/// A message for those whom the path names.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageRequest<'a> {
    /// The type of the message: 1 to 128 bytes.
    #[serde(borrow, rename = "type")]
    #[schema(
        default = "message",
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub(super) kind: Option<Cow<'a, str>>,
    /// Any JSON.
    #[serde(borrow)]
    #[schema(value_type = Option<serde_json::Value>)]
    pub(super) data: Option<&'a RawValue>,
    /// The tenant in which they are.
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

/// What was published.
#[derive(Serialize, ToSchema)]
pub(super) struct Published {
    /// Always `published`.
    #[schema(example = "published")]
    status: &'static str,
    /// Its position, on a channel with a history; absent too if it is large and waits for room.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
}

/// What was published of several publications.
#[derive(Serialize, ToSchema)]
pub(super) struct PublishedAll {
    /// How many were published.
    published: usize,
    /// Those that were not, because the ring stayed full.
    errors: Vec<PublicationFailure>,
}

/// A publication that was not carried out.
#[derive(Serialize, ToSchema)]
pub(super) struct PublicationFailure {
    /// Which one, from 0.
    index: usize,
    /// Why.
    error: String,
}

impl<'a> MessageRequest<'a> {
    pub(super) fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or(DEFAULT_KIND)
    }

    pub(super) fn data(&self) -> &'a str {
        self.data.map_or(NO_DATA, RawValue::get)
    }
}

impl PublishRequest<'_> {
    fn publication<'b>(&'b self, access: Access<'b>) -> Result<Publication<'b>, Rejected> {
        let kind = self.kind.as_deref().unwrap_or(DEFAULT_KIND);
        let data = self.data.map_or(NO_DATA, RawValue::get);
        let mut targets = [
            self.user.as_deref().map(BroadcastTarget::User),
            self.role.as_deref().map(BroadcastTarget::Role),
            self.permission.as_deref().map(BroadcastTarget::Permission),
            self.exclude_session.as_deref().map(BroadcastTarget::Except),
        ]
        .into_iter()
        .flatten();
        let target = targets.next().unwrap_or_default();
        if targets.next().is_some() {
            let reason =
                "`user`, `role`, `permission` and `exclude_session` are mutually exclusive";
            return Err(Rejected::invalid(reason));
        }
        if let BroadcastTarget::Except(id) = target
            && id.parse::<SessionId>().is_err()
        {
            let reason = "`exclude_session` is not the id of a session";
            return Err(Rejected::invalid(reason));
        }
        let scope = access.scope(self.tenant.as_deref(), self.all_tenants)?;
        Ok(Publication {
            target,
            ..Publication::new(&self.channel, kind, data).in_scope(scope)
        })
    }
}

/// Publishes on a channel.
#[utoipa::path(post, path = "/api/publish", tag = "publish",
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeated within ten minutes, the request is answered like the first one and not carried out again", min_length = 1, max_length = 255, pattern = r"^[\x21-\x7e]+$")),
    request_body = PublishRequest,
    responses((status = 200, body = Published)))]
pub(super) async fn publish(caller: &Caller, headers: &HeaderMap, body: &[u8]) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Publish)?;
    let request: PublishRequest<'_> = body::parse(body)?;
    let publication = request.publication(access)?;
    published(caller, &publication).await
}

/// Publishes on several channels.
#[utoipa::path(post, path = "/api/broadcast", tag = "publish",
    params(("Idempotency-Key" = Option<String>, Header, description = "As for /api/publish", min_length = 1, max_length = 255, pattern = r"^[\x21-\x7e]+$")),
    request_body = BroadcastRequest,
    responses((status = 200, body = PublishedAll)))]
pub(super) async fn broadcast(caller: &Caller, headers: &HeaderMap, body: &[u8]) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Publish)?;
    let request: BroadcastRequest<'_> = body::parse(body)?;
    check_count(request.channels.len())?;
    if request.channels.is_empty() {
        return Err(Rejected::invalid("`channels` is empty"));
    }
    let scope = access.scope(request.tenant.as_deref(), request.all_tenants)?;
    let kind = request.kind.as_deref().unwrap_or(DEFAULT_KIND);
    let data = request.data.map_or(NO_DATA, RawValue::get);
    let channels = request.channels.iter();
    let publications = channels.map(|channel| {
        let publication = Publication::new(channel, kind, data);
        Ok(publication.in_scope(scope))
    });
    publish_all(caller, publications).await
}

/// Carries out several publications.
#[utoipa::path(post, path = "/api/batch", tag = "publish",
    params(("Idempotency-Key" = Option<String>, Header, description = "As for /api/publish", min_length = 1, max_length = 255, pattern = r"^[\x21-\x7e]+$")),
    request_body = BatchRequest,
    responses((status = 200, body = PublishedAll)))]
pub(super) async fn batch(caller: &Caller, headers: &HeaderMap, body: &[u8]) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Publish)?;
    let request: BatchRequest<'_> = body::parse(body)?;
    check_count(request.publications.len())?;
    let publications = request.publications.iter();
    let publications = publications.map(|Object(publication)| publication.publication(access));
    publish_all(caller, publications).await
}

fn check_count(count: usize) -> Result<(), Rejected> {
    if count > API_PUBLICATIONS_MAX {
        let reason = format!("at most {API_PUBLICATIONS_MAX} publications in one request");
        return Err(Rejected::invalid(reason));
    }
    Ok(())
}

/// Publishes for all sessions of a user.
#[utoipa::path(post, path = "/api/users/{user}/messages", tag = "publish",
    params(("user" = String, Path, description = "The user's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "As for /api/publish", min_length = 1, max_length = 255, pattern = r"^[\x21-\x7e]+$")),
    request_body = MessageRequest,
    responses((status = 200, body = Published)))]
pub(super) async fn to_user(
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
    user: &str,
) -> Outcome {
    to_channel(caller, headers, body, &user_channel(user)).await
}

/// Publishes for all sessions with a role.
#[utoipa::path(post, path = "/api/roles/{role}/messages", tag = "publish",
    params(("role" = String, Path, description = "The role"),
        ("Idempotency-Key" = Option<String>, Header, description = "As for /api/publish", min_length = 1, max_length = 255, pattern = r"^[\x21-\x7e]+$")),
    request_body = MessageRequest,
    responses((status = 200, body = Published)))]
pub(super) async fn to_role(
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
    role: &str,
) -> Outcome {
    to_channel(caller, headers, body, &role_channel(role)).await
}

/// Publishes for all sessions with a permission.
#[utoipa::path(post, path = "/api/permissions/{permission}/messages", tag = "publish",
    params(("permission" = String, Path, description = "The permission"),
        ("Idempotency-Key" = Option<String>, Header, description = "As for /api/publish", min_length = 1, max_length = 255, pattern = r"^[\x21-\x7e]+$")),
    request_body = MessageRequest,
    responses((status = 200, body = Published)))]
pub(super) async fn to_permission(
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
    permission: &str,
) -> Outcome {
    to_channel(caller, headers, body, &permission_channel(permission)).await
}

/// Publishes for all sessions of a tenant.
#[utoipa::path(post, path = "/api/tenants/{tenant}/messages", tag = "publish",
    params(("tenant" = String, Path, description = "The tenant"),
        ("Idempotency-Key" = Option<String>, Header, description = "As for /api/publish", min_length = 1, max_length = 255, pattern = r"^[\x21-\x7e]+$")),
    request_body = MessageRequest,
    responses((status = 200, body = Published)))]
pub(super) async fn to_tenant(
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
    tenant: &str,
) -> Outcome {
    to_channel(caller, headers, body, &tenant_channel(tenant)).await
}

/// Publishes for the subscribers of a room of the assist dialect.
#[utoipa::path(post, path = "/api/rooms/{room}/messages", tag = "publish",
    params(("room" = String, Path, description = "The room"),
        ("Idempotency-Key" = Option<String>, Header, description = "As for /api/publish", min_length = 1, max_length = 255, pattern = r"^[\x21-\x7e]+$")),
    request_body = MessageRequest,
    responses((status = 200, body = Published)))]
pub(super) async fn to_room(
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
    room: &str,
) -> Outcome {
    to_channel(caller, headers, body, &format!("{ROOM}{room}")).await
}

/// Publishes on a channel, in the tenant that the request names.
async fn to_channel(caller: &Caller, headers: &HeaderMap, body: &[u8], channel: &str) -> Outcome {
    let access = authorize(caller, headers, ApiScope::Publish)?;
    let request: MessageRequest<'_> = body::parse(body)?;
    let scope = access.scope(request.tenant.as_deref(), request.all_tenants)?;
    let publication = Publication::new(channel, request.kind(), request.data());
    published(caller, &publication.in_scope(scope)).await
}

/// Publishes, and answers when that is done.
pub(super) async fn published(caller: &Caller, publication: &Publication<'_>) -> Outcome {
    let accepted = put(caller, publication)
        .await
        .map_err(|error| failed(&error))?;
    await_stored(caller, accepted.sent).await?;
    Ok(json(&Published {
        status: "published",
        position: accepted.position.map(|position| position.to_string()),
    }))
}

/// Carries out publications if all of them are valid, and answers when that is done. When the ring
/// stays full, those that are left are not tried.
async fn publish_all(
    caller: &Caller,
    publications: impl Iterator<Item = Result<Publication<'_>, Rejected>>,
) -> Outcome {
    let valid = publications.enumerate().map(|(index, publication)| {
        let reason = match publication {
            Ok(publication) if !publication.is_scope_valid() => PublishError::Tenant.to_string(),
            Ok(publication) if !publication.is_valid() => PublishError::Name.to_string(),
            Ok(publication) => return Ok(publication),
            Err(rejected) => rejected.reason.into_owned(),
        };
        Err(Rejected::invalid(format!("publication {index}: {reason}")))
    });
    let publications = valid.collect::<Result<Vec<_>, _>>()?;
    let mut all = PublishedAll {
        published: 0,
        errors: Vec::new(),
    };
    let until_ms = room_deadline_ms(caller);
    let mut sent = Vec::new();
    for (index, publication) in publications.iter().enumerate() {
        match put_until(caller, publication, until_ms).await {
            Ok(accepted) => {
                all.published += 1;
                sent.extend(accepted.sent);
            }
            Err(error) if index == 0 => return Err(failed(&error)),
            Err(error) => {
                let error = error.to_string();
                let left = index..publications.len();
                let errors = left.map(|index| PublicationFailure {
                    index,
                    error: error.clone(),
                });
                all.errors.extend(errors);
                break;
            }
        }
    }
    await_stored(caller, sent).await?;
    Ok(json(&all))
}

/// Whether the other nodes have a publication (true), or never will.
pub(super) type IsSent = oneshot::Receiver<bool>;

/// A publication that was accepted.
pub(super) struct Accepted {
    /// Its position, where that is known at once.
    position: Option<Position>,
    /// When there are other nodes.
    pub(super) sent: Option<IsSent>,
}

/// Publishes, and waits for room in the ring.
pub(super) async fn put(
    caller: &Caller,
    publication: &Publication<'_>,
) -> Result<Accepted, PublishError> {
    put_until(caller, publication, room_deadline_ms(caller)).await
}

/// Until when a request waits for room in the ring, monotonic milliseconds.
fn room_deadline_ms(caller: &Caller) -> u64 {
    caller.context.clock.now().monotonic_ms + API_ROOM_TIMEOUT_MS
}

async fn put_until(
    caller: &Caller,
    publication: &Publication<'_>,
    until_ms: u64,
) -> Result<Accepted, PublishError> {
    let context = &caller.context;
    // Relaxed: a concurrent request may still see the old value.
    if context.is_draining.load(Ordering::Relaxed) {
        return Err(PublishError::Stopped);
    }
    let traced = context.tracer.as_ref().zip(caller.request.span);
    let traced = traced.map(|(tracer, request)| (tracer, tracer.child(request.context)));
    let publication = &Publication {
        trace: traced.map(|(_, span)| span.context),
        ..*publication
    };
    let result = loop {
        let now = context.clock.now();
        let (tell, sent) = match &context.process_state.link {
            Some(_) => teller(),
            None => (None, None),
        };
        let publisher = &context.publisher;
        match publisher.publish_and_tell(publication, tell, now) {
            Err(PublishError::RingFull) if now.monotonic_ms < until_ms => {
                match &context.process_state.link {
                    // Room comes when what is in front of it is sent.
                    Some(link) => link.flushed().await,
                    None => next_turn().await,
                }
            }
            result => break result.map(|position| Accepted { position, sent }),
        }
    };
    if let Some((tracer, span)) = traced {
        let error = result.as_ref().err().map(PublishError::name);
        tracer.end(span, published_details(publication, error));
    }
    result
}

/// What is called when the other nodes have a publication, and what waits for that.
fn teller() -> (Option<Sent>, Option<IsSent>) {
    let (sender, sent) = oneshot::channel();
    let tell = move |is_sent| {
        // Fails when the client is gone.
        let _ = sender.send(is_sent);
    };
    (Some(Box::new(tell)), Some(sent))
}

/// Returns in the next turn of the event loop.
async fn next_turn() {
    let mut is_next = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut is_next, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits until publications are with the other nodes, and stored where they are acknowledged only then.
pub(super) async fn await_stored(
    caller: &Caller,
    sent: impl IntoIterator<Item = IsSent>,
) -> Result<(), Rejected> {
    let reason = "published, but not stored";
    let not_stored = || Rejected::new(StatusCode::INTERNAL_SERVER_ERROR, reason);
    if let Some(link) = &caller.context.process_state.link {
        link.flushed().await;
    }
    for is_sent in sent {
        if is_sent.await != Ok(true) {
            return Err(not_stored());
        }
    }
    let publisher = &caller.context.publisher;
    if !publisher.acknowledges_stored() {
        return Ok(());
    }
    let (sender, stored) = oneshot::channel();
    let marked = publisher.mark_stored(Box::new(move |stored| {
        // Fails when the client is gone.
        let _ = sender.send(stored.is_ok());
    }));
    if marked.is_ok() && stored.await == Ok(true) {
        return Ok(());
    }
    Err(not_stored())
}

/// The answer to a publication that was not accepted.
pub(super) fn failed(error: &PublishError) -> Rejected {
    let status = match error {
        PublishError::RingFull | PublishError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        PublishError::Name | PublishError::Tenant | PublishError::Data(_) => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
    };
    Rejected {
        status,
        reason: error.to_string().into(),
    }
}

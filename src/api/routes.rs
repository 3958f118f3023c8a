//! The routes of the HTTP API.

use super::access::{authorize, authorize_notify, foreign_origin, is_known, shown_key};
use super::answer::{Answer, Outcome, Rejected};
use super::caller::Caller;
use super::idempotency::Begun;
use super::request::{REQUEST_ID, SUBSCRIPTIONS};
use super::{assist, body, channels, connections, documentation, head, notify, publish, status};
use crate::base::counters::HttpStatus;
use crate::config::{ApiScope, HttpPart};
use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, CONNECTION,
    CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, ORIGIN, REFERRER_POLICY,
    TRANSFER_ENCODING, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Method, Request, StatusCode};
use std::sync::atomic::Ordering;

/// A path, the part of the API that it belongs to, and its methods. `{}` stands for any segment.
type Route = (&'static str, HttpPart, &'static [Method]);

const GET: &[Method] = &[Method::GET, Method::HEAD];
const POST: &[Method] = &[Method::POST];
const DELETE: &[Method] = &[Method::DELETE];

const ROUTES: &[Route] = &[
    ("health", HttpPart::Health, GET),
    ("health/live", HttpPart::Health, GET),
    ("health/ready", HttpPart::Health, GET),
    ("metrics", HttpPart::Metrics, GET),
    ("metrics/prometheus", HttpPart::Metrics, GET),
    ("status", HttpPart::Metrics, GET),
    ("notify", HttpPart::Notify, POST),
    ("api/publish", HttpPart::Api, POST),
    ("api/broadcast", HttpPart::Api, POST),
    ("api/batch", HttpPart::Api, POST),
    ("api/users/{}/messages", HttpPart::Api, POST),
    ("api/roles/{}/messages", HttpPart::Api, POST),
    ("api/permissions/{}/messages", HttpPart::Api, POST),
    ("api/tenants/{}/messages", HttpPart::Api, POST),
    ("api/rooms/{}/messages", HttpPart::Api, POST),
    ("api/connections/{}/messages", HttpPart::Api, POST),
    ("api/jobs/{}", HttpPart::Api, POST),
    ("api/documents/{}", HttpPart::Api, POST),
    ("api/alerts", HttpPart::Api, POST),
    ("api/channels", HttpPart::Api, GET),
    ("api/channels/{}", HttpPart::Api, GET),
    ("api/channels/{}/presence", HttpPart::Api, GET),
    (
        "api/channels/{}/history",
        HttpPart::Api,
        &[Method::GET, Method::HEAD, Method::DELETE],
    ),
    ("api/connections", HttpPart::Api, GET),
    (
        "admin/connections/{}",
        HttpPart::Api,
        &[Method::GET, Method::HEAD, Method::DELETE],
    ),
    (SUBSCRIPTIONS, HttpPart::Api, POST),
    (
        "admin/connections/{}/subscriptions/{}",
        HttpPart::Api,
        DELETE,
    ),
    ("admin/users/{}/connections", HttpPart::Api, DELETE),
    ("admin/users/{}/history", HttpPart::Api, DELETE),
    ("openapi.json", HttpPart::Api, GET),
    ("docs", HttpPart::Api, GET),
    ("docs/page.js", HttpPart::Api, GET),
];

/// Headers of every answer: it is data and nothing else, whatever a browser may take it for.
const SECURITY_HEADERS: [(HeaderName, &str); 4] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// The answer to a request. It ends the connection if something else could read the bytes of the
/// request in another way, and while the server drains.
pub(super) async fn answer(caller: &Caller, request: Request<Incoming>) -> Answer {
    let is_known = || is_known(caller, request.headers());
    let caller = &caller.with_request(&request, is_known);
    // A proxy may have found the end of the body by another header (RFC 9112 6.1).
    let is_chunked = request.headers().contains_key(TRANSFER_ENCODING);
    let is_bad = !head::has_valid_host(&request);
    let origin = request.headers().get(ORIGIN).cloned();
    let method = request.method().clone();
    let is_foreign = foreign_origin(caller, request.headers()).is_some();
    let outcome = if is_bad {
        let reason = "`Host` is missing or wrong";
        Err(Rejected::new(StatusCode::BAD_REQUEST, reason))
    } else if is_foreign {
        let reason = "pages of this origin may not call the API; see `cors_origins`";
        Err(Rejected::new(StatusCode::FORBIDDEN, reason))
    } else {
        route(caller, request).await
    };
    let rejected = outcome.as_ref().err().cloned();
    let mut answer = outcome.unwrap_or_else(|rejected| rejected.answer());
    if let Some(origin) = origin.filter(|_| !is_bad && !is_foreign) {
        allow_origin(answer.headers_mut(), origin);
    }
    let (context, pipe, status) = (&caller.context, caller.pipe(), answer.status());
    let request = &caller.request;
    request.end((context, pipe), &method, status, rejected.as_ref());
    if let Some(id) = request.id_header() {
        answer.headers_mut().insert(REQUEST_ID, id);
    }
    let headers = answer.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    let status = match answer.status().as_u16() {
        0..400 => HttpStatus::Success,
        400..500 => HttpStatus::Rejected,
        _ => HttpStatus::Failed,
    };
    caller.counters.http_requests.of(status).add(1);
    let headers = answer.headers_mut();
    if is_chunked || is_bad || caller.context.is_draining.load(Ordering::Relaxed) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

fn allow_origin(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_name(REQUEST_ID),
    );
    headers.insert(VARY, HeaderValue::from_static("Origin"));
}

/// The route of a path, and what stands for its `{}`.
fn find(segments: &[String]) -> Option<(&'static Route, Vec<&str>)> {
    ROUTES.iter().find_map(|route| {
        let mut wanted = route.0.split('/');
        let mut parameters = Vec::new();
        for segment in segments {
            match wanted.next()? {
                "{}" if !segment.is_empty() => parameters.push(&**segment),
                literal if literal == segment => {}
                _ => return None,
            }
        }
        wanted.next().is_none().then_some((route, parameters))
    })
}

async fn route(caller: &Caller, request: Request<Incoming>) -> Outcome {
    let context = &caller.context;
    let segments = body::segments(request.uri().path())?;
    let found = find(&segments).filter(|((_, part, _), _)| context.answers(caller.listener, *part));
    let Some(((path, part, methods), parameters)) = found else {
        let reason = "there is nothing here; see docs/HTTP.md";
        return Err(Rejected::new(StatusCode::NOT_FOUND, reason));
    };
    caller.request.note_route(path, &parameters);
    let is_off = match part {
        HttpPart::Health => !context.health_enabled,
        HttpPart::Metrics => !context.metrics_enabled,
        HttpPart::Notify | HttpPart::Api => false,
    };
    if is_off {
        return Err(Rejected::new(StatusCode::NOT_FOUND, "it is switched off"));
    }
    let method = request.method().clone();
    if !methods.contains(&method) {
        return Ok(other_method(&method, methods, request.headers()));
    }
    let headers = request.headers().clone();
    let query = request.uri().query().map(str::to_owned);
    let query = query.as_deref();
    if method == Method::POST {
        // Before the body is read, and before the request is remembered.
        match *path {
            "notify" => authorize_notify(caller, &headers).map(drop)?,
            SUBSCRIPTIONS => {
                authorize(caller, &headers, ApiScope::Admin).map(drop)?;
            }
            _ => authorize(caller, &headers, ApiScope::Publish).map(drop)?,
        }
        let body = body::read(request).await?;
        let posted = post(caller, path, &parameters, &headers, &body.bytes);
        return idempotent(caller, &headers, (&segments, &body.bytes), posted).await;
    }
    let is_delete = method == Method::DELETE;
    match (*path, &parameters[..]) {
        ("health" | "health/ready", _) => Ok(status::health(context)),
        ("health/live", _) => Ok(status::live()),
        ("metrics", _) => Ok(status::metrics(caller, &headers)),
        ("metrics/prometheus", _) => Ok(status::prometheus(context, &headers)),
        ("status", _) => Ok(status::status(context)),
        ("api/channels", _) => channels::list(caller, &headers, query).await,
        ("api/channels/{}", [name]) => channels::show(caller, &headers, name, query).await,
        ("api/channels/{}/presence", [name]) => {
            channels::presence(caller, &headers, name, query).await
        }
        ("api/channels/{}/history", [name]) if is_delete => {
            channels::delete_history(caller, &headers, name, query).await
        }
        ("api/channels/{}/history", [name]) => {
            channels::history(caller, &headers, name, query).await
        }
        ("api/connections", _) => connections::list(caller, &headers, query).await,
        ("admin/connections/{}", [id]) if is_delete => {
            connections::disconnect(caller, &headers, id).await
        }
        ("admin/connections/{}", [id]) => connections::show(caller, &headers, id).await,
        ("admin/connections/{}/subscriptions/{}", [id, channel]) => {
            connections::unsubscribe(caller, &headers, id, channel).await
        }
        ("admin/users/{}/connections", [user]) => {
            connections::disconnect_user(caller, &headers, user, query).await
        }
        ("admin/users/{}/history", [user]) => {
            channels::delete_user_history(caller, &headers, user, query).await
        }
        ("openapi.json", _) => Ok(documentation::openapi()),
        ("docs", _) => Ok(documentation::page()),
        ("docs/page.js", _) => Ok(documentation::script()),
        _ => Err(Rejected::new(
            StatusCode::NOT_FOUND,
            "there is nothing here",
        )),
    }
}

async fn post(
    caller: &Caller,
    path: &str,
    parameters: &[&str],
    headers: &HeaderMap,
    body: &[u8],
) -> Outcome {
    match (path, parameters) {
        ("notify", _) => notify::notify(caller, headers, body).await,
        ("api/publish", _) => publish::publish(caller, headers, body).await,
        ("api/broadcast", _) => publish::broadcast(caller, headers, body).await,
        ("api/batch", _) => publish::batch(caller, headers, body).await,
        ("api/users/{}/messages", [user]) => publish::to_user(caller, headers, body, user).await,
        ("api/roles/{}/messages", [role]) => publish::to_role(caller, headers, body, role).await,
        ("api/permissions/{}/messages", [permission]) => {
            publish::to_permission(caller, headers, body, permission).await
        }
        ("api/tenants/{}/messages", [tenant]) => {
            publish::to_tenant(caller, headers, body, tenant).await
        }
        ("api/rooms/{}/messages", [room]) => publish::to_room(caller, headers, body, room).await,
        ("api/connections/{}/messages", [id]) => connections::send(caller, headers, body, id).await,
        ("api/jobs/{}", [id]) => assist::job(caller, headers, body, id).await,
        ("api/documents/{}", [id]) => assist::document(caller, headers, body, id).await,
        ("api/alerts", _) => assist::alert(caller, headers, body).await,
        (SUBSCRIPTIONS, [id]) => connections::subscribe(caller, headers, body, id).await,
        _ => Err(Rejected::new(
            StatusCode::NOT_FOUND,
            "there is nothing here",
        )),
    }
}

/// Carries a request out, unless one with its idempotency key was.
async fn idempotent(
    caller: &Caller,
    headers: &HeaderMap,
    (path, body): (&[String], &[u8]),
    posted: impl Future<Output = Outcome>,
) -> Outcome {
    let Some(key) = headers.get("idempotency-key") else {
        return posted.await;
    };
    let is_visible = |key: &&str| key.bytes().all(|byte| byte.is_ascii_graphic());
    let key = key.to_str().ok().filter(is_visible);
    let key = key.filter(|key| (1..=255).contains(&key.len()));
    let key = key.ok_or(Rejected::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "an idempotency key has 1 to 255 visible characters of ASCII",
    ))?;
    // Callers with different keys of the API have keys of their own here. A path is the same however
    // it is encoded.
    let who = shown_key(headers);
    let key = format!("{who:?} {} {path:?} {key}", caller.listener);
    let now_ms = caller.context.clock.now().monotonic_ms;
    let attempt = match caller.context.idempotency.begin(&key, body, now_ms)? {
        Begun::First(attempt) => attempt,
        Begun::Repeated(answer) => return Ok(answer),
    };
    let answer = posted.await.unwrap_or_else(|rejected| rejected.answer());
    Ok(attempt.finish(answer).await)
}

/// The answer to a method that a path does not have: to that of a browser which asks whether a page may
/// use one, and to all others.
fn other_method(method: &Method, methods: &[Method], headers: &HeaderMap) -> Answer {
    let names: Vec<_> = methods.iter().map(Method::as_str).collect();
    let names = names.join(", ");
    let allowed = HeaderValue::from_str(&names).expect("names of methods");
    if *method == Method::OPTIONS && headers.contains_key(ORIGIN) {
        let mut answer = Answer::default();
        *answer.status_mut() = StatusCode::NO_CONTENT;
        let headers = answer.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, allowed);
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(
                "authorization, content-type, idempotency-key, traceparent, x-api-key, \
                 x-correlation-id, x-request-id",
            ),
        );
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        return answer;
    }
    let reason = format!("the method is not allowed; allowed: {names}");
    let rejected = Rejected {
        status: StatusCode::METHOD_NOT_ALLOWED,
        reason: reason.into(),
    };
    let mut answer = rejected.answer();
    answer.headers_mut().insert(ALLOW, allowed);
    answer
}

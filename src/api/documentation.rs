//! The API described by itself: OpenAPI, and a page for people.

use super::answer::{Answer, Failure, respond};
use super::{assist, channels, connections, notify, publish, status};
use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use std::sync::LazyLock;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, Ref, ResponseBuilder};
use utoipa::{Modify, OpenApi};

/// Allows what the page itself has, and calls of the API.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; \
    style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static OPENAPI: LazyLock<String> =
    LazyLock::new(|| Description::openapi().to_json().unwrap_or_default());

#[derive(OpenApi)]
#[openapi(
    info(title = "fanwire", description = "The HTTP API of fanwire, a WebSocket fan-out server."),
    paths(
        publish::publish, publish::broadcast, publish::batch, publish::to_user, publish::to_role,
        publish::to_permission, publish::to_tenant, publish::to_room, connections::send,
        notify::notify, assist::job, assist::document, assist::alert,
        channels::list, channels::show, channels::presence, channels::history,
        channels::delete_history, channels::delete_user_history,
        connections::list, connections::show, connections::disconnect,
        connections::disconnect_user, connections::subscribe, connections::unsubscribe,
        status::health, status::live, status::metrics, status::prometheus, status::status,
    ),
    security(("key" = []), ("bearer" = [])),
    components(schemas(Failure)),
    modifiers(&Keys, &Errors),
)]
struct Description;

/// How keys are sent.
struct Keys;

impl Modify for Keys {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let key = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
        components.add_security_scheme("key", SecurityScheme::ApiKey(key));
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

/// What all requests may be answered with.
struct Errors;

impl Modify for Errors {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for path in openapi.paths.paths.values_mut() {
            let operations = [&mut path.get, &mut path.post, &mut path.delete];
            for operation in operations.into_iter().flatten() {
                let content = Content::new(Some(Ref::from_schema_name("Failure")));
                let response = ResponseBuilder::new()
                    .description("Rejected, and why")
                    .content("application/json", content);
                let responses = &mut operation.responses.responses;
                responses.insert("default".into(), response.build().into());
            }
        }
    }
}

pub(super) fn openapi() -> Answer {
    respond(StatusCode::OK, "application/json", OPENAPI.as_str())
}

pub(super) fn page() -> Answer {
    let page = include_str!("documentation/page.html");
    let mut answer = respond(StatusCode::OK, "text/html; charset=utf-8", page);
    let policy = HeaderValue::from_static(PAGE_POLICY);
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    answer
}

pub(super) fn script() -> Answer {
    let script = include_str!("documentation/page.js");
    respond(StatusCode::OK, "text/javascript; charset=utf-8", script)
}

//! Answers of the HTTP API.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;
use std::borrow::Cow;
use utoipa::ToSchema;

/// An answer with its complete body.
pub(super) type Answer = Response<Full<Bytes>>;
/// An answer, or why the request is rejected.
pub(super) type Outcome = Result<Answer, Rejected>;

/// What is wrong with a request, or with the server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Failure<'a> {
    /// For people.
    pub(super) error: &'a str,
}

/// Why a request is rejected.
#[derive(Clone, Debug)]
pub(super) struct Rejected {
    pub(super) status: StatusCode,
    pub(super) reason: Cow<'static, str>,
}

impl Rejected {
    pub(super) const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self {
            status,
            reason: Cow::Borrowed(reason),
        }
    }

    /// The request is whole and asks for something that does not exist or is not allowed.
    pub(super) fn invalid(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            reason: reason.into(),
        }
    }

    pub(super) fn answer(&self) -> Answer {
        let body = serde_json::json!({"error": self.reason});
        let mut answer = respond(self.status, "application/json", body.to_string() + "\n");
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"fanwire\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        answer
    }
}

pub(super) fn json(body: &impl Serialize) -> Answer {
    match serde_json::to_string(body) {
        Ok(body) => respond(StatusCode::OK, "application/json", body + "\n"),
        // None of our types has keys other than texts.
        Err(error) => respond(
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain",
            error.to_string(),
        ),
    }
}

pub(super) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Answer {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type)
        .header(CACHE_CONTROL, "no-store")
        .body(Full::new(body.into()))
        .expect("fixed header values are valid")
}

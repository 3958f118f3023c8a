//! What log lines and spans say of a request.

use super::answer::Rejected;
use super::context::ApiContext;
use super::pipe::Pipe;
use crate::base::Tracer;
use crate::base::counters::LogEvent;
use crate::base::trace::{OpenSpan, SpanDetails};
use crate::http::Correlation;
use crate::shard::{HttpEvent, HttpOutput};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};

/// The header with the correlation id of an answer.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where probes and scrapes go, which are not traced.
const UNTRACED_PATHS: [&str; 3] = ["/health", "/metrics", "/status"];
/// The route of the one change that is a POST.
pub(super) const SUBSCRIPTIONS: &str = "admin/connections/{}/subscriptions";

/// Makes ids for requests that have none.
#[derive(Debug, Default)]
pub(super) struct RequestIds {
    hasher: RandomState,
    count: Cell<u64>,
}

impl RequestIds {
    fn next(&self) -> String {
        let count = self.count.get();
        self.count.set(count + 1);
        format!("{:016x}", self.hasher.hash_one(count))
    }
}

/// Who has shown which key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shown {
    /// None that is known.
    #[default]
    Nothing,
    /// The key of the API with this index.
    ApiKey(usize),
    /// The key of `POST /notify`.
    NotifyKey,
}

/// One request.
#[derive(Debug, Default)]
pub(super) struct RequestInfo {
    correlation_id: String,
    /// Its span, if it is traced.
    pub(super) span: Option<OpenSpan>,
    route: Cell<&'static str>,
    /// What it is about: what stands for `{}` in the route, and what its handler adds.
    target: RefCell<String>,
    tenant: RefCell<Option<String>>,
    shown: Cell<Shown>,
    /// Whether the caller may do what it asks for.
    is_authorized: Cell<bool>,
}

impl RequestInfo {
    /// Begins a request of a caller who `is_known` by a key, or needs none.
    pub(super) fn begin<B>(
        tracer: Option<&Tracer>,
        ids: &RequestIds,
        request: &Request<B>,
        is_known: impl FnOnce() -> bool,
    ) -> Self {
        let mut correlation = Correlation::default();
        for (name, value) in request.headers() {
            if let Ok(value) = value.to_str() {
                correlation.note(name.as_str(), value);
            }
        }
        let path = request.uri().path();
        let is_probe = UNTRACED_PATHS.iter().any(|probe| path.starts_with(probe));
        let span = tracer.filter(|_| !is_probe).and_then(|tracer| {
            let parent = correlation.trace_parent();
            let is_trusted =
                parent.is_some() && (tracer.trusts_all() || tracer.trusts_keys() && is_known());
            tracer.root(parent, is_trusted)
        });
        let correlation_id = correlation.id().map_or_else(|| ids.next(), str::to_owned);
        Self {
            correlation_id,
            span,
            ..Self::default()
        }
    }

    /// It is for this route.
    pub(super) fn note_route(&self, route: &'static str, parameters: &[&str]) {
        self.route.set(route);
        *self.target.borrow_mut() = parameters.join("/");
    }

    /// It is also about this.
    pub(super) fn note_target(&self, target: &str) {
        let mut whole = self.target.borrow_mut();
        whole.push('/');
        whole.push_str(target);
    }

    /// It is about something of this tenant.
    pub(super) fn note_tenant(&self, tenant: Option<&str>) {
        *self.tenant.borrow_mut() = tenant.map(str::to_owned);
    }

    /// The caller has shown a right key.
    pub(super) fn note_key(&self, shown: Shown) {
        self.shown.set(shown);
    }

    /// The caller may do what it asks for.
    pub(super) fn note_authorized(&self) {
        self.is_authorized.set(true);
    }

    /// The header for the answer.
    pub(super) fn id_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.correlation_id).ok()
    }

    /// Ends the request: its span, and its line in the log.
    pub(super) fn end(
        &self,
        (context, pipe): (&ApiContext, &Pipe),
        method: &Method,
        status: StatusCode,
        rejected: Option<&Rejected>,
    ) {
        let route = self.route.get();
        if let (Some(tracer), Some(span)) = (&context.tracer, self.span) {
            let details = SpanDetails::Request {
                method: method.to_string(),
                route,
                status: status.as_u16(),
                correlation_id: self.correlation_id.clone(),
            };
            tracer.end(span, details);
        }
        let is_change = *method == Method::DELETE || route == SUBSCRIPTIONS;
        // Whoever has no right key cannot use up the lines of those who change something.
        let kind = if is_change && self.is_authorized.get() {
            match status.is_success() {
                true => LogEvent::AdminChange,
                // Whoever fails again and again cannot use them up either.
                false => LogEvent::AdminFailure,
            }
        } else if status.is_client_error() {
            LogEvent::HttpRejected
        } else if *method == Method::POST {
            LogEvent::HttpPublished
        } else {
            return;
        };
        if !HttpEvent::is_logged(kind, status.as_u16()) {
            return;
        }
        let key = match self.shown.get() {
            Shown::Nothing => None,
            Shown::ApiKey(index) => context.api_keys.get(index),
            Shown::NotifyKey => None,
        };
        let key_name = match self.shown.get() {
            Shown::NotifyKey => Some("notify_api_key".to_owned()),
            _ => key.map(|key| key.name.clone()),
        };
        let reason = rejected.and_then(|rejected| match rejected.reason {
            // Others may have text of the caller.
            Cow::Borrowed(reason) => Some(reason),
            Cow::Owned(_) => None,
        });
        pipe.tell(HttpOutput::Event(Box::new(HttpEvent {
            kind,
            method: method.to_string(),
            route,
            target: self.target.take(),
            tenant: self.tenant.take(),
            status: status.as_u16(),
            reason,
            key: key_name,
            key_tenant: key.and_then(|key| key.tenant.clone()),
            correlation_id: self.correlation_id.clone(),
        })));
    }
}

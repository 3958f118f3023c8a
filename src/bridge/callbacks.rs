//! Callbacks: questions to backends of the operator that decide or answer what a client asks for.
//!
//! They are asynchronous handlers that are made from settings. An answer 200 or 204 allows, 401 or 403
//! denies; after anything else, or nothing in time, it is not known what to do, and nothing is done.

use super::backend::{Backend, BackendConfig};
use crate::auth::Identity;
use crate::base::{CallbackKind, CallbackOutcome, ProcessState};
use crate::shard::{AsyncSession, Denied, HandlerError, OwnedMessage};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// What a client is told when the backend gives no reason.
const DENIED: &str = "Permission denied";

/// A callback of one kind.
#[derive(Debug)]
pub struct Callback {
    kind: CallbackKind,
    backend: Backend,
    process_state: Arc<ProcessState>,
}

/// What a backend is asked.
#[derive(Serialize)]
struct Question<'a> {
    session: SessionBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct SessionBody<'a> {
    id: String,
    dialect: &'static str,
    address: String,
    user: Option<&'a str>,
    tenant: Option<&'a str>,
    roles: &'a [Box<str>],
    permissions: &'a [Box<str>],
    attributes: BTreeMap<&'a str, &'a str>,
}

/// What a backend answers with 200.
/// Another field is not ignored: a backend that believes to deny with it must not allow.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowed {
    /// Messages to this client.
    #[serde(default)]
    messages: Vec<AnswerMessage>,
    /// Channels to which the session is subscribed, without the access rules.
    #[serde(default)]
    subscribe: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerMessage {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
}

/// What a backend answers with 401 or 403, if it gives a reason.
#[derive(Deserialize)]
struct Reason {
    reason: String,
}

impl Callback {
    /// A callback that has not been asked yet.
    ///
    /// # Errors
    /// When the URL is an https URL and the host has no certificates to trust.
    pub fn new(
        kind: CallbackKind,
        config: BackendConfig,
        process_state: Arc<ProcessState>,
    ) -> io::Result<Self> {
        Ok(Self {
            kind,
            backend: Backend::new(config)?,
            process_state,
        })
    }

    /// Asks whether a session may begin.
    ///
    /// # Errors
    /// When it may not, or when that cannot be found out; the same of the following.
    pub async fn connect(&self, session: AsyncSession) -> Result<(), HandlerError> {
        let allowed = self.ask(&session, None, None, None).await?;
        carry_out(&session, &allowed)
    }

    /// Asks whether a session may subscribe to a channel, given by its name for clients.
    ///
    /// # Errors
    /// As above.
    pub async fn subscribe(
        &self,
        session: AsyncSession,
        channel: String,
    ) -> Result<(), HandlerError> {
        self.ask(&session, Some(&channel), None, None).await?;
        Ok(())
    }

    /// Has a message answered.
    ///
    /// # Errors
    /// As above.
    pub async fn message(
        &self,
        session: AsyncSession,
        message: OwnedMessage,
    ) -> Result<(), HandlerError> {
        // It was checked when it was received.
        let data = serde_json::from_str(&message.data).map_err(|_| HandlerError::Failed)?;
        let kind = Some(&*message.kind);
        let allowed = self.ask(&session, None, kind, Some(data)).await?;
        carry_out(&session, &allowed)
    }

    async fn ask(
        &self,
        session: &AsyncSession,
        channel: Option<&str>,
        kind: Option<&str>,
        data: Option<&RawValue>,
    ) -> Result<Allowed, HandlerError> {
        let question = Question {
            session: SessionBody::of(session),
            channel,
            kind,
            data,
        };
        let body = serde_json::to_vec(&question);
        let answer = self.backend.ask(body, None, read).await;
        let (outcome, result) = match answer {
            Some(Ok(allowed)) => (CallbackOutcome::Allowed, Ok(allowed)),
            Some(Err(denied)) => (CallbackOutcome::Denied, Err(denied.into())),
            None => (CallbackOutcome::Failed, Err(HandlerError::Failed)),
        };
        let counters = &self.process_state.backends;
        counters.count_callback(self.kind, outcome);
        result
    }
}

impl<'a> SessionBody<'a> {
    fn of(session: &'a AsyncSession) -> Self {
        let identity = session.identity();
        let attributes = identity.into_iter().flat_map(|it| &it.attributes);
        Self {
            id: session.id().to_string(),
            dialect: session.dialect().name(),
            address: session.peer().ip().to_canonical().to_string(),
            user: session.user_id(),
            tenant: session.tenant_id(),
            roles: identity.map_or(&[], |it: &Identity| &it.roles),
            permissions: identity.map_or(&[], |it| &it.permissions),
            attributes: attributes
                .map(|(name, value)| (&**name, &**value))
                .collect(),
        }
    }
}

/// What an answer means.
///
/// # Errors
/// When it means nothing.
fn read(status: StatusCode, body: &[u8]) -> Result<Result<Allowed, Denied>, String> {
    match status {
        StatusCode::NO_CONTENT => Ok(Ok(Allowed::default())),
        // An array of the fields would be taken for the object.
        StatusCode::OK if !body.trim_ascii_start().starts_with(b"{") => {
            Err("the answer 200 is no JSON object".to_owned())
        }
        StatusCode::OK => match serde_json::from_slice(body) {
            Ok(allowed) => Ok(Ok(allowed)),
            Err(error) => Err(format!("the answer 200 is not as described: {error}")),
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let reason = serde_json::from_slice(body);
            let reason = reason.map_or(DENIED.to_owned(), |Reason { reason }| reason);
            Ok(Err(Denied::because(reason)))
        }
        status => Err(format!("the answer is {status}")),
    }
}

fn carry_out(session: &AsyncSession, allowed: &Allowed) -> Result<(), HandlerError> {
    allowed
        .subscribe
        .iter()
        .for_each(|channel| session.subscribe(channel));
    for message in &allowed.messages {
        session.send(&message.kind, &message.data)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clear_answers_allow_or_deny() {
        for (status, body, expected) in [
            (204, "", Some(Ok(()))),
            (200, "{}", Some(Ok(()))),
            (200, r#"{"messages":[{"type":"a"}]}"#, Some(Ok(()))),
            (200, "", None),
            (200, "<html>", None),
            (200, "[]", None),
            (200, "null", None),
            (200, r#"{"messages":{}}"#, None),
            (200, r#"{"messages":[{"data":1}]}"#, None),
            (200, r#"{"error":"no"}"#, None),
            (200, r#"{"allow":false}"#, None),
            (403, r#"{"reason":"no"}"#, Some(Err("no"))),
            (401, "<html>", Some(Err(DENIED))),
            (302, "", None),
            (404, r#"{"reason":"no"}"#, None),
            (429, "", None),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let found = read(status, body.as_bytes()).ok();
            let found = found.map(|answer| answer.map(|_| ()).map_err(|it| it.to_string()));
            let expected = expected.map(|answer| answer.map_err(str::to_owned));
            assert_eq!(found, expected, "{status} {body}");
        }
    }
}

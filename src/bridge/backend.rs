//! One address of the operator's backend: bounded questions to it, signed, and what failed.

use super::http_client::HttpClient;
use super::signature::{Signer, new_id};
use crate::base::TraceContext;
use crate::base::now::Clock;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Shortest time between two log lines about failures.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Where to ask, and within which bounds.
#[derive(Clone, Debug)]
pub struct BackendConfig {
    /// What the address is for, in logs.
    pub name: &'static str,
    /// The address.
    pub url: String,
    /// Time for an answer, waiting for other questions included.
    pub timeout: Duration,
    /// Questions at a time; more wait.
    pub requests_max: usize,
    /// Signs the questions.
    pub signer: Arc<Signer>,
    /// The time of the questions.
    pub clock: Clock,
}

/// An address that is asked.
#[derive(Debug)]
pub(super) struct Backend {
    config: BackendConfig,
    client: HttpClient,
    requests: Semaphore,
    logged: Mutex<Option<Instant>>,
}

impl Backend {
    /// # Errors
    /// When the URL is an https URL and the host has no certificates to trust.
    pub(super) fn new(config: BackendConfig) -> io::Result<Self> {
        Ok(Self {
            client: HttpClient::for_url(&config.url)?,
            requests: Semaphore::new(config.requests_max),
            logged: Mutex::default(),
            config,
        })
    }

    /// What `read` makes of the answer, status and body; `None` when there is no answer in time, or
    /// `read` finds that it cannot be relied on. That is logged. The trace is handed on.
    pub(super) async fn ask<T>(
        &self,
        body: Result<Vec<u8>, serde_json::Error>,
        trace: Option<TraceContext>,
        read: impl FnOnce(StatusCode, &[u8]) -> Result<T, String>,
    ) -> Option<T> {
        let answered = tokio::time::timeout(self.config.timeout, self.post(body, trace)).await;
        let answer = answered.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        match answer.and_then(|(status, body)| read(status, &body)) {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.log(&error);
                None
            }
        }
    }

    async fn post(
        &self,
        body: Result<Vec<u8>, serde_json::Error>,
        trace: Option<TraceContext>,
    ) -> Result<(StatusCode, Bytes), String> {
        let permit = self.requests.acquire().await;
        let _permit = permit.map_err(|error| error.to_string())?;
        let body = body.map_err(|error| error.to_string())?;
        let mut request = Request::post(&self.config.url)
            .header("content-type", "application/json")
            .header("accept", "application/json");
        if let Some(trace) = trace {
            request = request.header("traceparent", trace.to_header());
        }
        let unix_s = self.config.clock.now().unix_s();
        let request = self.config.signer.sign(request, &new_id()?, unix_s, &body);
        let request = request.body(Full::from(body));
        let request = request.map_err(|error| error.to_string())?;
        let (status, answer) = self.client.send(request, ANSWER_BYTES_MAX).await?;
        if status.is_server_error() {
            return Err(format!("the answer is {status}"));
        }
        Ok((status, answer))
    }

    fn log(&self, error: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            *logged = Some(Instant::now());
            tracing::warn!(callback = self.config.name, error, "a callback failed");
        }
    }
}

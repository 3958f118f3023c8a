//! Tells a webhook which users are online and which channels are occupied: in batches, one request at a
//! time, so that the receiver learns of the changes in their order, and again until it has them.
//!
//! ```text
//!   due changes ─▶ batch ─▶ POST ─ 2xx ─────────────────────────▶ next batch
//!                            ▲  └─ anything else ─ back-off ─┐     ▲
//!                            └───────────────────────────────┴─ retry time is over: given up
//! ```

use super::http_client::HttpClient;
use super::signature::{Signer, new_id};
use crate::base::channel_names::{split_tenant, user_of};
use crate::base::label::Label;
use crate::base::now::Clock;
use crate::base::{ProcessState, StateChange, StateChanges, WebhookEvent, WebhookOutcome};
use http::Request;
use http_body_util::Full;
use serde::Serialize;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Time between two looks whether changes are due.
const TICK: Duration = Duration::from_millis(100);
/// Events of one request.
const BATCH_MAX: usize = 100;
/// Shortest time until a batch is sent again; it doubles with each failure, up to the longest.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_mins(1);
/// Shortest time between two log lines about failures.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Time for what is left when the server ends.
pub const WEBHOOK_END: Duration = Duration::from_secs(5);

/// Where changes are told, and within which bounds.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// The address.
    pub url: String,
    /// What is told.
    pub events: Vec<WebhookEvent>,
    /// How long a change must last before it is told.
    pub delay: Duration,
    /// Time for an answer.
    pub timeout: Duration,
    /// Time for which a batch is sent again.
    pub retry_time: Duration,
    /// Signs the requests.
    pub signer: Arc<Signer>,
    /// The time of the changes.
    pub clock: Clock,
}

/// A webhook and what it is told.
#[derive(Debug)]
pub struct Webhook {
    config: WebhookConfig,
    client: HttpClient,
    process_state: Arc<ProcessState>,
    /// Which process tells it: what an earlier one has told is over.
    instance: String,
    logged: Option<Instant>,
}

#[derive(Serialize)]
struct Body<'a> {
    instance: &'a str,
    time_ms: u64,
    events: Vec<Event<'a>>,
}

#[derive(Serialize)]
struct Event<'a> {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    time_ms: u64,
}

impl Webhook {
    /// A webhook that was told nothing yet.
    ///
    /// # Errors
    /// When the URL is an https URL and the host has no certificates to trust, or it has no random
    /// numbers.
    pub fn new(config: WebhookConfig, process_state: Arc<ProcessState>) -> io::Result<Self> {
        let instance = getrandom::u64().map_err(io::Error::other)?;
        Ok(Self {
            client: HttpClient::for_url(&config.url)?,
            process_state,
            instance: format!("{instance:016x}"),
            logged: None,
            config,
        })
    }

    /// Tells changes until the server ends, and then what is left.
    pub(super) async fn run(mut self, mut ending: watch::Receiver<bool>) {
        let process_state = Arc::clone(&self.process_state);
        let Some(changes) = &process_state.changes else {
            return;
        };
        while !*ending.borrow() {
            if !self.tell_due(changes, &mut ending).await {
                let _ = tokio::time::timeout(TICK, ending.changed()).await;
            }
        }
        self.tell_rest(changes).await;
    }

    /// Tells a batch of what is due; false if nothing is.
    async fn tell_due(
        &mut self,
        changes: &StateChanges,
        ending: &mut watch::Receiver<bool>,
    ) -> bool {
        let delay_ms = u64::try_from(self.config.delay.as_millis()).unwrap_or(u64::MAX);
        let Some(batch) = self.take(changes, delay_ms) else {
            return false;
        };
        let deadline = Instant::now() + self.config.retry_time;
        self.tell(&batch, deadline, Some(ending)).await;
        true
    }

    /// Tells all that is left, within [`WEBHOOK_END`].
    async fn tell_rest(&mut self, changes: &StateChanges) {
        let deadline = Instant::now() + WEBHOOK_END;
        while let Some(batch) = self.take(changes, 0) {
            self.tell(&batch, deadline, None).await;
        }
    }

    fn take(&self, changes: &StateChanges, delay_ms: u64) -> Option<Vec<StateChange>> {
        let mut batch = changes.take(self.config.clock.now(), delay_ms, BATCH_MAX)?;
        batch.retain(|change| self.config.events.contains(&change.event));
        Some(batch)
    }

    /// Sends a batch until it is accepted or the deadline has passed; once the server ends, that is
    /// [`WEBHOOK_END`] from then on.
    async fn tell(
        &mut self,
        batch: &[StateChange],
        mut deadline: Instant,
        mut ending: Option<&mut watch::Receiver<bool>>,
    ) {
        if batch.is_empty() {
            return;
        }
        let process_state = Arc::clone(&self.process_state);
        let counters = &process_state.backends;
        counters.set_webhook_in_flight(batch.len());
        let id = new_id();
        let mut wait = RETRY_MIN;
        let outcome = loop {
            let sent = self.send(&id, batch, deadline).await;
            counters.count_webhook_request(sent.is_ok());
            let Err(error) = sent else {
                break WebhookOutcome::Delivered;
            };
            self.log(&error);
            let pause = jittered(wait).min(deadline.saturating_duration_since(Instant::now()));
            wait = (wait * 2).min(RETRY_MAX);
            let is_ending = match &mut ending {
                Some(ending) => {
                    let ended = tokio::time::timeout(pause, ending.changed()).await;
                    ended.is_ok()
                }
                None => {
                    tokio::time::sleep(pause).await;
                    false
                }
            };
            if is_ending {
                // It is tried again at once, and not for long.
                ending = None;
                deadline = deadline.min(Instant::now() + WEBHOOK_END);
                wait = RETRY_MIN;
            }
            if Instant::now() >= deadline {
                break WebhookOutcome::GivenUp;
            }
        };
        if outcome == WebhookOutcome::GivenUp {
            tracing::warn!(events = batch.len(), "the webhook was not told of events");
        }
        counters.count_webhook_events(outcome, batch.len());
        counters.set_webhook_in_flight(0);
    }

    async fn send(
        &self,
        id: &Result<String, String>,
        batch: &[StateChange],
        deadline: Instant,
    ) -> Result<(), String> {
        let now = self.config.clock.now();
        let body = serde_json::to_vec(&Body {
            instance: &self.instance,
            time_ms: now.unix_ms,
            events: batch.iter().map(Event::of).collect(),
        });
        let body = body.map_err(|error| error.to_string())?;
        let request = Request::post(&self.config.url).header("content-type", "application/json");
        let id = id.as_ref().map_err(Clone::clone)?;
        let signed = self.config.signer.sign(request, id, now.unix_s(), &body);
        let request = signed.body(Full::from(body));
        let request = request.map_err(|error| error.to_string())?;
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = self.config.timeout.min(left);
        let answered = tokio::time::timeout(timeout, self.client.send_for_status(request)).await;
        let status = answered.map_err(|_| "no answer in time".to_owned())??;
        match status.is_success() {
            true => Ok(()),
            false => Err(format!("the answer is {status}")),
        }
    }

    fn log(&mut self, error: &str) {
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            tracing::warn!(error, "the webhook failed; it is told again");
        }
    }
}

impl<'a> Event<'a> {
    fn of(change: &'a StateChange) -> Self {
        let (tenant, name) = split_tenant(&change.name);
        let user = user_of(&change.name);
        Self {
            name: change.event.name(),
            user,
            channel: user.is_none().then_some(name),
            tenant,
            time_ms: change.unix_ms,
        }
    }
}

/// Half of a time to all of it, so that several servers do not come back at once.
fn jittered(time: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    time.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

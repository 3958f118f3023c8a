//! The thread for what speaks to other hosts: a tokio runtime beside the shards.
//!
//! ```text
//!   shard ──question──▶ integration thread ──▶ future of the program, callbacks of the operator
//!     ▲                        │    ├── fetches the JWK set
//!     │◀──────── answer ───────┤    └── tells the webhook
//!     └── finished spans ─▶ bounded queue ─▶ collector
//! ```

mod auth_callback;
mod backend;
mod callbacks;
mod http_client;
mod jwks;
mod otlp;
mod signature;
mod slots;
mod traces;
mod webhooks;

pub use auth_callback::AuthCallback;
pub use backend::BackendConfig;
pub use callbacks::Callback;
pub use http_client::HttpClient;
pub use jwks::JwksConfig;
pub use signature::Signer;
pub use traces::TraceConfig;
pub use webhooks::{WEBHOOK_END, Webhook, WebhookConfig};

use crate::base::trace::Spans;
use crate::shard::{Answer, Question, QuestionKey, QuestionKind};
use crossbeam_channel::{Receiver, Sender, bounded};
use futures_lite::FutureExt;
use slots::QuestionSlots;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

/// Takes an answer, or that there is none in time, to its shard.
pub type Deliver = dyn Fn(u16, QuestionKey, Option<Answer>) + Send + Sync;

/// The way to the integration thread. The thread ends when all of these are dropped.
#[derive(Clone, Debug)]
pub struct Integration {
    questions: UnboundedSender<Question>,
    flushes: UnboundedSender<traces::Flush>,
    ending: watch::Sender<bool>,
    /// Ends when the webhook was told all.
    told: Receiver<()>,
}

/// What runs on the thread.
pub struct IntegrationParts {
    /// Time for an answer.
    pub timeout: Duration,
    /// Takes the answers to the shards.
    pub deliver: Arc<Deliver>,
    /// The JWK set to fetch.
    pub jwks: Option<JwksConfig>,
    /// Where finished spans go.
    pub traces: Option<(TraceConfig, Spans)>,
    /// The webhook to tell.
    pub webhook: Option<Webhook>,
}

impl std::fmt::Debug for IntegrationParts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "IntegrationParts {{ timeout: {:?} }}",
            self.timeout
        )
    }
}

/// The thread before it is started: questions that are asked already wait.
#[derive(Debug)]
pub struct Unstarted {
    received: UnboundedReceiver<Question>,
    flushes: UnboundedReceiver<traces::Flush>,
    ending: watch::Receiver<bool>,
    told: Sender<()>,
}

/// The integration thread, not started yet.
#[must_use]
pub fn prepare() -> (Integration, Unstarted) {
    let (questions, received) = unbounded_channel();
    let (flush_sender, flushes) = unbounded_channel();
    let (ending_sender, ending) = watch::channel(false);
    let (told_sender, told) = bounded(0);
    let integration = Integration {
        questions,
        flushes: flush_sender,
        ending: ending_sender,
        told,
    };
    let unstarted = Unstarted {
        received,
        flushes,
        ending,
        told: told_sender,
    };
    (integration, unstarted)
}

/// Fetches a JWK set on this thread.
///
/// # Errors
/// Why it cannot be fetched.
pub fn fetch_now(config: JwksConfig) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let fetched = runtime.block_on(jwks::fetch(&config));
    let failed = |error| format!("cannot fetch the JWK set: {error}");
    fetched.map(|_| ()).map_err(failed)
}

impl Integration {
    /// Sends the spans that wait; returns when that is done, tried without success, or takes too long.
    pub fn flush_traces(&self, timeout: Duration) {
        let (flush, is_done) = std::sync::mpsc::channel();
        // Fails where nothing is traced.
        if self.flushes.send(flush).is_ok() {
            let _ = is_done.recv_timeout(timeout);
        }
    }

    /// Has a question answered; while too many are, it has no answer.
    pub fn ask(&self, question: Question) {
        // Fails only when the thread has ended, with the process.
        let _ = self.questions.send(question);
    }

    /// Waits until the webhook, if there is one, was told what is left, for little more than
    /// [`WEBHOOK_END`].
    pub fn end_webhook(&self) {
        self.ending.send_replace(true);
        // Nothing is ever sent: the other end is dropped when all is told.
        let _ = self.told.recv_timeout(WEBHOOK_END + Duration::from_secs(1));
    }
}

impl Unstarted {
    /// Starts the thread; returns when the JWK set has been fetched, if there is one, or cannot be
    /// fetched now.
    ///
    /// # Errors
    /// The error of the kernel when there is no thread or no event queue.
    pub fn start(self, mut parts: IntegrationParts) -> io::Result<()> {
        let traces = parts.traces.take();
        let client = traces
            .as_ref()
            .map(|(config, _)| HttpClient::for_url(&config.url));
        let client = client.transpose()?;
        let (ready, is_ready) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("integration".into())
            .spawn(move || {
                let traces = traces.zip(client);
                runtime.block_on(run(self, parts, traces, ready));
            })?;
        // Ends without a value if the thread panics.
        let _ = is_ready.blocking_recv();
        Ok(())
    }
}

async fn run(
    unstarted: Unstarted,
    parts: IntegrationParts,
    traces: Option<((TraceConfig, Spans), HttpClient)>,
    ready: oneshot::Sender<()>,
) {
    let Unstarted {
        mut received,
        flushes,
        ending,
        told,
    } = unstarted;
    if let Some(((config, spans), client)) = traces {
        tokio::spawn(traces::export(config, spans, flushes, client));
    }
    if let Some(jwks) = parts.jwks {
        jwks::fetch_first(&jwks).await;
        tokio::spawn(jwks::refresh(jwks));
    }
    match parts.webhook {
        Some(webhook) => {
            tokio::spawn(async move {
                webhook.run(ending).await;
                drop(told);
            });
        }
        None => drop(told),
    }
    let _ = ready.send(());
    let (about_tokens, for_handlers) = (QuestionSlots::default(), QuestionSlots::default());
    while let Some(question) = received.recv().await {
        let deliver = Arc::clone(&parts.deliver);
        let timeout = parts.timeout;
        let slots = match question.kind {
            QuestionKind::Token => Some(&about_tokens),
            QuestionKind::Handler => Some(&for_handlers),
            // Each session has one at most, and it is answered soon.
            QuestionKind::Node => None,
        };
        let slot = slots.map(|slots| slots.take(question.client));
        if matches!(slot, Some(None)) {
            deliver(question.shard, question.key, None);
            continue;
        }
        tokio::spawn(async move {
            // A future that panics is one without an answer.
            let future = AssertUnwindSafe(question.future).catch_unwind();
            let answer = tokio::time::timeout(timeout, future).await;
            let answer = answer.ok().and_then(Result::ok);
            drop(slot);
            deliver(question.shard, question.key, answer);
        });
    }
}

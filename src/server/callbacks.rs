//! Makes asynchronous handlers of the callbacks that are configured, and the webhook.

use crate::base::now::Clock;
use crate::base::{CallbackKind, ProcessState};
use crate::bridge::{BackendConfig, Callback, Signer, Webhook, WebhookConfig};
use crate::config::{Settings, webhook_key};
use crate::shard::Hooks;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The backends of the operator, as the settings name them.
#[derive(Debug)]
pub(super) struct Backends<'a> {
    settings: &'a Settings,
    signer: Arc<Signer>,
    clock: Clock,
}

impl<'a> Backends<'a> {
    pub(super) fn new(settings: &'a Settings, clock: Clock) -> Self {
        let secrets = settings.webhooks.webhook_secrets.iter();
        let keys: Vec<_> = secrets.filter_map(webhook_key).collect();
        Self {
            settings,
            signer: Arc::new(Signer::new(&keys)),
            clock,
        }
    }

    /// The one that is asked whose a token is.
    pub(super) fn of_tokens(&self, url: &str) -> BackendConfig {
        let tokens = &self.settings.tokens;
        BackendConfig {
            name: "authenticate",
            url: url.to_owned(),
            timeout: Duration::from_millis(tokens.auth_callback_timeout.0),
            requests_max: tokens.auth_callback_requests_max as usize,
            signer: Arc::clone(&self.signer),
            clock: self.clock,
        }
    }

    /// The longest time for an answer of any; none if there is none.
    pub(super) fn timeout_max(&self) -> Duration {
        let Settings {
            tokens, webhooks, ..
        } = self.settings;
        let of_tokens = tokens.auth_callback_url.as_ref();
        let of_tokens = of_tokens.map_or(0, |_| tokens.auth_callback_timeout.0);
        let of_others = match webhooks.has_callbacks() {
            true => webhooks.callback_timeout.0,
            false => 0,
        };
        Duration::from_millis(of_tokens.max(of_others))
    }

    /// The webhook, if there is one.
    ///
    /// # Errors
    /// When a URL is an https URL and the host has no certificates to trust.
    pub(super) fn webhook(&self, process_state: &Arc<ProcessState>) -> io::Result<Option<Webhook>> {
        let webhooks = &self.settings.webhooks;
        let webhook = webhooks.webhook_url.as_ref().map(|url| {
            let config = WebhookConfig {
                url: url.clone(),
                events: webhooks.webhook_events.clone(),
                delay: Duration::from_millis(webhooks.webhook_delay.0),
                timeout: Duration::from_millis(webhooks.webhook_timeout.0),
                retry_time: Duration::from_millis(webhooks.webhook_retry_time.0),
                signer: Arc::clone(&self.signer),
                clock: self.clock,
            };
            Webhook::new(config, Arc::clone(process_state))
        });
        webhook.transpose()
    }

    /// Has the callbacks called as handlers.
    ///
    /// # Errors
    /// When a URL is an https URL and the host has no certificates to trust.
    pub(super) fn register(
        &self,
        hooks: &mut Hooks,
        process_state: &Arc<ProcessState>,
    ) -> io::Result<()> {
        let webhooks = &self.settings.webhooks;
        let callback = |kind, name, url: &str| {
            let config = BackendConfig {
                name,
                url: url.to_owned(),
                timeout: Duration::from_millis(webhooks.callback_timeout.0),
                requests_max: webhooks.callback_requests_max as usize,
                signer: Arc::clone(&self.signer),
                clock: self.clock,
            };
            Callback::new(kind, config, Arc::clone(process_state)).map(Arc::new)
        };
        if let Some(url) = &webhooks.connect_callback_url {
            let callback = callback(CallbackKind::Connect, "connect", url)?;
            hooks.set_connect_callback(move |session| {
                let callback = Arc::clone(&callback);
                Box::pin(async move { callback.connect(session).await })
            });
        }
        if let Some(url) = &webhooks.subscribe_callback_url {
            let callback = callback(CallbackKind::Subscribe, "subscribe", url)?;
            hooks.on_subscribe_async(move |session, channel| {
                let callback = Arc::clone(&callback);
                Box::pin(async move { callback.subscribe(session, channel).await })
            });
        }
        for message in &webhooks.message_callbacks {
            let callback = callback(CallbackKind::Message, "message", &message.url)?;
            hooks.on_message_async(&message.kind, false, move |session, message| {
                let callback = Arc::clone(&callback);
                Box::pin(async move { callback.message(session, message).await })
            });
        }
        Ok(())
    }
}

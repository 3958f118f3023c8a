//! Starts the integration thread if something needs it: asynchronous handlers, callbacks, a
//! webhook, a JWK set, or traces.

use super::callbacks;
use super::error::StartError;
use crate::auth::{FetchedKeys, Verifier};
use crate::base::ProcessState;
use crate::base::trace::Spans;
use crate::bridge::{self, AuthCallback, Integration, IntegrationParts, JwksConfig, TraceConfig};
use crate::config::{Settings, TokenSettings, TraceSettings};
use crate::net::Peers;
use crate::net::wire::ShardCommand;
use crate::shard::{BoxFuture, Hooks, UnknownToken};
use crate::{auth::Identity, base::counters::TokenError, base::now::Clock};
use crossbeam_channel::Sender;
use http::{HeaderName, HeaderValue};
use std::sync::Arc;
use std::time::Duration;

/// An asynchronous check of tokens by the embedding program.
pub(super) type AsyncTokenCheck = dyn Fn(String) -> BoxFuture<Option<Identity>> + Send + Sync;

/// Connects the handlers and the verifier with the integration thread, and starts it. Without need
/// for it, there is none.
///
/// # Errors
/// [`StartError::Other`] when the thread or its HTTP client cannot be made.
pub(super) fn start(
    settings: &Settings,
    check: Option<Arc<AsyncTokenCheck>>,
    hooks: &mut Hooks,
    (verifier, spans): (Verifier, Option<Spans>),
    process_state: &Arc<ProcessState>,
    (commands, peers, clock): (Vec<Sender<ShardCommand>>, Peers, Clock),
) -> Result<(Verifier, Option<Integration>), StartError> {
    let tokens = &settings.tokens;
    let jwks = jwks_of(tokens);
    let other = |error: std::io::Error| StartError::Other(error.to_string());
    let backends = callbacks::Backends::new(settings, clock);
    let callback = tokens.auth_callback_url.as_ref().map(|url| {
        let cache = Duration::from_millis(tokens.auth_callback_cache.0);
        let revocations = Arc::clone(verifier.revocations());
        AuthCallback::new(backends.of_tokens(url), cache, revocations)
    });
    let callback = callback.transpose().map_err(other)?;
    backends.register(hooks, process_state).map_err(other)?;
    let webhook = backends.webhook(process_state).map_err(other)?;
    let asks_about_tokens = check.is_some() || callback.is_some();
    let traces = spans.and_then(|spans| Some((trace_config(&settings.traces, clock)?, spans)));
    let awaits_nodes = process_state.link.is_some();
    let is_needed = asks_about_tokens || hooks.has_async() || jwks.is_some() || awaits_nodes;
    if !is_needed && traces.is_none() && webhook.is_none() {
        return Ok((verifier, None));
    }
    let (integration, unstarted) = bridge::prepare();
    let ask = integration.clone();
    hooks.set_ask(move |question| ask.ask(question));
    let mut verifier = verifier;
    if asks_about_tokens {
        let callback = callback.map(Arc::new);
        hooks
            .on_unknown_token(move |token| Box::pin(whose(token, check.clone(), callback.clone())));
        verifier = verifier.asking_others();
    }
    if let Some(jwks) = &jwks {
        verifier = verifier.with_fetched_keys(Arc::clone(&jwks.keys));
    }
    let handler_timeout = Duration::from_millis(settings.process.handler_timeout.0);
    let parts = IntegrationParts {
        // Callbacks have time limits of their own, and the program's handlers come before them.
        timeout: handler_timeout + backends.timeout_max(),
        deliver: Arc::new(move |shard, key, answer| {
            let call = ShardCommand::Call(Box::new(move |shard, now| {
                shard.answer(key, answer, now);
            }));
            if let Some(commands) = commands.get(usize::from(shard)) {
                // Fails only when the shard has stopped.
                let _ = commands.send(call);
                peers.wake(u32::from(shard), clock.now());
            }
        }),
        jwks,
        traces,
        webhook,
    };
    unstarted.start(parts).map_err(other)?;
    Ok((verifier, Some(integration)))
}

/// The verifier with the keys of the JWK set as it is now, if there is one.
///
/// # Errors
/// [`StartError::Other`] when the set cannot be fetched.
pub(super) fn with_keys_fetched_now(
    settings: &TokenSettings,
    verifier: Verifier,
) -> Result<Verifier, StartError> {
    let Some(jwks) = jwks_of(settings) else {
        return Ok(verifier);
    };
    let keys = Arc::clone(&jwks.keys);
    bridge::fetch_now(jwks).map_err(StartError::Other)?;
    Ok(verifier.with_fetched_keys(keys))
}

fn trace_config(settings: &TraceSettings, clock: Clock) -> Option<TraceConfig> {
    let headers = settings.otlp_headers.iter();
    let headers = headers.filter_map(|header| {
        // Both are checked where they are read.
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        let mut value = HeaderValue::from_str(&header.value.0).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    });
    Some(TraceConfig {
        url: settings.traces_url()?,
        headers: headers.collect(),
        service_name: settings.otlp_service_name.clone(),
        clock,
    })
}

fn jwks_of(settings: &TokenSettings) -> Option<JwksConfig> {
    let url = settings.jwks_url.clone()?;
    Some(JwksConfig {
        url,
        interval: Duration::from_millis(settings.jwks_refresh_interval.0),
        algorithms: settings.jwt_algorithms.clone(),
        keys: Arc::<FetchedKeys>::default(),
    })
}

/// Asks the program, then the callback.
async fn whose(
    token: UnknownToken,
    check: Option<Arc<AsyncTokenCheck>>,
    callback: Option<Arc<AuthCallback>>,
) -> Result<Identity, TokenError> {
    if let Some(check) = check
        && let Some(identity) = check(token.token.clone()).await
    {
        let is_valid = identity.is_valid();
        return is_valid.then_some(identity).ok_or(TokenError::Name);
    }
    match callback {
        Some(callback) => callback.ask(token).await,
        None => Err(TokenError::Callback),
    }
}

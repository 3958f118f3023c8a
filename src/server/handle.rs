//! A running server: its handle, and shutdown.

use super::boot::Running;
use super::builder::Builder;
use super::run::{StopOutcome, drain, run_until_signal};
use super::shard_thread::is_shard;
use super::signals::SignalWatch;
use crate::auth::{Grant, TokenAlgorithm, issue};
use crate::base::DialectId;
use crate::broker::TenantScope;
use crate::config::Settings;
use crossbeam_channel::{Receiver, never};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long the token of `dev_token` is valid, seconds.
const DEV_TOKEN_TTL_S: u64 = 86_400;

/// A running server. All clones refer to the same server; it runs until [`Server::stop`], even when
/// all clones are dropped.
///
/// No method waits, but those whose names say so: what takes time is a future, for whatever executor;
/// [`block_on`](crate::block_on) waits for it where there is none. Futures that ask or change sessions
/// wait for shards that are stalled.
///
/// Handlers may hold a clone and publish with it. Those that run on a shard cannot wait for shards: there,
/// futures about sessions panic when they are polled, which causes an error for that handler's message
/// only. Asynchronous handlers may wait.
///
/// ```no_run
/// let server = fanwire::Server::builder().dev().start()?;
/// server.broadcast("news", "headline", &serde_json::json!({"text": "hello"}))?;
/// server.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Server {
    pub(super) running: Arc<Running>,
    pub(super) settings: Arc<Settings>,
    outcome: Arc<Mutex<Option<StopOutcome>>>,
    scope: Scope,
}

/// For which tenants a handle publishes, and whose sessions it finds.
#[derive(Clone, Debug)]
enum Scope {
    Without,
    Of(Arc<str>),
    All,
}

/// # Panics
/// On the thread of a shard, which would wait for itself.
pub(super) fn assert_not_shard() {
    assert!(
        !is_shard(),
        "handlers that run on a shard cannot wait for shards: use an asynchronous handler"
    );
}

impl Server {
    pub(super) fn new(running: Running, settings: Settings) -> Self {
        Self {
            running: Arc::new(running),
            settings: Arc::new(settings),
            outcome: Arc::default(),
            scope: Scope::Without,
        }
    }

    /// A server to be configured.
    ///
    /// ```
    /// let builder = fanwire::Server::builder();
    /// # drop(builder);
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The addresses on which it listens for clients, in the order of the listeners.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// println!("listening on {}", server.addresses()[0]);
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.running.addresses
    }

    /// The address of the admin listener, if there is one (setting `admin_listen`).
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().dev().set("admin_listen", "127.0.0.1:0").start()?;
    /// println!("http://{}/docs", server.admin_address().unwrap());
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.running.admin_address
    }

    /// The URL of each dialect on each listener.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// for (url, dialect) in server.endpoints() {
    ///     println!("{url} ({})", dialect.name());
    /// }
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn endpoints(&self) -> Vec<(String, DialectId)> {
        let listeners = self.settings.listeners.iter().zip(self.addresses());
        let endpoints = listeners.flat_map(|(listener, address)| {
            let paths = listener.routes.endpoints().into_iter();
            let scheme = if self.settings.tls.is_on_for(listener) {
                "wss"
            } else {
                "ws"
            };
            paths.map(move |(path, dialect)| (format!("{scheme}://{address}{path}"), dialect))
        });
        endpoints.collect()
    }

    /// The core of each shard.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// println!("{} shards", server.shard_cores().len());
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn shard_cores(&self) -> &[usize] {
        &self.running.cores
    }

    /// Connections that each shard can hold.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// println!("{} connections in each shard", server.connections_per_shard());
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn connections_per_shard(&self) -> u32 {
        self.running.connections_per_shard
    }

    /// In development mode, a token for the user `dev` with the permission `publish`, valid for a
    /// day.
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().dev().start()?;
    /// println!("token {}", server.dev_token().unwrap_or_default());
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn dev_token(&self) -> Option<String> {
        let tokens = &self.settings.tokens;
        let algorithms = &tokens.jwt_algorithms;
        let is_accepted = algorithms.is_empty() || algorithms.contains(&TokenAlgorithm::Hs256);
        let is_shown = self.settings.process.dev && is_accepted;
        let secret = tokens.jwt_secret.as_ref().filter(|_| is_shown)?;
        let grant = Grant::new("dev").with_permission("publish");
        let now = self.running.context().clock.now();
        issue(&grant, secret.0.as_bytes(), DEV_TOKEN_TTL_S, now).ok()
    }

    /// The same server, for a tenant: what is published with this handle is for the tenant's
    /// sessions, and `connection_info`, `disconnect` and `send` find no others. Handles without a
    /// tenant publish for the sessions without one, and those of dialects that do not isolate tenants
    /// (`tenant_isolation`).
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let acme = server.in_tenant("acme");
    /// acme.broadcast("news", "headline", &serde_json::json!({"text": "for acme"}))?;
    /// acme.broadcast_to_user("ann", "mail", &serde_json::json!({"unread": 3}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn in_tenant(&self, tenant: &str) -> Self {
        Self {
            scope: Scope::Of(tenant.into()),
            ..self.clone()
        }
    }

    /// The same server, for all sessions of whatever tenant. Only what the server subscribes sessions
    /// to reaches them all: users, roles, permissions, tenants, and broadcasts to all sessions or
    /// those of a dialect. Other channels belong to one tenant each, and are errors.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.in_all_tenants().notify("notification", "Maintenance tonight", &())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn in_all_tenants(&self) -> Self {
        Self {
            scope: Scope::All,
            ..self.clone()
        }
    }

    pub(super) fn tenant_scope(&self) -> TenantScope<'_> {
        match &self.scope {
            Scope::Without => TenantScope::Without,
            Scope::Of(tenant) => TenantScope::Of(tenant),
            Scope::All => TenantScope::All,
        }
    }

    /// The tenant of this handle, if it has one.
    pub(super) fn tenant(&self) -> Option<&str> {
        match &self.scope {
            Scope::Of(tenant) => Some(tenant),
            Scope::Without | Scope::All => None,
        }
    }

    /// Closes all sessions with 1001; ready when the last one has ended, or after
    /// `drain_close_timeout`. Further calls return the same outcome, and
    /// [`run_until_signal`](Self::run_until_signal) returns too. Publishing is an error from then on.
    /// Dropped after it was polled, the future stops the server all the same.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// use fanwire::{Server, StopOutcome, block_on};
    ///
    /// let server = Server::builder().dev().start()?;
    /// assert_eq!(block_on(server.stop()), StopOutcome::Drained);
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub async fn stop(&self) -> StopOutcome {
        assert_not_shard();
        let (sender, ended) = oneshot::channel();
        let server = self.clone();
        let stop = move || {
            // Fails when one was sent before.
            let _ = server.running.stops.0.try_send(());
            let timeout = server.settings.process.drain_close_timeout;
            let end = || drain(&server.running, Duration::ZERO, timeout, &never());
            // Fails when nobody waits for it any more.
            let _ = sender.send(server.end(end));
        };
        let thread = std::thread::Builder::new().name("stop".into()).spawn(stop);
        let outcome = match thread {
            Ok(_) => ended.await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        outcome.unwrap_or_else(StopOutcome::Failed)
    }

    /// Runs until SIGTERM or SIGINT, then drains as the settings specify; a second signal ends the
    /// drain at once. SIGHUP and SIGUSR1 reopen the log files. For signals that arrive during the start, see
    /// [`SignalWatch::begin`].
    ///
    /// # Errors
    /// When signals cannot be watched.
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().from_env().start()?;
    /// server.run_until_signal()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_until_signal(&self) -> io::Result<StopOutcome> {
        Ok(SignalWatch::begin()?.run(self))
    }

    pub(super) fn run_until(&self, signals: &Receiver<i32>) -> StopOutcome {
        self.end(|| run_until_signal(&self.running, &self.settings.process, signals))
    }

    fn end(&self, end: impl FnOnce() -> StopOutcome) -> StopOutcome {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = &*outcome {
            return outcome.clone();
        }
        let ended = outcome.insert(end());
        tracing::info!(target: "fanwire::server", outcome = ?ended, "stopped");
        self.running.leave_nodes();
        self.running.context().publisher.stop();
        self.running.close_store(ended);
        self.running.end_webhook(ended);
        self.running.flush_traces();
        ended.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WhileStalled;
    use crate::config::ShardCount;
    use crate::shard::Shard;
    use futures_lite::future::block_on;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn status_line_of_health(address: SocketAddr) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    }

    #[test]
    fn a_program_that_stops_the_server_ends_the_wait_for_a_signal() {
        let builder = Server::builder().dev().listen(([127, 0, 0, 1], 0).into());
        let server = builder.shards(ShardCount::Fixed(1)).start().unwrap();
        let waiting = server.clone();
        let waiting = std::thread::spawn(move || waiting.run_until(&never()));
        let outcome = block_on(server.stop());
        assert_eq!(waiting.join().unwrap(), outcome);
        assert_eq!(outcome, StopOutcome::Drained);
    }

    #[test]
    fn a_shard_that_panics_is_named_and_the_server_is_not_healthy() {
        let builder = Server::builder()
            .dev()
            .listen(([127, 0, 0, 1], 0).into())
            .shards(ShardCount::Fixed(2));
        let server = builder.start().unwrap();
        let address = server.addresses()[0];
        assert_eq!(server.health()["status"], "healthy");
        assert!(block_on(server.stats()).running);
        let shards = &server.running.context().shards;
        let panicking = |_: &mut Shard, _| -> () { panic!("a shard of a test panics") };
        let answer = block_on(shards.call(1, WhileStalled::Wait, panicking));
        assert_eq!(answer, None);
        // The answer is lost before the shard has reported its end.
        while server.health()["status"] == "healthy" {
            std::thread::yield_now();
        }
        let health = server.health();
        assert_eq!(health["status"], "unhealthy");
        assert_eq!(health["components"]["shards"]["failed"][0], 1);
        assert!(!block_on(server.stats()).running);
        // The kernel resets what it accepts for the shard until it has ended the shard's ring.
        let mut answers = (0..10_000).map(|_| status_line_of_health(address));
        let answer = answers.find_map(Result::ok);
        assert_eq!(answer.as_deref(), Some("HTTP/1.1 503 Service Unavailable"));
        assert_eq!(
            block_on(server.stop()),
            StopOutcome::Failed("shard 1 failed: the shard panicked".into())
        );
    }
}

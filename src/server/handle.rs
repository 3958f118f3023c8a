//! A running server: publishing, queries about sessions, shutdown.

use super::boot::Running;
use super::builder::Builder;
use super::questions::is_shard;
use super::run::{StopOutcome, drain, run_until_signal};
use super::signals::SignalWatch;
use crate::api::{ConnectionInfo, Stats, TenantStats};
use crate::auth::{Grant, TokenAlgorithm, issue};
use crate::base::channel_names::{
    name_for_clients, permission_channel, role_channel, tenant_channel, user_channel,
};
use crate::base::{DialectId, Now, ShardCounters};
use crate::broker::{
    BroadcastTarget, Publication, RateLimitStatus, RateUse, SessionId, TenantScope,
};
use crate::config::Settings;
use crate::dialect::monitoring;
use crate::shard::{PublishError, Shard};
use crossbeam_channel::{Receiver, never};
use serde::Serialize;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a publication waits for space in the ring before the call returns an error,
/// milliseconds.
const SPACE_TIMEOUT_MS: u64 = 5_000;
/// How long the token of `dev_token` is valid, seconds.
const DEV_TOKEN_TTL_S: u64 = 86_400;

/// A running server. All clones refer to the same server; it runs until [`Server::stop`], even when
/// all clones are dropped.
///
/// Handlers may hold a clone, publish with it and ask with it (`stats`, `connection_info`): the
/// sessions of the handler's shard wait as long as it does. Methods that change something on a shard
/// (`disconnect`, `send`, `stop`) must be called on another thread: on a shard they would wait for
/// themselves, so they panic, which causes an error for that handler's message only.
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
    settings: Arc<Settings>,
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
            paths.map(move |(path, dialect)| (format!("ws://{address}{path}"), dialect))
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

    /// Publishes to all subscribers of a channel.
    ///
    /// # Errors
    /// [`PublishError`], in which case nothing was published. Waits up to five seconds for space in
    /// the ring.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast("news", "headline", &serde_json::json!({"text": "hello"}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast(
        &self,
        channel: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast_to(channel, BroadcastTarget::All, kind, data)
    }

    /// Publishes to those subscribers of a channel that match the target.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// use fanwire::BroadcastTarget;
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_to("news", BroadcastTarget::Role("editor"), "draft", &"new draft")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_to(
        &self,
        channel: &str,
        target: BroadcastTarget<'_>,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        let data = serde_json::to_string(data).map_err(PublishError::Data)?;
        self.publish(&Publication {
            target,
            ..Publication::new(channel, kind, &data)
        })
    }

    /// Publishes to all sessions of a user.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_to_user("ann", "mail", &serde_json::json!({"unread": 3}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_to_user(
        &self,
        user: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast(&user_channel(user), kind, data)
    }

    /// Publishes to all sessions of a tenant.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_to_tenant("acme", "maintenance", &"tonight")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_to_tenant(
        &self,
        tenant: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast(&tenant_channel(tenant), kind, data)
    }

    /// Publishes to all sessions whose token has a role.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_to_role("admin", "alert", &serde_json::json!({"level": 3}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_to_role(
        &self,
        role: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast(&role_channel(role), kind, data)
    }

    /// Publishes to all sessions whose token has a permission.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_to_permission("billing", "invoice", &serde_json::json!({"id": 7}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_to_permission(
        &self,
        permission: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast(&permission_channel(permission), kind, data)
    }

    /// Publishes, and waits for space in the ring if there is none.
    pub(super) fn publish(&self, publication: &Publication<'_>) -> Result<(), PublishError> {
        let publication = &publication.in_scope(match &self.scope {
            Scope::Without => TenantScope::Without,
            Scope::Of(tenant) => TenantScope::Of(tenant),
            Scope::All => TenantScope::All,
        });
        let context = self.running.context();
        let began = context.clock.now().monotonic_ms;
        loop {
            let now = context.clock.now();
            match context.publisher.publish(publication, now) {
                // A shard that waits does not read, and so would keep the ring full.
                Err(PublishError::RingFull)
                    if !is_shard() && now.monotonic_ms < began + SPACE_TIMEOUT_MS =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                result => return result,
            }
        }
    }

    /// Sends a message to one session; false when there is none with this id.
    ///
    /// # Errors
    /// [`PublishError::Data`] when `data` cannot be written as JSON.
    ///
    /// # Panics
    /// In a handler.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// # let id: fanwire::SessionId = "0000000000000000".parse().unwrap();
    /// let was_sent = server.send(id, "report", &serde_json::json!({"ready": true}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send(
        &self,
        id: SessionId,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<bool, PublishError> {
        let data = serde_json::to_string(data).map_err(PublishError::Data)?;
        let kind = kind.to_owned();
        let Some(id) = self.in_scope(id) else {
            return Ok(false);
        };
        let is_there = self.running.call_shard(id.shard, move |shard, now| {
            let is_there = shard.describe(id.connection, now).is_some();
            shard.send_message(id.connection, &kind, &data, now);
            is_there
        });
        Ok(is_there.unwrap_or(false))
    }

    /// Statistics of the whole server. In a handler, channels of a shard that is held up for more
    /// than a second are not counted.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// println!("{} sessions", server.stats().active_connections);
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        let names = self.running.ask_shards(|broker, _| {
            let names = broker.channel_names("").map(str::to_owned);
            names.collect::<Vec<_>>()
        });
        let names: HashSet<_> = names.into_iter().flatten().collect();
        let properties = names
            .iter()
            .filter(|name| monitoring::property_of(name_for_clients(name)).is_some());
        let context = self.running.context();
        let counters = &context.counters;
        let sum = |pick: fn(&ShardCounters) -> u64| counters.iter().map(|shard| pick(shard)).sum();
        Stats {
            running: context.is_serving(),
            active_connections: context.process_state.sessions_total(),
            authenticated_connections: sum(|shard| shard.authenticated_sessions.value()),
            total_connections: context.process_state.sessions_opened(),
            total_subscriptions: sum(|shard| shard.subscriptions.value()),
            unique_channels: names.len() as u64,
            unique_properties: properties.count() as u64,
            messages_received: sum(|shard| shard.messages_received.value()),
            messages_sent: sum(|shard| shard.deliveries.value()),
        }
    }

    /// Counts of one tenant's sessions, in all dialects. In a handler, sessions of a shard that is held
    /// up for more than a second are not counted.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// println!("{} sessions of acme", server.tenant_stats("acme").active_connections);
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn tenant_stats(&self, tenant: &str) -> TenantStats {
        let tenant = tenant.to_owned();
        let answers = self.running.ask_shards(move |broker, now| {
            let mut stats = TenantStats::default();
            let mut names = HashSet::new();
            for view in broker.sessions_of(&tenant, now) {
                stats.active_connections += 1;
                stats.authenticated_connections += u64::from(view.identity.is_some());
                stats.total_subscriptions += view.channels.len() as u64;
                names.extend(view.channels.into_iter().map(str::to_owned));
            }
            (stats, names)
        });
        let mut total = TenantStats::default();
        let mut all_names = HashSet::new();
        for (stats, names) in answers {
            total.active_connections += stats.active_connections;
            total.authenticated_connections += stats.authenticated_connections;
            total.total_subscriptions += stats.total_subscriptions;
            all_names.extend(names);
        }
        total.unique_channels = all_names.len() as u64;
        total
    }

    /// Sessions of one dialect.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let count = server.session_count(fanwire::DialectId::Gateway);
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn session_count(&self, dialect: DialectId) -> u64 {
        self.running.context().process_state.sessions(dialect)
    }

    /// All metrics in the Prometheus text format.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// println!("{}", server.prometheus_metrics());
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn prometheus_metrics(&self) -> String {
        let text = self.running.context().metrics.text();
        text.unwrap_or_default()
    }

    /// The health of the server and its components, as in the answer to `GET /health`.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// assert_eq!(server.health()["status"], "healthy");
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn health(&self) -> serde_json::Value {
        self.running.context().health()
    }

    /// A session by its id, or by the connection id of the monitoring dialect. In a handler, `None`
    /// also when its shard is held up for more than a second.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// if let Some(info) = server.connection_info("127.0.0.1:50000:1700000000.000") {
    ///     println!("{:?} is in {:?}", info.user_id, info.channels);
    /// }
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn connection_info(&self, id: &str) -> Option<ConnectionInfo> {
        let id = self.find(id)?;
        let info = self.running.ask_shard(id.shard, move |broker, now| {
            let rate = broker.rate_limit_status(id.connection, now)?;
            let view = broker.view(id.connection, now)?;
            Some(ConnectionInfo::new(&view, rate))
        });
        info.flatten()
    }

    /// What a session has used of its rate limits; the session is named as for
    /// [`Server::connection_info`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// if let Some(status) = server.rate_limit_status("0000000000000000") {
    ///     println!("{:?}", status.user.or(status.session));
    /// }
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn rate_limit_status(&self, id: &str) -> Option<RateLimitStatus> {
        let id = self.find(id)?;
        let status = self.running.ask_shard(id.shard, move |broker, now| {
            broker.rate_limit_status(id.connection, now)
        });
        status.flatten()
    }

    /// What a user has used of its rate limit, in all its sessions of a dialect; `None` where users
    /// have no limit. Where tenants are isolated, users of the same name in two tenants are two.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let rate = server.user_rate_limit_status(fanwire::DialectId::Gateway, None, "ann");
    /// assert!(rate.is_none(), "there is no rate limit in development mode");
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn user_rate_limit_status(
        &self,
        dialect: DialectId,
        tenant: Option<&str>,
        user: &str,
    ) -> Option<RateUse> {
        let policy = &self.settings.dialects[dialect.index()];
        let limit = policy.rate_limit_of_user();
        let tenant = tenant.filter(|_| policy.tenant_isolation);
        let now = self.running.context().clock.now();
        let quotas = self.running.quotas();
        let used = quotas.used_by_user(dialect, (tenant, user), limit, now);
        RateUse::of(used, limit)
    }

    /// Closes a session (1000); false when there is none with this id.
    ///
    /// # Panics
    /// In a handler.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let was_there = server.disconnect("127.0.0.1:50000:1700000000.000");
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn disconnect(&self, id: &str) -> bool {
        let closed = self.find(id).and_then(|id| {
            let close = move |shard: &mut Shard, now: Now| shard.disconnect(id.connection, now);
            self.running.call_shard(id.shard, close)
        });
        closed.unwrap_or(false)
    }

    /// The session with this id, or with this connection id of the monitoring dialect.
    pub(super) fn find(&self, id: &str) -> Option<SessionId> {
        if let Ok(id) = id.parse() {
            return self.in_scope(id);
        }
        let wanted = id.to_owned();
        let found = self.running.ask_shards(move |broker, now| {
            let mut sessions = broker.sessions();
            let connection = sessions.find(|connection| {
                let view = broker.view(*connection, now);
                view.is_some_and(|view| monitoring::connection_id(&view) == wanted)
            })?;
            Some(broker.session_id(connection))
        });
        let found = found.into_iter().flatten().next();
        found.and_then(|id| self.in_scope(id))
    }

    /// The tenant of this handle, if it has one.
    pub(super) fn tenant(&self) -> Option<&str> {
        match &self.scope {
            Scope::Of(tenant) => Some(tenant),
            Scope::Without | Scope::All => None,
        }
    }

    /// The session, unless this is the handle of another tenant.
    fn in_scope(&self, id: SessionId) -> Option<SessionId> {
        let Scope::Of(tenant) = &self.scope else {
            return Some(id);
        };
        let tenant = Arc::clone(tenant);
        let is_its = self.running.ask_shard(id.shard, move |broker, now| {
            let view = broker.view(id.connection, now);
            view.is_some_and(|view| view.tenant == Some(&tenant))
        });
        is_its.filter(|is_its| *is_its).map(|_| id)
    }

    /// Closes all sessions with 1001 and returns when the last one has ended, or after
    /// `drain_close_timeout`. Further calls return the same outcome. Publishing is an error from
    /// then on.
    ///
    /// # Panics
    /// In a handler.
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().dev().start()?;
    /// assert_eq!(server.stop(), fanwire::StopOutcome::Drained);
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn stop(&self) -> StopOutcome {
        assert!(!is_shard(), "a handler cannot wait for its shard to stop");
        let timeout = self.settings.process.drain_close_timeout;
        self.end(|| drain(&self.running, Duration::ZERO, timeout, &never()))
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
        self.running.context().publisher.stop();
        self.running.close_store(ended);
        ended.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ShardCount;
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
    fn a_shard_that_panics_is_named_and_the_server_is_not_healthy() {
        let builder = Server::builder()
            .dev()
            .listen(([127, 0, 0, 1], 0).into())
            .shards(ShardCount::Fixed(2));
        let server = builder.start().unwrap();
        let address = server.addresses()[0];
        assert_eq!(server.health()["status"], "healthy");
        assert!(server.stats().running);
        let answer = server
            .running
            .call_shard::<()>(1, |_, _| panic!("a shard of a test panics"));
        assert_eq!(answer, None);
        // The answer is lost before the shard has reported its end.
        while server.health()["status"] == "healthy" {
            std::thread::yield_now();
        }
        let health = server.health();
        assert_eq!(health["status"], "unhealthy");
        assert_eq!(health["components"]["shards"]["failed"][0], 1);
        assert!(!server.stats().running);
        // The kernel resets what it accepts for the shard until it has ended the shard's ring.
        let mut answers = (0..10_000).map(|_| status_line_of_health(address));
        let answer = answers.find_map(Result::ok);
        assert_eq!(answer.as_deref(), Some("HTTP/1.1 503 Service Unavailable"));
        assert_eq!(
            server.stop(),
            StopOutcome::Failed("shard 1 failed: the shard panicked".into())
        );
    }
}

//! The server as a Rust program holds it: built, started, asked, told, stopped.

use super::boot::{BootError, ProgramHooks, Running, start};
use super::run::{Ended, drain, run_until_signal, watch_signals};
use super::shard_thread::is_shard;
use crate::auth::Identity;
use crate::base::{DialectId, Now};
use crate::broker::server_subscriptions::{
    permission_channel, role_channel, tenant_channel, user_channel,
};
use crate::broker::{BroadcastTarget, Publication, Retain, SessionId, SessionView};
use crate::config::{Flags, Secret, Settings, SettingsError, ShardCount};
use crate::shard::{Denied, Message, PublishError, Session, Shard};
use crossbeam_channel::never;
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a publication waits for room in the ring before the caller is told, milliseconds.
const ROOM_TIMEOUT_MS: u64 = 5_000;

/// A server that is not yet running.
#[derive(Debug, Default)]
pub struct Builder {
    flags: Flags,
    file: Option<PathBuf>,
    program: ProgramHooks,
}

/// Why a server did not start.
#[derive(Debug)]
pub enum StartError {
    /// The settings say something that cannot be.
    Settings(SettingsError),
    /// The host does not carry the server.
    Boot(BootError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Settings(error) => write!(formatter, "{error}"),
            Self::Boot(error) => write!(formatter, "{error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl Builder {
    /// Settings as flags of the command line give them; they go over `FANWIRE_*` variables and the
    /// file.
    #[must_use]
    pub fn flags(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    /// A configuration file (TOML).
    #[must_use]
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Opens the doors for development: loopback, no authentication, no limits.
    #[must_use]
    pub fn dev(mut self) -> Self {
        self.flags.dev = true;
        self
    }

    /// Speaks one dialect at its document's port and path, with its defaults and limits.
    #[must_use]
    pub fn profile(mut self, dialect: DialectId) -> Self {
        self.flags.profile = Some(dialect.name().into());
        self
    }

    /// Where to listen.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.flags.listen = Some(address);
        self
    }

    /// How many shards, each on a core of its own.
    #[must_use]
    pub fn shards(mut self, count: ShardCount) -> Self {
        self.flags.shards = Some(count);
        self
    }

    /// The secret of tokens, 32 bytes or more.
    #[must_use]
    pub fn jwt_secret(mut self, secret: impl Into<String>) -> Self {
        self.flags.jwt_secret = Some(Secret(secret.into()));
        self
    }

    /// Asks `check` whom a token proves, before the secret and the list of the settings; `None`
    /// leaves it to them. It runs on the session's shard and must answer at once.
    #[must_use]
    pub fn authenticate(
        mut self,
        check: impl Fn(&str) -> Option<Identity> + Send + Sync + 'static,
    ) -> Self {
        self.program.token_check = Some(Arc::new(check));
        self.flags.has_token_check = true;
        self
    }

    /// Calls `handler` on the session's shard for messages of type `kind` that its dialect does not
    /// have; sessions that have yet to authenticate are rejected.
    #[must_use]
    pub fn on_message(
        mut self,
        kind: &str,
        handler: impl Fn(&mut Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static,
    ) -> Self {
        self.program.hooks.on_message(kind, false, handler);
        self
    }

    /// The same also for sessions that have yet to authenticate: so a program checks credentials of
    /// its own, and calls [`Session::identify`].
    #[must_use]
    pub fn on_message_before_authentication(
        mut self,
        kind: &str,
        handler: impl Fn(&mut Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static,
    ) -> Self {
        self.program.hooks.on_message(kind, true, handler);
        self
    }

    /// Calls `handler` when a session has begun; a rejection closes it (1008).
    #[must_use]
    pub fn on_connect(
        mut self,
        handler: impl Fn(&mut Session<'_>) -> Result<(), Denied> + Send + Sync + 'static,
    ) -> Self {
        self.program.hooks.on_connect(handler);
        self
    }

    /// Calls `handler` when a session has ended.
    #[must_use]
    pub fn on_disconnect(mut self, handler: impl Fn(&Session<'_>) + Send + Sync + 'static) -> Self {
        self.program.hooks.on_disconnect(handler);
        self
    }

    /// Shows every message to `middleware` before anything is done about it; a rejection is told to
    /// the client, and the message dropped.
    #[must_use]
    pub fn middleware(
        mut self,
        middleware: impl Fn(&Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static,
    ) -> Self {
        self.program.hooks.middleware(middleware);
        self
    }

    /// Starts the server and returns when all shards accept connections.
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    pub fn start(self) -> Result<Server, StartError> {
        let settings = Settings::load(&self.flags, self.file.as_deref());
        let settings = settings.map_err(StartError::Settings)?;
        let secret = settings
            .jwt_secret
            .as_ref()
            .map(|secret| secret.0.as_bytes());
        let running = start(&settings, secret, self.program).map_err(StartError::Boot)?;
        Ok(Server {
            running: Arc::new(running),
            settings: Arc::new(settings),
        })
    }
}

/// A running server. Clones are the same server; it runs until [`Server::stop`], even when all
/// clones are gone.
///
/// Handlers may hold a clone and publish with it. What asks shards (`stats`, `connection_info`,
/// `disconnect`, `send`, `stop`) belongs on another thread: on a shard it would wait for itself, and
/// panics, which is an error of that handler's message alone.
#[derive(Clone, Debug)]
pub struct Server {
    running: Arc<Running>,
    settings: Arc<Settings>,
}

/// What there is to know of a session.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConnectionInfo {
    /// Its id, unique in the process.
    pub id: String,
    /// The id that clients of the monitoring dialect know: `ip:port:unix_ts`.
    pub connection_id: String,
    /// The dialect's name.
    pub dialect: &'static str,
    /// The user, if it has authenticated.
    pub user_id: Option<String>,
    /// The tenant.
    pub tenant_id: Option<String>,
    /// Roles.
    pub roles: Vec<String>,
    /// The channels it subscribed to, oldest first.
    pub channels: Vec<String>,
    /// When it began, seconds since 1970-01-01 UTC.
    pub connected_at: f64,
    /// How long it has lasted, seconds.
    pub uptime: f64,
    /// Messages counted against its rate limit at the moment.
    pub rate_used: u32,
    /// Messages that the limit allows in its window, or at once; `None` = any number.
    pub rate_max: Option<u32>,
}

/// Numbers of the whole server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Whether it takes new sessions.
    pub running: bool,
    /// Sessions.
    pub active_connections: u64,
    /// Of them, those that have authenticated.
    pub authenticated_connections: u64,
    /// Sessions that ever were.
    pub total_connections: u64,
    /// Subscriptions that clients asked for.
    pub total_subscriptions: u64,
    /// Channels that have such subscriptions.
    pub unique_channels: u64,
    /// Of them, properties of the monitoring dialect.
    pub unique_properties: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Publications delivered.
    pub messages_sent: u64,
}

impl Server {
    /// A server to be built.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.running.addresses
    }

    /// Publishes to all subscribers of a channel.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was published then. Waits up to five seconds for room in the ring.
    pub fn broadcast(
        &self,
        channel: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast_to(channel, BroadcastTarget::All, kind, data)
    }

    /// Publishes to the subscribers of a channel that `target` means.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    pub fn broadcast_to(
        &self,
        channel: &str,
        target: BroadcastTarget<'_>,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        let data = serde_json::to_string(data).map_err(|_| PublishError::Invalid)?;
        self.publish(&Publication {
            target,
            ..Publication::new(channel, kind, &data)
        })
    }

    /// Publishes to all sessions of a user.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
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
    pub fn broadcast_to_tenant(
        &self,
        tenant: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast(&tenant_channel(tenant), kind, data)
    }

    /// Publishes to all sessions whose token names a role.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    pub fn broadcast_to_role(
        &self,
        role: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast(&role_channel(role), kind, data)
    }

    /// Publishes to all sessions whose token grants a permission.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    pub fn broadcast_to_permission(
        &self,
        permission: &str,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast(&permission_channel(permission), kind, data)
    }

    /// Publishes, and waits for room if there is none.
    pub(super) fn publish(&self, publication: &Publication<'_>) -> Result<(), PublishError> {
        let context = self.running.context();
        let began = context.clock.now().monotonic_ms;
        loop {
            let now = context.clock.now();
            match context.publisher.publish(publication, now) {
                // A shard that waited would keep the ring full itself.
                Err(PublishError::Full)
                    if !is_shard() && now.monotonic_ms < began + ROOM_TIMEOUT_MS =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                result => return result,
            }
        }
    }

    pub(super) fn publish_retained(
        &self,
        channel: &str,
        kind: &str,
        data: &str,
        retain: Retain<'_>,
    ) -> Result<(), PublishError> {
        self.publish(&Publication {
            retain,
            ..Publication::new(channel, kind, data)
        })
    }

    /// Sends a message to one session; false when there is none.
    ///
    /// # Errors
    /// [`PublishError::Invalid`] when `data` cannot be written as JSON.
    pub fn send(
        &self,
        id: SessionId,
        kind: &str,
        data: &impl Serialize,
    ) -> Result<bool, PublishError> {
        let data = serde_json::to_string(data).map_err(|_| PublishError::Invalid)?;
        let kind = kind.to_owned();
        let is_there = self.running.ask_shard(id.shard, move |shard, now| {
            let is_there = shard.describe(id.connection, now).is_some();
            shard.send_message(id.connection, &kind, &data, now);
            is_there
        });
        Ok(is_there.unwrap_or(false))
    }

    /// Numbers of the whole server.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let names = self.running.ask_shards(|shard, _| {
            let names = shard.channels("").map(str::to_owned);
            names.collect::<Vec<_>>()
        });
        let names: std::collections::HashSet<_> = names.into_iter().flatten().collect();
        let properties = names.iter().filter(|name| name.starts_with("prop:"));
        let context = self.running.context();
        let counters = &context.counters;
        let sum = |pick: fn(&crate::base::ShardCounters) -> u64| {
            counters.iter().map(|shard| pick(shard)).sum()
        };
        Stats {
            running: !context
                .is_draining
                .load(std::sync::atomic::Ordering::Relaxed),
            active_connections: context.process_counts.sessions_total(),
            authenticated_connections: sum(|shard| shard.authenticated.value()),
            total_connections: context.process_counts.sessions_opened(),
            total_subscriptions: sum(|shard| shard.subscriptions.value()),
            unique_channels: names.len() as u64,
            unique_properties: properties.count() as u64,
            messages_received: sum(|shard| shard.messages_received.value()),
            messages_sent: sum(|shard| shard.deliveries.value()),
        }
    }

    /// Sessions of one dialect.
    #[must_use]
    pub fn session_count(&self, dialect: DialectId) -> u64 {
        self.running.context().process_counts.sessions(dialect)
    }

    /// All metrics in the Prometheus text format.
    #[must_use]
    pub fn prometheus_metrics(&self) -> String {
        let text = self.running.context().metrics.text();
        text.unwrap_or_default()
    }

    /// The server's health: of itself, its sessions, and what joins it to other nodes.
    #[must_use]
    pub fn health(&self) -> serde_json::Value {
        self.running.context().health()
    }

    /// What there is to know of a session, by its id or by the one that monitoring clients know.
    #[must_use]
    pub fn connection_info(&self, id: &str) -> Option<ConnectionInfo> {
        self.find(id, |shard, connection, now| {
            let (rate_used, rate_max) = shard.rate_status(connection, now)?;
            shard.describe(connection, now).map(|view| ConnectionInfo {
                rate_used,
                rate_max,
                ..info(&view)
            })
        })
    }

    /// Closes a session; false when there is none with that id.
    #[must_use]
    pub fn disconnect(&self, id: &str) -> bool {
        let closed = self.find(id, |shard, connection, now| {
            shard.disconnect(connection, now).then_some(())
        });
        closed.is_some()
    }

    /// What `look` finds of the session with that id.
    fn find<T: Send + 'static>(
        &self,
        id: &str,
        look: impl Fn(&mut Shard, crate::base::ConnectionId, Now) -> Option<T> + Clone + Send + 'static,
    ) -> Option<T> {
        if let Ok(id) = id.parse::<SessionId>() {
            let found = self
                .running
                .ask_shard(id.shard, move |shard, now| look(shard, id.connection, now));
            return found.flatten();
        }
        let wanted = id.to_owned();
        let found = self.running.ask_shards(move |shard, now| {
            let mut sessions = shard.sessions().into_iter();
            let connection = sessions.find(|connection| {
                let view = shard.describe(*connection, now);
                view.is_some_and(|view| view.connection_id() == wanted)
            })?;
            look(shard, connection, now)
        });
        found.into_iter().flatten().next()
    }

    /// Tells all sessions that the server goes away, closes them with 1001, and returns when the
    /// last is gone or the time for draining is over.
    ///
    /// # Panics
    /// In a handler.
    pub fn stop(&self) -> Ended {
        assert!(
            !is_shard(),
            "a handler cannot wait for the end of its shard"
        );
        let timeout = self.settings.drain_close_timeout;
        drain(&self.running, Duration::ZERO, timeout, &never())
    }

    /// Runs until SIGTERM or SIGINT, then drains as the settings say; a second signal ends it at
    /// once.
    ///
    /// # Errors
    /// What the kernel says when signals cannot be watched.
    pub fn run_until_signal(&self) -> io::Result<Ended> {
        let signals = watch_signals()?;
        Ok(run_until_signal(&self.running, &self.settings, &signals))
    }
}

fn info(view: &SessionView<'_>) -> ConnectionInfo {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let roles = view.identity.map_or(&[][..], |identity| &identity.roles);
    ConnectionInfo {
        id: view.id.to_string(),
        connection_id: view.connection_id(),
        dialect: view.dialect.name(),
        user_id: view.identity.map(|identity| identity.user.to_string()),
        tenant_id: view.tenant.map(str::to_owned),
        roles: roles.iter().map(|role| role.to_string()).collect(),
        channels: owned(&view.channels),
        connected_at: Duration::from_millis(view.connected_unix_ms).as_secs_f64(),
        uptime: Duration::from_millis(view.uptime_ms).as_secs_f64(),
        rate_used: 0,
        rate_max: None,
    }
}

//! Starts the shards from the settings.

use super::cores;
use super::error::StartError;
use super::ingest;
use super::integration::{self, AsyncTokenCheck};
use super::journal::{self, Restored};
use super::kernel_probe;
use super::locked_memory;
use super::nodes;
use super::run::{StopOutcome, describe};
use super::services::{self, Periods, Request, ServiceParts, Services};
use super::shard_thread::{self, Report, ShardThread};
use super::tls;
use super::tokens;
use super::watchdog::{Watchdog, WatchdogParts};
use crate::api::{ApiContext, HttpListener, Idempotency, NotifyKey, Shards};
use crate::auth::{TokenCheck, Verifier};
use crate::base::now::{Clock, Stopwatch};
use crate::base::persistent::{PersistentLimits, PersistentSubscriptions};
use crate::base::{
    DialectId, History, PresenceTable, ProcessState, ShardCounters, StateChanges, Tracer,
};
use crate::bridge::Integration;
use crate::broker::Quotas;
use crate::config::{
    ByteSize, HistorySetting, HttpPart, Policy, PresenceSetting, ProcessSettings, Routes, Settings,
};
use crate::dialect;
use crate::ingest::Ingest;
use crate::net::wire::{ReuseportGroup, ShardCommand};
use crate::net::{BindError, Peers, Waker, bind_shards};
use crate::nodes::Nodes;
use crate::observe::Metrics;
use crate::observe::metrics::Sources;
use crate::observe::tap::RING_NAME;
use crate::shard::{Hooks, Publisher, ShardParts};
use crossbeam_channel::{Receiver, Sender, after, bounded, select, unbounded};
use fanwire_ring::shared::SharedRing;
use fanwire_ring::{Ring, RingConfig};
use glommio::ExecutorJoinHandle;
use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a shard that did not end may take for a turn, before the store counts as closed too early.
const SHARD_WAIT: Duration = Duration::from_secs(1);

/// How long the end of the server may wait for the collector of traces.
const TRACES_WAIT: Duration = Duration::from_secs(2);

/// What the embedding program supplies.
#[derive(Default)]
pub(super) struct ProgramHooks {
    /// Its handlers.
    pub hooks: Hooks,
    /// Its own check of tokens.
    pub token_check: Option<Arc<TokenCheck>>,
    /// The same, asynchronous.
    pub async_token_check: Option<Arc<AsyncTokenCheck>>,
}

impl ProgramHooks {
    /// The verifier, with the program's own check of tokens before it.
    pub(super) fn checking(&self, verifier: Verifier) -> Verifier {
        match &self.token_check {
            Some(check) => verifier.with_check(Arc::clone(check)),
            None => verifier,
        }
    }
}

impl std::fmt::Debug for ProgramHooks {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let checks = self.token_check.is_some();
        write!(
            formatter,
            "ProgramHooks {{ {:?}, checks tokens: {checks} }}",
            self.hooks
        )
    }
}

/// A server whose shards accept connections.
#[derive(Debug)]
pub(super) struct Running {
    /// The addresses on which it listens for clients, in the order of the settings' listeners.
    pub addresses: Vec<SocketAddr>,
    /// That of the admin listener, if there is one.
    pub admin_address: Option<SocketAddr>,
    /// The core of each shard.
    pub cores: Vec<usize>,
    /// Connections that each shard can hold.
    pub connections_per_shard: u32,
    reports: Receiver<Report>,
    /// A message ends the wait for a signal.
    pub(super) stops: (Sender<()>, Receiver<()>),
    api: Arc<ApiContext>,
    services: Services,
    /// Checks tokens; shares its revocations with the shards.
    pub(super) verifier: Verifier,
    /// Its thread ends with the last of these.
    integration: Option<Integration>,
    /// Programs that publish through shared memory, until the drain.
    ingest: Option<Ingest>,
    /// The thread of Redis, where there are several nodes.
    nodes: Option<Nodes>,
    quotas: Arc<Quotas>,
    /// Until the drain.
    watchdog: Mutex<Option<Watchdog>>,
}

/// Starts the shards and waits until all accept connections.
///
/// # Errors
/// [`StartError`]; threads that were started may then run until the process ends.
pub(super) fn start(settings: &Settings, program: ProgramHooks) -> Result<Running, StartError> {
    let small_pages = locked_memory::SmallPages::begin();
    let cores = cores::assign(settings.process.shards);
    let rings = locked_memory::rings(cores.len()).map_err(StartError::Kernel)?;
    kernel_probe::probe().map_err(StartError::Kernel)?;
    let connections_per_shard = kernel_probe::raise_files_limit();
    let ring_config = RingConfig {
        capacity_bytes: settings.process.ring_bytes.as_u32(),
        readers_max: u32::try_from(cores.len()).map_err(other)?,
    };
    // A sandbox may have no memfds: then `fanwire tap` does not find it.
    let ring = SharedRing::observable(RING_NAME, ring_config)
        .or_else(|_| Ring::new(ring_config))
        .map_err(other)?;
    let clock = Clock::start();
    let waiting_bytes_max = settings.process.waiting_bytes_max;
    let waiting_bytes_max = share_of_memory(waiting_bytes_max, 2, "waiting_bytes_max");
    let process_state = ProcessState::new(cores.len(), waiting_bytes_max);
    let history_bytes_max =
        share_of_memory(settings.process.history_bytes_max, 8, "history_bytes_max");
    let history_bytes_max = journal::history_bytes_max(settings, history_bytes_max);
    let history = history(settings, cores.len(), history_bytes_max);
    let Restored {
        journal,
        history,
        offline,
        persistent,
        retained,
    } = journal::open(
        settings,
        (history, persistent(settings)),
        history_bytes_max,
        &cores,
        clock,
    )?;
    let process_state = process_state.with_history(history, offline);
    let process_state = process_state.with_presence(presence(settings));
    let changes = settings.webhooks.changes();
    let changes = changes.map(|config| StateChanges::new(config, clock.now()));
    let process_state = process_state.with_changes(changes);
    let process_state = process_state.with_retained(retained);
    let process_state = process_state.with_persistent(persistent);
    let process_state = Arc::new(process_state.with_link(nodes::link(&settings.redis)));
    if let Some(journal) = &journal {
        let started = journal.start(&process_state);
        started.map_err(|error| {
            journal.close(false);
            other(error)
        })?;
    }
    let log = || journal.as_ref().and_then(|journal| journal.log());
    let counters: Vec<_> = cores
        .iter()
        .map(|_| Arc::<ShardCounters>::default())
        .collect();
    // One more for publications from outside the shards.
    let outside = Arc::<ShardCounters>::default();
    let all_counters: Vec<_> = counters.iter().chain([&outside]).cloned().collect();
    let wakers = cores.iter().map(|_| Waker::new());
    let wakers: Vec<_> = wakers.collect::<Result<_, _>>().map_err(other)?;
    let peers = Peers::new(&wakers, Arc::clone(&process_state));
    let publisher = Publisher::new(&ring, Arc::clone(&process_state), outside, {
        let peers = peers.clone();
        move |index, now| peers.wake(index, now)
    });
    let publisher = publisher.storing(log()).measuring(Stopwatch::of(clock));
    let publisher = publisher.compressing(settings.process.compression());
    let requests = services::requests();
    let publisher = Arc::new(publisher.calling_for_retry({
        let requests = requests.0.clone();
        move || {
            // Fails when it is full of requests, or the services have ended.
            let _ = requests.try_send(Request::Retry);
        }
    }));
    let traces = &settings.traces;
    let tracer = traces.otlp_endpoint.as_ref().map(|_| {
        let ratio = traces.trace_sample_ratio.0;
        Tracer::new(ratio, traces.trust(), Stopwatch::of(clock))
    });
    let (tracer, spans) = tracer.unzip();
    let channels = cores.iter().map(|_| unbounded::<ShardCommand>());
    let (senders, receivers): (Vec<_>, Vec<_>) = channels.unzip();
    let api = Arc::new(ApiContext {
        metrics: Metrics::new(Sources {
            shards: all_counters.clone(),
            process_state: Arc::clone(&process_state),
            ring: ring.clone(),
            journal: journal.clone(),
            receive_buffer_bytes: rings.buffer_bytes_all() * cores.len() as u64,
            tracer: tracer.clone(),
            clock,
        }),
        tracer,
        journal: journal.clone(),
        counters: all_counters,
        publisher: Arc::clone(&publisher),
        shards: Shards::new(
            senders
                .iter()
                .cloned()
                .zip(wakers.iter().cloned())
                .collect(),
            Arc::clone(&process_state),
            clock,
        ),
        listeners: http_listeners(settings),
        notify: notify_keys(settings),
        api_keys: settings.http.api_keys.clone(),
        cors_origins: settings.http.cors_origins.clone(),
        idempotency: Idempotency::default(),
        process_state: Arc::clone(&process_state),
        shard_count: cores.len(),
        is_draining: AtomicBool::new(false),
        failed_shards: Mutex::default(),
        has_failed_nodes: AtomicBool::new(false),
        metrics_enabled: settings.process.metrics_enabled,
        health_enabled: settings.process.health_enabled,
        began: clock.now(),
        clock,
    });
    let quotas = Arc::new(Quotas::default());
    let verifier = tokens::verifier(&settings.tokens, clock.now().unix_s())?;
    let verifier = program.checking(verifier);
    let mut hooks = program.hooks;
    let to_shards = (senders.clone(), peers.clone(), clock);
    let check = program.async_token_check;
    let (verifier, integration) = integration::start(
        settings,
        check,
        &mut hooks,
        (verifier, spans),
        &process_state,
        to_shards,
    )?;
    let hooks = Arc::new(hooks);
    let to_shards = (senders.clone(), peers.clone(), clock);
    let (reports_sender, reports) = unbounded();
    let nodes = nodes::start(
        &settings.redis,
        &publisher,
        (&process_state, &quotas),
        (to_shards, &api),
        &reports_sender,
    )?;
    let policy = Arc::new(policy(settings));
    let (tls_configs, certificates) = tls::start(
        &settings.tls,
        &settings.listeners,
        &process_state,
        clock.now(),
    )?;
    // Not before all that may take long: who connects is served.
    let ingest_listener = ingest::bind(&settings.ingest)?;
    let (mut addresses, listeners) = bind(settings, cores.len())?;
    let client_listeners = settings.listeners.iter();
    let client_listeners = client_listeners.filter(|it| it.routes != Routes::Admin);
    let admin_address = addresses.split_off(client_listeners.count()).pop();
    let members = listeners[0].iter().map(ReuseportGroup::of);
    let groups = members.collect::<Result<_, _>>().map_err(other)?;
    let watched = Arc::clone(&process_state);
    let mut shards = Vec::new();
    // All of them before the first shard: one that does not start gives its number back.
    let readers = cores.iter().map(|_| ring.reader());
    let readers: Vec<_> = readers.collect::<Result<_, _>>().map_err(other)?;
    let of_shards = listeners.into_iter().zip(readers);
    let of_shards = of_shards.zip(receivers);
    for (index, ((listeners, reader), receiver)) in of_shards.enumerate() {
        assert_eq!(
            reader.index() as usize,
            index,
            "readers are numbered like shards"
        );
        let shard = shard_thread::spawn(ShardThread {
            core: cores[index],
            parts: ShardParts {
                index: u16::try_from(index).map_err(other)?,
                connections_max: connections_per_shard,
                policy: Arc::clone(&policy),
                verifier: verifier.clone(),
                process_state: Arc::clone(&process_state),
                quotas: Arc::clone(&quotas),
                hooks: Arc::clone(&hooks),
                counters: Arc::clone(&counters[index]),
                ring: ring.clone(),
                reader,
            },
            log: log(),
            rings,
            listeners,
            tls: tls_configs.clone(),
            waker: wakers[index].clone(),
            peers: peers.clone(),
            commands: receiver,
            api: Arc::clone(&api),
            clock,
            reports: reports_sender.clone(),
        });
        shards.push(shard.map_err(other)?);
    }
    // The reports end when all shards have, and the thread of Redis.
    drop(reports_sender);
    await_ready(&reports, shards)?;
    drop(small_pages);
    let ingest = ingest::start(
        ingest_listener,
        &settings.ingest,
        (&publisher, &process_state),
        clock,
    )?;
    let parts = ServiceParts {
        publisher,
        process_state,
        quotas: Arc::clone(&quotas),
        clock,
        periods: periods(settings),
        certificates,
    };
    let services = Services::start(parts, requests).map_err(other)?;
    let watchdog = Watchdog::start(WatchdogParts {
        shard_count: u16::try_from(cores.len()).map_err(other)?,
        groups,
        peers,
        process_state: watched,
        ring,
        clock,
    });
    let watchdog = Mutex::new(Some(watchdog.map_err(other)?));
    for (listener, (address, setting)) in addresses.iter().zip(&settings.listeners).enumerate() {
        let dialects = DialectId::ALL.into_iter();
        let dialects = dialects.filter(|dialect| setting.routes.serve(*dialect));
        let dialects: Vec<_> = dialects.map(DialectId::name).collect();
        tracing::info!(
            target: "fanwire::server",
            version = env!("CARGO_PKG_VERSION"),
            listener,
            %address,
            dialects = dialects.join(","),
            shards = cores.len(),
            "listening"
        );
    }
    if let Some(address) = admin_address {
        tracing::info!(target: "fanwire::server", %address, "listening for operators");
    }
    Ok(Running {
        addresses,
        admin_address,
        cores,
        connections_per_shard,
        reports,
        stops: bounded(1),
        api,
        services,
        verifier,
        integration,
        ingest,
        nodes,
        quotas,
        watchdog,
    })
}

/// The rules for sessions, with those for the channels of the dialects.
pub(super) fn policy(settings: &Settings) -> Policy {
    let of_dialects = dialect::access_rules();
    let access_rules = [of_dialects, settings.process.access_rules.clone()].concat();
    Policy {
        access_rules: access_rules.into(),
        ..settings.policy()
    }
}

/// The history of a process with so many shards. Its epoch is random, so that no position of an
/// earlier process is taken for one of this.
fn history(settings: &Settings, shard_count: usize, bytes_max: u64) -> History {
    let rules = settings.process.history.iter();
    let rules = rules.map(|HistorySetting(rule)| rule.clone()).collect();
    let epoch = RandomState::new().hash_one(std::process::id());
    #[expect(clippy::cast_possible_truncation, reason = "32 random bits are wanted")]
    let epoch = epoch as u32;
    History::new(shard_count, rules, epoch, bytes_max)
}

/// The table of who is on which channel.
fn presence(settings: &Settings) -> PresenceTable {
    let process = &settings.process;
    let rules = process.presence.iter();
    // The rule for rooms by default is about those of assist. Without its dialect, a channel with
    // this prefix is one like any other.
    let is_default = process.presence == ProcessSettings::default().presence;
    let is_open = !is_default || settings.policy().serves(DialectId::Assist);
    let rules = rules.filter(|_| is_open);
    let rules = rules.map(|PresenceSetting(rule)| rule.clone());
    let rules = dialect::without_presence().into_iter().chain(rules);
    PresenceTable::new(
        rules.collect(),
        process.presence_members_max,
        process.presence_interval.0,
    )
}

/// The persistent subscriptions, of nobody yet.
fn persistent(settings: &Settings) -> PersistentSubscriptions {
    PersistentSubscriptions::new(PersistentLimits {
        per_user_max: settings.gateway.persistent_subscriptions_max,
        users_max: settings.gateway.persistent_users_max,
        ttl_ms: settings.gateway.persistent_subscriptions_ttl.0,
    })
}

/// A setting of this name, or this part of the memory that the host or its cgroup has for this
/// process.
fn share_of_memory(setting: ByteSize, part: u64, name: &str) -> u64 {
    if setting.0 > 0 {
        return setting.0;
    }
    let Ok(mut system) = sysinfo::System::new() else {
        tracing::warn!("the host's memory is unknown: set {name}");
        return u64::MAX;
    };
    system.refresh_memory();
    let of_host = system.total_memory();
    let of_cgroup = system.cgroup_limits().map(|limits| limits.total_memory);
    of_cgroup.map_or(of_host, |limit| limit.min(of_host)) / part
}

/// What each listener answers over HTTP.
fn http_listeners(settings: &Settings) -> Vec<HttpListener> {
    let is_dev = settings.process.dev;
    let http = &settings.http;
    let listeners = settings.listeners.iter();
    let listeners = listeners.map(|listener| HttpListener {
        parts: http.parts_of(listener, is_dev),
        dialect: match listener.routes {
            Routes::Profile { dialect, .. } => Some(dialect),
            Routes::ByPath | Routes::Admin => None,
        },
        is_open: is_dev && listener.address.ip().is_loopback(),
    });
    let listeners: Vec<_> = listeners.collect();
    let has_api = listeners.iter().zip(&settings.listeners);
    let mut has_api = has_api.filter(|(http, _)| http.parts.has(HttpPart::Api) && !http.is_open);
    if http.api_keys.is_empty()
        && let Some((_, listener)) = has_api.next()
    {
        let address = listener.address;
        tracing::info!(%address, "the HTTP API is closed to everyone: api_keys has no key");
    }
    listeners
}

/// Who may call `POST /notify` on each listener: callers with the key. Without a key, everyone where the
/// notifications profile is, as on the notification server, and in development mode.
fn notify_keys(settings: &Settings) -> Vec<NotifyKey> {
    let keys = settings.listeners.iter().map(|listener| {
        let is_open = match listener.routes {
            Routes::Profile { dialect, .. } => dialect == DialectId::Notifications,
            Routes::ByPath | Routes::Admin => {
                settings.process.dev && listener.address.ip().is_loopback()
            }
        };
        match &settings.process.notify_api_key {
            Some(key) => NotifyKey::Key(key.clone()),
            None if is_open && settings.http.api_keys.is_empty() => {
                if !listener.address.ip().is_loopback() {
                    let address = listener.address;
                    tracing::warn!(
                        %address,
                        "POST /notify accepts requests without a key: set notify_api_key"
                    );
                }
                NotifyKey::Open
            }
            None => NotifyKey::None,
        }
    });
    keys.collect()
}

fn periods(settings: &Settings) -> Periods {
    Periods {
        notification_ms: settings.notifications.test_message_interval.0,
        host_metrics_ms: settings.assist.metrics_interval.0,
        quota_sweep_ms: settings.assist.quota_sweep_interval.0,
    }
}

/// The bound addresses, and for each shard its sockets on all of them. Without the admin listener, if
/// that is at its default address and another program is there, such as a second server of this host.
fn bind(
    settings: &Settings,
    shard_count: usize,
) -> Result<(Vec<SocketAddr>, Vec<Vec<TcpListener>>), StartError> {
    let mut addresses = Vec::new();
    let mut of_shards: Vec<Vec<_>> = (0..shard_count).map(|_| Vec::new()).collect();
    for listener in &settings.listeners {
        let sockets = match bind_shards(listener.address, shard_count) {
            Err(BindError::InUse(address))
                if listener.routes == Routes::Admin && !settings.is_admin_required =>
            {
                tracing::warn!(%address, "no admin listener: the address is in use; set admin_listen");
                continue;
            }
            sockets => sockets.map_err(StartError::Bind)?,
        };
        addresses.push(sockets[0].local_addr().map_err(other)?);
        for (of_shard, socket) in of_shards.iter_mut().zip(sockets) {
            of_shard.push(socket);
        }
    }
    Ok((addresses, of_shards))
}

/// Waits until each of the shards accepts connections.
fn await_ready(
    reports: &Receiver<Report>,
    mut shards: Vec<ExecutorJoinHandle<()>>,
) -> Result<(), StartError> {
    let count = shards.len();
    for _ in 0..count {
        match reports.recv() {
            Ok(Report::Ready) => {}
            Ok(Report::Rejected(error)) => {
                return Err(StartError::Kernel(kernel_probe::explain(&error, count)));
            }
            Ok(Report::NotStarted(shard)) => {
                // Its thread is about to end, with the error of glommio.
                let ended = shards.swap_remove(usize::from(shard)).join();
                return Err(StartError::Kernel(match ended {
                    Err(error) => locked_memory::rejected(&error, count),
                    Ok(()) => locked_memory::rejected(&"it ended at once", count),
                }));
            }
            report => return Err(StartError::Other(describe(report))),
        }
    }
    Ok(())
}

fn other(error: impl std::fmt::Display) -> StartError {
    StartError::Other(error.to_string())
}

impl Running {
    /// Stops the periodic services, accepts no new sessions, and announces to the sessions that
    /// they have `grace_ms` to end by themselves.
    pub(super) fn announce_shutdown(&self, grace_ms: u64) {
        // Relaxed: a concurrent health check may still see the old value.
        self.api.is_draining.store(true, Ordering::Relaxed);
        if let Some(ingest) = &self.ingest {
            ingest.stop();
        }
        self.services.stop();
        self.api
            .shards
            .tell_all(|| ShardCommand::AnnounceShutdown(grace_ms));
    }

    /// Closes about `count` sessions with 1001.
    pub(super) fn close_some(&self, count: usize) {
        let share = count.div_ceil(self.cores.len());
        self.api.shards.tell_all(|| ShardCommand::CloseSome(share));
    }

    /// Stops accepting, and closes all sessions with 1001; each shard reports when its last session
    /// has ended.
    pub(super) fn drain(&self) {
        self.api.is_draining.store(true, Ordering::Relaxed);
        self.services.stop();
        // With it go its handles of the listeners. A panic elsewhere cannot leave it half stopped.
        let watchdog = self.watchdog.lock();
        watchdog.unwrap_or_else(PoisonError::into_inner).take();
        self.api.shards.tell_all(|| ShardCommand::Drain);
    }

    /// Sends the spans that wait.
    pub(super) fn flush_traces(&self) {
        if let (Some(integration), Some(_)) = (&self.integration, &self.api.tracer) {
            integration.flush_traces(TRACES_WAIT);
        }
    }

    /// Sends to the other nodes what is left, after a drain.
    pub(super) fn leave_nodes(&self) {
        if let Some(nodes) = &self.nodes {
            nodes.stop();
        }
    }

    /// Closes the durable store after a drain.
    pub(super) fn close_store(&self, outcome: &StopOutcome) {
        if let Some(journal) = &self.api.journal {
            journal.close(match outcome {
                StopOutcome::Drained => true,
                // Clients that do not answer the close frame cannot publish any more.
                StopOutcome::TimedOut => self.has_published_all(),
                StopOutcome::Forced | StopOutcome::Failed(_) => false,
            });
        }
    }

    /// Tells the webhook, if there is one, that nobody is there any more; waits until it knows, for some
    /// seconds at most.
    pub(super) fn end_webhook(&self, outcome: &StopOutcome) {
        let Some(changes) = &self.api.process_state.changes else {
            return;
        };
        changes.end();
        if let Some(integration) = &self.integration
            && *outcome != StopOutcome::Forced
        {
            integration.end_webhook();
        }
    }

    /// After the drain: whether all shards have handed over what they published.
    fn has_published_all(&self) -> bool {
        // A turn hands over at its end, so the next one can say that it did.
        (0..2).all(|_| {
            let (congested, answers) = unbounded();
            self.api.shards.tell_all(|| {
                let congested = congested.clone();
                ShardCommand::Call(Box::new(move |shard, _| {
                    let _ = congested.send(shard.is_congested());
                }))
            });
            drop(congested);
            // A shard that has stopped drops the call.
            let deadline = after(SHARD_WAIT);
            loop {
                select! {
                    recv(answers) -> answer => match answer {
                        Ok(false) => {}
                        Ok(true) => return false,
                        Err(_) => return true,
                    },
                    recv(deadline) -> _ => return false,
                }
            }
        })
    }

    /// The context of the HTTP API.
    pub(super) fn context(&self) -> &ApiContext {
        &self.api
    }

    /// The counts of addresses, users and tenants.
    pub(super) fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// The channel on which shards report that they have stopped or failed.
    #[must_use]
    pub(super) fn reports(&self) -> &Receiver<Report> {
        &self.reports
    }
}

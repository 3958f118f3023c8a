//! From settings to shards that accept connections.

use super::cores;
use super::kernel::{self, KernelError};
use super::shard_thread::{self, Report, ShardThread};
use crate::api::ApiContext;
use crate::auth::Verifier;
use crate::base::now::Clock;
use crate::base::{Census, ShardCounters};
use crate::config::{Listener, Settings};
use crate::net::wire::ShardCommand;
use crate::net::{BindError, Waker, bind_shards};
use crate::observe::Metrics;
use crate::shard::ShardParts;
use crossbeam_channel::{Receiver, Sender, unbounded};
use fanwire_ring::{Ring, RingConfig};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why the server did not start.
#[derive(Debug)]
pub enum BootError {
    /// The kernel refuses what the server needs.
    Kernel(KernelError),
    /// There is no address to listen on.
    Bind(BindError),
    /// Something else failed; the text says what.
    Other(String),
}

impl std::fmt::Display for BootError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kernel(error) => write!(formatter, "{error}"),
            Self::Bind(error) => write!(formatter, "{error}"),
            Self::Other(text) => formatter.write_str(text),
        }
    }
}

impl std::error::Error for BootError {}

/// A server whose shards accept connections.
#[derive(Debug)]
pub struct Running {
    /// Where it listens, in the order of the settings' listeners.
    pub addresses: Vec<SocketAddr>,
    /// The core of each shard.
    pub cores: Vec<usize>,
    /// Connections that each shard may hold.
    pub connections_per_shard: u32,
    commands: Vec<(Sender<ShardCommand>, Waker)>,
    reports: Receiver<Report>,
    api: Arc<ApiContext>,
}

/// Starts the shards and waits until all accept connections.
///
/// # Errors
/// [`BootError`]; nothing keeps running then but threads that end with the process.
pub fn start(settings: &Settings, secret: Option<&[u8]>) -> Result<Running, BootError> {
    kernel::probe().map_err(BootError::Kernel)?;
    let connections_per_shard = kernel::raise_files_limit();
    let cores = cores::assign(settings.shards);
    let (addresses, listeners) = bind(&settings.listeners, cores.len())?;
    let ring = Ring::new(RingConfig {
        capacity_bytes: settings.ring_bytes,
        readers_max: u32::try_from(cores.len()).map_err(other)?,
    })
    .map_err(other)?;
    let clock = Clock::start();
    let census = Arc::new(Census::default());
    let counters: Vec<_> = cores
        .iter()
        .map(|_| Arc::<ShardCounters>::default())
        .collect();
    let wakers = cores.iter().map(|_| Waker::new());
    let wakers: Vec<_> = wakers.collect::<Result<_, _>>().map_err(other)?;
    let api = Arc::new(ApiContext {
        metrics: Metrics::new(counters.clone(), Arc::clone(&census), ring.clone()),
        census: Arc::clone(&census),
        shard_count: cores.len(),
        is_draining: AtomicBool::new(false),
        metrics_enabled: settings.metrics_enabled,
        health_enabled: settings.health_enabled,
        began: clock.now(),
        clock,
    });
    let policy = Arc::new(settings.policy());
    let verifier = secret.map(Verifier::hs256).unwrap_or_default();
    let (reports_sender, reports) = unbounded();
    let mut commands = Vec::new();
    for (index, listeners) in listeners.into_iter().enumerate() {
        let (sender, receiver) = unbounded();
        commands.push((sender, wakers[index].clone()));
        let reader = ring.reader().map_err(other)?;
        assert_eq!(
            reader.index() as usize,
            index,
            "readers are numbered like shards"
        );
        shard_thread::spawn(ShardThread {
            core: cores[index],
            parts: ShardParts {
                index: u16::try_from(index).map_err(other)?,
                connections_max: connections_per_shard,
                policy: Arc::clone(&policy),
                verifier: verifier.clone(),
                census: Arc::clone(&census),
                counters: Arc::clone(&counters[index]),
                ring: ring.clone(),
                reader,
            },
            listeners,
            waker: wakers[index].clone(),
            peers: wakers.clone(),
            commands: receiver,
            api: Arc::clone(&api),
            clock,
            reports: reports_sender.clone(),
        })
        .map_err(other)?;
    }
    await_ready(&reports, cores.len())?;
    Ok(Running {
        addresses,
        cores,
        connections_per_shard,
        commands,
        reports,
        api,
    })
}

/// The bound addresses, and for each shard its sockets on all of them.
fn bind(
    listeners: &[Listener],
    shard_count: usize,
) -> Result<(Vec<SocketAddr>, Vec<Vec<TcpListener>>), BootError> {
    let mut addresses = Vec::new();
    let mut of_shards: Vec<Vec<_>> = (0..shard_count).map(|_| Vec::new()).collect();
    for listener in listeners {
        let sockets = bind_shards(listener.address, shard_count).map_err(BootError::Bind)?;
        addresses.push(sockets[0].local_addr().map_err(other)?);
        for (of_shard, socket) in of_shards.iter_mut().zip(sockets) {
            of_shard.push(socket);
        }
    }
    Ok((addresses, of_shards))
}

fn await_ready(reports: &Receiver<Report>, count: usize) -> Result<(), BootError> {
    for _ in 0..count {
        match reports.recv() {
            Ok(Report::Ready) => {}
            Ok(Report::Refused(error)) => {
                return Err(BootError::Kernel(kernel::explain(&error)));
            }
            report => return Err(BootError::Other(format!("a shard ended: {report:?}"))),
        }
    }
    Ok(())
}

fn other(error: impl std::fmt::Display) -> BootError {
    BootError::Other(error.to_string())
}

impl Running {
    /// Stops accepting; each shard reports when its last session has ended by itself.
    pub fn stop_accepting(&self) {
        self.command(ShardCommand::StopAccepting);
    }

    /// Stops accepting, closes all sessions with 1001; each shard reports when its last is gone.
    pub fn drain(&self) {
        self.command(ShardCommand::Drain);
    }

    fn command(&self, command: ShardCommand) {
        // Relaxed: a health check that comes a moment early sees the old answer.
        self.api.is_draining.store(true, Ordering::Relaxed);
        for (commands, waker) in &self.commands {
            // A shard that has ended already needs no command.
            let _ = commands.send(command);
            waker.wake();
        }
    }

    /// Where shards report that they have stopped or failed.
    #[must_use]
    pub fn reports(&self) -> &Receiver<Report> {
        &self.reports
    }
}

//! Several nodes, connected through Redis: what is published on one is delivered on all.
//!
//! ```text
//!   shards, HTTP API ─▶ base::node_link ─▶ thread of Redis ─▶ Redis ─▶ thread of Redis of each node
//!                                                                        ─▶ shard::Publisher ─▶ ring
//! ```
//!
//! A publication comes back from Redis to the node that has sent it, so all nodes see one order on a
//! channel. A node is subscribed in Redis to the channels only that have subscribers on it. On channels with
//! a history, a script in Redis numbers, stores and publishes in one step, so a client may recover on another
//! node than the one it was on.
//!
//! What else nodes share has a file each: who is on which channel (`presence`), what is known of users (`users`),
//! and what is asked of all nodes (`inquiries`). All of it is on one thread, in one loop (`run`).

mod canary;
mod channels;
mod connection;
mod deleting;
mod delivery_queue;
mod engine;
mod inquiries;
mod inquiry;
mod live_users;
mod message;
mod peers;
mod presence;
mod publishing;
mod reservations;
mod run;
mod script;
mod subscribing;
mod told_presence;
mod users;

use crate::base::ProcessState;
use crate::base::now::Clock;
use crate::broker::Quotas;
use crate::config::RedisAddress;
use crate::shard::Publisher;
use connection::{Connector, is_misconfigured};
use delivery_queue::DeliveryQueue;
use engine::Engine;
pub use presence::Announce;
use run::Runner;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// How nodes are connected.
#[derive(Clone, Debug)]
pub struct NodesConfig {
    /// Where Redis is.
    pub address: RedisAddress,
    /// The authority of TLS, as PEM; `None` = those of the system.
    pub tls_ca: Option<Vec<u8>>,
    /// How all names in Redis begin. Nodes with the same are connected.
    pub prefix: String,
    /// Time for an answer.
    pub timeout: Duration,
    /// How long a channel without subscribers stays subscribed to.
    pub leave_delay: Duration,
    /// How long a node that does not answer counts as one that is there.
    pub lease: Duration,
    /// How long Redis keeps a channel's history without publications.
    pub history_ttl: Duration,
    /// Bytes of publications that are kept while Redis is away.
    pub backlog_bytes_max: usize,
}

/// Answers a question of another node: a text, which is empty if there is nothing to say; `None` if the
/// question cannot be read.
pub type Answerer =
    Box<dyn Fn(Vec<u8>) -> Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>> + Send>;

/// The thread of Redis.
#[derive(Debug)]
pub struct Nodes {
    ending: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Nodes {
    /// Starts the thread; returns when it is connected, or Redis does not answer now.
    ///
    /// # Errors
    /// When the settings are wrong: Redis rejects the password, lacks the commands, or does not allow them.
    pub fn start(
        config: NodesConfig,
        publisher: Arc<Publisher>,
        (process_state, quotas): (Arc<ProcessState>, Arc<Quotas>),
        clock: Clock,
        (announce, answerer): (Announce, Answerer),
    ) -> Result<Self, String> {
        let address = config.address.clone();
        let connector = Connector {
            address: config.address.clone(),
            tls_ca: config.tls_ca.clone(),
            timeout: config.timeout,
        };
        let deliveries = DeliveryQueue::new(publisher, Arc::clone(&process_state), clock);
        let engine = Engine::new(
            process_state,
            deliveries,
            config.backlog_bytes_max,
            announce,
        );
        let (first, is_connected) = oneshot::channel();
        let (ending, is_ending) = watch::channel(false);
        let runner = Runner::new(
            config,
            connector,
            engine,
            (clock, quotas),
            (first, answerer),
        );
        let other = |error: io::Error| error.to_string();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(other)?;
        let thread = std::thread::Builder::new()
            .name("redis".into())
            .spawn(move || runtime.block_on(runner.run(is_ending)))
            .map_err(other)?;
        let nodes = Self {
            ending,
            thread: Mutex::new(Some(thread)),
        };
        match is_connected.blocking_recv() {
            Ok(Err(error)) if is_misconfigured(&error) => {
                nodes.stop();
                Err(format!(
                    "cannot use Redis at {address} (redis_url): {error}"
                ))
            }
            // It is tried again.
            _ => Ok(nodes),
        }
    }

    /// Sends what is left, for some seconds at most, and ends the thread.
    pub fn stop(&self) {
        self.ending.send_replace(true);
        let thread = self.thread.lock();
        let thread = thread.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread of Redis has ended with a panic");
        }
    }
}

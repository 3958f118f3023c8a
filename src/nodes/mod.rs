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

/// Told when the thread of Redis ends with a panic.
pub type NoteFailed = Box<dyn FnOnce() + Send>;

/// Says so when the thread of Redis ends with a panic: nothing goes to the other nodes or comes from them then.
struct Watch {
    process_state: Arc<ProcessState>,
    note_failed: Option<NoteFailed>,
}

impl Watch {
    /// The thread ends in order.
    fn end(mut self) {
        self.note_failed = None;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(note_failed) = self.note_failed.take() else {
            return;
        };
        if let Some(link) = &self.process_state.link {
            link.counters.set_up(false);
            // Who waits for something that was queued is told by its end.
            drop(link.close());
        }
        note_failed();
    }
}

/// The thread of Redis.
#[derive(Debug)]
pub struct Nodes {
    ending: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Nodes {
    /// Starts the thread; returns when it is connected, or Redis does not answer now. `note_failed` is called if
    /// it ends with a panic.
    ///
    /// # Errors
    /// When the settings are wrong: Redis rejects the password, lacks the commands, or does not allow them.
    pub fn start(
        config: NodesConfig,
        publisher: Arc<Publisher>,
        (process_state, quotas): (Arc<ProcessState>, Arc<Quotas>),
        clock: Clock,
        (announce, answerer): (Announce, Answerer),
        note_failed: NoteFailed,
    ) -> Result<Self, String> {
        let address = config.address.clone();
        let connector = Connector {
            address: config.address.clone(),
            tls_ca: config.tls_ca.clone(),
            timeout: config.timeout,
        };
        let deliveries = DeliveryQueue::new(publisher, Arc::clone(&process_state), clock);
        let watch = Watch {
            process_state: Arc::clone(&process_state),
            note_failed: Some(note_failed),
        };
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
            .spawn(move || {
                runtime.block_on(runner.run(is_ending));
                watch.end();
            })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::NodeLink;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_thread_that_panics_says_so_and_one_that_ends_in_order_does_not() {
        for panics in [false, true] {
            let state = ProcessState::new(1, 1_000).with_link(Some(NodeLink::new(7, 1_000)));
            let process_state = Arc::new(state);
            let link = process_state.link.as_ref().unwrap();
            link.counters.set_up(true);
            let count = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&count);
            let note_failed: NoteFailed = Box::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            });
            let watch = Watch {
                process_state: Arc::clone(&process_state),
                note_failed: Some(note_failed),
            };
            let thread = std::thread::spawn(move || {
                assert!(!panics, "the thread of a test panics");
                watch.end();
            });
            assert_eq!(thread.join().is_err(), panics);
            assert_eq!(count.load(Ordering::Relaxed), u32::from(panics));
            assert_eq!(link.counters.is_up(), !panics);
        }
    }
}

//! Calls of shards from HTTP requests, whose tasks wait for the answer.

use crate::base::now::Clock;
use crate::base::{Now, ProcessState};
use crate::net::Waker;
use crate::net::wire::ShardCommand;
use crate::shard::Shard;
use crossbeam_channel::Sender;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a call does about a stalled shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhileStalled {
    /// It waits until the shard runs again.
    Wait,
    /// It does without the shard.
    Skip,
}

/// All shards, as other threads call them.
#[derive(Debug)]
pub struct Shards {
    links: Vec<(Sender<ShardCommand>, Waker)>,
    process_state: Arc<ProcessState>,
    clock: Clock,
}

impl Shards {
    /// The shards with these channels and wakers, by index.
    #[must_use]
    pub fn new(
        links: Vec<(Sender<ShardCommand>, Waker)>,
        process_state: Arc<ProcessState>,
        clock: Clock,
    ) -> Self {
        Self {
            links,
            process_state,
            clock,
        }
    }

    /// The number of this node in the ids of its sessions.
    pub(super) fn node(&self) -> u32 {
        self.process_state.node()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u16 {
        u16::try_from(self.links.len()).unwrap_or(u16::MAX)
    }

    /// Sends a command to every shard. One that has stopped needs none.
    pub fn tell_all(&self, command: impl Fn() -> ShardCommand) {
        for (commands, waker) in &self.links {
            let _ = commands.send(command());
            waker.wake();
        }
    }

    /// Sends a command to one shard; false if there is no such shard, or it has stopped.
    pub fn tell(&self, shard: u16, command: ShardCommand) -> bool {
        let Some((commands, waker)) = self.links.get(usize::from(shard)) else {
            return false;
        };
        let is_sent = commands.send(command).is_ok();
        waker.wake();
        is_sent
    }

    /// Calls `call` on a shard and returns its result; `None` if there is no such shard, it has
    /// stopped, or it is stalled and skipped.
    pub async fn call<T: Send + 'static>(
        &self,
        shard: u16,
        stalled: WhileStalled,
        call: impl FnOnce(&mut Shard, Now) -> T + Send + 'static,
    ) -> Option<T> {
        let now_ms = self.clock.now().monotonic_ms;
        let mut all_stalled = self.process_state.heartbeats.stalled(now_ms);
        if stalled == WhileStalled::Skip && all_stalled.any(|stalled| stalled == shard) {
            return None;
        }
        let (sender, answer) = oneshot::channel();
        let call = ShardCommand::Call(Box::new(move |shard, now| {
            // Fails when nobody waits for it any more.
            let _ = sender.send(call(shard, now));
        }));
        if !self.tell(shard, call) {
            return None;
        }
        answer.await.ok()
    }

    /// Calls it on every shard: the results by shard, without those of shards that have stopped or are
    /// skipped, and whether these are all.
    pub async fn call_all<T: Send + 'static>(
        &self,
        stalled: WhileStalled,
        call: impl FnOnce(&mut Shard, Now) -> T + Clone + Send + 'static,
    ) -> (Vec<T>, bool) {
        let calls = (0..self.count()).map(|shard| self.call(shard, stalled, call.clone()));
        let results = futures_util::future::join_all(calls).await;
        let count = results.len();
        let results: Vec<_> = results.into_iter().flatten().collect();
        let is_complete = results.len() == count;
        (results, is_complete)
    }
}

//! The broker of the shard on whose thread code of the embedding program runs.
//!
//! Such code may ask the server about its sessions, also about those of its own shard. That shard is
//! in the middle of a command and cannot answer from its event loop, so its broker is lent to the
//! thread for the time of the call.

use super::Broker;
use scoped_tls::scoped_thread_local;

scoped_thread_local!(static CURRENT: Broker);

impl Broker {
    /// Calls code of the embedding program, which meanwhile finds this broker by [`with_current`].
    pub fn lend_to<R>(&self, call: impl FnOnce() -> R) -> R {
        CURRENT.set(self, call)
    }
}

/// What `look` finds in the broker that is lent to this thread; `None` if none is.
pub fn with_current<R>(look: impl FnOnce(&Broker) -> R) -> Option<R> {
    CURRENT.is_set().then(|| CURRENT.with(look))
}

//! The sessions of a shard whose subscriptions are being restored.

use crate::base::ConnectionId;
use std::collections::VecDeque;
use std::sync::Arc;

/// What is left to restore of a session.
#[derive(Debug)]
pub(super) struct Restoration {
    pub(super) id: ConnectionId,
    pub(super) channels: VecDeque<Arc<str>>,
    pub(super) restored: usize,
    pub(super) rejected: usize,
}

/// The sessions that wait for it, those next in turn first.
#[derive(Debug, Default)]
pub(super) struct Restorations {
    pub(super) queue: VecDeque<Restoration>,
}

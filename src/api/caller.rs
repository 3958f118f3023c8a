//! Who sends requests.

use super::context::ApiContext;
use super::pipe::Pipe;
use crate::base::ShardCounters;
use crate::shard::HttpOutput;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// Who sends requests on a connection, and what answers depend on.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) context: Arc<ApiContext>,
    /// The listener that accepted the connection.
    pub(super) listener: u8,
    /// Those of the shard.
    pub(super) counters: Arc<ShardCounters>,
    pipe: Pipe,
    /// Whether a key was shown on this connection.
    is_authorized: Rc<Cell<bool>>,
}

impl Caller {
    pub(super) fn new(
        context: Arc<ApiContext>,
        counters: Arc<ShardCounters>,
        listener: u8,
        pipe: Pipe,
    ) -> Self {
        Self {
            context,
            listener,
            counters,
            pipe,
            is_authorized: Rc::default(),
        }
    }

    pub(super) const fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    /// A right key was shown: the connection is not closed in favour of others.
    pub(super) fn note_authorized(&self) {
        if !self.is_authorized.replace(true) {
            self.pipe.tell(HttpOutput::Authorized);
        }
    }
}

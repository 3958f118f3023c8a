//! Who sends requests.

use super::context::ApiContext;
use super::pipe::Pipe;
use super::request::{RequestIds, RequestInfo};
use crate::base::ShardCounters;
use crate::shard::HttpOutput;
use hyper::Request;
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
    ids: Rc<RequestIds>,
    /// The request that is answered.
    pub(super) request: Rc<RequestInfo>,
    /// Whether a key was shown on this connection.
    is_authorized: Rc<Cell<bool>>,
}

impl Caller {
    pub(super) fn new(
        context: Arc<ApiContext>,
        counters: Arc<ShardCounters>,
        listener: u8,
        pipe: Pipe,
        ids: Rc<RequestIds>,
    ) -> Self {
        Self {
            context,
            listener,
            counters,
            pipe,
            ids,
            request: Rc::default(),
            is_authorized: Rc::default(),
        }
    }

    /// The caller of this request, who `is_known` by a key, or needs none.
    pub(super) fn with_request<B>(
        &self,
        request: &Request<B>,
        is_known: impl FnOnce() -> bool,
    ) -> Self {
        let tracer = self.context.tracer.as_ref();
        let request = RequestInfo::begin(tracer, &self.ids, request, is_known);
        Self {
            request: Rc::new(request),
            ..self.clone()
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

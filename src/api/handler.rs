//! The HTTP connections of one shard.

use super::caller::Caller;
use super::context::ApiContext;
use super::head;
use super::pipe::{Output, Pipe};
use super::request::RequestIds;
use super::routes;
use super::tasks::Tasks;
use crate::base::{ConnectionId, ShardCounters, SlotMap};
use crate::net::wire::HttpHandler;
use crate::shard::HttpOutput;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// Largest head of a request behind the first one of a connection, bytes; hyper needs 8 KiB or more.
const HYPER_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// hyper on the connections of a shard.
#[derive(Debug)]
pub struct Api {
    context: Arc<ApiContext>,
    counters: Arc<ShardCounters>,
    pipes: SlotMap<Pipe>,
    output: Output,
    tasks: Tasks,
    /// The last output of connections whose tasks have ended.
    finished: Output,
    ids: Rc<RequestIds>,
}

/// A request asks for an upgrade, about which the shard decides.
#[derive(Debug)]
struct UpgradeRequested;

impl fmt::Display for UpgradeRequested {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the request asks for an upgrade")
    }
}

impl std::error::Error for UpgradeRequested {}

impl Api {
    /// An API without connections, of the shard with these counters. `wake` ends the sleep of its event
    /// loop, from any thread.
    #[must_use]
    pub fn new(
        context: Arc<ApiContext>,
        counters: Arc<ShardCounters>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            context,
            counters,
            pipes: SlotMap::default(),
            output: Output::default(),
            tasks: Tasks::new(wake),
            finished: Rc::default(),
            ids: Rc::default(),
        }
    }

    fn open(&mut self, id: ConnectionId, listener: u8) {
        let pipe = Pipe::new(id, Rc::clone(&self.output));
        self.pipes.insert(id, pipe.clone());
        let finished = Rc::clone(&self.finished);
        let caller = Caller::new(
            Arc::clone(&self.context),
            Arc::clone(&self.counters),
            listener,
            pipe.clone(),
            Rc::clone(&self.ids),
        );
        // A closure rather than a channel: the head of a request for an upgrade, as hyper has read it.
        let upgrade = Rc::new(RefCell::new(Vec::new()));
        let head_of_upgrade = Rc::clone(&upgrade);
        let service = service_fn(move |request: Request<Incoming>| {
            let (caller, head_of_upgrade) = (caller.clone(), Rc::clone(&head_of_upgrade));
            Box::pin(async move {
                if head::asks_for_websocket(&request) {
                    caller.pipe().drained().await;
                    *head_of_upgrade.borrow_mut() = head::to_bytes(&request);
                    return Err(UpgradeRequested);
                }
                Ok::<Response<_>, _>(routes::answer(&caller, request).await)
            })
        });
        let mut connection = http1::Builder::new()
            // A peer that shuts down its sending side after the request still expects the answer.
            .half_close(true)
            .max_buf_size(HYPER_BUFFER_BYTES_MAX)
            // The shard's timer wheel closes idle connections; hyper needs no timer.
            .header_read_timeout(None)
            .serve_connection(pipe.clone(), service);
        self.tasks.spawn(async move {
            let served = std::future::poll_fn(|context| connection.poll_without_shutdown(context));
            let served = served.await;
            let mut bytes = upgrade.take();
            let last = match bytes.is_empty() {
                true => HttpOutput::End,
                false => {
                    bytes.extend_from_slice(&connection.into_parts().read_buf);
                    HttpOutput::Upgrade(bytes)
                }
            };
            if let (HttpOutput::End, Err(error)) = (&last, served) {
                // hyper has already answered errors of the peer with a status.
                tracing::debug!(%error, "http connection");
            }
            finished.borrow_mut().push_back((id, last));
        });
    }
}

impl HttpHandler for Api {
    fn begin(&mut self, id: ConnectionId, listener: u8) {
        self.open(id, listener);
    }

    fn receive(&mut self, id: ConnectionId, bytes: &[u8]) {
        if let Some(pipe) = self.pipes.get(id) {
            pipe.push(bytes);
        }
    }

    fn written(&mut self, id: ConnectionId) {
        if let Some(pipe) = self.pipes.get(id) {
            pipe.written();
        }
    }

    fn end(&mut self, id: ConnectionId) {
        if let Some(pipe) = self.pipes.get(id) {
            pipe.end();
        }
    }

    fn closed(&mut self, id: ConnectionId) {
        if let Some(pipe) = self.pipes.remove(id) {
            // The task of the connection ends at the end of its input, when it has all answers.
            pipe.written();
            pipe.end();
        }
    }

    fn take_output(&mut self) -> Option<(ConnectionId, HttpOutput)> {
        if let Some(output) = self.output.borrow_mut().pop_front() {
            return Some(output);
        }
        let (id, mut output) = self.finished.borrow_mut().pop_front()?;
        if let (Some(pipe), HttpOutput::Upgrade(bytes)) = (self.pipes.remove(id), &mut output) {
            bytes.extend(pipe.take_input());
        }
        Some((id, output))
    }

    fn is_busy(&self) -> bool {
        self.tasks.is_woken()
            || !self.output.borrow().is_empty()
            || !self.finished.borrow().is_empty()
    }

    fn run_tasks(&mut self) {
        self.tasks.run();
    }
}

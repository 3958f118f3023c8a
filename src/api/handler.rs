//! The HTTP connections of one shard.

use super::context::ApiContext;
use super::pipe::{Output, Pipe};
use super::routes;
use crate::base::{ConnectionId, SlotMap};
use crate::net::wire::{HttpHandler, HttpOutput};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

/// Consecutive turns that tasks get before sockets are handled again.
const TURNS_MAX: usize = 8;

/// hyper on the shard's executor.
#[derive(Debug)]
pub struct Api {
    context: Arc<ApiContext>,
    pipes: SlotMap<Pipe>,
    /// Connections that have received input since tasks last ran.
    fed: Vec<ConnectionId>,
    output: Output,
    finished: Rc<RefCell<VecDeque<ConnectionId>>>,
}

impl Api {
    /// An API without connections.
    #[must_use]
    pub fn new(context: Arc<ApiContext>) -> Self {
        Self {
            context,
            pipes: SlotMap::default(),
            fed: Vec::new(),
            output: Output::default(),
            finished: Rc::default(),
        }
    }

    fn open(&mut self, id: ConnectionId) -> Pipe {
        let pipe = Pipe::new(id, Rc::clone(&self.output));
        self.pipes.insert(id, pipe.clone());
        let context = Arc::clone(&self.context);
        let finished = Rc::clone(&self.finished);
        let connection = http1::Builder::new()
            // A peer that shuts down its sending side after the request still expects the answer.
            .half_close(true)
            // One request per connection: proxies reuse connections, so the next request may be an
            // upgrade, which only the shard can decide. It also bounds the number of answers that
            // wait for a peer that does not read.
            .keep_alive(false)
            // The shard's timer wheel closes idle connections; hyper needs no timer.
            .header_read_timeout(None)
            .serve_connection(
                pipe.clone(),
                service_fn(move |request| {
                    let context = Arc::clone(&context);
                    async move { Ok::<_, Infallible>(routes::answer(&context, request).await) }
                }),
            );
        glommio::spawn_local(async move {
            // hyper has already answered errors of the peer with a status.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "http connection");
            }
            finished.borrow_mut().push_back(id);
        })
        .detach();
        pipe
    }
}

impl HttpHandler for Api {
    fn receive(&mut self, id: ConnectionId, bytes: &[u8]) {
        let pipe = match self.pipes.get(id) {
            Some(pipe) => pipe.clone(),
            None => self.open(id),
        };
        pipe.push(bytes);
        self.fed.push(id);
    }

    fn end(&mut self, id: ConnectionId) {
        if let Some(pipe) = self.pipes.get(id) {
            pipe.end();
            self.fed.push(id);
        }
    }

    fn closed(&mut self, id: ConnectionId) {
        if let Some(pipe) = self.pipes.remove(id) {
            // The task of the connection ends at the end of its input.
            pipe.end();
            self.fed.push(id);
        }
    }

    fn take_output(&mut self) -> Option<(ConnectionId, HttpOutput)> {
        if let Some((id, bytes)) = self.output.borrow_mut().pop_front() {
            return Some((id, HttpOutput::Bytes(bytes)));
        }
        let id = self.finished.borrow_mut().pop_front()?;
        self.pipes.remove(id);
        Some((id, HttpOutput::End))
    }

    fn is_busy(&self) -> bool {
        !self.fed.is_empty()
            || !self.output.borrow().is_empty()
            || !self.finished.borrow().is_empty()
    }

    async fn run_tasks(&mut self) {
        for _ in 0..TURNS_MAX {
            glommio::executor().yield_task_queue_now().await;
            // A task that does not wait for input has more to do, whatever its pipe holds, because
            // hyper yields now and then. (Answers wait only for the body of the request.)
            let pipes = &self.pipes;
            let is_runnable = |pipe: &Pipe| !pipe.awaits_input();
            self.fed
                .retain(|id| pipes.get(*id).is_some_and(is_runnable));
            if self.fed.is_empty() {
                return;
            }
        }
    }
}

//! The tasks of a shard's HTTP connections.
//!
//! They run where the event loop calls [`Tasks::run`], and not on glommio's executor: what other
//! threads wake there is looked at when that executor sleeps, which it never does under an event loop
//! of its own.

use futures_util::stream::{FuturesUnordered, Stream};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};

/// Tasks that may end in one turn of the event loop.
const ENDS_PER_TURN: usize = 64;

/// Tasks, each run when it is woken, from whatever thread.
pub(super) struct Tasks {
    futures: FuturesUnordered<Pin<Box<dyn Future<Output = ()>>>>,
    root: Arc<RootWaker>,
    waker: Waker,
}

/// Notes that a task was woken, and ends the sleep of the event loop if that was on another thread.
struct RootWaker {
    is_woken: AtomicBool,
    home: ThreadId,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Wake for RootWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release: pairs with the acquire in `run`, which then sees what the task waits for.
        self.is_woken.store(true, Ordering::Release);
        if thread::current().id() != self.home {
            (self.wake)();
        }
    }
}

impl Tasks {
    /// No tasks, on this thread. `wake` ends the sleep of its event loop.
    pub(super) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        let root = Arc::new(RootWaker {
            is_woken: AtomicBool::new(false),
            home: thread::current().id(),
            wake: Box::new(wake),
        });
        Self {
            futures: FuturesUnordered::new(),
            waker: Arc::clone(&root).into(),
            root,
        }
    }

    /// Adds a task, which runs with the next call of `run`.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + 'static) {
        self.futures.push(Box::pin(task));
        self.waker.wake_by_ref();
    }

    /// Whether `run` has something to do.
    pub(super) fn is_woken(&self) -> bool {
        // Relaxed: `run` looks again.
        self.root.is_woken.load(Ordering::Relaxed)
    }

    /// Runs the tasks that were woken.
    pub(super) fn run(&mut self) {
        // Before the tasks are looked at: one that is woken meanwhile is run in the next turn.
        if !self.root.is_woken.swap(false, Ordering::Acquire) {
            return;
        }
        let mut context = Context::from_waker(&self.waker);
        for _ in 0..ENDS_PER_TURN {
            match Pin::new(&mut self.futures).poll_next(&mut context) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
        self.waker.wake_by_ref();
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Tasks");
        debug
            .field("tasks", &self.futures.len())
            .finish_non_exhaustive()
    }
}

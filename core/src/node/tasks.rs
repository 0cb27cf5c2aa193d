//! Tasks with an owner: started through it, cancelled by it, and awaited by it.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::runtime::{BoxFuture, Runtime};
use crate::time::Duration;

/// The tasks of a subsystem. A clone is the same owner; [`child`](Self::child) is another below it.
#[derive(Clone)]
pub(crate) struct Tasks {
    runtime: Arc<dyn Runtime>,
    cancelled: CancellationToken,
    running: Arc<Counter>,
}

/// How many tasks of an owner and of those below it have not ended.
struct Counter {
    count: watch::Sender<usize>,
    parent: Option<Arc<Counter>>,
}

impl Counter {
    fn new(parent: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            count: watch::Sender::new(0),
            parent,
        })
    }

    fn change(&self, change: fn(&mut usize)) {
        self.count.send_modify(change);
        if let Some(parent) = &self.parent {
            parent.change(change);
        }
    }
}

impl Tasks {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self {
            runtime,
            cancelled: CancellationToken::new(),
            running: Counter::new(None),
        }
    }

    /// Tasks that end with these, and may be ended before.
    pub(crate) fn child(&self) -> Self {
        Self {
            runtime: self.runtime.clone(),
            cancelled: self.cancelled.child_token(),
            running: Counter::new(Some(self.running.clone())),
        }
    }

    pub(crate) fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.runtime
    }

    /// Runs `task` until it ends or the owner cancels it: it is then dropped at the point where it waits.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let cancelled = self.cancelled.clone();
        self.spawn_until_done(name, async move {
            crate::select! {
                () = cancelled.cancelled() => (),
                () = task => (),
            }
        });
    }

    /// Runs `task` until it ends by itself.
    pub(crate) fn spawn_until_done(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let guard = Running::new(self.running.clone());
        let task: BoxFuture<'static, ()> = Box::pin(async move {
            let _guard = guard;
            task.await;
        });
        self.runtime.spawn(name, task);
    }

    /// Runs `work`, which may block, and gives what it returns; `None` where it has panicked, or the runtime
    /// has ended before it began. It goes on where the future is dropped.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, mut result) = oneshot::channel();
        let work = Box::new(move || {
            // Where nobody waits any more, nobody wants the result.
            let _ = sender.send(work());
        });
        self.runtime.blocking(name, work).await;
        result.try_recv().ok()
    }

    /// Cancels the tasks without waiting for them.
    pub(crate) fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// Completes when no task of this owner and of those below it runs.
    pub(crate) async fn ended(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self
            .running
            .count
            .subscribe()
            .wait_for(|count| *count == 0)
            .await;
    }

    /// The output of `future`, or `None` once `limit` has passed. The future is dropped then.
    pub(crate) async fn timeout<F: Future>(
        &self,
        limit: Duration,
        reason: &'static str,
        future: F,
    ) -> Option<F::Output> {
        let deadline = self.runtime.now() + limit;
        crate::select! {
            output = future => Some(output),
            () = self.runtime.sleep_until(deadline, reason) => None,
        }
    }
}

/// Counts a task for as long as it exists, whether it returns, panics or is never polled.
struct Running(Arc<Counter>);

impl Running {
    fn new(counter: Arc<Counter>) -> Self {
        counter.change(|count| *count += 1);
        Self(counter)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.change(|count| *count -= 1);
    }
}

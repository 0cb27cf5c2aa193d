//! Tasks with an owner: started through it, cancelled by it, and awaited by it.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::runtime::{BoxFuture, Runtime};
use crate::time::Duration;

/// The tasks of a subsystem. A clone is the same owner; [`child`](Self::child) is another below it.
#[derive(Clone)]
pub(crate) struct Tasks {
    runtime: Arc<dyn Runtime>,
    cancelled: CancellationToken,
    /// How many tasks of this owner and its children have not ended.
    running: watch::Sender<usize>,
}

impl Tasks {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self {
            runtime,
            cancelled: CancellationToken::new(),
            running: watch::Sender::new(0),
        }
    }

    /// Tasks that end with these, and may be ended before.
    pub(crate) fn child(&self) -> Self {
        Self {
            cancelled: self.cancelled.child_token(),
            ..self.clone()
        }
    }

    pub(crate) fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.runtime
    }

    /// Cancelled when the tasks are to end.
    pub(crate) fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
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

    /// Runs `task` until it ends; it looks at [`cancelled`](Self::cancelled) itself, to end in good order.
    pub(crate) fn spawn_until_done(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.running.send_modify(|running| *running += 1);
        let guard = Running(self.running.clone());
        let task: BoxFuture<'static, ()> = Box::pin(async move {
            let _guard = guard;
            task.await;
        });
        self.runtime.spawn(name, task);
    }

    /// Cancels the tasks without waiting for them.
    pub(crate) fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// Completes when no task of this owner, its parents and its children runs.
    pub(crate) async fn ended(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self
            .running
            .subscribe()
            .wait_for(|running| *running == 0)
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
struct Running(watch::Sender<usize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

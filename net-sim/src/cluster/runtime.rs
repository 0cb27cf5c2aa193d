//! The runtime of a simulated host.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use smalti_core::id::{NetworkId, SecretKey};
use smalti_core::protocol::raft::StorageError;
use smalti_core::runtime::{
    BindError, BoxFuture, Clock, Endpoint, EndpointConfig, Entropy, OpenStore, Spawner, Stores,
    Transport,
};
use smalti_core::time::{Instant, WallTime};
use tokio::sync::oneshot;

use super::state::{Life, Run};
use super::{stores, transport};
use crate::time::SimTime;
use crate::trace::{EventKind, digest};

/// What one life of one host has of the world.
///
/// Everything goes through the fence: once the host has crashed, nothing that its former tasks and their
/// destructors do takes effect.
pub(super) struct SimRuntime {
    run: Run,
    life: Life,
    executor: tokio::runtime::Handle,
}

impl SimRuntime {
    /// The runtime of `life`, on whose executor this is called.
    pub(super) fn new(run: Run, life: Life) -> Self {
        Self {
            run,
            life,
            executor: tokio::runtime::Handle::current(),
        }
    }
}

impl Clock for SimRuntime {
    fn now(&self) -> Instant {
        self.run.lock().monotonic(self.life)
    }

    fn wall(&self) -> WallTime {
        let state = self.run.lock();
        let now = state.sim_time(self.life);
        state.host(self.life.node).clock.wall(now)
    }

    fn sleep_until(&self, deadline: Instant, reason: &'static str) -> BoxFuture<'static, ()> {
        let (run, life) = (self.run.clone(), self.life);
        Box::pin(async move {
            sleep_until(&run, life, deadline).await;
            let mut state = run.lock();
            if state.is_live(life) {
                let now = state.sim_time(life);
                let describe = || reason.to_owned();
                state
                    .trace
                    .record(now, life.node, EventKind::Timer, digest(reason), describe);
            }
        })
    }
}

/// Completes when the clock of `life` shows `deadline`.
pub(super) async fn sleep_until(run: &Run, life: Life, deadline: Instant) {
    if deadline == Instant::FAR_FUTURE {
        return std::future::pending().await;
    }
    loop {
        let left = {
            let state = run.lock();
            if state.monotonic(life) >= deadline {
                return;
            }
            // The clock may run fast or slow, and change its rate before it is there.
            let due: SimTime = state.host(life.node).clock.when(deadline);
            due.since(state.sim_time(life))
        };
        sleep(left).await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the executor of a host has the simulated clock"
)]
async fn sleep(duration: std::time::Duration) {
    tokio::time::sleep(duration).await;
}

impl Entropy for SimRuntime {
    fn seed(&self, label: &str) -> [u8; 32] {
        self.run.lock().draw_seed(self.life, label)
    }
}

impl Spawner for SimRuntime {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the tasks of a host are run"
    )]
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        // By the host's own executor: the handle may have been taken to another host.
        self.executor.spawn(HostTask {
            run: self.run.clone(),
            life: self.life,
            task,
        });
    }

    fn blocking(
        &self,
        name: &'static str,
        work: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        let (run, life) = (self.run.clone(), self.life);
        let disk = {
            let state = run.lock();
            if !state.is_live(life) {
                return Box::pin(std::future::pending());
            }
            state.host(life.node).disk.disk().clone()
        };
        work();
        let (counts, cost) = (disk.counts(), disk.take_cost());
        {
            let mut state = run.lock();
            let now = state.sim_time(life);
            let text = format!("{name}: {counts:?}, {cost:?}");
            state
                .trace
                .record(now, life.node, EventKind::Disk, digest(&text), || text);
        }
        let (sender, done) = oneshot::channel();
        let wait = async move {
            if !cost.is_zero() {
                sleep(cost).await;
            }
            run.lock().host(life.node).disk.end_syncs(counts.changes());
            // Where nobody waits for it, it has ended all the same.
            let _ = sender.send(());
        };
        self.spawn("disk", Box::pin(wait));
        Box::pin(async move {
            // The host has crashed where the other end is gone.
            if done.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

impl Stores for SimRuntime {
    fn open_store(
        &self,
        directory: PathBuf,
        network: NetworkId,
        given: Option<SecretKey>,
    ) -> BoxFuture<'_, Result<OpenStore, StorageError>> {
        let (run, life) = (self.run.clone(), self.life);
        let (sender, mut opened) = oneshot::channel();
        let work = move || {
            // Where nobody waits any more, the store is closed again.
            let _ = sender.send(stores::open(&run, life, &directory, network, given));
        };
        Box::pin(async move {
            self.blocking("open the store", Box::new(work)).await;
            opened.try_recv().unwrap_or(Err(StorageError::Closed))
        })
    }
}

impl Transport for SimRuntime {
    fn bind(&self, config: EndpointConfig) -> BoxFuture<'_, Result<Arc<dyn Endpoint>, BindError>> {
        Box::pin(async move {
            #[cfg(feature = "full")]
            if self.run.lock().over_quic {
                return super::full::bind(&self.run, self.life, &self.executor, config).await;
            }
            let (endpoint, driver) = transport::bind(&self.run, self.life, &config).await?;
            self.spawn("transport", driver);
            Ok(endpoint)
        })
    }
}

/// A task of a host: it stands still while the host is paused, and for good once it has crashed.
pub(super) struct HostTask<F> {
    pub(super) run: Run,
    pub(super) life: Life,
    pub(super) task: F,
}

impl<F: Future + Unpin> Future for HostTask<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut state = self.run.lock();
            if !state.is_live(self.life) {
                return Poll::Pending;
            }
            let host = state.host_mut(self.life.node);
            if host.paused {
                host.waiting_for_resume.push(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Pin::new(&mut self.task).poll(cx)
    }
}

//! Quinn's runtime on a simulated host.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;

use quinn::{AsyncTimer, AsyncUdpSocket};
use tokio::runtime::Handle;

use super::super::runtime::HostTask;
use super::super::state::{Life, Run};
use crate::time::SimTime;

/// Timers and tasks of one life of a host.
pub(super) struct HostRuntime {
    pub(super) run: Run,
    pub(super) life: Life,
    executor: Handle,
    /// What the executor's clock showed at a point of simulated time.
    began: (Reading, SimTime),
}

/// Quinn's notion of time. Only differences count: where it begins is the real clock's, which shows nowhere.
#[expect(
    clippy::disallowed_types,
    reason = "quinn's runtime trait has this type"
)]
type Reading = std::time::Instant;

impl HostRuntime {
    pub(super) fn new(run: &Run, life: Life, executor: &Handle) -> Arc<Self> {
        let now = run.lock().sim_time(life);
        let began = (executor_time(), now);
        Arc::new(Self {
            run: run.clone(),
            life,
            executor: executor.clone(),
            began,
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the tasks of a host are run"
    )]
    pub(super) fn spawn_task(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.executor.spawn(HostTask {
            run: self.run.clone(),
            life: self.life,
            task,
        });
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "the executor's clock is the simulated one"
)]
fn executor_time() -> Reading {
    tokio::time::Instant::now().into_std()
}

impl fmt::Debug for HostRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostRuntime({})", self.life.node)
    }
}

impl quinn::Runtime for HostRuntime {
    fn new_timer(&self, deadline: Reading) -> Pin<Box<dyn AsyncTimer>> {
        let _context = self.executor.enter();
        quinn::TokioRuntime.new_timer(deadline)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.spawn_task(future);
    }

    fn wrap_udp_socket(&self, _socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a simulated host has no real socket",
        ))
    }

    fn now(&self) -> Reading {
        // Not the executor's clock: destructors ask, too, when there is no executor any more.
        let now = self.run.lock().sim_time(self.life);
        self.began.0 + now.since(self.began.1)
    }
}

//! The runtime of a node that is alone in the world, for tests of what concerns it alone: its tasks go on when a test wants it,
//! time passes meanwhile, and its store is in memory.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::{Network, NetworkBuilder};
use crate::id::{NetworkId, PeerId, SecretKey};
use crate::protocol::raft::{InMemoryStorage, StorageError};
use crate::runtime::{
    Alpn, BindError, BoxFuture, Clock, Connection, DialError, Endpoint, EndpointConfig, Entropy,
    OpenStore, Spawner, Stores, Transport,
};
use crate::time::{Duration, Instant, WallTime};
use crate::wire::CloseCode;

/// Time passes in such steps.
const STEP: Duration = Duration::from_millis(50);

type Task = (&'static str, BoxFuture<'static, ()>);

/// See the module.
#[derive(Default)]
pub(super) struct Alone {
    tasks: Mutex<Vec<Task>>,
    /// Nanoseconds.
    now: Arc<AtomicU64>,
    seeds: AtomicU64,
}

/// Polls a future that nobody wakes.
pub(super) fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

impl Alone {
    /// A node on it, with a data directory.
    pub(super) fn node(self: &Arc<Self>) -> Network {
        let builder = NetworkBuilder::new("test").with_data_dir("data");
        self.run(builder.build_on(self.clone())).unwrap()
    }

    /// Takes the tasks of some names; dropping them ends them where they are.
    pub(super) fn tasks(&self, of: impl Fn(&str) -> bool) -> Vec<Task> {
        let mut tasks = self.tasks.lock().unwrap();
        tasks.extract_if(.., |(name, _)| of(name)).collect()
    }

    /// Lets all tasks go on, except those of this name, and time with them, until `future` is ready. `None` where it is
    /// not within a minute.
    pub(super) fn run_without<F: Future>(&self, held: &str, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        for _ in 0..60_000 / STEP.as_millis() {
            if let Poll::Ready(output) = poll(future.as_mut()) {
                return Some(output);
            }
            let mut tasks = self.tasks(|name| name != held);
            tasks.retain_mut(|(_, task)| poll(task.as_mut()).is_pending());
            self.tasks.lock().unwrap().extend(tasks);
            let step = u64::try_from(STEP.as_nanos()).unwrap();
            self.now.fetch_add(step, Ordering::Relaxed);
        }
        None
    }

    /// Lets all tasks go on until `future` is ready, which it must be within a minute.
    pub(super) fn run<F: Future>(&self, future: F) -> F::Output {
        let output = self.run_without("", future);
        output.expect("it ends within a minute")
    }
}

impl Spawner for Alone {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.tasks.lock().unwrap().push((name, task));
    }

    fn blocking(
        &self,
        _name: &'static str,
        work: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        work();
        Box::pin(std::future::ready(()))
    }
}

impl Clock for Alone {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.now.load(Ordering::Relaxed))
    }

    fn wall(&self) -> WallTime {
        WallTime::default()
    }

    fn sleep_until(&self, deadline: Instant, _reason: &'static str) -> BoxFuture<'static, ()> {
        let now = self.now.clone();
        // All tasks are polled each time.
        Box::pin(std::future::poll_fn(move |_| {
            let now = Instant::from_nanos(now.load(Ordering::Relaxed));
            if now >= deadline {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }))
    }
}

impl Entropy for Alone {
    fn seed(&self, _label: &str) -> [u8; 32] {
        let mut seed = [0; 32];
        let number = self.seeds.fetch_add(1, Ordering::Relaxed);
        seed[..8].copy_from_slice(&number.to_le_bytes());
        seed
    }
}

impl Transport for Alone {
    fn bind(&self, _config: EndpointConfig) -> BoxFuture<'_, Result<Arc<dyn Endpoint>, BindError>> {
        Box::pin(std::future::ready(
            Ok(Arc::new(Nobody) as Arc<dyn Endpoint>),
        ))
    }
}

impl Stores for Alone {
    fn open_store(
        &self,
        _directory: PathBuf,
        _network: NetworkId,
        given: Option<SecretKey>,
    ) -> BoxFuture<'_, Result<OpenStore, StorageError>> {
        let store = OpenStore {
            storage: Box::new(InMemoryStorage::new()),
            secret_key: given.unwrap_or_else(|| SecretKey::from("alone")),
        };
        Box::pin(std::future::ready(Ok(store)))
    }
}

/// An endpoint that nobody reaches.
struct Nobody;

impl Endpoint for Nobody {
    fn addresses(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    fn addresses_changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn dial(
        &self,
        _peer: PeerId,
        _addresses: Vec<SocketAddr>,
        _protocol: Alpn,
    ) -> BoxFuture<'_, Result<Arc<dyn Connection>, DialError>> {
        Box::pin(std::future::pending())
    }

    fn accept(&self) -> BoxFuture<'_, Option<Arc<dyn Connection>>> {
        Box::pin(std::future::pending())
    }

    fn close(&self, _code: CloseCode) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

//! A node's runtime that counts how often its store makes something durable, and what a process has cost so far.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use smalti::QuicRuntime;
use smalti_core::id::{GroupId, NetworkId, SecretKey};
use smalti_core::protocol::raft::{Recovered, Storage, StorageError, Write};
use smalti_core::runtime::{
    BindError, BoxFuture, Clock, Endpoint, EndpointConfig, Entropy, OpenStore, Spawner, Stores,
    Transport,
};
use smalti_core::time::{Instant as NodeInstant, WallTime};

use super::common::processor_time;

/// How often something was made durable, and how long that has taken in all.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Syncs {
    /// So far.
    pub(crate) fn so_far(&self) -> (u64, Duration) {
        let nanos = self.nanos.load(Ordering::Relaxed);
        let count = self.count.load(Ordering::Relaxed);
        (count, Duration::from_nanos(nanos))
    }
}

/// The runtime of nodes over QUIC, whose stores count.
pub(crate) struct Counted {
    quic: QuicRuntime,
    syncs: Arc<Syncs>,
}

impl Counted {
    pub(crate) fn new(syncs: Arc<Syncs>) -> Arc<Self> {
        let quic = QuicRuntime::new();
        Arc::new(Self { quic, syncs })
    }
}

impl Transport for Counted {
    fn bind(&self, config: EndpointConfig) -> BoxFuture<'_, Result<Arc<dyn Endpoint>, BindError>> {
        self.quic.bind(config)
    }
}

impl Clock for Counted {
    fn now(&self) -> NodeInstant {
        self.quic.now()
    }

    fn wall(&self) -> WallTime {
        self.quic.wall()
    }

    fn sleep_until(&self, deadline: NodeInstant, reason: &'static str) -> BoxFuture<'static, ()> {
        self.quic.sleep_until(deadline, reason)
    }
}

impl Entropy for Counted {
    fn seed(&self, label: &str) -> [u8; 32] {
        self.quic.seed(label)
    }
}

impl Spawner for Counted {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.quic.spawn(name, task);
    }

    fn blocking(
        &self,
        name: &'static str,
        work: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        self.quic.blocking(name, work)
    }
}

impl Stores for Counted {
    fn open_store(
        &self,
        directory: PathBuf,
        network: NetworkId,
        given: Option<SecretKey>,
    ) -> BoxFuture<'_, Result<OpenStore, StorageError>> {
        Box::pin(async move {
            let opened = self.quic.open_store(directory, network, given).await?;
            let storage = Box::new(CountedStorage {
                inner: opened.storage,
                syncs: self.syncs.clone(),
            });
            Ok(OpenStore { storage, ..opened })
        })
    }
}

struct CountedStorage {
    inner: Box<dyn Storage>,
    syncs: Arc<Syncs>,
}

impl Storage for CountedStorage {
    fn load(&mut self, group: &GroupId) -> Result<Option<Recovered>, StorageError> {
        self.inner.load(group)
    }

    fn write(&mut self, group: &GroupId, write: Write) -> Result<(), StorageError> {
        self.inner.write(group, write)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        let start = Instant::now();
        let synced = self.inner.sync();
        let nanos = start.elapsed().as_nanos() as u64;
        self.syncs.count.fetch_add(1, Ordering::Relaxed);
        self.syncs.nanos.fetch_add(nanos, Ordering::Relaxed);
        synced
    }

    fn forget(&mut self, group: &GroupId) -> Result<(), StorageError> {
        self.inner.forget(group)
    }
}

/// What this process, with all three nodes and their caller, has cost so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) processor: Duration,
    /// How often a thread went to sleep.
    sleeps: u64,
}

impl Cost {
    pub(crate) fn so_far() -> Self {
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
        let sleeps = tasks.flatten().filter_map(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let line = status.lines().find(|it| it.starts_with("voluntary_ctxt"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        Self {
            processor: processor_time(),
            sleeps: sleeps.sum(),
        }
    }

    /// What each of `count` has cost since.
    pub(crate) fn of_each(self, count: u64) -> String {
        let now = Self::so_far();
        let processor = (now.processor - self.processor).as_secs_f64() * 1e6 / count as f64;
        let sleeps = now.sleeps.saturating_sub(self.sleeps) as f64 / count as f64;
        format!("{processor:.2} us of processor time, {sleeps:.2} sleeps each")
    }
}

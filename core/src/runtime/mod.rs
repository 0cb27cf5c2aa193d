//! What a node needs of the world, as object-safe traits.
//!
//! Core is written against these alone. In production they are QUIC, the machine's clock and the
//! executor's tasks; in the simulator they are a simulated network, clock and scheduler, and the code above
//! them is the same. All methods that wait are cancellation safe unless they say otherwise: dropping the
//! returned future undoes nothing that has happened and loses nothing that was given.

mod disk;
mod stores;
mod transport;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use disk::{Disk, DiskFile};
pub use stores::{OpenStore, Stores};
pub use transport::{
    Alpn, BiStream, BindError, Connection, ConnectionError, DialError, Endpoint, EndpointConfig,
    RecvStream, SendDatagramError, SendStream, Side, StreamError,
};

use crate::time::{Instant, WallTime};

/// A future on the heap. Control operations pay for one; data never does.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// All that one node needs of the world.
pub trait Runtime: Transport + Clock + Entropy + Spawner + Stores {}

impl<T: Transport + Clock + Entropy + Spawner + Stores + ?Sized> Runtime for T {}

/// Opens the node's one socket.
pub trait Transport: Send + Sync + 'static {
    /// Binds an endpoint that listens and dials under the key of `config`.
    fn bind(&self, config: EndpointConfig) -> BoxFuture<'_, Result<Arc<dyn Endpoint>, BindError>>;
}

/// The node's clocks.
pub trait Clock: Send + Sync + 'static {
    /// The monotonic clock: never decreases, and starts near [`Instant::ZERO`] with the node.
    fn now(&self) -> Instant;

    /// The wall clock: may jump, either way.
    fn wall(&self) -> WallTime;

    /// Completes at `deadline` or soon after; `reason` is for traces.
    fn sleep_until(&self, deadline: Instant, reason: &'static str) -> BoxFuture<'static, ()>;
}

/// The node's source of randomness.
pub trait Entropy: Send + Sync + 'static {
    /// A seed for the purpose named by `label`.
    ///
    /// In production it is fresh from the operating system at each call. In the simulator it follows from
    /// the simulation's seed, the host, its life, the label and how often the label was asked for.
    fn seed(&self, label: &str) -> [u8; 32];
}

/// Runs tasks.
pub trait Spawner: Send + Sync + 'static {
    /// Runs `task` in the background until it completes. `name` is for traces and panics' reports.
    ///
    /// There is no handle: a task ends by itself once its cancellation token is cancelled.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>);

    /// Runs `work`, which may block, where it holds no task up. The future completes once it is done; where
    /// it has panicked too, which is reported. `name` is for traces and reports.
    ///
    /// The work is begun by the call, not by the future's first poll, and goes on where the future is
    /// dropped. So it hands its result over by a channel that is looked at when the future has completed, and
    /// not before: in production the work runs on a thread of its own; in the simulator it is done at once,
    /// and the future completes when the time has passed that the host's disk takes for it, or never where
    /// the host has crashed by then.
    fn blocking(
        &self,
        name: &'static str,
        work: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()>;
}

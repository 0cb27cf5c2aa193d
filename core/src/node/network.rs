//! A node of a network, as applications see it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connections::Connections;
use super::discovery::Discovery;
use super::groups::Groups;
use super::store::Store;
use super::streams::Streams;
use super::tasks::Tasks;
use crate::id::{NetworkId, PeerId, SecretKey};
use crate::protocol::discovery::PeerAddr;
use crate::protocol::raft::StorageError;
use crate::runtime::{BindError, Endpoint};
use crate::time::{Duration, Instant};
use crate::wire::CloseCode;

/// A node of a network: who it is, and what it can do with the others.
///
/// A clone is the same node. When the last clone is dropped the node departs gracefully in the background;
/// [`shutdown`](Self::shutdown) does it at once and waits for it. Handles of subsystems do not keep the node
/// alive.
#[derive(Clone)]
pub struct Network(Arc<Handle>);

/// What dropping the last clone of a [`Network`] drops.
struct Handle {
    network: NetworkId,
    local: Local,
    discovery: Discovery,
    streams: Streams,
    groups: Groups,
    connections: Connections,
    depart: CancellationToken,
    departed: watch::Receiver<bool>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.depart.cancel();
    }
}

/// A node cannot be started.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The configuration of discovery makes no sense.
    #[error("the configuration of discovery: {0}")]
    Discovery(#[from] crate::protocol::discovery::ConfigError),
    /// The configuration of bonds makes no sense.
    #[error("the configuration of bonds: {0}")]
    Bonds(#[from] crate::protocol::bonds::ConfigError),
    /// The data directory cannot be used.
    #[error("the data directory: {0}")]
    Storage(#[from] StorageError),
}

/// What a running node is made of.
pub(super) struct Parts {
    pub(super) network: NetworkId,
    pub(super) secret_key: SecretKey,
    pub(super) endpoint: Arc<dyn Endpoint>,
    pub(super) connections: Connections,
    pub(super) discovery: Discovery,
    pub(super) streams: Streams,
    pub(super) groups: Groups,
    /// `None` where there is no data directory.
    pub(super) store: Option<Store>,
    pub(super) tasks: Tasks,
    pub(super) departure_window: Duration,
}

impl Network {
    /// Makes the handle of a node that runs, and starts what shuts it down.
    pub(super) fn assemble(parts: Parts) -> Self {
        let depart = CancellationToken::new();
        let (departed_sender, departed) = watch::channel(false);
        let local = Local {
            id: parts.secret_key.peer_id(),
            secret_key: parts.secret_key,
            endpoint: parts.endpoint,
        };
        let supervisor = Supervisor {
            tasks: parts.tasks.clone(),
            discovery: parts.discovery.clone(),
            streams: parts.streams.clone(),
            groups: parts.groups.clone(),
            connections: parts.connections.clone(),
            store: parts.store,
            departure_window: parts.departure_window,
        };
        let asked = depart.clone();
        // Not among the node's tasks: it ends them and waits for them.
        parts.tasks.runtime().spawn(
            "network",
            Box::pin(async move {
                asked.cancelled().await;
                supervisor.shut_down().await;
                departed_sender.send_replace(true);
            }),
        );
        Self(Arc::new(Handle {
            network: parts.network,
            local,
            discovery: parts.discovery,
            streams: parts.streams,
            groups: parts.groups,
            connections: parts.connections,
            depart,
            departed,
        }))
    }

    /// The network that the node is in.
    #[must_use]
    pub fn network_id(&self) -> NetworkId {
        self.0.network
    }

    /// The node itself.
    #[must_use]
    pub fn local(&self) -> &Local {
        &self.0.local
    }

    /// Finds peers.
    #[must_use]
    pub fn discovery(&self) -> &Discovery {
        &self.0.discovery
    }

    /// Produces and consumes streams of datums.
    #[must_use]
    pub fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// Joins groups, whose members agree on one history of commands.
    #[must_use]
    pub fn groups(&self) -> &Groups {
        &self.0.groups
    }

    /// How often peers have broken a protocol since the node's start; each time their connection was closed.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.0.connections.violations() + self.0.groups.violations()
    }

    /// Departs from the network: tells the peers, closes all connections, and completes when the socket and
    /// all tasks are released. All clones of the handle are of no use from then on. Repeated calls wait for
    /// the same end. It never takes longer than the graceful departure window, the transport's farewell, and
    /// what the disk needs to take what was written, where there is a data directory.
    ///
    /// Cancellation safe: the departure goes on.
    pub async fn shutdown(&self) {
        self.0.depart.cancel();
        let mut departed = self.0.departed.clone();
        // An error means that the runtime has dropped the supervisor: nothing is left to wait for.
        let _ = departed.wait_for(|departed| *departed).await;
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("network", &self.0.network)
            .field("local", &self.0.local.id)
            .finish_non_exhaustive()
    }
}

/// Ends a node.
struct Supervisor {
    tasks: Tasks,
    discovery: Discovery,
    streams: Streams,
    groups: Groups,
    connections: Connections,
    store: Option<Store>,
    departure_window: Duration,
}

impl Supervisor {
    async fn shut_down(self) {
        // Streams first, so that who consumes has got all by the time it hears of the departure; bonds before
        // discovery, so that members hear of it on their links. Each has its third of the window and what those
        // before it have left, so that a peer that does not take what it is sent cannot stop the farewell.
        let begun = self.tasks.runtime().now();
        let streams = self.streams.shut_down();
        if !self.by(begun, 1, "end of streams", streams).await {
            tracing::debug!("not all consumers took what was sent in time");
        }
        let groups = self.groups.shut_down();
        if !self.by(begun, 2, "end of groups", groups).await {
            tracing::debug!("not all members took what was sent in time");
        }
        let leave = self.discovery.leave();
        if !self.by(begun, 3, "departure", leave).await {
            tracing::debug!("not all neighbours took note of the departure in time");
        }
        self.connections.close(CloseCode::GRACEFUL_SHUTDOWN).await;
        self.tasks.cancel();
        // Last, so that whatever the others have still written is in it.
        if let Some(store) = &self.store {
            store.close().await;
        }
        self.tasks.ended().await;
    }

    /// Whether `step` is done within so many thirds of the window that has `begun` then.
    async fn by(
        &self,
        begun: Instant,
        thirds: u32,
        name: &'static str,
        step: impl Future<Output = ()>,
    ) -> bool {
        let end = begun + self.departure_window * thirds / 3;
        let left = end.since(self.tasks.runtime().now());
        self.tasks.timeout(left, name, step).await.is_some()
    }
}

/// The node itself: its identity and where it is.
pub struct Local {
    id: PeerId,
    secret_key: SecretKey,
    endpoint: Arc<dyn Endpoint>,
}

impl Local {
    /// The node's id: its public key.
    #[must_use]
    pub const fn id(&self) -> PeerId {
        self.id
    }

    /// The node's id and where it can be reached; in text, what another node takes as its bootstrap peer.
    #[must_use]
    pub fn addr(&self) -> PeerAddr {
        PeerAddr::new(self.id, self.addresses())
    }

    /// Where the node can be reached.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.endpoint.addresses()
    }

    /// Completes when the node can be reached. A node listens from the moment it is built, so this completes
    /// at once; it does not wait for peers.
    pub fn online(&self) -> std::future::Ready<()> {
        std::future::ready(())
    }

    /// The node's secret key. Whoever has it can be the node.
    #[must_use]
    pub const fn secret_key(&self) -> &SecretKey {
        &self.secret_key
    }
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

//! How a node is configured and started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::connections::{Connections, LocalIdentity, Protocols};
use super::discovery::{self, CatalogSync, Gossip};
use super::groups::{self, BondLinks, Foundation};
use super::network::{Error, Network, Parts};
use super::store::Store;
use super::streams::{self, Subscriptions};
use super::tasks::Tasks;
use crate::id::{Instance, NetworkId, SecretKey};
use crate::protocol::bonds;
use crate::protocol::discovery::{ConfigBuilder, Identity, LocalChange, OneOrMany, PeerAddr};
use crate::runtime::{EndpointConfig, Runtime};
use crate::wire::NetworkSecret;

/// Configures a node. What is not set keeps its default.
#[derive(Clone)]
#[must_use]
pub struct NetworkBuilder {
    network: NetworkId,
    secret_key: Option<SecretKey>,
    network_secret: Option<String>,
    addresses: Vec<SocketAddr>,
    bootstrap: Vec<PeerAddr>,
    discovery: ConfigBuilder,
    data_dir: Option<PathBuf>,
    bonds: bonds::Config,
}

impl NetworkBuilder {
    /// A node of `network` with all defaults.
    pub fn new(network: impl Into<NetworkId>) -> Self {
        Self {
            network: network.into(),
            secret_key: None,
            network_secret: None,
            addresses: Vec::new(),
            bootstrap: Vec::new(),
            discovery: ConfigBuilder::default(),
            data_dir: None,
            bonds: bonds::Config::default(),
        }
    }

    /// The node's identity. Default: that of the [data directory](Self::with_data_dir), and without one a new
    /// one at each start.
    pub fn with_secret_key(mut self, key: impl Into<SecretKey>) -> Self {
        self.secret_key = Some(key.into());
        self
    }

    /// Closes the network to nodes that do not have the same secret, as they prove when they connect.
    /// Default: none; the network is open to whoever knows its id.
    ///
    /// Starting the node takes some tens of milliseconds longer with it, to make guesses expensive.
    pub fn with_network_secret(mut self, secret: impl Into<String>) -> Self {
        self.network_secret = Some(secret.into());
        self
    }

    /// Where to listen: the first address that can be bound. Default: all interfaces, a free port.
    pub fn with_addresses(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.addresses = addresses.into_iter().collect();
        self
    }

    /// Adds peers to join through, besides those that the configuration of discovery names. Default: none.
    pub fn with_bootstrap<M>(mut self, peers: impl OneOrMany<PeerAddr, M>) -> Self {
        peers.append_to(&mut self.bootstrap);
        self
    }

    /// How peers are found.
    pub fn with_discovery(mut self, config: impl Into<ConfigBuilder>) -> Self {
        self.discovery = config.into();
        self
    }

    /// How bonds with the members of groups are kept.
    pub fn with_groups(mut self, config: bonds::Config) -> Self {
        self.bonds = config;
        self
    }

    /// Where the node keeps what is to outlive it: its secret key, and what its groups have stored. The
    /// directory is made where it is not there; one node at a time has it open. It belongs to the network and to
    /// the key that it was made with: another network and [another key](Self::with_secret_key) are refused.
    /// Default: none; nothing outlives the node.
    ///
    /// Starting the node takes as long as reading all that is stored.
    pub fn with_data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(directory.into());
        self
    }

    /// Starts the node on `runtime`. It never waits for peers: it is done when the node listens.
    ///
    /// # Errors
    /// [`Error`] where the configuration makes no sense, the data directory cannot be used, or no address can
    /// be bound.
    pub async fn build_on(self, runtime: Arc<dyn Runtime>) -> Result<Network, Error> {
        let config = self.discovery.with_bootstrap(self.bootstrap).build()?;
        self.bonds.validate()?;
        let bootstrap = config.bootstrap.iter().map(|peer| peer.id).collect();
        let tasks = Tasks::new(runtime.clone());
        let (secret_key, store) = match self.data_dir {
            Some(directory) => {
                let (network, given) = (self.network, self.secret_key);
                let opened = runtime.open_store(directory, network, given).await?;
                let store = Store::start(&tasks, opened.storage);
                (opened.secret_key, Some(store))
            }
            None => {
                let fresh = || SecretKey::from_bytes(runtime.seed("secret key"));
                (self.secret_key.unwrap_or_else(fresh), None)
            }
        };
        let secret = self
            .network_secret
            .map(|text| NetworkSecret::new(&text, self.network));
        let instance = new_instance(&*runtime);

        let mut protocols = Protocols::default();
        let listeners = discovery::Listeners {
            gossip: protocols.listen::<Gossip>(),
            catalog: protocols.listen::<CatalogSync>(),
        };
        let subscriptions = protocols.listen::<Subscriptions>();
        let bond_links = protocols.listen::<BondLinks>();
        let endpoint = runtime
            .bind(EndpointConfig {
                secret_key: secret_key.clone(),
                addresses: self.addresses,
                protocols: protocols.names(),
            })
            .await;
        if let (Err(_), Some(store)) = (&endpoint, &store) {
            // So that whoever tries again, elsewhere, finds the directory free.
            store.close().await;
        }
        let endpoint = endpoint?;
        let local = LocalIdentity {
            peer: secret_key.peer_id(),
            network: self.network,
            instance,
            secret,
        };
        let connections = Connections::start(tasks.clone(), endpoint.clone(), local, protocols);
        let identity = Identity {
            network: self.network,
            secret_key: secret_key.clone(),
            instance,
            addresses: endpoint.addresses(),
            wall: runtime.wall(),
        };
        let departure_window = config.graceful_departure_window;
        let discovery = discovery::start(&tasks, &connections, listeners, identity, config);

        let streams = streams::start(&tasks, &connections, &discovery, subscriptions);
        let groups = groups::start(Foundation {
            tasks: &tasks,
            local: secret_key.peer_id(),
            connections: &connections,
            discovery: &discovery,
            listener: bond_links,
            store: store.clone(),
            bootstrap,
            departure_window,
            bonds: self.bonds,
        });

        let (changed, to_announce) = (endpoint.clone(), discovery.clone());
        tasks.spawn("announce addresses", async move {
            loop {
                changed.addresses_changed().await;
                let addresses = LocalChange::SetAddresses(changed.addresses());
                match to_announce.change(addresses).await {
                    Ok(()) => {}
                    Err(discovery::Error::ShuttingDown) => return,
                    Err(error) => tracing::warn!(%error, "new addresses cannot be announced"),
                }
            }
        });
        Ok(Network::assemble(Parts {
            network: self.network,
            secret_key,
            endpoint,
            connections,
            discovery,
            streams,
            groups,
            store,
            tasks,
            departure_window,
        }))
    }
}

fn new_instance(runtime: &dyn Runtime) -> Instance {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&runtime.seed("instance")[..16]);
    Instance::from_bytes(bytes)
}

//! Nodes that can be lost as a whole.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use smalti::discovery::PeerAddr;
use smalti::groups::ConsensusConfig;
use smalti::{Network, NetworkBuilderExt, NetworkExt, discovery};
use tokio::runtime::Runtime;

use crate::Result;

/// A node on an executor of its own, and what it has joined.
pub(crate) struct Member<H> {
    pub(crate) runtime: Runtime,
    pub(crate) network: Network,
    pub(crate) handle: H,
}

/// Starts a node, and lets it join something.
pub(crate) async fn start<H, F>(
    bootstrap: PeerAddr,
    join: impl FnOnce(Network) -> F + Send + 'static,
) -> Result<Member<H>>
where
    H: Send + 'static,
    F: Future<Output = Result<(Network, H)>> + Send,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let joined = runtime.spawn(async move {
        let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
        let network = Network::builder("quickstart")
            .with_addresses([loopback])
            .with_discovery(discovery::Config::builder().with_bootstrap(bootstrap))
            .build()
            .await?;
        join(network).await
    });
    let (network, handle) = joined.await??;
    Ok(Member {
        runtime,
        network,
        handle,
    })
}

/// Shorter times than by default, since there is only loopback between the members.
pub(crate) fn consensus() -> ConsensusConfig {
    ConsensusConfig {
        heartbeat_interval: Duration::from_millis(100),
        heartbeat_jitter: Duration::from_millis(30),
        election_timeout: Duration::from_millis(500),
        election_timeout_jitter: Duration::from_millis(200),
        bootstrap_delay: Duration::from_millis(500),
        ..ConsensusConfig::default()
    }
}

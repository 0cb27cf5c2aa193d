//! Nodes for tests of streams.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use smalti::discovery::Config;
use smalti::*;

/// What every wait of these tests is bounded by. Nothing here should come near it.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trade {
    pub(crate) number: u64,
    pub(crate) text: String,
}

pub(crate) fn trade(number: u64) -> Trade {
    Trade {
        number,
        text: format!("trade {number}"),
    }
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("took too long: {what}"),
    }
}

pub(crate) async fn node(network: &str, tags: &[&str], bootstrap: Option<&Network>) -> Network {
    let mut config =
        Config::builder().with_tags(tags.iter().map(|tag| Tag::from(*tag)).collect::<Vec<_>>());
    if let Some(bootstrap) = bootstrap {
        config = config.with_bootstrap(bootstrap.local().addr());
    }
    Network::builder(network)
        .with_addresses([([127, 0, 0, 1], 0).into()])
        .with_discovery(config)
        .build()
        .await
        .expect("loopback has a free port")
}

pub(crate) async fn pair(network: &str) -> (Network, Network) {
    let first = node(network, &["first"], None).await;
    let second = node(network, &["second"], Some(&first)).await;
    (first, second)
}

//! Collections over real QUIC and on a real disk, in one process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use smalti::collections::{CollectionConfig, Map, OpenError, Set};
use smalti::declare::{CollectionDef, ReaderDef, ReaderOf, WriterDef, WriterOf};
use smalti::discovery::Config;
use smalti::groups::{ConsensusConfig, GroupKey, Storage};
use smalti::{
    Network, NetworkBuilder, NetworkBuilderExt, NetworkExt, StoreId, collection, unique_id,
};

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    let bounded = tokio::time::timeout(Duration::from_secs(60), future).await;
    bounded.expect("it takes too long")
}

/// Short times, so that tests need not wait.
fn quick() -> CollectionConfig {
    CollectionConfig::default().with_consensus_config(ConsensusConfig {
        heartbeat_interval: Duration::from_millis(50),
        heartbeat_jitter: Duration::from_millis(20),
        election_timeout: Duration::from_millis(400),
        election_timeout_jitter: Duration::from_millis(200),
        bootstrap_delay: Duration::from_millis(300),
        ..ConsensusConfig::default()
    })
}

fn builder(bootstrap: Option<&Network>) -> NetworkBuilder {
    let mut config = Config::builder();
    if let Some(bootstrap) = bootstrap {
        config = config.with_bootstrap(bootstrap.local().addr());
    }
    Network::builder("collections")
        .with_addresses([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
        .with_discovery(config)
}

/// A map that is declared by hand, with a configuration of its own.
struct Prices;

impl CollectionDef for Prices {
    type Collection = Map<String, u64>;
    const ID: StoreId = unique_id!("prices");

    fn config() -> CollectionConfig {
        quick()
    }
}

impl ReaderDef for Prices {}
impl WriterDef for Prices {}

collection! {
    /// Who was there.
    pub writer Visitors = Set<String>, "visitors";
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_three_writers_write_a_reader_reads() {
    let mut networks: Vec<Network> = Vec::new();
    let mut writers: Vec<WriterOf<Prices>> = Vec::new();
    for _ in 0..3 {
        let network = builder(networks.first()).build().await.unwrap();
        writers.push(Prices::writer(&network).await.unwrap());
        networks.push(network);
    }
    for (number, prices) in writers.iter().enumerate() {
        bounded(prices.online()).await.unwrap();
        let written = bounded(prices.insert(number.to_string(), number as u64)).await;
        assert_eq!(written.unwrap().output, None);
    }
    let late = builder(networks.first()).build().await.unwrap();
    let prices: ReaderOf<Prices> = bounded(Prices::online_reader(&late)).await.unwrap();
    let strong = bounded(prices.strong()).await.unwrap();
    assert!(strong.values().eq(&[0, 1, 2]));
    assert!(prices.iter().eq(strong.contents()));
    // Declared by the macro, for writers alone.
    let visitors: WriterOf<Visitors> = bounded(Visitors::online_writer(&late)).await.unwrap();
    assert!(*bounded(visitors.insert("Anna".to_owned())).await.unwrap());
    for network in networks.iter().chain([&late]) {
        bounded(network.shutdown()).await;
    }
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("it was made");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_map_is_there_after_a_restart_and_refuses_other_types() {
    let name = format!("collections-{}", std::process::id());
    let scratch = Scratch(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
    let start = || builder(None).with_data_dir(scratch.0.clone()).build();
    let durable = || quick().with_storage(Storage::Durable);
    let network = start().await.unwrap();
    let opened = Map::<u32, String>::online_writer_with_config(&network, "durable", durable());
    let map = bounded(opened).await.unwrap();
    let entries = (0..1_000).map(|number| (number, number.to_string()));
    assert_eq!(*bounded(map.extend(entries)).await.unwrap(), 1_000);
    bounded(network.shutdown()).await;

    let network = start().await.unwrap();
    let opened = Map::<u32, u64>::online_writer_with_config(&network, "durable", durable());
    let error = bounded(opened).await.unwrap_err();
    let OpenError::Schema(conflict) = error else {
        panic!("{error}");
    };
    assert_ne!(conflict.ours, conflict.theirs);
    let opened = Map::<u32, String>::online_writer_with_config(&network, "durable", durable());
    let map = bounded(opened).await.unwrap();
    assert_eq!((map.len(), map.get(&999)), (1_000, Some("999".to_owned())));
    bounded(network.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_know_the_secret_has_another_collection() {
    let first = builder(None).build().await.unwrap();
    let second = builder(Some(&first)).build().await.unwrap();
    let secret = || quick().with_secret(GroupKey::from_bytes([7; 32]));
    let closed = Set::<u8>::online_writer_with_config(&first, "guests", secret());
    let closed = bounded(closed).await.unwrap();
    let open = Set::<u8>::online_writer_with_config(&second, "guests", quick());
    let open = bounded(open).await.unwrap();
    bounded(closed.insert(1)).await.unwrap();
    bounded(open.insert(2)).await.unwrap();
    assert!(closed.iter().eq([1]) && open.iter().eq([2]));
    for network in [first, second] {
        bounded(network.shutdown()).await;
    }
}

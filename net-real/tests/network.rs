//! Nodes over real QUIC, in one process.

use std::time::Duration;

use smalti::discovery::Config;
use smalti::{Network, NetworkBuilderExt, NetworkExt};

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    let bounded = tokio::time::timeout(Duration::from_secs(30), future).await;
    bounded.expect("it takes too long")
}

#[tokio::test]
async fn a_node_needs_neither_peers_nor_configuration() {
    let network = bounded(Network::new("alone")).await.unwrap();
    assert_eq!(network.network_id(), "alone".into());
    assert!(!network.local().addresses().is_empty());
    bounded(network.shutdown()).await;
}

#[tokio::test]
async fn a_node_alone_has_nobody_to_wait_for_when_it_departs() {
    let config = Config::builder().with_graceful_departure_window(Duration::from_secs(3_600));
    let network = Network::builder("alone")
        .with_discovery(config)
        .build()
        .await
        .unwrap();
    bounded(network.shutdown()).await;
}

#[tokio::test]
async fn nodes_find_each_other_and_departures_are_seen() {
    let a = Network::new("pair").await.unwrap();
    let config = Config::builder().with_bootstrap(a.local().addr());
    let b = Network::builder("pair")
        .with_discovery(config)
        .build()
        .await
        .unwrap();
    for (one, other) in [(&a, &b), (&b, &a)] {
        let mut catalog = one.discovery().catalog_watch();
        let other = other.local().id();
        bounded(catalog.wait_for(|catalog| catalog.get(&other).is_some()))
            .await
            .unwrap();
    }
    bounded(b.shutdown()).await;
    let mut catalog = a.discovery().catalog_watch();
    bounded(catalog.wait_for(|catalog| catalog.peers_count() == 0))
        .await
        .unwrap();
    bounded(a.shutdown()).await;
}

#[test]
fn a_node_may_be_used_and_dropped_outside_of_its_executor() {
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let network = executor.block_on(Network::new("outside")).unwrap();
    let clone = network.clone();
    let socket = network.local().addresses()[0];
    std::thread::spawn(move || drop(clone)).join().unwrap();
    drop(network);
    // The departure goes on in the background until the socket is free.
    executor.block_on(bounded(async {
        while std::net::UdpSocket::bind(socket).is_err() {
            tokio::task::yield_now().await;
        }
    }));
}

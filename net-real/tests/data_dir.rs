//! Nodes with a data directory.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use smalti::network::Error;
use smalti::protocol::raft::StorageError;
use smalti::{Network, NetworkBuilder, NetworkBuilderExt, NetworkExt, SecretKey};

/// A directory that is removed when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("smalti-data-dir-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// A node on loopback whose data directory this is.
    fn node(&self) -> NetworkBuilder {
        Network::builder("data")
            .with_addresses([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
            .with_data_dir(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("it was made");
    }
}

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    let bounded = tokio::time::timeout(Duration::from_secs(30), future).await;
    bounded.expect("it takes too long")
}

#[tokio::test]
async fn a_data_directory_keeps_the_nodes_key() {
    let scratch = Scratch::new("key");
    let first = bounded(scratch.node().build()).await.unwrap();
    let (id, key) = (first.local().id(), first.local().secret_key().clone());
    bounded(first.shutdown()).await;
    for again in [scratch.node(), scratch.node().with_secret_key(key)] {
        let again = bounded(again.build()).await.unwrap();
        assert_eq!(again.local().id(), id);
        bounded(again.shutdown()).await;
    }
}

#[tokio::test]
async fn another_key_than_the_directorys_is_refused() {
    let scratch = Scratch::new("foreign");
    let ours = SecretKey::from("ours");
    let first = scratch.node().with_secret_key(ours.clone());
    let first = bounded(first.build()).await.unwrap();
    assert_eq!(first.local().id(), ours.peer_id());
    bounded(first.shutdown()).await;
    let other = scratch.node().with_secret_key(SecretKey::from("another"));
    let refused = bounded(other.build()).await.map(drop).unwrap_err();
    let is_foreign = matches!(refused, Error::Storage(StorageError::Foreign { .. }));
    assert!(is_foreign, "{refused}");
    let ours_again = bounded(scratch.node().build()).await.unwrap();
    assert_eq!(ours_again.local().id(), ours.peer_id());
    bounded(ours_again.shutdown()).await;
}

#[tokio::test]
async fn one_node_at_a_time_has_a_data_directory() {
    let scratch = Scratch::new("in-use");
    let first = bounded(scratch.node().build()).await.unwrap();
    let refused = bounded(scratch.node().build()).await.map(drop).unwrap_err();
    let is_in_use = matches!(refused, Error::Storage(StorageError::InUse { .. }));
    assert!(is_in_use, "{refused}");
    bounded(first.shutdown()).await;
    let second = bounded(scratch.node().build()).await.unwrap();
    bounded(second.shutdown()).await;
}

#[tokio::test]
async fn a_data_directory_belongs_to_one_network() {
    let scratch = Scratch::new("network");
    let first = bounded(scratch.node().build()).await.unwrap();
    let id = first.local().id();
    bounded(first.shutdown()).await;
    let elsewhere = Network::builder("elsewhere")
        .with_addresses([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
        .with_data_dir(&scratch.0);
    let refused = bounded(elsewhere.build()).await.map(drop).unwrap_err();
    let is_foreign = matches!(refused, Error::Storage(StorageError::Foreign { .. }));
    assert!(is_foreign, "{refused}");
    let again = bounded(scratch.node().build()).await.unwrap();
    assert_eq!(again.local().id(), id, "it is left as it was");
    bounded(again.shutdown()).await;

    for noted in ["no network", &"z".repeat(65), &"ab".repeat(32)] {
        std::fs::write(scratch.0.join("network"), noted).unwrap();
        let refused = bounded(scratch.node().build()).await.map(drop).unwrap_err();
        let is_damaged = matches!(refused, Error::Storage(StorageError::Damaged { .. }));
        assert!(is_damaged, "{refused}");
    }
}

#[tokio::test]
async fn a_node_that_cannot_be_started_leaves_the_directory_free() {
    let scratch = Scratch::new("bind");
    let taken = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let fails = scratch.node().with_addresses([taken.local_addr().unwrap()]);
    let refused = bounded(fails.build()).await.map(drop).unwrap_err();
    assert!(matches!(refused, Error::Bind(_)), "{refused}");
    let node = bounded(scratch.node().build()).await.unwrap();
    bounded(node.shutdown()).await;
}

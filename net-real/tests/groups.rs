//! Groups over real QUIC and on a real disk, in one process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smalti::discovery::Config;
use smalti::groups::{
    ApplyContext, CommandError, ConsensusConfig, Group, GroupBuilder, GroupKey, JoinError,
    QueryError, Serialized, StateMachine, Stopped, Storage,
};
use smalti::{
    Network, NetworkBuilder, NetworkBuilderExt, NetworkExt, Strong, UniqueId, Weak, unique_id,
};

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    let bounded = tokio::time::timeout(Duration::from_secs(60), future).await;
    bounded.expect("it takes too long")
}

/// Keeps the sum, and is fragile.
#[derive(Default)]
struct Sum(u64);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Command {
    Add(u64),
    Panic,
    Blob(Vec<u8>),
}

impl StateMachine for Sum {
    type Command = Command;
    type Output = u64;
    /// Panics where it is true.
    type Query = bool;
    type QueryResult = u64;
    type Snapshot = Serialized<u64>;

    fn signature(&self) -> UniqueId {
        unique_id!("sum of the tests")
    }
    fn apply(&mut self, command: Command, _context: ApplyContext) -> u64 {
        match command {
            Command::Add(n) => self.0 += n,
            Command::Panic => panic!("the command says so"),
            Command::Blob(bytes) => self.0 += bytes.len() as u64,
        }
        self.0
    }
    fn query(&self, panics: bool) -> u64 {
        assert!(!panics, "the query says so");
        self.0
    }
    fn snapshot(&self) -> Serialized<u64> {
        Serialized(self.0)
    }
    fn restore(&mut self, Serialized(sum): Serialized<u64>) {
        self.0 = sum;
    }
}

/// Short times, so that tests need not wait.
fn quick() -> ConsensusConfig {
    ConsensusConfig {
        heartbeat_interval: Duration::from_millis(50),
        heartbeat_jitter: Duration::from_millis(20),
        election_timeout: Duration::from_millis(400),
        election_timeout_jitter: Duration::from_millis(200),
        bootstrap_delay: Duration::from_millis(300),
        ..ConsensusConfig::default()
    }
}

fn builder(bootstrap: Option<&Network>) -> NetworkBuilder {
    let mut config = Config::builder();
    if let Some(bootstrap) = bootstrap {
        config = config.with_bootstrap(bootstrap.local().addr());
    }
    Network::builder("groups")
        .with_addresses([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
        .with_discovery(config)
}

fn group_of(network: &Network) -> GroupBuilder<Sum> {
    let group = network.groups().with_key(GroupKey::from_bytes([1; 32]));
    let group = group.with_state_machine(Sum::default());
    group.with_consensus_config(quick())
}

/// Three nodes in one group, all of them voters.
async fn three() -> Vec<(Network, Group<Sum>)> {
    let mut members: Vec<(Network, Group<Sum>)> = Vec::new();
    for _ in 0..3 {
        let first = members.first().map(|(network, _)| network);
        let network = builder(first).build().await.expect("a node starts");
        let group = group_of(&network)
            .join()
            .await
            .expect("the group can be joined");
        members.push((network, group));
    }
    for (_, group) in &members {
        while group.status().voters.len() < 3 {
            group.when().committed().await;
        }
        group.when().online().await;
    }
    members
}

async fn shut_down(members: Vec<(Network, Group<Sum>)>) {
    for (network, _) in members {
        bounded(network.shutdown()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_agree() {
    let members = bounded(three()).await;
    for (_, group) in &members {
        bounded(group.execute(Command::Add(2))).await.unwrap();
    }
    for (_, group) in &members {
        let sum = bounded(group.query(false, Strong)).await.unwrap();
        assert_eq!(*sum, 6);
        assert_eq!(group.bonds().len(), 2);
        assert_eq!(group.leader(), members[0].1.leader());
    }
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_panics_stops_its_group_on_its_node_and_the_node_goes_on() {
    let members = bounded(three()).await;
    let leader = members.iter().find(|(_, group)| group.is_leader());
    let (network, group) = leader.unwrap();
    bounded(group.execute(Command::Add(1))).await.unwrap();
    let error = bounded(group.execute(Command::Panic)).await.unwrap_err();
    assert!(matches!(error, CommandError::Unknown), "{error}");
    let expected = Stopped::Panicked("the command says so".to_owned());
    assert_eq!(group.status().stopped, Some(expected.clone()));
    let error = bounded(group.execute(Command::Add(1))).await.unwrap_err();
    assert_eq!(error.into_command(), Some(Command::Add(1)));
    assert_eq!(
        bounded(group.query(false, Weak)).await,
        Err(QueryError::Stopped(expected))
    );
    // Another group of the same node is not concerned.
    let other = network.groups().with_key(GroupKey::from_bytes([2; 32]));
    let other = other.with_consensus_config(quick()).join().await.unwrap();
    bounded(other.when().is_leader()).await;
    bounded(other.execute(())).await.unwrap();
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_panics_stops_the_group_on_its_node_alone() {
    let members = bounded(three()).await;
    let error = bounded(members[0].1.query(true, Weak)).await;
    let why = Stopped::Panicked("the query says so".to_owned());
    assert_eq!(error, Err(QueryError::Stopped(why)));
    bounded(members[1].1.execute(Command::Add(3)))
        .await
        .unwrap();
    assert_eq!(
        *bounded(members[2].1.query(false, Strong)).await.unwrap(),
        3
    );
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_commands_go_through_and_too_large_ones_come_back() {
    let members = bounded(three()).await;
    let follower = members.iter().find(|(_, group)| !group.is_leader());
    let (_, group) = follower.unwrap();
    let large = Command::Blob(vec![7; 4 << 20]);
    assert_eq!(*bounded(group.execute(large)).await.unwrap(), 4 << 20);
    let too_large = Command::Blob(vec![7; 9 << 20]);
    let error = bounded(group.execute(too_large.clone())).await.unwrap_err();
    assert!(matches!(error, CommandError::TooLong { .. }), "{error}");
    assert_eq!(error.into_command(), Some(too_large));
    shut_down(members).await;
}

#[tokio::test]
async fn what_cannot_work_is_refused_when_joining() {
    let network = builder(None).build().await.unwrap();
    let durable = group_of(&network).with_storage(Storage::Durable);
    assert!(matches!(durable.join().await, Err(JoinError::NoDataDir)));
    let config = ConsensusConfig {
        max_voters: 0,
        ..quick()
    };
    let impossible = group_of(&network).with_consensus_config(config).join();
    assert!(matches!(impossible.await, Err(JoinError::Config(_))));
    // Neither has left anything behind.
    let group = group_of(&network).join().await.unwrap();
    assert!(matches!(
        group_of(&network).join().await,
        Err(JoinError::AlreadyJoined(id)) if id == group.id()
    ));
    assert_eq!(network.groups().joined(), [group.id()]);
    bounded(network.shutdown()).await;
    assert!(matches!(
        group_of(&network).join().await,
        Err(JoinError::ShuttingDown)
    ));
}

/// A directory that is removed when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("smalti-groups-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("it was made");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_group_survives_the_restart_of_all_its_nodes() {
    let scratch = Scratch::new("durable");
    let mut incarnation = None;
    for round in 1..=3_u64 {
        let mut members: Vec<(Network, Group<Sum>)> = Vec::new();
        for number in 0..3 {
            let first = members.first().map(|(network, _)| network);
            let directory = scratch.0.join(number.to_string());
            let builder = builder(first).with_data_dir(directory);
            let network = builder.build().await.unwrap();
            let group = group_of(&network).with_storage(Storage::Durable);
            let group = bounded(group.join()).await.unwrap();
            members.push((network, group));
        }
        for (_, group) in &members {
            bounded(group.when().online()).await;
            bounded(group.execute(Command::Add(1))).await.unwrap();
        }
        let (_, group) = &members[0];
        assert_eq!(
            *bounded(group.query(false, Strong)).await.unwrap(),
            3 * round
        );
        let now = group.status().incarnation;
        assert_eq!(*incarnation.get_or_insert(now), now, "round {round}");
        shut_down(members).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_a_durable_group_forgets_it() {
    let scratch = Scratch::new("forgotten");
    let mut incarnations = Vec::new();
    for _ in 0..2 {
        let builder = builder(None).with_data_dir(&scratch.0);
        let network = builder.build().await.unwrap();
        let group = group_of(&network).with_storage(Storage::Durable);
        let group = bounded(group.join()).await.unwrap();
        bounded(group.when().online()).await;
        assert_eq!(*bounded(group.execute(Command::Add(1))).await.unwrap(), 1);
        incarnations.extend(group.status().incarnation);
        bounded(group.leave()).await;
        bounded(network.shutdown()).await;
    }
    assert_ne!(incarnations[0], incarnations[1]);
}

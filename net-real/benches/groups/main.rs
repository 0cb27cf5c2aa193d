//! What agreement costs: three nodes over QUIC on loopback in one process, with a counter, in memory and on redb,
//! beside a round trip of bare quinn on the same runtime in the same run. What a commit costs is that of all three nodes
//! and of the caller together.
//! `cargo bench -p smalti --bench groups [-- latency|throughput|bulk|failover|late|many|all] [--rounds N]`

mod bare;
#[path = "../common/mod.rs"]
mod common;
mod counted;
#[path = "../common/process.rs"]
mod process;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use smalti::groups::{
    ApplyContext, ConsensusConfig, Group, GroupKey, Serialized, StateMachine, Storage,
};
use smalti::{Network, NetworkExt, Strong, UniqueId, discovery, unique_id};
use tokio::runtime::Runtime;

use self::bare::ScratchFile;
use self::common::{CALLS, loopback, mode_and_rounds, percentiles, raw_round_trip, runtime};
use self::counted::{Cost, Counted, Syncs};
use self::process::resident;

const NODES: usize = 3;
/// How long each rate is measured.
const SPAN: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Counter(u64);

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Add(u64);

impl StateMachine for Counter {
    type Command = Add;
    type Output = u64;
    type Query = ();
    type QueryResult = u64;
    type Snapshot = Serialized<u64>;

    fn signature(&self) -> UniqueId {
        unique_id!("counter of the benchmark")
    }
    fn apply(&mut self, Add(n): Add, _context: ApplyContext) -> u64 {
        self.0 += n;
        self.0
    }
    fn query(&self, (): ()) -> u64 {
        self.0
    }
    fn snapshot(&self) -> Serialized<u64> {
        Serialized(self.0)
    }
    fn restore(&mut self, Serialized(count): Serialized<u64>) {
        self.0 = count;
    }
}

fn main() {
    // Cargo adds an argument of its own.
    let (mode, rounds) = mode_and_rounds(std::env::args().skip(1).filter(|it| it != "--bench"));
    let wants = |what: &str| mode == what || mode == "all";
    for round in 1..=rounds {
        println!("round {round}");
        for storage in [Storage::InMemory, Storage::Durable] {
            let runtime = runtime(2);
            runtime.block_on(async {
                let cluster = Cluster::start(storage).await;
                println!(
                    " {storage:?}: {NODES} nodes joined and led in {:.2?}",
                    cluster.joined_in
                );
                if wants("latency") {
                    latency(&cluster).await;
                }
                if wants("throughput") {
                    throughput(&cluster).await;
                }
                if wants("bulk") {
                    bulk(&cluster).await;
                }
                if wants("failover") {
                    leader_leaves(cluster).await;
                }
            });
        }
        if wants("failover") {
            leader_dies();
        }
        if wants("late") {
            late_member();
        }
        if wants("many") {
            many_groups();
        }
    }
}

/// Directories of the nodes' stores, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        Self(tmp.join(format!("bench-groups-{}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is not there where nothing was durable.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Cluster {
    /// The leader first.
    members: Vec<(Network, Group<Counter>)>,
    joined_in: Duration,
    storage: Storage,
    syncs: Arc<Syncs>,
    _scratch: Scratch,
}

async fn node(bootstrap: Option<&Network>, directory: Option<PathBuf>) -> Network {
    node_with(bootstrap, directory, &Arc::default()).await
}

/// A node whose store counts among `syncs`.
async fn node_with(
    bootstrap: Option<&Network>,
    directory: Option<PathBuf>,
    syncs: &Arc<Syncs>,
) -> Network {
    let mut config = discovery::Config::builder();
    if let Some(bootstrap) = bootstrap {
        config = config.with_bootstrap(bootstrap.local().addr());
    }
    let mut builder = Network::builder("bench").with_addresses([loopback()]);
    if let Some(directory) = directory {
        builder = builder.with_data_dir(directory);
    }
    let builder = builder.with_discovery(config);
    let network = builder.build_on(Counted::new(syncs.clone())).await;
    network.expect("a node starts on loopback")
}

async fn join(network: &Network, storage: Storage) -> Group<Counter> {
    let builder = network.groups().with_key(GroupKey::from_bytes([3; 32]));
    let builder = builder.with_state_machine(Counter::default());
    let group = builder.with_storage(storage).join().await;
    group.expect("the group can be joined")
}

impl Cluster {
    async fn start(storage: Storage) -> Self {
        let (scratch, syncs) = (Scratch::new(), Arc::default());
        let mut networks: Vec<Network> = Vec::new();
        for number in 0..NODES {
            let directory =
                (storage == Storage::Durable).then(|| scratch.0.join(number.to_string()));
            networks.push(node_with(networks.first(), directory, &syncs).await);
        }
        let started = Instant::now();
        let groups = join_all(networks.iter().map(|network| join(network, storage))).await;
        for group in &groups {
            group.when().online().await;
        }
        let joined_in = started.elapsed();
        // All vote before anything is measured.
        loop {
            let voters = groups[0].status().voters.len();
            if voters == NODES {
                break;
            }
            groups[0].when().committed().await;
        }
        let mut members: Vec<_> = networks.into_iter().zip(groups).collect();
        members.sort_by_key(|(_, group)| !group.is_leader());
        Self {
            members,
            joined_in,
            storage,
            syncs,
            _scratch: scratch,
        }
    }

    fn leader(&self) -> &Group<Counter> {
        &self.members[0].1
    }

    fn follower(&self) -> &Group<Counter> {
        &self.members[1].1
    }

    /// What `count` commits have cost `since`, and how many of them a member has made durable at a time.
    fn cost(&self, count: u64, (cost, (syncs, took)): (Cost, (u64, Duration))) -> String {
        let each = cost.of_each(count);
        if self.storage == Storage::InMemory {
            return each;
        }
        let (syncs, took) = {
            let (all, in_all) = self.syncs.so_far();
            (all - syncs, in_all - took)
        };
        let of_member = syncs as f64 / NODES as f64;
        let micros = took.as_secs_f64() * 1e6 / syncs as f64;
        format!(
            "{each}, {:.1} per sync of {micros:.0} us",
            count as f64 / of_member
        )
    }

    fn since(&self) -> (Cost, (u64, Duration)) {
        (Cost::so_far(), self.syncs.so_far())
    }
}

/// Median and 99th percentile of the times that `call` takes, one after the other.
async fn times<F: Future<Output = ()>>(mut call: impl FnMut() -> F) -> (f64, f64) {
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let start = Instant::now();
        call().await;
        times.push(start.elapsed());
    }
    percentiles(times)
}

async fn latency(cluster: &Cluster) {
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let raw = raw_round_trip().await;
    let fsync = (cluster.storage == Storage::Durable).then(|| fsync(1));
    if let Some(one) = fsync {
        println!("  {:<34} p50 {one:>7.1} us", "fdatasync of 4 KiB");
        // The members share a disk and its host's processor.
        let each = self::fsync(NODES);
        println!(
            "  {:<34} p50 {each:>7.1} us",
            "as many at once as there are nodes"
        );
        let (p50, p99) = bare::quorum(NODES).await;
        println!(
            "  {:<34} p50 {p50:>7.1} us  p99 {p99:>7.1} us",
            "a majority of bare quinn and files"
        );
    }
    let report = |name: &str, since, (p50, p99): (f64, f64)| {
        let ratio = (p50 - 1.5 * fsync.unwrap_or_default()) / raw.0;
        let what = if fsync.is_some() {
            " less 1.5 fsyncs"
        } else {
            ""
        };
        let cost = cluster.cost(CALLS as u64, since);
        println!(
            "  {name:<34} p50 {p50:>7.1} us  p99 {p99:>7.1} us  {ratio:>5.2} raw round trips{what}; {cost}"
        );
    };
    println!(
        "  {:<34} p50 {:>7.1} us  p99 {:>7.1} us",
        "bare quinn round trip, 64 B", raw.0, raw.1
    );
    let execute = |group: &Group<Counter>| {
        let group = group.clone();
        move || {
            let group = group.clone();
            async move {
                group.execute(Add(1)).await.expect("a majority is up");
            }
        }
    };
    let query = |group: &Group<Counter>| {
        let group = group.clone();
        move || {
            let group = group.clone();
            async move {
                group.query((), Strong).await.expect("a majority is up");
            }
        }
    };
    let since = cluster.since();
    report("execute at the leader", since, times(execute(leader)).await);
    let since = cluster.since();
    report(
        "execute at a follower",
        since,
        times(execute(follower)).await,
    );
    let raw_query = |name: &str, since: Cost, (p50, p99): (f64, f64)| {
        let (ratio, cost) = (p50 / raw.0, since.of_each(CALLS as u64));
        println!(
            "  {name:<34} p50 {p50:>7.1} us  p99 {p99:>7.1} us  {ratio:>5.2} raw round trips; {cost}"
        );
    };
    let since = Cost::so_far();
    raw_query(
        "strong query at the leader",
        since,
        times(query(leader)).await,
    );
    let since = Cost::so_far();
    raw_query(
        "strong query at a follower",
        since,
        times(query(follower)).await,
    );
    let since = cluster.since();
    let everywhere = times(|| async {
        let executed = leader.execute(Add(1)).await.expect("a majority is up");
        for (_, group) in &cluster.members {
            group
                .when()
                .committed()
                .reaches(executed.version.index)
                .await;
        }
    });
    report("applied on every member", since, everywhere.await);
}

async fn throughput(cluster: &Cluster) {
    let leader = cluster.leader();
    for in_flight in [1, 64, 256, 1_024] {
        let (start, mut done, since) = (Instant::now(), 0_u64, cluster.since());
        let first = leader.committed();
        let mut calls = FuturesUnordered::new();
        while start.elapsed() < SPAN {
            while calls.len() < in_flight {
                calls.push(leader.feed(Add(1)).await.expect("it runs"));
            }
            let executed = calls.next().await.expect("some are in flight");
            executed.expect("a majority is up");
            done += 1;
        }
        while let Some(executed) = calls.next().await {
            executed.expect("a majority is up");
            done += 1;
        }
        let rate = done as f64 / start.elapsed().as_secs_f64();
        let entries = leader.committed().0 - first.0;
        let batch = done as f64 / entries as f64;
        let cost = cluster.cost(done, since);
        println!(
            "  {in_flight:>5} in flight: {rate:>9.0} commits/s, {batch:>6.1} commands per entry; {cost}"
        );
    }
}

/// How many commands are executed in a second where a thousand are handed over at a time.
async fn bulk(cluster: &Cluster) {
    const COUNT: usize = 1_000;
    let leader = cluster.leader();
    for in_flight in [1, 4] {
        let (start, mut done, since) = (Instant::now(), 0_u64, cluster.since());
        let mut calls = FuturesUnordered::new();
        while start.elapsed() < SPAN {
            while calls.len() < in_flight {
                calls.push(leader.feed_many((0..COUNT).map(|_| Add(1))).await);
            }
            let executed = calls.next().await.expect("some are in flight");
            done += executed.into_iter().filter(Result::is_ok).count() as u64;
        }
        let rate = done as f64 / start.elapsed().as_secs_f64();
        let cost = cluster.cost(done, since);
        println!("  execute_many({COUNT}), {in_flight} at a time: {rate:>9.0} commands/s; {cost}");
    }
}

/// How long nothing is committed when the leader leaves in good order.
async fn leader_leaves(mut cluster: Cluster) {
    let (network, group) = cluster.members.remove(0);
    let survivor = cluster.members[0].1.clone();
    drop(group);
    let start = Instant::now();
    let leaving = tokio::spawn(async move { network.shutdown().await });
    // The leader is still there for as long as it says.
    let old = survivor.leader();
    let changed = survivor.when().leader_changed();
    if old == survivor.leader() {
        changed.await;
    }
    survivor.execute(Add(1)).await.expect("a majority is up");
    println!("  leader leaves: next commit after {:.1?}", start.elapsed());
    leaving.await.expect("no panic");
    for (network, _) in &cluster.members {
        network.shutdown().await;
    }
}

/// How long nothing is committed when the leader is gone without a word.
fn leader_dies() {
    let mut members: Vec<(Runtime, Network, Group<Counter>)> = Vec::new();
    for _ in 0..NODES {
        let runtime = runtime(1);
        let first = members.first().map(|(_, network, _)| network);
        let (network, group) = runtime.block_on(async {
            let network = node(first, None).await;
            let group = join(&network, Storage::InMemory).await;
            (network, group)
        });
        members.push((runtime, network, group));
    }
    for (runtime, _, group) in &members {
        runtime.block_on(async {
            while group.status().voters.len() < NODES {
                group.when().committed().await;
            }
            group.when().online().await;
        });
    }
    let leads = members.iter().position(|(_, _, group)| group.is_leader());
    let (runtime, network, group) = members.remove(leads.expect("somebody leads"));
    let start = Instant::now();
    runtime.shutdown_background();
    let (survivor, _, survivors) = &members[0];
    survivor.block_on(async { survivors.execute(Add(1)).await.expect("a majority is up") });
    let took = start.elapsed();
    let timeouts = took.as_secs_f64() / ConsensusConfig::default().election_timeout.as_secs_f64();
    println!(" leader dies: next commit after {took:.2?}, {timeouts:.2} election timeouts");
    drop((network, group));
    for (runtime, network, _) in members {
        runtime.block_on(async { network.shutdown().await });
    }
}

/// How a member that joins a million commands late catches up while writing goes on.
fn late_member() {
    const COMMANDS: u64 = 1_000_000;
    let scratch = Scratch::new();
    runtime(2).block_on(async {
        let config = ConsensusConfig {
            // All of it comes from the log.
            log_window: 2 * COMMANDS,
            snapshot_interval: 4 * COMMANDS,
            snapshot_bytes: 4 << 30,
            max_voters: 3,
            ..ConsensusConfig::default()
        };
        let join = |network: Network| {
            let config = config.clone();
            async move {
                let group = network.groups().with_key(GroupKey::from_bytes([4; 32]));
                let group = group.with_state_machine(Counter::default());
                let group = group.with_storage(Storage::Durable).with_consensus_config(config);
                let group = group.join().await.expect("the group can be joined");
                (network, group)
            }
        };
        let mut members: Vec<(Network, Group<Counter>)> = Vec::new();
        for number in 0..3 {
            let first = members.first().map(|(network, _)| network);
            let network = node(first, Some(scratch.0.join(number.to_string()))).await;
            members.push(join(network).await);
        }
        members[0].1.when().online().await;
        let leader = members.iter().find(|(_, group)| group.is_leader());
        let leader = leader.map_or(&members[0].1, |(_, group)| group).clone();
        while leader.status().commands < COMMANDS {
            let calls = join_all((0..256).map(|_| leader.feed(Add(1)))).await;
            for call in calls {
                call.expect("it runs").await.expect("a majority is up");
            }
        }
        let rate = |leader: Group<Counter>, until: Arc<std::sync::atomic::AtomicBool>| async move {
            let (start, mut done, mut slowest) = (Instant::now(), 0_u64, Duration::ZERO);
            while !until.load(std::sync::atomic::Ordering::Relaxed) {
                let call = Instant::now();
                leader.execute(Add(1)).await.expect("a majority is up");
                slowest = slowest.max(call.elapsed());
                done += 1;
            }
            (done as f64 / start.elapsed().as_secs_f64(), slowest)
        };
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let before = tokio::spawn(rate(leader.clone(), stop.clone()));
        tokio::time::sleep(SPAN).await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let (before, slowest_before) = before.await.expect("no panic");
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let during = tokio::spawn(rate(leader.clone(), stop.clone()));
        let entries = leader.committed().0;
        let start = Instant::now();
        let late = node(Some(&members[0].0), Some(scratch.0.join("late"))).await;
        let (late, group) = join(late).await;
        group.when().committed().reaches(smalti::groups::Index(entries)).await;
        let took = start.elapsed();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let (during, slowest) = during.await.expect("no panic");
        println!(
            " late: {COMMANDS} commands in {entries} entries behind, level after {took:.2?}; {before:.0} commits/s one at a time before (slowest {slowest_before:.1?}), {during:.0} meanwhile (slowest {slowest:.1?})"
        );
        late.shutdown().await;
        for (network, _) in &members {
            network.shutdown().await;
        }
    });
}

/// What two hundred groups between five nodes cost when nothing happens in them.
fn many_groups() {
    const GROUPS: u8 = 200;
    runtime(2).block_on(async {
        let mut networks: Vec<Network> = Vec::new();
        for _ in 0..5 {
            networks.push(node(networks.first(), None).await);
        }
        let (memory, start) = (resident(), Instant::now());
        let mut groups = Vec::new();
        for number in 0..GROUPS {
            for network in &networks {
                let key = GroupKey::from_bytes([number; 32]);
                let group = network.groups().with_key(key).with_state_machine(Counter::default());
                groups.push(group.join().await.expect("the group can be joined"));
            }
        }
        for group in &groups {
            group.when().online().await;
        }
        let online = start.elapsed();
        for group in &groups {
            while group.status().voters.len() < 5 {
                group.when().committed().await;
            }
        }
        let memberships = groups.len();
        let each = (resident() - memory) / memberships as f64;
        let (since, span) = (Cost::so_far(), Duration::from_secs(10));
        tokio::time::sleep(span).await;
        let processor = Cost::so_far().processor - since.processor;
        let busy = processor.as_secs_f64() / span.as_secs_f64();
        println!(
            " many: {GROUPS} groups of 5 nodes online in {online:.2?}; idle: {:.1} % of one core for all five, {each:.0} KiB for each of {memberships} memberships",
            busy * 100.0
        );
        for network in &networks {
            network.shutdown().await;
        }
    });
}

/// What making 4 KiB of a file durable takes, in us: the median, where so many do it to a file of their own at the same
/// time.
fn fsync(at_once: usize) -> f64 {
    const ROUNDS: usize = 200;
    let together = Barrier::new(at_once);
    let one = |number: usize| {
        let file = ScratchFile::new(number);
        let times = (0..ROUNDS).map(|_| {
            together.wait();
            let start = Instant::now();
            file.sync();
            start.elapsed()
        });
        times.collect::<Vec<Duration>>()
    };
    let times = std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..at_once)
            .map(|number| scope.spawn(move || one(number)))
            .collect();
        let times = threads.into_iter().map(|it| it.join().expect("no panic"));
        times.flatten().collect::<Vec<_>>()
    });
    percentiles(times).0
}

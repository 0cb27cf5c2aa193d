//! What a replicated map costs: one writer or three, and a reader, over QUIC on loopback in one process, in memory, beside a
//! round trip of bare quinn on the same runtime in the same run.
//! `cargo bench -p smalti --bench collections [-- rate|visible|late|get|join|crowd|all] [--rounds N]`

#[path = "../common/mod.rs"]
mod common;
mod join;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use smalti::collections::{Map, MapReader, MapWriter};
use smalti::discovery::PeerAddr;
use smalti::{Network, NetworkBuilderExt, NetworkExt, StoreId, discovery, unique_id};

use self::common::{
    CALLS, loopback, mode_and_rounds, percentiles, processor_time, raw_round_trip, runtime,
};
use self::join::Cores;

const ID: StoreId = unique_id!("map of the benchmark");
/// Where one node has acknowledged a write, and where a majority of three must have.
const WRITERS: [usize; 2] = [1, 3];
/// How long each rate is measured.
const SPAN: Duration = Duration::from_secs(2);
/// Entries of one `extend`.
const EXTENDED: u64 = 1_000;
/// What a reader that comes late has to get.
const ENTRIES: u64 = 100_000;

type Numbers = Map<u64, u64>;

fn main() {
    // Cargo adds an argument of its own.
    let arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|it| it != "--bench")
        .collect();
    if join::play(&arguments) {
        return;
    }
    let (mode, rounds) = mode_and_rounds(arguments.into_iter());
    let wants = |what: &str| mode == what || mode == "all";
    for round in 1..=rounds {
        println!("round {round}");
        if wants("join") {
            join::join(Cores::Shared);
            join::join(Cores::OneEach);
        }
        if wants("crowd") {
            runtime(2).block_on(join::crowd());
        }
        if wants("visible") || wants("rate") || wants("get") {
            for writers in WRITERS {
                println!("  {writers} of the nodes write:");
                runtime(2).block_on(shared(writers, &wants));
            }
        }
        if wants("late") {
            runtime(2).block_on(late_reader());
        }
    }
}

/// What is measured of one cluster after the other.
async fn shared(writers: usize, wants: &impl Fn(&str) -> bool) {
    let cluster = Cluster::start(writers).await;
    if wants("visible") {
        visible(&cluster).await;
    }
    if wants("rate") {
        rates(&cluster).await;
    }
    if wants("get") {
        gets(&cluster).await;
    }
    cluster.shut_down().await;
}

async fn node(bootstrap: Option<&Network>) -> Network {
    node_at(bootstrap.map(|bootstrap| bootstrap.local().addr())).await
}

async fn node_at(bootstrap: Option<PeerAddr>) -> Network {
    let mut config = discovery::Config::builder();
    if let Some(bootstrap) = bootstrap {
        config = config.with_bootstrap(bootstrap);
    }
    let builder = Network::builder("bench").with_addresses([loopback()]);
    let network = builder.with_discovery(config).build().await;
    network.expect("a node starts on loopback")
}

struct Cluster {
    networks: Vec<Network>,
    /// The leader.
    writer: MapWriter<u64, u64>,
    _others: Vec<MapWriter<u64, u64>>,
    reader: MapReader<u64, u64>,
}

impl Cluster {
    async fn start(count: usize) -> Self {
        let mut networks: Vec<Network> = Vec::new();
        for _ in 0..=count {
            networks.push(node(networks.first()).await);
        }
        let (reading, writing) = networks.split_last().expect("there are some");
        let opening = writing.iter().map(|node| Numbers::online_writer(node, ID));
        let writers = join_all(opening).await.into_iter();
        let mut writers: Vec<_> = writers.map(|it| it.expect("a majority is up")).collect();
        let reader = Numbers::online_reader(reading, ID).await;
        let reader = reader.expect("a majority is up");
        // All vote before anything is measured.
        while writers[0].status().voters.len() < count {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        writers.sort_by_key(|writer| !writer.status().is_leader());
        Self {
            writer: writers.remove(0),
            _others: writers,
            reader,
            networks,
        }
    }

    async fn shut_down(self) {
        for network in &self.networks {
            network.shutdown().await;
        }
    }
}

/// The time from the call of an insert at the leader until a reader has it.
async fn visible(cluster: &Cluster) {
    let raw = raw_round_trip().await;
    let mut times = Vec::with_capacity(CALLS);
    for number in 0..CALLS as u64 {
        let start = Instant::now();
        let written = cluster.writer.insert(number, number).await;
        let written = written.expect("a majority is up");
        cluster.reader.when().reaches(written.version).await;
        assert_eq!(cluster.reader.get(&number), Some(number));
        times.push(start.elapsed());
    }
    let (p50, p99) = percentiles(times);
    println!(
        "  bare quinn round trip, 64 B: p50 {:.1} us  p99 {:.1} us",
        raw.0, raw.1
    );
    println!(
        "  insert until a reader has it: p50 {p50:.1} us  p99 {p99:.1} us, {:.2} raw round trips",
        p50 / raw.0
    );
}

/// How many entries a second are written, and seen by the reader.
async fn rates(cluster: &Cluster) {
    for (in_flight, entries) in [(1, 1), (256, 1), (4, EXTENDED)] {
        let (start, since) = (Instant::now(), processor_time());
        let (mut written, mut next) = (0_u64, 0_u64);
        let mut calls = FuturesUnordered::new();
        let mut last = None;
        loop {
            while calls.len() < in_flight && start.elapsed() < SPAN {
                let first = next % (1 << 20);
                next += entries;
                let writer = cluster.writer.clone();
                calls.push(async move {
                    if entries == 1 {
                        writer.insert(first, first).await.map(|it| it.version)
                    } else {
                        let all = (first..first + entries).map(|number| (number, number));
                        writer.extend(all).await.map(|it| it.version)
                    }
                });
            }
            let Some(version) = calls.next().await else {
                break;
            };
            last = Some(version.expect("a majority is up"));
            written += entries;
        }
        cluster
            .reader
            .when()
            .reaches(last.expect("something was written"))
            .await;
        let rate = written as f64 / start.elapsed().as_secs_f64();
        let cost = (processor_time() - since).as_secs_f64() * 1e6 / written as f64;
        let what = if entries == 1 {
            "insert"
        } else {
            "extend of 1,000"
        };
        println!(
            "  {what}, {in_flight} in flight: {rate:.0} entries/s until the reader has them, at {cost:.1} us on all nodes together"
        );
    }
}

/// How often a key is read on the reader's node while writes go on.
async fn gets(cluster: &Cluster) {
    let stop = Arc::new(AtomicBool::new(false));
    let (writer, stopped) = (cluster.writer.clone(), stop.clone());
    let writing = tokio::spawn(async move {
        let mut written = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            let calls = join_all((0..64).map(|number| writer.insert(number, written))).await;
            written += calls.into_iter().filter(Result::is_ok).count() as u64;
        }
        written
    });
    let reader = cluster.reader.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let (start, mut read) = (Instant::now(), 0_u64);
        while start.elapsed() < SPAN {
            for number in 0..1_000 {
                std::hint::black_box(reader.get(&(number % 64)));
            }
            read += 1_000;
        }
        read as f64 / start.elapsed().as_secs_f64()
    });
    let rate = reading.await.expect("no panic");
    stop.store(true, Ordering::Relaxed);
    let written = writing.await.expect("no panic") as f64 / SPAN.as_secs_f64();
    println!("  get: {rate:.0}/s in one thread, while {written:.0} inserts/s go on");
}

/// How long a reader takes that comes when the map of three writers is full.
async fn late_reader() {
    let cluster = Cluster::start(3).await;
    for first in (0..ENTRIES).step_by(EXTENDED as usize) {
        let all = (first..first + EXTENDED).map(|number| (number, number));
        cluster.writer.extend(all).await.expect("a majority is up");
    }
    let late = node(cluster.networks.first()).await;
    let start = Instant::now();
    let reader = Numbers::online_reader(&late, ID).await;
    let reader = reader.expect("a majority is up");
    let took = start.elapsed();
    assert_eq!(reader.len() as u64, ENTRIES);
    println!("  late reader: {ENTRIES} entries after {took:.2?}");
    late.shutdown().await;
    cluster.shut_down().await;
}

//! The whole of Smalti in one run: nodes that know one address find each other over QUIC, two of them
//! produce, the others consume, and every datum is checked. Then three more form a group, which loses its leader and
//! nothing else; and three more fill a map that all nodes read, which does so too.
//!
//! `cargo run --release --bin quickstart -- --help` tells what can be changed.

mod collection;
mod group;
mod member;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::SinkExt;
use serde::{Deserialize, Serialize};
use smalti::{Bytes, Consumer, PeerId, Producer, discovery, tag};
use smalti::{Network, NetworkBuilderExt, NetworkExt};

/// Starts nodes over QUIC on loopback that know one bootstrap address, lets them find each other, streams
/// from two producers to all other nodes, and checks that everything arrives in order. Then three more nodes form a
/// group and execute commands; its leader is killed, and nothing that was acknowledged may be lost. At last three more
/// fill a map that all nodes read, whose leader is killed too.
#[derive(Parser)]
#[command(name = "quickstart", version)]
struct Options {
    /// How many nodes to start: two produce, the others consume.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(3..=200))]
    nodes: u16,
    /// How many datums each producer sends.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    items: u64,
    /// Bytes of payload in each datum.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=8 * 1_024 * 1_024))]
    size: u32,
    /// How many commands each member of the group executes, before and after the leader's death.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    commands: u64,
    /// How many entries each writer puts into the map, before and after the leader's death.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    entries: u64,
    /// Give up where the run takes longer than this, in seconds.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const PRODUCERS: usize = 2;

/// What is streamed.
#[derive(Serialize, Deserialize)]
struct Reading {
    number: u64,
    payload: Bytes,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let limit = Duration::from_secs(options.timeout);
    let result = match tokio::time::timeout(limit, run(&options)).await {
        Ok(result) => result,
        Err(_) => Err(format!("not done after {} s; see --timeout", options.timeout).into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let nodes = start_nodes(options.nodes.into()).await?;
    let (producing, consuming) = nodes.split_at(PRODUCERS);

    // Which stream: that of the type `Reading`. Who produces and consumes it finds each other.
    let producers: Vec<Producer<Reading>> = producing
        .iter()
        .map(|node| node.streams().produce())
        .collect();
    let consumers: Vec<Consumer<Reading>> = consuming
        .iter()
        .map(|node| node.streams().consume())
        .collect();

    for node in &nodes {
        let mut catalog = node.discovery().catalog_watch();
        catalog
            .wait_for(|catalog| catalog.peers_count() == nodes.len() - 1)
            .await?;
    }
    let discovered = started.elapsed();
    for producer in &producers {
        producer
            .when()
            .subscribed()
            .minimum_of(consumers.len())
            .await;
    }
    let subscribed = started.elapsed();
    println!(
        "{} nodes found each other in {:.0} ms",
        nodes.len(),
        millis(discovered)
    );
    println!("the topology formed in {:.0} ms", millis(subscribed));

    let streaming = Instant::now();
    let expected = Expected {
        producers: producing.iter().map(|node| node.local().id()).collect(),
        items: options.items,
        size: options.size as usize,
    };
    let checks: Vec<_> = consumers
        .into_iter()
        .map(|consumer| tokio::spawn(consume(consumer, expected.clone())))
        .collect();
    let payload = Bytes::from(vec![0x5a; options.size as usize]);
    let sending: Vec<_> = producers
        .into_iter()
        .map(|producer| tokio::spawn(produce(producer, options.items, payload.clone())))
        .collect();
    let mut producers = Vec::new();
    for task in sending {
        producers.push(task.await??);
    }
    let mut consumers = Vec::new();
    for task in checks {
        consumers.push(task.await??);
    }
    let elapsed = streaming.elapsed();

    print_topology(&nodes, &producers, &consumers);
    print_rate(options, consumers.len(), elapsed);
    drop((producers, consumers));
    let bootstrap = nodes[0].local().addr();
    group::run(&bootstrap, options.commands).await?;
    collection::run(&nodes, &bootstrap, options.entries).await?;
    for node in &nodes {
        node.shutdown().await;
    }
    println!("all nodes have left");
    Ok(())
}

/// Starts the nodes; all but the first know the first, and nobody else.
async fn start_nodes(count: usize) -> Result<Vec<Network>> {
    let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
    let mut nodes: Vec<Network> = Vec::with_capacity(count);
    for index in 0..count {
        let role = if index < PRODUCERS {
            tag!("producer")
        } else {
            tag!("consumer")
        };
        let mut config = discovery::Config::builder().with_tags(role);
        if let Some(first) = nodes.first() {
            config = config.with_bootstrap(first.local().addr());
        }
        let builder = Network::builder("quickstart").with_addresses([loopback]);
        nodes.push(builder.with_discovery(config).build().await?);
    }
    println!("bootstrap peer: {}", nodes[0].local().addr());
    Ok(nodes)
}

/// Sends numbered readings and waits until they are on their way.
async fn produce(
    mut producer: Producer<Reading>,
    items: u64,
    payload: Bytes,
) -> Result<Producer<Reading>> {
    for number in 0..items {
        producer
            .feed(Reading {
                number,
                payload: payload.clone(),
            })
            .await?;
    }
    producer.flush().await?;
    Ok(producer)
}

/// What every consumer must receive.
#[derive(Clone)]
struct Expected {
    producers: Vec<PeerId>,
    items: u64,
    size: usize,
}

/// Receives all readings of all producers, and checks each.
async fn consume(mut consumer: Consumer<Reading>, expected: Expected) -> Result<Consumer<Reading>> {
    let mut next: BTreeMap<PeerId, u64> = expected
        .producers
        .iter()
        .map(|producer| (*producer, 0))
        .collect();
    let mut missing = expected.items * expected.producers.len() as u64;
    while missing > 0 {
        let (reading, meta) = consumer
            .recv_with_meta()
            .await
            .ok_or("the stream ended early")?;
        let number = next
            .get_mut(&meta.producer)
            .ok_or("a reading of a stranger arrived")?;
        if reading.number != *number || reading.payload.len() != expected.size {
            return Err(format!(
                "expected reading {number} of {} bytes from {}, got reading {} of {} bytes",
                expected.size,
                meta.producer.short(),
                reading.number,
                reading.payload.len()
            )
            .into());
        }
        *number += 1;
        missing -= 1;
    }
    Ok(consumer)
}

fn print_topology(
    nodes: &[Network],
    producers: &[Producer<Reading>],
    consumers: &[Consumer<Reading>],
) {
    let (producing, consuming) = nodes.split_at(PRODUCERS);
    for (node, producer) in producing.iter().zip(producers) {
        let consumers: Vec<_> = producer.consumers().iter().map(PeerId::short).collect();
        println!(
            "{} produces for {}",
            node.local().id().short(),
            consumers.join(", ")
        );
    }
    for (node, consumer) in consuming.iter().zip(consumers) {
        for subscription in consumer.stats() {
            println!("{} consumes from {subscription}", node.local().id().short());
        }
    }
}

fn print_rate(options: &Options, consumers: usize, elapsed: Duration) {
    let delivered = options.items * PRODUCERS as u64 * consumers as u64;
    let rate = delivered as f64 / elapsed.as_secs_f64();
    println!(
        "{delivered} datums of {} bytes delivered in order in {:.0} ms: {:.0} datums/s, {:.1} MB/s",
        options.size,
        millis(elapsed),
        rate,
        rate * f64::from(options.size) / 1e6
    );
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

//! Streams between simulated nodes, under faults.

#![expect(
    clippy::disallowed_methods,
    reason = "applications keep time by tokio, as in production"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::SinkExt;
use smalti_core::streams::{ConsumerEvent, Raw};
use smalti_core::{Network, PeerId, StreamId};
use smalti_sim::faults::FaultPlan;
use smalti_sim::rng::Streams;
use smalti_sim::{AppResult, Simulation};

const LAST: u64 = 300;

fn stream() -> StreamId {
    StreamId::from("numbers")
}

/// Sends numbers, in bursts, and the last number again and again.
async fn produce(network: Network) -> AppResult {
    let producer = network
        .streams()
        .producer::<Raw>()
        .with_stream_id(stream())
        .with_buffer_size(16)
        .build()?;
    let mut pause = tokio::time::interval(Duration::from_millis(50));
    for number in 0u64.. {
        let number = number.min(LAST);
        // The number, and then some, so that flow control has something to do.
        let mut datum = number.to_le_bytes().to_vec();
        datum.resize(8 + (number as usize * 37) % 5_000, number as u8);
        while let Err(error) = producer.try_send(Raw::from(datum.clone())) {
            if matches!(error, smalti_core::streams::TrySendError::Offline(_)) {
                producer.when().online().await;
            }
            pause.tick().await;
        }
        if number % 7 == 0 || number == LAST {
            pause.tick().await;
        }
    }
    Ok(())
}

/// Takes datums until each of `producers` has sent its last, and checks each on the way.
async fn consume(network: Network, producers: Vec<PeerId>) -> AppResult {
    let mut consumer = network
        .streams()
        .consumer::<Raw>()
        .with_stream_id(stream())
        .with_buffer_size(16)
        .build()?;
    let mut events = consumer.events();
    let mut due: BTreeMap<PeerId, u64> = BTreeMap::new();
    let mut missing: BTreeMap<PeerId, u64> = BTreeMap::new();
    let mut announced: BTreeMap<PeerId, u64> = BTreeMap::new();
    let mut done: BTreeSet<PeerId> = BTreeSet::new();
    while producers.iter().any(|producer| !done.contains(producer)) {
        let (datum, meta) = consumer
            .recv_with_meta()
            .await
            .ok_or("the node has ended")?;
        let number = u64::from_le_bytes(datum[..8].try_into()?);
        if datum[8..].iter().any(|byte| *byte != number as u8) {
            return Err(format!("datum {number} is not what was sent").into());
        }
        match due.get(&meta.producer) {
            Some(&next) if meta.sequence < next => {
                return Err(format!("{} after {next}", meta.sequence).into());
            }
            Some(&next) => *missing.entry(meta.producer).or_default() += meta.sequence - next,
            None => {}
        }
        due.insert(meta.producer, meta.sequence + 1);
        if number == LAST {
            done.insert(meta.producer);
        }
    }
    // Every hole in the sequences was announced, with its exact size.
    while let Ok(Ok(Some(event))) = tokio::time::timeout(Duration::ZERO, events.recv()).await {
        if let ConsumerEvent::Lagged { peer, datums } = event {
            *announced.entry(peer).or_default() += datums;
        }
    }
    for (producer, missing) in missing {
        let announced = announced.get(&producer).copied().unwrap_or(0);
        if announced < missing {
            return Err(
                format!("{missing} are missing of {producer:?}, {announced} announced").into(),
            );
        }
    }
    Ok(())
}

fn simulation(seed: u64) -> Simulation {
    let base = Simulation::new(seed);
    let producers: Vec<PeerId> = ["p1", "p2"].map(|name| base.peer_id(name)).into();
    let (first, second) = (producers.clone(), producers);
    base.service("p1", produce)
        .service("p2", produce)
        .host("c1", move |network| consume(network, first.clone()))
        .host("c2", move |network| consume(network, second.clone()))
}

#[test]
fn without_faults_all_is_delivered_and_runs_repeat() {
    simulation(1).run_twice().expect("all is delivered");
}

/// `SEEDS=0..1000` runs others than the usual few.
fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("SEEDS").ok();
    let given = given.as_deref().and_then(|seeds| seeds.split_once(".."));
    let given = given.and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    given.unwrap_or(0..20)
}

#[test]
fn under_faults_order_is_kept_and_every_gap_is_announced() {
    for seed in seeds() {
        let mut plan = FaultPlan::swarm(&mut Streams::new(seed).stream("plan"));
        plan.crashes = None;
        let run = simulation(seed)
            .faults(plan)
            .faults_until(Duration::from_secs(30))
            .run();
        if let Err(error) = run {
            panic!("seed {seed}: {error}");
        }
    }
}

#[test]
fn who_takes_slowly_is_not_dropped_for_it() {
    // What the producer hands over at once takes seconds on the way.
    let mut plan = FaultPlan::default();
    plan.links.bandwidth = Some(100_000);
    let simulation = Simulation::new(1)
        .faults(plan)
        .duration(Duration::from_secs(60));
    simulation
        .service("producer", |network| async move {
            // Full all the time.
            let producer = network.streams().producer::<Raw>().with_buffer_size(32);
            let mut producer = producer.build()?;
            producer.when().subscribed().await;
            for _ in 0..100 {
                producer.feed(Raw::from(vec![7; 8_192])).await?;
            }
            std::future::pending().await
        })
        .host("consumer", |network| async move {
            let mut consumer = network
                .streams()
                .consumer::<Raw>()
                .with_buffer_size(4)
                .build()?;
            for sequence in 0..100 {
                let (_, meta) = consumer
                    .recv_with_meta()
                    .await
                    .ok_or("the node has ended")?;
                assert_eq!(meta.sequence, sequence, "a datum is missing");
            }
            Ok(())
        })
        .run()
        .expect("nothing is missing");
}

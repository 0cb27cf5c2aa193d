//! A hundred consumer nodes of one producer, of which one takes nothing: the others miss nothing.

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use smalti::streams::{ProducerEvent, Raw};
use smalti::*;

use super::node;
use super::process::resident;

const CONSUMERS: usize = 100;
const DATUMS: u64 = 20_000;
const LEN: usize = 1_024;

pub(crate) async fn measure() {
    let before = resident();
    let from = node(None).await;
    let mut producer = from.streams().produce::<Raw>();
    let mut nodes = Vec::new();
    for _ in 0..=CONSUMERS {
        nodes.push(node(Some(&from)).await);
    }
    let mut consumers: Vec<_> = nodes
        .iter()
        .map(|node| node.streams().consume::<Raw>())
        .collect();
    let started = Instant::now();
    producer.when().subscribed().minimum_of(CONSUMERS + 1).await;
    println!(
        "{} consumer nodes in one process: subscribed after {:.1?}, {:.1} MiB of memory each node",
        CONSUMERS + 1,
        started.elapsed(),
        (resident() - before) / 1_024.0 / (CONSUMERS + 2) as f64
    );
    let _stopped = consumers.pop().expect("there are some");
    let mut events = producer.events();
    let started = Instant::now();
    let mut readers = Vec::new();
    for mut consumer in consumers {
        readers.push(tokio::spawn(async move {
            for sequence in 0..DATUMS {
                let (datum, meta) = consumer.recv_with_meta().await.expect("the node runs");
                assert_eq!((datum.len(), meta.sequence), (LEN, sequence));
            }
        }));
    }
    let datum = Raw::from(vec![7; LEN]);
    for _ in 0..DATUMS {
        producer
            .feed(datum.clone())
            .await
            .expect("it has consumers");
    }
    for reader in readers {
        reader.await.expect("nothing is lost");
    }
    let elapsed = started.elapsed();
    let ends = drops(&mut events).await;
    let delivered = DATUMS * CONSUMERS as u64;
    println!(
        "{CONSUMERS} of them got all {DATUMS} datums of {LEN} B in {elapsed:.1?}, {:.0}/s in all; the one that took \
         nothing was dropped {ends} times; {:.0} MiB of memory in all",
        delivered as f64 / elapsed.as_secs_f64(),
        (resident() - before) / 1_024.0
    );
    for node in nodes.iter().chain([&from]) {
        node.shutdown().await;
    }
}

/// How often a producer has dropped a consumer because it took nothing: who takes nothing hears of nothing either.
pub(crate) async fn drops(events: &mut streams::Events<ProducerEvent>) -> u64 {
    let mut drops = 0;
    while let Ok(Ok(Some(event))) = tokio::time::timeout(Duration::ZERO, events.recv()).await {
        if let ProducerEvent::Unsubscribed { code, .. } = event {
            drops += u64::from(code == Some(network::CloseCode::STREAM_TOO_SLOW));
        }
    }
    drops
}

//! A consumer that goes over from one producer to a better one.

#![expect(
    clippy::disallowed_methods,
    reason = "applications keep time by tokio, as in production"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::SinkExt;
use smalti_core::streams::{ConsumerEvent, Raw};
use smalti_core::{Network, PeerId, Tag};
use smalti_sim::{AppResult, Simulation};

const STREAM: &str = "numbers";
const BETTER: &str = "better";

/// Sends a datum every ten milliseconds while anybody takes it, and becomes better after a while, if ever.
async fn produce(network: Network, better_after: Option<Duration>) -> AppResult {
    let mut producer = network
        .streams()
        .producer::<Raw>()
        .with_stream_id(STREAM)
        .build()
        .map_err(|error| error.to_string())?;
    let discovery = network.discovery().clone();
    if let Some(after) = better_after {
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            // Fails only where the node has ended.
            let _ = discovery.add_tags(Tag::from(BETTER)).await;
        });
    }
    loop {
        producer.send(Raw::from(vec![0; 100])).await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn nothing_is_lost_when_a_consumer_goes_over_to_a_better_producer() {
    let simulation = Simulation::new(1).duration(Duration::from_secs(60));
    let (first, second) = (simulation.peer_id("p1"), simulation.peer_id("p2"));
    simulation
        .service("p1", |network| produce(network, None))
        .service("p2", |network| {
            produce(network, Some(Duration::from_secs(15)))
        })
        .host("consumer", move |network| async move {
            let builder = network.streams().consumer::<Raw>().with_stream_id(STREAM);
            // The first until the second has the tag, which counts for more.
            let mut consumer = builder
                .with_max_producers(1)
                .prefer_tags(Tag::from(BETTER))
                .prefer_by(move |entry| u64::from(*entry.id() != first))
                .build()?;
            let mut events = consumer.events();
            // Of each producer: the datum that is due, and how many have come.
            let mut due: BTreeMap<PeerId, (u64, u64)> = BTreeMap::new();
            let mut left = false;
            let mut overlap = 0;
            while !left || due.get(&second).is_none_or(|(_, count)| *count < 100) {
                smalti_core::select! {
                    event = events.recv() => match event?.ok_or("the node has ended")? {
                        ConsumerEvent::Lagged { datums, .. } => {
                            return Err(format!("{datums} are missing").into());
                        }
                        ConsumerEvent::Unsubscribed { peer, code } => {
                            assert_eq!((peer, code), (first, None));
                            left = true;
                        }
                        _ => {}
                    },
                    datum = consumer.recv_with_meta() => {
                        let (_, meta) = datum.ok_or("the node has ended")?;
                        let (next, count) = due
                            .entry(meta.producer)
                            .or_insert((meta.sequence, 0));
                        assert_eq!(meta.sequence, *next, "a datum is missing");
                        (*next, *count) = (*next + 1, *count + 1);
                        if meta.producer == first && due.contains_key(&second) {
                            overlap += 1;
                        }
                    },
                }
            }
            assert!(due[&first].1 > 1_000, "{due:?}");
            assert!(overlap > 0, "there was a time with neither");
            assert_eq!(consumer.producers(), [second]);
            Ok(())
        })
        .run()
        .expect("the consumer goes over");
}

//! The `Sink` of a producer, in a cluster where it could go wrong: without consumers, with dead ones, at the end.

#![expect(
    clippy::disallowed_methods,
    reason = "applications spawn and keep time by tokio, as in production"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::SinkExt;
use smalti_core::streams::{ConsumerEvent, Raw};
use smalti_core::wire::CloseCode;
use smalti_sim::Simulation;

#[test]
fn a_sink_waits_when_its_last_consumer_has_died() {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    Simulation::new(1)
        .duration(Duration::from_secs(60))
        .service("producer", move |network| {
            let sent = counted.clone();
            async move {
                let mut producer = network
                    .streams()
                    .producer::<Raw>()
                    .disconnect_lagging(false)
                    .build()
                    .map_err(|error| error.to_string())?;
                // A task of its own, which does not wait for the node's.
                tokio::spawn(async move {
                    while let Ok(()) = producer.feed(Raw::from(vec![0; 4_096])).await {
                        let sent = sent.fetch_add(1, Ordering::Relaxed);
                        assert!(sent < 100_000, "sends to nobody for ever");
                    }
                });
                std::future::pending().await
            }
        })
        .service("consumer", |network| async move {
            let _consumer = network
                .streams()
                .consumer::<Raw>()
                .with_buffer_size(1)
                .build()?;
            std::future::pending().await
        })
        .script(|control| async move {
            control.sleep(Duration::from_millis(1_300)).await;
            control.crash("consumer");
            control.sleep(Duration::from_secs(40)).await;
        })
        .run()
        .expect("the simulation goes on");
    assert!(sent.load(Ordering::Relaxed) > 100);
}

#[test]
fn a_sink_that_sends_to_nobody_lets_other_tasks_run() {
    Simulation::new(1)
        .host("producer", |network| async move {
            let mut producer = network
                .streams()
                .producer::<Raw>()
                .online_when(|subscribers| subscribers.minimum_of(0))
                .build()
                .map_err(|error| error.to_string())?;
            let other = Arc::new(AtomicBool::new(false));
            let ran = other.clone();
            tokio::spawn(async move { ran.store(true, Ordering::Relaxed) });
            let mut sent = 0;
            while !other.load(Ordering::Relaxed) {
                producer.feed(Raw::from("x")).await?;
                sent += 1;
                assert!(sent < 100_000, "no other task has run");
            }
            Ok(())
        })
        .run()
        .expect("the other task runs");
}

#[test]
fn closing_the_last_handle_ends_the_producer_and_does_not_wait_for_ever() {
    let closed = Arc::new(AtomicBool::new(false));
    let (noted, seen) = (closed.clone(), Arc::new(AtomicBool::new(false)));
    let told = seen.clone();
    Simulation::new(1)
        .duration(Duration::from_secs(60))
        .service("producer", move |network| {
            let closed = noted.clone();
            async move {
                let mut producer = network
                    .streams()
                    .producer::<Raw>()
                    .disconnect_lagging(false)
                    .build()
                    .map_err(|error| error.to_string())?;
                let mut other = producer.clone();
                // Until the consumer, which takes nothing, has filled all that is in between.
                let full =
                    async { while let Ok(()) = producer.feed(Raw::from(vec![0; 16_384])).await {} };
                let full = tokio::time::timeout(Duration::from_secs(10), full).await;
                assert!(full.is_err(), "the queue is full");
                let first = tokio::time::timeout(Duration::from_secs(10), producer.close()).await;
                assert!(first.is_err(), "there is another handle");
                assert!(producer.feed(Raw::from("x")).await.is_err());
                other.close().await?;
                closed.store(true, Ordering::Relaxed);
                std::future::pending().await
            }
        })
        .service("consumer", move |network| {
            let told = told.clone();
            async move {
                let mut consumer = network
                    .streams()
                    .consumer::<Raw>()
                    .with_buffer_size(1)
                    .build()?;
                let mut events = consumer.events();
                // It takes nothing until it is too late.
                tokio::time::sleep(Duration::from_secs(35)).await;
                loop {
                    smalti_core::select! {
                        event = events.recv() => {
                            if let Ok(Some(ConsumerEvent::Unsubscribed { code, .. })) = event {
                                assert_eq!(code, Some(CloseCode::STREAM_TOO_SLOW));
                                told.store(true, Ordering::Relaxed);
                            }
                        },
                        _ = consumer.recv() => {},
                    }
                }
            }
        })
        .script(|control| async move { control.sleep(Duration::from_secs(40)).await })
        .run()
        .expect("the simulation goes on");
    assert!(closed.load(Ordering::Relaxed), "closing has completed");
    assert!(seen.load(Ordering::Relaxed), "the consumer has been told");
}

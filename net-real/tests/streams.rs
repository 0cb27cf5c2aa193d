//! Streams between nodes over QUIC on loopback.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use smalti::streams::{ConsumerEvent, ProducerError, Raw, Refusal, TryRecvError, TrySendError};
use smalti::*;

mod nodes;

use nodes::{Trade, pair, soon, trade};

#[tokio::test]
async fn every_consumer_gets_all_of_every_producer_in_order() {
    const DATUMS: u64 = 5_000;
    let (a, b) = pair("all in order").await;
    let producers = [
        a.streams().produce::<Trade>(),
        b.streams().produce::<Trade>(),
    ];
    // Each node consumes the other's; a node does not consume its own.
    let consumers = [
        a.streams().consume::<Trade>(),
        b.streams().consume::<Trade>(),
        b.streams().consume::<Trade>(),
    ];
    soon(
        "consumers of a",
        producers[0].when().subscribed().minimum_of(2),
    )
    .await;
    soon("consumer of b", producers[1].when().subscribed()).await;
    for mut producer in producers {
        tokio::spawn(async move {
            for number in 0..DATUMS {
                producer.send(trade(number)).await.unwrap();
            }
            SinkExt::<Trade>::close(&mut producer).await.unwrap();
        });
    }
    for mut consumer in consumers {
        for number in 0..DATUMS {
            let (datum, meta) = soon("a datum", consumer.recv_with_meta()).await.unwrap();
            assert_eq!(datum, trade(number));
            assert_eq!(meta.sequence, number);
        }
    }
}

#[tokio::test]
async fn the_last_handle_drains_ends_and_is_no_longer_announced() {
    let (a, b) = pair("retire").await;
    let producer = a.streams().produce::<Trade>();
    let stream = producer.stream_id();
    let mut consumer = b.streams().consume::<Trade>();
    let mut events = consumer.events();
    soon("subscription", consumer.when().subscribed()).await;
    let other_handle = producer.clone();
    for number in 0..500 {
        other_handle.try_send(trade(number)).unwrap();
    }
    drop(producer);
    drop(other_handle);
    for number in 0..500 {
        assert_eq!(
            soon("a datum", consumer.recv()).await.unwrap(),
            trade(number)
        );
    }
    soon("end", consumer.when().unsubscribed()).await;
    assert_eq!(consumer.try_recv(), Err(TryRecvError::Empty));
    let unsubscribed = async {
        loop {
            if let Some(ConsumerEvent::Unsubscribed { peer, code }) = events.recv().await.unwrap() {
                return (peer, code);
            }
        }
    };
    let (peer, code) = soon("event", unsubscribed).await;
    assert_eq!(
        (peer, code),
        (a.local().id(), Some(network::CloseCode::STREAM_ENDED))
    );
    let mut catalog = b.discovery().catalog_watch();
    let is_silent = |catalog: &discovery::Catalog| {
        catalog
            .get(&a.local().id())
            .is_some_and(|entry| !entry.streams().contains_key(&stream))
    };
    soon("announcement", catalog.wait_for(is_silent))
        .await
        .unwrap();
    // A new producer of the same stream is found again.
    let producer = a.streams().produce::<Trade>();
    soon("new subscription", producer.when().subscribed()).await;
    producer.try_send(trade(7)).unwrap();
    assert_eq!(soon("a datum", consumer.recv()).await.unwrap(), trade(7));
}

#[tokio::test]
async fn a_dropped_consumer_unsubscribes_and_the_producer_goes_offline() {
    let (a, b) = pair("drop").await;
    let producer = a.streams().produce::<Trade>();
    assert!(
        matches!(producer.try_send(trade(0)), Err(TrySendError::Offline(datum)) if datum == trade(0))
    );
    let consumer = b.streams().consume::<Trade>();
    soon("online", producer.when().online()).await;
    assert_eq!(producer.consumers(), [b.local().id()]);
    drop(consumer);
    soon("offline", producer.when().offline()).await;
    assert!(matches!(
        producer.try_send(trade(0)),
        Err(TrySendError::Offline(_))
    ));
}

#[tokio::test]
async fn predicates_decide_on_both_sides_and_follow_the_entries() {
    let red = Tag::from("red");
    let (a, b) = pair("predicates").await;
    let producer = a
        .streams()
        .producer::<Trade>()
        .accept_if(move |entry| entry.has_tag(&red))
        .build()
        .unwrap();
    let consumer = b
        .streams()
        .consumer::<Trade>()
        .subscribe_if(|entry| entry.has_tag(&Tag::from("first")))
        .build()
        .unwrap();
    let mut events = consumer.events();
    let refused = async {
        loop {
            if let Some(ConsumerEvent::Refused { refusal, .. }) = events.recv().await.unwrap() {
                return refusal;
            }
        }
    };
    assert_eq!(soon("refusal", refused).await, Refusal::Rejected);
    b.discovery().add_tags(red).await.unwrap();
    let tagged = producer.when().subscribed().with_tags(red);
    soon("subscription", tagged).await;
    b.discovery().remove_tags(red).await.unwrap();
    soon("rejection", producer.when().unsubscribed()).await;
    let rejected = async {
        loop {
            if let Some(ConsumerEvent::Unsubscribed { code, .. }) = events.recv().await.unwrap() {
                return code;
            }
        }
    };
    let rejected = soon("code", rejected).await;
    assert_eq!(rejected, Some(network::CloseCode::STREAM_REJECTED));
    b.discovery().add_tags(red).await.unwrap();
    soon("subscription", producer.when().subscribed()).await;
    a.discovery().remove_tags(Tag::from("first")).await.unwrap();
    soon("no longer wanted", producer.when().unsubscribed()).await;
}

#[tokio::test]
async fn types_and_names_that_do_not_go_together_are_errors() {
    let (a, b) = pair("types").await;
    let producer = a
        .streams()
        .producer::<Trade>()
        .with_stream_id("x")
        .build()
        .unwrap();
    let error = a
        .streams()
        .producer::<u64>()
        .with_stream_id("x")
        .build()
        .unwrap_err();
    assert!(
        matches!(error, ProducerError::SchemaDiffers { .. }),
        "{error}"
    );
    let error = a
        .streams()
        .producer::<Trade>()
        .with_stream_id("x")
        .build()
        .unwrap_err();
    let ProducerError::AlreadyExists(existing) = error else {
        panic!("{error}")
    };
    assert_eq!(existing.stream_id(), producer.stream_id());
    let consumer = b
        .streams()
        .consumer::<u64>()
        .with_stream_id("x")
        .build()
        .unwrap();
    let mut events = consumer.events();
    let event = soon("refusal", events.recv()).await.unwrap().unwrap();
    let expected = Refusal::SchemaDiffers {
        producer: Trade::schema(),
        consumer: u64::schema(),
    };
    assert_eq!(
        event,
        ConsumerEvent::Refused {
            peer: a.local().id(),
            refusal: expected
        }
    );
}

#[tokio::test]
async fn an_application_that_takes_nothing_holds_up_the_producer_or_is_dropped() {
    let (a, b) = pair("lag").await;
    let patient = a
        .streams()
        .producer::<Raw>()
        .with_stream_id("patient")
        .disconnect_lagging(false);
    let patient = patient.build().unwrap();
    let strict = a
        .streams()
        .producer::<Raw>()
        .with_stream_id("strict")
        .build()
        .unwrap();
    let mut slow = b
        .streams()
        .consumer::<Raw>()
        .with_stream_id("patient")
        .build()
        .unwrap();
    let mut dropped = b
        .streams()
        .consumer::<Raw>()
        .with_stream_id("strict")
        .build()
        .unwrap();
    let mut events = dropped.events();
    soon("subscriptions", async {
        patient.when().subscribed().await;
        strict.when().subscribed().await;
    })
    .await;
    let datum = Raw::from(vec![7; 16 * 1_024]);
    let mut sent = 0;
    // Fills every queue on the way, and then no more goes in.
    let mut patient_sink = patient.clone();
    loop {
        match tokio::time::timeout(Duration::from_millis(500), patient_sink.send(datum.clone()))
            .await
        {
            Ok(result) => result.unwrap(),
            Err(_) => break,
        }
        sent += 1;
        assert!(sent < 100_000, "nothing holds it up");
    }
    for _ in 0..sent {
        soon("a datum", slow.recv()).await.unwrap();
    }
    // The other producer goes on without who does not take its datums.
    let lagging = async {
        let mut strict = strict.clone();
        let mut count = 0u64;
        let mut gone = strict.when().unsubscribed();
        while !gone.is_condition_met() {
            tokio::select! {
                result = strict.send(datum.clone()) => { result.unwrap(); count += 1; }
                () = &mut gone => break,
            }
        }
        count
    };
    soon("disconnection", lagging).await;
    let (mut missed, mut received, mut codes) = (0, 0, Vec::new());
    let count_missed = async {
        while missed == 0 {
            tokio::select! {
                biased;
                event = events.recv() => match event.unwrap() {
                    Some(ConsumerEvent::Lagged { datums, .. }) => missed += datums,
                    Some(ConsumerEvent::Unsubscribed { code, .. }) => codes.push(code),
                    _ => {}
                },
                _ = dropped.recv_with_meta() => received += 1,
                () = async {
                    strict.when().subscribed().await;
                    strict.try_send(datum.clone()).unwrap();
                    std::future::pending::<()>().await;
                } => {}
            }
        }
    };
    soon("the gap is seen", count_missed).await;
    assert!(received > 0);
    assert_eq!(codes, [Some(network::CloseCode::STREAM_TOO_SLOW)]);
    assert_eq!(dropped.stats()[0].lagged, missed);
}

#[tokio::test]
async fn datums_of_many_megabytes_arrive_and_longer_ones_are_refused() {
    let (a, b) = pair("large").await;
    let mut producer = a.streams().produce::<Raw>();
    let mut consumer = b.streams().consume::<Raw>();
    soon("subscription", producer.when().subscribed()).await;
    let max = streams::DATUM_LEN_MAX;
    let too_long = producer.try_send(Raw::from(vec![0; max + 1]));
    assert!(matches!(too_long, Err(TrySendError::TooLarge { len, .. }) if len == max + 1));
    for n in 0..4u8 {
        soon("sending", producer.send(Raw::from(vec![n; max])))
            .await
            .unwrap();
        let datum = soon("a datum", consumer.next()).await.unwrap();
        assert!(datum.len() == max && datum.iter().all(|byte| *byte == n));
    }
}

#[tokio::test]
async fn a_shutdown_ends_everything_and_consumers_get_what_was_sent() {
    let (a, b) = pair("shutdown").await;
    let producer = a.streams().produce::<Trade>();
    let mut consumer = b.streams().consume::<Trade>();
    soon("subscription", producer.when().subscribed()).await;
    for number in 0..500 {
        producer.try_send(trade(number)).unwrap();
    }
    soon("shutdown", a.shutdown()).await;
    assert!(matches!(
        producer.try_send(trade(0)),
        Err(TrySendError::Closed(_))
    ));
    assert!(matches!(
        a.streams().producer::<u8>().build(),
        Err(ProducerError::ShuttingDown)
    ));
    for number in 0..500 {
        assert_eq!(
            soon("a datum", consumer.recv()).await.unwrap(),
            trade(number)
        );
    }
    soon("shutdown", b.shutdown()).await;
    assert_eq!(soon("end", consumer.recv()).await, None);
    assert_eq!(
        b.streams().consume::<Trade>().try_recv(),
        Err(TryRecvError::Closed)
    );
}

//! What producers and consumers can be made with, over QUIC on loopback.

mod nodes;

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use smalti::discovery::{PeerEntry, StreamInfo};
use smalti::streams::{
    Backoff, ConsumerError, ConsumerEvent, Criteria, Events, ProducerError, ProducerEvent, Raw,
    Refusal, SubscriptionState, TryRecvError, TrySendError,
};
use smalti::*;

use nodes::{Trade, node, pair, soon, trade};

/// The first event of which `pick` makes something.
async fn event<E: Clone, T>(events: &mut Events<E>, pick: impl Fn(E) -> Option<T>) -> T {
    soon("an event", async {
        loop {
            let event = events.recv().await.expect("none is dropped");
            let event = event.expect("the stream goes on");
            if let Some(picked) = pick(event) {
                return picked;
            }
        }
    })
    .await
}

async fn refusal(events: &mut Events<ConsumerEvent>) -> Refusal {
    event(events, |event| match event {
        ConsumerEvent::Refused { refusal, .. } => Some(refusal),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_place_that_becomes_free_is_given_to_who_waits_and_who_may_not_wait_asks_again() {
    let (a, b) = pair("capacity").await;
    let producer = a.streams().producer::<Trade>();
    let producer = producer.with_max_consumers(1).with_max_waiting(1);
    let producer = producer.build().unwrap();
    let mut told = producer.events();
    let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(50), 0.5).unwrap();
    let consumer = || {
        let consumer = b.streams().consumer::<Trade>().with_backoff(backoff);
        consumer.build().unwrap()
    };
    let first = consumer();
    soon("first", first.when().subscribed()).await;
    let second = consumer();
    let mut events = second.events();
    let waiting = |event| matches!(event, ConsumerEvent::Waiting { max: 1, .. }).then_some(());
    event(&mut events, waiting).await;
    assert_eq!(second.stats()[0].state, SubscriptionState::Waiting);
    event(&mut told, |event| {
        matches!(event, ProducerEvent::Waiting { .. }).then_some(())
    })
    .await;
    let third = consumer();
    let full = refusal(&mut third.events()).await;
    assert_eq!(full, Refusal::NoCapacity { max: 1 });
    assert_eq!(full.code(), network::CloseCode::STREAM_NO_CAPACITY);
    drop(first);
    soon("second", second.when().subscribed()).await;
    drop(second);
    soon("third", third.when().subscribed()).await;
}

#[tokio::test]
async fn a_consumer_is_sent_no_more_than_it_may_be_and_does_not_lag_for_it() {
    const RATE: u64 = 400_000;
    let (a, b) = pair("egress").await;
    let zero = a.streams().producer::<Raw>().with_max_egress(0).build();
    assert!(matches!(zero, Err(ProducerError::NoEgress)));
    let producer = a.streams().producer::<Raw>().with_max_egress(RATE);
    let mut producer = producer.with_buffer_size(4).build().unwrap();
    let mut consumer = b.streams().consume::<Raw>();
    soon("subscription", producer.when().subscribed()).await;
    let began = Instant::now();
    let mut bytes = 0;
    // A datum that takes longer than a lagging consumer is given.
    for len in [20_000, 20_000, 20_000, 600_000, 1] {
        soon("sending", producer.send(Raw::from(vec![7; len])))
            .await
            .unwrap();
        bytes += len;
    }
    for _ in 0..5 {
        soon("a datum", consumer.recv()).await.unwrap();
    }
    let least = Duration::from_secs_f64(bytes as f64 / RATE as f64);
    let took = began.elapsed();
    assert!(
        took + Duration::from_millis(50) >= least,
        "{took:?}, not {least:?}"
    );
    assert_eq!(consumer.stats()[0].lagged, 0);
}

#[tokio::test]
async fn what_nobody_takes_goes_to_the_sink() {
    let (a, b) = pair("undelivered").await;
    let (sender, mut undelivered) = tokio::sync::mpsc::channel(1);
    let sink = futures_util::sink::unfold(sender, |sender, datum| async move {
        sender.send(datum).await.map(|()| sender)
    });
    let producer = a.streams().producer::<Trade>();
    let producer = producer.online_when(|consumers| consumers.minimum_of(0));
    let producer = producer.with_undelivered_sink(sink).build().unwrap();
    producer.try_send(trade(0)).unwrap();
    assert_eq!(
        soon("undelivered", undelivered.recv()).await,
        Some(trade(0))
    );
    let mut consumer = b
        .streams()
        .consumer::<Trade>()
        .with_criteria(Criteria::field("number").above(1))
        .build()
        .unwrap();
    soon("subscription", producer.when().subscribed()).await;
    for number in 1..4 {
        producer.try_send(trade(number)).unwrap();
    }
    assert_eq!(
        soon("undelivered", undelivered.recv()).await,
        Some(trade(1))
    );
    for number in 2..4 {
        assert_eq!(soon("a datum", consumer.recv()).await, Some(trade(number)));
    }
    drop(producer);
    assert_eq!(soon("the end of the sink", undelivered.recv()).await, None);
}

#[tokio::test]
async fn criteria_choose_at_the_producer_and_what_they_pass_over_is_not_missing() {
    let (a, b) = pair("criteria").await;
    let mut producer = a.streams().produce::<Trade>();
    let even = Criteria::field("number").is(0)
        | Criteria::field("number").is(2)
        | Criteria::field("text").starts_with("trade 4");
    let mut some = b
        .streams()
        .consumer::<Trade>()
        .with_criteria(even)
        .build()
        .unwrap();
    let mut all = b.streams().consume::<Trade>();
    soon("subscriptions", producer.when().subscribed().minimum_of(2)).await;
    for number in 0..50 {
        soon("sending", producer.send(trade(number))).await.unwrap();
    }
    for number in 0..50 {
        assert_eq!(soon("a datum", all.recv()).await, Some(trade(number)));
    }
    for number in [0, 2, 4].into_iter().chain(40..50) {
        let (datum, meta) = soon("a datum", some.recv_with_meta()).await.unwrap();
        assert_eq!((datum, meta.sequence), (trade(number), number));
    }
    assert_eq!(some.try_recv(), Err(TryRecvError::Empty));
    let stats = some.stats()[0];
    assert_eq!((stats.datums, stats.lagged), (13, 0));
    let mut sent: Vec<u64> = producer.stats().iter().map(|stats| stats.datums).collect();
    sent.sort_unstable();
    assert_eq!(sent, [13, 50]);
    let too_long = Criteria::field(&"x".repeat(4_096)).is_there();
    let refused = b
        .streams()
        .consumer::<Trade>()
        .with_criteria(too_long)
        .build();
    assert!(matches!(refused, Err(ConsumerError::Criteria(_))));
}

#[tokio::test]
async fn both_sides_are_online_when_they_are_told_to_be() {
    let (a, b) = pair("online").await;
    let producer = a.streams().producer::<Trade>();
    let producer = producer.online_when(|consumers| consumers.minimum_of(2));
    let producer = producer.build().unwrap();
    let consumer = |tag: &'static str| {
        let consumer = b.streams().consumer::<Trade>();
        let consumer = consumer.online_when(move |producers| producers.with_tags(Tag::from(tag)));
        consumer.build().unwrap()
    };
    let (first, other) = (consumer("first"), consumer("other"));
    soon("one is online", first.when().online()).await;
    soon("two are subscribed", producer.when().online()).await;
    soon("subscription", other.when().subscribed()).await;
    assert!(first.is_online() && !other.is_online() && producer.is_online());
    producer.try_send(trade(0)).unwrap();
    drop(other);
    soon("one is left", producer.when().offline()).await;
    assert!(matches!(
        producer.try_send(trade(1)),
        Err(TrySendError::Offline(_))
    ));
}

#[tokio::test]
async fn queues_hold_what_they_are_told_to() {
    let (a, b) = pair("buffers").await;
    let producer = a.streams().producer::<Trade>().with_buffer_size(3);
    let producer = producer.build().unwrap();
    let consumer = b.streams().consumer::<Trade>().with_buffer_size(1);
    let mut consumer = consumer.build().unwrap();
    soon("subscription", producer.when().subscribed()).await;
    // Nothing leaves between these, since nothing is waited for.
    for number in 0..3 {
        producer.try_send(trade(number)).unwrap();
    }
    assert!(matches!(
        producer.try_send(trade(3)),
        Err(TrySendError::Full(_))
    ));
    for number in 0..3 {
        assert_eq!(soon("a datum", consumer.recv()).await, Some(trade(number)));
    }
}

#[tokio::test]
async fn the_preferred_producer_is_chosen_and_replaced_by_the_next_best() {
    let (a, b) = pair("preferences").await;
    let c = node("preferences", &["second", "spare"], Some(&a)).await;
    let producers = [&a, &b].map(|node| node.streams().produce::<Trade>());
    let mut catalog = c.discovery().catalog_watch();
    let stream = producers[0].stream_id();
    let both = |catalog: &discovery::Catalog| {
        let named = catalog
            .peers()
            .filter(|peer| peer.streams().contains_key(&stream));
        named.count() == 2
    };
    soon("both are known", catalog.wait_for(both))
        .await
        .unwrap();
    let by_tag = c.streams().consumer::<Trade>().with_max_producers(1);
    let by_tag = by_tag.prefer_tags(Tag::from("second")).prefer_near();
    let by_tag = by_tag.build().unwrap();
    let by_function = c.streams().consumer::<Trade>().with_max_producers(1);
    let by_function = by_function.prefer_by(|entry| u64::from(!entry.has_tag(&Tag::from("first"))));
    let by_function = by_function.build().unwrap();
    soon("subscriptions", async {
        by_tag.when().subscribed().await;
        by_function.when().subscribed().await;
    })
    .await;
    assert_eq!(by_tag.producers(), [b.local().id()]);
    assert_eq!(by_function.producers(), [a.local().id()]);
    let standby = by_tag
        .stats()
        .into_iter()
        .find(|stats| stats.peer == a.local().id());
    assert_eq!(standby.unwrap().state, SubscriptionState::Standby);
    soon("shutdown", b.shutdown()).await;
    soon("the next best", async {
        while by_tag.producers() != [a.local().id()] {
            by_tag
                .when()
                .subscribed()
                .with_tags(Tag::from("first"))
                .await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_is_asked_for_what_it_does_not_have_says_so() {
    // They do not know of each other but by what is put in by hand, which is not true.
    let a = node("refusals", &[], None).await;
    let b = node("refusals", &[], None).await;
    let _producer = a
        .streams()
        .producer::<Trade>()
        .with_stream_id("trades")
        .build()
        .unwrap();
    let entry = PeerEntry::new(NetworkId::from("refusals"), a.local().addr());
    let schema = <u64 as Datum>::schema();
    let entry = entry.with_stream(StreamId::from("trades"), StreamInfo { schema });
    let entry = entry.with_stream(StreamId::from("ghost"), StreamInfo { schema });
    b.discovery().insert(entry).await.unwrap();
    let consumer = |stream: &str| {
        let consumer = b.streams().consumer::<u64>().with_stream_id(stream);
        let consumer = consumer.build().unwrap();
        let events = consumer.events();
        (consumer, events)
    };
    let (_ghosts, mut events) = consumer("ghost");
    let unknown = refusal(&mut events).await;
    assert_eq!(unknown, Refusal::UnknownStream);
    assert_eq!(unknown.code(), network::CloseCode::STREAM_NOT_FOUND);
    let (_trades, mut events) = consumer("trades");
    let differs = refusal(&mut events).await;
    let producer = Trade::schema();
    assert_eq!(
        differs,
        Refusal::SchemaDiffers {
            producer,
            consumer: schema
        }
    );
    assert_eq!(differs.code(), network::CloseCode::STREAM_SCHEMA_DIFFERS);
    let text = differs.to_string();
    assert!(
        text.contains(&producer.to_string()) && text.contains(&schema.to_string()),
        "{text}"
    );
}

//! What streams keep: of datums that somebody does not take, and for a subscription that is idle.

use futures_util::SinkExt;
use smalti::streams::Raw;

use super::crowd::drops;
use super::node;
use super::process::resident;

const MILLIONS: u64 = 10;
const LEN: usize = 64;
const SUBSCRIPTIONS: usize = 1_000;

pub(crate) async fn measure() {
    stopped().await;
    idle().await;
}

/// A consumer takes everything, and another nothing.
async fn stopped() {
    let from = node(None).await;
    let to = node(Some(&from)).await;
    let mut producer = from.streams().produce::<Raw>();
    let mut consumer = to.streams().consume::<Raw>();
    let _stopped = to.streams().consume::<Raw>();
    producer.when().subscribed().minimum_of(2).await;
    let mut events = producer.events();
    let reader = tokio::spawn(async move {
        for sequence in 0..MILLIONS * 1_000_000 {
            let (_, meta) = consumer.recv_with_meta().await.expect("the node runs");
            assert_eq!(meta.sequence, sequence, "something is lost");
        }
    });
    println!(
        "resident memory in MiB after so many million datums of {LEN} B, one consumer stopped:"
    );
    print!("0: {:.1}", resident() / 1_024.0);
    let datum = Raw::from(vec![7; LEN]);
    for million in 1..=MILLIONS {
        for _ in 0..1_000_000 {
            producer
                .feed(datum.clone())
                .await
                .expect("it has consumers");
        }
        print!("  {million}: {:.1}", resident() / 1_024.0);
    }
    reader.await.expect("nothing is lost");
    println!(
        "; the stopped one was dropped {} times",
        drops(&mut events).await
    );
    from.shutdown().await;
    to.shutdown().await;
}

/// Many subscriptions between two nodes of which nothing is sent.
async fn idle() {
    let from = node(None).await;
    let to = node(Some(&from)).await;
    let producer = from.streams().produce::<Raw>();
    let first = to.streams().consume::<Raw>();
    producer.when().subscribed().await;
    let before = resident();
    let others: Vec<_> = (0..SUBSCRIPTIONS)
        .map(|_| to.streams().consume::<Raw>())
        .collect();
    producer
        .when()
        .subscribed()
        .minimum_of(SUBSCRIPTIONS + 1)
        .await;
    println!(
        "an idle subscription: {:.1} KiB, both ends together",
        (resident() - before) / SUBSCRIPTIONS as f64
    );
    drop((first, others));
    from.shutdown().await;
    to.shutdown().await;
}

//! The codes under which a producer refuses and ends subscriptions that no consumer of this version brings about by
//! itself, or only in a race: a peer asks by hand, over QUIC on loopback. The others are in `streams.rs` and
//! `stream_options.rs`.

mod by_hand;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use smalti::streams::{Criteria, Datum, Raw};
use smalti::{Network, NetworkBuilderExt, NetworkExt, Producer};
use smalti_core::network::CloseCode;
use smalti_core::protocol::streams::{
    ConsumerNumber, HANDSHAKE_LEN_MAX, Refusal, Reply, STREAMS_ALPN, Subscribe,
};
use smalti_core::runtime::{BiStream, Connection, StreamError};
use smalti_core::wire::{FrameBuffer, decode, encode_frame};

use by_hand::{Dialer, NETWORK, loopback, write};

/// What every wait of these tests is bounded by. Nothing here should come near it.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("took too long: {what}"),
    }
}

async fn node() -> Network {
    let node = Network::builder(NETWORK).with_addresses(loopback());
    node.build().await.expect("loopback has a free port")
}

/// The producer's node has a peer that subscribes by hand.
struct Peer {
    connection: Arc<dyn Connection>,
    asked: Subscribe,
}

/// One subscription of the peer.
struct Subscription {
    stream: BiStream,
    frames: FrameBuffer,
}

impl Peer {
    async fn new(network: &Network, producer: &Producer<Raw>) -> Self {
        let dialer = Dialer::new(network).await;
        let connection = dialer.enter(STREAMS_ALPN).await;
        let asked = Subscribe {
            stream: producer.stream_id(),
            schema: Raw::schema(),
            consumer: ConsumerNumber(1),
            criteria: None,
        };
        Self { connection, asked }
    }

    /// Subscribes as the consumer of this number.
    async fn ask(&self, consumer: u64, criteria: Option<Criteria>) -> (Subscription, Reply) {
        let asked = Subscribe {
            consumer: ConsumerNumber(consumer),
            criteria,
            ..self.asked.clone()
        };
        let mut frame = BytesMut::new();
        encode_frame(&asked, HANDSHAKE_LEN_MAX, &mut frame).expect("it fits");
        let mut stream = self
            .connection
            .open()
            .await
            .expect("the node takes streams");
        write(&mut stream.0, &frame).await;
        let mut subscription = Subscription {
            stream,
            frames: FrameBuffer::new(HANDSHAKE_LEN_MAX),
        };
        let reply = soon("a reply", subscription.reply()).await;
        (subscription, reply)
    }
}

impl Subscription {
    async fn read(&mut self) -> Result<bool, StreamError> {
        let mut chunks = Vec::new();
        let read = poll_fn(|cx| self.stream.1.poll_read(cx, &mut chunks, 1_024)).await?;
        chunks.into_iter().for_each(|chunk| self.frames.push(chunk));
        Ok(read.is_some())
    }

    async fn reply(&mut self) -> Reply {
        loop {
            if let Some(frame) = self.frames.next_frame().expect("a frame") {
                return decode(&frame).expect("a reply");
            }
            assert!(self.read().await.expect("the stream goes on"), "no reply");
        }
    }

    /// The code under which it ends.
    async fn code(&mut self) -> CloseCode {
        let end = async {
            loop {
                match self.read().await {
                    Ok(true) => {}
                    Ok(false) => panic!("it ends without a code"),
                    Err(StreamError::Reset(code)) => return code,
                    Err(other) => panic!("it ends in another way: {other}"),
                }
            }
        };
        soon("the end of a subscription", end).await
    }
}

#[tokio::test]
async fn a_later_subscription_of_one_consumer_replaces_the_earlier() {
    let network = node().await;
    let producer = network.streams().produce::<Raw>();
    let peer = Peer::new(&network, &producer).await;
    let (mut first, reply) = peer.ask(1, None).await;
    assert!(matches!(reply, Reply::Accepted(_)), "{reply:?}");
    let (_another, reply) = peer.ask(2, None).await;
    assert!(matches!(reply, Reply::Accepted(_)), "{reply:?}");
    let (_second, reply) = peer.ask(1, None).await;
    assert!(matches!(reply, Reply::Accepted(_)), "{reply:?}");
    assert_eq!(first.code().await, CloseCode::REPLACED);
    assert_eq!(producer.stats().len(), 2);
}

#[tokio::test]
async fn more_criteria_than_a_producer_evaluates_are_refused_and_known_ones_are_not() {
    let network = node().await;
    let producer = network.streams().produce::<Raw>();
    let peer = Peer::new(&network, &producer).await;
    let criteria = |above: u64| Some(Criteria::field("").above(above));
    let mut subscriptions = Vec::new();
    let max = loop {
        let number = subscriptions.len() as u64;
        assert!(number < 1_000, "there is no limit");
        let (mut subscription, reply) = peer.ask(number, criteria(number)).await;
        match reply {
            Reply::Accepted(_) => subscriptions.push(subscription),
            Reply::Refused(refusal @ Refusal::TooManyCriteria { max }) => {
                assert_eq!(refusal.code(), CloseCode::STREAM_NO_CAPACITY);
                assert!(!subscription.read().await.expect("it ends in order"));
                break max;
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(subscriptions.len() as u64, max);
    let (_subscription, reply) = peer.ask(max, criteria(0)).await;
    assert!(matches!(reply, Reply::Accepted(_)), "{reply:?}");
}

#[tokio::test]
async fn who_waits_for_a_place_is_told_that_the_producer_ends() {
    let network = node().await;
    let producer = network.streams().producer::<Raw>();
    let producer = producer.with_max_consumers(1).with_max_waiting(1);
    let producer = producer.build().unwrap();
    let peer = Peer::new(&network, &producer).await;
    let (mut first, reply) = peer.ask(1, None).await;
    assert!(matches!(reply, Reply::Accepted(_)), "{reply:?}");
    let (mut second, reply) = peer.ask(2, None).await;
    assert_eq!(reply, Reply::Waiting { max: 1 });
    drop(producer);
    let reply = soon("another reply", second.reply()).await;
    assert_eq!(reply, Reply::Refused(Refusal::ShuttingDown));
    assert_eq!(Refusal::ShuttingDown.code(), CloseCode::STREAM_ENDED);
    let is_going_on = soon("the end", second.read()).await;
    assert!(!is_going_on.expect("it ends in order"));
    let ends = async { while first.read().await.expect("it ends in order") {} };
    soon("the end of the first", ends).await;
    let (_, reply) = peer.ask(3, None).await;
    assert_eq!(reply, Reply::Refused(Refusal::UnknownStream));
}

//! A producer whose datums are not what their type says.

#![expect(
    clippy::disallowed_methods,
    reason = "applications keep time by tokio, as in production"
)]

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use smalti_core::datum::{Datum, DecodeError, EncodeError};
use smalti_core::id::Digest;
use smalti_core::streams::ConsumerEvent;
use smalti_sim::Simulation;

/// The number that cannot be decoded.
const BAD: u64 = 5;
/// Datums that are sent at once, of which the first ones are good.
const BURST: u64 = 100;
const LAST: u64 = 199;

/// A number, and enough behind it for several segments.
struct Number(u64);

impl Datum for Number {
    fn schema() -> Digest {
        Digest::of("number", &[])
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_u64_le(self.0);
        out.put_bytes(0, 16_384);
        Ok(())
    }

    fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        match bytes.get_u64_le() {
            BAD => Err(DecodeError::custom("a bad number")),
            number => Ok(Self(number)),
        }
    }
}

#[test]
fn what_follows_a_datum_that_cannot_be_decoded_is_dropped_and_announced() {
    Simulation::new(1)
        .service("producer", |network| async move {
            let mut producer = network
                .streams()
                .producer::<Number>()
                .with_stream_id("numbers")
                .build()
                .map_err(|error| error.to_string())?;
            for number in 0..BURST {
                producer.feed(Number(number)).await?;
            }
            // The rest is sent once the subscription has been lost over what was sent.
            tokio::time::sleep(Duration::from_secs(20)).await;
            for number in BURST..=LAST {
                producer.feed(Number(number)).await?;
            }
            std::future::pending().await
        })
        .host("consumer", |network| async move {
            let mut consumer = network
                .streams()
                .consumer::<Number>()
                .with_stream_id("numbers")
                .build()?;
            let mut events = consumer.events();
            tokio::time::sleep(Duration::from_secs(10)).await;
            let mut received = Vec::new();
            while received.last() != Some(&LAST) {
                let (Number(number), meta) = consumer.recv_with_meta().await.ok_or("the end")?;
                assert_eq!(meta.sequence, number);
                received.push(number);
            }
            let expected: Vec<u64> = (0..BAD).chain(BURST..=LAST).collect();
            assert_eq!(received, expected);
            let mut announced = 0;
            while let Ok(Ok(Some(event))) =
                tokio::time::timeout(Duration::ZERO, events.recv()).await
            {
                if let ConsumerEvent::Lagged { datums, .. } = event {
                    announced += datums;
                }
            }
            assert_eq!(announced, BURST - BAD);
            Ok(())
        })
        .run()
        .expect("the rest arrives, and the hole is announced");
}

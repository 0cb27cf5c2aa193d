//! What consumer and producer say to each other before datums flow.

use serde::{Deserialize, Serialize};

use super::Criteria;
use crate::id::{Digest, StreamId, UniqueId};
use crate::runtime::Alpn;
use crate::wire::CloseCode;

/// The protocol of subscriptions.
pub const STREAMS_ALPN: Alpn = Alpn::new("/smalti/streams/1");

/// The longest [`Subscribe`] or [`Reply`], in bytes.
pub const HANDSHAKE_LEN_MAX: usize = 4_096;

/// Tells the consumers of one node apart. Numbers start anew with each start of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConsumerNumber(pub u64);

/// Names one life of a producer: its sequence numbers are comparable within it, and nowhere else.
pub type ProducerInstance = UniqueId;

/// What a consumer asks for: the first and only frame it sends. When it finishes its half of the stream after that, it
/// leaves in good order: it is sent what was queued for it, and no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The stream.
    pub stream: StreamId,
    /// The fingerprint of the datums that the consumer decodes.
    pub schema: Digest,
    /// Which consumer of its node asks. A subscription takes the place of an earlier one of the same consumer.
    pub consumer: ConsumerNumber,
    /// Which datums it wants; `None` for all.
    pub criteria: Option<Criteria>,
}

/// The producer's first frame, and the second where the first is [`Waiting`](Self::Waiting).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Segments follow.
    Accepted(Accepted),
    /// All places are taken; another reply follows when one becomes free, or none ever will.
    Waiting {
        /// The most consumers that the producer may have.
        max: u64,
    },
    /// The stream ends here.
    Refused(Refusal),
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The life of the producer that the sequence numbers belong to.
    pub instance: ProducerInstance,
    /// The sequence number of the first datum that will be sent.
    pub first: u64,
}

/// Why a producer does not accept a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The node does not produce the stream (any more).
    #[error("the node does not produce this stream")]
    UnknownStream,
    /// The two sides have different types under one stream id.
    #[error(
        "the types of the stream's datums differ: the producer's schema is {producer}, the consumer's {consumer}"
    )]
    SchemaDiffers {
        /// The fingerprint of the producer's datums.
        producer: Digest,
        /// The fingerprint of the consumer's datums.
        consumer: Digest,
    },
    /// The producer's predicate does not accept the consumer's node.
    #[error("the producer does not accept this node")]
    Rejected,
    /// The producer has as many consumers as it may, and as many wait for a place as may.
    #[error("the producer has no place for more than {max} consumers")]
    NoCapacity {
        /// The most consumers it may have.
        max: u64,
    },
    /// The producer is about to end.
    #[error("the producer is shutting down")]
    ShuttingDown,
    /// The producer's consumers have as many different criteria as it evaluates.
    #[error("the producer evaluates no more than {max} different criteria")]
    TooManyCriteria {
        /// The most that it evaluates.
        max: u64,
    },
}

impl Refusal {
    /// The code under which this refusal closes the stream.
    #[must_use]
    pub const fn code(&self) -> CloseCode {
        match self {
            Self::UnknownStream => CloseCode::STREAM_NOT_FOUND,
            Self::SchemaDiffers { .. } => CloseCode::STREAM_SCHEMA_DIFFERS,
            Self::Rejected => CloseCode::STREAM_REJECTED,
            Self::NoCapacity { .. } | Self::TooManyCriteria { .. } => CloseCode::STREAM_NO_CAPACITY,
            Self::ShuttingDown => CloseCode::STREAM_ENDED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::streams::criteria::CRITERIA_LEN_MAX;
    use crate::wire;

    #[test]
    fn the_longest_handshake_messages_fit_their_limit() {
        let digest = Digest::from_bytes([0xff; 32]);
        let subscribe = Subscribe {
            stream: StreamId::from_bytes([0xff; 32]),
            schema: digest,
            consumer: ConsumerNumber(u64::MAX),
            criteria: None,
        };
        let refused = Reply::Refused(Refusal::SchemaDiffers {
            producer: digest,
            consumer: digest,
        });
        for encoded in [
            wire::encode(&subscribe).unwrap(),
            wire::encode(&refused).unwrap(),
        ] {
            assert!(encoded.len() + CRITERIA_LEN_MAX <= HANDSHAKE_LEN_MAX);
        }
    }
}

//! What can go wrong with streams.

use std::fmt;

use super::producer::Producer;
use crate::datum::EncodeError;
use crate::id::{Digest, StreamId};
use crate::protocol::streams::CriteriaError;
use crate::protocol::streams::segment::DATUM_LEN_MAX;

/// A producer cannot be made.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ProducerError<D> {
    /// This node has a producer of the stream already: here it is, with the configuration that it was made
    /// with.
    #[error("this node has a producer of the stream already")]
    AlreadyExists(Producer<D>),
    /// This node has a producer of the stream, for datums of another type. Nothing has changed.
    #[error(
        "this node produces stream {stream} with schema {existing}; one with schema {requested} cannot have the same id"
    )]
    SchemaDiffers {
        /// The stream.
        stream: StreamId,
        /// The fingerprint of the datums of the producer that is there.
        existing: Digest,
        /// The fingerprint of the datums of the one that was to be made.
        requested: Digest,
    },
    /// The producer was to send no bytes at all.
    #[error("with an egress of zero bytes per second nothing would ever be sent")]
    NoEgress,
    /// This node produces as many streams as an entry of the catalog can name.
    #[error("this node produces {0} streams already, and no more can be announced")]
    TooMany(usize),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

impl<D> fmt::Debug for ProducerError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProducerError({self})")
    }
}

/// A consumer cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The criteria cannot be sent to producers.
    #[error(transparent)]
    Criteria(#[from] CriteriaError),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// A datum was not sent at once. Gives it back.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError<D> {
    /// What `online_when` asks for is not met, by default that somebody is subscribed.
    #[error("nobody is there to send to")]
    Offline(D),
    /// The queue is full: the slowest consumer has not taken what was sent before.
    #[error("the queue is full")]
    Full(D),
    /// The producer has ended, with the node or by [`close`](futures_sink::Sink::poll_close).
    #[error("the producer has ended")]
    Closed(D),
    /// The datum has no encoding.
    #[error("{error}")]
    Encode {
        /// The datum.
        datum: D,
        /// Why.
        error: EncodeError,
    },
    /// The datum is longer than a stream takes.
    #[error("a datum of {len} bytes is longer than the {DATUM_LEN_MAX} that a stream takes")]
    TooLarge {
        /// The datum.
        datum: D,
        /// Its encoded length in bytes.
        len: usize,
    },
}

impl<D> TrySendError<D> {
    /// The datum that was not sent.
    pub fn into_inner(self) -> D {
        match self {
            Self::Offline(datum)
            | Self::Full(datum)
            | Self::Closed(datum)
            | Self::Encode { datum, .. }
            | Self::TooLarge { datum, .. } => datum,
        }
    }
}

impl<D> fmt::Debug for TrySendError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrySendError({self})")
    }
}

/// A datum was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The producer has ended.
    #[error("the producer has ended")]
    Closed,
    /// The datum has no encoding.
    #[error(transparent)]
    Encode(EncodeError),
    /// The datum is longer than a stream takes.
    #[error("a datum of {len} bytes is longer than the {DATUM_LEN_MAX} that a stream takes")]
    TooLarge {
        /// Its encoded length in bytes.
        len: usize,
    },
}

/// Nothing could be received at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TryRecvError {
    /// Nothing has arrived that was not taken.
    #[error("nothing has arrived")]
    Empty,
    /// Nothing will arrive any more: the node has shut down.
    #[error("the consumer has ended")]
    Closed,
}

//! Streams: typed datums from producers to the consumers that find them in the catalog.
//!
//! A *subscription* is one bidirectional stream on the connection of a pair of nodes for [`STREAMS_ALPN`], opened by
//! the consumer. It sends one [`Subscribe`]; the producer answers with a [`Reply`], or lets it wait and answers
//! again; from then on [`segment`]s flow one way until the producer finishes or resets the stream, or the consumer
//! stops it, or asks for its end by finishing its own half.
//!
//! Two machines decide, one for each end: [`producer::Machine`] admits and drops consumers,
//! [`consumer::Machine`] chooses and retries producers. Datums never pass through a machine.
//!
//! Invariants:
//! - Datums of one producer arrive in the order of their sequence numbers, none twice in one life of the
//!   consumer.
//! - What is missing shows: sequence numbers leave no hole that is not counted ([`segment::Position`]).
//! - A producer never has more subscriptions than it may, nor two of one consumer.
//! - A consumer has at most one subscription to each producer.

pub mod consumer;
pub mod criteria;
pub mod egress;
mod message;
pub mod producer;
pub mod segment;

pub use super::backoff::{Backoff, BackoffError};
pub use criteria::{Criteria, CriteriaError};
pub use message::{
    Accepted, ConsumerNumber, HANDSHAKE_LEN_MAX, ProducerInstance, Refusal, Reply, STREAMS_ALPN,
    Subscribe,
};

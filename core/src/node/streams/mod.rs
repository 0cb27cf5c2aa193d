//! Streams on a node: workers that run the machines, queues that datums go through, and the handles.
//!
//! The way of a datum: encoded once into the fan-out queue of its producer, written from there to each
//! consumer by a task of its own, read on the other node into the consumer's inbox, and decoded when
//! the application takes it. Each queue is bounded, and each waits for the next: an application that does not
//! take its datums is felt by the producer.

mod answer;
mod condition;
mod consumer;
mod consumer_worker;
mod error;
mod fanout;
mod handle;
mod inbox;
mod preference;
mod producer;
mod producer_worker;
mod reader;
mod roster;
mod undelivered;
#[cfg(test)]
mod wakes;
mod writer;

pub use crate::node::events::Events;
pub use condition::{Online, Subscribed, Subscribers, When};
pub use consumer::{Consumer, ConsumerBuilder, Meta};
pub use error::{ConsumerError, ProducerError, SendError, TryRecvError, TrySendError};
pub use handle::Streams;
pub(crate) use handle::{Subscriptions, start};
pub use producer::{Producer, ProducerBuilder};
pub use roster::{Stats, SubscriptionState, SubscriptionStats};

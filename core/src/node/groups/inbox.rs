//! What comes to a group's worker, in one queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::calls::Outcomes;
use super::error::QueryError;
use super::handle::{Consistency, Queried};
use super::machine::StateMachine;
use super::switchboard::Inbox;
use crate::id::PeerId;
use crate::protocol::bonds::Refusal;
use crate::protocol::raft::{Commands, Incarnation, StorageError, WriteId};

/// Bytes of messages that wait for a worker. Beyond it messages are dropped, which consensus bears.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What a message in the queue counts for beside its bytes.
const MESSAGE_OVERHEAD: usize = 256;

/// What the catalog says of a group's other members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// All that name the group, with the life of it that they belong to.
    pub(super) members: BTreeMap<PeerId, Option<Incarnation>>,
    /// A peer that the node was told to join through is not in the catalog yet.
    pub(super) awaits_bootstrap: bool,
}

/// What can happen to a group on this node.
pub(super) enum Event<M: StateMachine> {
    Bonded(PeerId),
    Unbonded(PeerId),
    Refused(PeerId, Refusal),
    Message(PeerId, Bytes),
    Stored(Result<WriteId, StorageError>),
    Surroundings(Surroundings),
    Execute {
        commands: Commands,
        /// What they count for in the budget.
        cost: usize,
        reply: oneshot::Sender<Outcomes>,
    },
    Query {
        query: M::Query,
        consistency: Consistency,
        reply: oneshot::Sender<Result<Queried<M::QueryResult>, QueryError>>,
    },
    TransferLeadership,
    /// A group that stands still is to go on from what is left.
    Reform,
    /// The node leaves the group for good.
    Leave,
}

/// Puts what comes from bonds and the disk into a worker's queue.
pub(super) struct Mailbox<M: StateMachine> {
    events: mpsc::UnboundedSender<Event<M>>,
    queued: Arc<MessageBytes>,
}

/// Bytes of messages in a queue.
#[derive(Debug, Default)]
pub(super) struct MessageBytes(AtomicUsize);

impl MessageBytes {
    const fn of(payload: &Bytes) -> usize {
        payload.len() + MESSAGE_OVERHEAD
    }

    /// The worker has taken a message from the queue.
    pub(super) fn taken(&self, payload: &Bytes) {
        self.0.fetch_sub(Self::of(payload), Ordering::Relaxed);
    }
}

impl<M: StateMachine> Mailbox<M> {
    pub(super) fn new(events: mpsc::UnboundedSender<Event<M>>, queued: Arc<MessageBytes>) -> Self {
        Self { events, queued }
    }

    /// Fails only where the worker has ended, whom nothing concerns any more.
    fn push(&self, event: Event<M>) {
        let _ = self.events.send(event);
    }

    pub(super) fn stored(&self, result: Result<WriteId, StorageError>) {
        self.push(Event::Stored(result));
    }
}

impl<M: StateMachine> Inbox for Mailbox<M> {
    fn bonded(&self, peer: PeerId) {
        self.push(Event::Bonded(peer));
    }

    fn unbonded(&self, peer: PeerId) {
        self.push(Event::Unbonded(peer));
    }

    fn refused(&self, peer: PeerId, why: Refusal) {
        self.push(Event::Refused(peer, why));
    }

    fn message(&self, peer: PeerId, payload: Bytes) {
        let len = MessageBytes::of(&payload);
        let queued = self.queued.0.fetch_add(len, Ordering::Relaxed);
        if queued + len > MESSAGE_BYTES_MAX {
            self.queued.0.fetch_sub(len, Ordering::Relaxed);
            tracing::debug!(peer = %peer.short(), "a message is dropped: the group does not keep up");
            return;
        }
        self.push(Event::Message(peer, payload));
    }
}

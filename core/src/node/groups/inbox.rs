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

/// The same for messages of members that may only read, beside those: they do not crowd out what writers say, nor keep it waiting
/// for long.
const OF_READERS_MAX: usize = 8 << 20;

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
    Bonded {
        peer: PeerId,
        may_write: bool,
    },
    Unbonded(PeerId),
    Refused(PeerId, Refusal),
    Message {
        peer: PeerId,
        may_write: bool,
        payload: Bytes,
    },
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
pub(super) struct MessageBytes {
    of_writers: AtomicUsize,
    of_readers: AtomicUsize,
}

impl MessageBytes {
    const fn of(payload: &Bytes) -> usize {
        payload.len() + MESSAGE_OVERHEAD
    }

    /// How many there are of those that may write, or of the others, and how many there may be.
    const fn share(&self, may_write: bool) -> (&AtomicUsize, usize) {
        if may_write {
            (&self.of_writers, MESSAGE_BYTES_MAX)
        } else {
            (&self.of_readers, OF_READERS_MAX)
        }
    }

    /// Whether there is room for a message, which is put into the queue then.
    fn put(&self, may_write: bool, payload: &Bytes) -> bool {
        let len = Self::of(payload);
        let (queued, max) = self.share(may_write);
        let has_room = queued.fetch_add(len, Ordering::Relaxed) + len <= max;
        if !has_room {
            queued.fetch_sub(len, Ordering::Relaxed);
        }
        has_room
    }

    /// The worker has taken a message from the queue.
    pub(super) fn taken(&self, may_write: bool, payload: &Bytes) {
        let (queued, _) = self.share(may_write);
        queued.fetch_sub(Self::of(payload), Ordering::Relaxed);
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
    fn bonded(&self, peer: PeerId, may_write: bool) {
        self.push(Event::Bonded { peer, may_write });
    }

    fn unbonded(&self, peer: PeerId) {
        self.push(Event::Unbonded(peer));
    }

    fn refused(&self, peer: PeerId, why: Refusal) {
        self.push(Event::Refused(peer, why));
    }

    fn message(&self, peer: PeerId, may_write: bool, payload: Bytes) {
        if self.queued.put(may_write, &payload) {
            self.push(Event::Message {
                peer,
                may_write,
                payload,
            });
        } else {
            tracing::debug!(peer = %peer.short(), "a message is dropped: the group does not keep up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::groups::NoOp;

    #[test]
    fn readers_do_not_crowd_out_what_writers_say() {
        let (events, mut queue) = mpsc::unbounded_channel();
        let queued = Arc::new(MessageBytes::default());
        let mailbox = Mailbox::<NoOp>::new(events, queued.clone());
        let [reader, writer] = [1, 2].map(|byte| PeerId::from_bytes([byte; 32]));
        let payload = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..100 {
            mailbox.message(reader, false, payload.clone());
        }
        mailbox.message(writer, true, payload.clone());
        let mut senders = Vec::new();
        while let Ok(Event::Message {
            peer,
            may_write,
            payload,
        }) = queue.try_recv()
        {
            queued.taken(may_write, &payload);
            senders.push(peer);
        }
        assert_eq!(senders.pop(), Some(writer));
        assert_eq!(senders, [reader; 7]);
        // What was taken makes room.
        mailbox.message(reader, false, payload);
        assert!(queue.try_recv().is_ok());
    }
}

//! The node's store: one worker between the disk and all groups of the node.
//!
//! Groups put what they want written into one queue. The worker takes all that is there, writes it, and
//! makes it durable by one sync, while the queue fills again: the busier the groups, the more of them each
//! sync serves.
//!
//! What has failed once is closed for good. What the disk holds is then unknown, and a second try that
//! succeeds proves nothing about the first, so nothing may be promised any more: every group is told, and
//! stops until the node is started again.

mod round;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use self::worker::{Request, Worker};
use super::tasks::Tasks;
use crate::id::GroupId;
use crate::protocol::raft::{Recovered, Storage, StorageError, Write, WriteId};

/// Told after each sync of the last write that is durable, and of those before it with it, or once of the
/// failure that has closed the store. Called on the worker's task: it must not block.
pub(crate) type Done = Box<dyn Fn(Result<WriteId, StorageError>) + Send + Sync>;

/// The node's store. A clone is the same.
///
/// The queue has no bound of its own, and needs none: what a machine may have handed over and not been told
/// of is bounded by its protocol. A leader takes no command while too many entries or bytes are not both
/// committed and durable; a follower acknowledges what is durable alone, and is sent a few appends beyond
/// that; catching up stops while the disk is behind; snapshots are saved chunk by chunk, each after the one
/// before. Commands and chunks are shared with the machine's own log, so that a queued write is small.
#[derive(Clone)]
pub(crate) struct Store {
    requests: mpsc::UnboundedSender<Request>,
    /// How often a group was opened.
    opened: Arc<AtomicU64>,
}

impl Store {
    /// Starts the worker. It closes the store, and ends, when [`close`](Self::close) is called or all handles
    /// are dropped.
    pub(crate) fn start(tasks: &Tasks, storage: Box<dyn Storage>) -> Self {
        let (requests, queue) = mpsc::unbounded_channel();
        let worker = Worker::new(tasks.clone(), storage);
        // Not to be cancelled: what is queued is to be written.
        tasks.spawn_until_done("store", worker.run(queue));
        Self {
            requests,
            opened: Arc::default(),
        }
    }

    /// Opens `group`, and gives what is stored of it. `done` is called for its writes until the handle is
    /// dropped.
    ///
    /// Cancellation safe: the group is closed again.
    ///
    /// # Errors
    /// Where it cannot be read, which closes the store; where the group is open already, which does not;
    /// [`StorageError::Closed`] where the store is closed.
    pub(crate) async fn open(
        &self,
        group: GroupId,
        done: Done,
    ) -> Result<(GroupStore, Option<Recovered>), StorageError> {
        let handle = GroupStore {
            group,
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            requests: self.requests.clone(),
        };
        let (reply, found) = oneshot::channel();
        handle.request(Request::Open {
            group,
            number: handle.number,
            done,
            reply,
        });
        let found = found.await.unwrap_or(Err(StorageError::Closed))?;
        Ok((handle, found))
    }

    /// Makes durable all that is queued, and closes the store well. Completes when that is done. Groups that
    /// are still open are told that the store is closed.
    ///
    /// Cancellation safe: the closing goes on.
    pub(crate) async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        // Where the worker has ended, or ends before it answers, the store is closed.
        let _ = self.requests.send(Request::Close(reply));
        let _ = closed.await;
    }
}

/// What one group may do with the store. When it is dropped the group is closed; what it has written before
/// is carried out all the same.
pub(crate) struct GroupStore {
    group: GroupId,
    number: u64,
    requests: mpsc::UnboundedSender<Request>,
}

impl GroupStore {
    /// Queues a write. Writes are carried out in the order of the calls.
    pub(crate) fn write(&self, id: WriteId, write: Box<Write>) {
        self.request(Request::Write {
            group: self.group,
            number: self.number,
            id,
            write,
        });
    }

    /// Forgets all of the group, for good. Completes when that is durable.
    ///
    /// Cancellation safe: the forgetting goes on.
    ///
    /// # Errors
    /// Where it cannot be made durable, which closes the store; [`StorageError::Closed`] where it is closed.
    pub(crate) async fn forget(self) -> Result<(), StorageError> {
        let (reply, forgotten) = oneshot::channel();
        self.request(Request::Forget {
            group: self.group,
            reply,
        });
        forgotten.await.unwrap_or(Err(StorageError::Closed))
    }

    /// Where the worker has ended the group has been told so, and nothing is promised any more.
    fn request(&self, request: Request) {
        let _ = self.requests.send(request);
    }
}

impl Drop for GroupStore {
    fn drop(&mut self) {
        self.request(Request::Release {
            number: self.number,
        });
    }
}

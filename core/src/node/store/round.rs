//! One round: all that is queued, and one sync.

use tokio::sync::oneshot;

use crate::id::GroupId;
use crate::protocol::raft::{Recovered, Storage, StorageError, Write, WriteId};

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

/// Something to do with the storage, and afterwards what came of it.
pub(super) enum Job {
    /// Reads what is there of a group.
    Load {
        group: GroupId,
        found: Box<Option<Recovered>>,
        reply: Reply<Option<Recovered>>,
    },
    /// Writes. The write is taken out.
    Write {
        group: GroupId,
        number: u64,
        id: WriteId,
        write: Box<Write>,
    },
    /// Forgets a group.
    Forget { group: GroupId, reply: Reply<()> },
}

/// Does the jobs in order, up to the first that fails, and makes durable what they have written. Blocks.
pub(super) fn carry_out(storage: &mut dyn Storage, jobs: &mut [Job]) -> Result<(), StorageError> {
    let mut has_changed = false;
    for job in jobs {
        match job {
            Job::Load { group, found, .. } => **found = storage.load(group)?,
            Job::Write { group, write, .. } => {
                storage.write(group, std::mem::take(&mut **write))?;
                has_changed = true;
            }
            Job::Forget { group, .. } => {
                storage.forget(group)?;
                has_changed = true;
            }
        }
    }
    if has_changed {
        storage.sync()?;
    }
    Ok(())
}

//! What must outlive the process: the durable store of a node's groups, and its secret key.
//!
//! One [`RedbStorage`] serves all groups of a node, in one file of a [`Disk`], which
//! in production is an [`OsDisk`]: one sync, of one fsync, makes durable what all of them wait for. The file
//! is a page of our own, two pages of marks, a journal, and behind them a redb database, shifted (`file.rs`):
//!
//! - The first page says whose file it is, and of which format.
//! - The journal has the commits that the database has not yet (`journal.rs`). A record of it that is not
//!   whole ends it: that commit was not durable, or the mark tells that it was.
//! - A mark says how many commits were durable when it was written; it is written after each sync, without
//!   one of its own. redb takes a last commit that fails its checksums for one that a crash interrupted and
//!   goes back to the one before, and so does the journal; by themselves they would drop, without a word,
//!   what had been durable and rotted later (Alagappan et al., Protocol-Aware Recovery for Consensus-Based
//!   Storage, FAST 2018). With the mark that is damage, and is reported. Only a last commit whose mark a power
//!   failure took too cannot be told from one that never was durable.
//! - A mark also says whether the store was closed. One that was not may have ended with a sync that failed,
//!   whose writes the operating system returns though they will never reach the disk (Rebello et al., Can
//!   Applications Recover from fsync Failures?, ATC 2020). So such a file is written anew, all of it, before
//!   anything is built on it.
//! - When the store is opened, redb verifies the checksums of all pages and rebuilds what a crash left
//!   undone. What it writes meanwhile is kept back until all has been found sound (`backend.rs`), so a
//!   damaged file is left as it is.
//! - Each row has a checksum over its table, its key and its contents (`rows.rs`), which is verified when it
//!   is read.
//!
//! redb may panic on a file that was altered from outside; that is caught, and reported as damage, unless
//! the program is built to abort on panics.

mod backend;
mod engine;
mod file;
mod guard;
mod journal;
mod network_file;
mod os_disk;
mod redb_storage;
mod rows;

use std::sync::Arc;

use smalti_core::id::{NetworkId, SecretKey};
use smalti_core::protocol::raft::StorageError;

use crate::runtime::{Disk, OpenStore};

pub use os_disk::OsDisk;
pub use redb_storage::RedbStorage;

/// Opens the store in the data directory that `disk` is, for a node of `network`; makes it where there is none.
///
/// A directory belongs to the network that it was made for, and to one secret key: `given`, or where none is given the
/// one that `fresh` draws. Opened again, it gives that key back.
///
/// # Errors
/// As [`RedbStorage::open`]; [`StorageError::Foreign`] also where the directory belongs to another network.
pub fn open_directory(
    disk: &Arc<dyn Disk>,
    network: &NetworkId,
    given: Option<&SecretKey>,
    fresh: impl FnOnce() -> SecretKey,
) -> Result<OpenStore, StorageError> {
    let is_noted = network_file::is_of(&**disk, network)?;
    let store = RedbStorage::open(Arc::clone(disk), given, fresh)?;
    if !is_noted {
        network_file::note(&**disk, network)?;
    }
    Ok(store.into())
}

//! What a node finds again when it is started anew.

use std::fmt;
use std::path::PathBuf;

use super::BoxFuture;
use crate::id::{NetworkId, SecretKey};
use crate::protocol::raft::{Storage, StorageError};

/// Opens the node's durable store.
pub trait Stores: Send + Sync + 'static {
    /// Opens the store in the data directory `directory`; makes it where there is none.
    ///
    /// A directory belongs to the network that it was made for, and to the secret key that it was made with: `given`,
    /// or a fresh one where none is given. Opened again, it gives that key back. One at a time has a directory open, until what is returned here
    /// is dropped.
    ///
    /// Not cancellation safe: where the future is dropped, the directory may stay in use until the opening,
    /// which goes on, has ended.
    ///
    /// # Errors
    /// [`StorageError::InUse`] where the directory is open already; [`StorageError::Foreign`] where it belongs
    /// to another network or to another key than `given`, or what is there is no store; [`StorageError::Damaged`] where it is not
    /// what was written; otherwise as the disk says.
    fn open_store(
        &self,
        directory: PathBuf,
        network: NetworkId,
        given: Option<SecretKey>,
    ) -> BoxFuture<'_, Result<OpenStore, StorageError>>;
}

/// An open store, and whose it is.
pub struct OpenStore {
    /// What is stored for the node's groups. Dropping it closes the store, which blocks.
    pub storage: Box<dyn Storage>,
    /// The key that the store belongs to: the node's.
    pub secret_key: SecretKey,
}

impl fmt::Debug for OpenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStore")
            .field("peer", &self.secret_key.peer_id())
            .finish_non_exhaustive()
    }
}

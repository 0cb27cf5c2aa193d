//! What the nodes of a collection agree on.

use crate::id::{Digest, StoreId};
use crate::node::groups::{COMMAND_TIMEOUT, Storage};
use crate::protocol::groups::GroupKey;
use crate::protocol::raft::Config;
use crate::time::Duration;

/// How a collection is kept. All nodes that open it must give the same, but for the command timeout: those that differ have
/// different collections.
///
/// ```
/// use smalti_core::collections::CollectionConfig;
/// use smalti_core::groups::Storage;
///
/// let config = CollectionConfig::default().with_storage(Storage::Durable);
/// ```
#[derive(Clone, Debug)]
pub struct CollectionConfig {
    pub(super) consensus: Config,
    pub(super) storage: Storage,
    pub(super) command_timeout: Duration,
    secret: Option<GroupKey>,
}

impl Default for CollectionConfig {
    fn default() -> Self {
        Self {
            consensus: Config::default(),
            storage: Storage::InMemory,
            command_timeout: COMMAND_TIMEOUT,
            secret: None,
        }
    }
}

impl CollectionConfig {
    /// How consensus is run, and how much is kept for members that catch up. Default: [`Config::default`].
    #[must_use]
    pub fn with_consensus_config(mut self, config: Config) -> Self {
        self.consensus = config;
        self
    }

    /// Where the collection is kept. Default: in memory.
    #[must_use]
    pub fn with_storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// How long this node tries to have a write committed before it gives it up. Default: 30 s.
    #[must_use]
    pub fn with_command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    /// Lets only those open the collection who know this secret. Default: whoever is in the network and knows its id.
    #[must_use]
    pub fn with_secret(mut self, secret: GroupKey) -> Self {
        self.secret = Some(secret);
        self
    }

    /// The key of the group of the collection `id` of this kind.
    pub(super) fn key(&self, kind: &str, id: StoreId) -> GroupKey {
        let mut parts = vec![kind.as_bytes(), id.as_bytes()];
        parts.extend(self.secret.as_ref().map(|secret| &secret.as_bytes()[..]));
        // A digest of a secret is as good a secret. Without one the key is for everybody to know, like the id.
        let digest = Digest::of("key of a collection 1", &parts);
        GroupKey::from_bytes(*digest.as_bytes())
    }
}

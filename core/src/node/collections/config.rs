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

/// How members of a collection that lack something get it: small gaps from the log, large ones by a snapshot in chunks, both
/// from all members that have it.
///
/// Part of the [configuration of consensus](Config), whose fields these are. What else could be set follows from them:
///
/// - how many entries are fetched at once: 512, or as many as fill an answer, since entries may be long;
/// - for how long a snapshot is kept for who fetches it: until nothing of it was asked for during twenty fetch timeouts, so
///   that it outlives several requests that are lost;
/// - for how long a snapshot is waited for: for each of its parts a fetch timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// So many writes below the latest snapshot are kept, so that small gaps need none. Default: 16,384.
    pub log_window: u64,
    /// A snapshot is taken each time so many writes have been committed. Default: 16,384.
    pub snapshot_interval: u64,
    /// A snapshot is also taken when writes of about so many bytes have been committed since the last one. Default:
    /// 64 MiB.
    pub snapshot_bytes: u64,
    /// What was asked for and has not come after so long is asked for anew, of another member if there is one. Writes that
    /// were sent to the leader are sent again after twice this: it is half of the
    /// [`forward_timeout`](Config::forward_timeout). Default: 1 s.
    pub fetch_timeout: Duration,
}

impl Default for SyncConfig {
    fn default() -> Self {
        let Config {
            log_window,
            snapshot_interval,
            snapshot_bytes,
            forward_timeout,
            ..
        } = Config::default();
        Self {
            log_window,
            snapshot_interval,
            snapshot_bytes,
            fetch_timeout: forward_timeout / 2,
        }
    }
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

    /// How members that lack something get it. Replaces what the consensus configuration says of that, so give it after
    /// [`with_consensus_config`](Self::with_consensus_config). Default: [`SyncConfig::default`].
    #[must_use]
    pub fn with_sync_config(mut self, sync: SyncConfig) -> Self {
        self.consensus = Config {
            log_window: sync.log_window,
            snapshot_interval: sync.snapshot_interval,
            snapshot_bytes: sync.snapshot_bytes,
            forward_timeout: sync.fetch_timeout * 2,
            ..self.consensus
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_members_catch_up_is_part_of_consensus_and_leaves_the_rest_as_it_is() {
        let consensus = Config {
            max_voters: 3,
            ..Config::default()
        };
        let config = CollectionConfig::default().with_consensus_config(consensus.clone());
        let same = config.clone().with_sync_config(SyncConfig::default());
        assert_eq!(same.consensus, consensus);
        let other = config.with_sync_config(SyncConfig {
            log_window: 1,
            snapshot_interval: 2,
            snapshot_bytes: 3,
            fetch_timeout: Duration::from_secs(2),
        });
        let expected = Config {
            log_window: 1,
            snapshot_interval: 2,
            snapshot_bytes: 3,
            forward_timeout: Duration::from_secs(4),
            ..consensus
        };
        assert_eq!(other.consensus, expected);
    }
}

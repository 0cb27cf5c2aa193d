//! What the nodes of a collection agree on.

use crate::id::{Digest, StoreId};
use crate::node::groups::{COMMAND_TIMEOUT, Storage};
use crate::protocol::groups::{GroupKey, WriteKey, WriteVerifier};
use crate::protocol::raft::Config;
use crate::time::Duration;

/// How a collection is kept. All nodes that open it must give the same, but for the command timeout, and for the verifier in
/// place of the write secret: those that differ have different collections.
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
    pub(super) write_secret: Option<WriteKey>,
    pub(super) write_verifier: Option<WriteVerifier>,
}

/// How members of a collection that lack something get it: small gaps from the log, large ones by a snapshot in chunks, both
/// from all members that have it.
///
/// Part of the [configuration of consensus](Config), whose fields of the same names these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// So many writes below the latest snapshot are kept, so that small gaps need none. Default: 16,384.
    pub log_window: u64,
    /// A snapshot is taken each time so many writes have been committed. Default: 16,384.
    pub snapshot_interval: u64,
    /// A snapshot is also taken when writes of about so many bytes have been committed since the last one. Default:
    /// 64 MiB.
    pub snapshot_bytes: u64,
    /// The most writes that are asked of one member at a time; an answer of 256 KiB may bring fewer. At most 65,536.
    /// Default: 2,000.
    pub fetch_batch_size: u32,
    /// Writes that were asked for and have not come after so long are asked of another member, if there is one. A member
    /// that is gone is not waited for. Default: 5 s.
    pub fetch_timeout: Duration,
    /// The same for a part of a snapshot, or for what says of which parts it consists. Default: 15 s.
    pub snapshot_request_timeout: Duration,
    /// A snapshot that a newer one has replaced, and the writes above it, are kept for who fetches it until nothing of it
    /// was asked for during this time. Default: 10 s.
    pub snapshot_ttl: Duration,
}

impl Default for SyncConfig {
    fn default() -> Self {
        let Config {
            log_window,
            snapshot_interval,
            snapshot_bytes,
            fetch_batch_size,
            fetch_timeout,
            snapshot_request_timeout,
            snapshot_ttl,
            ..
        } = Config::default();
        Self {
            log_window,
            snapshot_interval,
            snapshot_bytes,
            fetch_batch_size,
            fetch_timeout,
            snapshot_request_timeout,
            snapshot_ttl,
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
            write_secret: None,
            write_verifier: None,
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
            fetch_batch_size: sync.fetch_batch_size,
            fetch_timeout: sync.fetch_timeout,
            snapshot_request_timeout: sync.snapshot_request_timeout,
            snapshot_ttl: sync.snapshot_ttl,
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

    /// Lets only those write to the collection who know this secret, as this node does. The others can open it to read it, with
    /// the [verifier](Self::with_write_verifier) of the secret in its place; members refuse everything of them that would change
    /// anything. Default: whoever can open the collection may write to it.
    ///
    /// ```
    /// use smalti_core::collections::{CollectionConfig, Map, OpenError};
    /// use smalti_core::groups::{WriteKey, WriteVerifier};
    /// use smalti_core::{Network, StoreId, unique_id};
    ///
    /// const PRICES: StoreId = unique_id!("prices");
    /// type Prices = Map<String, u64>;
    ///
    /// async fn in_the_shop(network: &Network, secret: WriteKey) -> Result<(), OpenError> {
    ///     println!("customers need this: {}", secret.verifier());
    ///     let config = CollectionConfig::default().with_write_secret(secret);
    ///     let prices = Prices::online_writer_with_config(network, PRICES, config).await?;
    ///     Ok(())
    /// }
    ///
    /// async fn at_a_customer(network: &Network, verifier: WriteVerifier) -> Result<(), OpenError> {
    ///     let config = CollectionConfig::default().with_write_verifier(verifier);
    ///     let prices = Prices::online_reader_with_config(network, PRICES, config.clone()).await?;
    ///     println!("bread costs {:?}", prices.get("bread"));
    ///     let refused = Prices::writer_with_config(network, PRICES, config).await;
    ///     assert!(matches!(refused, Err(OpenError::ReadOnly)));
    ///     Ok(())
    /// }
    /// ```
    ///
    /// A reader that knows the secret as well helps others to catch up; of one that does not nobody takes anything, so that the
    /// writers have to serve all readers. Where all writers of a collection in memory are gone it is gone too, whatever readers
    /// still have: a writer that comes back waits a while for others, founds it anew, and they follow.
    #[must_use]
    pub fn with_write_secret(mut self, secret: WriteKey) -> Self {
        self.write_secret = Some(secret);
        self
    }

    /// Opens a collection to which only those write who know the [secret](Self::with_write_secret) of this verifier. Without it
    /// this node can only read: to open a writer fails by [`OpenError::ReadOnly`](super::OpenError::ReadOnly). Default: whoever
    /// can open the collection may write to it.
    #[must_use]
    pub fn with_write_verifier(mut self, verifier: WriteVerifier) -> Self {
        self.write_verifier = Some(verifier);
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
    use std::sync::Arc;

    use super::*;
    use crate::node::alone::Alone;
    use crate::node::collections::OpenError;
    use crate::node::groups::JoinError;
    use crate::protocol::collections::Cell;
    use crate::protocol::groups::WriteKeyMismatch;

    #[test]
    fn who_knows_the_verifier_of_the_write_secret_alone_opens_readers() {
        let runtime = Arc::new(Alone::default());
        let network = runtime.node();
        let id = StoreId::from("cell");
        let writer = |config: &CollectionConfig| {
            let opened = Cell::<u64>::writer_with_config(&network, id, config.clone());
            runtime.run(opened)
        };
        let reader = |config: &CollectionConfig| {
            let opened = Cell::<u64>::reader_with_config(&network, id, config.clone());
            runtime.run(opened).unwrap()
        };
        let secret = WriteKey::from_bytes([1; 32]);
        let reading = CollectionConfig::default().with_write_verifier(secret.verifier());
        let writing = CollectionConfig::default().with_write_secret(secret.clone());
        let open = CollectionConfig::default();
        assert_eq!(writer(&reading).err(), Some(OpenError::ReadOnly));
        assert_eq!(network.groups().joined(), []);
        let cell = reader(&reading);
        let joined = network.groups().joined();
        drop(cell);
        assert!(
            runtime
                .run_without("", std::future::pending::<()>())
                .is_none()
        );
        let cell = writer(&writing).unwrap();
        assert_eq!(network.groups().joined(), joined, "it is the same group");
        runtime.run(cell.write(5)).unwrap();
        let without = writer(&open).unwrap();
        assert_eq!(network.groups().joined().len(), 2, "it is another");
        drop((cell, without));

        let other = WriteKey::from_bytes([2; 32]).verifier();
        let mixed = writing.with_write_verifier(other);
        let mismatch = WriteKeyMismatch {
            of_key: secret.verifier(),
            given: other,
        };
        let refused = OpenError::Join(JoinError::WriteKey(mismatch));
        assert_eq!(writer(&mixed).err(), Some(refused));
        let shown = format!("{mixed:?}");
        assert!(shown.contains("WriteKey(..)"), "{shown}");
    }

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
            fetch_batch_size: 4,
            fetch_timeout: Duration::from_secs(5),
            snapshot_request_timeout: Duration::from_secs(6),
            snapshot_ttl: Duration::from_secs(7),
        });
        let expected = Config {
            log_window: 1,
            snapshot_interval: 2,
            snapshot_bytes: 3,
            fetch_batch_size: 4,
            fetch_timeout: Duration::from_secs(5),
            snapshot_request_timeout: Duration::from_secs(6),
            snapshot_ttl: Duration::from_secs(7),
            ..consensus
        };
        assert_eq!(other.consensus, expected);
    }
}

//! The rows of the database: their tables, their keys, and the checksum that each carries.

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use smalti_core::id::{Digest, GroupId};
use smalti_core::protocol::raft::{HardState, Index, StorageError};
use smalti_core::wire;

use super::guard::Failure;

/// Keys and values as redb holds them: bytes.
pub(super) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
type BytesTable<'txn> = Table<'txn, &'static [u8], &'static [u8]>;

/// A table of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// What is the node's: how often was committed, and the secret key.
    Node,
    /// For each group its [`Head`].
    Groups,
    /// Entries, by group and index.
    Log,
    /// The manifest of each group's snapshot.
    Manifests,
    /// Chunks, by group, slot and number.
    Chunks,
}

impl Rows {
    /// All tables, in the order of their numbers.
    pub(super) const ALL: [Self; 5] = [
        Self::Node,
        Self::Groups,
        Self::Log,
        Self::Manifests,
        Self::Chunks,
    ];

    pub(super) const fn definition(self) -> Definition {
        TableDefinition::new(self.name())
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Groups => "groups",
            Self::Log => "log",
            Self::Manifests => "manifests",
            Self::Chunks => "chunks",
        }
    }

    /// Which row, for messages.
    fn describe(self, key: &[u8]) -> String {
        let group = key.first_chunk::<32>().copied().map(GroupId::from_bytes);
        let rest = key.get(32..).unwrap_or_default();
        match (self, group) {
            (Self::Groups, Some(group)) => format!("the state of group {group}"),
            (Self::Manifests, Some(group)) => {
                format!("the manifest of the snapshot of group {group}")
            }
            (Self::Log, Some(group)) => {
                let index = rest.first_chunk().copied().map_or(0, u64::from_be_bytes);
                format!("entry {index} of the log of group {group}")
            }
            (Self::Chunks, Some(group)) => {
                let number = rest.get(1..).and_then(|number| number.first_chunk());
                let number = number.copied().map_or(0, u32::from_be_bytes);
                format!("chunk {number} of a snapshot of group {group}")
            }
            (_, None) | (Self::Node, _) => format!("row {key:?} of table {}", self.name()),
        }
    }
}

/// The key of the row that counts commits.
pub(super) const COMMITS: &[u8] = &[0];
/// The key of the row that holds the secret key.
pub(super) const SECRET_KEY: &[u8] = &[1];

/// What is stored of a group beside its log and its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) hard_state: HardState,
    /// The first and the last entry of the log.
    pub(super) log: Option<(Index, Index)>,
    /// The index of the snapshot, whose chunks are in `slot`.
    pub(super) snapshot: Option<Index>,
    /// Which of two slots holds the chunks of the snapshot; those staged go to the other.
    pub(super) slot: bool,
}

pub(super) fn log_key(group: &GroupId, index: Index) -> Vec<u8> {
    [&group.as_bytes()[..], &index.0.to_be_bytes()].concat()
}

pub(super) fn chunk_key(group: &GroupId, slot: bool, number: u32) -> Vec<u8> {
    let slot = [u8::from(slot)];
    [&group.as_bytes()[..], &slot, &number.to_be_bytes()].concat()
}

impl Head {
    /// That of a group of which nothing else is there.
    pub(super) const fn new(hard_state: HardState) -> Self {
        Self {
            hard_state,
            log: None,
            snapshot: None,
            slot: false,
        }
    }
}

/// What is to be done to the rows, in order.
#[derive(Debug)]
pub(super) enum Step {
    /// Puts a row, in place of what is there.
    Put {
        rows: Rows,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// Removes the rows from the first key to the last, both included.
    Remove {
        rows: Rows,
        first: Vec<u8>,
        last: Vec<u8>,
    },
}

impl Step {
    /// Puts what `content` encodes to.
    pub(super) fn put<T: Serialize>(
        rows: Rows,
        key: Vec<u8>,
        content: &T,
    ) -> Result<Self, StorageError> {
        let encoded = wire::encode(content);
        let encoded = encoded.map_err(|error| StorageError::Contradiction {
            how: error.to_string(),
        })?;
        Ok(Self::put_bytes(rows, key, encoded))
    }

    pub(super) fn put_bytes(rows: Rows, key: Vec<u8>, mut value: Vec<u8>) -> Self {
        let sum = checksum(rows, &key, &value);
        value.extend_from_slice(&sum);
        Self::Put { rows, key, value }
    }

    /// Removes all chunks of one slot.
    pub(super) fn remove_slot(group: &GroupId, slot: bool) -> Self {
        Self::remove_chunks_from(group, slot, 0)
    }

    /// Removes the chunks of one slot from this number on.
    pub(super) fn remove_chunks_from(group: &GroupId, slot: bool, number: u32) -> Self {
        Self::Remove {
            rows: Rows::Chunks,
            first: chunk_key(group, slot, number),
            last: chunk_key(group, slot, u32::MAX),
        }
    }

    /// Removes a part of the log.
    pub(super) fn remove_log(group: &GroupId, first: Index, last: Index) -> Self {
        Self::Remove {
            rows: Rows::Log,
            first: log_key(group, first),
            last: log_key(group, last),
        }
    }

    /// Removes one row.
    pub(super) fn remove(rows: Rows, key: &[u8]) -> Self {
        Self::Remove {
            rows,
            first: key.to_vec(),
            last: key.to_vec(),
        }
    }
}

/// All tables of the database, open in one transaction.
pub(super) struct Tables<'txn>([BytesTable<'txn>; 5]);

impl<'txn> Tables<'txn> {
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Self, Failure> {
        let [node, groups, log, manifests, chunks] =
            Rows::ALL.map(|rows| transaction.open_table(rows.definition()));
        Ok(Self([node?, groups?, log?, manifests?, chunks?]))
    }

    pub(super) fn carry_out(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Put { rows, key, value } => {
                self.0[*rows as usize].insert(&key[..], &value[..])?;
            }
            Step::Remove { rows, first, last } => {
                let range = &first[..]..=&last[..];
                self.0[*rows as usize].retain_in::<&[u8], _>(range, |_, _| false)?;
            }
        }
        Ok(())
    }

    pub(super) const fn get(&self, rows: Rows) -> &BytesTable<'txn> {
        &self.0[rows as usize]
    }
}

/// Where damage is found: the name of the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Store<'a>(pub(super) &'a str);

impl Store<'_> {
    /// The row at `key`; an error where it is not there.
    pub(super) fn get<T: DeserializeOwned>(
        self,
        rows: Rows,
        table: &BytesTable<'_>,
        key: &[u8],
    ) -> Result<T, Failure> {
        let bytes = self.get_bytes(rows, table, key)?;
        self.decode(rows, key, &bytes)
    }

    /// The bytes of the row at `key`; an error where it is not there.
    pub(super) fn get_bytes(
        self,
        rows: Rows,
        table: &BytesTable<'_>,
        key: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let Some(row) = table.get(key)? else {
            return Err(self.damaged(rows, key, "it is missing"));
        };
        let bytes = self.verified(rows, key, row.value())?;
        Ok(bytes.to_vec())
    }

    /// What a row says, of which the checksum is right.
    pub(super) fn read<T: DeserializeOwned>(
        self,
        rows: Rows,
        key: &[u8],
        value: &[u8],
    ) -> Result<T, Failure> {
        let bytes = self.verified(rows, key, value)?;
        self.decode(rows, key, bytes)
    }

    pub(super) fn damaged(self, rows: Rows, key: &[u8], how: impl Into<String>) -> Failure {
        Failure::Ours(StorageError::Damaged {
            what: format!("{}: {}", self.0, rows.describe(key)),
            how: how.into(),
        })
    }

    fn verified<'v>(self, rows: Rows, key: &[u8], value: &'v [u8]) -> Result<&'v [u8], Failure> {
        match value.split_last_chunk() {
            Some((bytes, sum)) if *sum == checksum(rows, key, bytes) => Ok(bytes),
            _ => Err(self.damaged(rows, key, "its checksum is not that of its bytes")),
        }
    }

    fn decode<T: DeserializeOwned>(
        self,
        rows: Rows,
        key: &[u8],
        bytes: &[u8],
    ) -> Result<T, Failure> {
        wire::decode(bytes).map_err(|error| self.damaged(rows, key, error.to_string()))
    }
}

const CHECKSUM_LEN: usize = 8;

fn checksum(rows: Rows, key: &[u8], bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = Digest::of("smalti store row", &[rows.name().as_bytes(), key, bytes]);
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&digest.as_bytes()[..CHECKSUM_LEN]);
    sum
}

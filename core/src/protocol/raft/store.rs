//! What a machine has written down, and what it finds again.
//!
//! The machine emits [`Write`]s in order, each under a number, and holds back all that depends on one
//! until it is told that the write is durable. A write is atomic: after a crash all of it is there or
//! nothing, and nothing of what came after one that is missing.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::configuration::Configuration;
use super::entry::Entry;
use super::standing::Seal;
use super::types::{Incarnation, Index, Member, Position, Runs, Term};
use crate::id::{Digest, GroupId, Instance};

/// The few values that every promise rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// Which life of the node this is. A durable member keeps it across restarts; one that leaves a
    /// founding, or gives up an incarnation for another, draws another in the same write that forgets it.
    pub instance: Instance,
    /// How often the node has started with this store. One that is lower than seen before shows that the
    /// store was set back.
    pub boot: u64,
    /// The last of those starts.
    pub runs: Runs,
    /// The incarnation it belongs to.
    pub incarnation: Option<Incarnation>,
    /// The latest term it has seen.
    pub term: Term,
    /// Whom it has voted for in that term.
    pub vote: Option<Member>,
    /// The last incarnations that it has given up for others, the latest one first: others may still have to
    /// hear of it.
    pub seals: [Option<Seal>; SEALS],
}

/// Incarnations given up that a member remembers across restarts.
pub(super) const SEALS: usize = 4;

/// What a snapshot covers, and the digests of its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// The last entry whose effect is in it.
    pub position: Position,
    /// The voters there.
    pub configuration: Configuration,
    /// The entry that says so.
    pub configured_at: Index,
    /// The digest of each chunk, in order. The first ones hold the sessions, the others the state.
    pub chunks: Vec<Digest>,
}

/// A snapshot with all its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What it covers.
    pub manifest: Manifest,
    /// Its chunks.
    pub chunks: Vec<Bytes>,
}

/// A part of a snapshot that is being written. It counts for nothing until a write names its manifest, and
/// is forgotten when the store is opened anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedChunk {
    /// Where the snapshot lies. A chunk of another position begins a new one, and drops the one before.
    pub position: Position,
    /// Which of its chunks.
    pub number: u32,
    /// Its bytes.
    pub bytes: Bytes,
}

/// What is to be made durable, all of it or nothing. Carried out in the order of the fields; what must hold
/// of it is what [`Outline::carry_out`](super::Outline::carry_out) checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// Forgets log and snapshots, staged ones too: the node has left its incarnation. The hard state stays,
    /// unless it is replaced.
    pub reset: bool,
    /// Replaces the hard state. The first write of a group has one.
    pub hard_state: Option<HardState>,
    /// Puts a part of a snapshot beside the log.
    pub staged: Option<StagedChunk>,
    /// Makes the staged chunks the snapshot that recovery begins with, in place of the one before.
    pub snapshot: Option<Manifest>,
    /// Drops the whole log: it does not continue the snapshot of the same write.
    pub drop_log: bool,
    /// Drops the log up to here, this entry included. At or below the index of the snapshot, that of the
    /// same write included, always.
    pub compact_through: Option<Index>,
    /// Puts entries at their places. What was at the first one's place or above is dropped before.
    pub entries: Vec<Entry>,
}

impl Write {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What was found when a store was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The hard state, as last written.
    pub hard_state: HardState,
    /// The snapshot, if there is one.
    pub snapshot: Option<Snapshot>,
    /// The log: without holes, from at most one above the snapshot.
    pub entries: Vec<Entry>,
}

impl Recovered {
    /// Whether the log goes on from the snapshot, and both belong to the member; else why not.
    pub(super) fn check(&self) -> Result<(), String> {
        let snapshot = self.snapshot.as_ref();
        let covered = snapshot.map_or(Index::ZERO, |it| it.manifest.position.index);
        let of = snapshot.map(|it| it.manifest.incarnation);
        if of.is_some() && of != self.hard_state.incarnation {
            return Err("it is of another incarnation than the member".to_owned());
        }
        let first = self.entries.first().map(|entry| entry.index);
        if let Some(first) = first.filter(|first| *first > covered.next()) {
            return Err(format!(
                "it covers the log up to {covered}, and the log that was kept begins at {first}"
            ));
        }
        let mut expected = first;
        for index in self.entries.iter().map(|entry| entry.index) {
            if expected != Some(index) {
                return Err(format!("entry {index} of the log follows a hole"));
            }
            expected = Some(index.next());
        }
        Ok(())
    }
}

/// Where the machines of a node write. Calls block: they are made where that harms nobody.
///
/// One store serves all groups of a node, so that one [`sync`](Self::sync) makes durable what all of them
/// wait for. After an error the store is not to be used again before it has been opened anew: what the
/// disk holds then is unknown, and a second try that succeeds proves nothing about the first (Rebello et
/// al., Can Applications Recover from fsync Failures?, ATC 2020).
pub trait Storage: Send {
    /// What is there for `group`; `None` where nothing was ever written. What was written and is not yet
    /// durable is there too.
    ///
    /// # Errors
    /// Where it cannot be read, or is not what was written.
    fn load(&mut self, group: &GroupId) -> Result<Option<Recovered>, StorageError>;

    /// Takes note of a write. It is durable after the next [`sync`](Self::sync) that succeeds.
    ///
    /// # Errors
    /// Where it cannot be written, or contradicts what is there.
    fn write(&mut self, group: &GroupId, write: Write) -> Result<(), StorageError>;

    /// Makes durable all that was written.
    ///
    /// # Errors
    /// Where it cannot be made durable. Part of it may be.
    fn sync(&mut self) -> Result<(), StorageError>;

    /// Forgets all of `group`: the node has left it for good. Durable after the next sync.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn forget(&mut self, group: &GroupId) -> Result<(), StorageError>;
}

/// Why a store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The disk refused.
    #[error(
        "the disk failed while {doing}: {cause}; the node's groups stop until it is started again"
    )]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// What the disk said.
        cause: String,
    },
    /// The disk is full.
    #[error("no space is left on the disk while {doing}; free some and start the node again")]
    Full {
        /// What was being done.
        doing: &'static str,
    },
    /// What is there is not what was written.
    #[error(
        "{what} is damaged: {how}; it is left as it is: restore it from another copy, or move it away and let the node join anew"
    )]
    Damaged {
        /// The file or the part of it.
        what: String,
        /// What is wrong with it.
        how: String,
    },
    /// What is there belongs to something else.
    #[error("{what} is not ours: {how}; it is left as it is: give another data directory")]
    Foreign {
        /// The file or the part of it.
        what: String,
        /// Whose it seems to be.
        how: String,
    },
    /// Another process has it open.
    #[error("{what} is in use by another process; stop that, or give another data directory")]
    InUse {
        /// The directory.
        what: String,
    },
    /// What was to be written contradicts what is there. Nothing of it was written.
    #[error("the store was given what cannot be: {how}; this is a defect, report it")]
    Contradiction {
        /// What does not fit.
        how: String,
    },
    /// It failed before.
    #[error("the store has failed before and is closed until the node is started again")]
    Closed,
}

//! What a node finds again after a crash.

use std::collections::BTreeMap;

use bytes::Bytes;
use smalti_core::protocol::raft::{Entry, HardState, Index, Position, Recovered, Snapshot, Write};

/// The durable part of one node: all writes that were completed, and nothing of the others.
#[derive(Clone, Default)]
pub(crate) struct Image {
    hard_state: Option<HardState>,
    staged: Option<(Position, BTreeMap<u32, Bytes>)>,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) entries: Vec<Entry>,
}

impl Image {
    /// Carries out a write, in the order of its fields.
    pub(crate) fn write(&mut self, write: Write) {
        if write.reset {
            *self = Self::default();
        }
        if let Some(hard_state) = write.hard_state {
            self.hard_state = Some(hard_state);
        }
        if let Some(chunk) = write.staged {
            let staged = self.staged.take().filter(|(at, _)| *at == chunk.position);
            let (at, mut chunks) = staged.unwrap_or((chunk.position, BTreeMap::new()));
            chunks.insert(chunk.number, chunk.bytes);
            self.staged = Some((at, chunks));
        }
        if let Some(manifest) = write.snapshot {
            let (at, chunks) = self.staged.take().expect("its chunks were staged");
            assert_eq!(at, manifest.position, "chunks of another snapshot");
            assert_eq!(chunks.len(), manifest.chunks.len(), "not all chunks");
            self.snapshot = Some(Snapshot {
                manifest,
                chunks: chunks.into_values().collect(),
            });
        }
        if write.drop_log {
            self.entries.clear();
        }
        if let Some(through) = write.compact_through {
            self.entries.retain(|entry| entry.index > through);
        }
        if let Some(first) = write.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
        }
        self.entries.extend(write.entries);
    }

    /// What a start from it begins with.
    pub(crate) fn recover(&self) -> Option<Recovered> {
        Some(Recovered {
            hard_state: self.hard_state?,
            snapshot: self.snapshot.clone(),
            entries: self.entries.clone(),
        })
    }

    /// Where its log ends.
    pub(crate) fn last(&self) -> Index {
        let snapshot = self.snapshot.as_ref();
        let covered = snapshot.map_or(Index::ZERO, |it| it.manifest.position.index);
        self.entries.last().map_or(covered, |entry| entry.index)
    }
}

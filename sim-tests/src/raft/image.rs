//! What is on a disk.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use smalti_core::protocol::raft::{
    Entry, HardState, Index, Position, Recovered, Snapshot, Term, Write,
};

/// What is on a disk, for one group.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) hard_state: Option<HardState>,
    snapshot: Option<Snapshot>,
    staged: Option<(Position, BTreeMap<u32, Bytes>)>,
    /// Without holes.
    entries: VecDeque<Entry>,
}

impl Image {
    pub(super) fn carry_out(&mut self, write: Write) {
        if write.reset {
            self.snapshot = None;
            self.staged = None;
            self.entries.clear();
        }
        if write.hard_state.is_some() {
            self.hard_state = write.hard_state;
        }
        if let Some(chunk) = write.staged {
            let is_new = self
                .staged
                .as_ref()
                .is_none_or(|(at, _)| *at != chunk.position);
            if is_new {
                self.staged = Some((chunk.position, BTreeMap::new()));
            }
            if let Some((_, chunks)) = &mut self.staged {
                chunks.insert(chunk.number, chunk.bytes);
            }
        }
        if let Some(manifest) = write.snapshot {
            let staged = self
                .staged
                .take()
                .filter(|(at, _)| *at == manifest.position);
            let chunks = staged.map(|(_, chunks)| chunks).unwrap_or_default();
            assert!(
                chunks.len() == manifest.chunks.len()
                    && chunks.keys().zip(0..).all(|(number, at)| *number == at),
                "a snapshot at {} of {} chunks is made of {:?}",
                manifest.position,
                manifest.chunks.len(),
                chunks.keys()
            );
            let chunks = chunks.into_values().collect();
            self.snapshot = Some(Snapshot { manifest, chunks });
        }
        if write.drop_log {
            self.entries.clear();
        }
        if let Some(through) = write.compact_through {
            assert!(
                through <= self.snapshot_position().index,
                "the log is dropped up to {through}, above the snapshot at {}",
                self.snapshot_position()
            );
            let count = self.entries.partition_point(|entry| entry.index <= through);
            self.entries.drain(..count);
        }
        if let Some(first) = write.entries.first().map(|entry| entry.index) {
            let kept = self.entries.partition_point(|entry| entry.index < first);
            self.entries.truncate(kept);
            let last = self.last();
            assert!(
                first <= last.next(),
                "entries from {first} on leave a hole after {last}"
            );
            self.entries.extend(write.entries);
        }
    }

    pub(super) fn recovered(&self) -> Option<Recovered> {
        Some(Recovered {
            hard_state: self.hard_state?,
            snapshot: self.snapshot.clone(),
            entries: self.entries.iter().cloned().collect(),
        })
    }

    fn snapshot_position(&self) -> Position {
        self.snapshot
            .as_ref()
            .map_or(Position::ZERO, |snapshot| snapshot.manifest.position)
    }

    /// The last entry that it has, or of which it has the effect.
    pub(super) fn last(&self) -> Index {
        let entry = self.entries.back().map_or(Index::ZERO, |entry| entry.index);
        entry.max(self.snapshot_position().index)
    }

    /// Whether it has the entry, or a snapshot with its effect.
    pub(super) fn has(&self, index: Index, term: Term) -> bool {
        if index <= self.snapshot_position().index {
            return true;
        }
        let first = self
            .entries
            .front()
            .map_or(Index::ZERO, |entry| entry.index);
        let at = index.0.checked_sub(first.0);
        let entry = at.and_then(|at| self.entries.get(at as usize));
        entry.is_some_and(|entry| entry.index == index && entry.term == term)
    }
}

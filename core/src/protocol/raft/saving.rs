//! How snapshots of a durable member come to its disk: chunk by chunk, so that votes and entries of this
//! and other groups need not wait for a whole one.

use std::collections::VecDeque;
use std::sync::Arc;

use super::config::StorageClass;
use super::core::Core;
use super::disk::Disk;
use super::io::WriteId;
use super::store::{Snapshot, StagedChunk};
use super::types::Index;

/// Saves snapshots of a durable member; a volatile one has none to save.
#[derive(Debug)]
pub(super) struct Saving {
    is_durable: bool,
    /// What is being written, and how many of its chunks have been.
    current: Option<(Arc<Snapshot>, usize)>,
    /// The write that holds the last of them.
    staged: WriteId,
    /// Writes that complete a snapshot, each with its index.
    completing: VecDeque<(WriteId, Index)>,
    /// The index of the durable snapshot.
    saved: Index,
    /// The lowest index that is kept for small gaps below a snapshot, and that snapshot's.
    window: (Index, Index),
}

impl Saving {
    pub(super) const fn new(class: StorageClass, saved: Index) -> Self {
        Self {
            is_durable: matches!(class, StorageClass::Durable),
            current: None,
            staged: WriteId(0),
            completing: VecDeque::new(),
            saved,
            window: (Index::ZERO, Index::ZERO),
        }
    }

    /// Whether the snapshot at `index` is to be saved now.
    pub(super) fn wants(&self, index: Index) -> bool {
        let completing = self
            .completing
            .back()
            .map_or(self.saved, |(_, index)| *index);
        self.is_durable && self.current.is_none() && index > completing
    }

    pub(super) fn begin(&mut self, snapshot: Arc<Snapshot>) {
        self.current = Some((snapshot, 0));
    }

    /// Adds the next chunk to what is written in this turn, or completes the snapshot.
    pub(super) fn go_on(&mut self, core: &mut Core) {
        let Some((snapshot, next)) = &mut self.current else {
            return;
        };
        // The chunk before must be there first: what waits for the disk is then one chunk at most.
        if !core.disk.is_durable(self.staged) {
            return;
        }
        if let Some(bytes) = snapshot.chunks.get(*next) {
            let chunk = StagedChunk {
                position: snapshot.manifest.position,
                number: *next as u32,
                bytes: bytes.clone(),
            };
            *next += 1;
            core.disk.stage(chunk, &mut core.outputs);
            self.staged = core.disk.latest();
            return;
        }
        let snapshot = Arc::clone(snapshot);
        self.current = None;
        self.complete(&snapshot, false, core);
    }

    /// A snapshot of another member has been installed: it is written at once, since what follows in the
    /// log makes no sense without it.
    pub(super) fn installed(&mut self, snapshot: &Arc<Snapshot>, drop_log: bool, core: &mut Core) {
        self.current = None;
        if self.is_durable {
            for (number, bytes) in (0..).zip(&snapshot.chunks) {
                let chunk = StagedChunk {
                    position: snapshot.manifest.position,
                    number,
                    bytes: bytes.clone(),
                };
                core.disk.stage(chunk, &mut core.outputs);
            }
        }
        self.complete(snapshot, drop_log, core);
    }

    fn complete(&mut self, snapshot: &Snapshot, drop_log: bool, core: &mut Core) {
        let manifest = &snapshot.manifest;
        core.disk.snapshot(manifest, drop_log, &mut core.outputs);
        if self.is_durable {
            let write = core.disk.latest();
            self.completing.push_back((write, manifest.position.index));
        }
    }

    /// Some writes have become durable.
    pub(super) fn persisted(&mut self, disk: &Disk) {
        while let Some((write, index)) = self.completing.front()
            && disk.is_durable(*write)
        {
            self.saved = self.saved.max(*index);
            self.completing.pop_front();
        }
    }

    /// The lowest index that is to be kept of the log that a snapshot at `covered` covers, so that small gaps
    /// need no snapshot. Looked for once for each snapshot.
    pub(super) fn window_from(&mut self, covered: Index, core: &Core) -> Index {
        if self.window.1 != covered {
            let (entries, bytes) = (core.config.log_window, core.config.snapshot_bytes);
            self.window = (core.log.window_from(covered, entries, bytes), covered);
        }
        self.window.0
    }

    /// How far the log may be dropped because a durable snapshot covers it; `None` where nothing is durable
    /// and any snapshot will do.
    pub(super) fn covers(&self) -> Option<Index> {
        self.is_durable.then_some(self.saved)
    }
}

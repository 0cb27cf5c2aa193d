//! Snapshots: one put in place of the state, those of our own, and the log that they cover.

use super::Raft;
use crate::protocol::mutant;
use crate::protocol::raft::entry::Entry;
use crate::protocol::raft::io::{Event, StopReason};
use crate::protocol::raft::state::StateMachine;
use crate::protocol::raft::store::Snapshot;
use crate::time::Instant;

impl<S: StateMachine> Raft<S> {
    /// Puts a snapshot in place of the state and of the log below it.
    pub(super) fn install(&mut self, now: Instant, snapshot: Snapshot) {
        let core = &mut self.core;
        let position = snapshot.manifest.position;
        let is_ours = core.incarnation == Some(snapshot.manifest.incarnation);
        // What is committed here already is newer, and would be undone.
        let is_news = position.index > core.commit || mutant!(core.config, SnapshotOverNewerLog);
        if !is_ours || !is_news {
            return;
        }
        let snapshot = std::sync::Arc::new(snapshot);
        if let Err(error) = self.replica.install(&snapshot) {
            core.stop(StopReason::Snapshot(error.0));
            return;
        }
        if position.term > core.term {
            core.follow(now, position.term, None);
        }
        // What follows an entry that both have is the same up to it and may be acknowledged already.
        let keeps_log = core.log.has(position);
        if keeps_log {
            core.log.compact_through(position.index);
        } else {
            core.log = super::super::log::Log::after(
                position,
                snapshot.manifest.configured_at,
                snapshot.manifest.configuration.clone(),
            );
        }
        core.commit = position.index;
        self.saving.installed(&snapshot, !keeps_log, core);
        core.event(Event::Restored(position.index));
        let (incarnation, sessions) = (snapshot.manifest.incarnation, self.replica.sessions());
        self.client.restored(now, incarnation, sessions);
        self.shelf.put(now, snapshot);
    }

    /// Puts the snapshot of the latest snapshot point on the shelf.
    pub(super) fn make_snapshot(&mut self, now: Instant) {
        let on_shelf = self.shelf.latest().map(|it| it.manifest.position);
        if self.replica.snapshot_position() > on_shelf
            && let Some(snapshot) = self.replica.snapshot()
        {
            self.shelf.put(now, snapshot);
        }
    }

    /// Saves the latest snapshot where it is durable, and drops the log that it covers.
    pub(super) fn go_on_compacting(&mut self, now: Instant) {
        let Some(point) = self.replica.snapshot_position() else {
            return;
        };
        if self.saving.wants(point.index)
            && let Some(snapshot) = self.replica.snapshot()
        {
            self.saving.begin(snapshot);
        }
        let core = &mut self.core;
        self.saving.go_on(core);
        // A restart begins with the durable snapshot and goes on with the log: a log that begins above it
        // lacks what lies between (schedule H25).
        let mut covered = self.saving.covers().unwrap_or(point.index);
        if mutant!(core.config, CompactBeyondDurableSnapshot) {
            covered = self.replica.applied().index;
        }
        let wanted = self.saving.window_from(covered, core);
        let seen = (wanted, self.shelf.changes());
        if wanted <= core.log.kept_from() || self.compacted == seen {
            return;
        }
        self.compacted = seen;
        let size = |index| core.log.entry(index).map(Entry::size);
        let keep = self.shelf.keep_from(now, wanted, size);
        if keep > core.log.kept_from() {
            core.log.compact_through(keep.previous());
            let base = core.log.base().index;
            core.disk.compact_through(base);
        }
    }
}

//! What is on its way to the disk, and what waits for it.

use std::collections::VecDeque;

use super::entry::Entry;
use super::io::{Output, WriteId};
use super::messages::Envelope;
use super::store::{HardState, Manifest, StagedChunk, Write};
use super::types::Index;
use crate::id::PeerId;

/// Messages that wait for the disk, at most.
const HELD_MAX: usize = 4_096;

/// Collects the writes of one turn into one, numbers them, and keeps back what must not be said before
/// they are durable.
///
/// A volatile member promises nothing beyond its life: for it nothing is ever written, and nothing waits.
#[derive(Debug)]
pub(super) struct Disk {
    is_durable: bool,
    pending: Write,
    has_pending: bool,
    issued: WriteId,
    durable: WriteId,
    /// Messages, each with the write that it waits for.
    held: VecDeque<(WriteId, PeerId, Envelope)>,
    /// Where the log ends once a write is durable.
    log_ends: VecDeque<(WriteId, Index)>,
    durable_last: Index,
}

impl Disk {
    /// With a log that is durable up to `durable_last`.
    pub(super) fn new(is_durable: bool, durable_last: Index) -> Self {
        Self {
            is_durable,
            pending: Write::default(),
            has_pending: false,
            issued: WriteId(0),
            durable: WriteId(0),
            held: VecDeque::new(),
            log_ends: VecDeque::new(),
            durable_last,
        }
    }

    fn pending(&mut self) -> Option<&mut Write> {
        if !self.is_durable {
            return None;
        }
        self.has_pending = true;
        Some(&mut self.pending)
    }

    pub(super) fn hard_state(&mut self, hard_state: HardState) {
        if let Some(pending) = self.pending() {
            pending.hard_state = Some(hard_state);
        }
    }

    /// Forgets log and snapshot, of this turn too.
    pub(super) fn reset(&mut self) {
        self.durable_last = Index::ZERO;
        self.log_ends.clear();
        // What waits speaks of entries that are never written now.
        self.held.clear();
        if let Some(pending) = self.pending() {
            *pending = Write {
                reset: true,
                ..Write::default()
            };
        }
    }

    /// What waits is not to be said any more: the life that would have said it is over.
    pub(super) fn forget_held(&mut self) {
        self.held.clear();
    }

    /// The log gets `entry` at its place; what was there or above is gone.
    pub(super) fn append(&mut self, entry: &Entry) {
        let before = entry.index.previous();
        self.ends_at_most(before);
        let Some(pending) = self.pending() else {
            self.durable_last = entry.index;
            return;
        };
        let keep = pending
            .entries
            .iter()
            .rposition(|earlier| earlier.index < entry.index);
        pending.entries.truncate(keep.map_or(0, |at| at + 1));
        pending.entries.push(entry.clone());
    }

    /// The log was cut: nothing above `last` counts as durable, whatever write completes.
    fn ends_at_most(&mut self, last: Index) {
        self.durable_last = self.durable_last.min(last);
        for (_, end) in self.log_ends.iter_mut().rev() {
            if *end <= last {
                break;
            }
            *end = last;
        }
    }

    pub(super) fn stage(&mut self, chunk: StagedChunk, outputs: &mut VecDeque<Output>) {
        // One chunk for each write: it is what bounds them. And not in the one that completes a snapshot: the
        // chunk would take the place of those that it is made of.
        if self.pending.staged.is_some() || self.pending.snapshot.is_some() {
            self.flush(outputs);
        }
        if let Some(pending) = self.pending() {
            pending.staged = Some(chunk);
        }
    }

    /// The staged chunks become the snapshot. `drop_log`: the log does not go on from it.
    pub(super) fn snapshot(
        &mut self,
        manifest: &Manifest,
        drop_log: bool,
        outputs: &mut VecDeque<Output>,
    ) {
        // Entries of this turn that come before it are not to come after it.
        self.flush(outputs);
        let index = manifest.position.index;
        if drop_log {
            self.ends_at_most(Index::ZERO);
            self.log_ends.push_back((WriteId(self.issued.0 + 1), index));
        }
        let Some(pending) = self.pending() else {
            self.log_ends.clear();
            self.durable_last = self.durable_last.max(index);
            return;
        };
        pending.snapshot = Some(manifest.clone());
        pending.drop_log = drop_log;
    }

    pub(super) fn compact_through(&mut self, index: Index) {
        if let Some(pending) = self.pending() {
            pending.compact_through = Some(index);
        }
    }

    /// Hands the writes of this turn over.
    pub(super) fn flush(&mut self, outputs: &mut VecDeque<Output>) {
        if !self.has_pending {
            return;
        }
        self.has_pending = false;
        let write = std::mem::take(&mut self.pending);
        self.issued.0 += 1;
        if let Some(last) = write.entries.last() {
            self.log_ends.push_back((self.issued, last.index));
        }
        outputs.push_back(Output::Persist(self.issued, Box::new(write)));
    }

    /// The write that everything so far is in.
    pub(super) const fn latest(&self) -> WriteId {
        WriteId(self.issued.0 + self.has_pending as u64)
    }

    pub(super) fn is_durable(&self, write: WriteId) -> bool {
        write <= self.durable
    }

    /// Sends `envelope` once everything so far is durable.
    pub(super) fn send_durably(
        &mut self,
        to: PeerId,
        envelope: Envelope,
        outputs: &mut VecDeque<Output>,
    ) {
        let latest = self.latest();
        if self.is_durable(latest) {
            outputs.push_back(Output::Send(to, envelope));
        } else {
            // A disk that hangs is not to fill the memory. Any message may be lost, and the latest of them say
            // most.
            if self.held.len() >= HELD_MAX {
                self.held.pop_front();
            }
            self.held.push_back((latest, to, envelope));
        }
    }

    /// All writes up to `write` are durable: what waited for them goes out.
    pub(super) fn persisted(&mut self, write: WriteId, outputs: &mut VecDeque<Output>) {
        self.durable = self.durable.max(write.min(self.issued));
        while let Some((id, end)) = self.log_ends.front()
            && *id <= self.durable
        {
            self.durable_last = *end;
            self.log_ends.pop_front();
        }
        while let Some((id, ..)) = self.held.front()
            && *id <= self.durable
            && let Some((_, to, envelope)) = self.held.pop_front()
        {
            outputs.push_back(Output::Send(to, envelope));
        }
    }

    /// How far the log is durable as it is now.
    pub(super) const fn durable_last(&self) -> Index {
        self.durable_last
    }

    /// Everything that was handed over; only for the rule that a deliberate bug breaks.
    pub(super) const fn issued(&self) -> WriteId {
        self.issued
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::id::{Digest, Instance};
    use crate::protocol::raft::Run;
    use crate::protocol::raft::configuration::Configuration;
    use crate::protocol::raft::messages::Message;
    use crate::protocol::raft::types::{Incarnation, Position, Term};

    #[test]
    fn while_the_disk_hangs_the_latest_messages_wait() {
        let peer = PeerId::from_bytes([1; 32]);
        let envelope = |term| Envelope {
            from: Instance::from_bytes([1; 16]),
            run: Run::default(),
            to: None,
            incarnation: None,
            message: Message::TimeoutNow { term: Term(term) },
        };
        let mut outputs = VecDeque::new();
        let mut disk = Disk::new(true, Index(9));
        disk.compact_through(Index(1));
        let sent = HELD_MAX as u64 + 10;
        for term in 0..sent {
            disk.send_durably(peer, envelope(term), &mut outputs);
        }
        disk.flush(&mut outputs);
        assert_eq!(outputs.len(), 1, "the write");
        disk.persisted(WriteId(1), &mut outputs);
        let terms: Vec<u64> = outputs
            .iter()
            .filter_map(|output| match output {
                Output::Send(_, envelope) => match envelope.message {
                    Message::TimeoutNow { term } => Some(term.0),
                    _ => None,
                },
                _ => None,
            })
            .collect();
        assert_eq!(terms, (10..sent).collect::<Vec<_>>());
    }

    #[test]
    fn a_chunk_of_the_next_snapshot_is_not_written_with_the_one_before() {
        let at = |index| Position {
            term: Term(1),
            index: Index(index),
        };
        let chunk = |index| StagedChunk {
            position: at(index),
            number: 0,
            bytes: Bytes::new(),
        };
        let manifest = Manifest {
            incarnation: Incarnation(Digest::from_bytes([0; 32])),
            position: at(5),
            configuration: Configuration::default(),
            configured_at: Index(1),
            chunks: vec![Digest::from_bytes([0; 32])],
        };
        let mut outputs = VecDeque::new();
        let mut disk = Disk::new(true, Index(9));
        disk.stage(chunk(5), &mut outputs);
        disk.snapshot(&manifest, false, &mut outputs);
        disk.stage(chunk(9), &mut outputs);
        disk.flush(&mut outputs);
        let writes = outputs.iter().filter_map(|output| match output {
            Output::Persist(_, write) => Some((write.staged.is_some(), write.snapshot.is_some())),
            _ => None,
        });
        let writes: Vec<_> = writes.collect();
        assert_eq!(writes, [(true, false), (false, true), (true, false)]);
    }
}

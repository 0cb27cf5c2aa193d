//! Catch-up: how a member that lacks much of the log gets it from all the others at once, and spares the
//! leader.
//!
//! [`CatchUp`] is the side that lacks entries: it hands over committed entries in order and without holes,
//! or a snapshot where entries are no longer kept anywhere. It decides on nothing: what it hands over
//! never counts as acknowledged before the leader has compared the logs, and a member that catches up votes
//! and stands for election like any other. [`fetch`] and [`SnapshotShelf`] are the side that has them.

mod pieces;
mod serve;
mod shelf;
mod sources;
mod transfer;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;

pub(super) use self::serve::{LogView, fetch};
pub(super) use self::shelf::SnapshotShelf;

use self::pieces::Pieces;
use self::sources::{Asked, Pick, REQUESTS_MAX, Sources};
use self::transfer::{Step, Transfer};
use super::{Config, Entry, Incarnation, Index, Manifest, Member, Message, Payload, Position};
use super::{Snapshot, Term};
use crate::id::PeerId;
use crate::time::Instant;

/// What a catch-up has to know from the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// The incarnation whose log it is.
    pub(super) incarnation: Incarnation,
    /// All up to here is there and committed.
    pub(super) have: Index,
    /// How far the leader knows the log to be committed.
    pub(super) target: Index,
    /// Whether equal states of the group's state machine have equal chunks everywhere.
    pub(super) is_canonical: bool,
}

/// What a catch-up has got, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gained {
    /// Committed entries: the first follows on what was handed over before.
    Entries(Vec<Entry>),
    /// A snapshot that goes beyond what was handed over before.
    Snapshot(Snapshot),
}

/// Fetches what a member lacks. Made when the leader's log is found to begin beyond the member's own, and
/// dropped when the logs meet, or another incarnation begins.
///
/// After each call [`poll_message`](Self::poll_message) and [`poll_gained`](Self::poll_gained) are to be
/// called until they give nothing.
#[derive(Debug)]
pub(super) struct CatchUp {
    incarnation: Incarnation,
    target: Index,
    sources: Sources,
    pieces: Pieces,
    transfer: Transfer,
    gained: VecDeque<Gained>,
    messages: VecDeque<(PeerId, Message)>,
}

impl CatchUp {
    /// Begins to fetch from `sources`, the leader and its log from `kept_from` on being one of them. Each
    /// comes with how far it is known to have committed; zero where nothing is known.
    pub(super) fn new(
        now: Instant,
        config: &Config,
        gap: &Gap,
        sources: &[(Member, Index)],
        leader: PeerId,
        kept_from: Index,
    ) -> Self {
        let mut catch_up = Self {
            incarnation: gap.incarnation,
            target: gap.target,
            sources: Sources::new(leader, config),
            pieces: Pieces::new(gap.have, config.fetch_batch_size.into()),
            transfer: Transfer::new(gap.is_canonical),
            gained: VecDeque::new(),
            messages: VecDeque::new(),
        };
        catch_up.sources.set(sources, leader);
        catch_up.leader_at(now, gap.target, kept_from);
        catch_up
    }

    /// The leader has committed up to `commit`, and has its log from `kept_from` on.
    pub(super) fn leader_at(&mut self, now: Instant, commit: Index, kept_from: Index) {
        self.target = self.target.max(commit);
        self.sources.note(self.sources.leader(), kept_from, commit);
        self.pump(now);
    }

    /// Those that may be asked now, and who leads: after each change of the bonded members, or of their
    /// lives, or of the leader.
    pub(super) fn sources_changed(
        &mut self,
        now: Instant,
        sources: &[(Member, Index)],
        leader: PeerId,
    ) {
        self.sources.set(sources, leader);
        self.pump(now);
    }

    /// Who led when the sources were last told.
    pub(super) const fn leader(&self) -> PeerId {
        self.sources.leader()
    }

    /// All up to `position` is there and committed by other means.
    pub(super) fn advance(&mut self, now: Instant, position: Position) {
        self.pieces.advance(position.index, position.term);
        self.pump(now);
    }

    /// Whether it has handed over all that it knows to be committed.
    pub(super) fn is_complete(&self) -> bool {
        self.pieces.have() >= self.target && self.gained.is_empty()
    }

    /// Whether there is anybody left who may be asked. If not, only a new catch-up helps: it trusts
    /// everybody again.
    pub(super) fn has_sources(&self) -> bool {
        self.sources.is_any_trusted()
    }

    /// Takes entries that a peer has sent.
    pub(super) fn fetched(
        &mut self,
        now: Instant,
        from: PeerId,
        first: Index,
        entries: Vec<Entry>,
        commit: Index,
    ) {
        let Some(last) = self.asked_for(from, first) else {
            return;
        };
        if entries.is_empty() && commit < first {
            self.sources.note_behind(now, from, commit);
        } else if self.are_sound(&entries, first, last.min(commit)) {
            self.sources.note(from, Index::ZERO, commit);
            self.pieces.accept(from, entries);
        } else {
            self.sources.distrust(from);
        }
        self.pump(now);
    }

    /// A peer says that entries are no longer there, or not yet.
    pub(super) fn gone(
        &mut self,
        now: Instant,
        from: PeerId,
        first: Index,
        kept_from: Index,
        commit: Index,
    ) {
        if self.asked_for(from, first).is_none() {
            return;
        }
        if commit < first {
            self.sources.note_behind(now, from, commit);
        } else if kept_from > first {
            self.sources.note(from, kept_from, commit);
        } else {
            self.sources.distrust(from);
        }
        self.pump(now);
    }

    /// Takes the manifest of a peer's snapshot.
    pub(super) fn manifest(&mut self, now: Instant, from: PeerId, manifest: Option<Manifest>) {
        let is_asked = self
            .sources
            .answered(from, |asked| *asked == Asked::Manifest);
        if is_asked.is_none() {
            return;
        }
        if let Some(manifest) = &manifest {
            self.sources.note_holding(from, manifest.position);
        }
        let have = self.pieces.have();
        let taken = self
            .transfer
            .manifest(from, manifest, self.incarnation, have);
        if taken.is_err() {
            self.sources.distrust(from);
        }
        self.pump(now);
    }

    /// Takes a chunk of a peer's snapshot.
    pub(super) fn chunk(
        &mut self,
        now: Instant,
        from: PeerId,
        position: Position,
        number: u32,
        bytes: Option<Bytes>,
    ) {
        let what = Asked::Chunk { position, number };
        let is_asked = self.sources.answered(from, |asked| *asked == what);
        if is_asked.is_none() {
            return;
        }
        match bytes {
            None => self.sources.note_lacking(from, position),
            Some(bytes) => {
                if self.transfer.chunk(position, number, bytes).is_err() {
                    self.sources.distrust(from);
                }
            }
        }
        self.pump(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.pieces.have() >= self.target {
            return None;
        }
        self.sources
            .deadline()
            .into_iter()
            .chain(self.transfer.deadline())
            .min()
    }

    /// Does what has become due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.sources.expire(now);
        self.transfer.expire(now);
        self.pump(now);
    }

    /// The next message to send.
    pub(super) fn poll_message(&mut self) -> Option<(PeerId, Message)> {
        self.messages.pop_front()
    }

    /// What has come next in the order of the log.
    pub(super) fn poll_gained(&mut self) -> Option<Gained> {
        self.gained.pop_front()
    }

    /// The last entry that `from` was asked for beginning with `first`, now that it has answered.
    fn asked_for(&mut self, from: PeerId, first: Index) -> Option<Index> {
        let is_such =
            |asked: &Asked| matches!(asked, Asked::Entries { first: of, .. } if *of == first);
        match self.sources.answered(from, is_such)? {
            Asked::Entries { last, .. } => Some(last),
            Asked::Manifest | Asked::Chunk { .. } => None,
        }
    }

    /// Whether an honest source may have sent the entries for those from `first` to `last`.
    fn are_sound(&self, entries: &[Entry], first: Index, last: Index) -> bool {
        let mut next = first;
        let mut term = Term(1);
        for entry in entries {
            if entry.index != next || next > last || entry.term < term {
                return false;
            }
            let is_sound = match &entry.payload {
                Payload::Founding(charter) => {
                    next == Index(1) && charter.incarnation() == self.incarnation
                }
                Payload::Commands(batch) => batch.is_sound(),
                Payload::Configuration(configuration) => !configuration.voters.is_empty(),
                Payload::Blank
                | Payload::Open(_)
                | Payload::SnapshotPoint
                | Payload::Frozen { .. }
                | Payload::Decided { .. }
                | Payload::Sealed { .. }
                | Payload::Thawed { .. } => true,
            };
            if !is_sound || (next == Index(1)) != matches!(entry.payload, Payload::Founding(_)) {
                return false;
            }
            next = next.next();
            term = entry.term;
        }
        !entries.is_empty()
    }

    /// Hands over what can be, and asks for what can be asked for.
    fn pump(&mut self, now: Instant) {
        let mut ready = Vec::new();
        while let Err(liar) = self.pieces.drain(&mut ready) {
            self.sources.distrust(liar);
        }
        if !ready.is_empty() {
            self.gained.push_back(Gained::Entries(ready));
        }
        if self.transfer.is_idle() && self.ask_for_entries(now) {
            self.transfer.begin(now + 4 * self.sources.pause());
        }
        let messages = &mut self.messages;
        let have = self.pieces.have();
        let step = self
            .transfer
            .pump(now, have, &mut self.sources, |peer, asked| {
                messages.push_back((peer, request(asked)));
            });
        if let Step::Complete(snapshot) = step {
            let position = snapshot.manifest.position;
            self.target = self.target.max(position.index);
            self.pieces.advance(position.index, position.term);
            self.gained.push_back(Gained::Snapshot(snapshot));
            // What was held above the snapshot follows on it now.
            self.pump(now);
        }
    }

    /// Asks for all entries that somebody has time for; whether the first is gone for good.
    fn ask_for_entries(&mut self, now: Instant) -> bool {
        self.pieces.plan(self.target);
        let next = self.pieces.have().next();
        for (first, last) in self.pieces.wanted() {
            let is_first =
                |asked: &Asked| matches!(asked, Asked::Entries { first: of, .. } if *of == first);
            if self.sources.is_asked(is_first) {
                continue;
            }
            let pick = self.sources.pick(
                REQUESTS_MAX,
                |_, source| source.may_have(first),
                |_, source| source.has_committed(last),
            );
            match pick {
                Pick::Ask(peer) => {
                    let what = Asked::Entries { first, last };
                    self.sources.ask(now, peer, what);
                    self.messages.push_back((peer, request(what)));
                }
                Pick::Wait => {}
                Pick::Nobody => {
                    if first == next && self.sources.is_gone_somewhere(first) {
                        return true;
                    }
                }
            }
        }
        false
    }
}

fn request(asked: Asked) -> Message {
    match asked {
        Asked::Entries { first, last } => Message::Fetch { first, last },
        Asked::Manifest => Message::FetchManifest,
        Asked::Chunk { position, number } => Message::FetchChunk { position, number },
    }
}

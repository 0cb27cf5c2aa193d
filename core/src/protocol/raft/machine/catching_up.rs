//! Catching up: what is fetched from other members, and from whom.

use super::{Raft, UNCOMMITTED_MAX};
use crate::protocol::raft::catch_up::{CatchUp, Gained, Gap};
use crate::protocol::raft::entry::Entry;
use crate::protocol::raft::mutants::mutant;
use crate::protocol::raft::state::StateMachine;
use crate::protocol::raft::types::{Index, Member, Position};
use crate::time::Instant;

impl<S: StateMachine> Raft<S> {
    /// The leader's append was taken, or found to lie beyond a gap.
    pub(super) fn appended(
        &mut self,
        now: Instant,
        leader: Member,
        is_gap: bool,
        commit: Index,
        kept_from: Index,
    ) {
        if !is_gap {
            if let (Some(catch_up), Some(term)) =
                (&mut self.catch_up, self.core.log.term_at(self.core.commit))
            {
                let position = Position {
                    term,
                    index: self.core.commit,
                };
                if !mutant!(self.core.config, SnapshotOverNewerLog) {
                    catch_up.advance(now, position);
                }
            }
            return;
        }
        let Some(incarnation) = self.core.incarnation else {
            return;
        };
        let sources = self.sources();
        match &mut self.catch_up {
            Some(catch_up) if catch_up.has_sources() && !catch_up.is_complete() => {
                // It may have begun under another leader.
                catch_up.sources_changed(now, &sources, leader.peer);
                catch_up.leader_at(now, commit, kept_from);
            }
            _ => {
                let gap = Gap {
                    incarnation,
                    have: self.core.commit,
                    target: commit,
                    is_canonical: self.replica.state().is_canonical(),
                };
                let catch_up = CatchUp::new(
                    now,
                    &self.core.config,
                    &gap,
                    &sources,
                    leader.peer,
                    kept_from,
                );
                self.catch_up = Some(catch_up);
            }
        }
    }

    fn sources(&self) -> Vec<(Member, Index)> {
        let members = self.core.bonded_members();
        members
            .map(|(member, peer)| (member, peer.commit))
            .collect()
    }

    pub(super) fn sources_changed(&mut self, now: Instant) {
        let sources = self.sources();
        let leader = self.core.leader.map(|leader| leader.peer);
        if let Some(catch_up) = &mut self.catch_up {
            let leader = leader.unwrap_or_else(|| catch_up.leader());
            catch_up.sources_changed(now, &sources, leader);
        }
    }

    /// Takes what the catch-up has got.
    pub(super) fn go_on_catching_up(&mut self, now: Instant) {
        // What a disk that hangs has not taken is not to fill the memory.
        let is_disk_behind =
            self.core.last().index.0 - self.core.disk.durable_last().0 >= UNCOMMITTED_MAX;
        while let Some(gained) = self
            .catch_up
            .as_mut()
            .filter(|_| !is_disk_behind)
            .and_then(CatchUp::poll_gained)
        {
            match gained {
                Gained::Entries(entries) => self.fetched(entries),
                Gained::Snapshot(snapshot) => self.install(now, snapshot),
            }
        }
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        while let Some((peer, message)) = catch_up.poll_message() {
            self.core.send(peer, message);
        }
        if catch_up.is_complete() {
            self.catch_up = None;
        }
    }

    /// Committed entries that other members had. They are committed whoever has them; but they say nothing
    /// of where our log agrees with the leader's, which only its own check does (schedule H9).
    fn fetched(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last().map(|entry| entry.index) else {
            return;
        };
        let follows = entries
            .first()
            .is_some_and(|first| first.index <= self.core.last().index.next());
        // What was committed in a later term shows that there is one.
        let term = entries.last().map_or(self.core.term, |entry| entry.term);
        if follows && term > self.core.term {
            self.core.follow(self.now, term, None);
        }
        if follows && self.core.put(entries) {
            self.core.commit = self.core.commit.max(last);
        }
    }
}

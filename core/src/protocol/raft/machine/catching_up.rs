//! Catching up: what is fetched from other members, and from whom.

use super::{Raft, UNCOMMITTED_MAX};
use crate::protocol::mutant;
use crate::protocol::raft::catch_up::{CatchUp, Gained, Gap};
use crate::protocol::raft::entry::Entry;
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

    /// Whom to fetch from: what those say who may only read could be anything.
    fn sources(&self) -> Vec<(Member, Index)> {
        let members = self.core.bonded_writers();
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
    fn fetched(&mut self, mut entries: Vec<Entry>) {
        // Above what is committed the log may have entries of a leader that never commits them. Those that follow on
        // them here need not be the ones that they follow on where they come from.
        let commit = self.core.commit;
        entries.retain(|entry| entry.index > commit);
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        let (first, last) = (first.index, last.position());
        if first != commit.next() {
            return;
        }
        // What was committed in a later term shows that there is one.
        if last.term > self.core.term {
            self.core.follow(self.now, last.term, None);
        }
        if self.core.put(entries) {
            self.core.commit = self.core.commit.max(last.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::raft::replica::testing::{entry, founding};
    use crate::protocol::raft::tests::machine;
    use crate::protocol::raft::{Payload, Term};

    #[test]
    fn what_was_fetched_follows_on_what_is_committed() {
        let blank = |index, term| Entry {
            term: Term(term),
            ..entry(index, Payload::Blank)
        };
        let mut raft = machine();
        raft.core.term = Term(2);
        let log = vec![founding(), blank(2, 2), blank(3, 2)];
        assert!(raft.core.put(log));
        raft.core.commit = Index(1);
        // Entry 2 is another one where this comes from.
        raft.fetched(vec![blank(3, 2)]);
        assert_eq!(raft.core.commit, Index(1));
        raft.fetched(vec![blank(2, 1), blank(3, 2)]);
        assert_eq!(raft.core.commit, Index(3));
        assert_eq!(raft.core.log.term_at(Index(2)), Some(Term(1)));
        // What is not kept any more is no reason to take nothing of what follows.
        raft.core.log.compact_through(Index(3));
        raft.fetched(vec![blank(2, 1), blank(3, 2), blank(4, 2)]);
        assert_eq!(raft.core.commit, Index(4));
    }
}

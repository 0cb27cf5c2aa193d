//! Going on in an incarnation that was reformed from the present one: founding it, or following into it.

use std::sync::Arc;

use super::Raft;
use crate::id::Instance;
use crate::protocol::mutant;
use crate::protocol::raft::Ancestor;
use crate::protocol::raft::catch_up::{CatchUp, Gained, Gap};
use crate::protocol::raft::entry::Owner;
use crate::protocol::raft::io::{Event, Reformed, StopReason};
use crate::protocol::raft::messages::{Envelope, Message};
use crate::protocol::raft::reforming::Decision;
use crate::protocol::raft::replica::ancestor_in;
use crate::protocol::raft::state::StateMachine;
use crate::protocol::raft::store::Snapshot;
use crate::protocol::raft::types::{Incarnation, Index, Member, Position, Version};
use crate::time::Instant;

/// The snapshot of an incarnation that was reformed from the member's own, on its way. The member leaves its own only
/// with that in hand: until then what it has may be the best that is left.
pub(super) struct Following {
    source: Member,
    incarnation: Incarnation,
    catch_up: CatchUp,
}

impl Following {
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.catch_up.handle_timeout(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.catch_up.poll_timeout()
    }
}

impl<S: StateMachine> Raft<S> {
    /// Does what is due of reforming, at the end of what was handled in this turn.
    pub(super) fn go_on_reforming(&mut self, now: Instant) {
        if let Some(decision) = self.core.reforming.take_decision() {
            self.reform(now, decision);
        }
        if self.core.reforming.is_pledged() {
            // What others have is no news any more.
            self.catch_up = None;
        }
        self.follow_successor(now);
    }

    /// Founds the incarnation that goes on from what this member has: all of its log, whether or not it was known to be
    /// committed. What of it was acknowledged is not known.
    fn reform(&mut self, now: Instant, decision: Decision) {
        let Some(parent) = self.core.incarnation else {
            return;
        };
        let (applied, at) = (self.replica.applied().index, self.core.last());
        let charter = self.core.charter_of_reform();
        let owner = Owner {
            member: charter.founder,
            run: self.core.run,
        };
        self.client.begin_anew(owner);
        self.complete_calls();
        self.asking.incarnation_left();
        for index in applied.next().0..=at.index.0 {
            let Some(entry) = self.core.log.entry(Index(index)) else {
                debug_assert!(false, "entry {index} is not applied and not there");
                return;
            };
            self.replica.apply(entry, &mut |_| {});
        }
        let ancestor = Ancestor {
            incarnation: parent,
            at,
            commands: self.replica.commands(),
            word: decision.word,
        };
        // Above all that was seen of the one before, so that terms and indexes only ever rise.
        let position = Position {
            term: self.core.term.next(),
            index: at.index.next(),
        };
        let incarnation = charter.incarnation();
        let snapshot = self.replica.reform(owner, incarnation, position, ancestor);
        self.enter(now, &snapshot, charter.founder.instance);
        // It leads in this run alone, and says nothing before all of it is durable: else it could forget it while
        // others have gone over.
        self.core.vote = Some(charter.founder);
        self.core.persist_hard_state();
        self.core.silent_until = self.core.disk.latest();
        self.tell(parent, applied, &ancestor, None);
        self.core.lead(now);
        self.core.note_voting();
    }

    /// Goes on as another member, of the incarnation of `snapshot`, with nothing but that.
    fn enter(&mut self, now: Instant, snapshot: &Arc<Snapshot>, instance: Instance) {
        let (standing, commands) = (self.replica.standing(), self.replica.commands());
        self.core
            .enter(now, instance, &snapshot.manifest, standing, commands);
        self.forget_transfers();
        self.shelf.put(now, Arc::clone(snapshot));
        self.saving.installed(snapshot, true, &mut self.core);
        // In the write that drops the log.
        self.core.persist_hard_state();
    }

    fn tell(
        &mut self,
        parent: Incarnation,
        applied: Index,
        ancestor: &Ancestor,
        state: Option<Vec<bytes::Bytes>>,
    ) {
        let Some(incarnation) = self.core.incarnation else {
            return;
        };
        self.core.event(Event::Reformed(Box::new(Reformed {
            parent: Version {
                incarnation: parent,
                index: applied,
            },
            incarnation,
            at: ancestor.at,
            is_proved: ancestor.word.is_some(),
            state,
        })));
        self.core.event(Event::Joined(incarnation));
    }

    // ---- Following ----

    /// Whether a message belongs to the snapshot that is fetched from another incarnation.
    pub(super) fn follows(&self, envelope: &Envelope, from: Member) -> bool {
        self.following.as_ref().is_some_and(|following| {
            following.source == from && envelope.incarnation == Some(following.incarnation)
        })
    }

    /// A part of that snapshot has come.
    pub(super) fn successor_message(&mut self, now: Instant, from: Member, message: Message) {
        let Some(Following { catch_up, .. }) = &mut self.following else {
            return;
        };
        match message {
            Message::Manifest(manifest) => {
                catch_up.manifest(now, from.peer, manifest.map(|manifest| *manifest));
            }
            Message::Chunk {
                position,
                number,
                bytes,
            } => catch_up.chunk(now, from.peer, position, number, bytes),
            _ => {}
        }
    }

    /// Fetches the snapshot of an incarnation that was reformed from ours, and goes over with it.
    fn follow_successor(&mut self, now: Instant) {
        let successor = self.core.successor(now);
        let is_that = |following: &Following| {
            successor == Some((following.source, following.incarnation))
                && following.catch_up.has_sources()
                && !following.catch_up.is_complete()
        };
        if !self.following.as_ref().is_some_and(is_that) {
            self.following = successor
                .map(|(source, incarnation)| self.begin_to_follow(now, source, incarnation));
        }
        let Some(following) = &mut self.following else {
            return;
        };
        while let Some((peer, message)) = following.catch_up.poll_message() {
            self.core.send(peer, message);
        }
        if let Some(Gained::Snapshot(snapshot)) = following.catch_up.poll_gained() {
            self.go_over(now, snapshot);
        }
    }

    fn begin_to_follow(&self, now: Instant, source: Member, incarnation: Incarnation) -> Following {
        let gap = Gap {
            incarnation,
            have: Index::ZERO,
            target: Index(1),
            is_canonical: self.replica.state().is_canonical(),
        };
        // No entry of it means anything without what it goes on from: a snapshot is all that is asked for.
        let kept_from = Index(2);
        let sources = [(source, gap.target)];
        let config = &self.core.config;
        let catch_up = CatchUp::new(now, config, &gap, &sources, source.peer, kept_from);
        Following {
            source,
            incarnation,
            catch_up,
        }
    }

    /// Gives up the present incarnation, with the snapshot of one that was reformed from it in hand.
    fn go_over(&mut self, now: Instant, snapshot: Snapshot) {
        let Some(parent) = self.core.incarnation else {
            return;
        };
        let snapshot = Arc::new(snapshot);
        let ancestor = match ancestor_in(&snapshot, &parent) {
            Ok(Some(ancestor)) => ancestor,
            // It is not what its source has said it is.
            Ok(None) => {
                self.following = None;
                return;
            }
            Err(error) => return self.core.stop(StopReason::Snapshot(error.0)),
        };
        let applied = self.replica.applied().index;
        // All that this member knows to be committed is in what was founded by its word. But that may have been on another
        // attempt, which came to nothing: those who have founded since, by proof or without, need not know of it.
        let word = self.core.reforming.word();
        let is_ours = word == ancestor.word || mutant!(self.core.config, WordOfOthers);
        let is_included = applied == Index::ZERO || (word.is_some() && is_ours);
        let state = (!is_included).then(|| self.replica.chunks());
        let instance = self.core.next_instance();
        let owner = Owner {
            member: Member {
                peer: self.core.me.peer,
                instance,
            },
            run: self.core.run,
        };
        if let Err(error) = self.replica.follow_reform(owner, &snapshot) {
            return self.core.stop(StopReason::Snapshot(error.0));
        }
        self.client.begin_anew(owner);
        self.complete_calls();
        self.asking.incarnation_left();
        self.enter(now, &snapshot, instance);
        self.tell(parent, applied, &ancestor, state);
        self.core.note_voting();
    }
}

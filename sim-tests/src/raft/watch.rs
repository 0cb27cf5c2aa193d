//! What each member was last seen to be, and what must hold from one step to the next.

use std::collections::BTreeSet;

use smalti_core::id::PeerId;
use smalti_core::protocol::raft::{
    Configuration, Incarnation, Index, Member, Payload, Phase, Position, ReadId, Role, Status,
    Term, Version,
};
use smalti_sim::NodeIndex;
use smalti_sim::time::SimTime;

use super::clients::{Ack, Clients};
use super::disk::Disk;
use super::driven::Driven;
use super::evidence::Evidence;
use super::ledger::{Ledger, Life};
use super::peers;
use super::rare;
use super::registers::value_of;
use super::set_backs::Stores;
use crate::Coverage;

/// A member as it was after its last step.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) me: Option<Member>,
    pub(super) incarnation: Option<Incarnation>,
    /// The place of the incarnation in the ledger.
    place: usize,
    pub(super) role: Role,
    pub(super) term: Term,
    pub(super) leader: Option<Member>,
    pub(super) last: Position,
    pub(super) commit: Index,
    pub(super) applied: Index,
    pub(super) phase: Phase,
    /// It has begun another life in the present step.
    pub(super) is_reborn: bool,
    effects: usize,
    pub(super) configuration: Configuration,
    pub(super) evidence: Evidence,
    /// Whether its machine has said that it stops, and whether because it has left.
    pub(super) stopped: bool,
    pub(super) left: bool,
    /// The term in which it was asked to stand for election at once.
    pub(super) handed_over: Option<Term>,
    /// From whom it last asked for a part of a snapshot.
    pub(super) fetches_from: Option<NodeIndex>,
    /// Answers of this step that are to be checked once it is over.
    pub(super) acks: Vec<Ack>,
    pub(super) reads: Vec<(ReadId, Version)>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            me: None,
            incarnation: None,
            place: 0,
            role: Role::Candidate,
            term: Term::ZERO,
            leader: None,
            last: Position::ZERO,
            commit: Index::ZERO,
            applied: Index::ZERO,
            phase: Phase::Open,
            is_reborn: false,
            effects: 0,
            configuration: Configuration::default(),
            evidence: Evidence::default(),
            stopped: false,
            left: false,
            handed_over: None,
            fetches_from: None,
            acks: Vec::new(),
            reads: Vec::new(),
        }
    }

    /// What there is to know of its node once that runs anew: that it was asked to stand for election may be still on
    /// its way, and finds the same member where that has a disk.
    pub(super) fn of_next_run(&self) -> Self {
        Self {
            handed_over: self.handed_over,
            ..Self::new()
        }
    }

    pub(super) fn leads(&self) -> bool {
        self.role == Role::Leader
    }
}

/// What a step is compared with.
pub(super) struct Watched<'a> {
    pub(super) node: NodeIndex,
    pub(super) now: SimTime,
    /// In which of its lives the node is.
    pub(super) life: u32,
    pub(super) watches: &'a mut [Watch],
    pub(super) disks: &'a [Disk],
    pub(super) stores: &'a Stores,
    pub(super) ledger: &'a mut Ledger,
    pub(super) clients: &'a mut Clients,
    pub(super) leaving: &'a BTreeSet<PeerId>,
    pub(super) coverage: &'a mut Coverage,
}

impl Watched<'_> {
    /// The machine of the node has made a step.
    pub(super) fn step(&mut self, machine: &Driven) {
        let status = machine.status();
        let watch = &mut self.watches[self.node.0 as usize];
        if watch.me != Some(status.me) || watch.incarnation != status.incarnation {
            if watch.me.is_none() {
                found(self.node, machine, &self.disks[self.node.0 as usize]);
            }
            if watch.me != Some(status.me) {
                self.changes_over(&status);
                // It has left its incarnation, and promised nothing in its new life.
                let watch = &mut self.watches[self.node.0 as usize];
                watch.term = Term::ZERO;
                watch.is_reborn = watch.me.is_some();
            }
            let watch = &mut self.watches[self.node.0 as usize];
            watch.me = Some(status.me);
            watch.incarnation = status.incarnation;
            watch.last = Position::ZERO;
            watch.commit = Index::ZERO;
            watch.applied = Index::ZERO;
            watch.phase = Phase::Open;
            if let Some(incarnation) = status.incarnation {
                watch.place = self.ledger.place(incarnation);
                let life = self.ledger.life(watch.place);
                if let Some(parentage) = &mut life.parentage
                    && parentage.founder == self.node
                    && parentage.inherited.is_none()
                {
                    parentage.inherits(machine.state(), watch.effects);
                }
            }
        }
        self.evidence(machine);
        let watch = &self.watches[self.node.0 as usize];
        assert!(
            status.term >= watch.term,
            "the term of {} falls from {} to {}",
            self.node,
            watch.term,
            status.term
        );
        if status.incarnation.is_some() {
            self.logs(machine);
            self.commits(machine);
            self.changes(machine);
            self.elections(machine);
            self.states(machine);
            self.meets(machine);
        }
        let watch = &mut self.watches[self.node.0 as usize];
        watch.is_reborn = false;
        watch.role = status.role;
        watch.term = status.term;
        watch.leader = status.leader;
        watch.last = status.last;
        watch.commit = status.commit;
        watch.applied = status.applied;
        let before = std::mem::replace(&mut watch.phase, status.phase);
        if watch.configuration != *status.configuration {
            watch.configuration = status.configuration.clone();
        }
        self.answers(machine, before);
    }

    /// The member has become another one: it has left a founding, or gives up an incarnation that was sealed.
    fn changes_over(&mut self, status: &Status<'_>) {
        let watch = self.watch();
        let (Some(me), Some(before), Some(now)) = (watch.me, watch.incarnation, status.incarnation)
        else {
            return;
        };
        let seal = self
            .ledger
            .find(&before)
            .and_then(|life| life.meetings.sealed());
        if seal.is_some() || self.ledger.descends(&before, &now) {
            return;
        }
        // A founding in which nothing was ever committed is left for another one, in one step where that is known.
        let committed = self.ledger.find(&before).map(Life::last);
        if committed.is_none_or(|last| last <= Index(1)) {
            return;
        }
        // Nobody has seen the seal committed: then so many must be gone that nobody ever will.
        let is_there = |voter: &&Member| {
            let node = peers::node(&voter.peer).0 as usize;
            let disk = &self.disks[node];
            let on_disk = disk.image.hard_state.filter(|_| disk.is_durable());
            **voter == me
                || self.watches[node].me == Some(**voter)
                || on_disk.is_some_and(|state| state.instance == voter.instance)
        };
        let voters = &watch.configuration.voters;
        let there = voters.iter().filter(is_there).count();
        assert!(
            there < watch.configuration.majority(),
            "{} gives up {before} for {now}, of which nobody has seen the end, and {there} of its voters are there: {voters:?}",
            self.node
        );
        self.coverage.reach(rare::SUPERSEDED_ON_PROOF);
    }

    /// What the meetings of its incarnation have come to.
    fn meets(&mut self, machine: &Driven) {
        let (status, watch) = (machine.status(), self.watch());
        let (before, place) = (watch.phase, watch.place);
        let life = self.ledger.life(place);
        life.meetings.has_seen(status.commands);
        match (before, status.phase) {
            (Phase::Sealed(before), now) => {
                assert!(
                    now == Phase::Sealed(before),
                    "{} had applied {before:?}, and now {now:?}",
                    self.node
                );
            }
            (Phase::Open, Phase::Frozen(_)) => self.coverage.reach(rare::FROZEN),
            (Phase::Frozen(_), Phase::Open) => self.coverage.reach(rare::THAWED),
            (_, Phase::Sealed(seal)) => {
                if seal.into < seal.incarnation {
                    self.coverage.reach(rare::YIELDED);
                }
                self.ledger.sealed(seal, self.now);
            }
            _ => {}
        }
    }

    fn watch(&self) -> &Watch {
        &self.watches[self.node.0 as usize]
    }

    fn logs(&mut self, machine: &Driven) {
        let (status, watch) = (machine.status(), &self.watches[self.node.0 as usize]);
        let node = self.node;
        assert!(
            status.applied <= status.commit && status.commit <= status.last.index,
            "{node} has applied {}, committed {}, and its log ends at {}",
            status.applied,
            status.commit,
            status.last
        );
        assert!(
            status.commit >= watch.commit && status.applied >= watch.applied,
            "{node} goes back from commit {} and applied {} to {} and {}",
            watch.commit,
            watch.applied,
            status.commit,
            status.applied
        );
        if status.last == watch.last {
            return;
        }
        let there = machine.entry(watch.last.index).map(|entry| entry.term);
        let goes_on = watch.last == Position::ZERO || there == Some(watch.last.term);
        if !goes_on && watch.last.index >= status.kept_from {
            self.coverage.reach(rare::TRUNCATED);
        }
        // What was committed here before was not cut.
        let seen = if goes_on {
            watch.last.index
        } else {
            watch.commit
        };
        let first = seen.next().max(status.kept_from);
        let life = self.ledger.life(watch.place);
        life.members.insert(status.me);
        let mut previous = machine.entry(first.previous()).map(|entry| entry.term);
        for index in first.0..=status.last.index.0 {
            let Some(entry) = machine.entry(Index(index)) else {
                continue;
            };
            life.appends(status.me, entry, previous);
            previous = Some(entry.term);
        }
    }

    fn commits(&mut self, machine: &Driven) {
        let (status, watch) = (machine.status(), &self.watches[self.node.0 as usize]);
        if status.commit == watch.commit {
            return;
        }
        let life = self.ledger.life(watch.place);
        life.has_voters(status.configuration);
        let leaving = |peer: &PeerId| self.leaving.contains(peer);
        let (duplicates, replaced) = (life.duplicates, life.replaced);
        let void_seals = life.meetings.void_seals;
        let mut newest = None;
        for index in watch.commit.0.max(status.kept_from.0.saturating_sub(1)) + 1..=status.commit.0
        {
            let Some(entry) = machine.entry(Index(index)) else {
                panic!(
                    "{} has committed {index}, keeps the log from {}, and lacks the entry",
                    self.node, status.kept_from
                );
            };
            if life.commit(status.me, status.term, entry, leaving) {
                newest = Some(entry.position());
            }
        }
        self.coverage
            .reach_times(rare::DUPLICATE, life.duplicates - duplicates);
        self.coverage
            .reach_times(rare::REPLACED, life.replaced - replaced);
        self.coverage
            .reach_times(rare::SEALED_TOO_LATE, life.meetings.void_seals - void_seals);
        let seal = life.meetings.sealed().map(|(seal, _)| seal.at.index);
        let disk = &self.disks[self.node.0 as usize];
        // Those that have acknowledged what lies behind a seal may have gone over since.
        if let Some(newest) = newest
            && seal.is_none_or(|seal| newest.index <= seal)
            && status.role == Role::Leader
            && disk.is_durable()
        {
            let configurations = [status.configuration, &watch.configuration];
            let holds = |configuration: &Configuration| {
                let has_it = |voter: &&Member| {
                    let node = peers::node(&voter.peer).0 as usize;
                    let image = &self.disks[node].image;
                    let hard_state = image.hard_state.as_ref();
                    let same = hard_state.is_some_and(|state| state.instance == voter.instance);
                    // One that was set back may have had it when it acknowledged it; and one that has gone over to what
                    // was made of this incarnation without its leader, whose acknowledgement was on its way until now.
                    let went_on = hard_state.and_then(|state| state.incarnation);
                    let is_reformed = status.incarnation.zip(went_on).is_some_and(|(this, now)| {
                        this != now && self.ledger.descends(&this, &now)
                    });
                    // A learner that has left, and did not know that it was to vote, votes no more: others whose votes are
                    // enough without it have what is committed with it.
                    let has_left = self.watches[node].left;
                    self.stores.has_forgotten(voter)
                        || is_reformed
                        || has_left
                        || same && image.has(newest.index, newest.term)
                };
                configuration.voters.iter().filter(has_it).count() >= configuration.majority()
            };
            assert!(
                configurations.into_iter().any(holds),
                "{} commits {newest}, which no majority of its voters has on disk",
                self.node
            );
        }
    }

    /// What a leader does on its own account: it commits by an entry of its term alone, and changes the voters
    /// only after one, and only when the change before has committed. What goes wrong otherwise takes
    /// several leaders and much luck; that the rule is kept can be seen at once.
    fn changes(&self, machine: &Driven) {
        let (status, watch) = (machine.status(), self.watch());
        if status.role != Role::Leader {
            return;
        }
        let of_its_term = |index: Index| {
            let entry = machine.entry(index);
            entry.is_none_or(|entry| entry.term == status.term)
        };
        assert!(
            status.commit == watch.commit
                || watch.role != Role::Leader
                || watch.term != status.term
                || of_its_term(status.commit),
            "{} leads term {} and commits {} by counting alone",
            self.node,
            status.term,
            status.commit
        );
        let is_change = |index: &u64| {
            let entry = machine.entry(Index(*index));
            entry.is_some_and(|entry| matches!(entry.payload, Payload::Configuration(_)))
        };
        if watch.role == Role::Leader
            && watch.term == status.term
            && (watch.last.index.0 + 1..=status.last.index.0).any(|index| is_change(&index))
        {
            assert!(
                of_its_term(status.commit),
                "{} changes the voters and has committed nothing in term {}",
                self.node,
                status.term
            );
            let pending = status.commit.0 + 1..=status.last.index.0;
            assert!(
                pending.filter(is_change).count() <= 1,
                "{} changes the voters twice at once",
                self.node
            );
        }
    }

    fn elections(&mut self, machine: &Driven) {
        let (status, watch) = (machine.status(), self.watch());
        let was_leader = watch.role == Role::Leader;
        if status.role != Role::Leader {
            if was_leader && status.term == watch.term && status.role != Role::Stopped {
                self.coverage.reach(rare::STEPPED_DOWN);
            }
            return;
        }
        if was_leader && status.term == watch.term {
            return;
        }
        let (place, handed_over) = (watch.place, watch.handed_over);
        let life = self.ledger.life(place);
        life.leads(status.term, status.me, self.life);
        assert!(
            status.last.term == status.term,
            "{} leads term {} with a log that ends at {}: nothing before it is ever committed by itself",
            self.node,
            status.term,
            status.last
        );
        life.is_complete(status.term, status.me, status.kept_from, |index| {
            machine.entry(index)
        });
        if status.term > Term(1) && status.last.index.0 > status.commit.0 + 1 {
            self.coverage.reach(rare::TAIL_AT_ELECTION);
        }
        if handed_over.is_some_and(|term| term.next() == status.term) {
            self.coverage.reach(rare::TRANSFERRED);
        }
        let mut others = self.watches.iter();
        if others.any(|other| {
            other.leads() && other.incarnation == status.incarnation && other.term < status.term
        }) {
            self.coverage.reach(rare::TWO_LEADERS);
        }
    }

    fn states(&mut self, machine: &Driven) {
        let status = machine.status();
        let watch = &mut self.watches[self.node.0 as usize];
        if status.applied == watch.applied {
            return;
        }
        let life = self.ledger.life(watch.place);
        let effects = machine.state().effects();
        let news = effects[watch.effects.min(effects.len())..].iter();
        // What its founder has applied before it began is part of what it began with.
        for effect in news {
            if !life.is_inherited(effect.index) {
                life.effect(status.me, effect);
            }
        }
        watch.effects = effects.len();
        life.applied(status.me, status.applied, machine.state().digest());
    }

    /// Checks what the step has answered.
    fn answers(&mut self, machine: &Driven, before: Phase) {
        let watch = &mut self.watches[self.node.0 as usize];
        if watch.acks.is_empty() && watch.reads.is_empty() {
            return;
        }
        let (acks, reads) = (
            std::mem::take(&mut watch.acks),
            std::mem::take(&mut watch.reads),
        );
        let (leads, applied, incarnation) = (watch.leads(), watch.applied, watch.incarnation);
        let phase = watch.phase;
        for ack in acks {
            let is_over = before
                .seal()
                .is_some_and(|seal| seal.incarnation == ack.version.incarnation);
            assert!(
                !is_over,
                "{} acknowledges {:?} of an incarnation that it knows was sealed",
                self.node, ack.call
            );
            check_ack(&ack, self.clients, self.ledger);
        }
        for (read, version) in reads {
            assert!(
                incarnation == Some(version.incarnation) && applied >= version.index,
                "{} answers {read:?} at {version:?} and has applied {applied} of {incarnation:?}",
                self.node
            );
            assert!(
                phase == Phase::Open,
                "{} answers {read:?} at {version:?}, and its incarnation is {phase:?}",
                self.node
            );
            let sealed_at = self.ledger.sealed_at(&version.incarnation);
            let value = |key| machine.state().value(key);
            let (clients, coverage) = (&mut *self.clients, &mut *self.coverage);
            let asked = (self.node, read);
            let at = (version, sealed_at);
            clients.read_ready(asked, at, value, leads, self.now, coverage);
        }
    }
}

/// The node has just started: what it goes by is what its disk has.
fn found(node: NodeIndex, machine: &Driven, disk: &Disk) {
    let status = machine.status();
    let image = &disk.image;
    let Some(hard_state) = image.hard_state.filter(|_| disk.is_durable()) else {
        return;
    };
    assert!(
        (status.me.instance, status.incarnation, status.term)
            == (hard_state.instance, hard_state.incarnation, hard_state.term),
        "{node} starts with {status:?}, and its disk has {hard_state:?}"
    );
    assert!(
        status.last.index == image.last(),
        "{node} starts with a log that ends at {}, and its disk has one up to {}",
        status.last,
        image.last()
    );
    for entry in image.entries() {
        assert!(
            machine.entry(entry.index) == Some(entry),
            "{node} starts with {:?} at {}, where its disk has {entry:?}",
            machine.entry(entry.index),
            entry.index
        );
    }
}

/// What was acknowledged has been applied, there, and with that output.
pub(super) fn check_ack(ack: &Ack, clients: &Clients, ledger: &mut Ledger) {
    let command = clients.calls[ack.call.0 as usize].command;
    let life = ledger.find_mut(&ack.version.incarnation);
    let Some(life) = life else {
        panic!(
            "{:?} is acknowledged in an incarnation that nobody has had",
            ack.call
        );
    };
    let effect = life.effect_of(command.id);
    let acked = value_of(&ack.output).map(|before| (ack.version.index, before));
    assert!(
        effect.is_some() && effect == acked,
        "{:?} with command {command:?} is acknowledged as {acked:?}, and was applied as {effect:?}",
        ack.call
    );
    life.acked = life.acked.max(ack.version.index);
    life.acks += 1;
}

//! What the members have agreed on, as first seen: all that is seen later must agree with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use smalti_core::protocol::Machine as _;
use smalti_core::protocol::raft::{
    CallOutcome, Entry, Incarnation, Index, Member, Phase, Raft, Role, Seal, Superseded, Term,
    Version,
};

use super::registers::Registers;

/// The machine of a member.
pub(super) type Machine = Raft<Registers>;

/// All incarnations of one run, and what was asked of them.
#[derive(Default)]
pub(super) struct Ledger {
    lives: BTreeMap<Incarnation, Life>,
    /// Commands of which it was said that they were not applied, and never will be.
    never: Vec<u32>,
}

/// One incarnation.
#[derive(Default)]
struct Life {
    committed: BTreeMap<Index, Committed>,
    leaders: BTreeMap<Term, Member>,
    /// Whom a member has voted for.
    votes: BTreeMap<(Term, Member), Member>,
    /// The state at each index at which a member was seen.
    states: BTreeMap<Index, [u8; 32]>,
    /// Where each command was applied, and its output.
    effects: BTreeMap<u32, (Index, Bytes)>,
    /// The highest index of which an acknowledgement was seen.
    acked: Index,
    /// The end of it, once a member has applied that.
    seal: Option<Seal>,
}

/// An entry that some member has reported as committed.
struct Committed {
    entry: Entry,
    /// The term of whoever was the first to say so: every leader of a later term has the entry.
    said_in: Term,
}

/// A member as it was after its last step.
#[derive(Default)]
pub(super) struct Seen {
    me: Option<Member>,
    incarnation: Option<Incarnation>,
    term: Term,
    role: Option<Role>,
    commit: Index,
    applied: Index,
    effects: usize,
}

impl Ledger {
    /// A member has made a step. Gives the last entry that it is the first to report as committed, where it
    /// leads.
    pub(super) fn step(&mut self, machine: &Machine, seen: &mut Seen) -> Option<Entry> {
        machine.check_invariants();
        let status = machine.status();
        if seen.me != Some(status.me) || seen.incarnation != status.incarnation {
            *seen = Seen {
                me: Some(status.me),
                incarnation: status.incarnation,
                // Whoever leaves a founding has promised nothing in its new life.
                term: if seen.me == Some(status.me) {
                    seen.term
                } else {
                    Term::ZERO
                },
                effects: seen.effects,
                ..Seen::default()
            };
        }
        assert!(status.term >= seen.term, "the term of {} falls", status.me);
        if let Some(seal) = status.phase.seal() {
            self.sealed(seal);
        }
        let mut newest = None;
        if let Some(incarnation) = status.incarnation {
            let life = self.lives.entry(incarnation).or_default();
            newest = life.commits(machine, seen);
            life.elections(machine, seen);
            life.states(machine, seen);
        }
        seen.term = status.term;
        seen.role = Some(status.role);
        seen.commit = status.commit;
        seen.applied = status.applied;
        newest.filter(|_| status.role == Role::Leader)
    }

    /// A member has applied the end of its incarnation.
    fn sealed(&mut self, seal: Seal) {
        let life = self.lives.entry(seal.incarnation).or_default();
        let first = *life.seal.get_or_insert(seal);
        assert!(first == seal, "{first:?}, and {seal:?}");
        let mut end = seal.into;
        while let Some(next) = self.lives.get(&end).and_then(|life| life.seal) {
            assert!(next.into != seal.into, "{seal:?}, and {next:?}: a circle");
            end = next.into;
        }
    }

    /// A member has given up an incarnation.
    pub(super) fn superseded(&self, given_up: &Superseded) {
        let life = self.lives.get(&given_up.version.incarnation);
        let commands = life.map_or(0, |life| life.effects.len() as u64);
        assert!(
            life.is_none_or(|life| life.seal.is_none() || commands <= given_up.commands_in_all),
            "{given_up:?}, and {commands} commands were applied"
        );
    }

    /// A member says that it votes.
    pub(super) fn votes(
        &mut self,
        incarnation: Incarnation,
        term: Term,
        voter: Member,
        candidate: Member,
    ) {
        let life = self.lives.entry(incarnation).or_default();
        let first = *life.votes.entry((term, voter)).or_insert(candidate);
        assert!(
            first == candidate,
            "{voter} votes in term {term} for {first} and for {candidate}"
        );
    }

    /// A call has ended.
    pub(super) fn completed(&mut self, command: u32, outcome: CallOutcome) {
        match outcome {
            CallOutcome::Applied { version, output } => {
                let life = self.lives.entry(version.incarnation).or_default();
                let effect = life.effects.get(&command);
                assert!(
                    effect == Some(&(version.index, output.clone())),
                    "{command} is acknowledged at {version:?} with {output:?}, and was {effect:?}"
                );
                life.acked = life.acked.max(version.index);
            }
            CallOutcome::GivenUp | CallOutcome::Rejected(_) => self.never.push(command),
            CallOutcome::OutputLost { .. }
            | CallOutcome::Unknown
            | CallOutcome::Superseded { .. } => {}
        }
    }

    /// What was acknowledged so far: a read that is asked for now must see it.
    pub(super) fn acked(&self) -> BTreeMap<Incarnation, Index> {
        let acked = |(incarnation, life): (&Incarnation, &Life)| (*incarnation, life.acked);
        self.lives.iter().map(acked).collect()
    }

    /// A read is answered; `acked` is what had been acknowledged when it was asked for.
    pub(super) fn read(machine: &Machine, version: Version, acked: &BTreeMap<Incarnation, Index>) {
        let status = machine.status();
        assert!(
            status.phase == Phase::Open,
            "a read is answered in {status:?}"
        );
        assert!(
            status.incarnation == Some(version.incarnation) && status.applied >= version.index,
            "a read is answered at {version:?} in {status:?}"
        );
        let acked = acked.get(&version.incarnation).copied();
        assert!(
            version.index >= acked.unwrap_or_default(),
            "a read is answered at {version:?}, after {acked:?} was acknowledged"
        );
    }

    /// What can only be said once the run is over. `is_one`: two foundings never both acknowledge.
    pub(super) fn close(&self, is_one: bool) {
        for command in &self.never {
            let mut lives = self.lives.values();
            assert!(
                !lives.any(|life| life.effects.contains_key(command)),
                "{command} was given up or refused, and applied"
            );
        }
        let acknowledge = self.lives.values().filter(|life| life.acked > Index::ZERO);
        assert!(
            !is_one || acknowledge.count() <= 1,
            "two foundings that expect a majority both acknowledge"
        );
    }
}

impl Life {
    fn commits(&mut self, machine: &Machine, seen: &Seen) -> Option<Entry> {
        let status = machine.status();
        assert!(
            status.applied <= status.commit && status.commit <= status.last.index,
            "{status:?} is out of order"
        );
        assert!(
            status.commit >= seen.commit && status.applied >= seen.applied,
            "{status:?} goes back from commit {} and applied {}",
            seen.commit,
            seen.applied
        );
        let mut newest = None;
        let from = seen.commit.max(status.kept_from.previous()).next();
        for index in (from.0..=status.commit.0).map(Index) {
            let Some(entry) = machine.entry(index) else {
                panic!("{status:?} lacks {index}");
            };
            match self.committed.get(&index) {
                Some(first) => assert!(
                    first.entry == *entry,
                    "state machine safety: {:?} was committed, and then {entry:?}",
                    first.entry
                ),
                None => {
                    newest = Some(entry.clone());
                    let committed = Committed {
                        entry: entry.clone(),
                        said_in: status.term,
                    };
                    self.committed.insert(index, committed);
                }
            }
        }
        newest
    }

    fn elections(&mut self, machine: &Machine, seen: &Seen) {
        let status = machine.status();
        let led = seen.role == Some(Role::Leader) && seen.term == status.term;
        if status.role != Role::Leader || led {
            return;
        }
        let first = *self.leaders.entry(status.term).or_insert(status.me);
        assert!(
            first == status.me,
            "election safety: {first} and {} both lead term {}",
            status.me,
            status.term
        );
        let committed = self.committed.range(status.kept_from..);
        for (index, committed) in committed.filter(|(_, it)| it.said_in < status.term) {
            assert!(
                machine.entry(*index) == Some(&committed.entry),
                "leader completeness: {status:?} lacks {:?}",
                committed.entry
            );
        }
    }

    fn states(&mut self, machine: &Machine, seen: &mut Seen) {
        let status = machine.status();
        if status.applied == seen.applied {
            return;
        }
        let effects = machine.state().effects_from(seen.effects);
        for (command, index, output) in effects {
            let effect = (*index, output.clone());
            let first = self
                .effects
                .entry(*command)
                .or_insert_with(|| effect.clone());
            assert!(
                *first == effect,
                "{} applies {command} as {effect:?}, others as {first:?}",
                status.me
            );
        }
        seen.effects += effects.len();
        let order = machine.state().order();
        let first = *self.states.entry(status.applied).or_insert(order);
        assert!(
            first == order,
            "at {} {} has another state than others have had there",
            status.applied,
            status.me
        );
    }
}

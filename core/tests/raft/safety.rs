//! What must hold whatever a script expects.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use smalti_core::protocol::raft::{
    CallOutcome, Entry, Event, Incarnation, Index, Member, Phase, Raft, Role, Seal, Term,
};

use crate::list::List;
use crate::show::text;

/// What all nodes have done, and what of it must not be.
#[derive(Default)]
pub(crate) struct Safety {
    committed: BTreeMap<(Incarnation, Index), Entry>,
    leaders: BTreeMap<(Incarnation, Term), Member>,
    /// What has been acknowledged, and where.
    acknowledged: Vec<(Incarnation, Index, Bytes)>,
    given_up: BTreeSet<Bytes>,
    /// What each node has applied.
    applied: BTreeMap<u8, BTreeSet<Bytes>>,
    /// How far each node was looked at.
    seen: BTreeMap<u8, (Option<Incarnation>, Index)>,
    /// Incarnations that were reformed by proof: they end there.
    reformed: BTreeSet<Incarnation>,
    /// Incarnations that some member has seen to be sealed.
    sealed: BTreeMap<Incarnation, Seal>,
    violations: Vec<String>,
}

impl Safety {
    /// A node has started: what it knew before is forgotten.
    pub(crate) fn started(&mut self, node: u8) {
        self.seen.remove(&node);
        self.applied.remove(&node);
    }

    /// A node has done something.
    pub(crate) fn look_at(&mut self, node: u8, raft: &Raft<List>) {
        let status = raft.status();
        let Some(incarnation) = status.incarnation else {
            return;
        };
        if let Phase::Sealed(seal) = status.phase {
            self.sealed(seal);
        }
        if status.role == Role::Leader {
            let key = (incarnation, status.term);
            let leader = *self.leaders.entry(key).or_insert(status.me);
            if leader != status.me {
                self.violate(format!("two leaders in term {}", status.term));
            }
        }
        let seen = self.seen.get(&node).copied().unwrap_or_default();
        let (_, from) = if seen.0 == Some(incarnation) {
            seen
        } else {
            self.applied.remove(&node);
            (None, Index(0))
        };
        for index in from.0 + 1..=status.commit.0 {
            let Some(entry) = raft.entry(Index(index)) else {
                continue;
            };
            let key = (incarnation, Index(index));
            let committed = self.committed.entry(key).or_insert_with(|| entry.clone());
            if committed != entry {
                self.violate(format!("n{node} commits another entry {index} than others"));
            }
        }
        if from < status.commit {
            self.seen.insert(node, (Some(incarnation), status.commit));
        }
        self.look_at_state(node, raft);
    }

    /// A member has applied a seal.
    fn sealed(&mut self, seal: Seal) {
        let first = *self.sealed.entry(seal.incarnation).or_insert(seal);
        if first != seal {
            self.violate(format!("{first:?} and {seal:?}"));
        }
        let mut end = seal.into;
        while let Some(next) = self.sealed.get(&end) {
            end = next.into;
            if end == seal.into {
                self.violate("incarnations are sealed into each other".to_owned());
                break;
            }
        }
    }

    /// A member has said what it does. One that only reads goes wherever writers are.
    pub(crate) fn event(&mut self, node: u8, reads: bool, event: &Event) {
        if let Event::Superseded(given_up) = event
            && !reads
            && !self.sealed.contains_key(&given_up.version.incarnation)
        {
            self.violate(format!("n{node} gives up what is not sealed"));
        }
        if let Event::Reformed(reformed) = event
            && reformed.is_proved
        {
            self.reformed.insert(reformed.parent.incarnation);
        }
    }

    /// Looks at what was applied since the last time.
    fn look_at_state(&mut self, node: u8, raft: &Raft<List>) {
        let list = &raft.state().0;
        let known = self.applied.entry(node).or_default();
        if list.len() < known.len() {
            known.clear();
        }
        let mut found = Vec::new();
        for command in &list[known.len()..] {
            if self.given_up.contains(command) {
                found.push(format!("n{node} applies {}, given up", text(command)));
            }
            if !known.insert(command.clone()) {
                found.push(format!("n{node} has applied {} twice", text(command)));
                break;
            }
        }
        for found in found {
            self.violate(found);
        }
    }

    /// Looks for what was acknowledged and is not there.
    pub(crate) fn look_for_acknowledged(&mut self, node: u8, raft: &Raft<List>) {
        let status = raft.status();
        let known = self.applied.entry(node).or_default();
        let lacking = self
            .acknowledged
            .iter()
            .find(|(incarnation, index, command)| {
                Some(*incarnation) == status.incarnation
                    && *index <= status.applied
                    && !known.contains(command)
            });
        if let Some((.., command)) = lacking {
            let command = text(command);
            self.violate(format!("n{node} lacks {command}, acknowledged"));
        }
    }

    /// A call has ended on `raft`.
    pub(crate) fn ended(&mut self, raft: &Raft<List>, command: &Bytes, outcome: &CallOutcome) {
        match outcome {
            CallOutcome::Applied { version, .. } => {
                let acknowledged = (version.incarnation, version.index, command.clone());
                self.acknowledged.push(acknowledged);
                if self.reformed.contains(&version.incarnation) {
                    let command = text(command);
                    self.violate(format!(
                        "{command} is acknowledged in an incarnation that was reformed"
                    ));
                }
            }
            CallOutcome::GivenUp | CallOutcome::Rejected(_) => {
                self.given_up.insert(command.clone());
            }
            CallOutcome::OutputLost { .. } => {
                // Where it was applied is not said: at or below what is applied now.
                let status = raft.status();
                if let Some(incarnation) = status.incarnation {
                    let acknowledged = (incarnation, status.applied, command.clone());
                    self.acknowledged.push(acknowledged);
                }
            }
            CallOutcome::Unknown | CallOutcome::Superseded { .. } => {}
        }
    }

    /// What a read that begins now must show: so many of the acknowledged commands.
    pub(crate) const fn read_begins(&self) -> usize {
        self.acknowledged.len()
    }

    /// A read that began when there were `acknowledged` commands is answered.
    pub(crate) fn read_ends(&mut self, node: u8, raft: &Raft<List>, acknowledged: usize) {
        let incarnation = raft.status().incarnation;
        if raft.status().phase != Phase::Open {
            self.violate(format!("n{node} answers a read and is not open"));
        }
        let lacking = self.acknowledged[..acknowledged]
            .iter()
            .filter(|(of, ..)| Some(*of) == incarnation)
            .find(|(.., command)| !raft.state().0.contains(command));
        if let Some((.., command)) = lacking {
            let command = text(command);
            self.violate(format!("a read on n{node} misses {command}"));
        }
    }

    fn violate(&mut self, what: String) {
        if !self.violations.contains(&what) {
            self.violations.push(what);
        }
    }

    /// All that must not have been.
    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }
}

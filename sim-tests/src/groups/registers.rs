//! What the groups replicate: a few registers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smalti_core::groups::{ApplyContext, Serialized, StateMachine};
use smalti_core::{UniqueId, unique_id};
use smalti_sim::linearizability::Model;

/// What is done with a register, which holds 0 at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) enum Change {
    /// Replaces the value.
    Put(u64),
    /// Replaces the value where it is the first.
    Swap(u64, u64),
    /// Adds.
    Add(u64),
}

impl Change {
    /// The value that `value` becomes.
    pub(super) const fn of(self, value: u64) -> u64 {
        match self {
            Self::Put(new) => new,
            Self::Swap(expected, new) if expected == value => new,
            Self::Swap(..) => value,
            Self::Add(summand) => value.wrapping_add(summand),
        }
    }
}

/// A command of the group.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Command {
    pub(super) key: u8,
    pub(super) change: Change,
    /// Names the command over all lives of all hosts.
    pub(super) id: u64,
}

/// All registers, and which commands have made them what they are, in order: the index of the log, and the command's id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contents {
    pub(super) values: BTreeMap<u8, u64>,
    pub(super) applied: Vec<(u64, u64)>,
}

/// The state machine.
#[derive(Default)]
pub(super) struct Registers(Contents);

impl StateMachine for Registers {
    type Command = Command;
    /// The value before.
    type Output = u64;
    /// The value of a register, or everything.
    type Query = Option<u8>;
    type QueryResult = Answer;
    type Snapshot = Serialized<Contents>;

    fn signature(&self) -> UniqueId {
        unique_id!("registers of groups-chaos")
    }

    fn apply(&mut self, command: Command, context: ApplyContext) -> u64 {
        self.0.applied.push((context.index.0, command.id));
        let value = self.0.values.entry(command.key).or_default();
        let before = *value;
        *value = command.change.of(before);
        before
    }

    fn query(&self, key: Option<u8>) -> Answer {
        match key {
            Some(key) => Answer::Value(self.0.values.get(&key).copied().unwrap_or_default()),
            None => Answer::All(Box::new(self.0.clone())),
        }
    }

    fn snapshot(&self) -> Serialized<Contents> {
        Serialized(self.0.clone())
    }

    fn restore(&mut self, Serialized(contents): Serialized<Contents>) {
        self.0 = contents;
    }
}

/// The answer to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Value(u64),
    All(Box<Contents>),
}

/// The registers as clients see them, for the checker: their values at first, where those are not 0.
#[derive(Clone, Debug)]
pub(super) struct Sequential(pub(super) BTreeMap<u8, u64>);

/// An operation of a client on a register: a change, or a read.
pub(super) type Access = (u8, Option<Change>);

impl Model for Sequential {
    type Op = Access;
    /// The value before.
    type Output = u64;
    type State = u64;
    type Key = u8;

    fn key(&self, (key, _): &Access) -> u8 {
        *key
    }

    fn initial(&self, key: &u8) -> u64 {
        self.0.get(key).copied().unwrap_or_default()
    }

    fn step(&self, state: &u64, (_, change): &Access, output: Option<&u64>) -> Option<u64> {
        if output.is_some_and(|before| before != state) {
            return None;
        }
        Some(change.map_or(*state, |change| change.of(*state)))
    }

    fn is_read(&self, (_, change): &Access, _output: Option<&u64>) -> bool {
        change.is_none()
    }
}

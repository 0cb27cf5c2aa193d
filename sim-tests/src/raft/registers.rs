//! What the groups replicate: a few registers, with a record of what was applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smalti_core::protocol::raft::{ApplyContext, FrozenState, Index, RestoreError, StateMachine};
use smalti_sim::trace;

/// Names a command over all runs of all nodes. The numbers of one client only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct CommandId {
    /// One life of one node.
    pub(super) client: u32,
    /// Its commands, from 1.
    pub(super) number: u32,
}

/// What is done with a register, which holds 0 at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) enum Operation {
    /// Replaces the value.
    Put(u64),
    /// Replaces the value where it is the first.
    Swap(u64, u64),
    /// Makes a value of the present one and another, such that the order of all those that were
    /// appended can be told from it.
    Append(u64),
    /// Adds.
    Add(u64),
}

impl Operation {
    /// The value that `value` becomes.
    pub(super) fn of(self, value: u64) -> u64 {
        match self {
            Self::Put(new) => new,
            Self::Swap(expected, new) if expected == value => new,
            Self::Swap(..) => value,
            Self::Append(item) => trace::digest(&(value, item)),
            Self::Add(summand) => value.wrapping_add(summand),
        }
    }
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Command {
    pub(super) id: CommandId,
    pub(super) key: u8,
    pub(super) operation: Operation,
}

impl Command {
    pub(super) fn encode(&self) -> Bytes {
        let bytes = postcard::to_allocvec(self).expect("numbers can always be encoded");
        Bytes::from(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// The output of a command: the value before it.
pub(super) fn output_of(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_le_bytes())
}

/// The value that an output holds.
pub(super) fn value_of(output: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(output.try_into().ok()?))
}

/// A command that was applied, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) index: Index,
    pub(super) command: Command,
    /// The value before it.
    pub(super) before: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    values: BTreeMap<u8, u64>,
    /// The last command of each client.
    clients: BTreeMap<u32, u32>,
    /// Of all that was applied, and where.
    digest: u64,
}

/// The state machine.
pub(super) struct Registers {
    contents: Arc<Contents>,
    is_canonical: bool,
    chunk_len: usize,
    /// What was applied here, one by one; nothing of what snapshots brought.
    effects: Vec<Effect>,
}

impl Registers {
    /// All registers hold 0. Snapshots have chunks of `chunk_len` bytes at most.
    pub(super) fn new(is_canonical: bool, chunk_len: usize) -> Self {
        Self {
            contents: Arc::default(),
            is_canonical,
            chunk_len,
            effects: Vec::new(),
        }
    }

    pub(super) fn value(&self, key: u8) -> u64 {
        self.contents.values.get(&key).copied().unwrap_or_default()
    }

    /// The digest of all commands that the state is made of.
    pub(super) fn digest(&self) -> u64 {
        self.contents.digest
    }

    /// The values of all registers that were ever written.
    pub(super) fn values(&self) -> &BTreeMap<u8, u64> {
        &self.contents.values
    }

    /// The last command of each client that the state is made of.
    pub(super) fn clients(&self) -> &BTreeMap<u32, u32> {
        &self.contents.clients
    }

    pub(super) fn effects(&self) -> &[Effect] {
        &self.effects
    }
}

impl StateMachine for Registers {
    type Frozen = Frozen;

    fn apply(&mut self, context: ApplyContext, bytes: &[u8]) -> Bytes {
        let command = Command::decode(bytes).expect("only clients of ours send commands");
        let contents = Arc::make_mut(&mut self.contents);
        let last = contents.clients.entry(command.id.client).or_default();
        assert!(
            *last < command.id.number,
            "at {} {:?} is applied after {last} of the same client",
            context.index,
            command.id
        );
        *last = command.id.number;
        let value = contents.values.entry(command.key).or_default();
        let before = *value;
        *value = command.operation.of(before);
        contents.digest = trace::digest(&(contents.digest, context.index, command, before));
        self.effects.push(Effect {
            index: context.index,
            command,
            before,
        });
        output_of(before)
    }

    fn freeze(&self) -> Frozen {
        Frozen {
            contents: self.contents.clone(),
            chunk_len: self.chunk_len,
        }
    }

    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), RestoreError> {
        let bytes = chunks.concat();
        let contents = postcard::from_bytes(&bytes);
        self.contents = Arc::new(contents.map_err(|error| RestoreError(error.to_string()))?);
        Ok(())
    }

    fn is_canonical(&self) -> bool {
        self.is_canonical
    }
}

/// The state at one moment.
pub(super) struct Frozen {
    contents: Arc<Contents>,
    chunk_len: usize,
}

impl FrozenState for Frozen {
    fn chunks(&self, len: usize) -> Vec<Bytes> {
        let bytes = postcard::to_allocvec(&*self.contents).expect("maps can always be encoded");
        let len = len.min(self.chunk_len).max(1);
        bytes.chunks(len).map(Bytes::copy_from_slice).collect()
    }
}

#[cfg(test)]
mod tests {
    use smalti_core::protocol::raft::Term;

    use super::*;

    fn apply(registers: &mut Registers, index: u64, number: u32, operation: Operation) -> u64 {
        let id = CommandId { client: 3, number };
        let command = Command {
            id,
            key: 1,
            operation,
        };
        let context = ApplyContext {
            index: Index(index),
            term: Term(1),
        };
        value_of(&registers.apply(context, &command.encode())).unwrap()
    }

    #[test]
    fn outputs_are_the_values_before() {
        let mut registers = Registers::new(true, 8);
        assert_eq!(apply(&mut registers, 2, 1, Operation::Put(5)), 0);
        assert_eq!(apply(&mut registers, 3, 2, Operation::Swap(4, 9)), 5);
        assert_eq!(apply(&mut registers, 4, 3, Operation::Swap(5, 9)), 5);
        assert_eq!(apply(&mut registers, 5, 4, Operation::Add(2)), 9);
        assert_eq!(registers.value(1), 11);
        assert_eq!(registers.effects().len(), 4);
    }

    #[test]
    fn a_snapshot_brings_the_same_state() {
        let mut registers = Registers::new(true, 8);
        apply(&mut registers, 2, 1, Operation::Append(5));
        let chunks = registers.freeze().chunks(1_000);
        assert!(chunks.len() > 1);
        apply(&mut registers, 3, 2, Operation::Append(6));
        let mut other = Registers::new(true, 8);
        other.restore(&chunks).unwrap();
        assert_ne!(other.digest(), registers.digest());
        apply(&mut other, 3, 2, Operation::Append(6));
        assert_eq!(other.digest(), registers.digest());
        assert!(other.restore(&chunks[1..]).is_err());
    }

    #[test]
    #[should_panic(expected = "is applied after 1 of the same client")]
    fn a_command_that_is_applied_twice_is_found() {
        let mut registers = Registers::new(true, 8);
        apply(&mut registers, 2, 1, Operation::Put(5));
        apply(&mut registers, 3, 1, Operation::Put(5));
    }
}

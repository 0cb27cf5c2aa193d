//! What the fuzzed groups replicate: which commands were applied, in which order.

use std::collections::BTreeSet;

use bytes::Bytes;
use smalti_core::id::Digest;
use smalti_core::protocol::raft::{ApplyContext, FrozenState, Index, RestoreError, StateMachine};
use smalti_core::wire::{decode, encode};

/// A command that was applied, where, and its output.
pub(super) type Effect = (u32, Index, Bytes);

/// The commands that were applied, and a digest of their order.
#[derive(Clone)]
pub(super) struct Registers {
    applied: BTreeSet<u32>,
    order: [u8; 32],
    rules: Rules,
    /// What was applied here, one by one; nothing of what snapshots brought.
    effects: Vec<Effect>,
}

/// What all members of a group have in common.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// All commands are those of the driver: each is applied once.
    pub(super) is_honest: bool,
    pub(super) is_canonical: bool,
    pub(super) chunk_len: usize,
}

/// A command.
pub(super) fn command(id: u32) -> Bytes {
    Bytes::copy_from_slice(&id.to_le_bytes())
}

impl Registers {
    pub(super) const fn new(rules: Rules) -> Self {
        Self {
            applied: BTreeSet::new(),
            order: [0; 32],
            rules,
            effects: Vec::new(),
        }
    }

    pub(super) const fn order(&self) -> [u8; 32] {
        self.order
    }

    /// What was applied here from the effect of this number on.
    pub(super) fn effects_from(&self, number: usize) -> &[Effect] {
        &self.effects[number.min(self.effects.len())..]
    }
}

impl StateMachine for Registers {
    type Frozen = Self;

    fn apply(&mut self, context: ApplyContext, bytes: &[u8]) -> Bytes {
        let id = <[u8; 4]>::try_from(bytes).map(u32::from_le_bytes);
        if let Ok(id) = id {
            let is_new = self.applied.insert(id);
            assert!(
                is_new || !self.rules.is_honest,
                "command {id} is applied a second time, at {}",
                context.index
            );
        }
        let place = context.index.0.to_le_bytes();
        self.order = *Digest::of("order", &[&self.order, &place, bytes]).as_bytes();
        let output = Bytes::copy_from_slice(&self.order[..8]);
        if let Ok(id) = id {
            self.effects.push((id, context.index, output.clone()));
        }
        output
    }

    fn freeze(&self) -> Self {
        Self {
            effects: Vec::new(),
            ..self.clone()
        }
    }

    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), RestoreError> {
        let contents = decode(&chunks.concat());
        (self.applied, self.order) = contents.map_err(|error| RestoreError(error.to_string()))?;
        Ok(())
    }

    fn is_canonical(&self) -> bool {
        self.rules.is_canonical
    }
}

impl FrozenState for Registers {
    fn chunks(&self, len: usize) -> Vec<Bytes> {
        let bytes = encode(&(&self.applied, &self.order)).expect("numbers can be encoded");
        let len = len.min(self.rules.chunk_len);
        bytes.chunks(len).map(Bytes::copy_from_slice).collect()
    }
}

//! What the group replicates.

use bytes::Bytes;

use super::outputs::OutputsBuilder;
use super::types::{Index, Term};

/// Where a command is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyContext {
    /// The entry it comes from.
    pub index: Index,
    /// The term of that entry.
    pub term: Term,
}

/// What the group replicates: a function of the commands applied to it, in order, and of nothing else.
///
/// The same commands must give the same outputs and the same state on every member: no clock, no
/// randomness, no order of a default-hashed map, nothing of the node it runs on.
pub trait StateMachine {
    /// The state at one moment, cheap to take and unmoved by what is applied afterwards.
    type Frozen: FrozenState;

    /// Applies a command and gives its output.
    ///
    /// Commands come from members of the group: one that cannot be decoded is to be answered, not to
    /// panic over.
    fn apply(&mut self, context: ApplyContext, command: &[u8]) -> Bytes;

    /// Applies commands that follow each other in one entry, all of them, and gives the output of each to `outputs`.
    /// Default: [`apply`](Self::apply) one after the other.
    fn apply_batch(
        &mut self,
        context: ApplyContext,
        commands: &mut dyn Iterator<Item = &[u8]>,
        outputs: &mut OutputsBuilder,
    ) {
        for command in commands {
            outputs.push(&self.apply(context, command));
        }
    }

    /// The present state.
    fn freeze(&self) -> Self::Frozen;

    /// Puts the state of a snapshot in place of the present one.
    ///
    /// # Errors
    /// [`RestoreError`] where the chunks are not such a state; the present one is then unchanged.
    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), RestoreError>;

    /// Whether equal states give equal chunks on every member, so that one snapshot may be put together
    /// from several sources. Default: no.
    fn is_canonical(&self) -> bool {
        false
    }
}

/// A state that can be written as chunks.
pub trait FrozenState {
    /// The state as chunks of about `len` bytes each, in order.
    fn chunks(&self, len: usize) -> Vec<Bytes>;
}

/// A snapshot that is not one of this state machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot is not a state of this state machine: {0}")]
pub struct RestoreError(pub String);

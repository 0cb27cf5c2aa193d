//! Applies commands to a collection.

use super::collection::Collection;
use super::command::{Command, Outcome, RESULTS_LEN_MAX};
use super::fingerprint::{Fingerprint, SchemaConflict};
use super::history::{History, Noted};
use super::snapshot::Frozen;
use crate::protocol::raft::Index;

/// What is counted for a command beside its bytes.
const COMMAND_OVERHEAD: usize = 128;

/// A collection as one member has it.
///
/// The first command that is applied settles the element types: every later one of other types is refused, by all
/// members alike, since the log alone has decided. A member whose own types are others cannot read what the collection
/// holds. It notes the [conflict](Self::conflict), and must not take part any longer: its contents are not those of the
/// others.
#[derive(Debug)]
pub struct Machine<C: Collection> {
    contents: C,
    /// What this build's element types are.
    ours: Fingerprint,
    /// What those of the collection are, once that is settled.
    schema: Option<Fingerprint>,
    history: History<C::Change>,
}

impl<C: Collection> Default for Machine<C> {
    fn default() -> Self {
        Self {
            contents: C::default(),
            ours: C::fingerprint(),
            schema: None,
            history: History::new(),
        }
    }
}

impl<C: Collection> Machine<C> {
    /// The contents.
    #[must_use]
    pub const fn contents(&self) -> &C {
        &self.contents
    }

    /// What the element types are, once a command has settled it.
    #[must_use]
    pub const fn schema(&self) -> Option<Fingerprint> {
        self.schema
    }

    /// The latest changes.
    pub(crate) const fn history(&self) -> &History<C::Change> {
        &self.history
    }

    /// The present state is that of `index`: changes above it are told from now on, where the state was replaced.
    pub(crate) fn begin_history(&mut self, index: Index) {
        self.history.begin(index);
    }

    /// Why this member cannot read what the collection holds, if it cannot.
    #[must_use]
    pub fn conflict(&self) -> Option<SchemaConflict> {
        let ours = self.ours;
        let theirs = self.schema.filter(|schema| *schema != ours);
        theirs.map(|theirs| SchemaConflict { ours, theirs })
    }

    /// Applies a command that is at `index`: all of it or nothing.
    pub fn apply(&mut self, index: Index, command: &Command) -> Outcome {
        let schema = *self.schema.get_or_insert(command.schema);
        if schema != command.schema || schema != self.ours {
            return Outcome::Foreign(schema);
        }
        let Ok(operations) = command.operations::<C::Operation>() else {
            return Outcome::Malformed;
        };
        if operations.len() != command.count as usize {
            return Outcome::Malformed;
        }
        // One operation fails before it changes anything. Where there are more the contents are kept, which are
        // persistent, so that this costs no copy.
        let before = (operations.len() > 1).then(|| self.contents.clone());
        let mut changes = Noted::new(C::weight);
        let mut replies = Vec::with_capacity(operations.len());
        let mut replies_len = 0;
        for operation in operations {
            let failed = match self.contents.apply(operation, &mut changes) {
                Ok(reply) => {
                    replies_len += reply.0.len();
                    replies.push(reply);
                    let are_too_long = before.is_some() && replies_len > RESULTS_LEN_MAX;
                    are_too_long.then_some(Outcome::ResultsTooLong)
                }
                Err(error) => Some(Outcome::OutOfBounds(error)),
            };
            if let Some(failed) = failed {
                if let Some(before) = before {
                    self.contents = before;
                }
                return failed;
            }
        }
        let bytes = command.len() + COMMAND_OVERHEAD;
        self.history.note(index, bytes, changes);
        Outcome::Applied(replies)
    }

    /// The present contents, unmoved by what is applied afterwards.
    #[must_use]
    pub fn freeze(&self) -> Frozen<C> {
        Frozen {
            schema: self.schema,
            contents: self.contents.clone(),
        }
    }

    /// Puts other contents in place of the present ones.
    pub fn restore(&mut self, frozen: Frozen<C>) {
        self.contents = frozen.contents;
        self.schema = frozen.schema;
        self.history.restart();
    }
}

//! A collection as the state machine of a group.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use super::showcase::Showcase;
use super::view::View;
use crate::id::UniqueId;
use crate::node::groups::{Snapshot, StateMachine};
use crate::protocol::collections::{Collection, Command, Frozen, Machine, Outcome, SchemaConflict};
use crate::protocol::raft::{ApplyContext, LeadershipPreference, RestoreError, Version};

/// A command of so many bytes is applied beside a view, so that reads need not wait for it, unless others were applied just before it. So many elements are in it
/// then that copying what is shared costs little for each.
const LONG_COMMAND: usize = 64 << 10;

/// What a member shares with the handles of its node.
pub(super) struct Shared<C: Collection> {
    /// What reads see.
    pub(super) showcase: Showcase<C>,
    /// Set where this node cannot take part.
    pub(super) conflict: OnceLock<SchemaConflict>,
}

impl<C: Collection> Shared<C> {
    pub(super) fn new() -> Self {
        Self {
            showcase: Showcase::new(),
            conflict: OnceLock::new(),
        }
    }
}

/// A member of a collection's group.
pub(super) struct Member<C: Collection> {
    /// Here from the first command that is applied until its outcome is to be told; else in the showcase. Nobody else
    /// locks it.
    machine: Mutex<Option<Box<Machine<C>>>>,
    shared: Arc<Shared<C>>,
    preference: LeadershipPreference,
}

impl<C: Collection> Member<C> {
    pub(super) fn new(shared: Arc<Shared<C>>, preference: LeadershipPreference) -> Self {
        Self {
            machine: Mutex::new(None),
            shared,
            preference,
        }
    }

    /// The machine, to apply something to it.
    fn machine(&mut self, leave_view: bool) -> &mut Machine<C> {
        let showcase = &self.shared.showcase;
        let machine = self.machine.get_mut();
        let machine = machine.unwrap_or_else(PoisonError::into_inner);
        machine.get_or_insert_with(|| showcase.take(leave_view))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Machine<C>>>> {
        // It is moved in and out, which does not panic.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `read` makes of the machine, wherever it is.
    fn read<R>(&self, read: impl FnOnce(&Machine<C>) -> R) -> R {
        match &*self.lock() {
            Some(machine) => read(machine),
            None => {
                let read = self.shared.showcase.look(|machine, _| read(machine));
                read.expect("it is in the showcase when it is not here")
            }
        }
    }
}

impl<C: Collection> Drop for Member<C> {
    fn drop(&mut self) {
        // It has failed: what was applied would have been shown else.
        let machine = self.lock().take();
        if let Some(machine) = machine {
            self.shared.showcase.leave(machine);
        }
    }
}

impl<C: Collection> StateMachine for Member<C> {
    type Command = Command;
    type Output = Outcome;
    type Query = ();
    type QueryResult = View<C>;
    type Snapshot = Frozen<C>;

    /// Without the element types: nodes that differ in them must meet to find out.
    fn signature(&self) -> UniqueId {
        UniqueId::from(C::KIND)
    }

    fn apply(&mut self, command: Command, context: ApplyContext) -> Outcome {
        let machine = self.machine(command.len() >= LONG_COMMAND);
        machine.apply(context.index, &command)
    }

    fn query(&self, (): ()) -> View<C> {
        self.read(|machine| View::of(machine, None))
    }

    fn snapshot(&self) -> Frozen<C> {
        self.read(Machine::freeze)
    }

    fn restore(&mut self, snapshot: Frozen<C>) {
        // It may be of other element types: then what was shown before is all that reads will ever see.
        self.machine(true).restore(snapshot);
    }

    fn leadership_preference(&self) -> LeadershipPreference {
        self.preference
    }

    fn publish(&self, version: Option<Version>) {
        let machine = self.lock().take();
        let Some(mut machine) = machine else {
            return self.shared.showcase.pass(version);
        };
        if let Some(version) = version {
            machine.begin_history(version.index);
        }
        self.shared.showcase.show(machine, version);
    }

    fn refusal(&self) -> Option<String> {
        let conflict = self.read(Machine::conflict)?;
        Some(self.shared.conflict.get_or_init(|| conflict).to_string())
    }
}

impl<C: Collection> Snapshot for Frozen<C> {
    const CANONICAL: bool = true;

    fn chunks(&self, len: usize) -> Vec<Bytes> {
        Self::chunks(self, len)
    }

    fn from_chunks(chunks: &[Bytes]) -> Result<Self, RestoreError> {
        Self::from_chunks(chunks)
    }
}

//! A collection as the state machine of a group.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::view::{Shown, View};
use crate::id::UniqueId;
use crate::node::groups::{Snapshot, StateMachine};
use crate::node::watched::Watched;
use crate::protocol::collections::{
    Collection, Command, Frozen, History, Machine, Outcome, SchemaConflict,
};
use crate::protocol::raft::{ApplyContext, Index, LeadershipPreference, RestoreError, Version};

/// What a member shows to the handles of its node.
pub(super) struct Shared<C: Collection> {
    /// What reads see.
    pub(super) view: Arc<Watched<View<C>>>,
    /// Set where this node cannot take part.
    pub(super) conflict: OnceLock<SchemaConflict>,
}

impl<C: Collection> Shared<C> {
    pub(super) fn new() -> Self {
        let nothing = View::new(Shown {
            contents: C::default(),
            version: None,
            schema: None,
            history: History::new(),
        });
        Self {
            view: Arc::new(Watched::new(nothing)),
            conflict: OnceLock::new(),
        }
    }
}

/// A member of a collection's group.
pub(super) struct Member<C: Collection> {
    machine: Machine<C>,
    shared: Arc<Shared<C>>,
    preference: LeadershipPreference,
    /// The index at which a state was shown that no commands have led to; zero where there is none.
    beginning: AtomicU64,
}

impl<C: Collection> Member<C> {
    pub(super) fn new(shared: Arc<Shared<C>>, preference: LeadershipPreference) -> Self {
        Self {
            machine: Machine::default(),
            shared,
            preference,
            beginning: AtomicU64::new(0),
        }
    }

    fn shown(&self) -> Shown<C> {
        Shown {
            contents: self.machine.contents().clone(),
            version: None,
            schema: self.machine.schema(),
            history: self.machine.history().clone(),
        }
    }
}

impl<C: Collection> StateMachine for Member<C> {
    type Command = Command;
    type Output = Outcome;
    type Query = ();
    type QueryResult = Shown<C>;
    type Snapshot = Frozen<C>;

    /// Without the element types: nodes that differ in them must meet to find out.
    fn signature(&self) -> UniqueId {
        UniqueId::from(C::KIND)
    }

    fn apply(&mut self, command: Command, context: ApplyContext) -> Outcome {
        let beginning = std::mem::take(self.beginning.get_mut());
        if beginning > 0 {
            self.machine.begin_history(Index(beginning));
        }
        self.machine.apply(context.index, &command)
    }

    fn query(&self, (): ()) -> Shown<C> {
        self.shown()
    }

    fn snapshot(&self) -> Frozen<C> {
        self.machine.freeze()
    }

    fn restore(&mut self, snapshot: Frozen<C>) {
        *self.beginning.get_mut() = 0;
        self.machine.restore(snapshot);
    }

    fn leadership_preference(&self) -> LeadershipPreference {
        self.preference
    }

    fn publish(&self, version: Option<Version>) {
        if self.machine.history().has_no_beginning() {
            let index = version.map_or(0, |version| version.index.0);
            self.beginning.store(index, Ordering::Relaxed);
        }
        self.shared.view.set(View::new(self.shown().at(version)));
    }

    fn refusal(&self) -> Option<String> {
        let conflict = self.machine.conflict()?;
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

//! The machine: it owns the parts, and carries to each what concerns it.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;

use super::config::{Config, LeadershipPreference};
use super::configuration::Configuration;
use super::entry::Entry;
use super::io::{Input, Output};
use super::state::{RestoreError, StateMachine};
use super::status::{Role, Status};
use super::store::Recovered;
use super::types::{Index, Member, Position, Term};
use crate::id::{GroupId, Instance, PeerId};
use crate::protocol::Machine;
use crate::time::Instant;

/// Who a member is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The group.
    pub group: GroupId,
    /// The node.
    pub peer: PeerId,
    /// How eagerly it leads.
    pub preference: LeadershipPreference,
}

/// A member of a group.
pub struct Raft<S> {
    state: S,
    me: Member,
    configuration: Configuration,
    outputs: VecDeque<Output>,
}

impl<S: StateMachine> Raft<S> {
    /// A member that starts at `now`, with what its store gave back; `rng` must not be one that an earlier
    /// life of it has had. `state` is the state before any command.
    ///
    /// # Errors
    /// Where the snapshot that was recovered is not one of this state machine.
    pub fn new(
        now: Instant,
        identity: Identity,
        config: Config,
        recovered: Option<Recovered>,
        state: S,
        mut rng: ChaCha8Rng,
    ) -> Result<Self, RestoreError> {
        let _ = (now, config, recovered);
        Ok(Self {
            state,
            me: Member {
                peer: identity.peer,
                instance: Instance::from_rng(&mut rng),
            },
            configuration: Configuration::default(),
            outputs: VecDeque::new(),
        })
    }

    /// Where the member stands.
    #[must_use]
    pub fn status(&self) -> Status<'_> {
        Status {
            me: self.me,
            incarnation: None,
            role: Role::Candidate,
            term: Term::ZERO,
            leader: None,
            last: Position::ZERO,
            commit: Index::ZERO,
            applied: Index::ZERO,
            kept_from: Index(1),
            configuration: &self.configuration,
        }
    }

    /// The state, as far as it is [applied](Status::applied).
    #[must_use]
    pub const fn state(&self) -> &S {
        &self.state
    }

    /// The entry at `index`, if it is kept.
    #[must_use]
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        let _ = index;
        None
    }
}

impl<S: StateMachine> Machine for Raft<S> {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input) {
        let _ = (now, input);
    }

    fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn check_invariants(&self) {}
}

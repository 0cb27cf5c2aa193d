//! What can be seen of a machine from outside.

use super::configuration::Configuration;
use super::reforming::Stalled;
use super::standing::Phase;
use super::types::{Incarnation, Index, Member, Position, Term};

/// Where a member stands, for its node, for inspection and for checks.
#[derive(Clone, Copy, Debug)]
pub struct Status<'a> {
    /// The member itself.
    pub me: Member,
    /// The incarnation that it belongs to.
    pub incarnation: Option<Incarnation>,
    /// What it does at present.
    pub role: Role,
    /// The latest term that it has seen.
    pub term: Term,
    /// The leader that it follows, or itself.
    pub leader: Option<Member>,
    /// Where its log ends.
    pub last: Position,
    /// How far it knows the log to be committed.
    pub commit: Index,
    /// How far its state machine has come.
    pub applied: Index,
    /// How many commands of clients have been applied, by all members alike.
    pub commands: u64,
    /// It lacks entries that others have, and asks them.
    pub is_catching_up: bool,
    /// Whether its incarnation goes on, as far as that is applied.
    pub phase: Phase,
    /// Why the group stands still, where it does as far as the member knows.
    pub stalled: Option<&'a Stalled>,
    /// The lowest index of which it has the entry.
    pub kept_from: Index,
    /// The voters in force.
    pub configuration: &'a Configuration,
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It belongs to no incarnation yet.
    Candidate,
    /// It follows, or looks for a leader.
    Follower,
    /// It asks whether it would be elected.
    PreCandidate,
    /// It stands for election.
    Standing,
    /// It leads.
    Leader,
    /// It has stopped.
    Stopped,
}

//! What happens to the machine, and what it wants done.

use bytes::Bytes;

use super::entry::{Commands, SessionId};
use super::messages::Envelope;
use super::outputs::Outputs;
use super::reforming::Stalled;
use super::store::{StorageError, Write};
use super::types::{Incarnation, Index, Member, Position, Sequence, Term, Version};
use crate::id::PeerId;

/// What happens to the machine.
#[derive(Clone, Debug)]
pub enum Input {
    /// There is a bond with the peer: messages can be sent to it.
    Bonded(PeerId),
    /// There is a bond with a peer that has not proved that it may write, in a group where that has to be proved. It is
    /// served, but never a voter, and nothing that it says of the group counts.
    BondedReader(PeerId),
    /// There is none any more.
    Unbonded(PeerId),
    /// A message from a bonded peer.
    Message(PeerId, Envelope),
    /// All writes up to this one are durable.
    Persisted(WriteId),
    /// A write failed; what the disk holds of it is unknown.
    PersistFailed(StorageError),
    /// What discovery says of the group, whenever it changes.
    Surroundings(Surroundings),
    /// A command of this node's, to be applied exactly once.
    Execute(CallId, Bytes),
    /// Commands of this node's, each to be applied exactly once. The calls are numbered from this one on; no command
    /// is longer than [`COMMAND_LEN_MAX`](super::COMMAND_LEN_MAX), and each is a command: none stands in the place of
    /// one that was given up.
    ExecuteMany(CallId, Commands),
    /// The caller of a command waits no longer; if it was not applied yet, it is not to be.
    GiveUp(CallId),
    /// A linearizable read.
    Read(ReadId),
    /// The leader is to hand over to the voter that is furthest, if there is one.
    TransferLeadership,
    /// The node leaves the group for good.
    Leave,
    /// An operator wants a group that [stands still](Event::Stalled) to go on from what is left, without proof that the
    /// others are gone. Ignored where it goes on by itself, and at a member that may only read.
    Reform,
}

/// What is known of a group beyond the bonds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Some member has advertised an incarnation: no other may be founded.
    pub is_founded: bool,
    /// Candidates are known of that there is no bond with, or a configured bootstrap peer has not
    /// answered yet.
    pub incomplete: bool,
}

/// What the machine wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send to a bonded peer. May be lost; nothing rests on its arrival.
    Send(PeerId, Envelope),
    /// Write, and say when it is durable. Writes are numbered without gaps; carried out in order.
    Persist(WriteId, Box<Write>),
    /// Tell whoever is interested.
    Event(Event),
    /// A call has ended.
    Completed(CallId, CallOutcome),
    /// Calls that were made together, from this one on, have ended: all were applied, once, in one entry.
    Applied(CallId, Version, Outputs),
    /// The state now shows all that the read must see: read it before the next input.
    ReadReady(ReadId, Version),
    /// The read cannot be answered.
    ReadFailed(ReadId, ReadError),
    /// A peer that may only read has said what only writers say. None that keeps to the protocol does: end the bond.
    Overstepped(PeerId),
    /// The machine does nothing any more.
    Stopped(StopReason),
}

impl Output {
    /// The calls that have ended, if that is what it says, and how.
    pub fn completions(&self) -> impl Iterator<Item = (CallId, CallOutcome)> {
        let (one, several) = match self {
            Self::Completed(call, outcome) => (Some((*call, outcome.clone())), None),
            Self::Applied(first, version, outputs) => (None, Some((*first, *version, outputs))),
            _ => (None, None),
        };
        let several = several.into_iter().flat_map(|(first, version, outputs)| {
            let outputs = (0..outputs.len()).filter_map(|place| outputs.get(place)?.output());
            let outcomes = outputs.map(move |output| CallOutcome::Applied { version, output });
            (first.0..).map(CallId).zip(outcomes)
        });
        one.into_iter().chain(several)
    }
}

/// Numbers the writes of one machine, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// Names a call of `Execute`; chosen by the caller, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Names a read; chosen by the caller, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// It was applied, once.
    Applied {
        /// Where.
        version: Version,
        /// What the state machine gave for it.
        output: Bytes,
    },
    /// It was applied once, but what the state machine gave is no longer kept.
    OutputLost {
        /// The session.
        session: SessionId,
        /// Its place there.
        sequence: Sequence,
    },
    /// It was given up before it was applied, and never will be.
    GivenUp,
    /// It was refused before anything was done for it.
    Rejected(Rejection),
    /// It may have been applied or not: the session ended, or the node stopped.
    Unknown,
    /// The incarnation was given up for another: whatever became of the command there, it is not part of what
    /// goes on.
    Superseded {
        /// The one that has ended.
        incarnation: Incarnation,
        /// The one that goes on.
        into: Incarnation,
    },
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// It is too long.
    #[error("the command has {len} bytes; the limit is {limit}: split it")]
    TooLong {
        /// Its length.
        len: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// Too much waits already.
    #[error("{waiting} commands wait for the group already; wait for some of them to end")]
    Busy {
        /// How many wait.
        waiting: usize,
    },
    /// The group has met another founding of itself, and takes no commands until it is known which of them
    /// stays. The command was not applied, and never will be.
    #[error(
        "the group has met another founding of itself and takes no commands until one of them is given up; try again"
    )]
    Frozen,
    /// This member may only read.
    #[error("this node may only read: the group's write key is needed to write")]
    ReadOnly,
    /// The machine has stopped.
    #[error("the group has stopped on this node")]
    Stopped,
}

/// Why a read was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Too many wait already.
    #[error("too many reads wait for the group already; wait for some of them to end")]
    Busy,
    /// The incarnation that it was asked of was given up for another.
    #[error("the group has met another founding of itself and was given up for it; ask again")]
    Superseded,
    /// No majority confirmed in time that the leader still leads.
    #[error("no majority of the group's voters answered in time; try again")]
    TimedOut,
    /// The machine has stopped.
    #[error("the group has stopped on this node")]
    Stopped,
}

/// Why a machine does nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The disk failed.
    Storage(StorageError),
    /// It left the group.
    Left,
    /// A snapshot cannot be read by this state machine.
    Snapshot(String),
}

/// What others may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The node belongs to an incarnation now.
    Joined(Incarnation),
    /// It has left a founding that could never be completed, or an incarnation that stands still and in which it had
    /// nothing, for another.
    LeftFounding(Incarnation),
    /// It follows this leader now; `None` while it knows of none.
    Leader(Term, Option<Member>),
    /// The log is committed up to here, and applied.
    Committed(Index),
    /// A snapshot was installed: the state has moved here without applying what lies between.
    Restored(Index),
    /// It votes now, or no longer.
    Voting(bool),
    /// The incarnation that it belonged to was given up for another, to which it belongs now. Its state machine
    /// is as it was before any command. Calls and reads that were open end as superseded. A member that may only read also
    /// gives one up that has not ended, as far as is known, where all those that may write are elsewhere.
    Superseded(Box<Superseded>),
    /// The group stands still: so many voters are silent that nobody can be elected, and it is not proved that they
    /// are gone. Told once; what is missing may change.
    Stalled(Box<Stalled>),
    /// The group goes on in another incarnation, from what was left of the one before. Calls that had been sent end as
    /// unknown, and reads are asked again.
    Reformed(Box<Reformed>),
}

/// How a member's group has gone on after too many of its voters were gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reformed {
    /// The incarnation that could not go on, and how far the member had applied its log.
    pub parent: Version,
    /// The one that goes on.
    pub incarnation: Incarnation,
    /// Where the log ended that it goes on from. What lay above, or in its place elsewhere, is lost.
    pub at: Position,
    /// It was proved that the one before could not go on; else an operator has said so, or `reform_after` has passed.
    pub is_proved: bool,
    /// The state that the member had, as chunks for [`StateMachine::restore`](super::StateMachine::restore). `None` where
    /// all that it knew to be committed is part of what goes on.
    pub state: Option<Vec<Bytes>>,
}

/// What a member has given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// The incarnation that has ended, and how far the member had applied its log.
    pub version: Version,
    /// The incarnation that goes on.
    pub into: Incarnation,
    /// Commands of clients that the state holds.
    pub commands: u64,
    /// Commands of clients that were applied in that incarnation in all: more than the state holds where the
    /// member was told of the end before it had applied everything.
    pub commands_in_all: u64,
    /// The state that was given up, as chunks for [`StateMachine::restore`](super::StateMachine::restore).
    pub state: Vec<Bytes>,
}

//! What can go wrong with a group.

use std::fmt;

use crate::id::GroupId;
use crate::protocol::groups::WriteKeyMismatch;
use crate::protocol::raft::{
    COMMAND_LEN_MAX, ConfigError, Incarnation, ReadError, StopReason, StorageError,
};

/// A group cannot be joined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The configuration makes no sense.
    #[error("the configuration of consensus: {0}")]
    Config(#[from] ConfigError),
    /// The write key and the write verifier do not belong together.
    #[error(transparent)]
    WriteKey(#[from] WriteKeyMismatch),
    /// This node is in the group already.
    #[error("this node is in group {} already: clone its handle, or leave it first", .0.short())]
    AlreadyJoined(GroupId),
    /// Durable storage was asked for, and the node has no data directory.
    #[error(
        "durable storage needs a data directory: give one by NetworkBuilder::with_data_dir, or use Storage::InMemory"
    )]
    NoDataDir,
    /// The store gave back something that cannot be used, or nothing.
    #[error("the store of group {}: {error}", .group.short())]
    Storage {
        /// The group.
        group: GroupId,
        /// Why.
        error: StorageError,
    },
    /// What the store holds is no state of this machine.
    #[error("the store of group {} cannot be restored: {why}", .group.short())]
    Restore {
        /// The group.
        group: GroupId,
        /// Why.
        why: String,
    },
    /// The node's entry in the catalog has no room for another group.
    #[error("the group cannot be announced: {0}")]
    Announce(#[from] crate::node::discovery::Error),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why a group does nothing any more on this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stopped {
    /// The node has left the group, or its last handle was dropped.
    #[error("this node has left the group")]
    Left,
    /// The node has shut down.
    #[error("the node has shut down")]
    ShutDown,
    /// The store failed.
    #[error("{0}")]
    Storage(StorageError),
    /// A snapshot of another member is no state of this machine.
    #[error("the snapshot of another member cannot be restored: {0}")]
    Snapshot(String),
    /// The state machine has panicked, or what runs it.
    #[error("the state machine has panicked: {0}; its state on this node is lost")]
    Panicked(String),
    /// The state machine [refuses](super::StateMachine::refusal) the state that the group has.
    #[error("the state machine of this node cannot have the group's state: {0}")]
    Refused(String),
}

impl From<StopReason> for Stopped {
    fn from(reason: StopReason) -> Self {
        match reason {
            StopReason::Left => Self::Left,
            StopReason::Storage(error) => Self::Storage(error),
            StopReason::Snapshot(why) => Self::Snapshot(why),
        }
    }
}

/// What became of a command that gave no output. Where it is certain that the command was not and never will be
/// applied, it is given back.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandError<C> {
    /// It has no encoding. Not applied.
    Unencodable {
        /// The command.
        command: C,
        /// Why.
        error: crate::wire::EncodeError,
    },
    /// It is too long when encoded. Not applied.
    TooLong {
        /// The command.
        command: C,
        /// Its length in bytes.
        len: usize,
    },
    /// Commands that nobody has decided on fill the queue of this node. Not applied.
    Busy(C),
    /// The group has met another founding of itself, and takes no commands until it is known which of them stays.
    /// Never applied.
    Frozen(C),
    /// This node may only read: it knows the group's write verifier, and not the key. Not sent.
    ReadOnly(C),
    /// It was given up after the group's command timeout, before it was applied. Never applied.
    TimedOut(C),
    /// The group has stopped on this node before the command was sent. Never applied.
    Stopped {
        /// The command.
        command: C,
        /// Why.
        why: Stopped,
    },
    /// The members of the group do not understand the command. Not applied.
    Refused(C),
    /// It may have been applied or not, once at most: nobody could be asked in time, its session had ended, or the
    /// group stopped on this node first.
    Unknown,
    /// The life of the group that it was sent to was given up for another. Whatever became of it there is no part of
    /// what goes on, in which it can be executed anew.
    Superseded {
        /// The command.
        command: C,
        /// The life that has ended.
        incarnation: Incarnation,
        /// The one that goes on.
        into: Incarnation,
    },
    /// It was applied, once; what it gave is no longer kept.
    OutputLost,
    /// It was applied, once; its output is not what this node's machine gives.
    Undecodable(crate::wire::DecodeError),
}

impl<C> CommandError<C> {
    /// The command, where it is certain that it is not part of the group's history and never will be.
    #[must_use]
    pub fn into_command(self) -> Option<C> {
        match self {
            Self::Unencodable { command, .. }
            | Self::TooLong { command, .. }
            | Self::Busy(command)
            | Self::Frozen(command)
            | Self::ReadOnly(command)
            | Self::TimedOut(command)
            | Self::Superseded { command, .. }
            | Self::Stopped { command, .. }
            | Self::Refused(command) => Some(command),
            Self::Unknown | Self::OutputLost | Self::Undecodable(_) => None,
        }
    }

    /// Whether it is certain that the command was not applied and never will be, not even in a life of the group that
    /// was [given up](Self::Superseded).
    ///
    /// But for one that forked: where an operator, or patience, has a part of the group
    /// [go on without proof](super::GroupEvent::Reformed) although the others live, that part has the commands that were open in
    /// its log then, whatever the others decide on them.
    #[must_use]
    pub const fn is_rejected(&self) -> bool {
        !matches!(
            self,
            Self::Unknown | Self::Superseded { .. } | Self::OutputLost | Self::Undecodable(_)
        )
    }

    /// The same error of another form of the command.
    pub(crate) fn map<D>(self, change: impl FnOnce(C) -> D) -> CommandError<D> {
        match self {
            Self::Unencodable { command, error } => CommandError::Unencodable {
                command: change(command),
                error,
            },
            Self::TooLong { command, len } => CommandError::TooLong {
                command: change(command),
                len,
            },
            Self::Busy(command) => CommandError::Busy(change(command)),
            Self::Frozen(command) => CommandError::Frozen(change(command)),
            Self::ReadOnly(command) => CommandError::ReadOnly(change(command)),
            Self::TimedOut(command) => CommandError::TimedOut(change(command)),
            Self::Stopped { command, why } => CommandError::Stopped {
                command: change(command),
                why,
            },
            Self::Refused(command) => CommandError::Refused(change(command)),
            Self::Unknown => CommandError::Unknown,
            Self::Superseded {
                command,
                incarnation,
                into,
            } => CommandError::Superseded {
                command: change(command),
                incarnation,
                into,
            },
            Self::OutputLost => CommandError::OutputLost,
            Self::Undecodable(error) => CommandError::Undecodable(error),
        }
    }
}

impl<C> fmt::Display for CommandError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unencodable { error, .. } => write!(f, "the command cannot be encoded: {error}"),
            Self::TooLong { len, .. } => write!(
                f,
                "the command has {len} bytes when encoded; the limit is {COMMAND_LEN_MAX}: split it"
            ),
            Self::Busy(_) => f.write_str(
                "too many commands wait for the group already; wait for some of them to end",
            ),
            Self::Frozen(_) => f.write_str(
                "the group has met another founding of itself and takes no commands until one of them is given up; try again",
            ),
            Self::ReadOnly(_) => f.write_str(
                "this node may only read: join the group with its write key to execute commands",
            ),
            Self::Superseded {
                incarnation, into, ..
            } => write!(
                f,
                "the group's life {incarnation} was given up for {into}, of which the command is no part; execute it anew"
            ),
            Self::TimedOut(_) => f.write_str(
                "the group did not take the command in time, and never will: is a majority of its voters up?",
            ),
            Self::Stopped { why, .. } => write!(f, "the command was not sent: {why}"),
            Self::Refused(_) => {
                f.write_str("the members of the group do not understand the command")
            }
            Self::Unknown => {
                f.write_str("the command may have been applied or not: nobody could be asked in time")
            }
            Self::OutputLost => {
                f.write_str("the command was applied, and what it gave is no longer kept")
            }
            Self::Undecodable(error) => {
                write!(f, "the command was applied, and its output cannot be read: {error}")
            }
        }
    }
}

// Commands need not be printable for their errors to be.
impl<C> fmt::Debug for CommandError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Unencodable { .. } => "Unencodable",
            Self::TooLong { .. } => "TooLong",
            Self::Busy(_) => "Busy",
            Self::Frozen(_) => "Frozen",
            Self::ReadOnly(_) => "ReadOnly",
            Self::Superseded { .. } => "Superseded",
            Self::TimedOut(_) => "TimedOut",
            Self::Stopped { .. } => "Stopped",
            Self::Refused(_) => "Refused",
            Self::Unknown => "Unknown",
            Self::OutputLost => "OutputLost",
            Self::Undecodable(_) => "Undecodable",
        };
        write!(f, "{name}({self})")
    }
}

impl<C> std::error::Error for CommandError<C> {}

/// A query was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// Too many wait already.
    #[error("too many queries wait for the group already; wait for some of them to end")]
    Busy,
    /// The life of the group that was asked was given up for another.
    #[error("the group has met another founding of itself and was given up for it; ask again")]
    Superseded,
    /// No majority confirmed in time that the leader still leads.
    #[error("no majority of the group's voters answered in time; try again")]
    TimedOut,
    /// The group has stopped on this node.
    #[error("the query was not answered: {0}")]
    Stopped(Stopped),
}

impl QueryError {
    pub(super) fn of(error: ReadError, why: impl FnOnce() -> Stopped) -> Self {
        match error {
            ReadError::Busy => Self::Busy,
            ReadError::Superseded => Self::Superseded,
            ReadError::TimedOut => Self::TimedOut,
            ReadError::Stopped => Self::Stopped(why()),
        }
    }
}

//! What can go wrong with a collection.

use std::fmt;

use crate::node::groups::{CommandError, JoinError, Stopped};
use crate::protocol::collections::{Batch, OutOfBounds, SchemaConflict};

/// A collection cannot be opened, or does not come online.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It holds other element types. The node takes no part in it any more.
    #[error(transparent)]
    Schema(#[from] SchemaConflict),
    /// Its group cannot be joined.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// It has stopped on this node.
    #[error("the collection does not come online: {0}")]
    Stopped(Stopped),
}

/// What became of a write that was not made, or of which that is not known. Where it is certain that it was not made, it
/// is given back as a batch.
#[non_exhaustive]
pub enum WriteError<C> {
    /// The group did not apply it, or cannot tell. See [`CommandError`] for what is certain.
    Command(Box<CommandError<Batch<C>>>),
    /// There is no such place. Nothing was changed, on any member.
    OutOfBounds(OutOfBounds),
    /// The collection holds other element types. Nothing was changed.
    Schema(SchemaConflict),
}

impl<C> WriteError<C> {
    /// The write, to be [committed](super::Writer::commit) again, where it is certain that it was not made and
    /// never will be, and that it can succeed another time.
    #[must_use]
    pub fn into_batch(self) -> Option<Batch<C>> {
        match self {
            Self::Command(error) => error.into_command(),
            Self::OutOfBounds(_) | Self::Schema(_) => None,
        }
    }

    /// Whether it is certain that the write was not made and never will be, not even in a life of the group that was
    /// given up.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        match self {
            Self::Command(error) => error.is_rejected(),
            Self::OutOfBounds(_) | Self::Schema(_) => true,
        }
    }
}

impl<C> From<CommandError<Batch<C>>> for WriteError<C> {
    fn from(error: CommandError<Batch<C>>) -> Self {
        Self::Command(Box::new(error))
    }
}

impl<C> fmt::Display for WriteError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(error) => error.fmt(f),
            Self::OutOfBounds(error) => error.fmt(f),
            Self::Schema(error) => error.fmt(f),
        }
    }
}

// Elements need not be printable for their errors to be.
impl<C> fmt::Debug for WriteError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(error) => fmt::Debug::fmt(error, f),
            Self::OutOfBounds(error) => fmt::Debug::fmt(error, f),
            Self::Schema(error) => fmt::Debug::fmt(error, f),
        }
    }
}

impl<C> std::error::Error for WriteError<C> {}
